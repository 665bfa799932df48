"""Environments built the same way for collecting, relabelling, evaluating and filming."""

from __future__ import annotations

import contextlib
import os
import warnings

import gymnasium
import numpy as np

from core_jax.errors import UserError
from fql_jax import tasks

FILM_SIZE = 320  # pixels, square


def make(gym_id: str, *, render: bool = False, frame_stack: int = 1, **kwargs) -> gymnasium.Env:
    """A seedable environment with float32 observations and actions in [-1, 1]; `kwargs` go to its constructor.

    With pictures, observations are uint8 [H, W, 3 * frame_stack], see `Stacked`.
    Raises UserError where it cannot be built, and ImportError where `render` is asked for and EGL is not installed.
    """
    pixels = gym_id.startswith('visual-')
    with _quiet():
        import ogbench  # noqa: F401  (registers its environments)

        if render or pixels:
            try:
                _render_offscreen()
            except ImportError as error:
                if render:
                    raise
                raise UserError(f'{gym_id} shows pictures, which need a renderer: {error}') from error
        try:
            entry_point = tasks.specification(gym_id).entry_point
            of_ogbench = isinstance(entry_point, str) and entry_point.startswith('ogbench.')
            if render and not of_ogbench:
                kwargs['render_mode'] = 'rgb_array'  # OGBench's own can always be rendered, and know no mode
            elif render and not pixels:
                kwargs |= {'width': FILM_SIZE, 'height': FILM_SIZE}
            env = gymnasium.make(gym_id, disable_env_checker=True, **kwargs)
        except (gymnasium.error.Error, ImportError) as error:
            raise UserError(f'cannot build environment {gym_id!r}: {" ".join(str(error).split())}') from error
        if not isinstance(env.action_space, gymnasium.spaces.Box):
            raise UserError(f'environment {gym_id!r} has actions {env.action_space}; FQL needs a continuous box')
        if of_ogbench:
            _keep_action_space(env.unwrapped)
        elif not (np.all(env.action_space.low == -1) and np.all(env.action_space.high == 1)):
            if not np.all(np.isfinite([env.action_space.low, env.action_space.high])):
                raise UserError(f'environment {gym_id!r} has unbounded actions; give it bounds')
            env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
        if of_ogbench and render:
            env = Filmed(env, shadows=pixels)
        elif of_ogbench and pixels:
            env = Rendered(env)
        env = Seeded(env)
        return Stacked(env, frame_stack) if frame_stack > 1 else env


class Seeded(gymnasium.Wrapper):
    """float32 observations (uint8 for pixels), and a reset(seed=...) that leaves nothing to chance.

    OGBench draws from three places: the environment's generator, the action space (a few random steps settle the goal
    scene at every reset) and, in mazes, numpy's global generator.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        space = env.observation_space
        self._dtype = np.uint8 if space.dtype == np.uint8 else np.float32
        self.observation_space = gymnasium.spaces.Box(
            space.low.astype(self._dtype), space.high.astype(self._dtype), dtype=self._dtype
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            np.random.seed(seed)
            self.action_space.seed(seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return np.asarray(observation, self._dtype), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return np.asarray(observation, self._dtype), reward, terminated, truncated, info


class Stacked(gymnasium.Wrapper):
    """The last `size` observations on the last axis, the oldest first; an episode's first one stands for those before.

    The same as what `core_jax.replay` stacks of single observations.
    """

    def __init__(self, env: gymnasium.Env, size: int):
        super().__init__(env)
        space = env.observation_space
        self._size, self._channels, self._stack = size, space.shape[-1], None
        low, high = (np.concatenate([bound] * size, axis=-1) for bound in (space.low, space.high))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=space.dtype)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._stack = np.concatenate([observation] * self._size, axis=-1)
        return self._stack.copy(), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._stack = np.concatenate([self._stack[..., self._channels :], observation], axis=-1)
        return self._stack.copy(), reward, terminated, truncated, info


class Rendered(gymnasium.Wrapper):
    """An OGBench environment that renders, and closes its renderer: mujoco complains at exit about those left open."""

    def renderer(self):
        """Its mujoco.Renderer; None before the first frame."""
        inner = self.env.unwrapped
        return inner.custom_renderer if hasattr(inner, 'custom_renderer') else inner._renderer

    def close(self) -> None:
        if self.renderer() is not None:
            self.renderer().close()
        super().close()


class Filmed(Rendered):
    """Frames of an OGBench environment, by default without shadows: in software those cost three times the rest."""

    def __init__(self, env: gymnasium.Env, shadows: bool = False):
        super().__init__(env)
        self._shadows, self._lit = shadows, False

    def render(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        if not self._lit:
            import mujoco

            self.env.render()  # the first call builds the renderer
            self.renderer().scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._shadows
            self._lit = True
        return self.env.render()


def _render_offscreen() -> None:
    """Has mujoco render through EGL where MUJOCO_GL does not say otherwise: its own default needs a display.

    MUJOCO_GL itself is read when mujoco is first imported, which may be long ago, for environments without pictures.
    """
    if 'MUJOCO_GL' in os.environ:
        return
    try:
        from mujoco import egl
        from mujoco.rendering.classic import gl_context
    except Exception as error:  # where the library is missing, PyOpenGL raises whatever it stumbles over
        raise ImportError(f'EGL cannot be loaded ({error})') from error
    gl_context.GLContext = egl.GLContext


def _keep_action_space(env: gymnasium.Env) -> None:
    """The manipulation environments make a new action space at every look, so seeding one would be in vain."""
    space = env.action_space
    if space is not env.action_space:
        base = type(env)
        env.__class__ = type(base.__name__, (base,), {'action_space': space, '__module__': base.__module__})


@contextlib.contextmanager
def _quiet():
    """Silences what these packages say on any headless machine and nobody can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*DISPLAY environment variable')
        warnings.filterwarnings('ignore', ".*Box (low|high)'s precision lowered")
        yield
