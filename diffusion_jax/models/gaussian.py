"""Gaussian diffusion as reverse processes: EDM (arXiv 2206.00364), DDPM (2006.11239) and DDIM (2010.02502).

A state at level i is x = a_i x_0 + s_i n with noise n ~ N(0, I); EDM keeps a = 1, the variance-preserving form of DDPM
has a^2 + s^2 = 1. The denoiser's output is the posterior mean x0_hat = E[x_0 | x], whatever the network predicts:

    noise (DDPM)    x0_hat = (x - s eps(x)) / a
    score           x0_hat = (x + s^2 score(x)) / a
    EDM             x0_hat = c_skip x + c_out F(c_in x; c_noise)

With the noise that it implies, eps = (x - a_i x0_hat) / s_i, all samplers are one step, which differs in how much of
that noise is kept and how much is drawn anew:

    x' = a_{i+1} x0_hat + keep_i eps + spread_i z,   z ~ N(0, I)

    DDIM, ancestral   spread_i = eta s_{i+1} / s_i sqrt(s_i^2 - (a_i s_{i+1} / a_{i+1})^2),
                      keep_i^2 = s_{i+1}^2 - spread_i^2
    EDM with churn    the draw raises the noise again: states are those after it (EDM, algorithm 2, Euler's step)

Children of one parent differ by z alone: with eta = 0 or without churn they are all the same. The last step has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.errors import UserError, unknown
from diffusion_jax.process import Process

PyTree = Any


class Levels(NamedTuple):
    """What a sampler of n steps goes through, float64 arrays."""

    signal: np.ndarray  # [n + 1] a_i; 1 at the end
    sigma: np.ndarray  # [n + 1] s_i; 0 at the end
    keep: np.ndarray  # [n]
    spread: np.ndarray  # [n]

    @property
    def steps(self) -> int:
        return len(self.keep)


# Levels


def ancestral(signal: np.ndarray, sigma: np.ndarray, eta: float = 1.0) -> Levels:
    """DDIM's step between these levels. eta = 1: x' is drawn from q(x' | x, x_0 = x0_hat), as in DDPM; 0: no noise.

    Raises UserError for an eta outside 0..1, or noise that does not fall to 0.
    """
    signal, sigma = np.asarray(signal, np.float64), np.asarray(sigma, np.float64)
    if not 0 <= eta <= 1:
        raise UserError(f'eta must be from 0 to 1, got {eta}')
    ratio = sigma / signal
    if len(sigma) < 2 or (np.diff(ratio) >= 0).any() or sigma[-1] != 0:
        raise UserError('the noise of a sampler must fall from level to level, and end at 0')
    fresh = sigma[:-1] ** 2 - (signal[:-1] / signal[1:] * sigma[1:]) ** 2
    spread = eta * sigma[1:] / sigma[:-1] * np.sqrt(fresh)
    return Levels(signal, sigma, np.sqrt(sigma[1:] ** 2 - spread**2), spread)


def churned(sigma: np.ndarray, churn: float, low: float = 0.05, high: float = 50.0, inflate: float = 1.003) -> Levels:
    """EDM's stochastic sampler on `sigma` [n + 1], Euler's step (one call of the denoiser a step, no correction).

    Before it is denoised a state of noise t in low..high is raised to t (1 + gamma), with
    gamma = min(churn / n, sqrt 2 - 1). Here that belongs to the step before, so that children differ by it. The
    defaults but for `churn` are those of EDM's table 5 for ImageNet; `inflate` is its S_noise.
    """
    sigma = np.asarray(sigma, np.float64)
    if churn < 0:
        raise UserError(f'churn must not be negative, got {churn}')
    steps = len(sigma) - 1
    gamma = np.where((sigma >= low) & (sigma <= high), min(churn / steps, np.sqrt(2) - 1), 0.0)
    raised = sigma * (1 + gamma)
    spread = inflate * np.sqrt(raised[1:] ** 2 - sigma[1:] ** 2)
    return Levels(np.ones(steps + 1), raised, sigma[1:], spread)


def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """Noise [steps + 1] from sigma_max to sigma_min, then 0 (EDM, equation 5). Raises UserError for bad limits."""
    if steps < 1 or not 0 < sigma_min <= sigma_max:
        raise UserError(f'no noise levels: {steps} steps from {sigma_max} down to {sigma_min}')
    ramp = np.linspace(0.0, 1.0, steps)
    root_max, root_min = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.append((root_max + ramp * (root_min - root_max)) ** rho, 0.0)


def linear_abar(train_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """abar_t = prod_{u <= t} (1 - beta_u) [train_steps], with DDPM's betas on a line from `first` to `last`."""
    return np.cumprod(1 - np.linspace(first, last, train_steps))


def timesteps(steps: int, train_steps: int) -> np.ndarray:
    """Which t [steps] of 0..train_steps - 1 a shorter sampler visits: evenly spaced, from the last one down."""
    if not 1 <= steps <= train_steps:
        raise UserError(f'a model of {train_steps} noise levels has no sampler of {steps} steps')
    return np.round(train_steps - np.arange(steps) * train_steps / steps).astype(np.int64) - 1


# What networks predict


def from_noise(x: jax.Array, noise: jax.Array, signal: Any, sigma: Any) -> jax.Array:
    """x0_hat from a prediction of n."""
    return (x - sigma * noise) / signal


def from_score(x: jax.Array, score: jax.Array, signal: Any, sigma: Any) -> jax.Array:
    """x0_hat from grad log p(x): Tweedie's formula."""
    return (x + sigma**2 * score) / signal


PREDICTIONS = {'noise': from_noise, 'score': from_score}


def per_row(numbers: jax.Array, x: jax.Array) -> jax.Array:
    """numbers [N] with the axes of x [N, ...]."""
    return numbers.reshape(-1, *[1] * (x.ndim - 1))


def preconditioned(network: Callable, sigma_data: float = 0.5) -> Callable:
    """EDM's denoiser D(params, x [N, ...], sigma [N]) -> x0_hat around network(params, x, c_noise [N]) (equation 7).

    sigma_data: the standard deviation of the data. With it, network inputs and targets have variance 1 at any noise.
    """

    def denoise(params: PyTree, x: jax.Array, sigma: jax.Array) -> jax.Array:
        s = per_row(sigma, x)
        total = s**2 + sigma_data**2
        c_skip, c_out, c_in = sigma_data**2 / total, s * sigma_data / jnp.sqrt(total), 1 / jnp.sqrt(total)
        return c_skip * x + c_out * network(params, c_in * x, jnp.log(sigma) / 4)

    return denoise


# Processes


def edm(
    params: PyTree,
    network: Callable,
    levels: Levels,
    *,
    shape: tuple[int, ...],
    sigma_data: float = 0.5,
    **about: Any,
) -> Process:
    """EDM's model with a sampler: network(params, x [N, ...], c_noise [N]), levels with signal 1. about: see `make`."""
    denoiser = preconditioned(network, sigma_data)
    sigma = jnp.asarray(levels.sigma, jnp.float32)

    def denoise(params: PyTree, x: jax.Array, level: jax.Array) -> jax.Array:
        return denoiser(params, x, jnp.broadcast_to(sigma[level], x.shape[:1]))

    return make(params, denoise, levels, shape=shape, sigma_data=sigma_data, **about)


def ddpm(
    params: PyTree,
    network: Callable,
    abar: np.ndarray,
    *,
    shape: tuple[int, ...],
    steps: int,
    eta: float = 1.0,
    predicts: str = 'noise',
    **about: Any,
) -> Process:
    """DDPM's model with DDIM's sampler: network(params, x [N, ...], t [N], floats from 0 to train_steps - 1).

    abar: [train_steps]; predicts: noise, or score. about: see `make`.
    """
    if predicts not in PREDICTIONS:
        raise unknown('prediction', predicts, PREDICTIONS)
    visited = timesteps(steps, len(abar))
    kept = np.append(np.asarray(abar, np.float64)[visited], 1.0)
    levels = ancestral(np.sqrt(kept), np.sqrt(1 - kept), eta)
    times = jnp.asarray(visited, jnp.float32)
    signal, sigma = (jnp.asarray(array, jnp.float32) for array in levels[:2])

    def denoise(params: PyTree, x: jax.Array, level: jax.Array) -> jax.Array:
        predicted = network(params, x, jnp.broadcast_to(times[level], x.shape[:1]))
        return PREDICTIONS[predicts](x, predicted, signal[level], sigma[level])

    return make(params, denoise, levels, shape=shape, **about)


def make(
    params: PyTree,
    denoise: Callable,
    levels: Levels,
    *,
    shape: tuple[int, ...],
    sigma_data: float = 1.0,
    directions: tuple[np.ndarray, np.ndarray] | None = None,
    **about: Any,
) -> Process:
    """A process of designs [*shape] in levels.steps steps. denoise(params, x [N, *shape], level) -> x0_hat.

    guess: N(x0_hat, C), where C is the covariance of x_0 given x if the data were Gaussian; their covariance is
        sigma_data^2 I, or has principal `directions` (as `principal_directions` gives them) and no other.
    guide: x0_hat + s^2 / a slope, which is eps - s slope, as in classifier guidance (arXiv 2105.05233) and DPS
        (2209.14687), where `slope` is the gradient of log p(y | x); not in the last step, which has no density.
    log_step: 0 where a step adds no noise.
    log_likelihood: unless `about` gives another, the variational bound of `bound`, in nats.
    about: other fields of `Process`.
    """
    signal, sigma, keep, spread = (jnp.asarray(array, jnp.float32) for array in levels)

    def init(key: jax.Array) -> jax.Array:
        return sigma[0] * jax.random.normal(key, shape)

    def mean(x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        noise = (x - signal[level] * out) / sigma[level]
        return signal[level + 1] * out + keep[level] * noise

    def step(key: jax.Array, x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        return mean(x, out, level) + spread[level] * jax.random.normal(key, shape)

    def log_step(x: jax.Array, out: jax.Array, level: jax.Array, y: jax.Array) -> jax.Array:
        width = jnp.where(spread[level] > 0, spread[level], 1.0)
        density = -0.5 * ((y - mean(x, out, level)) / width) ** 2 - jnp.log(width) - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.where(spread[level] > 0, density.sum(), 0.0)

    def mode(x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        return out

    def posterior_std(variance: Any, level: jax.Array) -> jax.Array:
        return sigma[level] * jnp.sqrt(variance / (sigma[level] ** 2 + signal[level] ** 2 * variance))

    def guess(key: jax.Array, x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        if directions is None:
            return out + posterior_std(sigma_data**2, level) * jax.random.normal(key, shape)
        vectors, variances = (jnp.asarray(array, jnp.float32) for array in directions)
        z = posterior_std(variances, level) * jax.random.normal(key, variances.shape)
        return out + jnp.tensordot(z, vectors, 1)

    def noise(key: jax.Array, design: jax.Array, level: jax.Array) -> jax.Array:
        return signal[level] * design + sigma[level] * jax.random.normal(key, shape)

    def guide(x: jax.Array, out: jax.Array, slope: jax.Array, level: jax.Array) -> jax.Array:
        moved = out + sigma[level] ** 2 / signal[level] * slope
        return jnp.where(level < levels.steps - 1, moved, out)

    functions = {'init': init, 'denoise': denoise, 'step': step, 'mode': mode, 'guess': guess, 'noise': noise}
    functions |= {'guide': guide, 'soften': lambda x: x, 'log_step': log_step}
    functions['log_likelihood'] = bound(denoise, levels)
    return Process(params=params, steps=levels.steps, **functions | about)


def principal_directions(data: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(unit vectors [rank, ...], variances [rank]) of data [N, ...], by falling variance. Raises UserError."""
    flat = np.asarray(data, np.float64).reshape(len(data), -1)
    if not 1 <= rank <= flat.shape[1]:
        raise UserError(f'rank must be from 1 to {flat.shape[1]}, got {rank}')
    variances, vectors = np.linalg.eigh(np.cov(flat.T, ddof=0).reshape(flat.shape[1], -1))
    variances, vectors = np.maximum(variances[::-1][:rank], 0), vectors.T[::-1][:rank]
    return vectors.reshape(rank, *data.shape[1:]).astype(np.float32), variances.astype(np.float32)


def bound(denoise: Callable, levels: Levels) -> Callable:
    """log_likelihood(params, key, designs [N, ...]) -> [N]: a lower bound of log p(x_0), estimated, in nats.

    The variational bound in continuous time (VDM, arXiv 2107.00630, section 4.2), which knows no sampler: with
    u = s / a and g(u) = E|x_0 - x0_hat|^2 / u^2, from the least noise of the levels, u_min, to the most,

        -g(u_min) / 2 - D / 2 log(2 pi u_min^2)  -  integral of g over log u  -  |x_0|^2 / (2 u_max^2)

    where g is taken at the levels with one draw of the forward process each, which `key` and the row decide, and the
    integral by the trapezoidal rule. (DDPM's bound, the sum over the steps of a sampler, is lower by D L^2 / n for a
    range L of log u in n steps.)
    """
    ratio = levels.sigma[:-1] / levels.signal[:-1]
    widths = np.zeros(levels.steps)
    widths[1:] += -np.diff(np.log(ratio)) / 2
    widths[:-1] += -np.diff(np.log(ratio)) / 2
    widths[-1] += 0.5
    weights = jnp.asarray(widths / ratio**2, jnp.float32)  # [n]
    signal, sigma = (jnp.asarray(array, jnp.float32) for array in levels[:2])

    def log_likelihood(params: PyTree, key: jax.Array, designs: jax.Array) -> jax.Array:
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(designs.shape[0]))

        def squares(residual):
            return (residual**2).reshape(residual.shape[0], -1).sum(1)

        def term(total, level):
            drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, level), designs.shape[1:]))(keys)
            out = denoise(params, signal[level] * designs + sigma[level] * drawn, level)
            return total - weights[level] * squares(designs - out), None

        total, _ = jax.lax.scan(term, -squares(designs) / (2 * ratio[0] ** 2), jnp.arange(levels.steps))
        return total - np.prod(designs.shape[1:]) / 2 * np.log(2 * np.pi * ratio[-1] ** 2)

    return log_likelihood
