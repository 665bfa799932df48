"""Probe environments: small enough to know every value in closed form, each one asking a single thing of a learner.

After the practice that rejax made public (keraJLi/rejax, tests/environments.py). Observations and actions have one
dimension in all of them, so that one compiled learner serves all. A `core_jax.host_driver.Feed`, in
plain NumPy: it steps `slots` copies at once and brings their transitions.

    constant      reward 1                         can the critic fit a number?          Q = 1
    observation   reward o, for o = -1 or 1        ... a function of the observation?    Q(o) = o
    discounting   o = 0, then o = 1 and reward 1   does it bootstrap?                    Q(0) = discount, Q(1) = 1
    action        reward a                         does the policy climb the critic?     Q(a) = a, best 1
    both          reward o * a, o = -1 or 1        ... depending on the observation?     Q(o, a) = o * a, best o
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EXAMPLE = {
    'observations': np.zeros(1, np.float32),
    'actions': np.zeros(1, np.float32),
    'rewards': np.float32(0),
    'masks': np.float32(0),
    'next_observations': np.zeros(1, np.float32),
}


class Probe(NamedTuple):
    """first: the observations that an episode may begin with; all arrays below are [slots]."""

    first: tuple[float, ...]
    reward: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of observations and actions
    last: float | None = None  # where an episode has two steps, the observation of the second


PROBES = {
    'constant': Probe((0.0,), lambda o, a: np.ones_like(o)),
    'observation': Probe((-1.0, 1.0), lambda o, a: o),
    'discounting': Probe((0.0,), lambda o, a: o, last=1.0),
    'action': Probe((0.0,), lambda o, a: a),
    'both': Probe((-1.0, 1.0), lambda o, a: o * a),
}


class ProbeFeed:
    """`slots` copies of a probe, stepped together. Each call of `next` brings `slots` transitions."""

    def __init__(self, name: str, slots: int = 16, seed: int = 0):
        self.probe = PROBES[name]
        self._rng = np.random.default_rng(seed)
        self._observations, self._fresh = self._begin(slots), np.ones(slots, bool)

    def _begin(self, count: int) -> np.ndarray:
        return self._rng.choice(self.probe.first, count).astype(np.float32)

    def next(self, act: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[dict, int]:
        before = self._observations
        actions = act(before[:, None], self._fresh)
        last = self.probe.last
        done = np.ones_like(before) if last is None else np.float32(before == last)
        after = before if last is None else np.full_like(before, last)
        transitions = {
            'observations': before[:, None],
            'actions': actions,
            'rewards': self.probe.reward(before, actions[:, 0]).astype(np.float32),
            'masks': 1.0 - done,
            'next_observations': after[:, None],
        }
        self._observations, self._fresh = np.where(done, self._begin(len(before)), after), done > 0
        return transitions, len(before)

    def get_state(self) -> dict:
        rows = {'observations': self._observations.tolist(), 'fresh': self._fresh.tolist()}
        return rows | {'rng': self._rng.bit_generator.state}

    def set_state(self, state: dict) -> None:
        self._rng.bit_generator.state = state['rng']
        self._observations, self._fresh = np.float32(state['observations']), np.array(state['fresh'])
