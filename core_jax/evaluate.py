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

from core_jax.env_worker import IDLE, STEP, Spaces
from core_jax.errors import UserError
from core_jax.loop import Interrupted
from core_jax.slots import Slots
from core_jax.worker_process import WorkerError

# act(memory, observations [B, ...] float32 or uint8, key) -> (memory, actions [B, A] numpy)
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
        self._slots = Slots(make_env, groups, self.batch_size, workers)
        self.slots = self._slots.count
        self._fold_in = jax.jit(jax.random.fold_in)

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

        act(memory, observations [B, ...], key) -> (memory, actions [B, A] numpy) with B = `batch_size`. Observations
            are float32, or uint8 where the environment's are. Rows of slots that have nothing to do are computed and
            ignored. Actions are clipped to the action space.
        memory: what `act` remembers of a fresh episode, every leaf with leading axis B; a row returns to it when its
            slot starts another episode.
        key: the n-th call of `act` gets fold_in(key, n).
        should_stop: asked at every step.

        Raises Interrupted when `should_stop` turns true, and what `act` raises; the evaluator stays usable. Raises
        WorkerError when an environment raised or its process died, and UserError when one cannot be used; after these,
        as after a KeyboardInterrupt, the evaluator is closed.
        """
        try:
            return self._run(act, episodes, seed, key, memory, should_stop)
        except (KeyboardInterrupt, SystemExit, WorkerError, UserError):
            # The first two may come between a message and the note of it; who owes what is then unknown.
            self.close()
            raise

    def _run(self, act: Act, episodes: int, seed: int, key: jax.Array, memory: Any, should_stop: Callable) -> Episodes:
        slots = self._slots
        if not slots.workers:
            raise RuntimeError('the evaluator is closed')
        slots.meet(should_stop)
        for g in range(len(slots.parts)):
            slots.collect(g, should_stop)  # what the workers still owe to an interrupted run
        result = Episodes(np.zeros(episodes), np.zeros(episodes, np.int64), np.full(episodes, np.nan))
        queue = iter([(i, episode_seed(seed, i)) for i in range(episodes)])
        groups = [_Group(slots.orders[part], slots.outcomes[part], memory) for part in slots.parts]
        for g, group in enumerate(groups):
            for row in range(self.batch_size):
                group.take(row, queue)
            slots.signal(g)
        calls = 0
        while any(slots.owed):
            for g, group in enumerate(groups):
                if should_stop():
                    raise Interrupted
                if not slots.owed[g]:
                    continue
                slots.collect(g, should_stop)
                group.note(result, queue)
                if group.needs_actions():
                    group.act(act, self._fold_in(key, np.uint32(calls)), slots.spaces)
                    calls += 1
                slots.signal(g)
        return result

    def close(self) -> None:
        """Ends the worker processes and waits until they are gone."""
        self._slots.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Group:
    """The slots that act together, and which episode each is in. Every array has a leading axis B, a row a slot."""

    def __init__(self, orders: np.ndarray, outcomes: np.ndarray, memory: Any):
        self.orders, self.outcomes = orders, outcomes  # views of the shared memory
        self.memory = self.initial = memory
        self.fresh = np.zeros(len(orders), bool)  # rows whose episode began since the last action
        self.episodes = np.full(len(orders), -1)

    def take(self, row: int, queue: Iterator[tuple[int, int]]) -> None:
        """Gives the row the next episode, or nothing to do where there is none left."""
        self.episodes[row], self.orders['seed'][row] = next(queue, (-1, IDLE))

    def note(self, result: Episodes, queue: Iterator[tuple[int, int]]) -> None:
        """Adds up what the last orders gave; rows whose episode ended take another."""
        seeds = self.orders['seed']
        stepped = np.flatnonzero(seeds == STEP)
        self.fresh |= seeds >= 0
        seeds[seeds >= 0] = STEP
        episodes = self.episodes[stepped]
        result.returns[episodes] += self.outcomes['reward'][stepped]
        result.lengths[episodes] += 1
        for row in stepped[self.outcomes['done'][stepped]]:
            result.successes[self.episodes[row]] = self.outcomes['success'][row]
            self.take(row, queue)

    def needs_actions(self) -> bool:
        return bool((self.orders['seed'] == STEP).any())

    def act(self, act: Act, key: jax.Array, spaces: Spaces) -> None:
        """Orders what the policy wants. The rows of fresh episodes remember what they do at first."""
        if self.fresh.any() and self.memory is not self.initial:
            self.memory = _restart(self.memory, self.initial, self.fresh)
        self.fresh[:] = False
        # A copy: the memory may keep the array.
        self.memory, actions = act(self.memory, self.outcomes['observation'].copy(), key)
        if np.shape(actions) != self.orders['action'].shape:
            raise ValueError(f'act gave actions {np.shape(actions)}, not {self.orders["action"].shape}')
        self.orders['action'] = np.clip(actions, spaces.low, spaces.high)


def episode_seed(seed: int, episode: int) -> int:
    """The environment seed of an episode: 31 well-mixed bits, so that neighbouring seeds share no episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0] >> 1)


@jax.jit
def _restart(memory: Any, initial: Any, rows: jax.Array) -> Any:
    """`memory` with `rows` [B] (bool) of every leaf as in `initial`."""

    def restart(leaf, first):
        return jnp.where(rows.reshape(-1, *(1,) * (leaf.ndim - 1)), first, leaf)

    return jax.tree.map(restart, memory, initial)
