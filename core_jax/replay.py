"""Data on the device: offline datasets without second copies, and a ring buffer for what is collected online.

A dataset keeps every row of every trajectory once, the final state included, so the next observation is the next row:

    observations [N, ...]   actions [N, A]   rewards [N]   masks [N]   starts [M]   ends [N]

`starts` are the rows that begin a transition (all but the last row of a trajectory), `ends[i]` is the last row of the
trajectory of row i. masks (bootstrap) and ends (where the trajectory was cut) are different things: a time limit ends a
trajectory and bootstraps.
"""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core_jax.mesh import place

Arrays = dict[str, Any]


def dataset(observations, actions, rewards, masks, trajectory_ends) -> Arrays:
    """Host arrays in the layout above, from rows [N, ...] and `trajectory_ends` [N] (true on each last row)."""
    last = np.flatnonzero(np.asarray(trajectory_ends) > 0)
    rows = len(observations)
    if len(last) == 0 or last[-1] != rows - 1:
        raise ValueError('the last row must end a trajectory')
    ends = np.repeat(last, np.diff(last, prepend=-1))
    observations = np.asarray(observations)
    return {
        # In the dtype that it will have on the device (float64 becomes float32), so that sizes announced are true.
        'observations': observations.astype(jax.dtypes.canonicalize_dtype(observations.dtype), copy=False),
        'actions': np.asarray(actions, np.float32),
        'rewards': np.asarray(rewards, np.float32),
        'masks': np.asarray(masks, np.float32),
        'starts': np.setdiff1d(np.arange(rows), last).astype(np.int32),
        'ends': ends.astype(np.int32),
    }


def dataset_spec(data: Arrays, mesh: Mesh) -> Arrays:
    """Shapes and shardings of a dataset: rows along the mesh axis `data`, padded to divide; indices replicated."""
    ways = mesh.shape['data']

    def one(name, array):
        spread = ways > 1 and name != 'starts'
        rows = len(array) + (-len(array) % ways if spread else 0)
        spec = PartitionSpec('data') if spread else PartitionSpec()
        return jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype, sharding=NamedSharding(mesh, spec))

    return {name: one(name, array) for name, array in data.items()}


def place_dataset(data: Arrays, mesh: Mesh) -> Arrays:
    """The dataset on the devices, laid out as `dataset_spec` says. Padding rows are never sampled."""

    def one(array, spec):
        padding = [(0, spec.shape[0] - len(array))] + [(0, 0)] * (array.ndim - 1)
        return place(np.pad(array, padding), spec.sharding)

    spec = dataset_spec(data, mesh)
    return {name: one(array, spec[name]) for name, array in data.items()}


def sample(data: Arrays, key: jax.Array, batch_size: int) -> Arrays:
    """A uniform batch of transitions [B, ...]: a pure function of the key, the same on every mesh."""
    index = jax.random.randint(key, (batch_size,), 0, data['starts'].shape[0])
    row = data['starts'][index]
    return {
        'observations': data['observations'][row],
        'actions': data['actions'][row],
        'rewards': data['rewards'][row],
        'masks': data['masks'][row],
        'next_observations': data['observations'][row + 1],
    }


def sample_chunks(data: Arrays, key: jax.Array, batch_size: int, horizon: int) -> Arrays:
    """A uniform batch of windows of `horizon` transitions, for n-step returns and action chunks.

    observations [B, ...] at the first step; actions [B, h, A], rewards, masks and valid [B, h] along the window;
    next_observations [B, ...] after its last valid step. valid is 0 past the end of the trajectory, and reads there
    repeat its last transition.
    """
    index = jax.random.randint(key, (batch_size,), 0, data['starts'].shape[0])
    row = data['starts'][index]
    last = data['ends'][row] - 1  # the last row that begins a transition
    rows = row[:, None] + jnp.arange(horizon)[None, :]
    valid = (rows <= last[:, None]).astype(jnp.float32)
    rows = jnp.minimum(rows, last[:, None])
    return {
        'observations': data['observations'][row],
        'actions': data['actions'][rows],
        'rewards': data['rewards'][rows],
        'masks': data['masks'][rows],
        'valid': valid,
        'next_observations': data['observations'][rows[:, -1] + 1],
    }


def n_step(
    rewards: jax.Array, masks: jax.Array, valid: jax.Array, discount: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Windows [B, h] -> (return [B], bootstrap discount [B]).

    R = sum_k discount^k r_k over the valid steps until a mask is 0; the bootstrap is discount^n for the n steps taken,
    and 0 once a mask was 0.
    """
    alive = jnp.cumprod(jnp.concatenate([jnp.ones_like(masks[:, :1]), masks[:, :-1]], axis=1), axis=1) * valid
    powers = discount ** jnp.arange(rewards.shape[1], dtype=rewards.dtype)
    taken = valid.sum(axis=1)
    terminated = jnp.min(jnp.where(valid > 0, masks, 1.0), axis=1)
    return jnp.sum(rewards * alive * powers[None, :], axis=1), discount**taken * terminated


@flax.struct.dataclass
class Ring:
    """A ring buffer of transitions on the device. rows: dict of [capacity, ...]; added: int32, how many ever."""

    rows: Arrays
    added: jax.Array


def ring(example: Arrays, capacity: int) -> Ring:
    """An empty ring for transitions like `example` (one transition, no leading axis)."""
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.asarray(x).dtype), example)
    return Ring(rows, jnp.zeros((), jnp.int32))


def add(buffer: Ring, transitions: Arrays) -> Ring:
    """Writes transitions [n, ...] (n static, at most the capacity) over the oldest ones."""
    count = jax.tree.leaves(transitions)[0].shape[0]
    capacity = jax.tree.leaves(buffer.rows)[0].shape[0]
    # Positions are kept modulo twice the capacity, which says where to write and whether the ring is full, and never
    # overflows.
    at = (buffer.added + jnp.arange(count)) % capacity
    rows = jax.tree.map(lambda rows, new: rows.at[at].set(new.astype(rows.dtype)), buffer.rows, transitions)
    added = buffer.added + count
    return Ring(rows, jnp.where(added >= 2 * capacity, added - capacity, added))


def ring_size(buffer: Ring) -> jax.Array:
    """How many transitions can be sampled, int32."""
    return jnp.minimum(buffer.added, jax.tree.leaves(buffer.rows)[0].shape[0])


def sample_ring(buffer: Ring, key: jax.Array, batch_size: int) -> Arrays:
    """A uniform batch [B, ...] of what was added (row 0 while nothing was)."""
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(ring_size(buffer), 1))
    return jax.tree.map(lambda rows: rows[index], buffer.rows)


def ring_spec(buffer: Ring, mesh: Mesh) -> Ring:
    """Shardings that lay the rows over the mesh axis `data` where it divides the capacity."""

    def one(leaf):
        even = leaf.ndim and leaf.shape[0] % mesh.shape['data'] == 0
        return NamedSharding(mesh, PartitionSpec('data') if even else PartitionSpec())

    return jax.tree.map(one, buffer)
