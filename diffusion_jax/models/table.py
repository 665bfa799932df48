"""A masked process whose denoiser is exact: a prior over all V^L strings, known as a table.

Its soft values are exact too, for all (V + 1)^L partly masked states, so that every search can be compared with what it
should do. The table of a function f(s) of whole strings is extended by the sum over each axis, which puts at index V,
'mask', the sum over that position's tokens:

    E[f(x_0) | x_t] = extended(p f)[x_t] / extended(p)[x_t]
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.models import masked
from diffusion_jax.process import Process


def extended(table: np.ndarray) -> np.ndarray:
    """[V, V, ...] -> [V + 1, V + 1, ...]: index V of an axis is the sum over it."""
    for axis in range(table.ndim):
        table = np.concatenate([table, table.sum(axis, keepdims=True)], axis)
    return table


def soft_values(prior: np.ndarray, reward: np.ndarray, alpha: float) -> np.ndarray:
    """alpha log E[exp(r / alpha) | x_t] of every partly masked state, float64 [V + 1, ...] (DSearch, section 2)."""
    top = reward.max()
    tilted = extended(prior * np.exp((reward - top) / alpha))
    return top + alpha * np.log(tilted / extended(prior))


def make(prior: np.ndarray) -> Process:
    """The process of a prior [V, V, ...] (L axes, sums to 1) that reveals one position a step, in a random order."""
    length, size = prior.ndim, prior.shape[0]
    weights = np.array([(size + 1) ** (length - 1 - i) for i in range(length)], np.int32)
    table = jnp.asarray(extended(prior.astype(np.float64)).ravel(), jnp.float32)

    def denoise(params: dict, x: jax.Array, level: jax.Array) -> jax.Array:
        """log p(x_i = k | what is revealed) [N, L, V]."""
        index = x.astype(jnp.int32) @ jnp.asarray(params['weights'])
        tokens = jnp.arange(size)[None, None] - x[..., None]  # [N, L, V]: what position i must change by
        mass = params['mass'][index[:, None, None] + tokens * params['weights'][None, :, None]]
        return jax.nn.log_softmax(jnp.log(mass))

    def log_likelihood(params: dict, key: jax.Array, designs: jax.Array) -> jax.Array:
        return jnp.log(params['mass'][designs.astype(jnp.int32) @ jnp.asarray(params['weights'])])

    params = {'mass': table, 'weights': jnp.asarray(weights)}
    return masked.one_position(params, denoise, length=length, mask=size, log_likelihood=log_likelihood)


def value(table: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """What `lookup` takes, of a table over partly masked states such as `soft_values`."""
    length, size = table.ndim, table.shape[0]
    weights = np.array([size ** (length - 1 - i) for i in range(length)], np.int32)
    return jnp.asarray(table.ravel(), jnp.float32), jnp.asarray(weights)


def lookup(table: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Entries [N] of states x [N, L]."""
    return table[0][x.astype(jnp.int32) @ table[1]]
