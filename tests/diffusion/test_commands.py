"""The commands: what they leave, what they refuse, in one line; budgets; comparisons that go on where they stopped."""

import json
import subprocess
import sys
import time

import jax
import ml_collections
import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax import api, compare, main, methods, report
from diffusion_jax.domains import lab
from diffusion_jax.domains.task import Reward

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
    assert all(name in said for name in (*methods.METHODS, 'molecules', 'promoters', 'six6', 'model.*, model_steps'))


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
        (['--method=rerd', '--config.back=0.05'], 'of 8 steps rounds to 0'),
        (['--samples=-1'], 'at least 0'),
        (['--task=promoters', '--task.stepz=3'], "unknown config field 'stepz'; did you mean 'steps'"),
        (['--task=promoters', '--task.steps=few'], 'config field steps is an integer'),
        (['--task=promoters', '--task.steps'], '--task.steps needs a value'),
        (['--domain=images', '--task.motifs=HNF4A'], "unknown config field 'motifs'"),
        (['--task.steps=3'], 'the task lab has no fields to set'),
        (['--tsk.steps=3'], "unknown flag '--tsk.steps'"),
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


def test_a_budget_that_is_not_given_is_enough():
    """64, or the next power of two above the smallest plan."""
    config = api.method_config('dsearch', lab.make(), {'oversample': 20})
    smallest = methods.at_budget('dsearch', PROCESS, VALUE, config, 10_000)
    assert methods.at_budget('svdd', PROCESS, VALUE, api.method_config('svdd', lab.make()), None).calls <= 64
    found = methods.at_budget('dsearch', PROCESS, VALUE, config, None)
    assert 64 < found.calls <= 256 < smallest.calls


def test_budgets_that_change_nothing_are_said():
    """One turn is the least that seeds are given, and what cannot grow does not grow for ever."""
    config = api.method_config('rerd', lab.make())
    turn = methods.at_budget('rerd', PROCESS, VALUE, config, 64, seeds=True)
    assert turn.iterations > 1
    with pytest.raises(methods.TooSmall, match='takes at least 5 calls'):
        methods.at_budget('rerd', PROCESS, VALUE, config, 3, seeds=True)
    with pytest.raises(UserError, match='no step but the last'):
        methods.at_budget('best_of_n', PROCESS.replace(steps=1), VALUE, api.method_config('best_of_n', lab.make()), 64)


@pytest.mark.parametrize(
    'reward,complaint',
    [
        (lambda params, x: x.mean(), r'shape \(\), not \(3,\)'),
        (lambda params, x: jax.numpy.ones((x.shape[0], 2)), r'shape \(3, 2\)'),
        (lambda params, x: x @ jax.numpy.ones(5), 'fails on designs of shape'),
        (lambda params, x: jax.numpy.full(x.shape[0], jax.numpy.nan), 'not one design has a reward'),
    ],
)
def test_rewards_that_are_broken(reward, complaint):
    task = lab.make()
    broken = task.rewards['six6']._replace(on_device=reward, held_out=None)
    with pytest.raises(UserError, match=complaint):
        api.design(task._replace(rewards={'broken': broken}), method='best_of_n', nfe=8, designs=2)


def test_designs_to_begin_from_are_read_and_counted(tmp_path):
    wrapped = tmp_path / 'seeds.fasta'
    wrapped.write_text('>one\nACGT\nACGT\n>two\nTTTT\nAAAA\n')
    assert report._lines(str(wrapped)) == ['ACGTACGT', 'TTTTAAAA']
    wrapped.write_text('ACGTACGT\n\nTTTTAAAA\n')
    assert report._lines(str(wrapped)) == ['ACGTACGT', 'TTTTAAAA']
    with pytest.raises(UserError, match='3 designs to begin from, 2 are wanted'):
        api.design(lab.make(), method='rerd', nfe=64, designs=2, start=['ACGTACGT', 'TTTTAAAA', 'CCCCCCCC'])


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
    assert len(made) == 12 and len(set(made)) == 8  # those that were refused are asked again
    document = json.loads((tmp_path / 'compare.json').read_text())
    rows = {(row['method'], row['budget']): row for row in document['rows']}
    assert set(rows) == {('SVDD', 30), ('RERD', 30)}  # four calls are less than one pass
    judge = rows['SVDD', 30]['judge']
    assert judge['low'] < judge['value'] < judge['high'] and rows['SVDD', 30]['n'] == 2
    report = (tmp_path / 'report.md').read_text()
    assert 'judged by six6-replicate' in report and '| SVDD |' in report
    assert (tmp_path / 'compare.png').stat().st_size > 20_000
    assert command(monkeypatch, compare, *words, '--report') == 0 and len(made) == 12


@pytest.fixture
def domain(monkeypatch):
    """A domain whose one task has a field, and says something of its designs."""

    class Domain:
        TASKS = ('worth',)

        def get_config(name):
            return ml_collections.ConfigDict({'worth': 1.0, 'letters': ('C', 'G')})

        def reward_names(name, config):
            return ['worth']

        def make(name, config):
            def reward(params, x):
                return config.worth * sum((x == 'ACGT'.index(letter)).mean(1) for letter in config.letters)

            rewards = {'worth': Reward('worth of letters', reward)}
            return lab.make()._replace(name=name, rewards=rewards, measures=lambda x: {'ended': float(len(x))})

    monkeypatch.setattr(api, 'domain_module', lambda name: Domain)


def test_fields_of_the_task(monkeypatch, tmp_path, domain):
    words = ('--method=svdd', '--nfe=60', '--designs=6', '--task.worth=3', '--task.letters=A,T')
    assert command(monkeypatch, main, *words, f'--workdir={tmp_path / "run"}') == 0
    metrics = json.loads((tmp_path / 'run' / 'summary.json').read_text())['metrics']
    assert metrics['worth']['value'] == 3 and metrics['ended']['value'] == 6
    rows = (tmp_path / 'run' / 'designs.csv').read_text().split()[1:]
    assert set(''.join(row.split(',')[0] for row in rows)) == set('AT')
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())['config']
    assert config['task_config'] == {'worth': 3.0, 'letters': ['A', 'T']}


def test_cells_of_another_task_are_others(monkeypatch, tmp_path, domain):
    words = ('--methods=SVDD', '--budgets=60', '--seeds=1', '--designs=8', f'--workdir={tmp_path}')
    found = []
    for fields in ((), ('--task.worth=3', '--task.letters', 'A,T')):
        assert command(monkeypatch, compare, *words, *fields) == 0
        found.append(json.loads((tmp_path / 'compare.json').read_text()))
        assert len(list((tmp_path / 'cells').iterdir())) == len(found)
    assert [one['task_config'] for one in found] == [{}, {'worth': '3', 'letters': 'A,T'}]
    assert [one['rows'][0]['reward']['value'] for one in found] == [1, 3]
    assert found[0]['rows'][0]['ended']['value'] == 8
    report = (tmp_path / 'report.md').read_text()
    assert '## ended' in report and '| SVDD | 8 |' in report and '## seconds' not in report


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
        (['--task=promoters', '--task.stepz=3'], "did you mean 'steps'"),
        (['--task.steps=3'], 'the task lab has no fields to set'),
        (['--config.alpha=3'], "unknown flag '--config.alpha'"),
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
