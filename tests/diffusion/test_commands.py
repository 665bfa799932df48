"""The commands: what they leave, what they refuse, in one line; budgets; comparisons that go on where they stopped."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax import api, compare, main, methods
from diffusion_jax.domains import lab

PROCESS, VALUE = lab.process(), lab.value(exact=False)


def command(monkeypatch, module, *words):
    monkeypatch.setattr(sys, 'argv', ['command', *words])
    return module.main()


def test_help_is_quick():
    for name in ('main', 'compare', 'fetch'):
        began = time.monotonic()
        shown = subprocess.run(
            [sys.executable, '-m', f'diffusion_jax.{name}', '--help'], capture_output=True, text=True
        )
        assert shown.returncode == 0 and 'diffusion' in shown.stdout
        assert time.monotonic() - began < 2


def test_a_search_leaves_its_designs(monkeypatch, tmp_path, capsys):
    words = ('--nfe=20', '--designs=6', f'--workdir={tmp_path / "run"}')
    assert command(monkeypatch, main, '--method=svdd', *words) == 0
    said = capsys.readouterr().out
    assert 'six6-replicate' in said and 'next:' in said
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['paper'] == 'diffusion' and 0 < summary['metrics']['six6']['value'] <= 1
    assert summary['metrics']['denoiser_calls']['value'] <= 20
    rows = (tmp_path / 'run' / 'designs.csv').read_text().splitlines()
    assert len(rows) == 7
    fasta = (tmp_path / 'run' / 'designs.fasta').read_text()
    letters = set(''.join(line for line in fasta.splitlines() if not line.startswith('>')))
    assert letters <= set('ACGT')
    trace = json.loads((tmp_path / 'run' / 'trace.json').read_text())
    assert len(trace['best']) == 8
    assert (tmp_path / 'run' / 'plots' / 'trace.png').stat().st_size > 5_000
    with pytest.raises(UserError, match='--overwrite'):
        command(monkeypatch, main, *words)


def test_the_list_names_everything(monkeypatch, capsys):
    assert command(monkeypatch, main, '--list') == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*methods.METHODS, 'molecules', 'promoters', 'six6'))


@pytest.mark.parametrize(
    'words,complaint',
    [
        (['--domain=dana'], "did you mean 'dna'"),
        (['--task=labs'], "did you mean 'lab'"),
        (['--method=dserch'], "did you mean 'dsearch'"),
        (['--reward=sx6'], "did you mean 'six6'"),
        (['--nfe=3'], 'at least'),
        (['--nfe=0'], 'at least 1'),
        (['--config.oversampl=3'], "did you mean 'oversample'"),
        (['--config.oversample=0'], 'at least 1'),
        (['--method=guidance'], 'gradient'),
        (['--method=rerd', '--config.back=0'], 'between 0 and 1'),
        (['--samples=-1'], 'at least 0'),
    ],
)
def test_what_cannot_be_is_said_in_one_line(monkeypatch, tmp_path, words, complaint):
    with pytest.raises(UserError) as error:
        command(monkeypatch, main, f'--workdir={tmp_path / "run"}', *words)
    assert complaint in str(error.value) and '\n' not in str(error.value)
    assert not (tmp_path / 'run' / 'config.json').exists()


@pytest.mark.parametrize('name', [name for name in methods.METHODS if name not in ('tds', 'guidance')])
def test_plans_use_their_budget_and_no_more(name):
    config = api.method_config(name, lab.make())
    for budget in (60, 200):
        plan = methods.at_budget(name, PROCESS, VALUE, config, budget)
        assert plan.calls / plan.designs <= budget
        for by in ('calls', 'rewards'):
            plan = methods.at_budget(name, PROCESS, VALUE, config, budget, by=by)
            assert 0.4 * budget < getattr(plan, by) / plan.designs <= budget


def test_methods_are_told_the_same_temperature():
    task = lab.make()._replace(alpha=0.25)
    assert api.method_config('smc', task).alpha == 0.25 and api.method_config('genetic', task).alpha == 0.25
    assert api.method_config('svdd', task).alpha == 0.0  # greedy by default
    assert api.method_config('svdd', task, {'alpha': 0.5}).alpha == 0.5


def test_designs_of_the_user_s_task():
    """Another reward, in Python."""
    task = lab.make()
    mine = task.rewards['six6']._replace(on_device=lambda params, x: -(x == 2).mean(1), held_out=None)
    found = api.design(task._replace(rewards={'no G': mine}), method='svdd', nfe=60, designs=10)
    assert not any('G' in text for text in found.texts)
    assert found.calls <= 60 and [row['no G'] for row in found.table()] == [0.0] * 10


COMPARISON = ('--methods=SVDD,RERD', '--budgets=4,30', '--seeds=2', '--designs=8')


def test_a_comparison_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    words = (*COMPARISON, f'--workdir={tmp_path}')
    real, made = compare._cell, []

    def stops(*arguments):
        made.append(arguments[3:6])
        if len(made) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(compare, '_cell', stops)
    with pytest.raises(UserError, match='interrupted; the same command goes on'):
        command(monkeypatch, compare, *words)
    assert command(monkeypatch, compare, *words) == 0
    assert len(made) == 9 and len(set(made)) == 8
    document = json.loads((tmp_path / 'compare.json').read_text())
    rows = {(row['method'], row['budget']): row for row in document['rows']}
    assert set(rows) == {('SVDD', 30), ('RERD', 30)}  # four calls are less than one pass
    judge = rows['SVDD', 30]['judge']
    assert judge['low'] < judge['value'] < judge['high'] and rows['SVDD', 30]['n'] == 2
    report = (tmp_path / 'report.md').read_text()
    assert 'judged by six6-replicate' in report and '| SVDD |' in report
    assert (tmp_path / 'compare.png').stat().st_size > 20_000
    assert command(monkeypatch, compare, *words, '--report') == 0 and len(made) == 9


def test_intervals_are_student_s():
    rows = [{'method': 'a', 'budget': 1, 'judge': value} for value in (1.0, 2.0, 4.0)]
    found = compare.summarized(rows)[0]['judge']
    half = 4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert found['value'] == pytest.approx(7 / 3) and found['high'] - found['value'] == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize(
    'words,complaint',
    [
        (['--methods=SVDDD'], "did you mean 'SVDD'"),
        (['--budgets=a'], 'cannot read'),
        (['--seeds=0'], 'at least 1'),
        (['--budgets=2'], 'too small'),
        (['--report'], 'nothing has been run'),
    ],
)
def test_comparisons_that_cannot_be(monkeypatch, tmp_path, words, complaint):
    with pytest.raises(UserError, match=complaint):
        command(monkeypatch, compare, '--methods=SVDD', f'--workdir={tmp_path}', *words)


def test_designs_of_the_user_s_are_refined(monkeypatch, tmp_path, capsys):
    """From a FASTA, on the device; a mask or a wrong length is no design."""
    task = lab.make()
    found = api.design(task, method='rerd', nfe=40, designs=3, start=['ACGTACGT', 'TTTTTTTT'])
    assert len(found.texts) == 3 and found.calls <= 40
    assert found.result.trace['mean'].shape[0] > 1  # by iteration, the first of which is the seeds
    worth = [lab.rewards()[tuple(task.encode([text])[0])] for text in ('ACGTACGT', 'TTTTTTTT', 'ACGTACGT')]
    np.testing.assert_allclose(found.result.trace['mean'][0], worth, rtol=1e-5)

    seeds = tmp_path / 'seeds.fasta'
    seeds.write_text('>one\nACGTACGT\n')
    assert command(monkeypatch, main, '--method=rerd', f'--start={seeds}', f'--workdir={tmp_path / "run"}') == 0
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['config']['start'] == str(seeds)
    for text, complaint in (('ACGTNACG', 'none of ACGT'), ('ACG', '3 letters, designs have 8')):
        with pytest.raises(UserError, match=complaint):
            api.design(task, method='rerd', nfe=40, start=[text])
    with pytest.raises(UserError, match='begins from noise'):
        api.design(task, method='svdd', nfe=40, start=['ACGTACGT'])
