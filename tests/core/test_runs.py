"""Run directories: one writer, nothing lost, rows that come back as they were written."""

import csv
import errno
import json
import math
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from started import CONFIG, lines, start, tree

from core_jax import provenance, runs
from core_jax.errors import UserError
from core_jax.runs import Run

# Opening.


def test_config_json(run):
    document = json.loads((run.directory / 'config.json').read_text())
    assert document == Run.saved_config(run.directory)
    assert document['paper'] == 'fql'
    assert document['config'] == CONFIG | {'hidden': [256, 256]}
    assert document['numerics'] == {'population': 'map'}
    assert document['command'] == 'python -m fql_jax.main'
    assert document['versions']['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert document['versions']['numpy'] == np.__version__
    assert {'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'mujoco', 'ogbench', 'gymnasium', 'tenfold'} <= set(
        document['versions']
    )
    assert document['host']['cpu_count'] == os.cpu_count()
    assert not run.resumed


def test_the_commit_is_that_of_the_checkout():
    root = pathlib.Path(runs.__file__).parent.parent
    asked = subprocess.run(['git', '-C', root, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True)
    if asked.returncode:
        assert provenance.git_commit() is None
    else:
        assert provenance.git_commit().removesuffix('-dirty') == asked.stdout.strip()


def test_no_commit_in_somebody_elses_repository(tmp_path, monkeypatch):
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    (tmp_path / 'site-packages' / 'core_jax').mkdir(parents=True)
    monkeypatch.setattr(provenance, '__file__', str(tmp_path / 'site-packages' / 'core_jax' / 'provenance.py'))
    assert provenance.git_commit() is None


def test_importing_is_cheap():
    """No jax, no numpy, no matplotlib: worker processes and --help come by here."""
    code = "import sys, core_jax.runs; print([m for m in ('jax', 'numpy', 'matplotlib', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'


def test_an_existing_run_needs_a_word(tmp_path):
    start(tmp_path / 'run').close()
    before = tree(tmp_path)
    with pytest.raises(UserError, match='--resume or .*--overwrite'):
        start(tmp_path / 'run')
    with pytest.raises(UserError, match='not both'):
        start(tmp_path / 'run', resume=True, overwrite=True)
    assert tree(tmp_path) == before
    start(tmp_path / 'run', resume=True).close()  # the refusals let go of the lock


def test_resume_without_a_run_starts_one(tmp_path):
    run = start(tmp_path / 'run', resume=True)
    assert not run.resumed and Run.saved_config(run.directory) is not None
    run.close()


def test_an_empty_directory_and_one_of_a_killed_start_are_fine(tmp_path):
    (tmp_path / 'a').mkdir()
    start(tmp_path / 'a').close()
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / '.lock').touch()
    for name in ('.config.json.tmp', '.config.json.4321.tmp'):
        (tmp_path / 'b' / name).write_text('{"half')
    start(tmp_path / 'b').close()


def test_overwrite_starts_anew_and_spares_strangers(tmp_path):
    run = start(tmp_path / 'run')
    run.write('train', 1, {'loss': 1.0})
    run.write('eval', 1, {'success': 1.0})
    (run.directory / 'checkpoints' / '0000000001').mkdir(parents=True)
    (run.directory / 'checkpoints' / '0000000001' / 'x').touch()
    (run.directory / 'summary.json').write_text('{}')
    (run.directory / 'policy_3.npz').touch()
    (run.directory / 'notes.txt').write_text('mine')
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'video.mp4').touch()
    (run.directory / 'videos').symlink_to(tmp_path / 'elsewhere')
    run.close()
    run = start(tmp_path / 'run', {'env': 'other'}, overwrite=True)
    assert not run.resumed
    assert set(tree(run.directory)) == {'config.json', 'metrics.jsonl', 'notes.txt'}
    assert lines(run) == []
    assert Run.saved_config(run.directory)['config'] == {'env': 'other'}
    assert (tmp_path / 'elsewhere' / 'video.mp4').exists()  # the link went, not what it showed
    run.close()


@pytest.mark.parametrize('options', [{}, {'overwrite': True}, {'resume': True}])
@pytest.mark.parametrize('content', ['{"model_type": "llama"}', '[1]', '{"config": 1', None])
def test_what_is_no_run_is_left_alone(tmp_path, options, content):
    folder = tmp_path / 'thesis'
    folder.mkdir()
    (folder / 'chapter1.tex').write_text('years of work')
    if content is not None:
        (folder / 'config.json').write_text(content)
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match='not a run directory'):
        start(folder, **options)
    assert sorted(folder.iterdir()) == before  # not even a lock


def test_a_file_in_the_way(tmp_path):
    (tmp_path / 'run').write_text('text')
    with pytest.raises(UserError, match='is a file'):
        start(tmp_path / 'run')
    with pytest.raises(UserError, match='cannot write in .*: not a directory'):
        start(tmp_path / 'run' / 'below')


@pytest.mark.parametrize('options', [{}, {'overwrite': True}, {'resume': True}])
def test_a_second_writer_is_refused(run, options):
    run.write('train', 1, {'loss': 1.0})
    before = tree(run.directory)
    code = f"""
        from core_jax.errors import exit_on_user_error
        from core_jax.runs import Run
        exit_on_user_error(lambda: Run.open({str(run.directory)!r}, {{}}, paper='', command='', **{options}))
    """
    second = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True)
    assert second.returncode == 2
    assert second.stderr == f'error: another process is writing {run.directory} (process {os.getpid()})\n'
    assert tree(run.directory) == before


def test_the_lock_goes_with_the_process(tmp_path):
    code = f"""
        import os
        from core_jax.runs import Run
        run = Run.open({str(tmp_path / 'run')!r}, {{}}, paper='', command='')
        os.kill(os.getpid(), 9)
    """
    assert subprocess.run([sys.executable, '-c', textwrap.dedent(code)]).returncode == -9
    run = start(tmp_path / 'run', resume=True)
    assert run.resumed
    run.close()


def test_other_hosts_touch_nothing(tmp_path, capsys):
    run = start(tmp_path / 'run', writer=False, wandb=True)
    run.write('train', 1, {'loss': 1.0})
    run.cut(run.position())
    run.progress(1, 2, {'loss': 1.0})
    run.say('text')
    run.finish({}, 0, 1, 1.0)
    assert run.plot_curves().name == 'learning_curve.png'
    run.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ('', '')


# Rows.


def test_rows_come_back_unrounded(run):
    third = np.float32(1) / np.float32(3)
    run.write('train', np.int64(5), {'loss': third, 'n': np.int32(3), 'ok': np.bool_(True), 'q': np.array([0.1, 2.0])})
    (row,) = lines(run)
    assert row == {'kind': 'train', 'step': 5, 'loss': float(third), 'n': 3, 'ok': True, 'q': [0.1, 2.0]}
    assert np.float32(row['loss']) == third
    assert list(row)[:2] == ['kind', 'step']


def test_non_finite_values_are_strict_json(run):
    run.write('train', 1, {'a': math.nan, 'b': math.inf, 'c': -math.inf, 'd': np.array([np.nan, 1.0])})

    def refuse(constant):
        raise AssertionError(constant)

    text = (run.directory / 'metrics.jsonl').read_text()
    row = json.loads(text, parse_constant=refuse)
    assert (row['a'], row['b'], row['c'], row['d']) == ('nan', 'inf', '-inf', ['nan', 1.0])
    assert math.isnan(float(row['a'])) and float(row['c']) == -math.inf


def test_rows_that_are_mistakes(run):
    with pytest.raises(ValueError, match='train or eval'):
        run.write('evaluation', 1, {})
    with pytest.raises(TypeError):
        run.write('train', 1, {'step': 2})
    with pytest.raises(TypeError):
        run.write('train', 1, {'loss': object()})
    assert lines(run) == []


def test_eval_csv_has_every_column(run):
    run.write('eval', 10, {'success': 0.5, 'episodes': 50})
    run.write('train', 11, {'loss': 1.0})
    run.write('eval', 20, {'success': 1 / 3, 'return': -3.0})
    with open(run.directory / 'eval.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ['step', 'success', 'episodes', 'return']
    assert table[0] == {'step': '10', 'success': '0.5', 'episodes': '50', 'return': ''}
    assert float(table[1]['success']) == 1 / 3


def test_cut_takes_the_run_back(tmp_path):
    run = start(tmp_path / 'run')
    run.write('train', 1, {'loss': 1.0})
    run.write('eval', 1, {'success': 0.5})
    position, before = run.position(), tree(run.directory)
    assert position == (run.directory / 'metrics.jsonl').stat().st_size
    run.write('train', 2, {'loss': 0.5})
    run.write('eval', 2, {'success': 1.0, 'new': 3})
    run.close()
    with open(run.directory / 'metrics.jsonl', 'a') as file:
        file.write('{"kind": "train", "st')  # torn by kill -9
    run = start(tmp_path / 'run', resume=True)
    assert run.resumed
    run.cut(position)
    after = tree(run.directory)
    for name in ('metrics.jsonl', 'eval.csv'):
        assert after[name] == before[name]
    run.write('eval', 2, {'success': 0.75})
    assert [row['step'] for row in lines(run)] == [1, 1, 2]
    run.cut(0)
    assert lines(run) == [] and not (run.directory / 'eval.csv').exists()
    run.close()


def test_rows_that_are_missing_are_named(tmp_path, capsys):
    run = start(tmp_path / 'run')
    run.write('train', 1, {'loss': 1.0})
    run.cut(1000)
    assert 'rows are missing' in capsys.readouterr().err
    assert len(lines(run)) == 1
    run.close()


def test_a_refused_resume_changes_nothing_and_an_accepted_one_is_recorded(tmp_path):
    start(tmp_path / 'run').close()
    before = tree(tmp_path)
    start(tmp_path / 'run', CONFIG | {'steps': 200}, resume=True).close()  # never came to `cut`
    assert tree(tmp_path) == before
    run = start(tmp_path / 'run', CONFIG | {'steps': 200}, resume=True)
    run.cut(0)
    document = Run.saved_config(run.directory)
    assert document['config']['steps'] == 200
    (resumed,) = document['resumes']
    assert resumed['changed'] == {'config.steps': [100, 200]}
    run.cut(0)
    assert len(Run.saved_config(run.directory)['resumes']) == 2
    run.close()


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"kind": "train", "step": 1}\nnonsense\n{"kind": "train", "step": 2}\n{"kind": "tr')
    with pytest.raises(UserError, match='metrics.jsonl, line 2 is damaged'):
        runs.read_metrics(path)
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    assert runs.read_metrics(path) == [{'kind': 'train', 'step': 1}]


class FullDisk:
    """A file that takes `room` more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        taken = min(len(content), self.room)
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= taken
        return self.file.write(content[:taken])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_tears_no_line(run):
    run.write('train', 1, {'loss': 1.0})
    before = tree(run.directory)
    real, run._file = run._file, FullDisk(run._file, 20)
    with pytest.raises(UserError, match='could not write .*metrics.jsonl: no space left on device'):
        run.write('train', 2, {'loss': 1.0})
    assert tree(run.directory) == before
    run._file = real
    run.write('train', 2, {'loss': 1.0})
    assert [row['step'] for row in lines(run)] == [1, 2]


def test_a_directory_that_vanishes(tmp_path):
    run = start(tmp_path / 'run')
    (run.directory / 'metrics.jsonl').unlink()
    with pytest.raises(UserError, match='vanished'):
        run.write('train', 1, {})
    run.close()


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / 'x.json'
    runs.write_json_atomic(path, {'a': np.float64(0.1)})
    assert json.loads(path.read_text()) == {'a': 0.1}

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(UserError, match='could not write .*x.json: no space left on device'):
        runs.write_json_atomic(path, {'a': 2})
    assert json.loads(path.read_text()) == {'a': 0.1}
    assert os.listdir(tmp_path) == ['x.json']


def test_summary(run):
    run.write('train', 1, {'loss': 1.0})
    metrics = {'success': {'value': 0.9, 'low': 0.8, 'high': 0.95, 'n': 50}}
    run.finish(metrics, seed=3, steps=100, wall_seconds=1.5, members=[1, 2])
    summary = json.loads((run.directory / 'summary.json').read_text())
    assert summary == {
        'paper': 'fql',
        'command': 'python -m fql_jax.main',
        'device': '8 x cpu',
        'seed': 3,
        'steps': 100,
        'wall_seconds': 1.5,
        'metrics': metrics,
        'members': [1, 2],
    }
    run.write('train', 2, {'loss': 1.0})
    assert not (run.directory / 'summary.json').exists()  # under way again
