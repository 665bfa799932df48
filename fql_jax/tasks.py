"""The single-task OGBench environments and D4RL's: names, time limits, data sets, and the settings published for FQL.

A task answers to a short name (`ogbench-cube`, `ogbench-cube-double-task4`, `ogbench-cube-noisy`), to its gym id
(`cube-single-singletask-task3-v0`) and to its dataset id (`cube-single-play-singletask-v0`). Ids without a task number
mean the default task, which is not always the first.

D4RL's data sets have D4RL's ids (`antmaze-large-play-v2`, `pen-human-v1`) and short names (`d4rl-pen-human`). Their
environments need another gym and another MuJoCo: `my_package:pen-human-v1` is one that my_package registers with
gymnasium; without it Adroit is evaluated in gymnasium-robotics where that is installed, and antmaze is not evaluated.

Any other environment that gymnasium knows (`Pendulum-v1`, or `my_package:MyEnv-v0`, which imports my_package first) is
a task of the family `gymnasium`: it has no data of its own.

Nothing here imports jax, mujoco or ogbench.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re

from core_jax.errors import UserError, unknown

OWN = 'own:'  # begins the name of an environment that `fql_jax.train` got as a function


@dataclasses.dataclass(frozen=True)
class Task:
    """One environment with one goal, and what is known about training FQL on it.

    family: 'cube', 'scene', 'puzzle', 'pointmaze', 'antmaze', 'humanoidmaze', 'antsoccer', 'd4rl-antmaze',
        'd4rl-adroit', or 'gymnasium'.
    environment: name without task or dataset, such as 'cube-single'; D4RL's id; for the family 'gymnasium' the gym id.
    gym_id: what `make_env` takes; '' for a task of D4RL whose environment is not on this machine.
    kinds: kinds of dataset that OGBench publishes for it; kind: the one that the name asked for, else the first.
    number: which of the five goals; 0 where there is no such thing.
    max_steps: time limit of an evaluation episode.
    alpha, discount, q_agg: the offline settings in the README of the released FQL; alpha is None where none is given.
    """

    family: str
    environment: str
    gym_id: str
    kinds: tuple[str, ...] = ()
    kind: str = ''
    number: int = 0
    max_steps: int = 1000
    alpha: float | None = None
    discount: float = 0.99
    q_agg: str = 'mean'

    @property
    def dataset_id(self) -> str:
        """The official dataset's file name without '.npz': 'cube-single-play-v0'."""
        return self.environment if self.of_d4rl else f'{self.environment}-{self.kind}-v0'

    @property
    def of_d4rl(self) -> bool:
        return self.family.startswith('d4rl-')


_MANIPULATION = ('play', 'noisy')
_MAZE = ('navigate', 'stitch')
_ANT_MAZE = ('navigate', 'stitch', 'explore')

# environment: (kinds, default task, time limit, alpha, discount, q_agg). FQL's README has alpha for ten of them; the
# discounts of the others follow their families.
_TABLE = {
    'cube-single': (_MANIPULATION, 2, 200, 300.0, 0.99, 'mean'),
    'cube-double': (_MANIPULATION, 2, 500, 300.0, 0.99, 'mean'),
    'cube-triple': (_MANIPULATION, 2, 1000, None, 0.99, 'mean'),
    'cube-quadruple': (_MANIPULATION, 2, 1000, None, 0.99, 'mean'),
    'cube-octuple': (('play',), 2, 1500, None, 0.99, 'mean'),
    'scene': (_MANIPULATION, 2, 750, 300.0, 0.99, 'mean'),
    'puzzle-3x3': (_MANIPULATION, 4, 500, 1000.0, 0.99, 'mean'),
    'puzzle-4x4': (_MANIPULATION, 4, 500, 1000.0, 0.99, 'mean'),
    'puzzle-4x5': (_MANIPULATION, 2, 1000, None, 0.99, 'mean'),
    'puzzle-4x6': (_MANIPULATION, 2, 1000, None, 0.99, 'mean'),
    'pointmaze-medium': (_MAZE, 1, 1000, None, 0.99, 'mean'),
    'pointmaze-large': (_MAZE, 1, 1000, None, 0.99, 'mean'),
    'pointmaze-giant': (_MAZE, 1, 1000, None, 0.995, 'mean'),
    'pointmaze-teleport': (_MAZE, 1, 1000, None, 0.99, 'mean'),
    'antmaze-medium': (_ANT_MAZE, 1, 1000, None, 0.99, 'min'),
    'antmaze-large': (_ANT_MAZE, 1, 1000, 10.0, 0.99, 'min'),
    'antmaze-giant': (_MAZE, 1, 1000, 10.0, 0.995, 'min'),
    'antmaze-teleport': (_ANT_MAZE, 1, 1000, None, 0.99, 'min'),
    'humanoidmaze-medium': (_MAZE, 1, 2000, 30.0, 0.995, 'mean'),
    'humanoidmaze-large': (_MAZE, 1, 2000, 30.0, 0.995, 'mean'),
    'humanoidmaze-giant': (_MAZE, 1, 4000, None, 0.995, 'mean'),
    'humanoidmaze-teleport': (_MAZE, 1, 2000, None, 0.995, 'mean'),
    'antsoccer-arena': (_MAZE, 4, 1000, 10.0, 0.995, 'mean'),
    'antsoccer-medium': (_MAZE, 4, 1000, None, 0.995, 'mean'),
}
# Pixel variants: the paper's five have their own alpha. (It ran them on task 1, which is not OGBench's default.)
_VISUAL_ALPHA = {'cube-single': 300.0, 'cube-double': 100.0, 'scene': 100.0, 'puzzle-3x3': 300.0, 'puzzle-4x4': 300.0}
_NOT_VISUAL = ('cube-octuple', 'pointmaze', 'antsoccer')
_TABLE |= {
    f'visual-{name}': (kinds, number, limit, _VISUAL_ALPHA.get(name), discount, q_agg)
    for name, (kinds, number, limit, _, discount, q_agg) in _TABLE.items()
    if not name.startswith(_NOT_VISUAL)
}
# What a family's bare name means.
_SHORT = {
    'cube': 'cube-single',
    'puzzle': 'puzzle-3x3',
    'pointmaze': 'pointmaze-medium',
    'antmaze': 'antmaze-large',
    'humanoidmaze': 'humanoidmaze-medium',
    'antsoccer': 'antsoccer-arena',
}
ENVIRONMENTS = tuple(_TABLE)

# D4RL's id: (time limit, alpha, q_agg); the discount is 0.99. Time limits are D4RL's own.
_D4RL = {
    'antmaze-umaze-v2': (700, 10.0, 'mean'),
    'antmaze-umaze-diverse-v2': (700, 10.0, 'mean'),
    'antmaze-medium-play-v2': (1000, 10.0, 'mean'),
    'antmaze-medium-diverse-v2': (1000, 10.0, 'mean'),
    'antmaze-large-play-v2': (1000, 3.0, 'mean'),
    'antmaze-large-diverse-v2': (1000, 3.0, 'mean'),
    'pen-human-v1': (100, 10_000.0, 'min'),
    'pen-cloned-v1': (100, 10_000.0, 'min'),
    'pen-expert-v1': (100, 3_000.0, 'min'),
    'door-human-v1': (200, 30_000.0, 'min'),
    'door-cloned-v1': (200, 30_000.0, 'min'),
    'door-expert-v1': (200, 30_000.0, 'min'),
    'hammer-human-v1': (200, 30_000.0, 'min'),
    'hammer-cloned-v1': (200, 10_000.0, 'min'),
    'hammer-expert-v1': (200, 30_000.0, 'min'),
    'relocate-human-v1': (200, 10_000.0, 'min'),
    'relocate-cloned-v1': (200, 30_000.0, 'min'),
    'relocate-expert-v1': (200, 30_000.0, 'min'),
}
D4RL = tuple(_D4RL)
# Without their versions: 'pen-human' is 'pen-human-v1'.
_D4RL_SHORT = {name.rpartition('-v')[0]: name for name in _D4RL}

_NAME = re.compile(
    r'(?:ogbench-)?(?P<environment>.+?)(?:-(?P<kind>play|noisy|navigate|stitch|explore))?'
    r'(?P<single>-singletask)?(?:-task(?P<number>[1-5]))?(?P<version>-v0)?'
)


def names() -> list[str]:
    """Every short name, without task numbers: what a message about an unknown environment chooses from."""
    return [f'ogbench-{name}' for name in (*_SHORT, *_TABLE)] + [f'd4rl-{name}' for name in _D4RL_SHORT]


def resolve(name: str) -> Task:
    """The task that `name` means, in any of the spellings above.

    Raises UserError for an unknown environment (with the nearest name) or a kind of data that it does not have.
    """
    if name.startswith(OWN):
        return Task('gymnasium', name, name)
    task = _of_d4rl(name)
    if task:
        return task
    match = _NAME.fullmatch(name)
    environment = match and _SHORT.get(match['environment'], match['environment'])
    if environment in _TABLE:
        if match['version'] and not match['single']:
            raise UserError(f'{name!r} is goal-conditioned; the single-task one is {environment}-singletask-v0')
        return _task(environment, match['kind'], match['number'])
    task = _from_gymnasium(name)
    if task:
        return task
    ids = [f'{environment}-singletask-v0' for environment in ENVIRONMENTS] if name.endswith('-v0') else names()
    raise unknown('environment', name, [*ids, *D4RL])


def _task(environment: str, kind: str | None, number: str | None) -> Task:
    kinds, default, limit, alpha, discount, q_agg = _TABLE[environment]
    if kind and kind not in kinds:
        raise UserError(f'{environment} has no {kind!r} data; it has {", ".join(kinds)}')
    number = int(number or default)
    family = environment.removeprefix('visual-').split('-')[0]
    gym_id = f'{environment}-singletask-task{number}-v0'
    return Task(family, environment, gym_id, kinds, kind or kinds[0], number, limit, alpha, discount, q_agg)


def _of_d4rl(name: str) -> Task | None:
    """A task of D4RL: 'pen-human-v1', 'd4rl-pen-human', or 'my_package:pen-human-v1'."""
    package, _, bare = name.rpartition(':')
    if bare.startswith('d4rl-'):
        bare = bare.removeprefix('d4rl-')
        bare = _D4RL_SHORT.get(bare, bare)
    if bare not in _D4RL:
        return None
    limit, alpha, q_agg = _D4RL[bare]
    family = 'd4rl-antmaze' if bare.startswith('antmaze-') else 'd4rl-adroit'
    if package:
        gym_id = _found(name)
    elif family == 'd4rl-adroit' and importlib.util.find_spec('gymnasium_robotics'):
        # The same hand, observations and actions; rewards, time limits and ends differ in details, and so do scores.
        gym_id = f'gymnasium_robotics:AdroitHand{bare.split("-")[0].title()}-v1'
    else:
        gym_id = ''
    return Task(family, bare, gym_id, max_steps=limit, alpha=alpha, q_agg=q_agg)


def _from_gymnasium(name: str) -> Task | None:
    """Somebody's own environment, if gymnasium knows it; `module:Name-v0` imports the module first."""
    import gymnasium

    if name.startswith(('ogbench-', 'd4rl-')) or (':' not in name and name not in gymnasium.registry):
        return None
    return Task('gymnasium', name, _found(name), max_steps=specification(name).max_episode_steps or 1000)


def _found(gym_id: str) -> str:
    """`gym_id`, which gymnasium knows; raises UserError where it does not."""
    import gymnasium

    try:
        specification(gym_id)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f'cannot find environment {gym_id!r}: {" ".join(str(error).split())}') from error
    return gym_id


def specification(gym_id: str):
    """What gymnasium knows of an environment. Unlike `gymnasium.spec`, it imports the module in `module:Name-v0`."""
    import gymnasium

    module, _, name = gym_id.rpartition(':')
    if module:
        importlib.import_module(module)
    return gymnasium.spec(name)


def make_env(gym_id: str, render: bool = False, frame_stack: int = 1):
    """A gymnasium environment with float32 observations (uint8 for pixels) and actions in [-1, 1].

    `functools.partial(make_env, task.gym_id)` pickles. reset(seed=...) fixes every source of randomness. `render=True`
    makes one whose render() gives frames, through EGL where nothing else is asked for by MUJOCO_GL. `frame_stack` > 1
    stacks that many observations on the last axis, the oldest first.
    """
    from fql_jax import envs

    return envs.make(gym_id, render=render, frame_stack=frame_stack)


def shift_rewards(make_env, shift: float):
    """The environment of `make_env` with `shift` added to every reward (`functools.partial` of it pickles)."""
    from gymnasium.wrappers import TransformReward

    return TransformReward(make_env(), lambda reward: reward + shift)
