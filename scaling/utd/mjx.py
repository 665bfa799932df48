"""Simulators that run on the accelerator, as environments of the compiled loop.

    playground:CheetahRun   MuJoCo Playground's suite (arXiv 2502.08844), as dm_control's: rewards 0 to 1, 1000 steps
    brax:ant                brax (arXiv 2106.13281), spring backend, 1000 steps: not MuJoCo's dynamics or rewards

They stand in for Isaac Gym, which the paper runs PQL on and which no JAX program can contain: thousands of environments
beside the learner. What is fitted on them is a law of their own, not to be put beside the paper's numbers.

MJX always runs its JAX implementation. Playground's default is Warp, which TPUs lack and which crawls on a CPU.

Of their own wrappers none is used: those for automatic resets put the first observation of the next episode where the
last one of this was, and begin all episodes of an environment in one state. The loop keeps the time limit and resets.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core_jax.errors import UserError, unknown
from scaling.utd.analytic import Environment, Outcome

LIMIT = 1000  # steps of an episode, in both
# Of playground 0.2.0 and brax 0.14.2, so that a sweep can be planned where they are not installed.
PLAYGROUND = (
    'AcrobotSwingup', 'AcrobotSwingupSparse', 'BallInCup', 'CartpoleBalance', 'CartpoleBalanceSparse',
    'CartpoleSwingup', 'CartpoleSwingupSparse', 'CheetahRun', 'FingerSpin', 'FingerTurnEasy', 'FingerTurnHard',
    'FishSwim', 'HopperHop', 'HopperStand', 'HumanoidRun', 'HumanoidStand', 'HumanoidWalk', 'PendulumSwingup',
    'PointMass', 'ReacherEasy', 'ReacherHard', 'SwimmerSwimmer6', 'WalkerRun', 'WalkerStand', 'WalkerWalk',
)  # fmt: skip
BRAX = ('ant', 'halfcheetah', 'hopper', 'humanoid', 'humanoidstandup', 'walker2d')
_NAMES = {'playground': PLAYGROUND, 'brax': BRAX}
_PACKAGES = {'playground': 'mujoco_playground', 'brax': 'brax'}


def is_name(name: str) -> bool:
    """Whether `name` has one of the prefixes: 'playground:CheetahRun', 'brax:ant'."""
    return name.partition(':')[0] in _NAMES


def check(name: str) -> None:
    """Raises UserError, with the nearest name, where there is no environment called so; builds none."""
    family, _, task = name.partition(':')
    if task in _NAMES[family]:
        return
    if family == 'playground' and task in _robots():
        raise UserError(
            f'{name} is a robot of the MuJoCo Menagerie, which playground clones from the network; '
            f'only its dm_control suite is offered here, such as playground:CheetahRun'
        )
    raise unknown(f'{family} environment', task, _NAMES[family])


def make(name: str) -> Environment:
    """The environment called so. Raises UserError for an unknown name and where its package is not installed."""
    check(name)
    family, _, task = name.partition(':')
    _require(family)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # brax and jaxopt say at each import that they are not developed further
        return adapt(name, *_PLAYERS[family](task))


def _playground(task: str) -> tuple[Any, jax.Array, jax.Array]:
    suite = importlib.import_module('mujoco_playground').dm_control_suite
    env = suite.load(task, config_overrides={'impl': 'jax'})
    return env, *env.mj_model.actuator_ctrlrange.T


def _brax(task: str) -> tuple[Any]:
    return (importlib.import_module('brax.envs').get_environment(task, backend='spring'),)


_PLAYERS: dict[str, Callable[[str], tuple]] = {'playground': _playground, 'brax': _brax}


def adapt(name: str, env: Any, low: Any = -1.0, high: Any = 1.0, limit: int = LIMIT) -> Environment:
    """An environment of the interface that brax made and playground has too.

    env: reset(rng) -> state, step(state, action) -> state, action_size; a state has obs [D], reward, done, and is
    random by no other means than `rng`. low, high: the range of its actions, scalars or [A].

    A simulation that diverged (playground calls the episode done, and leaves NaN in it) is an end with zeros in place
    of what is not finite: one such step is no reason to give up a run.
    """
    scaled = bool((jnp.asarray(low) != -1.0).any() | (jnp.asarray(high) != 1.0).any())

    def raw_reset(key):
        return env.reset(jax.random.key_data(key))  # written for keys that are plain arrays

    shapes = jax.eval_shape(raw_reset, jax.random.key(0))
    if isinstance(shapes.obs, dict) or shapes.obs.ndim != 1:
        raise UserError(f'{name} does not observe one vector')

    def alike(state):
        """With the types of `reset`, which the loop carries."""
        return jax.tree.map(lambda x, s: jnp.asarray(x).astype(s.dtype), state, shapes)

    def finite(x):
        return jnp.where(jnp.isfinite(x), x, 0.0).astype(jnp.float32)

    def step(state, action):
        action = jnp.clip(action, -1.0, 1.0)
        if scaled:
            action = low + (action + 1.0) / 2.0 * (high - low)
        state = jax.tree.map(lambda x: x, state)  # some write into the dicts that they are given
        after = alike(env.step(state, action))
        diverged = ~jnp.isfinite(after.obs).all() | ~jnp.isfinite(after.reward)
        return after, Outcome(finite(after.reward), (after.done > 0.5) | diverged)

    return Environment(
        name,
        shapes.obs.shape[0],
        env.action_size,
        limit,
        lambda key: alike(raw_reset(key)),
        step,
        lambda state: finite(state.obs),
        costly_reset=True,
    )


def _require(family: str) -> None:
    if importlib.util.find_spec(_PACKAGES[family]) is None:
        raise UserError(f"{family} is not installed: pip install 'tenfold[playground]'")


def _robots() -> tuple[str, ...]:
    """Playground's tasks that need the menagerie; none where it is not installed."""
    if importlib.util.find_spec('mujoco_playground') is None:
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        package = importlib.import_module('mujoco_playground')
    return (*package.locomotion.ALL_ENVS, *package.manipulation.ALL_ENVS)
