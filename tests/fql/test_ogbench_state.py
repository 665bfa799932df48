"""OGBench's environments go on in another object, bit for bit, over the end of an episode and an unseeded reset."""

import functools
import json

import numpy as np
import pytest

from core_jax import env_state
from core_jax.env_feed import Environments
from fql_jax.tasks import make_env


def roll(env, actions):
    """All that the environment says, as bytes. Resets without a seed where an episode ends."""
    said = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        said.append((observation.tobytes(), np.float64(reward).tobytes(), terminated, truncated, info['success']))
        if terminated or truncated:
            said.append(env.reset()[0].tobytes())
    return said


def begin(name, limit, steps):
    """An environment whose episodes end after `limit` steps, `steps` after a reset; random actions to go on with."""
    env = make_env(name)
    wrapper = env
    while not hasattr(wrapper, '_max_episode_steps'):
        wrapper = wrapper.env
    wrapper._max_episode_steps = limit
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (2 * steps, *env.action_space.shape)).astype(np.float32)
    roll(env, actions[:steps])
    return env, actions[steps:]


@pytest.mark.parametrize(
    'name',
    [
        'pointmaze-medium-singletask-v0',
        'pointmaze-teleport-singletask-v0',
        'antmaze-medium-singletask-v0',
        'antsoccer-arena-singletask-v0',
        *(
            pytest.param(f'{name}-singletask-v0', marks=pytest.mark.slow)
            for name in ('cube-single', 'puzzle-3x3', 'scene')
        ),
    ],
)
def test_goes_on_exactly(name):
    env, actions = begin(name, limit=130, steps=100)
    saved = json.dumps(env_state.snapshot(env))
    expected = roll(env, actions)
    assert len(expected) == len(actions) + 1  # an episode ended
    np.random.seed(17)
    new = make_env(name)
    env_state.restore(new, json.loads(saved))
    assert json.dumps(env_state.snapshot(new)) == saved
    assert roll(new, actions) == expected
    env.close()
    new.close()


@pytest.mark.slow
def test_positions_and_velocities_alone_diverge():
    env, actions = begin('cube-single-singletask-v0', limit=130, steps=20)
    new, _ = begin('cube-single-singletask-v0', limit=130, steps=20)
    data = new.unwrapped.data
    new.unwrapped.set_state(data.qpos.copy(), data.qvel.copy())
    assert roll(new, actions) != roll(env, actions)


@pytest.mark.slow
def test_a_feed_goes_on_exactly_with_another_number_of_workers():
    """Two mazes that take turns with numpy's global generator in one process, and in one process each."""

    def act(observations, fresh):
        return np.sin(37 * observations[:, :2])

    factory = functools.partial(make_env, 'pointmaze-teleport-singletask-v0')
    with Environments(factory, slots=2, seed=1, workers=1) as feed:
        for _ in range(950):
            feed.next(act)
        state = json.dumps(feed.get_state())
        expected = [feed.next(act)[0] for _ in range(150)]
    with Environments(factory, slots=2, seed=1, workers=2) as feed:
        feed.set_state(json.loads(state))
        got = [feed.next(act)[0] for _ in range(150)]
    for a, b in zip(got, expected, strict=True):
        for column in a:
            np.testing.assert_array_equal(a[column], b[column])
    assert not all(row['valid'].all() for row in got)  # episodes ended
