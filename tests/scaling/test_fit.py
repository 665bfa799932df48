"""`python -m scaling.utd.fit`: what it prints and writes, on published curves too, and what it refuses."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from core_jax.errors import UserError
from scaling.utd import example
from scaling.utd.fit import find_env, main, read_ladder, read_prediction
from scaling.utd.runs_table import COLUMNS

FIXTURES = pathlib.Path(__file__).parent.parent / 'fixtures' / 'utd'


@pytest.fixture
def fit(monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['fit', *map(str, words)])
        return main()

    return run


def write(path, curves):
    lines = [','.join(COLUMNS)]
    for own in curves:
        for seed, returns in zip(own.seeds, own.returns, strict=True):
            for step, value in zip(own.env_step, returns, strict=True):
                lines.append(','.join(str(item) for item in (*own.key, seed, step, value)))
    path.write_text('\n'.join(lines) + '\n')
    return path


def test_without_flags_it_fits_an_example_and_says_so(fit, capsys):
    assert fit() == 0
    printed = capsys.readouterr().out
    assert 'curves made in memory, not trained' in printed
    for text in ('alpha 0.', 'best batch size ~ sigma^-0.', 'best learning rate ~ sigma^-0.', 'a law:'):
        assert text in printed


def test_joint_law_of_published_curves(fit, tmp_path, capsys):
    """h1-stand, 5 seeds: the fitted error is below the 10.0 % published for all seeds and tasks."""
    words = f'--runs={FIXTURES / "h1_stand.csv.gz"}', f'--out={tmp_path}'
    predict = '--predict=sigma=3,model_size=4439720,env=h1-stand'
    assert fit(*words, predict, f'{predict},threshold=600') == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / 'fits.json').read_text())
    task = found['tasks']['h1-stand-v0']
    assert task['kind'] == 'joint' and task['identifiable'] and len(task['thresholds']) == 20
    assert task['relative_error']['fitted'] < 0.10
    assert task['relative_error']['left_out_interpolating'] < 0.149
    assert task['relative_error']['left_out_extrapolating'] < 0.18
    for field in ('compute', 'data', 'sigma', 'model_size'):
        exponent = task['budget']['laws'][field]['exponent']
        assert exponent['low'] <= exponent['value'] <= exponent['high']
    *rows, single = found['predictions']
    assert [row['threshold'] for row in rows] == task['thresholds'] and single['threshold'] == 600
    data = [row['data']['value'] for row in rows]
    assert np.all(np.diff(data) > 0) and data[0] < single['data']['value'] < data[-1]
    assert all(row['data']['low'] < row['data']['value'] < row['data']['high'] for row in rows)
    assert f'alpha {task["law"]["alpha"]["value"]:.3g} [' in printed and 'predicted environment steps' in printed
    before = (tmp_path / 'fits.json').read_bytes()
    assert fit(*words, predict, f'{predict},threshold=600') == 0
    assert (tmp_path / 'fits.json').read_bytes() == before


def test_sigma_law_of_published_curves(fit, tmp_path):
    runs = FIXTURES / 'walker_run.csv.gz'
    assert fit(f'--runs={runs}', f'--out={tmp_path}', '--delta=1e10', '--thresholds=walker-run=400:700:5') == 0
    found = json.loads((tmp_path / 'fits.json').read_text())
    task = found['tasks']['walker-run']
    assert task['kind'] == 'sigma' and task['identifiable'] and task['thresholds'] == [400, 475, 550, 625, 700]
    assert task['budget']['delta'] == 1e10 and len(task['per_threshold']) == 5
    assert task['relative_error']['fitted'] < task['relative_error']['left_out_constant'] / 2
    assert {'beta', 'd_min', 'alpha'} == set(task['law'])
    assert found['settings']['return_column'] == 'return' and found['hyperparameters'] == {}


def small(**keywords):
    return example.make_runs((0.5, 1, 2, 4), (128,), (6e-4,), seeds=3, **keywords).curves


def test_one_seed_ends_with_an_error(fit, tmp_path):
    curves = [own._replace(returns=own.returns[:1], seeds=own.seeds[:1]) for own in small()]
    path = write(tmp_path / 'a.csv', curves)
    with pytest.raises(UserError, match='one seed a configuration.*example'):
        fit(f'--runs={path}', f'--out={tmp_path}')
    found = json.loads((tmp_path / 'fits.json').read_text())['tasks']['example']
    assert not found['identifiable'] and found['law']['alpha']['low'] is None


def test_flat_data_is_not_predicted_from(fit, tmp_path, capsys):
    curves = small()
    path = write(tmp_path / 'a.csv', [own._replace(returns=curves[0].returns) for own in curves])
    assert fit(f'--runs={path}') == 0
    assert 'no law: data does not fall with sigma' in capsys.readouterr().out
    with pytest.raises(UserError, match='no prediction for example: no law'):
        fit(f'--runs={path}', '--predict=sigma=3')


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['--thresholds=5000:6000:4'], 'example: no configuration reaches the lowest threshold 5000'),
        (['--thresholds=exampel=1:2:3'], "unknown env 'exampel'; did you mean 'example'"),
        (['--predict=sigma=3,env=exampel'], "unknown env 'exampel'"),
        (['--predict=sigma=3,model_size=7'], 'was run at the model size 100000 alone'),
        (['--predict=sigma=3,threshold=2'], 'threshold 2 lies outside those fitted for example'),
        (['--predict=sigma=3,algo=sac'], "unknown algo 'sac'"),
    ],
)
def test_what_the_runs_do_not_have(fit, tmp_path, words, says):
    with pytest.raises(UserError, match=says):
        fit(f'--runs={write(tmp_path / "a.csv", small())}', *words)


def test_runs_that_do_not_learn(fit, tmp_path):
    curves = [own._replace(returns=0 * own.returns + 3.0) for own in small()]
    with pytest.raises(UserError, match='example: the runs do not learn'):
        fit(f'--runs={write(tmp_path / "a.csv", curves)}')


@pytest.mark.parametrize(
    ('read', 'text', 'says'),
    [
        (read_prediction, 'sigme=3', "unknown field of --predict 'sigme'; did you mean 'sigma'"),
        (read_prediction, 'sigma=many', "sigma must be a number, not 'many'"),
        (read_prediction, 'env=a', 'sigma is needed'),
        (read_prediction, 'sigma=-1', 'must be above 0'),
        (read_ladder, '1:2', 'cannot read --thresholds=1:2'),
        (read_ladder, '3,2', 'must rise'),
    ],
)
def test_malformed_flags(read, text, says):
    with pytest.raises(UserError, match=says):
        read(text)


def test_environments_are_found_without_their_version():
    assert find_env('h1-crawl', ['h1-crawl-v0', 'h1-pole-v0']) == 'h1-crawl-v0'
    with pytest.raises(UserError, match='unknown env'):
        find_env('Ant', ['Ant-v4', 'Ant-v5'])


def test_command_line_is_fast_and_errors_are_one_line(tmp_path):
    command = [sys.executable, '-X', 'importtime', '-m', 'scaling.utd.fit']
    process = subprocess.run([*command, '--help'], capture_output=True, text=True)
    assert process.returncode == 0 and '--predict' in process.stdout
    assert not {'jax', 'scipy', 'sklearn'} & {line.split('|')[-1].strip() for line in process.stderr.splitlines()}
    process = subprocess.run([sys.executable, '-m', 'scaling.utd.fit', '--rusn=x'], capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr == "error: unknown flag '--rusn'; did you mean '--runs'?\n"
