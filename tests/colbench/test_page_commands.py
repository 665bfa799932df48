"""The command line for pages: what it leaves, what it refuses, in one line. Without a browser, by the fallback."""

import io
import json
import sys

import numpy as np
import pytest

from colbench_jax import __main__ as commands
from colbench_jax import similarity
from colbench_jax.render import browser as rendering
from colbench_jax.render.browser import PageError
from colbench_jax.tasks import files
from core_jax.errors import UserError

FALLBACK = '--similarity=fallback'


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_from_tasks_to_a_report(tmp_path, capsys):
    assert commands.main(['generate', '--domain=frontend', '--split=test', '--count=4']) == 0
    said = capsys.readouterr().out
    assert 'drafts passed the proofs' in said and 'rollout --tasks=runs/colbench/pages-test.jsonl' in said
    tasks = files.read_tasks('runs/colbench/pages-test.jsonl')
    words = ['rollout', '--tasks=runs/colbench/pages-test.jsonl', '--agent=careless', '--repeat=2', FALLBACK]
    assert commands.main(words) == 0
    assert 'careless: fallback (no pictures): mean cosine 0.9' in capsys.readouterr().out
    rows = files.read_trajectories(commands.PLAYED)
    assert [row['task'] for row in rows] == tasks * 2
    assert all(
        set(row) == {'task', 'dialogue_history', 'answer', 'agent', 'seed', 'reward', 'similarity'} for row in rows
    )
    assert commands.main(['grade', FALLBACK, '--out=again.jsonl']) == 0
    assert files.read_trajectories('again.jsonl') == rows
    assert commands.main(['report', '--out=told']) == 0
    said = capsys.readouterr().out
    assert '| | cosine by fallback (no pictures) | turns | n |' in said and '| careless | 0.9' in said
    summary = json.loads((tmp_path / 'told' / 'summary.json').read_text())
    cosine = summary['metrics']['cosine/careless']
    assert summary['similarity'] == 'fallback (no pictures)' and cosine['n'] == 8
    assert cosine['value'] == pytest.approx(np.mean([row['reward'] for row in rows]))
    assert cosine['low'] <= cosine['value'] <= cosine['high'] <= 1


def test_without_a_file_the_agents_are_compared(monkeypatch, capsys):
    monkeypatch.setenv('COLBENCH_BROWSER', 'none')
    assert commands.main(['report', '--domain=frontend']) == 0
    said = capsys.readouterr()
    assert '| oracle | 1.000' in said.out and '| | cosine by fallback (no browser) |' in said.out
    assert said.err.endswith('note: pages are compared by the fallback (no browser)\n')


def test_original_files_load_and_are_graded(capsys):
    """In their schema, without `spec`; the person needs none, the scripted agents do."""
    task = {'problem_description': 'A page for bakers.', 'ground_truth': '<html>\n<body><p>Bread</p></body></html>'}
    rows = [
        {'task': task, 'dialogue_history': [], 'answer': answer} for answer in (task['ground_truth'], '<body></body>')
    ]
    files.write_lines('original.jsonl', rows)
    files.write_lines('tasks.jsonl', [task])
    assert commands.main(['report', '--trajectories=original.jsonl', FALLBACK]) == 0
    assert '| agent | 0.500 (' in capsys.readouterr().out
    with pytest.raises(UserError, match='generated pages alone'):
        commands.main(['rollout', '--tasks=tasks.jsonl', FALLBACK])


def test_a_person_plays_the_agent(monkeypatch, capsys):
    typed = ['Which colours?', '<html><body>', '<h1>Hi</h1>', '</body></html>', 'I WANT TO ANSWER:', 'done', '.']
    monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(typed) + '\n'))
    assert commands.main(['play', '--domain=frontend', '--count=1', FALLBACK]) == 0
    said = capsys.readouterr().out
    assert 'person: Build a page for' in said and 'person: I see no page yet.' in said
    assert 'person: There should be a' in said
    assert '<h1>Hi</h1>\n</body></html>\n\ncosine (fallback (no pictures)): 0.' in said


def test_a_person_plays_the_human(monkeypatch, capsys):
    typed = ['The background of the banner should be red (#ef4444).', *['Fine.'] * 9]
    monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(typed) + '\n'))
    assert commands.main(['play', '--domain=frontend', '--count=1', '--as=human', '--turns=3', FALLBACK]) == 0
    said = capsys.readouterr().out
    assert 'the agent must not see it' in said and '<header class="bg-red-500' in said and 'cosine (fallback' in said


# Pages that do not load


class Stuck:
    """A browser for which every page with the word `endless` is one."""

    def render(self, html):
        if 'endless' in html:
            raise PageError('the page does not load within 20 s')
        return similarity.black()

    def close(self):
        pass


@pytest.fixture
def stuck(monkeypatch):
    judge = similarity.Pictures('toy', lambda image: np.ones(3), Stuck())
    monkeypatch.setattr(similarity, 'make', lambda kind: judge)


GOOD = {'problem_description': 'A page.', 'ground_truth': '<html><body>good</body></html>'}
ENDLESS = {'problem_description': 'A page.', 'ground_truth': '<html><body>endless</body></html>'}


def test_a_reference_that_never_loads_names_file_and_line(stuck, tmp_path):
    """One line, and nothing is written: of tasks before anybody plays, of trajectories when they are graded."""
    (tmp_path / 'tasks.jsonl').write_text(f'{json.dumps(GOOD)}\n\n{json.dumps(ENDLESS)}\n')
    complaint = 'line 3: ground_truth cannot be rendered: the page does not load within 20 s'
    with pytest.raises(UserError, match=f'^tasks.jsonl, {complaint}$'):
        commands.main(['rollout', '--tasks=tasks.jsonl', '--out=out.jsonl'])
    rows = [{'task': task, 'dialogue_history': [], 'answer': ''} for task in (GOOD, GOOD, ENDLESS)]
    files.write_lines('played.jsonl', rows)
    with pytest.raises(UserError, match=f'^played.jsonl, {complaint}$'):
        commands.main(['grade', '--trajectories=played.jsonl', '--out=out.jsonl'])
    assert sorted(path.name for path in tmp_path.rglob('*') if path.is_file()) == ['played.jsonl', 'tasks.jsonl']


def test_an_answer_that_never_loads_scores_nothing_and_it_is_said(stuck, capsys):
    rows = [{'task': GOOD, 'dialogue_history': [], 'answer': one['ground_truth']} for one in (GOOD, ENDLESS)]
    files.write_lines('played.jsonl', rows)
    assert commands.main(['grade', '--trajectories=played.jsonl', '--out=out.jsonl']) == 0
    assert 'mean cosine 0.500 of 2, of which 1 could not be rendered and count 0' in capsys.readouterr().out
    assert [row.get('failed') for row in files.read_trajectories('out.jsonl')] == [
        None,
        'the page does not load within 20 s',
    ]


@pytest.mark.parametrize(
    'words,complaint',
    [
        (['generate', '--domain=frontent'], "did you mean 'frontend'"),
        (['generate', '--domain=frontend', '--split=tset'], "did you mean 'test'"),
        (['report', '--similarity=imgsin'], "did you mean 'imgsim'"),
        (['report', '--domain=frontend', '--similarity=clip:none'], 'none/config.json is no configuration of CLIP'),
        (['rollout', '--domain=frontend', '--human=forgetful'], 'nobody forgets a page'),
        (['rollout', '--domain=frontend', '--agent=oracel'], "did you mean 'oracle'"),
        (['rollout', '--tasks=mixed'], 'mixed, line 2: a frontend task among backend tasks'),
        (['rollout', '--tasks=words'], 'words, line 1: test_cases is no table of calls'),
        (['report', '--trajectories=two'], 'rewards by clip and by imgsim; grade them anew'),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, words, complaint):
    backend = {'problem_description': 'Write f.', 'ground_truth': 'def f(): pass', 'test_cases': {'test1': 'f()'}}
    files.write_lines('mixed', [backend, GOOD])
    files.write_lines('words', [{'problem_description': 'Write f.', 'ground_truth': 'no page'}])
    row = {'task': GOOD, 'dialogue_history': [], 'answer': '', 'reward': 0.5}
    files.write_lines('two', [row | {'similarity': label} for label in ('imgsim', 'clip')])
    with pytest.raises(UserError) as error:
        commands.main(words)
    assert complaint in str(error.value) and '\n' not in str(error.value)
    assert not list(tmp_path.rglob('*.jsonl'))


@pytest.mark.slow
def test_all_of_it_with_a_browser_and_the_weights(tmp_path):
    try:
        rendering.find()
    except UserError:
        pytest.skip('no browser is installed')
    from colbench_jax import fetch

    fetch.fetch('imgsim', say=lambda text: None)
    assert commands.main(['report', '--domain=frontend', '--similarity=imgsim', '--out=told']) == 0
    found = json.loads((tmp_path / 'told' / 'summary.json').read_text())['metrics']
    assert found['cosine/oracle']['value'] == pytest.approx(1.0)
    assert 0.4 < found['cosine/greedy']['value'] < found['cosine/careless']['value'] < 1.0
