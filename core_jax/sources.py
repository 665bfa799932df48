"""Sources of batches for the drivers: an offline dataset, a stream from the host, replays filled from the host."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core_jax import replay
from core_jax.driver import Source
from core_jax.host_driver import Feed

PyTree = Any


def offline(
    dataset: dict,
    batch_size: int,
    *,
    horizon: int = 1,
    frame_stack: int = 1,
    augment: Callable[[jax.Array, dict], dict] | None = None,
) -> Source:
    """Uniform transitions of a dataset on the device (`replay.place_dataset`), or of its shapes (`dataset_spec`).

    horizon > 1: windows, as `replay.sample_chunks` gives them. augment(key, batch) -> batch has the last word.
    """

    def sample(constants, data, state, key):
        index = jax.random.randint(key, (batch_size,), 0, replay.count(constants))
        return data, _augmented(augment, key, replay.read(constants, index, _window(horizon), frame_stack))

    return Source(dataset, _example(sample, dataset, ()), sample)


def online_rows(
    example_row: dict,
    *,
    slots: int,
    capacity: int,
    batch_size: int,
    dataset: dict | None = None,
    balanced: bool = False,
    horizon: int = 1,
    frame_stack: int = 1,
    augment: Callable[[jax.Array, dict], dict] | None = None,
) -> Source:
    """Batches from an offline dataset and from a ring that the feed fills with the rows [S, ...] of S environments.

    Uniform over the transitions of both together; if `balanced`, batch_size // 2 of them are offline and the others
    online. Until the ring has a transition everything comes from the dataset, or is its row 0 where there is none.
    The dataset stays as it is and is not saved. Further arguments as for `offline`; with a frame_stack, rows may bring
    stacked observations, of which the newest frame is kept: `example_row` has a single one.
    """
    if balanced and dataset is None:
        raise ValueError('balanced batches need a dataset')
    window = _window(horizon)

    def draw(constants, ring, key):
        if dataset is None:
            return replay.sample_rows(ring, key, batch_size, window, frame_stack)
        offline, online = replay.count(constants), replay.rows_count(ring)
        if balanced:
            offline_key, online_key = jax.random.split(key)
            index = jax.random.randint(offline_key, (batch_size,), 0, offline)
            online_index = jax.random.randint(online_key, (batch_size,), 0, jnp.maximum(online, 1))
            from_ring = (jnp.arange(batch_size) >= batch_size // 2) & (online > 0)
        else:
            index = jax.random.randint(key, (batch_size,), 0, offline + online)
            online_index = jnp.maximum(index - offline, 0)
            from_ring = index >= offline
        old = replay.read(constants, jnp.minimum(index, offline - 1), window, frame_stack)
        new = replay.read_rows(ring, online_index, window, frame_stack)
        return jax.tree.map(lambda new, old: jax.vmap(jnp.where)(from_ring, new, old), new, old)

    def sample(constants, data, state, key):
        return data, _augmented(augment, key, draw(constants, data, key))

    def receive(ring, rows):
        if frame_stack > 1:
            channels = jnp.shape(example_row['observations'])[-1]
            rows = rows | {'observations': rows['observations'][..., -channels:]}
        return replay.add_rows(ring, rows)

    def init(key):
        return replay.rows_ring(example_row, capacity, slots)

    constants = () if dataset is None else dataset
    return Source(constants, _example(sample, constants, jax.eval_shape(init, None)), sample, init, receive)


def _window(horizon: int) -> int | None:
    return horizon if horizon > 1 else None


def _augmented(augment: Callable | None, key: jax.Array, batch: dict) -> dict:
    return batch if augment is None else augment(jax.random.fold_in(key, 1), batch)


def _example(sample: Callable, constants: PyTree, data: PyTree) -> PyTree:
    """Shapes and dtypes of a batch."""

    def batch(constants, data, key):
        return sample(constants, data, None, key)[1]

    return jax.eval_shape(batch, constants, data, jax.random.key(0))


def stream(example_batch: PyTree) -> Source:
    """Each batch that the feed brings is used once, in order."""

    def sample(constants, data, state, key):
        return data, data

    def init(key):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example_batch)

    return Source((), example_batch, sample, init)


def online(example_transition: dict, capacity: int, batch_size: int) -> Source:
    """A ring buffer that the feed fills with transitions [n, ...]; uniform batches from it."""

    def sample(constants, data, state, key):
        return data, replay.sample_ring(data, key, batch_size)

    one = replay.ring(example_transition, 1)
    example = jax.eval_shape(lambda: replay.sample_ring(one, jax.random.key(0), batch_size))
    return Source((), example, sample, lambda key: replay.ring(example_transition, capacity), replay.add)


class Prefetch:
    """A feed read ahead of the device by a thread, for streams that do not ask the policy.

    The position that is saved is the one after the last batch handed out, so batches that wait here are read again
    after a resume, and none is lost or repeated. An error of the stream is raised where the batch would have come.
    """

    def __init__(self, feed: Feed, depth: int = 2):
        self._feed, self._depth = feed, depth
        self._position = feed.get_state()
        self._start()

    def _start(self) -> None:
        self._items: queue.Queue = queue.Queue(self._depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(self._items, self._stop), daemon=True)
        self._thread.start()

    def _read(self, items: queue.Queue, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                batch, steps = self._feed.next(_no_policy)
                item = (batch, steps, self._feed.get_state(), None)
            except BaseException as error:  # handed to the thread that waits for the batch
                item = (None, 0, None, error)
            while not stop.is_set():
                try:
                    items.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if item[3] is not None:
                return

    def next(self, act: Callable) -> tuple[PyTree, int]:
        batch, steps, position, error = self._items.get()
        if error is not None:
            raise error
        self._position = position
        return batch, steps

    def get_state(self) -> Any:
        return self._position

    def set_state(self, state: Any) -> None:
        self.close()
        self._feed.set_state(state)
        self._position = state
        self._start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()


def _no_policy(observations, fresh):
    raise TypeError('a feed that asks the policy cannot be read ahead of it')
