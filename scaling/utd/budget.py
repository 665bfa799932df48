"""What a return costs, and the cheapest sigma (and model size) for it.

    C = 10 N B sigma D          compute: 10 for forward and backward passes of critic, target and actor (qscaled)
    F = C + delta D             budget: delta is what an environment step costs, in the unit of C

(arXiv 2502.04327, its notebooks for the grid; arXiv 2508.14881 for the model size.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scaling.utd.data_law import DataLaw, optimal_allocation
from scaling.utd.power_laws import Line, log_line

PER_SAMPLE = 10.0
GRID = 100  # values of sigma; the published exponent depends on it
HELD_OUT = 2  # thresholds at the top that sigma*(F) does not see


class Optima(NamedTuple):
    """The cheapest way to each threshold [J]; NaN where there is none inside the search."""

    sigma: np.ndarray
    model_size: np.ndarray
    data: np.ndarray
    compute: np.ndarray
    budget: np.ndarray


def compute_cost(sigma, data, batch_size, model_size) -> np.ndarray:
    """C, of D environment steps at sigma updates each; arrays that broadcast."""
    return PER_SAMPLE * np.asarray(model_size) * batch_size * sigma * data


def sigma_grid(low: float, high: float, points: int = GRID) -> np.ndarray:
    """Where the cheapest sigma is looked for: logarithmically from the least to the largest that was run."""
    return np.geomspace(low, high, points)


def frontier(
    law: Callable[[np.ndarray], np.ndarray],
    sigma: np.ndarray,
    batch_size: Callable[[np.ndarray], np.ndarray],
    model_size: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(data [S, J], compute [S, J]) along sigma [S]: what can be traded for what at equal return.

    law: sigma [S] -> D [S, J]. batch_size: sigma [S] -> B [S].
    """
    data = law(sigma)
    return data, compute_cost(sigma[:, None], data, batch_size(sigma)[:, None], model_size)


def cheapest_sigma(
    law: Callable[[np.ndarray], np.ndarray],
    sigma: np.ndarray,
    batch_size: Callable[[np.ndarray], np.ndarray],
    model_size: float,
    delta: float,
) -> Optima:
    """For each threshold the sigma of the grid [S] with the least budget. At an end of the grid: no optimum inside."""
    data, compute = frontier(law, sigma, batch_size, model_size)
    budget = compute + delta * data
    best = np.argmin(budget, axis=0)
    columns = np.arange(data.shape[1])
    picked = data[best, columns], compute[best, columns], budget[best, columns]
    return Optima(sigma[best], np.full(len(best), float(model_size)), *picked)


def cheapest_allocation(law: DataLaw, per_step: float, delta: float, points: int = 2000) -> Optima:
    """For each threshold the least budget over sigma and N: the closed form for each D, then the best D.

    per_step: C / (sigma N D); the batch size is taken as constant, as arXiv 2508.14881 does. Neither sigma nor N is
    confined to what was run.
    """
    scale = np.exp(np.logaddexp(law.log_floor, law.log_sigma_term))
    data = law.d_min + scale * np.geomspace(1e-4, 1e3, points)[:, None]
    sigma, size = optimal_allocation(law, data)
    compute = per_step * sigma * size * data
    budget = compute + delta * data
    best, columns = np.argmin(budget, axis=0), np.arange(data.shape[1])
    inside = np.where((best > 0) & (best < points - 1), 1.0, np.nan)
    return Optima(*(values[best, columns] * inside for values in (sigma, size, data, compute, budget)))


class Extrapolation(NamedTuple):
    """y = 10^intercept F^exponent from the lower thresholds, and how far the held-out ones lie from it."""

    line: Line
    errors: np.ndarray  # [held out]: (predicted - optimum) / optimum


def extrapolate(budget: np.ndarray, y: np.ndarray, held_out: int = HELD_OUT) -> Extrapolation:
    """The line of log y [J] on log budget [J] without the top `held_out` thresholds; NaNs are passed over.

    Raises ValueError where fewer than two thresholds are left.
    """
    known = len(budget) - held_out
    usable = np.isfinite(budget) & np.isfinite(y)
    fitted = usable & (np.arange(len(budget)) < known)
    if fitted.sum() < 2:
        raise ValueError('fewer than two thresholds to fit')
    line = log_line(budget[fitted], y[fitted])
    return Extrapolation(line, (line(budget[known:]) - y[known:]) / y[known:])
