"""The rows of a feed against a plain loop over single environments; the same ones after a stop."""

import functools
import json

import envs
import numpy as np
import pytest

from core_jax.env_feed import Environments, Transitions
from core_jax.errors import UserError
from core_jax.evaluate import episode_seed
from core_jax.worker_process import WorkerError

SHORT = functools.partial(envs.Walk, limit=4)
GUSTY = functools.partial(envs.Gusty, limit=4)


def act(observations, fresh):
    """Beyond the bounds at first, then a third of the way, plus something that only the flag gives away."""
    return np.where(fresh[:, None], 0.02, 0) - observations[:, :1] * np.where(
        np.abs(observations[:, :1]) > 0.8, 2, 1 / 3
    )


def loop(slots, seed, calls):
    """The same with one environment a slot, in this process. Also returns what metrics() has to say."""
    walks, seeds = [SHORT() for _ in range(slots)], iter([episode_seed(seed, n) for n in range(1000)])
    shown = [[walk.reset(seed=next(seeds))[0], True, False] for walk in walks]  # observation, fresh, ended
    rewards, finished, rows = [[] for _ in walks], [], []
    for _ in range(calls):
        for walk, (observation, fresh, ended), i in zip(walks, list(shown), range(slots), strict=True):
            observation = observation.astype(np.float32)
            if ended:
                rows.append((observation, [0], 0, 0, False))
                shown[i] = [walk.reset(seed=next(seeds))[0], True, False]
                continue
            action = np.clip(act(observation[None], np.array([fresh]))[0], -0.5, 0.5).astype(np.float32)
            after, reward, terminated, truncated, info = walk.step(action.astype(np.float64))
            rows.append((observation, action, reward, 1 - terminated, True))
            shown[i] = [after, False, terminated or truncated]
            rewards[i].append(reward)
            if terminated or truncated:
                finished.append((sum(rewards[i]), len(rewards[i]), info['success']))
                rewards[i] = []
    columns = [np.array(column).reshape(calls, slots, *np.shape(column[0])) for column in zip(*rows, strict=True)]
    means = dict(zip(('online/return', 'online/length', 'online/success'), np.mean(finished, axis=0), strict=True))
    return dict(zip(('observations', 'actions', 'rewards', 'masks', 'valid'), columns, strict=True)), means


def collect(feed, calls, act=act):
    """Rows [calls, S, ...], and the environment steps of every call."""
    rows, steps = zip(*[feed.next(act) for _ in range(calls)], strict=True)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, list(steps)


def assert_same(a, b):
    for name, value in a.items():
        assert value.dtype == b[name].dtype, name
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.parametrize('slots', [1, 3])
def test_equals_a_plain_loop(slots):
    with Environments(SHORT, slots=slots, seed=5, workers=2) as feed:
        rows, steps = collect(feed, 40)
        means = feed.metrics()
        assert feed.metrics() == {}
    expected, expected_means = loop(slots, 5, 40)
    for name, value in expected.items():
        np.testing.assert_array_equal(rows[name], value.astype(rows[name].dtype), err_msg=name)
    assert {name: value.dtype.name for name, value in rows.items()} == {
        name: 'bool' if name == 'valid' else 'float32' for name in rows
    }
    assert steps == expected['valid'].sum(1).tolist()
    assert means == pytest.approx(expected_means)
    # Both kinds of ends are there, and actions beyond the bounds.
    last = rows['valid'][:-1] & ~rows['valid'][1:]
    assert set(rows['masks'][:-1][last]) == {0, 1} and (np.abs(rows['actions']) == 0.5).any()


def test_the_next_observation_is_that_of_the_next_row():
    with Environments(SHORT, slots=2, seed=0, workers=1) as feed:
        rows, _ = collect(feed, 30)
    moved = rows['observations'][1:, :, 0] - rows['observations'][:-1, :, 0]
    valid = rows['valid'][:-1]
    np.testing.assert_allclose(moved[valid], rows['actions'][:-1, :, 0][valid], atol=1e-6)
    assert (np.abs(moved[~valid]) > 1e-3).any()  # a reset


@pytest.mark.parametrize('make_env', [SHORT, GUSTY])
def test_does_not_depend_on_the_number_of_workers(make_env):
    with Environments(make_env, slots=3, seed=1, workers=1) as one, Environments(make_env, slots=3, seed=1) as two:
        assert_same(collect(one, 20)[0], collect(two, 20)[0])


def test_seeds_matter():
    with Environments(SHORT, slots=1, seed=1) as one, Environments(SHORT, slots=1, seed=2) as two:
        assert (collect(one, 5)[0]['observations'] != collect(two, 5)[0]['observations']).any()


@pytest.mark.parametrize('make_env', [SHORT, GUSTY])
@pytest.mark.parametrize('calls', [0, 2, 7])
def test_goes_on_exactly_from_its_state(make_env, calls):
    with Environments(make_env, slots=3, seed=1, workers=2) as feed:
        for _ in range(calls):
            feed.next(act)
        state = json.dumps(feed.get_state())
        expected, steps = collect(feed, 20)
        means = feed.metrics()
    with Environments(make_env, slots=3, seed=1, workers=1) as feed:
        feed.set_state(json.loads(state))
        assert json.dumps(feed.get_state()) == state
        rows, again = collect(feed, 20)
        assert_same(rows, expected)
        assert (again, feed.metrics()) == (steps, means)
    assert not expected['valid'].all(0).any()  # every slot has seen an episode end


def test_goes_back_to_an_earlier_state():
    with Environments(SHORT, slots=2, seed=1) as feed:
        collect(feed, 3)
        state = feed.get_state()
        expected = collect(feed, 10)[0]
        feed.set_state(state)
        assert_same(collect(feed, 10)[0], expected)


def test_pixels_stay_bytes():
    with Environments(envs.Pictures, slots=2, seed=0) as feed:
        rows, _ = collect(feed, 8, lambda observations, fresh: np.zeros((2, 1)))
        assert feed.spaces.observation_dtype == np.uint8
        assert set(feed.metrics()) == {'online/return', 'online/length'}
        state = json.loads(json.dumps(feed.get_state()))
        expected = collect(feed, 3, lambda observations, fresh: observations[:, 0, 0, :1] / 256)[0]
    assert rows['observations'].dtype == np.uint8 and rows['observations'].shape == (8, 2, 4, 4, 3)
    np.testing.assert_array_equal(rows['valid'][:, 0], [True] * 5 + [False] + [True] * 2)
    with Environments(envs.Pictures, slots=2, seed=0) as feed:
        feed.set_state(state)
        assert_same(collect(feed, 3, lambda observations, fresh: observations[:, 0, 0, :1] / 256)[0], expected)


def test_a_policy_that_raises_changes_nothing():
    def fail(observations, fresh):
        observations[:], fresh[:] = 0, True
        raise KeyError

    with Environments(SHORT, slots=2, seed=3) as feed:
        first, _ = collect(feed, 3)
        with pytest.raises(KeyError):
            feed.next(fail)
        with pytest.raises(ValueError, match=r'act gave actions \(1, 1\), not \(2, 1\)'):
            feed.next(lambda observations, fresh: np.zeros((1, 1)))
        rest, _ = collect(feed, 3)
    with Environments(SHORT, slots=2, seed=3) as feed:
        assert_same({name: np.concatenate([first[name], rest[name]]) for name in first}, collect(feed, 6)[0])


@pytest.mark.parametrize(
    'make_env, error, message',
    [
        (envs.Dies, WorkerError, 'died: killed by SIGKILL'),
        (envs.Raises, WorkerError, 'ZeroDivisionError: the floor gave way'),
        (envs.Discrete, UserError, 'action_space .* needs a Box'),
    ],
)
def test_errors_of_workers_reach_the_parent_and_close(make_env, error, message):
    with Environments(make_env, slots=2, seed=0) as feed:
        with pytest.raises(error, match=message):
            feed.next(act)
        with pytest.raises(RuntimeError, match='closed'):
            feed.next(act)


def test_refuses_what_it_cannot_resume():
    with Environments(envs.Sealed, slots=1, seed=0) as feed:
        feed.next(act)
        with pytest.raises(UserError, match=r'env\.stream, a builtins:generator'):
            feed.get_state()
    with Environments(SHORT, slots=1, seed=0) as one, Environments(SHORT, slots=2, seed=0) as two:
        with pytest.raises(UserError, match='saved with 1 environments, not 2'):
            two.set_state(one.get_state())


# Whole transitions


def transitions_loop(slots, seed, calls):
    """The same with one environment a slot: an episode that ends is followed by the next within the call."""
    walks, seeds = [SHORT() for _ in range(slots)], iter([episode_seed(seed, n) for n in range(1000)])
    shown = [(walk.reset(seed=next(seeds))[0], True) for walk in walks]
    rewards, finished, rows = [[] for _ in walks], [], []
    for _ in range(calls):
        for i, (walk, (observation, fresh)) in enumerate(zip(walks, list(shown), strict=True)):
            observation = observation.astype(np.float32)
            action = np.clip(act(observation[None], np.array([fresh]))[0], -0.5, 0.5).astype(np.float32)
            after, reward, terminated, truncated, info = walk.step(action.astype(np.float64))
            rows.append((observation, action, reward, 1 - terminated, terminated or truncated, after))
            rewards[i].append(reward)
            shown[i] = after, False
            if terminated or truncated:
                finished.append((i, sum(rewards[i]), len(rewards[i]), info['success']))
                rewards[i] = []
        for i in range(slots):
            if rows[len(rows) - slots + i][4]:
                shown[i] = walks[i].reset(seed=next(seeds))[0], True
    columns = [np.array(column).reshape(calls, slots, *np.shape(column[0])) for column in zip(*rows, strict=True)]
    names = ('observations', 'actions', 'rewards', 'masks', 'ends', 'next_observations')
    return dict(zip(names, columns, strict=True)), finished


@pytest.mark.parametrize('workers', [1, 2])
def test_transitions_equal_a_plain_loop(workers):
    with Transitions(SHORT, members=2, slots=2, seed=5, workers=workers) as feed:
        rows, steps = collect(feed, 40)
        told = feed.metrics()
        assert np.isnan(feed.metrics()['online/return']).all()
    expected, finished = transitions_loop(4, 5, 40)
    for name, value in expected.items():
        np.testing.assert_array_equal(rows[name], value.astype(rows[name].dtype), err_msg=name)
    assert steps == [4] * 40  # the clock does not depend on how episodes end
    assert set(rows['masks'][rows['ends']]) == {0, 1}
    for member in range(2):
        own = np.mean([episode[1:] for episode in finished if episode[0] // 2 == member], axis=0)
        measured = [told[name][member] for name in ('online/return', 'online/length', 'online/success')]
        np.testing.assert_allclose(measured, own)


def test_transitions_go_on_after_a_stop():
    with Transitions(GUSTY, members=1, slots=3, seed=1, workers=2) as feed:
        collect(feed, 7)
        saved = json.loads(json.dumps(feed.get_state()))
        expected, _ = collect(feed, 13)
        told = feed.metrics()
    with Transitions(GUSTY, members=1, slots=3, seed=1, workers=1) as feed:
        feed.set_state(saved)
        again, _ = collect(feed, 13)
        assert_same(expected, again)
        np.testing.assert_array_equal(feed.metrics()['online/return'], told['online/return'])
