"""Names, the table against OGBench's own registry, and environments that a seed determines."""

import functools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from core_jax.errors import UserError
from fql_jax import tasks

# alpha, discount, q_agg, default task: the commands in the README of the released FQL.
PUBLISHED = {
    'antmaze-large': (10, 0.99, 'min', 1),
    'antmaze-giant': (10, 0.995, 'min', 1),
    'humanoidmaze-medium': (30, 0.995, 'mean', 1),
    'humanoidmaze-large': (30, 0.995, 'mean', 1),
    'antsoccer-arena': (10, 0.995, 'mean', 4),
    'cube-single': (300, 0.99, 'mean', 2),
    'cube-double': (300, 0.99, 'mean', 2),
    'scene': (300, 0.99, 'mean', 2),
    'puzzle-3x3': (1000, 0.99, 'mean', 4),
    'puzzle-4x4': (1000, 0.99, 'mean', 4),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_settings(name):
    task = tasks.resolve(f'ogbench-{name}')
    assert (task.alpha, task.discount, task.q_agg, task.number) == PUBLISHED[name]


def test_every_task_is_in_the_registry_with_its_time_limit():
    import gymnasium
    import ogbench  # noqa: F401

    for name in tasks.ENVIRONMENTS:
        for suffix in ('', '-task5'):
            task = tasks.resolve(f'ogbench-{name}{suffix}')
            spec = gymnasium.spec(task.gym_id)
            assert (task.environment, spec.max_episode_steps) == (name, task.max_steps)
            assert spec.kwargs['reward_task_id'] == task.number
    single = {name.split('-singletask')[0] for name in gymnasium.registry if name.endswith('-singletask-v0')}
    assert single == set(tasks.ENVIRONMENTS)


def test_spellings():
    cube = tasks.resolve('ogbench-cube')
    for name in ('ogbench-cube-single', 'cube-single-singletask-v0', 'cube-single-play-singletask-task2-v0'):
        assert tasks.resolve(name) == cube
    assert (cube.gym_id, cube.dataset_id) == ('cube-single-singletask-task2-v0', 'cube-single-play-v0')
    other = tasks.resolve('cube-double-noisy-singletask-task4-v0')
    assert other == tasks.resolve('ogbench-cube-double-noisy-task4')
    assert (other.number, other.kind, other.kinds, other.family) == (4, 'noisy', ('play', 'noisy'), 'cube')
    assert tasks.resolve('ogbench-puzzle').environment == 'puzzle-3x3'
    assert tasks.resolve('ogbench-pointmaze').dataset_id == 'pointmaze-medium-navigate-v0'
    assert tasks.resolve('visual-scene-play-singletask-task1-v0').gym_id == 'visual-scene-singletask-task1-v0'


def test_d4rl(monkeypatch):
    """Settings: the README of the released FQL; time limits: d4rl/locomotion and d4rl/hand_manipulation_suite."""
    maze = tasks.resolve('antmaze-large-play-v2')
    assert (maze.family, maze.gym_id, maze.max_steps, maze.of_d4rl) == ('d4rl-antmaze', '', 1000, True)
    assert (maze.alpha, maze.discount, maze.q_agg, maze.dataset_id) == (3, 0.99, 'mean', 'antmaze-large-play-v2')
    pen = tasks.resolve('pen-human-v1')
    assert (pen.family, pen.alpha, pen.q_agg, pen.max_steps) == ('d4rl-adroit', 10_000, 'min', 100)
    for name in ('d4rl-pen-human', 'd4rl-pen-human-v1'):
        assert tasks.resolve(name) == pen
    assert tasks.resolve('d4rl-antmaze-umaze').max_steps == 700
    assert len(tasks.D4RL) == 18
    # OGBench's names stay OGBench's.
    for name in ('ogbench-antmaze', 'antmaze-large-navigate-singletask-v0', 'ogbench-antmaze-large-stitch'):
        assert tasks.resolve(name).family == 'antmaze' and not tasks.resolve(name).of_d4rl
    # Its environments: one of yours, or Adroit's where gymnasium-robotics is.
    import tiny

    tiny.gymnasium.register('pen-human-v1', tiny.Tiny)
    try:
        yours = tasks.resolve('tiny:pen-human-v1')
        assert (yours.gym_id, yours.environment, yours.family) == ('tiny:pen-human-v1', 'pen-human-v1', 'd4rl-adroit')
        assert tasks.make_env(yours.gym_id).reset(seed=0)[0].shape == (3,)
    finally:
        del tiny.gymnasium.registry['pen-human-v1']
    monkeypatch.setattr(tasks.importlib.util, 'find_spec', lambda name: name == 'gymnasium_robotics')
    assert tasks.resolve('pen-human-v1').gym_id == 'gymnasium_robotics:AdroitHandPen-v1'
    assert tasks.resolve('d4rl-relocate-expert').gym_id == 'gymnasium_robotics:AdroitHandRelocate-v1'
    assert tasks.resolve('antmaze-large-play-v2').gym_id == ''


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('d4rl-pen-humen', "did you mean 'd4rl-pen-human'"),
        ('antmaze-large-pley-v2', "did you mean 'antmaze-large-play-v2'"),
        ('pen-human', "did you mean 'pen-human-v1'"),
        ('no_such_package:pen-human-v1', "cannot find environment 'no_such_package:pen-human-v1'"),
        ('ogbench-cub', "unknown environment 'ogbench-cub'; did you mean 'ogbench-cube'"),
        ('ogbench-cube-tripel', "did you mean 'ogbench-cube-triple'"),
        ('cube-singel-singletask-v0', "did you mean 'cube-single-singletask-v0'"),
        ('ogbench-cube-task6', 'unknown environment'),
        ('cube-single-v0', 'goal-conditioned; the single-task one is cube-single-singletask-v0'),
        ('ogbench-cube-navigate', "cube-single has no 'navigate' data; it has play, noisy"),
        ('no_such_package:Thing-v0', "cannot find environment 'no_such_package:Thing-v0'"),
        ('', 'unknown environment'),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UserError, match=message):
        tasks.resolve(name)


def test_anybodys_environment():
    task = tasks.resolve('Pendulum-v1')
    assert (task.family, task.gym_id, task.kinds, task.max_steps) == ('gymnasium', 'Pendulum-v1', (), 200)
    env = tasks.make_env('Pendulum-v1')
    assert (env.action_space.low, env.action_space.high) == (-1, 1)  # its own are -2 and 2
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    with pytest.raises(UserError, match='needs a continuous box'):
        tasks.make_env('CartPole-v1')


def test_importing_the_table_imports_nothing_heavy():
    code = """
import sys, fql_jax.tasks as tasks
tasks.resolve('ogbench-cube'); tasks.names()
print([name for name in ('jax', 'mujoco', 'ogbench', 'gymnasium', 'numpy') if name in sys.modules])
"""
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


def roll(env, seed: int, steps: int = 5) -> np.ndarray:
    observations = [env.reset(seed=seed)[0]]
    action = np.linspace(-0.5, 0.5, *env.action_space.shape)
    return np.array(observations + [env.step(action)[0] for _ in range(steps)])


@pytest.mark.parametrize('name', ['ogbench-cube', 'ogbench-pointmaze'])
def test_a_seed_determines_an_episode(name):
    make = pickle.loads(pickle.dumps(functools.partial(tasks.make_env, tasks.resolve(name).gym_id)))
    env = make()
    first = roll(env, 3)
    assert first.dtype == np.float32 == env.observation_space.dtype
    assert env.observation_space.shape == first.shape[1:]
    np.random.seed(0)  # mazes draw from here
    env.reset()
    roll(env, 4)
    np.testing.assert_array_equal(roll(env, 3), first)
    assert not np.array_equal(roll(env, 4), first)
    assert env.action_space is env.action_space


def test_the_default_cube_goes_where_task_2_wants_it():
    env = tasks.make_env(tasks.resolve('ogbench-cube').gym_id)
    env.reset(seed=0)
    np.testing.assert_allclose(env.unwrapped._data.mocap_pos, [[0.5, 0.0, 0.02]])


def test_frames():
    if 'MUJOCO_GL' not in os.environ:
        pytest.importorskip('mujoco.egl', exc_type=Exception)
    env = tasks.make_env('pointmaze-medium-singletask-v0', render=True)
    env.reset(seed=0)
    frame = env.render()
    env.close()
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.std() > 10
