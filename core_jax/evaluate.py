"""Batched roll-outs of a policy in gymnasium environments that live in worker processes.

The slots (one environment each) form two groups. While the workers step one group, the parent computes the other
group's actions in one batched call, so that neither waits for the other. The groups take turns strictly and every slot
takes the next episode as it falls free, so the outcome depends on the seed, the key and the number of slots alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.env_worker import Outcome, serve
from core_jax.loop import Interrupted
from core_jax.worker_process import WorkerProcess

# act(memory, observations [B, ...] float32, key) -> (memory, actions [B, A] numpy)
Act = Callable[[Any, np.ndarray, jax.Array], tuple[Any, np.ndarray]]


class Episodes(NamedTuple):
    """What `Evaluator.run` measured, by episode: arrays of shape [n].

    returns: undiscounted sums of rewards; lengths: steps; successes: the last info['success'], NaN where there is none.
    """

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray


class Evaluator:
    """Environments in worker processes, kept from one evaluation to the next. Use it as a context manager or close it.

    The environments are built in the background, one after the other in every worker; the constructor does not wait.

    make_env: picklable, without arguments; gives a gymnasium.Env with Box spaces whose episodes end by themselves.
    workers: processes, by default one a core (fewer where there are fewer slots).
    envs: slots in all, by default four a worker; rounded up to an even number above one. More slots share the cost of
        an action call; fewer are built sooner and leave less of a tail in which only the last episodes run. More than
        there are episodes are never used.

    Raises UserError where `make_env` cannot be sent to another process.
    """

    def __init__(self, make_env: Callable[[], Any], *, workers: int | None = None, envs: int | None = None):
        workers = workers or len(os.sched_getaffinity(0))
        envs = envs or 4 * workers
        groups = min(envs, 2)
        self.batch_size = -(-envs // groups)
        numbers = np.arange(groups * self.batch_size)
        # Slot n lives in worker n % workers: each has its share of both groups.
        workers = min(workers, len(numbers))
        self._workers = [WorkerProcess(serve, make_env, numbers[i::workers].tolist()) for i in range(workers)]
        self._groups = [_Group(part) for part in np.split(numbers, groups)]
        self._fold_in = jax.jit(jax.random.fold_in)

    @property
    def slots(self) -> int:
        """Environments in all; `act` sees `batch_size` of them at a time."""
        return sum(len(group.numbers) for group in self._groups)

    def run(
        self,
        act: Act,
        *,
        episodes: int,
        seed: int,
        key: jax.Array,
        memory: Any = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Episodes:
        """Rolls out `episodes` whole episodes, the i-th always from the same environment seed.

        act(memory, observations [B, ...] float32, key) -> (memory, actions [B, A] numpy) with B = `batch_size`. Rows of
            slots that have nothing to do are computed and ignored. Actions are clipped to the action space.
        memory: what `act` remembers of a fresh episode, every leaf with leading axis B; a row returns to it when its
            slot starts another episode.
        key: the n-th call of `act` gets fold_in(key, n).
        should_stop: asked at every step.

        Raises Interrupted when `should_stop` turns true (the evaluator stays usable), WorkerError when an environment
        raised or its process died, and UserError when one cannot be built; after these two the evaluator is closed.
        """
        if not self._workers:
            raise RuntimeError('the evaluator is closed')
        result = Episodes(np.zeros(episodes), np.zeros(episodes, np.int64), np.full(episodes, np.nan))
        queue = iter([(i, episode_seed(seed, i)) for i in range(episodes)])
        for group in self._groups:
            self._receive(group, should_stop)  # what an interrupted run left behind
        for group in self._groups:
            group.begin(memory, queue)
            self._send(group)
        calls = 0
        while any(group.asked for group in self._groups):
            for group in self._groups:
                if should_stop():
                    raise Interrupted
                for row, outcome in self._receive(group, should_stop):
                    group.record(row, outcome, result, queue)
                if group.needs_actions():
                    group.act(act, self._fold_in(key, np.uint32(calls)))
                    calls += 1
                self._send(group)
        return result

    def _send(self, group: _Group) -> None:
        """Gives every worker its orders for the slots of this group that have an episode."""
        count = len(self._workers)
        for i, worker in enumerate(self._workers):
            rows = [row for row, number in enumerate(group.numbers) if number % count == i and group.busy(row)]
            if rows:
                worker.send([group.order(row) for row in rows])
                group.asked.append((worker, rows))

    def _receive(self, group: _Group, should_stop: Callable[[], bool]) -> list[tuple[int, Outcome]]:
        """The answers to `_send`, by row of the group. A worker answers in the order in which it was asked."""
        answers = []
        while group.asked:
            worker, rows = group.asked[0]
            while not worker.poll(0.1):
                if should_stop():
                    raise Interrupted
            try:
                answers += zip(rows, worker.receive(), strict=True)
            except Exception:
                self.close()
                raise
            group.asked.pop(0)
        return answers

    def close(self) -> None:
        """Ends the worker processes and waits until they are gone."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Group:
    """The slots that act together: what each is doing, in rows of length B."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers.tolist()
        self.asked: list[tuple[WorkerProcess, list[int]]] = []  # who owes an answer, and for which rows
        self.observations: np.ndarray | None = None

    def begin(self, memory: Any, queue: Iterator[tuple[int, int]]) -> None:
        """Forgets the run before this one and takes the first episodes."""
        self.memory = self.initial = memory
        self.restarted = np.zeros(len(self.numbers), bool)  # rows whose episode began since the last act
        self.episodes: list[int | None] = [None] * len(self.numbers)
        self.seeds: list[int | None] = [None] * len(self.numbers)  # set where the next order is a reset
        self.actions: np.ndarray | None = None
        for row in range(len(self.numbers)):
            self.take(row, queue)

    def take(self, row: int, queue: Iterator[tuple[int, int]]) -> None:
        self.episodes[row], self.seeds[row] = next(queue, (None, None))

    def busy(self, row: int) -> bool:
        return self.episodes[row] is not None

    def order(self, row: int) -> tuple[int, int | None, np.ndarray | None]:
        """(slot, seed, action) for `env_worker.serve`: a reset where there is a seed, else a step."""
        seed = self.seeds[row]
        return self.numbers[row], seed, None if seed is not None else self.actions[row]

    def record(self, row: int, outcome: Outcome, result: Episodes, queue: Iterator[tuple[int, int]]) -> None:
        """Notes the outcome of a row's last order; where that ended its episode, takes the next one."""
        if self.observations is None:
            self.observations = np.zeros((len(self.numbers), *outcome.observation.shape), np.float32)
        self.observations[row] = outcome.observation
        if self.seeds[row] is not None:
            self.seeds[row], self.restarted[row] = None, True
            return
        episode = self.episodes[row]
        result.returns[episode] += outcome.reward
        result.lengths[episode] += 1
        if outcome.done:
            result.successes[episode] = outcome.success
            self.take(row, queue)

    def needs_actions(self) -> bool:
        return any(self.busy(row) and self.seeds[row] is None for row in range(len(self.numbers)))

    def act(self, act: Act, key: jax.Array) -> None:
        """One batched call, in which the memory of rows with a new episode is the initial one."""
        if self.restarted.any() and self.memory is not self.initial:
            self.memory = _restart(self.memory, self.initial, self.restarted)
        self.restarted[:] = False
        # A copy: the memory may keep the array, and jax may share its buffer.
        self.memory, actions = act(self.memory, self.observations.copy(), key)
        self.actions = np.asarray(actions)


def episode_seed(seed: int, episode: int) -> int:
    """The environment seed of an episode: 31 well-mixed bits, so that neighbouring seeds share no episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0] >> 1)


@jax.jit
def _restart(memory: Any, initial: Any, rows: jax.Array) -> Any:
    """`memory` with `rows` [B] (bool) of every leaf as in `initial`."""

    def restart(leaf, first):
        return jnp.where(rows.reshape(-1, *(1,) * (leaf.ndim - 1)), first, leaf)

    return jax.tree.map(restart, memory, initial)
