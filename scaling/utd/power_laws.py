"""Power laws of one variable: hyperparameters over sigma, data over sigma, and lines in log-log coordinates.

    y(x) = y(1) x^s                      best batch size, best learning rate, optimal sigma over the budget
    D(sigma) = D_min + (beta / sigma)^alpha                                     data until a return is reached

(arXiv 2502.04327; qscaled's linear_fit and data_efficiency. The optimizer of the second is that of arXiv 2508.14881,
appendix C.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """y = 10^intercept x^slope. Arrays where many are fitted at once."""

    slope: np.ndarray | float
    intercept: np.ndarray | float

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        return 10 ** (self.intercept + self.slope * np.log10(x))


def log_line(x: np.ndarray, y: np.ndarray) -> Line:
    """Least squares of log10 y [..., n] on log10 x [..., n]. At a single x the slope is 0."""
    x, y = np.log10(x), np.log10(y)
    centered = x - x.mean(-1, keepdims=True)
    spread = (centered**2).sum(-1)
    slope = (centered * y).sum(-1) / np.where(spread > 0, spread, 1.0)
    return Line(slope, y.mean(-1) - slope * x.mean(-1))


def shared_slope(x: np.ndarray, y: np.ndarray, task: np.ndarray) -> dict[str, Line]:
    """One slope for all tasks, one intercept each: {task: line}, by least squares of log10 y [..., n] on log10 x [n].

    task: names [n]. What the authors recommend: slopes of single tasks are so noisy that even their sign varies.
    """
    names = sorted(set(task))
    x, y, task = np.log10(x), np.log10(y), np.asarray(task)
    of_task = {name: task == name for name in names}
    centered_x = np.concatenate([x[own] - x[own].mean() for own in of_task.values()])
    centered_y = np.concatenate([y[..., own] - y[..., own].mean(-1, keepdims=True) for own in of_task.values()], -1)
    spread = (centered_x**2).sum()
    slope = (centered_x * centered_y).sum(-1) / (spread if spread > 0 else 1.0)
    return {name: Line(slope, y[..., own].mean(-1) - slope * x[own].mean()) for name, own in of_task.items()}


def separate_slopes(x: np.ndarray, y: np.ndarray, task: np.ndarray, *, released: bool = False) -> dict[str, Line]:
    """{task: line}, each of its own points. released: without the largest x, as qscaled does it."""
    task = np.asarray(task)
    lines = {}
    for name in sorted(set(task)):
        order = np.flatnonzero(task == name)
        order = order[np.argsort(x[order])][: -1 if released else None]
        lines[name] = log_line(x[order], y[..., order])
    return lines


def round_batch_size(batch_size: float) -> int:
    """The nearest multiple of 16, at least 16, fractions dropped first (qscaled): what is run of a fitted one."""
    return max(16, 16 * round(int(batch_size) / 16))


def round_learning_rate(learning_rate: float) -> float:
    """To three significant digits."""
    return float(f'{learning_rate:.2e}')


class PowerLaw(NamedTuple):
    """D(sigma) = d_min + (beta / sigma)^alpha, in environment steps."""

    d_min: float
    alpha: float
    beta: float

    def __call__(self, sigma: np.ndarray) -> np.ndarray:
        return self.d_min + (self.beta / np.asarray(sigma)) ** self.alpha


# Raw parameters (floor, exponent, scale) from which the search starts; the first is the authors', who make no other.
STARTS = tuple(np.array(start, float) for start in ((0, 0, 0), (-4, 0, 0), (0, 2, 0), (-4, -2, 2), (1, -2, -2)))


def fit_power_law(
    sigma: np.ndarray, data: np.ndarray, *, objective: str = 'log', starts: tuple[np.ndarray, ...] = STARTS
) -> PowerLaw:
    """The PowerLaw nearest to data [n], in environment steps, at sigma [n].

    sigma is mapped to 0.5..2 in logarithms and data divided by its mean; floor, exponent and scale are softplus of what
    L-BFGS searches. objective: 'log' takes the squared error of log D (arXiv 2508.14881), 'linear' that of D (qscaled,
    for reproduction).
    """
    from scipy.optimize import minimize

    if objective not in ('log', 'linear'):
        raise ValueError(objective)
    x, y = np.log(sigma), np.asarray(data, float)
    middle = (x.min() + x.max()) / 2
    stretch = (x.max() - x.min()) / np.log(4) or 1.0
    x, mean = (x - middle) / stretch, y.mean()
    y = y / mean

    def loss(raw):
        floor, exponent, scale = np.logaddexp(0, raw)
        term = np.exp(exponent * (np.log(scale) - x))
        value = floor + term
        error = np.log(value / y) if objective == 'log' else value - y
        inner = 1 / value if objective == 'log' else np.ones_like(value)
        partial = np.stack([np.ones_like(x), term * (np.log(scale) - x), term * exponent / scale]) * inner
        gradient = 2 * (partial * error).mean(axis=1) / (1 + np.exp(-raw))
        return (error**2).mean(), gradient

    bounds = [(-30, 10), (-6, 6), (-30, 10)]
    found = min(
        (minimize(loss, start, jac=True, method='L-BFGS-B', bounds=bounds) for start in starts), key=lambda f: f.fun
    )
    floor, exponent, scale = np.logaddexp(0, found.x)
    alpha = exponent / stretch
    # mean (scale / x')^exponent with x' = (sigma / e^middle)^(1 / stretch), written as (beta / sigma)^alpha
    log_beta = middle + stretch * np.log(scale) + np.log(mean) / alpha
    return PowerLaw(float(floor * mean), float(alpha), float(np.exp(np.minimum(log_beta, 700.0))))
