"""Data on the device: offline datasets, and rings for what is collected online. Every state is kept once.

A dataset keeps every row of every trajectory, the final state included, so the next observation is the next row:

    observations [N, ...]   actions [N, A]   rewards [N]   masks [N]   before [T + 1]

`before[t]` is the number of transitions in the trajectories before t, and `before[T]` that of all. A trajectory has one
row more than transitions, so transition k of trajectory t is row k + t: nothing else is needed to find the rows that
begin a transition, and where trajectories begin and end. masks (bootstrap) and ends (where the trajectory was cut) are
different things: a time limit ends a trajectory and bootstraps.

`Rows` is its online twin: S environments, the next observation is the row S later. `Ring` keeps whole transitions, for
environments that are stepped on the device, where the clock may not depend on how episodes end.

Images keep their dtype and are stacked when they are sampled: with `frame_stack` k, observations [H, W, C] come as
[H, W, C*k], the oldest first, and the first rows of a trajectory repeat its first frame.
"""

from __future__ import annotations

from collections.abc import Callable
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
    lengths = np.diff(last, prepend=-1)
    observations = np.asarray(observations)
    return {
        # In the dtype that it will have on the device (float64 becomes float32), so that sizes announced are true.
        'observations': observations.astype(jax.dtypes.canonicalize_dtype(observations.dtype), copy=False),
        'actions': np.asarray(actions, np.float32),
        'rewards': np.asarray(rewards, np.float32),
        'masks': np.asarray(masks, np.float32),
        'before': np.concatenate([[0], np.cumsum(lengths - 1)]).astype(np.int32),
    }


def count(data: Arrays) -> jax.Array:
    """The number of transitions, int32."""
    return jnp.asarray(data['before'])[-1]


def dataset_spec(data: Arrays, mesh: Mesh) -> Arrays:
    """Shapes and shardings of a dataset: rows along the mesh axis `data`, padded to divide; indices replicated."""
    ways = mesh.shape['data']

    def one(name, array):
        spread = ways > 1 and name != 'before'
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


def sample(data: Arrays, key: jax.Array, batch_size: int, frame_stack: int = 1) -> Arrays:
    """A uniform batch of transitions [B, ...]: a pure function of the key, the same on every mesh.

    observations, actions, rewards, masks, next_observations; next_actions [B, A], those of the next transition, and
    next_valid [B], 1 where that is in the same trajectory and 0 where it is the first of another.
    """
    index = jax.random.randint(key, (batch_size,), 0, count(data))
    return read(data, index, frame_stack=frame_stack)


def sample_chunks(data: Arrays, key: jax.Array, batch_size: int, horizon: int, frame_stack: int = 1) -> Arrays:
    """A uniform batch of windows of `horizon` transitions, for n-step returns and action chunks.

    observations [B, ...] at the first step; actions [B, h, A], rewards, masks and valid [B, h] along the window;
    next_observations [B, ...] after its last valid step. valid is 0 past the end of the trajectory, and reads there
    repeat its last transition.
    """
    index = jax.random.randint(key, (batch_size,), 0, count(data))
    return read(data, index, horizon, frame_stack)


def read(data: Arrays, index: jax.Array, horizon: int | None = None, frame_stack: int = 1) -> Arrays:
    """The transitions number `index` [B] (with a horizon, the windows that they begin); see the two above."""
    data = jax.tree.map(jnp.asarray, data)
    before = data['before']
    last = before[-1] + before.shape[0] - 2  # row; there may be padding after it

    def one(index):
        trajectory = jnp.searchsorted(before, index, side='right') - 1
        age = index - before[trajectory]  # transitions since the trajectory began
        left = before[trajectory + 1] - index  # until it ends

        def at(n):
            return jnp.minimum(index + trajectory + n, last)

        stack = _stack(data['observations'], at, age, frame_stack)
        if horizon:
            return _window(data, at, stack, jnp.minimum(left, horizon), horizon)
        # Over the final state, to the trajectory that comes next.
        return _transition(data, at, stack, left > 1, jnp.where(left > 1, 1, 2))

    return jax.vmap(one)(index)


def _stack(frames: jax.Array, at: Callable, age: jax.Array, size: int) -> Callable:
    """A function from n to the stacked observation n steps after row at(0), which has `age` rows before it."""

    def stack(n):
        back = (jnp.minimum(j, age + n) if j else 0 for j in reversed(range(size)))
        return jnp.concatenate([frames[at(n - j)] for j in back], axis=-1)

    return stack


def _transition(rows: Arrays, at: Callable, stack: Callable, next_valid: jax.Array, following=1) -> Arrays:
    """The transition from row at(0) to row at(1); the next one begins at row at(following)."""
    return {
        'observations': stack(0),
        **{name: rows[name][at(0)] for name in ('actions', 'rewards', 'masks')},
        'next_observations': stack(1),
        'next_actions': rows['actions'][at(following)],
        'next_valid': next_valid.astype(jnp.float32),
    }


def _window(rows: Arrays, at: Callable, stack: Callable, steps: jax.Array, horizon: int) -> Arrays:
    """The `steps` transitions from row at(0), padded to the horizon with the last of them."""
    n = jnp.arange(horizon)
    return {
        'observations': stack(0),
        **{name: rows[name][at(jnp.minimum(n, steps - 1))] for name in ('actions', 'rewards', 'masks')},
        'valid': (n < steps).astype(jnp.float32),
        'next_observations': stack(steps),
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
class Rows:
    """A ring of the rows that S environments bring, one row each a call: n blocks of S rows.

    rows: observations [n, S, ...], actions [n, S, A], rewards [n, S], masks [n, S], valid [n, S] (False: the final
    state of an episode, which begins no transition), and age int32 [n, S], the steps since the episode began.
    starts [n * S], from `head` on `count` of them: the rows that can be sampled (block * S + slot), oldest first.
    """

    rows: Arrays
    starts: jax.Array
    head: jax.Array
    count: jax.Array
    oldest: jax.Array  # the block that is written next; all counters stay below n * S


def rows_ring(example_row: Arrays, capacity: int, slots: int) -> Rows:
    """An empty ring for at least `capacity` rows like `example_row` (of one environment, no leading axis)."""
    blocks = max(2, -(-capacity // slots))  # a single block would never see a successor
    example = example_row | {'age': np.int32(0)}
    rows = {k: jnp.zeros((blocks, slots, *jnp.shape(x)), jnp.asarray(x).dtype) for k, x in example.items()}
    counters = (jnp.zeros((), jnp.int32) for _ in range(3))  # three arrays, so that the ring can be donated
    return Rows(rows, jnp.zeros(blocks * slots, jnp.int32), *counters)


def add_rows(ring: Rows, rows: Arrays) -> Rows:
    """Writes the next row [S, ...] of each environment over the oldest ones. The row before it can be sampled now."""
    blocks, slots = ring.rows['valid'].shape
    newest = (ring.oldest - 1) % blocks
    begun = ring.rows['valid'][newest]  # by the rows before these
    lost = ring.rows['valid'][ring.oldest].sum()  # they are at the head of the list
    head, count = (ring.head + lost) % len(ring.starts), ring.count - lost
    place = (head + count + jnp.cumsum(begun) - 1) % len(ring.starts)
    place = jnp.where(begun, place, len(ring.starts))  # which is outside, and dropped
    starts = ring.starts.at[place].set(newest * slots + jnp.arange(slots), mode='drop')
    # No row has more than n - 1 others before it, so older ones need not be counted.
    age = jnp.where(begun, jnp.minimum(ring.rows['age'][newest] + 1, blocks), 0)
    rows = {k: ring.rows[k].at[ring.oldest].set(new) for k, new in (rows | {'age': age}).items()}
    return Rows(rows, starts, head, count + begun.sum(), (ring.oldest + 1) % blocks)


def rows_count(ring: Rows) -> jax.Array:
    """How many transitions can be sampled, int32."""
    return ring.count


def sample_rows(
    ring: Rows, key: jax.Array, batch_size: int, horizon: int | None = None, frame_stack: int = 1
) -> Arrays:
    """A uniform batch of the transitions in the ring, as `sample` gives, or of windows, as `sample_chunks` does.

    A window ends where its episode does or where the newest rows are reached. Frames that were overwritten are replaced
    by the oldest one of the episode that is still there. While nothing can be sampled, every index reads row 0.
    """
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(ring.count, 1))
    return read_rows(ring, index, horizon, frame_stack)


def read_rows(ring: Rows, index: jax.Array, horizon: int | None = None, frame_stack: int = 1) -> Arrays:
    """The transitions (with a horizon, the windows) `index` [B] of the ring, the oldest being 0."""
    rows = ring.rows
    blocks, slots = rows['valid'].shape

    def one(start):
        block, slot = start // slots, start % slots
        kept = (block - ring.oldest) % blocks  # blocks between the oldest one and this
        left = blocks - 1 - kept  # and from this to the newest one

        def at(n):
            return (block + n) % blocks, slot

        stack = _stack(rows['observations'], at, jnp.minimum(rows['age'][block, slot], kept), frame_stack)
        if horizon:
            n = jnp.arange(horizon)
            goes_on = rows['valid'][at(n)] & (n < left)
            return _window(rows, at, stack, jnp.cumprod(goes_on).sum(), horizon)
        return _transition(rows, at, stack, rows['valid'][at(1)])

    return jax.vmap(one)(ring.starts[(ring.head + index) % len(ring.starts)])


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


def sample_ring(buffer: Ring, key: jax.Array, batch_size: int, horizon: int | None = None, slots: int = 1) -> Arrays:
    """A uniform batch [B, ...] of what was added (row 0 while nothing was); with a horizon, of windows."""
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(ring_size(buffer), 1))
    return read_ring(buffer, index, horizon, slots)


def newest_ring(buffer: Ring, batch_size: int, horizon: int | None = None, slots: int = 1) -> Arrays:
    """The last `batch_size` transitions [B, ...], newest first; with a horizon, the last whole windows.

    Where the ring holds fewer, its oldest one stands for those that are missing.
    """
    back = jnp.arange(batch_size) + ((horizon or 1) - 1) * slots
    back = jnp.minimum(back, jnp.maximum(ring_size(buffer), 1) - 1)
    capacity = jax.tree.leaves(buffer.rows)[0].shape[0]
    return read_ring(buffer, (buffer.added - 1 - back) % capacity, horizon, slots)


def read_ring(buffer: Ring, index: jax.Array, horizon: int | None = None, slots: int = 1) -> Arrays:
    """The transitions at the rows `index` [B]; with a horizon, the windows that they begin, as in `sample_chunks`.

    Windows need rows `ends` [capacity] (bool, the last of an episode for whatever reason) and a capacity that is a
    multiple of `slots`, the number of environments, of which each call of `add` brought one transition each.
    """
    if horizon is None:
        return jax.tree.map(lambda rows: rows[index], buffer.rows)
    capacity = buffer.rows['ends'].shape[0]

    def one(start):
        n = jnp.arange(horizon)
        at = (start + n * slots) % capacity
        later = (buffer.added - 1 - start) % capacity // slots  # steps of this environment after this one
        goes_on = ~buffer.rows['ends'][at] & (n < later)
        steps = 1 + jnp.cumprod(goes_on[:-1]).sum()
        return {
            'observations': buffer.rows['observations'][start],
            **{name: buffer.rows[name][at[jnp.minimum(n, steps - 1)]] for name in ('actions', 'rewards', 'masks')},
            'valid': (n < steps).astype(jnp.float32),
            'next_observations': buffer.rows['next_observations'][at[steps - 1]],
        }

    return jax.vmap(one)(index)


def ring_spec(buffer: Ring, mesh: Mesh) -> Ring:
    """Shardings that lay the rows over the mesh axis `data` where it divides the capacity."""

    def one(leaf):
        even = leaf.ndim and leaf.shape[0] % mesh.shape['data'] == 0
        return NamedSharding(mesh, PartitionSpec('data') if even else PartitionSpec())

    return jax.tree.map(one, buffer)
