"""Masked discrete diffusion as reverse processes (MDLM, arXiv 2406.07524; order-agnostic as in EvoDiff, OA-ARDM).

A network gives log-probabilities of tokens at every position, whatever is masked. Two samplers run it:

    one_position    each step reveals one masked position, drawn uniformly, with a token drawn from the network
    grid            each step reveals each masked position with probability (m_i - m_{i+1}) / m_i, where m_i is the
                    masked share of the log-linear schedule at t_i, on an even grid of t from 1 to 0

Revealed tokens are carried over (SUBS), the mask is never drawn, and the last step leaves none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process import Process

EPSILON = 1e-3  # of the log-linear schedule: m(t) = (1 - EPSILON) t


def one_position(params: Any, denoise: Callable, *, length: int, mask: int, **about: Any) -> Process:
    """A process of `length` steps. `denoise` gives log-probabilities [N, L, V], tokens 0 to V - 1, mask not among them.

    A state at level i has exactly i positions revealed. about: other fields of `Process`.
    """

    def step(key: jax.Array, x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        where, what = jax.random.split(key)
        position = jax.random.categorical(where, jnp.where(x == mask, 0.0, -jnp.inf))
        token = jax.random.categorical(what, out[position])
        return x.at[position].set(token.astype(x.dtype))

    def noise(key: jax.Array, design: jax.Array, level: jax.Array) -> jax.Array:
        rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, (length,))))
        return jnp.where(rank < length - level, jnp.asarray(mask, design.dtype), design)

    def log_step(x: jax.Array, out: jax.Array, level: jax.Array, y: jax.Array) -> jax.Array:
        new = (x == mask) & (y != mask)
        token = jnp.take_along_axis(out, jnp.minimum(y, mask - 1)[:, None].astype(jnp.int32), 1)[:, 0]
        return jnp.where(new, token, 0.0).sum() - jnp.log((x == mask).sum())

    return _process(params, denoise, step, noise, log_step, steps=length, length=length, mask=mask, **about)


def masked_share(steps: int) -> np.ndarray:
    """m_i [steps + 1] of the grid: 1 - EPSILON at level 0 in MDLM, here 1, as x is all masks; 0 at the end."""
    share = (1 - EPSILON) * np.linspace(1.0, 0.0, steps + 1)
    share[0] = 1.0
    return share.astype(np.float32)


def grid(params: Any, denoise: Callable, *, length: int, mask: int, steps: int, **about: Any) -> Process:
    """A process of `steps` steps, each of which reveals any number of positions. Otherwise as `one_position`."""
    share = masked_share(steps)
    reveal = jnp.asarray(1 - share[1:] / share[:-1])  # [steps]; 1 in the last

    def step(key: jax.Array, x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        where, what = jax.random.split(key)
        chosen = (x == mask) & (jax.random.uniform(where, x.shape) < reveal[level])
        return jnp.where(chosen, jax.random.categorical(what, out).astype(x.dtype), x)

    def noise(key: jax.Array, design: jax.Array, level: jax.Array) -> jax.Array:
        hidden = jax.random.uniform(key, design.shape) < jnp.asarray(share)[level]
        return jnp.where(hidden, jnp.asarray(mask, design.dtype), design)

    def log_step(x: jax.Array, out: jax.Array, level: jax.Array, y: jax.Array) -> jax.Array:
        token = jnp.take_along_axis(out, jnp.minimum(y, mask - 1)[:, None].astype(jnp.int32), 1)[:, 0]
        shown = jnp.where(y != mask, jnp.log(reveal[level]) + token, jnp.log1p(-jnp.minimum(reveal[level], 1 - 1e-7)))
        return jnp.where(x == mask, shown, 0.0).sum()

    return _process(params, denoise, step, noise, log_step, steps=steps, length=length, mask=mask, **about)


def _process(params, denoise, step, noise, log_step, *, steps: int, length: int, mask: int, **about: Any) -> Process:
    """What both samplers share: full noise, and whole designs from log-probabilities."""

    def init(key: jax.Array) -> jax.Array:
        return jnp.full((length,), mask, jnp.int8 if mask < 128 else jnp.int32)

    def mode(x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        if x.ndim == 2:  # relaxed, see `relaxation`: the expected tokens [L, V], through which gradients pass
            return x[:, : out.shape[-1]] + x[:, mask:] * jnp.exp(out)
        return jnp.where(x == mask, jnp.argmax(out, -1).astype(x.dtype), x)

    def guess(key: jax.Array, x: jax.Array, out: jax.Array, level: jax.Array) -> jax.Array:
        return jnp.where(x == mask, jax.random.categorical(key, out).astype(x.dtype), x)

    functions = {'init': init, 'denoise': denoise, 'step': step, 'mode': mode, 'guess': guess, 'noise': noise}
    return Process(params=params, steps=steps, log_step=log_step, **functions, **about)


def relaxation(mask: int) -> dict[str, Callable]:
    """`soften` and `guide` of processes whose denoiser takes one-hot rows [N, L, mask + 1].

    A slope [L, mask + 1] says what each token in place of the mask would change, to first order: that of guidance by
    exp(s r), q_k <- q_k exp(slope_k - slope_mask) (discrete DPS and classifier guidance, in logarithms).
    """

    def soften(x: jax.Array) -> jax.Array:
        return jax.nn.one_hot(x, mask + 1)

    def guide(x: jax.Array, out: jax.Array, slope: jax.Array, level: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(out + slope[:, : out.shape[-1]] - slope[:, mask:])

    return {'soften': soften, 'guide': guide}
