"""Runs from CSV files and run directories, and what is refused, by name."""

import gzip
import json

import numpy as np
import pytest

from core_jax.errors import UserError
from scaling.utd.crossings import without_dips
from scaling.utd.runs_table import COLUMNS, RETURN, Key, read

HEADER = ','.join(COLUMNS)


def row(seed=0, step=100, value=1.0, sigma=2.0):
    return f'cart,sac,{sigma},64,0.001,5000,{seed},{step},{value}'


def write(path, rows, header=HEADER):
    path.write_text('\n'.join([header, *rows]) + '\n')
    return str(path)


def test_csv_is_grouped_and_sorted(tmp_path):
    rows = [row(seed, step, 10 * seed + step, sigma) for sigma in (2, 0.5) for step in (200, 100) for seed in (1, 0)]
    path = write(tmp_path / 'a.csv', rows)
    runs = read(path)
    assert [curves.key for curves in runs.curves] == [Key('cart', 'sac', s, 64, 0.001, 5000) for s in (0.5, 2)]
    np.testing.assert_array_equal(runs.curves[0].env_step, [100, 200])
    np.testing.assert_array_equal(runs.curves[0].returns[list(runs.curves[0].seeds).index('1')], [110, 210])
    assert runs.return_column == 'return' and runs.notes == []
    with gzip.open(tmp_path / 'runs.csv.gz', 'wt') as file:
        file.write((tmp_path / 'a.csv').read_text())
    again = read(str(tmp_path))  # a directory that holds a table is that table
    np.testing.assert_array_equal(again.curves[1].returns, runs.curves[1].returns)


def test_columns_may_stand_in_any_order_beside_others(tmp_path):
    names = ['note', *reversed(COLUMNS)]
    values = dict(zip(COLUMNS, row().split(','), strict=True)) | {'note': 'x'}
    path = write(tmp_path / 'a.csv', [','.join(values[name] for name in names)], ','.join(names))
    assert read(path).curves[0].key == Key('cart', 'sac', 2, 64, 0.001, 5000)


def test_short_seeds_are_left_out_and_named(tmp_path):
    rows = [row(seed, step) for seed, last in ((0, 100), (1, 97), (2, 90)) for step in range(1, last + 1)]
    runs = read(write(tmp_path / 'a.csv', rows))
    assert runs.curves[0].seeds == ('0', '1') and runs.curves[0].returns.shape == (2, 97)
    assert len(runs.notes) == 1 and 'seed 2 ends at step 90 of 100: left out' in runs.notes[0]


@pytest.mark.parametrize(
    ('rows', 'header', 'says'),
    [
        ([], HEADER, 'a.csv has a header and no rows'),
        ([row()], HEADER.replace('env_step', 'env_steps'), "no column 'env_step'; did you mean 'env_steps'"),
        ([row(value='high')], HEADER, "a.csv, line 2: return must be a number, not 'high'"),
        ([row(), 'cart,sac'], HEADER, 'line 3 has 2 fields, the header 9'),
        ([row(), row(step=200, value='nan')], HEADER, 'a.csv: cart sac sigma=2 .*: seed 0 has returns or steps that'),
        ([row(), row()], HEADER, 'seed 0 logs a step twice'),
        ([row(0, 1), row(0, 100), row(1, 2), row(1, 100)], HEADER, 'cart sac sigma=2 .*seed 1 is logged at other'),
        ([row(0, s) for s in (1, 2, 3)] + [row(1, s) for s in (1, 3)], HEADER, 'seed 1 is logged at other'),
        ([row(sigma=0)], HEADER, 'sigma must be above 0'),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path, rows, header, says):
    with pytest.raises(UserError, match=says):
        read(write(tmp_path / 'a.csv', rows, header))


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match='no file or directory'):
        read(str(tmp_path / 'b.csv'))
    tmp_path.joinpath('a.csv').touch()
    with pytest.raises(UserError, match=r'a\.csv is empty'):
        read(str(tmp_path / 'a.csv'))
    tmp_path.joinpath('a.csv.gz').write_bytes(b'no gzip')
    with pytest.raises(UserError, match=r'could not read .*a\.csv\.gz'):
        read(str(tmp_path / 'a.csv.gz'))
    with pytest.raises(UserError, match='holds no finished run'):
        read(str(tmp_path))


def run_directory(path, rows, members=None, finished=True, paper='utd', **config):
    path.mkdir(parents=True)
    fields = {'env': 'pendulum', 'agent': 'sac', 'utd': 0.5, 'batch_size': 64, 'critic_learning_rate': 3e-4} | config
    path.joinpath('config.json').write_text(json.dumps({'paper': paper, 'config': fields}))
    path.joinpath('metrics.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    if finished:
        path.joinpath('summary.json').write_text(json.dumps({'model_size': 1234, 'members': members}))


def train(step, value, **more):
    return {'kind': 'train', 'environment_steps': step, RETURN: value} | more


def test_run_directories(tmp_path):
    rates = [1e-3, 1e-3, 1e-4, 1e-4]
    members = [
        {'seed': i % 2, 'hparams': {'critic_learning_rate': rate}, 'frozen_at': 7 if i == 3 else None}
        for i, rate in enumerate(rates)
    ]
    rows = [train(step, step + m, member=m) for step in (100, 200) for m in range(4)]
    rows.insert(4, {'kind': 'eval', 'step': 1, 'return': 3.0})
    run_directory(tmp_path / 'a' / 'population', rows, members)
    run_directory(tmp_path / 'solo', [train(100, 5.0), train(200, 6.0)], seed=4, learning_rate=2e-3)
    run_directory(tmp_path / 'half', [train(100, 5.0)], finished=False)
    run_directory(tmp_path / 'other', [train(100, 5.0)], paper='fql')
    runs = read(str(tmp_path))
    found = {curves.key.learning_rate: curves for curves in runs.curves}
    assert sorted(found) == [1e-4, 1e-3, 2e-3] and runs.return_column == RETURN
    assert found[1e-3].key == Key('pendulum', 'sac', 0.5, 64, 1e-3, 1234)
    np.testing.assert_array_equal(found[1e-3].returns, [[100, 200], [101, 201]])
    assert found[1e-4].seeds == ('0',) and found[2e-3].seeds == ('4',)
    assert any('member 3 (seed 1) was frozen at update 7: left out' in note for note in runs.notes)
    assert any('half is not finished' in note for note in runs.notes) and len(runs.notes) == 2


def test_rows_before_the_first_episode_ends_have_no_return(tmp_path):
    """And between two ends the last return holds; a return that is really NaN is refused."""
    empty = {'online/length': 'nan'}
    rows = [train(100, 3.0, member=0), train(100, 'nan', member=1, **empty)]
    rows += [train(200, 1.0, member=0), train(200, 2.0, member=1)]
    rows += [train(300, 'nan', member=0, **empty), train(300, 4.0, member=1)]
    members = [{'seed': seed, 'hparams': {}, 'frozen_at': None} for seed in (0, 1)]
    run_directory(tmp_path / 'a', rows, members)
    (curves,) = read(str(tmp_path)).curves
    np.testing.assert_array_equal(curves.env_step, [200, 300])
    np.testing.assert_array_equal(curves.returns, [[1, 1], [2, 4]])
    run_directory(tmp_path / 'b', [train(200, 1.0), train(300, 'nan', **{'online/length': 3.0})], seed=9)
    with pytest.raises(UserError, match='seed 9 has returns or steps that are not finite'):
        read(str(tmp_path))


def test_points_in_the_dip_after_a_reset_are_left_out(tmp_path):
    """BRO counts resets in updates: 100 of them at half an update a step, after 20 steps of warm-up, are step 220."""
    values = {100: 1.0, 200: 5.0, 300: 2.0, 400: 4.0, 500: 6.0}
    schedule = {'reset_steps': [100], 'reset_interval': 0, 'warmup': 20, 'steps': 500}
    run_directory(tmp_path / 'a', [train(step, value) for step, value in values.items()], seed=1, **schedule)
    (own,) = read(str(tmp_path)).curves
    assert own.resets == (220.0,)
    kept = without_dips(own)
    np.testing.assert_array_equal(kept.env_step, [100, 200, 500])
    np.testing.assert_array_equal(kept.returns, [[1, 5, 6]])
    run_directory(tmp_path / 'b', [train(100, 1.0)], seed=1, utd=1.0, reset_interval=100, warmup=20, steps=350)
    assert read(str(tmp_path / 'b')).curves[0].resets == (120.0, 220.0, 320.0)
