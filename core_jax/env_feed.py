"""Environments that feed an online run, and whose state resumes exactly.

Environments   a row of every slot at each call; an episode's last observation is a row of its own
Transitions    a whole transition of every slot at each call, the true next observation included
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from core_jax import env_state
from core_jax.env_worker import IDLE, STEP, Spaces
from core_jax.errors import UserError
from core_jax.evaluate import episode_seed
from core_jax.slots import Slots
from core_jax.worker_process import WorkerError

# act(observations [S, ...] float32 or uint8, fresh [S] bool) -> actions [S, A]; fresh rows begin an episode
Act = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Environments:
    """S environments in worker processes; a `host_driver.Feed`. Use it as a context manager or close it.

    Every slot takes the next episode when its own has ended. What comes depends on the seed, the number of slots and
    the actions, not on the number of workers.

    make_env: picklable, without arguments; gives a gymnasium.Env with Box spaces.
    seed: the n-th episode is reset with `evaluate.episode_seed(seed, n)`. (An evaluation with the same seed has the
        same episodes.)
    workers: processes, by default one a core; there are no more than slots.

    Raises UserError where `make_env` cannot be sent to another process. Methods raise WorkerError when an environment
    raised or its process died, and UserError when one cannot be used; after these the environments are closed.
    """

    def __init__(self, make_env: Callable[[], Any], *, slots: int, seed: int, workers: int | None = None):
        self.slots, self._seed = slots, seed
        self._slots = Slots(make_env, 1, slots, workers or len(os.sched_getaffinity(0)))
        self._begun = False
        self._state: dict[str, Any] = {
            'episodes': 0,  # given out so far
            'observations': None,  # [S, ...]: what every slot shows
            'ended': np.zeros(slots, bool),  # slots that show the last observation of an episode
            'fresh': np.zeros(slots, bool),  # slots that show the first one
            'returns': np.zeros(slots),  # of the episodes that are under way
            'lengths': np.zeros(slots, np.int64),
            'finished': [],  # (return, length, success) of the episodes that no call of `metrics` has had
        }

    @property
    def spaces(self) -> Spaces:
        """Of one environment; the first look waits until the workers have built one."""
        self._guard(self._slots.meet)
        return self._slots.spaces

    def next(self, act: Act) -> tuple[dict[str, np.ndarray], int]:
        """Steps every slot once, or resets it where its episode has ended. Returns a row for each, and the steps taken.

        A row: observations [S, ...] (float32 or uint8), actions [S, A] float32 (clipped to the space), rewards [S]
        float32, masks [S] float32 (0 where the episode terminated, 1 also at a time limit), valid [S] bool.

        valid: the row is a transition that begins in its observation; it leads to the observation of the slot's next
        row. After the last transition of an episode comes one row that is not valid, with the final observation and
        all else zero.

        Where `act` raises, nothing has changed.
        """
        self._begin()
        state = self._state
        valid = ~state['ended']
        actions = self._actions(act, valid)

        orders, outcomes = self._slots.orders, self._slots.outcomes
        orders['action'], orders['seed'] = actions, STEP
        self._carry_out(resets=state['ended'])
        done = valid & outcomes['done']
        terminated = valid & outcomes['terminated']
        rewards = np.where(valid, outcomes['reward'], 0.0)
        rows = {
            'observations': state['observations'],
            'actions': actions,
            'rewards': rewards.astype(np.float32),
            'masks': (valid & ~terminated).astype(np.float32),
            'valid': valid,
        }
        state['observations'] = outcomes['observation'].copy()
        state['fresh'], state['ended'] = ~valid, done
        state['returns'] += rewards
        state['lengths'] += valid
        for slot in np.flatnonzero(done):
            episode = (state['returns'][slot], state['lengths'][slot], outcomes['success'][slot])
            state['finished'].append(tuple(map(float, episode)))
        state['returns'][done] = state['lengths'][done] = 0
        return rows, int(valid.sum())

    def metrics(self) -> dict[str, float]:
        """Means over the episodes that ended since the last call: 'online/return', 'online/length' (steps) and, where
        the environment says so, 'online/success'. Empty where none did.
        """
        finished, self._state['finished'] = self._state['finished'], []
        columns = dict(
            zip(('online/return', 'online/length', 'online/success'), zip(*finished, strict=True), strict=False)
        )
        told = {name: [value for value in values if not np.isnan(value)] for name, values in columns.items()}
        return {name: float(np.mean(values)) for name, values in told.items() if values}

    def get_state(self) -> dict:
        """JSON-able: the environments and all that is known of their episodes."""
        self._begin()
        return {'environments': self._guard(self._slots.snapshot), 'episodes': env_state.pack(self._state)}

    def set_state(self, state: dict) -> None:
        """Goes on exactly from what `get_state` returned.

        Raises UserError where it was of another number of slots or of other environments.
        """
        if len(state['environments']) != self.slots:
            raise UserError(f'the run was saved with {len(state["environments"])} environments, not {self.slots}')
        self._guard(self._slots.meet)
        self._guard(self._slots.restore, state['environments'])
        self._state, self._begun = env_state.unpack(state['episodes']), True

    def _begin(self) -> None:
        """Resets every slot, the first time."""
        if self._begun:
            return
        self._guard(self._slots.meet)
        everyone = np.ones(self.slots, bool)
        self._carry_out(resets=everyone)
        self._state['observations'] = self._slots.outcomes['observation'].copy()
        self._state['fresh'] = everyone
        self._begun = True

    def _actions(self, act: Act, valid: np.ndarray) -> np.ndarray:
        """What every slot is to do, [S, A] float32; zero where it is to be reset."""
        shape = self._slots.orders['action'].shape
        if not valid.any():
            return np.zeros(shape, np.float32)
        wanted = np.asarray(act(self._state['observations'].copy(), self._state['fresh'].copy()), np.float32)
        if wanted.shape != shape:
            raise ValueError(f'act gave actions {wanted.shape}, not {shape}')
        actions = np.clip(wanted, self.spaces.low, self.spaces.high)
        actions[~valid] = 0
        return actions

    def _carry_out(self, resets: np.ndarray) -> None:
        """Has the workers carry out the orders, which in the slots `resets` are to begin the next episodes."""
        for slot in np.flatnonzero(resets):
            self._slots.orders['seed'][slot] = episode_seed(self._seed, self._state['episodes'])
            self._state['episodes'] += 1
        self._guard(self._slots.signal, 0)
        self._guard(self._slots.collect, 0)

    def _guard(self, function: Callable, *arguments: Any) -> Any:
        """Calls a method of the slots; closes them where it leaves them in a state that is unknown."""
        if not self._slots.workers:
            raise RuntimeError('the environments are closed')
        try:
            return function(*arguments)
        except (KeyboardInterrupt, SystemExit, WorkerError, UserError):
            self.close()
            raise

    def close(self) -> None:
        """Ends the worker processes and waits until they are gone."""
        self._slots.close()

    def __enter__(self) -> Environments:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Transitions(Environments):
    """Whole transitions of M members with S environments each, for populations: all clocks stay the same.

    An episode that has ended is reset within the call, so that a call is exactly one step of every environment. Slots
    are numbered member by member; all else as for `Environments`.
    """

    def __init__(self, make_env: Callable[[], Any], *, members: int, slots: int, seed: int, workers: int | None = None):
        super().__init__(make_env, slots=members * slots, seed=seed, workers=workers)
        self.members = members

    def next(self, act: Act) -> tuple[dict[str, np.ndarray], int]:
        """Steps every slot once. Returns a transition of each, and the steps taken.

        observations, next_observations [M * S, ...] (float32 or uint8), actions [M * S, A] float32 (clipped to the
        space), rewards [M * S] float32, masks [M * S] float32 (0 where the episode terminated, 1 also at a time limit),
        ends [M * S] bool (the last transition of its episode).
        """
        self._begin()
        state, everyone = self._state, np.ones(self.slots, bool)
        actions = self._actions(act, everyone)
        orders, outcomes = self._slots.orders, self._slots.outcomes
        orders['action'], orders['seed'] = actions, STEP
        self._carry_out(resets=~everyone)
        ends, rewards = outcomes['done'].copy(), outcomes['reward'].astype(np.float32)
        reached = outcomes['observation'].copy()
        rows = {
            'observations': state['observations'],
            'actions': actions,
            'rewards': rewards,
            'masks': (~(ends & outcomes['terminated'])).astype(np.float32),
            'ends': ends,
            'next_observations': reached,
        }
        self._note_ends(ends, outcomes)
        if ends.any():
            orders['seed'][~ends] = IDLE
            self._carry_out(resets=ends)
        observations = np.where(ends.reshape(-1, *(1,) * (reached.ndim - 1)), outcomes['observation'], reached)
        state['observations'], state['fresh'] = observations, ends
        return rows, self.slots

    def _note_ends(self, ends: np.ndarray, outcomes: np.ndarray) -> None:
        state = self._state
        state['returns'] += outcomes['reward']
        state['lengths'] += 1
        for slot in np.flatnonzero(ends):
            episode = state['returns'][slot], state['lengths'][slot], outcomes['success'][slot]
            state['finished'].append((int(slot) // (self.slots // self.members), *map(float, episode)))
        state['returns'][ends] = state['lengths'][ends] = 0

    def metrics(self) -> dict[str, np.ndarray]:
        """By member [M]: means over its episodes that ended since the last call, NaN where none did."""
        finished, self._state['finished'] = self._state['finished'], []
        told = {}
        for column, name in enumerate(('online/return', 'online/length', 'online/success'), 1):
            values = [[e[column] for e in finished if e[0] == member] for member in range(self.members)]
            told[name] = np.array([np.mean(v) if v else np.nan for v in values])
        if np.isnan(told['online/success']).all():
            del told['online/success']
        return told
