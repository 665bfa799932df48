"""Runs that go on online: what a stop in the middle of them must not change, and what they do."""

import os
import signal

import numpy as np
import pytest
import tiny

from core_jax.env_feed import Environments
from core_jax.errors import UserError

# 6 offline updates, then 9 steps in each of two environments of 6 steps an episode, 3 updates in 2 steps. The actions
# are chunks of 2, so that a stop falls inside of one.
ONLINE = {
    'steps': 6,
    'online_steps': 18,
    'online_envs': 2,
    'utd': 1.5,
    'balanced_sampling': True,
    'horizon': 2,
    'log_interval': 5,
    'eval_interval': 0,
    'save_interval': 7,
}
UPDATES = 6 + 27


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp('online') / 'whole'
    with pytest.MonkeyPatch.context() as patch:
        tiny.share_programs(patch)
        assert tiny.train(directory, **ONLINE) == 0
    return directory


@pytest.mark.parametrize('stops', [(3, 11), pytest.param((19, 26), marks=pytest.mark.slow)])
def test_online_run_stopped_twice_equals_the_run_that_was_not(whole, stops, tmp_path, monkeypatch):
    tiny.share_programs(monkeypatch)
    directory = tmp_path / 'run'
    for number, step in enumerate(stops):
        with monkeypatch.context() as patch:
            tiny.stop_at(patch, step, signal.SIGTERM)
            assert tiny.train(directory, resume=number > 0, **({} if number else ONLINE)) == 128 + signal.SIGTERM
    assert tiny.train(directory, resume=True) == 0
    tiny.assert_same_run(whole, directory)


WARM = {'steps': 0, 'online_steps': 14, 'online_envs': 2, 'warmup': 8, 'log_interval': 3, 'eval_interval': 0}


@pytest.mark.slow
def test_stop_in_the_warm_up_is_heard_at_once_and_loses_nothing(tmp_path, monkeypatch):
    tiny.share_programs(monkeypatch)
    assert tiny.train(tmp_path / 'whole', **WARM) == 0
    ask, calls = Environments.next, []

    def next_(self, act):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return ask(self, act)

    with monkeypatch.context() as patch:
        patch.setattr(Environments, 'next', next_)
        assert tiny.train(tmp_path / 'run', **WARM) == 128 + signal.SIGTERM
    assert len(calls) == 3
    assert tiny.train(tmp_path / 'run', resume=True) == 0
    tiny.assert_same_run(tmp_path / 'whole', tmp_path / 'run')


def test_clocks_and_episodes_of_an_online_run(whole):
    rows = [row for row in tiny.rows(whole) if row['kind'] == 'train']
    assert rows[-1]['step'] == UPDATES and rows[0]['environment_steps'] == 0
    for row in rows:
        # Two environments step at once, so the clock of the steps is even, and at most one call ahead.
        assert row['step'] <= 6 + 1.5 * row['environment_steps'] < row['step'] + 3 + 1.5
    seen = [row for row in rows if 'online/return' in row]
    assert seen and all(row['online/length'] == tiny.LENGTH for row in seen)
    ring = tiny.leaves(whole)
    added = {name: leaf for name, leaf in ring.items() if name.startswith('data/')}
    assert added and any(np.any(leaf) for leaf in added.values())


def test_what_an_online_run_cannot_become(whole):
    before = tiny.content(whole)
    for fields, message in (
        ({'online_steps': 20}, 'online_steps: saved 18, wanted 20'),
        ({'steps': 7}, 'steps: saved 6, wanted 7'),
    ):
        with pytest.raises(UserError, match=message):
            tiny.train(whole, resume=True, **fields)
    assert tiny.content(whole) == before


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'online_steps': 5, 'seeds': 2}, 'an online run has one seed'),
        ({'online_steps': 5, 'warmup': 5}, 'the 5 online steps end within the 5 of warm-up'),
        ({'balanced_sampling': True}, 'balanced_sampling mixes offline and online data'),
        ({'steps': 0}, 'nothing to do: 0 offline updates, 0 online steps'),
        ({'online_steps': 5, 'utd': 0.0}, 'utd must be above 0'),
    ],
)
def test_what_an_online_run_cannot_be(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        tiny.train(tmp_path / 'run', **fields)
    assert not (tmp_path / 'run').exists()
