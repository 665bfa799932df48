"""Pictures: the environment stacks the same frames as the replay."""

import functools
import pickle

import envs as test_envs
import gymnasium
import jax
import numpy as np
import pytest

from core_jax import replay
from core_jax.errors import UserError
from fql_jax import envs, tasks

NAME = 'TenfoldPictures-v0'


@pytest.fixture
def pictures():
    gymnasium.register(NAME, test_envs.Pictures)
    yield NAME
    del gymnasium.registry[NAME]


def episode(env, seed):
    """Everything it shows [T, ...] in one episode, and the rows that an online run would keep of it."""
    shown, rows, done = [env.reset(seed=seed)[0]], [], False
    while not done:
        action = np.full(1, len(rows), np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        rows.append((shown[-1], action, reward, not terminated, True))
        shown.append(observation)
    return np.stack(shown), [*rows, (shown[-1], np.zeros(1, np.float32), 0.0, False, False)]


def test_stacks_of_the_environment_are_those_of_the_replay(pictures):
    size, seeds = 3, (4, 5, 6)
    single, stacked = tasks.make_env(pictures), tasks.make_env(pictures, frame_stack=size)
    assert stacked.observation_space.shape == (4, 4, 9) and stacked.observation_space.dtype == np.uint8
    frames, rows = zip(*(episode(single, seed) for seed in seeds), strict=True)
    frames, rows = np.concatenate(frames), sum(rows, [])
    seen = [episode(stacked, seed)[0] for seed in seeds]
    now, after = np.concatenate([s[:-1] for s in seen]), np.concatenate([s[1:] for s in seen])
    assert now.shape == (15, 4, 4, 9) and now.dtype == np.uint8
    np.testing.assert_array_equal(seen[0][0], np.concatenate([frames[0]] * 3, axis=-1))
    np.testing.assert_array_equal(seen[0][4], np.concatenate(frames[2:5], axis=-1))

    ends = np.array([not row[-1] for row in rows])
    data = replay.dataset(frames, np.zeros((18, 1)), np.zeros(18), np.ones(18), ends)
    example = {
        'observations': frames[0],
        'actions': np.zeros(1, np.float32),
        'rewards': np.zeros((), np.float32),
        'masks': np.zeros((), np.float32),
        'valid': np.zeros((), bool),
    }
    ring, add = replay.rows_ring(example, 18, 1), jax.jit(replay.add_rows)
    for row in rows:
        values = zip(example.items(), row, strict=True)
        ring = add(ring, {name: np.asarray(x, old.dtype)[None] for (name, old), x in values})
    for batch in (replay.read(data, np.arange(15), None, size), replay.read_rows(ring, np.arange(15), None, size)):
        np.testing.assert_array_equal(batch['observations'], now)
        np.testing.assert_array_equal(batch['next_observations'], after)
    np.testing.assert_array_equal(batch['actions'][:, 0], [0, 1, 2, 3, 4] * 3)


def test_what_a_stacked_environment_shows_is_the_caller_s(pictures):
    env, other = (envs.make(pictures, frame_stack=2) for _ in range(2))
    shown, same = env.reset(seed=1)[0], other.reset(seed=1)[0]
    shown[:] = 0
    np.testing.assert_array_equal(env.step(np.zeros(1))[0], other.step(np.zeros(1))[0])
    assert same.any()


@pytest.mark.slow
def test_pictures_of_ogbench_are_stacked():
    """Seconds to build, and a renderer is needed."""
    make = functools.partial(tasks.make_env, tasks.resolve('visual-cube-single').gym_id, frame_stack=3)
    try:
        env = pickle.loads(pickle.dumps(make))()
    except UserError as error:
        pytest.skip(f'no renderer here: {error}')
    shown = [env.reset(seed=0)[0]] + [env.step(np.full(env.action_space.shape, 0.5, np.float32))[0] for _ in range(2)]
    env.close()
    assert env.observation_space.shape == (64, 64, 9)
    for observation in shown:
        assert observation.shape == (64, 64, 9) and observation.dtype == np.uint8 and observation.std() > 5
    first, second, third = shown
    np.testing.assert_array_equal(first[..., :3], first[..., 6:])
    np.testing.assert_array_equal(second[..., :6], first[..., 3:])
    np.testing.assert_array_equal(third[..., :6], second[..., 3:])
    assert (third[..., 6:] != first[..., 6:]).any()  # the arm moves
