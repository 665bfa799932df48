"""Bad input gives one line that begins with 'error:', an exit status that is not 0, and nothing on disk is lost.

`command` is the program in this process: what `python -m fql_jax.main` does after its imports.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny

from core_jax.errors import exit_on_user_error
from fql_jax import main


@pytest.fixture(autouse=True)
def shared(monkeypatch, tmp_path):
    tiny.share_programs(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path / 'data'))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished run of two updates, and its data beside it."""
    folder = tmp_path_factory.mktemp('trained')
    np.savez(folder / 'data.npz', **tiny.arrays())
    with pytest.MonkeyPatch.context() as patch:
        tiny.share_programs(patch)
        patch.setattr(sys, 'argv', ['main', *words(folder), f'--workdir={folder / "run"}'])
        assert main.main() == 0
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(trained, tmp_path / 'copy')


def words(folder, **fields):
    fields = tiny.FIELDS | {'hidden_dims': 8, 'steps': 2, 'eval_interval': 0} | fields
    named = ('env', 'steps', 'mesh', 'seeds')
    flags = [f'--{name}={fields.pop(name)}' for name in named if name in fields]
    return [*flags, f'--dataset={folder / "data.npz"}', *tiny.flags(fields)]


@pytest.fixture
def command(monkeypatch, capsys):
    """command(words) -> (exit status, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['main', *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            exit_on_user_error(main.main)
        return ended.value.code, capsys.readouterr().err

    return run


def assert_refused(outcome, *parts, status=2):
    code, err = outcome
    assert code == status, err
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), err
    for part in parts:
        assert part in err


# Names and values


@pytest.mark.parametrize(
    'wrong, message',
    [
        (['--env=ogbench-cub'], "unknown environment 'ogbench-cub'; did you mean 'ogbench-cube'?"),
        (['--env=tiny:Nothing-v0'], "cannot find environment 'tiny:Nothing-v0'"),
        (['--env=no_such_module:Tiny-v0'], "No module named 'no_such_module'"),
        (['--env=Pendulum-v1', '--dataset='], 'Pendulum-v1 has no data of its own; give --dataset=FILE.npz'),
        (['--env=ogbench-cube-navigate'], "cube-single has no 'navigate' data; it has play, noisy"),
        (['--agent=fgl'], "unknown agent 'fgl'; did you mean 'fql'?"),
        (['--config.alhpa=3'], "unknown config field 'alhpa'; did you mean 'alpha'?"),
        (['--config.numerics.populaton=map'], "did you mean 'numerics.population'?"),
        (['--step=3'], "unknown flag '--step'; did you mean '--steps'?"),
        (['word'], "unexpected argument 'word'"),
        (['--config.alpha'], '--config.alpha needs a value'),
        (['--steps=many'], "argument --steps: invalid int value: 'many'"),
        (['--mesh=date:2'], "unknown mesh axis 'date'; did you mean 'data'?"),
        (['--mesh=data:16'], 'mesh data:16 needs 16 devices, 8 found (cpu)'),
        (['--mesh=data:x'], "cannot read mesh 'data:x'"),
        (['--mesh=population:2'], '1 members do not divide over the mesh axis population:2'),
        (['--steps=0'], 'nothing to do: 0 offline updates, 0 online steps'),
        (['--steps=-5'], 'steps must be at least 0, got -5'),
        (['--seeds=0'], 'seeds must be at least 1, got 0'),
        (['--seed=-1'], 'seed must be at least 0, got -1'),
        (['--seed=4294967296'], 'seeds lie below 2**32'),
        (['--config.batch_size=0'], 'batch_size must be at least 1, got 0'),
        (['--config.eval_episodes=-1'], 'eval_episodes must be at least 1, got -1'),
        (['--config.save_interval=-1'], 'save_interval must be at least 0, got -1'),
        (['--config.workers=-1'], 'workers must be at least 0, got -1'),
        (['--config.hidden_dims=8,0'], 'hidden_dims must be widths of at least 1'),
        (['--config.batch_size=1.5'], 'config field batch_size is an integer, got 1.5'),
        (['--config.alpha=high'], "config field alpha is a number; cannot read 'high'"),
        (['--config.alpha=nan'], "config field alpha is a number; cannot read 'nan'"),
        (['--config.video=maybe'], "config field video is true or false; cannot read 'maybe'"),
        (['--config.numerics.updates=scam'], "unknown value of numerics.updates 'scam'; did you mean 'scan'?"),
        (['--vary=alpa:1,2'], "unknown hyperparameter to vary 'alpa'; did you mean 'alpha'?"),
        (['--vary=alpha:1,x'], "cannot read 'alpha:1,x'"),
        (['--resume'], '--resume needs --workdir'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_wrong_names_and_values(wrong, message, command, trained, tmp_path):
    assert_refused(command(*words(trained), *wrong), message)
    assert not (tmp_path / 'runs').exists()


PRESETS = {
    'syntax.py': ('def get_config(:', 'preset syntax.py does not load: SyntaxError'),
    'empty.py': ('', "preset empty.py does not load: AttributeError: module 'preset' has no attribute 'get_config'"),
    'field.py': ("get_config = lambda: {'alhpa': 1.0}", "unknown config field 'alhpa'; did you mean 'alpha'?"),
    'type.py': ("get_config = lambda: {'alpha': None}", 'config field alpha is a number, got None'),
}


@pytest.mark.parametrize('name', PRESETS)
def test_broken_preset(name, command, trained, tmp_path):
    text, message = PRESETS[name]
    (tmp_path / name).write_text(text)
    assert_refused(command(*words(trained), f'--config={name}'), message)


def test_missing_preset_names_the_nearest(command, trained, tmp_path):
    assert_refused(command(*words(trained), '--config=smal.py'), 'no preset at smal.py')
    (tmp_path / 'small.py').write_text('')
    assert_refused(command(*words(trained), '--config=smal.py'), "did you mean 'small.py'?")


# Data


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def rewritten(**changes):
    def rewrite(path):
        arrays = tiny.arrays() | changes
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})

    return rewrite


def with_nan():
    rewards = tiny.arrays()['rewards']
    rewards[7] = np.nan
    return rewards


BAD_DATA = {
    'missing': (lambda path: path.unlink(), 'there is no dataset'),
    'truncated': (truncated, 'is no npz file, or a damaged one'),
    'no npz': (lambda path: path.write_bytes(b'hello'), 'is no npz file, or a damaged one'),
    'NaN': (rewritten(rewards=with_nan()), "'rewards' has a NaN or infinite number in row 7"),
    'no key': (rewritten(terminals=None), "there is no 'terminals'"),
    'rank': (rewritten(actions=np.zeros(60)), "'actions' has shape (60,); it should have 2 axes"),
    'lengths': (rewritten(actions=np.zeros((59, 2))), 'lengths differ'),
    'width of observations': (
        rewritten(observations=np.zeros((60, 4))),
        'the data have observations of shape (4,), the environment (3,)',
    ),
    'width of actions': (
        rewritten(actions=np.zeros((60, 1))),
        'the data have actions of shape (1,), the environment (2,)',
    ),
    'scale': (rewritten(actions=np.full((60, 2), 2.0)), 'actions reach 2; scale them'),
    'too large for float32': (
        rewritten(rewards=np.full(60, 1e300)),
        "in float32: 'rewards' has a NaN or infinite number",
    ),
    'objects': (rewritten(rewards=np.array([None] * 60)), "cannot read 'rewards'"),
}


@pytest.mark.parametrize('name', BAD_DATA)
def test_bad_data_and_overwrite_keep_the_old_run(name, command, copy):
    spoil, message = BAD_DATA[name]
    spoil(copy / 'data.npz')
    before = tiny.content(copy / 'run')
    assert_refused(command(*words(copy), f'--workdir={copy / "run"}', '--overwrite'), message)
    assert tiny.content(copy / 'run') == before


# Run directories


def test_existing_run_needs_resume_or_overwrite(command, copy):
    workdir = f'--workdir={copy / "run"}'
    before = tiny.content(copy / 'run')
    assert_refused(command(*words(copy), workdir), 'holds a run; continue it with --resume or start over with --over')
    assert_refused(command(*words(copy), workdir, '--resume', '--overwrite'), 'give one of them, not both')
    assert_refused(command(*words(copy), f'--workdir={copy}', '--overwrite'), 'is not a run directory')
    assert_refused(command(*words(copy), f'--workdir={copy / "data.npz"}'), 'is a file')
    assert tiny.content(copy / 'run') == before
    assert command(*words(copy), workdir, '--overwrite')[0] == 0
    assert {name for name in tiny.content(copy / 'run') if 'state' not in name} == {
        n for n in before if 'state' not in n
    }


def test_two_runs_on_one_directory_at_once(command, trained, copy):
    holder = f'import fcntl, sys; f = open({str(copy / "run" / ".lock")!r}, "a"); fcntl.flock(f, fcntl.LOCK_EX); '
    program = [sys.executable, '-c', holder + 'print("held", flush=True); sys.stdin.read()']
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b'held\n'
        before = tiny.content(copy / 'run')
        for flag in ('--resume', '--overwrite'):
            outcome = command(*words(trained), f'--workdir={copy / "run"}', flag)
            assert_refused(outcome, 'another process is writing')
        assert tiny.content(copy / 'run') == before
        other.stdin.close()


# Bad numbers (R5)


def test_rewards_that_blow_up_stop_the_run_with_its_metrics_on_disk(command, copy):
    rewritten(rewards=np.full(60, 1e30))(copy / 'data.npz')
    outcome = command(*words(copy), f'--workdir={copy / "bad"}', '--steps=6', '--config.log_interval=2')
    assert_refused(outcome, 'non-finite at step 1', 'metrics/critic/loss', status=1)
    (row,) = tiny.rows(copy / 'bad')
    assert row['step'] == 1 and row['nonfinite'] is True and row['critic/loss'] == 'inf'
    assert not (copy / 'bad' / 'summary.json').exists() and not list((copy / 'bad').glob('checkpoints/0*'))


@pytest.mark.slow  # compiles a population; tests/core/test_driver.py has the freezing itself in seconds
def test_non_finite_member_is_frozen_and_named_and_the_others_go_on(command, copy, capsys):
    flags = ['--vary=learning_rate:1e-3,1e38', '--steps=6', f'--workdir={copy / "two"}']
    code, err = command(*words(copy, log_interval=2), *flags)
    assert code == 0, err
    rows, summary = tiny.rows(copy / 'two'), tiny.summary(copy / 'two')
    assert summary['frozen_members'] == [1]
    assert [row['step'] for row in rows if row['kind'] == 'train' and row['member'] == 0] == [2, 4, 6]
    (bad,) = [row for row in rows if row.get('nonfinite')]
    assert bad['member'] == 1 and bad['step'] <= 4
    assert {row['member'] for row in rows if row['kind'] == 'eval'} == {0}
    assert 'member_0/return' in summary['metrics'] and 'member_1/return' not in summary['metrics']
    assert sorted(path.name for path in copy.glob('two/policy_*.npz')) == ['policy_0.npz', 'policy_1.npz']


# Things that are missing


def test_full_disk_while_saving_keeps_what_was_there(command, copy, tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=640k', 'tmpfs', disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f'cannot mount a file system: {mounted.stderr.decode().strip()}')
    try:
        run = disk / 'run'
        flags = [*words(copy, save_interval=2), f'--workdir={run}']
        assert command(*flags)[0] == 0
        filler = disk / 'filler'
        with open(filler, 'wb', buffering=0) as file:
            file.write(bytes(640 << 10))  # as much as there is room for
        before = tiny.content(run / 'checkpoints')
        outcome = command(*flags, '--resume', '--steps=4', '--config.log_interval=3')
        assert outcome[0] == 2 and 'error: could not' in outcome[1] and 'no space left' in outcome[1], outcome
        assert tiny.content(run / 'checkpoints') == before
        filler.unlink()
        assert command(*flags, '--resume', '--steps=4', '--config.log_interval=3')[0] == 0
    finally:
        subprocess.run(['umount', disk], check=True)


def test_without_a_renderer_the_run_succeeds_and_says_what_to_install(command, copy, capsys, monkeypatch):
    monkeypatch.setattr('builtins.print', lambda *words, **_: said.extend(map(str, words)))
    said = []
    outcome = command(*words(copy), f'--workdir={copy / "blind"}', '--config.video=true')
    assert outcome[0] == 0 and (copy / 'blind' / 'summary.json').exists()
    (line,) = [line for line in said if line.startswith('no video: ')]
    assert 'libEGL.so.1' in line and '\n' not in line
