"""How a search is run: laid over the mesh and compiled, on the device from end to end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from core_jax.mesh import fetch


class Result(NamedTuple):
    """What a search ends with, numpy. A group returns its designs in the order of its slots.

    designs [G, D, ...], rewards [G, D] by the reward that was searched with; trace: arrays by step [R, G]; calls of the
    denoiser, of the reward, and rewards that were not finite [G], all counted.
    """

    designs: np.ndarray
    rewards: np.ndarray
    trace: dict[str, np.ndarray]
    calls: np.ndarray
    reward_calls: np.ndarray
    failed: np.ndarray


def fold(keys: jax.Array, number: Any) -> jax.Array:
    """Keys [G], each folded with `number`."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def item_keys(keys: jax.Array, step: Any, purpose: int, count: int) -> jax.Array:
    """Keys [G, count] by group, step, purpose and item: whatever the layout, they are the same."""
    return jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count)))(
        fold(fold(keys, step), purpose)
    )


def take(tree: Any, index: jax.Array) -> Any:
    """Items [G, K, ...] of leaves [G, N, ...] by index [G, K]."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda items, chosen: items[chosen])(leaf, index), tree)


def ancestors(origin: jax.Array, alive: jax.Array) -> jax.Array:
    """How many [G] of the first items have descendants among those `alive` [N] of `origin` [G, N]."""
    present = (origin[:, None] == jnp.arange(origin.shape[1])[None, :, None]) & alive[None, None]
    return present.any(-1).sum(-1)


def group_keys(key: jax.Array, groups: int) -> jax.Array:
    """A key a group, the same whatever mesh they are laid over."""
    return jax.vmap(lambda g: jax.random.fold_in(key, g))(jnp.arange(groups))


def on_device(
    search: Callable, mesh: Mesh | None, *arguments: Any, groups: int, key: jax.Array, x: Any = None
) -> Result:
    """search(*arguments, keys [G], axis, x) -> Result of jax arrays, on every group. x [G, ...]: where they begin.

    Groups are laid over the mesh axis `data` where they divide; otherwise every device knows all groups, and takes its
    share of the rows that go through the denoiser (`process.denoise`).
    """
    return Result(*fetch(tuple(_compiled(search, mesh, groups)(arguments, key, x))))


@functools.lru_cache(maxsize=64)
def _compiled(search: Callable, mesh: Mesh | None, groups: int) -> Callable:
    def whole(arguments, key, x):
        return laid(search, mesh, groups)(arguments, group_keys(key, groups), x)

    return jax.jit(whole)


def laid(search: Callable, mesh: Mesh | None, groups: int) -> Callable:
    """A function of (arguments, keys [G], x) that lays the groups, or else the rows of the denoiser, over the mesh."""

    def local(arguments, keys, x, axis=None):
        return tuple(search(*arguments, keys, axis, x))

    devices = 1 if mesh is None else mesh.shape['data']
    if devices == 1:
        return local
    none, rows = PartitionSpec(), PartitionSpec('data')
    if groups % devices == 0:
        steps = PartitionSpec(None, 'data')  # a trace is [R, G]
        specs = (rows, rows, steps, rows, rows, rows)
        return jax.shard_map(local, mesh=mesh, in_specs=(none, rows, rows), out_specs=specs, check_vma=False)
    spread = functools.partial(local, axis='data')
    return jax.shard_map(spread, mesh=mesh, in_specs=(none, none, none), out_specs=none, check_vma=False)
