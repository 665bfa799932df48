"""From learning curves to data requirements: D_J, the environment steps until the return first reaches J.

The mean over seeds is made monotone by isotonic regression, and D_J is the first logged step at which it is at least J
(arXiv 2502.04327, section on fitting; the authors' qscaled). Uncertainty comes from resampling seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scaling.utd.runs_table import Curves


def isotonic(curve: np.ndarray) -> np.ndarray:
    """The increasing curve [T] nearest to `curve` [T] in the mean square, every point counting alike."""
    from sklearn.isotonic import IsotonicRegression  # its import takes a second: not for `--help`

    return IsotonicRegression().fit_transform(np.arange(len(curve)), curve)


def crossings(env_step: np.ndarray, curve: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """D_J [..., J]: the first of env_step [T] at which the isotonic fit of curve [..., T] is at least J; NaN if none.

    Needs no fit: the points where an isotonic fit is at least J are the tail on which curve - J has the largest sum, of
    several such tails the longest. So it is one cumulative sum for all curves and thresholds.
    """
    excess = np.asarray(curve)[..., None, :] - np.asarray(thresholds)[:, None]
    tails = np.flip(np.cumsum(np.flip(excess, -1), -1), -1)
    # The empty tail has sum 0 and stands last: it wins where no tail is at least that.
    tails = np.concatenate([tails, np.zeros_like(tails[..., :1])], -1)
    steps = np.append(np.asarray(env_step, float), np.nan)
    return steps[np.argmax(tails, -1)]


def resample(returns: np.ndarray, resamples: int = 100, seed: int | np.random.SeedSequence = 0) -> np.ndarray:
    """Mean curves [K, T] of as many seeds as there are, drawn with replacement from returns [seeds, T]."""
    seeds = len(returns)
    drawn = np.random.default_rng(seed).integers(seeds, size=(resamples, seeds))
    return returns[drawn].mean(axis=1)


def bootstrap_crossings(
    env_step: np.ndarray,
    returns: np.ndarray,
    thresholds: np.ndarray,
    resamples: int = 100,
    seed: int | np.random.SeedSequence = 0,
) -> np.ndarray:
    """D_J [K, J] of K resampled sets of seeds; returns are [seeds, T]."""
    return crossings(env_step, resample(returns, resamples, seed), thresholds)


def bootstrap_all(
    curves: Sequence[Curves], thresholds: np.ndarray, resamples: int = 100, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(D [C, J], resampled D [K, C, J]) of C configurations, each with random numbers of its own."""
    children = np.random.SeedSequence(seed).spawn(len(curves))
    point = [crossings(c.env_step, c.returns.mean(axis=0), thresholds) for c in curves]
    spread = [
        bootstrap_crossings(c.env_step, c.returns, thresholds, resamples, child)
        for c, child in zip(curves, children, strict=True)
    ]
    return np.stack(point), np.stack(spread, axis=1)


def outside_reset_dips(env_step: np.ndarray, curve: np.ndarray, resets: Sequence[float]) -> np.ndarray:
    """Which points [T] of a mean curve [T] lie in no dip after a reset of the networks, as booleans.

    resets: environment steps. A dip lasts until the curve is back at its last value before the reset. Left in, it drags
    down the plateau before it, since isotonic regression averages the two (qscaled, filter_out_resets).
    """
    keep = np.ones(len(curve), bool)
    for reset in sorted(resets):
        before = np.flatnonzero(keep & (env_step <= reset))
        if not len(before):
            continue
        after = np.arange(before[-1] + 1, len(curve))
        recovered = after[curve[after] >= curve[before[-1]]]
        keep[after[after < (recovered[0] if len(recovered) else len(curve))]] = False
    return keep


def without_dips(own: Curves) -> Curves:
    """The curves without the points in the dips after their resets."""
    if not own.resets:
        return own
    keep = outside_reset_dips(own.env_step, own.returns.mean(axis=0), own.resets)
    return own._replace(env_step=own.env_step[keep], returns=own.returns[:, keep])


class Estimate(NamedTuple):
    """A number with its interval; low and high are NaN where there is nothing to resample."""

    value: float
    low: float
    high: float


def estimate(value: float, resampled: np.ndarray, confidence: float = 0.95) -> Estimate:
    """`value` with the percentile interval of resampled [K]; NaNs among them are passed over."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return Estimate(float(value), np.nan, np.nan)
    low, high = np.quantile(finite, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(value), float(low), float(high))


def best_values(
    cells: Mapping[tuple[float, float], np.ndarray], *, arithmetic: bool = False
) -> tuple[float, np.ndarray] | None:
    """(best value, that of each resample [K]) of one hyperparameter, at one task and sigma; None if nothing to choose.

    cells: {(value of it, value of the other one): crossings [K] of the highest threshold}. For each resample and each
    value of the other one the fastest is taken; the estimate is the mean over both, of logarithms (arXiv 2508.14881,
    appendix C), or with `arithmetic` of the values (arXiv 2502.04327, qscaled). Where only one value was run beside a
    value of the other one, or none ever crosses, there is no choice to count (NaN in a resample).
    """
    choices = []
    for other in sorted({pair[1] for pair in cells}):
        values = sorted(pair[0] for pair in cells if pair[1] == other)
        if len(values) < 2:
            continue
        times = np.stack([cells[value, other] for value in values])
        times = np.where(np.isnan(times), np.inf, times)
        chosen = np.asarray(values)[np.argmin(times, axis=0)]
        choices.append(np.where(np.isinf(times).all(axis=0), np.nan, chosen))
    chosen = np.array(choices)  # [other, K]
    counted = np.isfinite(chosen).any(axis=0) if choices else np.zeros(0, bool)
    if not counted.any():
        return None
    to, back = (np.asarray, np.asarray) if arithmetic else (np.log, np.exp)
    resampled = np.full(len(counted), np.nan)
    resampled[counted] = back(np.nanmean(to(chosen[:, counted]), axis=0))
    return float(back(np.nanmean(to(chosen[:, counted])))), resampled
