"""A reverse process: a pre-trained diffusion model with its sampler. It is all that a search knows of a model.

A design is made in `steps` steps. Its state at level i, after i of them, is what the papers call x_t; level 0 is full
noise and level `steps` a design, the papers' x_0. Between two steps stands one call of the denoiser, whose output `out`
is carried along with the state, so that children share their parent's and a winner's is never computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

PyTree = Any


def static(**options: Any) -> Any:
    """A field that is no array: it is closed over by what is compiled."""
    return flax.struct.field(pytree_node=False, **options)


@flax.struct.dataclass
class Process:
    """Functions of one design, which searches vectorise, but for `denoise`, which takes rows of them.

    init(key) -> x                    full noise
    denoise(params, x [N, ...], level) -> out [N, ...]        the network; all rows stand at one level
    step(key, x, out, level) -> x     a draw of p(x_{i+1} | x_i); the last one ends in a whole design
    mode(x, out, level) -> x          the design that a state points to: most probable tokens, or the posterior mean
    guess(key, x, out, level) -> x    a design drawn from the denoiser's output in one go
    noise(key, design, level) -> x    the forward process: a draw of q(x_i | design)
    guide(x, out, slope, level) -> out        `out` moved along `slope`, the gradient of a value by what `soften` gives
    soften(x) -> relaxed x            what gradients are taken by, which `denoise` and `mode` take too (one-hot, or x)
    log_step(x, out, level, y) -> log p(y | x)       of what `step` draws
    log_likelihood(params, key, designs [N, ...]) -> [N]      of the prior: exact, or a bound (see the model)
    """

    params: PyTree
    steps: int = static()
    init: Callable = static()
    denoise: Callable = static()
    step: Callable = static()
    mode: Callable = static()
    guess: Callable = static()
    noise: Callable = static()
    log_likelihood: Callable | None = static(default=None)
    guide: Callable | None = static(default=None)
    soften: Callable | None = static(default=None)
    log_step: Callable | None = static(default=None)
    micro: int = static(
        default=0
    )  # rows of a call of the network; 0: all. Fixed, rows do not depend on how many there are


def denoise(process: Process, x: jax.Array, level: jax.Array, axis: str | None = None) -> PyTree:
    """The denoiser's output for rows x [N, ...]."""
    return spread(lambda rows: process.denoise(process.params, rows, level), x, axis, process.micro)


def spread(function: Callable[[jax.Array], PyTree], x: jax.Array, axis: str | None = None, micro: int = 0) -> PyTree:
    """function(x) of rows x [N, ...].

    With `micro`, rows are taken in batches of that shape, padded where they do not divide, since matrix products of
    other shapes round differently. With `axis`, a mesh axis over which x is replicated, every device takes its share of
    the rows and all get the whole.
    """
    rows = x.shape[0]
    devices = 1 if axis is None else jax.lax.axis_size(axis)
    unit = max(micro, 1) * devices
    padded = -(-rows // unit) * unit
    x = jnp.concatenate([x, jnp.broadcast_to(x[:1], (padded - rows, *x.shape[1:]))]) if padded > rows else x
    if axis is not None:
        share = padded // devices
        x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * share, share)
    if micro:
        out = jax.lax.map(function, x.reshape(-1, micro, *x.shape[1:]))
        out = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)
    else:
        out = function(x)
    if axis is not None:
        out = jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis, tiled=True), out)
    return jax.tree.map(lambda leaf: leaf[:rows], out)


def sample(process: Process, keys: jax.Array) -> jax.Array:
    """Designs without any guidance, one a key [N]; jit it."""
    return trajectories(process, keys)[0]


def trajectories(process: Process, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(designs [N, ...], states [steps, N, ...] at levels 1 to steps) without any guidance, one a key [N]; jit it."""

    def one_step(x, level):
        out = denoise(process, x, level)
        drawn = jax.vmap(jax.random.fold_in, (0, None))(keys, level)
        x = jax.vmap(process.step, (0, 0, 0, None))(drawn, x, out, level)
        return x, x

    x = jax.vmap(process.init)(jax.vmap(jax.random.fold_in, (0, None))(keys, process.steps))
    return jax.lax.scan(one_step, x, jnp.arange(process.steps))
