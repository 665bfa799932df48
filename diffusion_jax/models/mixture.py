"""A Gaussian process whose denoiser is exact: a prior that is a mixture of Gaussians. What `table` is to `masked`.

Given x = a x_0 + s n, x_0 is again from such a mixture (per component k, of mean m_k and variances v_k):

    log w_k(x) = log w_k + log N(x; a m_k, a^2 v_k + s^2)
    m_k(x) = m_k + a v_k / (a^2 v_k + s^2) (x - a m_k),   v_k' = v_k s^2 / (a^2 v_k + s^2)

so the process can draw x_0 from it and then the next state from q(x' | x, x_0): exact in any number of steps, where
samplers that go by the posterior mean are exact in the limit of many. For a reward that is linear in x_0 soft values
are known, and the tilted prior is a mixture once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.models.gaussian import Levels
from diffusion_jax.process import Process


class Prior(NamedTuple):
    """K Gaussians in D dimensions. weights [K] sum to 1; means and variances [K, D]."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray


def log_normal(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """Log-density of independent normals, summed over the last axis. All arguments have the same rank."""
    return -0.5 * ((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance)).sum(-1)


def posterior(prior: Prior, x: jax.Array, signal: Any, sigma: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mixture of x_0 given states x [N, D]: log-weights [N, K], means [N, K, D], variances [1, K, D]."""
    means, variances = prior.means[None], prior.variances[None]
    total = signal**2 * variances + sigma**2
    log_weights = jnp.log(prior.weights)[None] + log_normal(x[:, None], signal * means, total)
    moved = means + signal * variances / total * (x[:, None] - signal * means)
    return jax.nn.log_softmax(log_weights), moved, variances * sigma**2 / total


def denoiser(prior: Prior, levels: Levels) -> Callable:
    """denoise(params, x [N, D], level) -> E[x_0 | x] [N, D], for `gaussian.make`; params are not read."""
    signal, sigma = (jnp.asarray(array, jnp.float32) for array in levels[:2])

    def denoise(params, x: jax.Array, level: jax.Array) -> jax.Array:
        log_weights, means, _ = posterior(prior, x, signal[level], sigma[level])
        return (jnp.exp(log_weights)[..., None] * means).sum(1)

    return denoise


def sample(prior: Prior, key: jax.Array, count: int) -> jax.Array:
    """Draws [count, D]."""
    which, noise = jax.random.split(key)
    k = jax.random.categorical(which, jnp.log(prior.weights), shape=(count,))
    z = jax.random.normal(noise, (count, prior.means.shape[1]))
    return jnp.asarray(prior.means)[k] + jnp.sqrt(jnp.asarray(prior.variances))[k] * z


def log_density(prior: Prior, x: jax.Array) -> jax.Array:
    """[N] of x [N, D]."""
    each = log_normal(x[:, None], jnp.asarray(prior.means)[None], jnp.asarray(prior.variances)[None])
    return jax.nn.logsumexp(each + jnp.log(prior.weights)[None], 1)


def tilted(prior: Prior, slope: np.ndarray, alpha: float) -> Prior:
    """What exp(slope . x / alpha) prior is, normalised."""
    slope = np.asarray(slope, np.float64)[None] / alpha
    log_weights = np.log(prior.weights) + (slope * prior.means + slope**2 * prior.variances / 2).sum(1)
    weights = np.exp(log_weights - log_weights.max())
    return Prior(weights / weights.sum(), prior.means + prior.variances * slope, prior.variances)


def soft_value(prior: Prior, levels: Levels, slope: np.ndarray, alpha: float) -> Callable:
    """of_state(params, x [N, D], level) -> alpha log E[exp(slope . x_0 / alpha) | x] [N]; params are not read."""
    signal, sigma = (jnp.asarray(array, jnp.float32) for array in levels[:2])
    direction = jnp.asarray(slope, jnp.float32)[None, None] / alpha

    def of_state(params, x: jax.Array, level: jax.Array) -> jax.Array:
        log_weights, means, variances = posterior(prior, x, signal[level], sigma[level])
        return alpha * jax.nn.logsumexp(log_weights + (direction * means + direction**2 * variances / 2).sum(-1), 1)

    return of_state


def make(prior: Prior, levels: Levels, **about) -> Process:
    """The exact process through `levels`, which must be ancestral with eta = 1. about: other fields of `Process`.

    The denoiser's output is {'log_weights' [N, K], 'means' [N, K, D]} of x_0 given x.
    """
    prior = Prior(*(jnp.asarray(array, jnp.float32) for array in prior))
    signal, sigma, keep, spread = (jnp.asarray(array, jnp.float32) for array in levels)
    dimensions = prior.means.shape[1]

    def init(key: jax.Array) -> jax.Array:
        x = sample(prior, key, 1)[0]  # what full noise is exactly, as the last of the signal is still in it
        return noise(jax.random.fold_in(key, 1), x, 0)

    def noise(key: jax.Array, design: jax.Array, level: jax.Array) -> jax.Array:
        return signal[level] * design + sigma[level] * jax.random.normal(key, (dimensions,))

    def denoise(params: Prior, x: jax.Array, level: jax.Array) -> dict[str, jax.Array]:
        log_weights, means, _ = posterior(params, x, signal[level], sigma[level])
        return {'log_weights': log_weights, 'means': means}

    def variances(level: jax.Array) -> jax.Array:  # [K, D]
        return prior.variances * sigma[level] ** 2 / (signal[level] ** 2 * prior.variances + sigma[level] ** 2)

    def mode(x: jax.Array, out: dict, level: jax.Array) -> jax.Array:
        return (jnp.exp(out['log_weights'])[:, None] * out['means']).sum(0)

    def guess(key: jax.Array, x: jax.Array, out: dict, level: jax.Array) -> jax.Array:
        which, draw = jax.random.split(key)
        k = jax.random.categorical(which, out['log_weights'])
        return out['means'][k] + jnp.sqrt(variances(level)[k]) * jax.random.normal(draw, (dimensions,))

    def share(level: jax.Array) -> jax.Array:
        """How much of x_0 is in the mean of q(x' | x, x_0)."""
        return signal[level + 1] - keep[level] * signal[level] / sigma[level]

    def step(key: jax.Array, x: jax.Array, out: dict, level: jax.Array) -> jax.Array:
        first, second = jax.random.split(key)
        mean = share(level) * guess(first, x, out, level) + keep[level] * x / sigma[level]
        return mean + spread[level] * jax.random.normal(second, (dimensions,))

    def log_step(x: jax.Array, out: dict, level: jax.Array, y: jax.Array) -> jax.Array:
        means = share(level) * out['means'] + (keep[level] * x / sigma[level])[None]
        total = share(level) ** 2 * variances(level) + spread[level] ** 2
        return jax.nn.logsumexp(out['log_weights'] + log_normal(y[None], means, total))

    def guide(x: jax.Array, out: dict, slope: jax.Array, level: jax.Array) -> dict:
        return out | {'means': out['means'] + (sigma[level] ** 2 / signal[level] * slope)[None]}

    def log_likelihood(params: Prior, key: jax.Array, designs: jax.Array) -> jax.Array:
        return log_density(params, designs)

    functions = {'init': init, 'denoise': denoise, 'step': step, 'mode': mode, 'guess': guess, 'noise': noise}
    functions |= {'guide': guide, 'soften': lambda x: x, 'log_step': log_step, 'log_likelihood': log_likelihood}
    return Process(params=prior, steps=levels.steps, **functions | about)
