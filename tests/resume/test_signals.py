"""R3: SIGTERM and SIGINT at any time: the run saves, says how to go on, exits with 128 + the signal, resumes exactly.

Most of it in this process, with real signals; one program is killed and terminated as a batch system does it.
"""

import os
import shlex
import signal
import time

import numpy as np
import pytest
import tiny

from core_jax.driver import DeviceDriver
from fql_jax import api, collect, data

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    tiny.share_programs(monkeypatch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp('whole') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        tiny.share_programs(patch)
        assert tiny.train(directory) == 0
    return directory


def in_first_dispatch(patch, number):
    """While the first update is compiled and made."""
    advance = DeviceDriver.advance

    def interrupted(driver, updates):
        if driver.updates == 0:
            os.kill(os.getpid(), number)
        advance(driver, updates)

    patch.setattr(DeviceDriver, 'advance', interrupted)


def in_initialization(patch, number):
    initialize = DeviceDriver.initialize

    def interrupted(driver):
        os.kill(os.getpid(), number)
        initialize(driver)

    patch.setattr(DeviceDriver, 'initialize', interrupted)


WHEN = {
    'initialization': (in_initialization, 0),
    'first dispatch': (in_first_dispatch, 1),
    'training': (lambda patch, number: tiny.stop_at(patch, 7, number), 7),
    'evaluation': (lambda patch, number: tiny.stop_in_evaluation(patch, 6, number), 6),
    'last evaluation': (lambda patch, number: tiny.stop_in_evaluation(patch, 12, number), 12),
}


SLOW = ('initialization', 'training')  # much the same is in test_resume.py


@pytest.mark.parametrize('when', [pytest.param(w, marks=pytest.mark.slow) if w in SLOW else w for w in WHEN])
def test_signal_saves_says_how_to_go_on_and_resumes_exactly(when, whole, tmp_path, capsys):
    (interrupt, step), number = WHEN[when], INT if 'evaluation' in when else TERM
    handlers = [signal.getsignal(n) for n in (TERM, INT)]
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, number)
        assert tiny.train(tmp_path / 'run') == 128 + number
    assert [signal.getsignal(n) for n in (TERM, INT)] == handlers
    shown = capsys.readouterr()
    assert f'{signal.Signals(number).name}: saving, then stopping' in shown.err
    workdir = str(tmp_path / 'run')
    assert f'saved at step {step}; go on with: fql_jax.train(..., workdir={workdir!r}, resume=True)' in shown.out
    newest = max((tmp_path / 'run' / 'checkpoints').iterdir())
    assert newest.name == f'{step:010d}' and (newest / 'manifest.json').exists()
    if when == 'evaluation':  # was given up, and is made after the resume
        assert [row['kind'] for row in tiny.rows(tmp_path / 'run')] == ['train', 'train']
    assert tiny.train(tmp_path / 'run', resume=True) == 0
    tiny.assert_same_run(whole, tmp_path / 'run')


def test_second_signal_ends_at_once(monkeypatch):
    from core_jax import loop

    ended = []
    monkeypatch.setattr(os, '_exit', ended.append)
    with loop.Signals() as signals:
        os.kill(os.getpid(), INT)
        assert signals.requested() == INT and not ended
        os.kill(os.getpid(), TERM)
        assert ended == [128 + TERM]


def test_signal_while_collecting_keeps_what_is_there_and_touches_no_run(tmp_path, monkeypatch, capsys):
    """The collection itself is in tests/fql/test_collect.py; here an expert that is interrupted after each episode."""
    collected = []

    def collect_one_more(task, kind, episodes, *, out, should_stop, **_):
        collected.append(len(collected))
        if len(collected) < 3:
            os.kill(os.getpid(), TERM)
        if should_stop():
            raise collect.Interrupted
        np.savez(out, **tiny.arrays())
        return out

    monkeypatch.setattr(collect, 'collect', collect_one_more)
    monkeypatch.setattr(data, '_download', lambda *_: False)
    fields = {name: value for name, value in tiny.FIELDS.items() if name != 'env'} | {'data_dir': str(tmp_path)}
    words = {'fields': fields, 'make_env': tiny.Tiny, 'env': 'ogbench-cube', 'workdir': str(tmp_path / 'run')}
    for _ in range(2):
        with pytest.raises(api.loop.Preempted) as stopped:
            api.train(**words)
        assert stopped.value.status == 128 + TERM
        assert 'stopped while collecting; the same command goes on where this one stopped' in capsys.readouterr().out
        assert not (tmp_path / 'run').exists()
    api.train(**words)
    assert collected == [0, 1, 2] and (tmp_path / 'run' / 'summary.json').exists()


# As programs


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.05)


@pytest.fixture
def words(tmp_path):
    """The program's words for Tiny with slow evaluations. Its steps and data are those of `whole`."""
    np.savez(tmp_path / 'data.npz', **tiny.arrays())
    fields = {name: value for name, value in tiny.FIELDS.items() if name not in ('env', 'mesh')}
    fields['hidden_dims'] = 8
    where = [f'--workdir={tmp_path / "run"}', f'--dataset={tmp_path / "data.npz"}', '--env=tiny:Sleepy-v0']
    return [*where, '--mesh=data:1', *tiny.flags(fields)]


def logged(directory, step):
    path = directory / 'metrics.jsonl'
    return lambda: path.exists() and f'"step": {step},' in path.read_text()


def test_program_killed_and_then_terminated_in_an_evaluation_equals_the_run_that_was_not(whole, tmp_path, words):
    run = tmp_path / 'run'
    killed = tiny.program('fql_jax.main', *words)
    wait_for(logged(run, 6), killed)  # the evaluation at 6 takes two seconds; the newest checkpoint is that of 4
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    assert [path.name for path in (run / 'checkpoints').iterdir()] == ['0000000004']

    stopped = tiny.program('fql_jax.main', *words, '--resume')
    size = (run / 'metrics.jsonl').stat().st_size
    wait_for(lambda: (run / 'metrics.jsonl').stat().st_size < size, stopped)  # cut back to the checkpoint
    wait_for(logged(run, 6), stopped)
    stopped.send_signal(TERM)
    out, err = stopped.communicate()
    assert stopped.returncode == 143, err
    assert 'Traceback' not in err and 'SIGTERM: saving, then stopping' in err
    assert 'resumed at step 4' in out
    command = out.split('saved at step 6; go on with: ')[1].splitlines()[0]
    assert shlex.split(command) == ['python', '-m', 'fql_jax.main', *words, '--resume']

    assert api.run({}, workdir=str(run), resume=True) == 0
    tiny.assert_same_run(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize('number', [TERM, INT])
@pytest.mark.parametrize('seconds', [0.0, 0.5, 1.5])
def test_program_stopped_in_its_first_compilation(number, seconds, whole, tmp_path, words):
    """Cold: without a compilation cache it takes seconds."""
    program = tiny.program('fql_jax.main', *words, JAX_ENABLE_COMPILATION_CACHE='false')
    while 'compiling the first update' not in program.stdout.readline():
        pass
    time.sleep(seconds)
    program.send_signal(number)
    out, err = program.communicate()
    assert program.returncode == 128 + number and 'go on with: python -m fql_jax.main' in out, err
    assert tiny.rows(tmp_path / 'run') == []
    again = tiny.program('fql_jax.main', *words, '--resume')
    assert again.wait() == 0, again.communicate()[1]
    again.communicate()
    tiny.assert_same_run(whole, tmp_path / 'run')
