"""Runs that were never trained: curves from a known law with noise, to try the analysis and to test it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scaling.utd.runs_table import Curves, Key, Runs

D_MIN, AT_ONE, ALPHA = 20_000.0, 40_000.0, 0.8  # D_J(sigma) = u(J) (D_MIN + AT_ONE sigma^-ALPHA), u(700) = 1
BATCH_SIZE, BATCH_SLOPE = 128.0, -0.4  # best batch size: 128 sigma^-0.4
LEARNING_RATE, RATE_SLOPE = 6e-4, -0.3  # best learning rate: 6e-4 sigma^-0.3
PENALTY = 0.15  # log D rises by this times the squared log-distance to the best
LAW = f'D = u(J) ({D_MIN:.0f} + {AT_ONE:.0f} sigma^-{ALPHA}), B* ~ sigma^{BATCH_SLOPE}, eta* ~ sigma^{RATE_SLOPE}'


def best_batch_size(sigma: float) -> float:
    return BATCH_SIZE * sigma**BATCH_SLOPE


def best_learning_rate(sigma: float) -> float:
    return LEARNING_RATE * sigma**RATE_SLOPE


def data_needed(sigma: float, threshold: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """D_J of the law at the best batch size and learning rate."""
    return np.log1p(-threshold / 1000) / math.log(0.3) * (D_MIN + AT_ONE * sigma**-alpha)


def make_runs(
    sigmas: Sequence[float] = (0.5, 1, 2, 4, 8),
    batch_sizes: Sequence[float] = (32, 64, 128, 256, 512),
    learning_rates: Sequence[float] = (1.5e-4, 3e-4, 6e-4, 1.2e-3, 2.4e-3),
    *,
    env: str = 'example',
    alpha: float = ALPHA,
    seeds: int = 5,
    noise: float = 0.05,
    seed: int = 0,
) -> Runs:
    """A grid of runs. noise: spread of log D from seed to seed; every row of a curve has 20 noise of return as well."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(0, 990, 400)
    env_step = np.arange(1, 301) * 1_000.0
    curves = []
    for sigma in sigmas:
        needed = data_needed(sigma, levels, alpha)
        for batch_size in batch_sizes:
            for rate in learning_rates:
                off = (
                    math.log(batch_size / best_batch_size(sigma)) ** 2 + math.log(rate / best_learning_rate(sigma)) ** 2
                )
                stretch = np.exp(PENALTY * off + noise * rng.standard_normal(seeds))
                returns = np.stack([np.interp(env_step / s, needed, levels) for s in stretch])
                returns = returns + 20 * noise * rng.standard_normal(returns.shape)
                key = Key(env, 'none', sigma, batch_size, rate, 1e5)
                curves.append(Curves(key, env_step, returns, tuple(str(s) for s in range(seeds))))
    return Runs(curves, [], 'return')
