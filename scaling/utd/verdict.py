"""Whether a trend may be called a law.

A law of data over sigma (and N) always fits something: its three to five parameters bend to any few points. It is
called identifiable only if all of these hold, and else every reason is named:

- seeds: at least two a configuration, since without them there is no interval;
- points: at least 4 values of sigma for the three parameters of the law in sigma; at least 3 of sigma, 3 of N and 7
  configurations for the five of the joint law, each having reached half of the thresholds or more;
- direction: the slope of log D over log sigma (over log N), all thresholds together, is negative in its 95 % interval,
  both by resampled seeds and by the scatter of the configurations about the line (Student's t). Of three seeds
  a bootstrap alone calls too narrow an interval, and one configuration off the line is not seen by it;
- prediction: configurations left out of the fit are predicted better than by a constant for each threshold;
- exponents: none at the edge of what the search allows, where the term is a constant or a step.

Of simulated flat data (4 or 6 sigmas, 3 to 10 seeds, 15 % noise of D) 4 of 360 were called a law; of data with alpha
0.8 and the same noise 177 of 180.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scaling.utd.crossings import Estimate, estimate
from scaling.utd.data_law import DataLaw, LeftOut

LEAST_SIGMAS = 4
LEAST_JOINT = {'sigma': 3, 'model size': 3}
LEAST_JOINT_CONFIGURATIONS = 7
EXPONENTS = (0.03, 5.0)


class Verdict(NamedTuple):
    """identifiable; one plain sentence; the slopes of log D over log sigma and log N that it rests on."""

    identifiable: bool
    sentence: str
    slopes: dict[str, Estimate]


def slope(data: np.ndarray, x: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """(slope, standard error) of log data [C, J] over x [C], with an intercept for each threshold and each group [C].

    Cells are passed over where data is NaN. Thresholds of one curve move together, so the error counts the residuals of
    a configuration as one number.
    """
    reached = np.isfinite(data)
    logs = np.where(reached, np.log(np.where(reached, data, 1.0)), 0.0)
    same = (group[:, None] == group).astype(float)
    counts = np.maximum(same @ reached, 1)
    y = np.where(reached, logs - same @ logs / counts, 0.0)
    x = np.where(reached, x[:, None] - same @ np.where(reached, x[:, None], 0.0) / counts, 0.0)
    spread = (x**2).sum()
    if not spread:
        return 0.0, math.inf
    value = (x * y).sum() / spread
    scores = (x * (y - value * x)).sum(axis=1)
    spare = len(data) - len(np.unique(group)) - 1
    return value, math.sqrt((scores**2).sum() * len(data) / max(spare, 1)) / spread


def enough(data: np.ndarray, sigma: np.ndarray, model_size: np.ndarray | None) -> str:
    """Why data [C, J] cannot carry the law's parameters, or ''."""
    seen = np.isfinite(data).mean(axis=1) >= 0.5
    if model_size is None:
        count = len(np.unique(sigma[seen]))
        return (
            '' if count >= LEAST_SIGMAS else f'{count} of at least {LEAST_SIGMAS} values of sigma reach the thresholds'
        )
    for (name, least), values in zip(LEAST_JOINT.items(), (sigma, model_size), strict=True):
        count = len(np.unique(values[seen]))
        if count < least:
            return f'{count} of at least {least} values of {name} reach the thresholds'
    least = LEAST_JOINT_CONFIGURATIONS
    return '' if seen.sum() >= least else f'{seen.sum()} of at least {least} configurations reach the thresholds'


def judge(
    data: np.ndarray,
    resampled: np.ndarray | None,
    sigma: np.ndarray,
    model_size: np.ndarray | None,
    law: DataLaw | None,
    left_out: LeftOut | None,
) -> Verdict:
    """The verdict on a law of data [C, J], with resampled [K, C, J] (None: one seed a configuration)."""
    from scipy.stats import t

    names = {'sigma': (sigma, np.zeros(len(sigma)) if model_size is None else model_size)}
    if model_size is not None:
        names['N'] = model_size, sigma
    reasons = [too_few] if (too_few := enough(data, sigma, model_size)) else []
    if resampled is None:
        reasons.append('one seed a configuration, so there is no interval')
    found: dict[str, Estimate] = {}
    if not too_few:
        for name, (values, group) in names.items():
            value, error = slope(data, np.log(values), group)
            drawn = [slope(one, np.log(values), group)[0] for one in ([] if resampled is None else resampled)]
            seeds = estimate(value, np.array(drawn))
            reach = t.ppf(0.975, max(len(data) - len(np.unique(group)) - 1, 1)) * error
            low, high = float(np.fmin(seeds.low, value - reach)), float(np.fmax(seeds.high, value + reach))
            found[name] = Estimate(float(value), low, high)
            if not high < 0:
                reasons.append(f'data does not fall with {name} beyond noise (log-log slope {low:.2f} to {high:.2f})')
    if left_out is not None:
        ours, constant = np.nanmean(left_out.law), np.nanmean(left_out.constant)
        if not ours < constant:
            reasons.append(f'left-out errors of {ours:.0%} are no better than a constant ({constant:.0%})')
    if law is not None:
        exponents: Sequence = (
            (('alpha', law.alpha),) if law.beta is None else (('alpha', law.alpha), ('beta', law.beta))
        )
        for name, value in exponents:
            if not EXPONENTS[0] < value < EXPONENTS[1]:
                reasons.append(f'{name} = {value:.2g} lies at the edge of the search')
    if reasons:
        return Verdict(False, 'no law: ' + '; '.join(reasons), found)
    ranges = ' and '.join(f'{name} ({e.value:.2f} [{e.low:.2f}, {e.high:.2f}] log-log)' for name, e in found.items())
    return Verdict(True, f'a law: data falls with {ranges}, and left-out configurations bear it out', found)
