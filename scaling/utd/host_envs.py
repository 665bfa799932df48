"""Environments that run on the host: gymnasium's MuJoCo tasks and the dm_control suite, through one door.

    HalfCheetah-v5, Ant-v4        gymnasium ids; the paper's thresholds are for v4
    module:Name-v0                somebody's own: the module is imported, which registers it
    cheetah-run, dmc:cheetah-run  the suite's task `run` of the domain `cheetah`; 1000 steps, no action is repeated

Actions are in [-1, 1]. An episode that ends by its time limit is truncated, never terminated: all of the suite's are.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from core_jax.errors import UserError, unknown


def factory(name: str) -> Callable[[], gymnasium.Env]:
    """A picklable function without arguments that makes the environment called so.

    Raises UserError, with the nearest name, where there is none.
    """
    prefix, _, rest = name.rpartition(':')
    if prefix == 'dmc' or (not prefix and _is_suite(name)):
        domain, task = _suite_names()[_known(rest, _suite_names())]
        return functools.partial(make_suite, domain, task)
    if prefix and prefix != 'dmc':
        try:
            importlib.import_module(prefix)
        except ImportError as error:
            raise UserError(f'cannot find environment {name!r}: {error}') from error
    if rest in gymnasium.registry:
        return functools.partial(make_gymnasium, name)
    from scaling.utd import analytic

    raise unknown('environment', name, [*analytic.ENVIRONMENTS, *_suite_names(), *_gymnasium_names()])


def _known(name: str, names: dict) -> str:
    if name not in names:
        raise unknown('task of the dm_control suite', name, names)
    return name


def _is_suite(name: str) -> bool:
    return name in _suite_names()


@functools.cache
def _suite_names() -> dict[str, tuple[str, str]]:
    """'cheetah-run': ('cheetah', 'run'), of all tasks of the suite."""
    from dm_control import suite

    return {f'{domain}-{task}'.replace('_', '-'): (domain, task) for domain, task in suite.ALL_TASKS}


def _gymnasium_names() -> list[str]:
    """MuJoCo's, in the versions that do not need mujoco-py."""
    return [name for name in gymnasium.registry if name.endswith(('-v4', '-v5'))]


def make_gymnasium(name: str) -> gymnasium.Env:
    """A gymnasium environment with actions in [-1, 1]. Raises UserError where its spaces are no Boxes of vectors."""
    env = gymnasium.make(name)
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        raise UserError(f'{name} has actions {env.action_space}; only continuous ones can be learned here')
    if not isinstance(env.observation_space, gymnasium.spaces.Box) or len(env.observation_space.shape) != 1:
        raise UserError(f'{name} has observations {env.observation_space}; only vectors can be learned from here')
    return gymnasium.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))


def make_suite(domain: str, task: str) -> gymnasium.Env:
    return SuiteEnv(domain, task)


class SuiteEnv(gymnasium.Env):
    """A task of the dm_control suite: observations in the suite's order as one vector, rewards in [0, 1]."""

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 50}
    render_mode = 'rgb_array'

    def __init__(self, domain: str, task: str):
        from dm_control import suite

        self._env = suite.load(domain, task, task_kwargs={'random': 0})
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum.astype(np.float64), spec.maximum.astype(np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        size = sum(int(np.prod(part.shape)) for part in self._env.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed % 2**32)  # the generator that the task draws from
        return self._flat(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        wanted = self._low + (np.clip(action, -1.0, 1.0) + 1.0) / 2.0 * (self._high - self._low)
        found = self._env.step(wanted)
        terminated = found.last() and found.discount == 0.0
        return self._flat(found.observation), float(found.reward), terminated, found.last() and not terminated, {}

    def render(self) -> np.ndarray:
        return self._env.physics.render(240, 320, camera_id=0)

    @staticmethod
    def _flat(observation: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.ravel(part) for part in observation.values()])
