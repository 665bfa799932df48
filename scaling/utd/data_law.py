"""The data law over sigma and, where it varies, the model size N; with the cheapest way to a return.

    D_J(sigma)    = D_min + (a / sigma)^alpha
    D_J(sigma, N) = D_min + (a / sigma)^alpha + (b / N)^beta              (arXiv 2502.04327 and 2508.14881)

D_min, a, b depend on the threshold J. The papers fit each J on its own. Here all thresholds of a task are fitted at
once: alpha and beta are one number a task, and the logarithms of the three terms are quadratic in J. The crossings of
neighbouring thresholds come from the same curves, so a fit for each J spends its freedom on noise. Relative errors on
published BRO runs (4 tasks, 71 configurations, 20 thresholds), of configurations left out together by one value:

                          fitted   a sigma inside   largest sigma   a width inside   largest width
    each J on its own      7.4 %        8.9 %          13.6 %           13.8 %           13.5 %
    all J at once          8.0 %        9.0 %          13.4 %           11.4 %           12.0 %

The objective is a smooth absolute error of log D, close to the mean relative error by which predictions are judged and
less moved by single late crossings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DEGREE = 2  # of the three terms' logarithms in J
ROBUST = 0.1  # residuals of log D beyond this count by their size, below it by their square
PRIOR = 0.1  # pull of the exponents to 0.5, in units of one crossing: felt only where the data leave one open
RAW_PRIOR = float(np.log(np.expm1(0.5)))
BOUNDS = (-12.0, 8.0)  # of all raw parameters
STARTS = (-0.5, 0.5)  # raw exponents from which the search starts


class DataLaw(NamedTuple):
    """D [..., J] in environment steps. Each term's logarithm is kept at sigma = 1 and N = 1."""

    thresholds: np.ndarray  # [J]
    log_floor: np.ndarray  # [J]
    log_sigma_term: np.ndarray  # [J]
    alpha: float
    log_size_term: np.ndarray | None  # [J]; None in a law of sigma alone
    beta: float | None
    raw: np.ndarray  # what the search found, to start another from

    def __call__(self, sigma: np.ndarray | float, model_size: np.ndarray | float | None = None) -> np.ndarray:
        """D [..., J] at sigma [...] and model_size [...] (needed where the law has it)."""
        sigma = np.asarray(sigma, float)[..., None]
        data = np.exp(self.log_floor) + np.exp(self.log_sigma_term - self.alpha * np.log(sigma))
        if self.beta is None:
            return data
        return data + np.exp(self.log_size_term - self.beta * np.log(np.asarray(model_size, float))[..., None])

    @property
    def d_min(self) -> np.ndarray:
        """[J], environment steps."""
        return np.exp(self.log_floor)

    @property
    def a(self) -> np.ndarray:
        """[J]: the sigma at which its term is one step (paper 1 calls it beta)."""
        return np.exp(np.minimum(self.log_sigma_term / self.alpha, 700.0))

    @property
    def b(self) -> np.ndarray | None:
        """[J]: the model size at which its term is one step."""
        return None if self.beta is None else np.exp(np.minimum(self.log_size_term / self.beta, 700.0))


def fit_data_law(
    data: np.ndarray,
    thresholds: np.ndarray,
    sigma: np.ndarray,
    model_size: np.ndarray | None = None,
    start: np.ndarray | None = None,
) -> DataLaw:
    """The law nearest to data [C, J] (NaN: not reached, passed over) at sigma [C] and, if given, model_size [C].

    start: `raw` of a law of the same shape, to search from it alone. Deterministic.
    """
    from scipy.optimize import least_squares

    reached = np.isfinite(data)
    log_data = np.log(np.where(reached, data, 1.0))
    scale = np.median(log_data[reached])
    logs = [np.log(sigma)] + ([] if model_size is None else [np.log(model_size)])
    centers = [x.mean() for x in logs]
    logs = [x - center for x, center in zip(logs, centers, strict=True)]
    terms = 1 + len(logs)
    basis = _basis(len(thresholds))  # [J, B]
    width = basis.shape[1]

    def log_terms(raw):  # [terms, C, J]
        heights = raw[: terms * width].reshape(terms, width) @ basis.T
        exponents = np.logaddexp(0, raw[terms * width :])
        slopes = [0 * logs[0], *(-e * x for e, x in zip(exponents, logs, strict=True))]
        return heights[:, None, :] + np.stack(slopes)[:, :, None]

    def residuals(raw):
        error = np.logaddexp.reduce(log_terms(raw), axis=0) + scale - log_data
        return np.append(error[reached], PRIOR * (raw[terms * width :] - RAW_PRIOR))

    def jacobian(raw):
        parts = log_terms(raw)
        shares = np.exp(parts - np.logaddexp.reduce(parts, axis=0))  # [terms, C, J]
        heights = [(share[:, :, None] * basis)[reached] for share in shares]
        sigmoid = 1 / (1 + np.exp(-raw[terms * width :]))
        slopes = [-(shares[i + 1] * x[:, None])[reached] * sigmoid[i] for i, x in enumerate(logs)]
        prior = np.zeros((len(logs), len(raw)))
        prior[:, terms * width :] = PRIOR * np.eye(len(logs))
        return np.concatenate([np.column_stack([*heights, *slopes]), prior])

    def search(first):
        return least_squares(residuals, first, jacobian, bounds=BOUNDS, loss='soft_l1', f_scale=ROBUST, max_nfev=200)

    firsts = [start] if start is not None else [_first(terms, width, exponent) for exponent in STARTS]
    raw = min((search(first) for first in firsts), key=lambda found: found.cost).x
    heights = raw[: terms * width].reshape(terms, width) @ basis.T + scale
    exponents = np.logaddexp(0, raw[terms * width :])
    at_one = [heights[i + 1] + exponents[i] * centers[i] for i in range(len(logs))]
    size = (at_one[1], float(exponents[1])) if model_size is not None else (None, None)
    return DataLaw(np.asarray(thresholds, float), heights[0], at_one[0], float(exponents[0]), *size, raw)


def _basis(thresholds: int) -> np.ndarray:
    """Legendre polynomials [J, degree + 1] over the ladder of thresholds; fewer thresholds, fewer degrees."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, thresholds), min(DEGREE, thresholds - 1))


def _first(terms: int, width: int, exponent: float) -> np.ndarray:
    raw = np.zeros(terms * width + terms - 1)
    raw[: terms * width : width] = -1.0
    raw[terms * width :] = exponent
    return raw


def relative_errors(predicted: np.ndarray, data: np.ndarray) -> np.ndarray:
    """|predicted - observed| / observed [C]: the mean over the thresholds that a configuration reached; NaN if none."""
    errors = np.abs(predicted - data) / data
    reached = np.isfinite(errors)
    return np.where(reached, errors, 0).sum(-1) / np.where(reached.any(-1), reached.sum(-1), np.nan)


class LeftOut(NamedTuple):
    """Errors [C] of each configuration, predicted by the law of all others."""

    law: np.ndarray
    constant: np.ndarray  # the same, by the others' geometric mean for each threshold
    interior: np.ndarray  # booleans: neither the least nor the largest sigma or model size, so interpolation


def leave_one_out(
    data: np.ndarray, thresholds: np.ndarray, sigma: np.ndarray, model_size: np.ndarray | None, start: np.ndarray
) -> LeftOut:
    """How well the law of data [C, J] predicts configurations that it has not seen."""
    law_errors, constant_errors = [], []
    for out in range(len(data)):
        rest = np.arange(len(data)) != out
        sizes = (None, None) if model_size is None else (model_size[rest], model_size[out])
        law = fit_data_law(data[rest], thresholds, sigma[rest], sizes[0], start=start)
        law_errors.append(relative_errors(law(sigma[out], sizes[1]), data[out]))
        reached = np.isfinite(data[rest])
        logs = np.where(reached, np.log(np.where(reached, data[rest], 1.0)), 0).sum(0) / np.maximum(reached.sum(0), 1)
        constant_errors.append(relative_errors(np.exp(logs), data[out]))
    interior = (sigma > sigma.min()) & (sigma < sigma.max())
    if model_size is not None:
        interior &= (model_size > model_size.min()) & (model_size < model_size.max())
    return LeftOut(np.array(law_errors), np.array(constant_errors), interior)


def optimal_allocation(law: DataLaw, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sigma, N) [..., J]: of all that need `data` [..., J] steps until J, those with the least sigma N.

    From alpha (a / sigma)^alpha = beta (b / N)^beta (arXiv 2508.14881): of r = data - D_min, the sigma term takes the
    share beta / (alpha + beta), the size term the rest. NaN where data is at most D_min.
    """
    rest = np.where(data > law.d_min, data - law.d_min, np.nan)
    total = law.alpha + law.beta
    sigma = np.exp((law.log_sigma_term - np.log(rest * law.beta / total)) / law.alpha)
    size = np.exp((law.log_size_term - np.log(rest * law.alpha / total)) / law.beta)
    return sigma, size


class BatchSizeLaw(NamedTuple):
    """B(sigma, N) = a sigma^-alpha / (1 + b N^-beta) (arXiv 2508.14881): grows with N until it is large enough."""

    a: float
    b: float
    alpha: float
    beta: float

    def __call__(self, sigma: np.ndarray, model_size: np.ndarray) -> np.ndarray:
        size = -self.beta * np.log(np.asarray(model_size, float))
        return self.a * np.asarray(sigma, float) ** -self.alpha / (1 + np.exp(np.log(self.b) + size))


def fit_batch_size_law(sigma: np.ndarray, model_size: np.ndarray, batch_size: np.ndarray) -> BatchSizeLaw:
    """The law nearest to batch_size [n] in logarithms, at sigma [n] and model_size [n]; from several starts."""
    from scipy.optimize import least_squares

    log_sigma, log_size, log_batch = np.log(sigma), np.log(model_size), np.log(batch_size)
    middle = log_size.mean()

    def residuals(raw):  # log a, log b at the middle size, alpha, log beta
        saturation = np.logaddexp(0, raw[1] - np.exp(raw[3]) * (log_size - middle))
        return raw[0] - raw[2] * log_sigma - saturation - log_batch

    starts = [[log_batch.max(), b, 0.3, beta] for b in (-2.0, 1.0) for beta in (-1.0, 0.5)]
    # Beyond these bounds a task has no size dependence, or a step, and the numbers stop meaning anything.
    bounds = [-5, -20, -3, -4], [20, 20, 3, 2.5]
    found = min((least_squares(residuals, start, bounds=bounds) for start in starts), key=lambda f: f.cost).x
    beta = np.exp(found[3])
    return BatchSizeLaw(float(np.exp(found[0])), float(np.exp(found[1] + beta * middle)), float(found[2]), float(beta))
