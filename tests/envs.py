"""Environments for tests. They live in a module because worker processes must be able to import them."""

from __future__ import annotations

import os
import time

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """Position on a line: x starts in [-1, 1] and moves by the action, clipped to [-0.5, 0.5].

    The reward is -|x|. An episode ends at |x| < 0.05 with success, or without after `limit` steps.
    """

    metadata = {'render_modes': ['rgb_array']}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, limit: int = 20, render_mode: str | None = None):
        self.action_space = gymnasium.spaces.Box(-0.5, 0.5, (1,), np.float32)
        self.limit = limit
        self.render_mode = render_mode

    def _observe(self):
        return np.array([self.x, self.steps / self.limit])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 1), 0
        return self._observe(), {}

    def step(self, action):
        assert action.dtype == np.float32 and abs(action[0]) <= 0.5
        self.x += float(action[0])
        self.steps += 1
        success = abs(self.x) < 0.05
        return self._observe(), -abs(self.x), success, self.steps >= self.limit, {'success': success}
