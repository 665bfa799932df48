"""Sources of batches for the drivers: an offline dataset, a stream from the host, a replay filled from the host."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core_jax import replay
from core_jax.driver import Feed, Source

PyTree = Any


def offline(dataset: dict, batch_size: int) -> Source:
    """Uniform transitions of a dataset on the device (`replay.place_dataset`), or of its shapes (`dataset_spec`)."""

    def sample(constants, data, state, key):
        return data, replay.sample(constants, key, batch_size)

    example = jax.eval_shape(lambda data, key: replay.sample(data, key, batch_size), dataset, jax.random.key(0))
    return Source(dataset, example, sample)


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


def _no_policy(observations):
    raise TypeError('a feed that asks the policy cannot be read ahead of it')
