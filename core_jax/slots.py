"""Slots: environments in worker processes, which take orders and give outcomes through shared memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from core_jax.env_worker import IDLE, SNAPSHOT, Spaces, records, serve, share
from core_jax.loop import Interrupted
from core_jax.worker_process import WorkerProcess


class Slots:
    """`groups` x `size` environments, one a slot. A group takes its orders together, apart from the other groups.

    The environments are built in the background, one after the other in every worker; the constructor does not wait.

    orders, outcomes: the records of `env_worker.records`, [groups * size]; group g has those at `parts[g]`. They are
        there once `meet` has returned.

    make_env: picklable, without arguments; gives a gymnasium.Env with Box spaces.
    workers: most processes; there are no more than slots.

    Raises UserError where `make_env` cannot be sent to another process. All methods but `close` raise WorkerError when
    an environment raised or its process died, and UserError when one cannot be used; close the slots then.
    """

    orders: np.ndarray
    outcomes: np.ndarray

    def __init__(self, make_env: Callable[[], Any], groups: int, size: int, workers: int):
        self.count = groups * size
        self.parts = [slice(g * size, (g + 1) * size) for g in range(groups)]
        workers = min(workers, self.count)
        # Slot n lives in worker n % workers: each has its share of every group.
        numbers = np.arange(self.count)
        self._slots_of = [
            [[n for n in numbers[part].tolist() if n % workers == i] for i in range(workers)] for part in self.parts
        ]
        self.workers = [
            WorkerProcess(serve, make_env, [part[i] for part in self._slots_of], self.count) for i in range(workers)
        ]
        self._spaces: list[Spaces] = []  # what the workers said when they had built their first environment
        self._shared = False
        self.owed: list[list[WorkerProcess]] = [[] for _ in self.parts]  # by group: who has not answered a signal yet

    @property
    def spaces(self) -> Spaces:
        """Of the environments, which are all alike. There once `meet` has returned."""
        return self._spaces[0]

    def meet(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Waits until every worker has an environment.

        Raises Interrupted when `should_stop` turns true; call it again.
        """
        while len(self._spaces) < len(self.workers):
            self._spaces.append(self._receive(self.workers[len(self._spaces)], should_stop))
        if not self._shared:
            self.orders, self.outcomes = self._share_memory()
            self._shared = True

    def _share_memory(self) -> tuple[np.ndarray, np.ndarray]:
        """Memory without a name, so that nothing is left behind however we die; the workers get it by its handle."""
        with open(os.memfd_create('slots'), 'w+b') as file:
            size = records(self.spaces, self.count)[-1]
            file.truncate(size)
            for worker in self.workers:
                worker.lend(file.fileno())
            return share(mmap.mmap(file.fileno(), size), self.spaces, self.count)

    def signal(self, g: int) -> None:
        """Has every worker carry out its part of this group's orders, where it has any."""
        seeds = self.orders['seed']
        for worker, slots in zip(self.workers, self._slots_of[g], strict=True):
            if (seeds[slots] != IDLE).any():
                worker.signal(bytes([g]))
                self.owed[g].append(worker)

    def collect(self, g: int, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Waits until the workers have carried out the orders of group g. Each answers in the order of its signals.

        Raises Interrupted when `should_stop` turns true; call it again.
        """
        while self.owed[g]:
            self._receive(self.owed[g][0], should_stop)
            self.owed[g].pop(0)

    def snapshot(self) -> list[dict]:
        """What `env_state.snapshot` gives of each slot's environment, while no orders are being carried out."""
        for worker in self.workers:
            worker.signal(bytes([SNAPSHOT]))
        states = {}
        for worker in self.workers:
            states |= worker.receive()
        return [states[slot] for slot in range(self.count)]

    def restore(self, states: list[dict]) -> None:
        """Goes on from what `snapshot` returned, with whatever number of workers."""
        for i, worker in enumerate(self.workers):
            worker.send({slot: states[slot] for part in self._slots_of for slot in part[i]})
        for worker in self.workers:
            worker.receive()

    def _receive(self, worker: WorkerProcess, should_stop: Callable[[], bool]) -> Any:
        while not worker.wait(0.1):
            if should_stop():
                raise Interrupted
        return worker.receive()

    def close(self) -> None:
        """Ends the worker processes and waits until they are gone."""
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.close()
