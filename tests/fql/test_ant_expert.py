"""The ant that walks in a given direction: its environment, its policy in NumPy, and its training."""

import csv
import json
import signal

import jax
import numpy as np
import pytest
import tiny

from core_jax import checkpoint, loop
from core_jax.env_feed import Environments
from core_jax.env_worker import Slot
from core_jax.errors import UserError
from core_jax.learners import sac
from core_jax.runs import Run
from fql_jax import ant_expert, ant_oracle

STEPS = 120  # past the first change of direction
pytestmark = pytest.mark.filterwarnings('ignore:.*precision lowered')  # gymnasium's own action spaces


def walk(slot: Slot, seed: int) -> dict[str, np.ndarray]:
    """`STEPS` steps with random actions; positions are those before and after each step."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (STEPS, 8)).astype(np.float32)
    rows = {'observations': [slot.reset(seed)], 'positions': [slot.env.unwrapped.data.qpos[:2].copy()], 'rewards': []}
    for action in actions:
        reward, _, done, _, observation = slot.step(action)
        assert not done
        rows['rewards'].append(reward)
        rows['observations'].append(observation)
        rows['positions'].append(slot.env.unwrapped.data.qpos[:2].copy())
    return {name: np.array(values) for name, values in rows.items()}


@pytest.fixture(scope='module')
def slot():
    slot = Slot(ant_oracle.make_env)
    yield slot
    slot.env.close()


@pytest.fixture(scope='module')
def walked(slot):
    return walk(slot, 0)


def test_the_reward_is_the_way_made_good_along_the_direction_that_is_shown(walked):
    directions = walked['observations'][:, 27:]
    ways = np.diff(walked['positions'], axis=0)
    np.testing.assert_allclose(walked['rewards'], (ways * directions[:-1]).sum(axis=1), atol=1e-12)
    assert np.abs(walked['rewards']).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-12)


def test_the_direction_changes_after_a_hundred_steps(walked):
    changes = np.flatnonzero(np.abs(np.diff(walked['observations'][:, 27:], axis=0)).max(axis=1))
    np.testing.assert_array_equal(changes, [ant_oracle.RESAMPLE - 1])


def test_the_observation_is_that_of_the_maze_without_x_and_y(slot):
    slot.reset(3)
    data = slot.env.unwrapped.data
    observation = slot.step(np.zeros(8, np.float32))[-1]
    assert observation.shape == (ant_oracle.STATE + 2,)
    np.testing.assert_array_equal(observation[:27], np.concatenate([data.qpos[2:], data.qvel]))


def test_an_episode_is_a_function_of_its_seed(slot, walked):
    again = walk(slot, 0)
    for name, values in walked.items():
        np.testing.assert_array_equal(again[name], values)
    assert not np.array_equal(walk(slot, 1)['observations'][0, 27:], walked['observations'][0, 27:])


def test_a_feed_of_ants_goes_on_exactly():
    def rows(feed, count):
        rng = np.random.default_rng(count)
        steps = [feed.next(lambda *_: rng.uniform(-1, 1, (2, 8)))[0] for _ in range(count)]
        return {name: np.array([row[name] for row in steps]) for name in steps[0]}

    with Environments(ant_oracle.make_env, slots=2, seed=0, workers=1) as feed:
        rows(feed, 95)
        state = json.loads(json.dumps(feed.get_state()))
        expected = rows(feed, 20)
    with Environments(ant_oracle.make_env, slots=2, seed=0, workers=1) as feed:
        feed.set_state(state)
        found = rows(feed, 20)
    assert len(np.unique(expected['observations'][:, 0, 27])) == 2  # the new direction is the one it would have been
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def export(path, config, sizes):
    """A policy with random weights, written to `path` as a run does; the numbers of its layers are `sizes`."""
    rng = np.random.default_rng(0)
    layers = {
        f'Dense_{i}': {'kernel': rng.normal(0, 0.3, sizes[i : i + 2]), 'bias': rng.normal(0, 0.3, sizes[i + 1])}
        for i in range(len(sizes) - 1)
    }
    actor = jax.tree.map(np.float32, {'params': layers})
    policy = sac.Policy(actor, np.float32(0))
    checkpoint.export_policy(path, policy, config.to_dict())
    return policy


@pytest.mark.parametrize('activation', ['relu', 'gelu'])
def test_the_policy_in_numpy_is_the_learners(tmp_path, activation):
    config, path = ant_expert.resolve({'hidden_dims': (16, 12), 'activation': activation}), tmp_path / 'policy.npz'
    learner, policy = sac.make(config, 8), export(path, config, (29, 16, 12, 16))
    expert = ant_oracle.Expert(ant_oracle.read(path))
    observations = np.random.default_rng(0).normal(0, 2, (50, 29)).astype(np.float32)
    _, wanted = jax.jit(learner.act)(policy, (), observations, jax.random.key(0))
    found = [expert(observation[:27], observation[27:]) for observation in observations]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert 0.1 < np.std(wanted, axis=0).min() and np.abs(wanted).mean() < 0.9
    assert ant_oracle.read(tmp_path) == path.read_bytes()  # a run directory will do


def test_files_that_are_no_ant(tmp_path):
    with pytest.raises(UserError, match=r'no expert .*policy\.npz; python -m fql_jax\.ant_expert trains one'):
        ant_oracle.read(tmp_path)
    config, path = ant_expert.resolve({'hidden_dims': (4,)}), tmp_path / 'policy.npz'
    export(path, config, (29, 4, 16))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r'policy\.npz is damaged, or no policy of fql_jax\.ant_expert'):
        ant_oracle.read(path)
    np.savez(path, observations=np.zeros(3))
    with pytest.raises(UserError, match='damaged, or no policy'):
        ant_oracle.read(path)
    export(path, config, (5, 4, 4))
    with pytest.raises(UserError, match='is no ant: it takes 5 numbers and gives 2'):
        ant_oracle.read(path)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'stepz': 3}, "unknown config field 'stepz'; did you mean 'steps'"),
        ({'steps': 10_000}, '10000 steps end within the 10000 of warm-up'),
        ({'activation': 'rely'}, "unknown activation 'rely'; did you mean 'relu'"),
        ({'tau': 1.5}, r'tau lies in 0\.\.1, got 1\.5'),
        ({'utd': 0.0}, 'utd must be above 0'),
        ({'online_envs': 0}, 'online_envs must be at least 1'),
    ],
)
def test_wrong_settings(fields, message):
    with pytest.raises(UserError, match=message):
        ant_expert.resolve(fields)


def test_a_resumed_run_keeps_its_settings():
    saved = json.loads(json.dumps(ant_expert.resolve({}, debug=True).to_dict()))
    assert ant_expert.resolve({'steps': 800}, saved=saved).hidden_dims == (32, 32)
    with pytest.raises(UserError, match=r'another run than the saved one: utd: saved 1\.0, wanted 2\.0'):
        ant_expert.resolve({'utd': 2.0}, saved=saved)


FIELDS = {'steps': 60, 'warmup': 24, 'online_envs': 2, 'log_interval': 12, 'save_interval': 0, 'eval_interval': 0}
FIELDS |= {'workers': 1, 'eval_episodes': 1}


@pytest.mark.slow
def test_stopped_and_resumed_equals_the_run_that_was_not(tmp_path, monkeypatch):
    whole = ant_expert.train(FIELDS, debug=True, workdir=str(tmp_path / 'whole'))
    assert (whole / 'summary.json').exists()
    with monkeypatch.context() as patch:
        tiny.stop_at(patch, 17, signal.SIGTERM)
        with pytest.raises(loop.Preempted):
            ant_expert.train(FIELDS, debug=True, workdir=str(tmp_path / 'other'))
    other = ant_expert.train({}, workdir=str(tmp_path / 'other'), resume=True)
    tiny.assert_same_run(whole, other)
    assert ant_oracle.Expert(ant_oracle.read(other))(np.zeros(27), np.ones(2)).shape == (8,)
    assert Run.saved_config(other)['config']['steps'] == 60


@pytest.mark.slow
def test_it_learns_where_to_walk(tmp_path):
    """An ant that does not look at the direction makes good 0 m on average; 9000 steps teach it to make some."""
    rates = {f'{name}_learning_rate': 1e-3 for name in ('actor', 'critic', 'temperature')}
    quick = rates | {
        'hidden_dims': (64, 64),
        'batch_size': 64,
        'tau': 0.02,
        'discount': 0.95,
        'online_capacity': 10_000,
    }
    fields = quick | {'steps': 9_000, 'warmup': 1_000, 'eval_interval': 2_000, 'save_interval': 0, 'eval_episodes': 8}
    directory = ant_expert.train(fields, workdir=str(tmp_path / 'run'))
    metrics = json.loads((directory / 'summary.json').read_text())['metrics']
    assert metrics['return']['low'] > 1
    with open(directory / 'eval.csv', newline='') as file:
        returns = [float(row['return']) for row in csv.DictReader(file)]
    assert returns[-1] > returns[0] + 1
