"""R1, R4, R6: a run that was stopped twice and resumed is the run that was not, bit for bit; wrong ones are refused."""

import functools
import os
import shutil
import signal
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from probes import EXAMPLE, ProbeFeed

from core_jax import loop, sources
from core_jax.checkpoint import Checkpoints
from core_jax.datasets import Batches
from core_jax.errors import UserError
from core_jax.host_driver import HostDriver
from core_jax.mesh import make_mesh
from core_jax.runs import Run
from core_jax.state import Learner, Trainable, descend, step_key, trainable

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    tiny.share_programs(monkeypatch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """FQL on Tiny for 12 updates, never stopped. (60 transitions in batches of 16: epochs end in between.)"""
    directory = tmp_path_factory.mktemp('whole') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        tiny.share_programs(patch)
        assert tiny.train(directory) == 0
    return directory


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of `whole` to damage."""
    return shutil.copytree(whole, tmp_path / 'run')


# The device driver, through the real trainer


@pytest.mark.parametrize('first, second', [(5, 10), (6, 11)])  # between log points; at a log point; at none of them
def test_fql_stopped_twice_equals_the_run_that_was_not(whole, tmp_path, first, second):
    directory = tmp_path / 'run'
    for step, number in ((first, TERM), (second, INT)):
        with pytest.MonkeyPatch.context() as patch:
            tiny.stop_at(patch, step, number)
            assert tiny.train(directory, resume=step == second) == 128 + number
        assert max((directory / 'checkpoints').glob('[0-9]*')).name == f'{step:010d}'
        assert not (directory / 'summary.json').exists()
    assert tiny.train(directory, resume=True) == 0
    tiny.assert_same_run(whole, directory)


def test_fql_killed_in_a_save_and_after_the_last_evaluation_equals_the_run_that_was_not(whole, tmp_path, monkeypatch):
    directory = tmp_path / 'run'
    killed = RuntimeError('killed')

    def die(*arguments, **keywords):
        raise killed

    with monkeypatch.context() as patch:  # half of a checkpoint is written
        patch.setattr(Checkpoints, '_complete', die)
        patch.setattr(shutil, 'rmtree', lambda *arguments, **keywords: None)
        with pytest.raises(UserError, match='could not save checkpoint .*0000000004.*killed'):
            tiny.train(directory)
    with monkeypatch.context() as patch:
        patch.setattr(Run, 'plot_curves', die)
        with pytest.raises(RuntimeError, match='killed'):
            tiny.train(directory, resume=True)
    assert not (directory / 'summary.json').exists()
    assert tiny.train(directory, resume=True) == 0
    tiny.assert_same_run(whole, directory)


def test_more_steps_on_a_finished_run_equal_a_longer_run(whole, finished, tmp_path, capsys):
    assert tiny.train(tmp_path / 'long', steps=18) == 0
    assert tiny.train(finished, resume=True, steps=18) == 0
    tiny.assert_same_run(tmp_path / 'long', finished)
    before = tiny.content(finished)
    with pytest.raises(UserError, match='stands at step 18 already; --steps=6'):
        tiny.train(finished, resume=True, steps=6)
    assert tiny.content(finished) == before


# R4


# (What else may be wrong with a checkpoint is in tests/core/test_checkpoint.py.)
@pytest.mark.parametrize(
    'damage',
    ['bit', pytest.param('truncated', marks=pytest.mark.slow), pytest.param('deleted', marks=pytest.mark.slow)],
)
def test_damaged_newest_checkpoint_is_named_and_the_one_before_it_is_used(whole, finished, damage, capsys):
    newest = finished / 'checkpoints' / '0000000012'
    (finished / 'summary.json').unlink()
    largest = max((p for p in (newest / 'state').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == 'deleted':
        largest.unlink()
    elif damage == 'truncated':
        os.truncate(largest, largest.stat().st_size // 2)
    else:
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    assert tiny.train(finished, resume=True) == 0
    shown = capsys.readouterr()
    assert (
        f'checkpoint {newest} is damaged: state/' in shown.err and 'going back to the checkpoint of step 8' in shown.err
    )
    assert 'resumed at step 8' in shown.out
    tiny.assert_same_run(whole, finished)


def test_leftover_of_a_killed_save_is_ignored(whole, finished, capsys):
    shutil.copytree(finished / 'checkpoints' / '0000000012', finished / 'checkpoints' / '0000000016.tmp')
    assert tiny.train(finished, resume=True) == 0
    assert '0000000016.tmp was left by a process that was killed' in capsys.readouterr().err
    tiny.assert_same_run(whole, finished)


# R6


@pytest.mark.parametrize(
    'wanted, difference',
    [
        ({'agent': 'iql'}, "agent: saved 'fql', wanted 'iql'"),
        ({'hidden_dims': (8, 16)}, r'hidden_dims: saved \(8,\), wanted \(8, 16\)'),
        ({'seed': 7}, 'seed: saved 0, wanted 7'),
        ({'preset': {'alpha': 3.0, 'tau': 0.5}}, 'alpha: saved 30.0, wanted 3.0; tau: saved 0.01, wanted 0.5'),
        ({'numerics.updates': 'loop'}, "numerics.updates: saved 'scan', wanted 'loop'"),
        ({'dataset': tiny.arrays(trajectories=9)}, 'data: saved '),
    ],
)
def test_resume_as_another_run_is_refused_with_the_difference_and_changes_nothing(finished, wanted, difference):
    before = tiny.content(finished)
    with pytest.raises(UserError, match=difference):
        tiny.train(finished, resume=True, **wanted)
    assert tiny.content(finished) == before


def test_checkpoint_of_another_run_is_refused_although_the_config_agrees(finished, tmp_path):
    assert tiny.train(tmp_path / 'other', seed=7, steps=4) == 0
    shutil.rmtree(finished / 'checkpoints')
    shutil.copytree(tmp_path / 'other' / 'checkpoints', finished / 'checkpoints')
    before = tiny.content(finished)
    with pytest.raises(UserError, match='is of another run: config.seed: saved 7, wanted 0'):
        tiny.train(finished, resume=True)
    assert tiny.content(finished) == before


# The driver fed by the host


@flax.struct.dataclass
class State:
    key: jax.Array
    step: jax.Array
    net: Trainable


def _linear() -> Learner:
    """Regresses rewards on observations and actions; acts by the same weights, with noise."""
    adam = optax.scale_by_adam()

    def init(key, batch):
        return State(key, jnp.zeros((), jnp.int32), trainable({'o': jnp.zeros(()), 'a': jnp.ones(())}, adam))

    def update(state, batch, hparams):
        noise = jax.random.normal(step_key(state), batch['rewards'].shape)

        def loss(net):
            guess = net['o'] * batch['observations'][:, 0] + net['a'] * batch['actions'][:, 0]
            return jnp.mean((guess + 0.1 * noise - batch['rewards']) ** 2)

        value, gradients = jax.value_and_grad(loss)(state.net.params)
        net = descend(state.net, gradients, adam, hparams['learning_rate'])
        return state.replace(step=state.step + 1, net=net), {'loss': value}

    def act(policy, memory, observations, key):
        return memory, jnp.tanh(policy['o'] * observations + policy['a'] * jax.random.normal(key, observations.shape))

    return Learner(init, update, act, lambda state: state.net.params, {'learning_rate': 0.1})


LINEAR = _linear()


class GrainFeed:
    """A stream of batches as a feed."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def next(self, act: Any) -> tuple[dict, int]:
        return next(self.batches), 1


def examples(count: int = 50) -> list[dict]:
    rng = np.random.default_rng(1)
    return [{'observations': rng.normal(size=1).astype('f'), 'actions': rng.normal(size=1).astype('f'),
             'rewards': np.float32(rng.normal())} for _ in range(count)]  # fmt: skip


@functools.cache
def stream_driver() -> HostDriver:
    """Batches of 16 of 50 examples by Grain, read ahead: an epoch ends in every fourth batch."""
    example = {name: jax.ShapeDtypeStruct((16, *x.shape), x.dtype) for name, x in examples(1)[0].items()}
    return HostDriver(LINEAR, sources.stream(example), mesh=make_mesh('data:1'), seeds=[2], feed=None)


@functools.cache
def online_driver() -> HostDriver:
    """A probe environment that asks the policy, into a ring that is full after 8 steps, 3 updates in 4 steps."""
    source = sources.online(EXAMPLE, capacity=32, batch_size=16)
    mesh = make_mesh('data:1')
    return HostDriver(LINEAR, source, mesh=mesh, seeds=[2], feed=None, ratio=0.75, warmup=8)


FEEDS = {
    stream_driver: lambda: sources.Prefetch(GrainFeed(Batches(examples(), 16, seed=3)), depth=3),
    online_driver: lambda: ProbeFeed('both', slots=4, seed=5),
}


def run_fed(directory, make_driver, stop=None, resume=False) -> loop.Progress | None:
    driver = make_driver()  # as it is after construction, but compiled
    driver.carry, driver.updates, driver.environment_steps, driver.calls, driver._memory = None, 0, 0, 0, None
    driver.feed = FEEDS[make_driver]()
    run = Run.open(directory, {}, paper='none', command='none', resume=resume)
    try:
        with loop.Signals() as signals, pytest.MonkeyPatch.context() as patch:
            tiny.stop_at(patch, stop, TERM)
            checkpoints = Checkpoints(directory / 'checkpoints')
            return loop.train(driver, run, checkpoints, loop.Schedule(12, 5, 0, 4), resume=resume, signals=signals)
    finally:
        run.close()
        if isinstance(driver.feed, sources.Prefetch):
            driver.feed.close()


@pytest.mark.parametrize('make_driver', [stream_driver, online_driver])
def test_host_driver_stopped_twice_equals_the_run_that_was_not(make_driver, tmp_path):
    run_fed(tmp_path / 'whole', make_driver)
    for step in (3, 7):
        with pytest.raises(loop.Preempted):
            run_fed(tmp_path / 'run', make_driver, stop=step, resume=step == 7)
    run_fed(tmp_path / 'run', make_driver, resume=True)
    tiny.assert_same_run(tmp_path / 'whole', tmp_path / 'run')
    assert [row['step'] for row in tiny.rows(tmp_path / 'run')] == [5, 10, 12]
    steps = [row['environment_steps'] for row in tiny.rows(tmp_path / 'run')]
    assert steps == ([5, 10, 12] if make_driver is stream_driver else [16, 24, 24])
