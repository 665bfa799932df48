"""A run of scaling.utd whole: what it leaves, that a population is its members, and that stops change nothing."""

import csv
import json
import os
import shlex
import shutil
import signal
import sys
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_utd
from tiny_utd import DEVICE, HOST

from core_jax.env_feed import Transitions
from core_jax.errors import UserError
from core_jax.host_driver import updates_due
from core_jax.runs import Run
from core_jax.slots import Slots
from scaling import utd
from scaling.utd import analytic, api, main, settings

TERM, INT = signal.SIGTERM, signal.SIGINT
UPDATES = 90
TWO = {'seeds': 2}
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    tiny_utd.share_programs(monkeypatch)


def finished(factory, fields):
    directory = factory.mktemp('utd') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        tiny_utd.share_programs(patch)
        assert tiny_utd.train(directory, fields) == 0
    return directory


@pytest.fixture(scope='module')
def solo(tmp_path_factory):
    """On the device, never stopped."""
    return finished(tmp_path_factory, DEVICE)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """Two seeds as a population, never stopped."""
    return finished(tmp_path_factory, DEVICE | TWO)


@pytest.fixture(scope='module')
def host(tmp_path_factory):
    """In worker processes, never stopped."""
    return finished(tmp_path_factory, HOST)


def rows(directory, kind='train', member=None):
    """Rows of one kind and member, without the clock's fields and the member."""
    found = [row for row in tiny.rows(directory) if row['kind'] == kind and row.get('member') == member]
    return [{name: value for name, value in row.items() if name != 'member'} for row in found]


# What a run leaves


def test_run_directory(solo):
    names = {path.name for path in solo.iterdir()}
    assert {'config.json', 'metrics.jsonl', 'eval.csv', 'summary.json', 'checkpoints', 'policy.npz'} <= names
    head = json.loads((solo / 'config.json').read_text())
    # Two critics of (3 + 1) x 8 and 8 x 1 weights with their biases, no targets.
    assert head['paper'] == 'utd' and head['model_size'] == 2 * (4 * 8 + 8 + 8 + 1)
    assert head['config']['batch_size'] == 8 and head['numerics']['population'] == 'map'
    summary = tiny.summary(solo)
    assert summary['steps'] == UPDATES and summary['environment_steps'] == 1_000 and summary['seed'] == 0
    assert summary['model_size'] == head['model_size'] and summary['frozen_members'] == []
    assert summary['members'][0]['hparams']['critic_learning_rate'] == pytest.approx(1e-3)
    value = summary['metrics']['return']
    assert value['low'] <= value['value'] <= value['high'] and value['n'] == 2
    with open(solo / 'eval.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert [int(row['step']) for row in table] == [40, 80, 90]
    assert float(table[-1]['return']) == value['value'] and float(table[-1]['length']) == 200


def test_rows_of_the_log(solo):
    found = rows(solo)
    assert [row['step'] for row in found] == [20, 40, 60, 80, 90]
    assert [row['environment_steps'] for row in found] == [300, 500, 700, 900, 1_000]
    measures = {f'td_error/{name}' for name in ('fresh', 'replayed', 'overfitting', 'held_out')}
    learner = {'critic/loss', 'actor/loss', 'temperature/alpha', 'grad_norm'}
    for row in found:
        assert measures | learner | {'norm/critic', 'norm/actor', 'online/return', 'online/length'} <= row.keys()
        assert all(np.isfinite(row[name]) for name in measures | learner)
        assert row['td_error/overfitting'] == pytest.approx(row['td_error/fresh'] - row['td_error/replayed'], abs=1e-3)
    # All four episodes end at step 800.
    assert [row['online/length'] for row in found] == ['nan', 'nan', 'nan', 200.0, 'nan']
    assert 0 <= found[3]['online/return'] <= 1_000


def test_rows_of_the_log_on_the_host(host):
    found = rows(host)
    assert [row['step'] for row in found] == [12, 24, 33]
    assert [row['environment_steps'] for row in found] == [16, 24, 30]
    assert [row['online/length'] for row in found] == [6.0, 6.0, 'nan']  # the third ones end after step 36
    assert found[0]['online/return'] < 0 and found[1]['online/return'] < 0
    assert all('td_error/held_out' not in row for row in found)
    assert all(np.isfinite(row['td_error/overfitting']) for row in found)
    assert [row['step'] for row in rows(host, 'eval')] == [24, 33]


def test_a_policy_loads_and_acts(solo, pair):
    policy = utd.load_policy(solo)
    actions = policy(np.zeros((5, 3), np.float32))
    assert actions.shape == (5, 1) and np.abs(actions).max() <= 1
    member = utd.load_policy(pair / 'policy_0.npz')
    np.testing.assert_array_equal(member(np.ones((2, 3), np.float32)), policy(np.ones((2, 3), np.float32)))


def test_evaluation_counts_an_episode_until_it_ends():
    """Against a loop: states count on from 0 to 2, the action is 2 (clipped to 1), an episode ends at 4 or 3 steps."""

    def step(state, action):
        return (state[0] + 1, state[1] + 1), analytic.Outcome(state[0] + action[0], state[0] + 1 >= 4)

    def reset(key):
        return jax.random.randint(key, (), 0, 3).astype(jnp.float32), jnp.float32(0)

    environment = analytic.Environment('counter', 1, 1, 3, reset, step, lambda state: state[0][None])
    learner = types.SimpleNamespace(
        memory=lambda count: jnp.zeros(count),
        act=lambda policy, memory, observations, key: (memory + 1, jnp.full((len(memory), 1), policy)),
    )
    returns, lengths = api.evaluate(environment, learner, jnp.float32(2.0), jax.random.key(1), episodes=12)
    known = {2: (2 + 3 + 2, 2), 1: (1 + 2 + 3 + 3, 3), 0: (0 + 1 + 2 + 3, 3)}  # first state: (return, length)
    assert set(zip(returns.tolist(), lengths.tolist(), strict=True)) == set(known.values())


@SLOW
@pytest.mark.parametrize('agent', settings.AGENTS)
def test_debug_run_of_every_agent(agent, tmp_path):
    api.train(fields={'agent': agent, 'mesh': 'data:1'}, debug=True, workdir=str(tmp_path / 'run'))
    assert tiny.summary(tmp_path / 'run')['steps'] == settings.total_updates(
        settings.resolve({'agent': agent}, debug=True)
    )


# The ratio


@pytest.mark.parametrize(
    'fields, ratio, updates',
    [
        (DEVICE | {'utd': 0.1875, 'log_interval': 320, 'eval_interval': 0, 'save_interval': 0}, '3/16', 168),
        (HOST | {'utd': 2 / 3, 'log_interval': 6, 'eval_interval': 0, 'save_interval': 0}, '2/3', 14),
    ],
    ids=['device', 'host'],
)
def test_updates_are_the_floor_and_never_early(fields, ratio, updates, tmp_path):
    """168.75 and 14.67: the last part of an update is not made. Programs of another ratio are used again."""
    ratio, warmup, envs = Fraction(ratio), fields['warmup'], fields['envs']
    assert tiny_utd.train(tmp_path / 'run', fields) == 0
    assert tiny.summary(tmp_path / 'run')['steps'] == updates == int(ratio * (fields['steps'] - warmup))
    found = rows(tmp_path / 'run')
    assert found[-1]['step'] == updates
    for row in found:
        steps = row['environment_steps']
        assert updates_due(steps - envs, ratio, warmup) < row['step'] <= updates_due(steps, ratio, warmup)


def test_programs_are_traced_once(solo, host):
    from scaling.utd import fleet

    drivers = list(fleet.Programs()._drivers.values())
    assert len(drivers) >= 2 and all(driver.traces <= 1 for driver in drivers)


# Populations


def assert_member_is(directory, member, alone):
    for kind in ('train', 'eval'):
        assert rows(directory, kind, member) == rows(alone, kind)
    with np.load(directory / f'policy_{member}.npz') as a, np.load(alone / 'policy.npz') as b:
        arrays = [name for name in a.files if name != 'config.json']
        assert arrays and a.files == b.files
        for name in arrays:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_seeds_of_a_population_are_their_own_runs(solo, pair, tmp_path):
    assert tiny_utd.train(tmp_path / 'other', seed=1) == 0
    assert_member_is(pair, 0, solo)
    assert_member_is(pair, 1, tmp_path / 'other')
    metrics = tiny.summary(pair)['metrics']
    values = [metrics[f'member_{member}/return']['value'] for member in (0, 1)]
    assert metrics['return']['value'] == pytest.approx(np.mean(values)) and metrics['return']['n'] == 2


@pytest.mark.slow
def test_learning_rates_of_a_population_are_their_own_runs(solo, tmp_path):
    assert tiny_utd.train(tmp_path / 'pair', vary='learning_rate:3e-3,1e-3') == 0
    assert tiny_utd.train(tmp_path / 'alone', learning_rate=3e-3) == 0
    assert_member_is(tmp_path / 'pair', 0, tmp_path / 'alone')
    assert_member_is(tmp_path / 'pair', 1, solo)
    rates = [member['hparams']['actor_learning_rate'] for member in tiny.summary(tmp_path / 'pair')['members']]
    np.testing.assert_allclose(rates, [3e-3, 1e-3], rtol=1e-6)


@SLOW  # what `diagnose` compiles
def test_a_member_that_blows_up_is_named_and_the_other_goes_on(solo, tmp_path, capsys):
    assert tiny_utd.train(tmp_path / 'run', vary='learning_rate:1e-3,1e38') == 0
    assert 'member 1 (seed 0) went non-finite at step' in capsys.readouterr().out
    summary = tiny.summary(tmp_path / 'run')
    assert summary['frozen_members'] == [1] and summary['members'][1]['frozen_at'] <= 5
    assert 'member_1/return' not in summary['metrics']
    assert rows(tmp_path / 'run', member=0) == rows(solo)


# Stops


def stopped(directory, fields, *interruptions):
    """A run that each of `interruptions` (a function of a patch, a signal) stops; nothing stops the last part."""
    for count, (interrupt, number) in enumerate(interruptions):
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, number)
            assert tiny_utd.train(directory, None if count else fields, resume=count > 0) == 128 + number
        assert not (directory / 'summary.json').exists()
    assert tiny_utd.train(directory, resume=True) == 0


def at(step):
    return lambda patch, number: tiny.stop_at(patch, step, number)


def in_evaluation(step):
    return lambda patch, number: tiny_utd.stop_in_evaluation(patch, step, number)


@pytest.mark.parametrize('first, second', [(13, 80), pytest.param(40, 89, marks=SLOW)])
def test_device_run_stopped_twice_equals_the_run_that_was_not(solo, first, second, tmp_path):
    stopped(tmp_path / 'run', DEVICE, (at(first), TERM), (at(second), INT))
    tiny.assert_same_run(solo, tmp_path / 'run')


def test_population_stopped_in_training_and_in_an_evaluation_equals_the_run_that_was_not(pair, tmp_path):
    stopped(tmp_path / 'run', DEVICE | TWO, (in_evaluation(40), TERM), (at(71), INT))
    tiny.assert_same_run(pair, tmp_path / 'run')
    for member in (0, 1):
        assert (tmp_path / 'run' / f'policy_{member}.npz').exists()
    assert tiny.summary(tmp_path / 'run')['metrics'] == tiny.summary(pair)['metrics']


def test_host_run_stopped_in_episodes_and_in_an_evaluation_equals_the_run_that_was_not(host, tmp_path, monkeypatch):
    saved, get_state = [], Transitions.get_state

    def noting(feed):
        saved.append(feed._state['lengths'].tolist())
        return get_state(feed)

    with monkeypatch.context() as patch:
        patch.setattr(Transitions, 'get_state', noting)
        stopped(tmp_path / 'run', HOST, (at(7), TERM), (in_evaluation(24), INT), (at(29), TERM))
    assert any(0 < lengths[0] < tiny.LENGTH for lengths in saved[1:]), saved  # the middle of an episode was saved
    tiny.assert_same_run(host, tmp_path / 'run')


@pytest.mark.slow
@SLOW  # another compilation; tests/core/test_env_feed.py has such feeds
def test_host_population_stopped_equals_the_run_that_was_not(tmp_path):
    assert tiny_utd.train(tmp_path / 'whole', HOST | TWO) == 0
    assert {row['member'] for row in tiny.rows(tmp_path / 'whole')} == {0, 1}
    stopped(tmp_path / 'run', HOST | TWO, (at(20), TERM))
    tiny.assert_same_run(tmp_path / 'whole', tmp_path / 'run')


def test_host_run_is_the_same_with_other_workers(host, tmp_path):
    assert tiny_utd.train(tmp_path / 'run', HOST, workers=2) == 0
    assert rows(tmp_path / 'run') == rows(host) and rows(tmp_path / 'run', 'eval') == rows(host, 'eval')


@SLOW
def test_dm_control_run_stopped_in_an_episode_equals_the_run_that_was_not(tmp_path):
    """MuJoCo's whole integration state is saved, not only positions and speeds."""
    fields = HOST | {'env': 'cartpole-swingup', 'envs': 1, 'eval_interval': 0, 'eval_episodes': 1}
    assert tiny_utd.train(tmp_path / 'whole', fields) == 0
    stopped(tmp_path / 'run', fields, (at(11), TERM), (at(20), INT))
    tiny.assert_same_run(tmp_path / 'whole', tmp_path / 'run')


def test_killed_after_the_last_evaluation_makes_it_once(solo, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Run, 'plot_curves', lambda run: (_ for _ in ()).throw(RuntimeError('killed')))
        with pytest.raises(RuntimeError, match='killed'):
            tiny_utd.train(tmp_path / 'run')
    assert not (tmp_path / 'run' / 'summary.json').exists()
    monkeypatch.setattr(api.Evaluation, '__call__', lambda *_: pytest.fail('evaluated again'))
    assert tiny_utd.train(tmp_path / 'run', resume=True) == 0
    tiny.assert_same_run(solo, tmp_path / 'run')


def test_a_stop_in_the_warm_up_on_the_host_is_heard_at_once_and_loses_nothing(host, tmp_path, monkeypatch):
    ask, calls = Transitions.next, []

    def next_(feed, act):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), TERM)
        return ask(feed, act)

    with monkeypatch.context() as patch:
        patch.setattr(Transitions, 'next', next_)
        assert tiny_utd.train(tmp_path / 'run', HOST) == 128 + TERM
    assert len(calls) == 2  # of four without an update
    assert tiny_utd.train(tmp_path / 'run', resume=True) == 0
    tiny.assert_same_run(host, tmp_path / 'run')


def test_last_observations_are_the_true_ones_and_time_limits_bootstrap(host):
    """The third observation of Tiny is the share of the episode that is gone; an episode ends after 6 steps."""
    leaves = tiny.leaves(host)
    ring = {name.rpartition('/')[2]: leaf[0] for name, leaf in leaves.items() if name.startswith('data/')}
    count, slots = 30, 2
    time, after = ring['observations'][:count, 2], ring['next_observations'][:count, 2]
    expected = np.repeat(np.arange(count // slots) % tiny.LENGTH, slots) / tiny.LENGTH
    np.testing.assert_allclose(time, expected, atol=1e-6)
    np.testing.assert_allclose(after, expected + 1 / tiny.LENGTH, atol=1e-6)  # 1 at the end, not the 0 of the reset
    ends = ring['ends'][:count]
    np.testing.assert_array_equal(ends, np.isclose(after, 1.0))
    np.testing.assert_array_equal(ring['masks'][:count], np.ones(count))
    moved = ring['observations'][:count, :2] + 0.2 * ring['actions'][:count]
    np.testing.assert_allclose(ring['next_observations'][:count, :2], moved, atol=1e-6)


def test_worker_processes_are_gone_after_a_run(host, tmp_path, monkeypatch):
    made, init = [], Slots.__init__
    monkeypatch.setattr(Slots, '__init__', lambda slots, *a, **k: (made.append(slots), init(slots, *a, **k))[1])
    with pytest.MonkeyPatch.context() as patch:
        tiny.stop_at(patch, 3, TERM)
        assert tiny_utd.train(tmp_path / 'run', HOST) == 143
    assert len(made) == 2 and not any(slots.workers for slots in made)


# Another run, and the command


def test_what_is_there_is_refused_or_kept(solo, tmp_path):
    copy = shutil.copytree(solo, tmp_path / 'run')
    before = tiny.content(copy)
    with pytest.raises(UserError, match='holds a run; continue it with --resume or start over with --overwrite'):
        tiny_utd.train(copy)
    with pytest.raises(UserError, match='another run than the saved one: utd: saved 0.1, wanted 0.2'):
        tiny_utd.train(copy, resume=True, utd=0.2)
    head = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps(head | {'paper': 'fql'}))
    with pytest.raises(UserError, match='holds a run of fql, which another program makes'):
        tiny_utd.train(copy, resume=True)
    (copy / 'config.json').write_bytes(before['config.json'])
    assert tiny.content(copy) == before


@pytest.fixture
def command(monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['main', *map(str, words)])
        return main.main()

    return run


def test_sigterm_gives_143_and_the_command_that_it_prints_goes_on(solo, command, tmp_path, monkeypatch, capsys):
    words = [*tiny_utd.words(DEVICE), f'--workdir={tmp_path / "run"}']
    with monkeypatch.context() as patch:
        tiny.stop_at(patch, 33, TERM)
        assert command(*words) == 143
    shown = capsys.readouterr()
    assert 'SIGTERM: saving, then stopping' in shown.err
    printed = shlex.split(shown.out.split('saved at step 33; go on with: ')[1].splitlines()[0])
    assert printed == ['python', '-m', 'scaling.utd.main', *words, '--resume']
    assert command(*printed[3:]) == 0
    assert 'resumed at step 33' in capsys.readouterr().out
    tiny.assert_same_run(solo, tmp_path / 'run')


@pytest.mark.slow
@SLOW
def test_program_killed_and_terminated_equals_the_run_that_was_not(host, tmp_path):
    words = [*tiny_utd.words(HOST | {'env': 'tiny:Sleepy-v0'}), f'--workdir={tmp_path / "run"}']
    metrics = tmp_path / 'run' / 'metrics.jsonl'

    def wait_for(process, text):
        while not (metrics.exists() and text in metrics.read_text()):
            assert process.poll() is None, process.communicate()[1]

    killed = tiny.program('scaling.utd.main', *words)
    wait_for(killed, '"step": 12,')
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    terminated = tiny.program('scaling.utd.main', *words, '--resume')
    wait_for(terminated, '"step": 24,')
    terminated.send_signal(TERM)
    out, err = terminated.communicate()
    assert terminated.returncode == 143 and 'Traceback' not in err, err
    again = tiny.program(*shlex.split(out.split('go on with: ')[1].splitlines()[0])[2:])
    assert again.wait() == 0, again.communicate()[1]
    again.communicate()
    tiny.assert_same_run(host, tmp_path / 'run')


@pytest.mark.parametrize(
    'words, message',
    [
        (['--utd=4', '--config.log_interval=0'], 'log_interval must be at least 1'),
        (['--env=pendulun'], "did you mean 'pendulum'?"),
        (['--step=3'], "unknown flag '--step'; did you mean '--steps'?"),
        (['--mesh=population:2'], '1 members do not divide over the mesh axis population:2'),
        (['--resume'], '--resume needs --workdir'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_wrong_words(words, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        command(*words)
    assert message in str(refused.value) and not list(tmp_path.iterdir())
