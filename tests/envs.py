"""Environments for tests. They live in a module of their own because worker processes must be able to import them."""

from __future__ import annotations

import os
import signal
import time

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """A point x on a line, starting in [-1, 1], moves by the action, which must lie in [-0.5, 0.5].

    Observation [x, share of the time that is gone]; reward -|x| after the move. An episode ends with success where
    |x| < 0.05, and after `limit` steps.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 10}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, limit: int = 20, render_mode: str | None = None):
        self.action_space = gymnasium.spaces.Box(-0.5, 0.5, (1,), np.float64)
        self.limit = limit
        self.render_mode = render_mode

    def _observe(self):
        return np.array([self.x, self.steps / self.limit])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 1), 0
        return self._observe(), {}

    def step(self, action):
        assert action.dtype == np.float64 and abs(action[0]) <= 0.5, action
        self.x += float(action[0])
        self.steps += 1
        success = abs(self.x) < 0.05
        return self._observe(), -abs(self.x), success, self.steps >= self.limit, {'success': success}

    def render(self):
        """A red column on white, 64 x 64, where the point is."""
        frame = np.full((64, 64, 3), 255, np.uint8)
        column = int(np.clip(32 + 16 * self.x, 0, 59))
        frame[:, column : column + 4] = (255, 0, 0)
        return frame


class Pictures(gymnasium.Env):
    """Random images [4, 4, 3] of bytes; an episode ends after `limit` steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, limit: int = 5):
        self.limit = limit

    def _observe(self):
        return self.np_random.integers(0, 256, (4, 4, 3)).astype(np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), 0.0, False, self.steps >= self.limit, {}


class Gusty(Walk):
    """A wind from numpy's global generator, at resets too."""

    def reset(self, *, seed=None, options=None):
        self.wind = np.random.uniform(-0.1, 0.1)
        return super().reset(seed=seed)

    def step(self, action):
        self.wind += np.random.uniform(-0.1, 0.1)
        self.x += self.wind
        return super().step(action)


class Sealed(Walk):
    """Holds something that nothing can look into."""

    def __init__(self):
        super().__init__()
        self.stream = (n for n in range(10))


class NoInfo(Walk):
    """Says nothing of success, and shows nothing."""

    def step(self, action):
        return *super().step(action)[:4], {}

    def render(self):
        return None


class Raises(Walk):
    def step(self, action):
        raise ZeroDivisionError('the floor gave way')


class Dies(Walk):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(Walk):
    """Takes half a second to build."""

    def __init__(self):
        time.sleep(0.5)
        super().__init__()


class Endless(Walk):
    """Takes its time, and never ends."""

    def step(self, action):
        time.sleep(0.02)
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


class Discrete(Walk):
    def __init__(self):
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(3)


class BlackBox(Walk):
    """Cannot be rendered."""

    def render(self):
        raise ImportError('libEGL.so.1: cannot open shared object file\nand more')


class MuJoCoBox(Walk):
    """Cannot be rendered by MuJoCo."""

    def render(self):
        import mujoco

        raise mujoco.FatalError('gladLoadGL error')


class Crashes(Walk):
    def render(self):
        os.kill(os.getpid(), signal.SIGSEGV)


def clean_walk():
    """Fails where the process that runs it is not clean of jax or of more threads than one."""
    import sys

    assert 'jax' not in sys.modules
    assert os.environ['OMP_NUM_THREADS'] == '1'
    return Walk()
