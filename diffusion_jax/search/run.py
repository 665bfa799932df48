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


def group_keys(key: jax.Array, groups: int) -> jax.Array:
    """A key a group, the same whatever mesh they are laid over."""
    return jax.vmap(lambda g: jax.random.fold_in(key, g))(jnp.arange(groups))


def on_device(search: Callable, mesh: Mesh | None, *arguments: Any, groups: int, key: jax.Array) -> Result:
    """search(*arguments, keys [G], axis) -> Result of jax arrays, on every group.

    Groups are laid over the mesh axis `data` where they divide; otherwise every device knows all groups, and takes its
    share of the rows that go through the denoiser (`process.denoise`).
    """
    return Result(*fetch(tuple(_compiled(search, mesh, groups)(arguments, key))))


@functools.lru_cache(maxsize=64)
def _compiled(search: Callable, mesh: Mesh | None, groups: int) -> Callable:
    def local(arguments, keys, axis=None):
        return tuple(search(*arguments, keys, axis))

    def whole(arguments, key):
        keys = group_keys(key, groups)
        devices = 1 if mesh is None else mesh.shape['data']
        if devices == 1:
            return local(arguments, keys)
        none, rows = PartitionSpec(), PartitionSpec('data')
        if groups % devices == 0:
            steps = PartitionSpec(None, 'data')  # a trace is [R, G]
            specs = (rows, rows, steps, rows, rows, rows)
            laid = jax.shard_map(local, mesh=mesh, in_specs=(none, rows), out_specs=specs, check_vma=False)
        else:
            spread = functools.partial(local, axis='data')
            laid = jax.shard_map(spread, mesh=mesh, in_specs=(none, none), out_specs=none, check_vma=False)
        return laid(arguments, keys)

    return jax.jit(whole)
