"""The only place that builds a mesh, starts several hosts, and brings arrays to the host.

Axes: `data` (batch, particles), `fsdp` and `tensor` (parameters), `population` (seeds and hyperparameters).
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from core_jax.errors import UserError, unknown

AXES = ('population', 'data', 'fsdp', 'tensor')


def parse_mesh(text: str) -> dict[str, int]:
    """Reads 'data:4,tensor:2' into {'data': 4, 'tensor': 2}."""
    shape: dict[str, int] = {}
    for part in text.split(','):
        name, _, size = part.strip().partition(':')
        if name not in AXES:
            raise unknown('mesh axis', name, AXES)
        if not size.isdigit() or int(size) < 1 or name in shape:
            raise UserError(f'cannot read mesh {text!r}; write it like data:4,tensor:2, each axis once and at least 1')
        shape[name] = int(size)
    return shape


def make_mesh(shape: str | dict[str, int] | None = None, devices: list | None = None) -> Mesh:
    """A mesh with all four axes, those not named having size 1. `None` lays all devices along `data`.

    Every axis is Auto: since jax 0.9 `jax.make_mesh` builds Explicit axes, under which linen modules and plain gathers
    raise ShardingTypeError.

    Raises UserError where the devices do not suffice.
    """
    devices = list(jax.devices() if devices is None else devices)
    if shape is None:
        shape = {'data': len(devices)}
    elif isinstance(shape, str):
        shape = parse_mesh(shape)
    sizes = tuple(shape.get(axis, 1) for axis in AXES)
    wanted = int(np.prod(sizes))
    if wanted > len(devices):
        raise UserError(
            f'mesh {describe(shape)} needs {wanted} devices, {len(devices)} found ({devices[0].platform}); '
            'on a CPU, JAX_NUM_CPU_DEVICES=8 gives fake ones'
        )
    if jax.process_count() > 1 and wanted != len(devices):
        raise UserError(f'mesh {describe(shape)} must use all {len(devices)} devices when several processes run')
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:wanted])


def describe(shape: Mesh | dict[str, int]) -> str:
    """'data:4,tensor:2', leaving out axes of size 1."""
    items = dict(shape.shape if isinstance(shape, Mesh) else shape).items()
    return ','.join(f'{axis}:{size}' for axis, size in items if size > 1) or 'data:1'


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: Any, shardings: Any) -> Any:
    """Puts host arrays that every process holds whole onto the mesh; each process fills only its own shards."""
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(np.shape(x), s, lambda index: np.asarray(x)[index]), tree, shardings
    )


def initialize_distributed() -> None:
    """Joins the other hosts where a launcher says that there are some; otherwise does nothing.

    A TPU pod or a cluster that jax detects needs no variable; elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID say where. On CPUs the collectives are gloo's.
    """
    if 'JAX_COORDINATOR_ADDRESS' in os.environ:
        if os.environ.get('JAX_PLATFORMS', '') == 'cpu':
            jax.config.update('jax_cpu_collectives_implementation', 'gloo')
        jax.distributed.initialize(
            os.environ['JAX_COORDINATOR_ADDRESS'],
            int(os.environ['JAX_NUM_PROCESSES']),
            int(os.environ['JAX_PROCESS_ID']),
        )
    elif len(os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',')) > 1:
        jax.distributed.initialize()


class _Fetch:
    """Device to host, counted: the transfer guard cannot see this direction on a CPU, so the counter is the test."""

    def __init__(self):
        self.count = 0

    def __call__(self, tree: Any) -> Any:
        """`tree` with numpy leaves. Arrays spread over several processes must be replicated first."""
        self.count += 1
        return jax.tree.map(_to_numpy, tree)


def _to_numpy(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    if not leaf.is_fully_addressable:
        leaf = leaf.addressable_data(0)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return jax.device_get(leaf)


fetch = _Fetch()
