"""The command line: what it leaves, what it refuses, in one line."""

import io
import json
import pathlib
import subprocess
import sys
import threading
import time

import pytest
from test_endpoint import server

from colbench_jax import __main__ as commands
from colbench_jax import report
from colbench_jax.tasks import files
from core_jax.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def shared_pool(monkeypatch, tmp_path, pool):
    """Commands work in an empty folder, with the jails of the other tests."""

    class Kept:
        def __enter__(self):
            return pool

        def __exit__(self, *unused):
            pass

    monkeypatch.setattr(commands, '_pool', lambda workers: Kept())
    monkeypatch.chdir(tmp_path)


def test_help_is_quick():
    for words in (['--help'], ['generate', '--help']):
        began = time.monotonic()
        shown = subprocess.run([sys.executable, '-m', 'colbench_jax', *words], capture_output=True, text=True, cwd=ROOT)
        assert shown.returncode == 0 and 'python -m colbench_jax' in shown.stdout
        assert time.monotonic() - began < 2


def test_none_of_it_needs_jax():
    code = (
        'import sys\nimport colbench_jax.__main__, colbench_jax.agents, colbench_jax.simulators, colbench_jax.report\n'
        'sys.exit("jax" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_from_tasks_to_a_report(tmp_path, capsys):
    assert commands.main(['generate', '--count=6', '--grammar=restricted', '--split=test']) == 0
    said = capsys.readouterr().out
    assert 'drafts passed the proofs' in said and 'next: python -m colbench_jax rollout --tasks=' in said
    tasks = files.read_tasks('runs/colbench/restricted-test.jsonl')
    assert len(tasks) == 6
    words = ['rollout', '--tasks=runs/colbench/restricted-test.jsonl', '--agent=careless', '--repeat=2', '--turns=5']
    assert commands.main(words) == 0
    rows = files.read_trajectories(commands.PLAYED)
    assert [row['task'] for row in rows] == tasks * 2
    assert all(set(row) == {'task', 'dialogue_history', 'answer', 'agent', 'seed', 'reward', 'grader'} for row in rows)
    assert any(rows[k]['dialogue_history'] != rows[k + 6]['dialogue_history'] for k in range(6))
    for mode in ('strict', 'lenient', 'compat'):
        assert commands.main(['grade', f'--mode={mode}', f'--out={mode}.jsonl']) == 0
        again = files.read_trajectories(f'{mode}.jsonl')
        assert [row['reward'] for row in again] == [row['reward'] for row in rows]
    capsys.readouterr()
    assert commands.main(['report', '--out=told']) == 0
    assert '| careless |' in capsys.readouterr().out
    summary = json.loads((tmp_path / 'told' / 'summary.json').read_text())
    success = summary['metrics']['success/careless']
    assert success['n'] == 12 and success['low'] <= success['value'] <= success['high']
    assert (tmp_path / 'told' / 'report.md').read_text().startswith('| |')
    assert summary['command'] == 'python -m colbench_jax report --out=told' and summary['grader'] == 'strict'
    with pytest.raises(UserError, match='summary.json is there already; give --overwrite'):
        commands.main(['report', '--out=told'])
    assert commands.main(['report', '--trajectories=compat.jsonl', '--out=told', '--overwrite']) == 0
    assert '| | success % (compat) | tests passed % (compat) | turns | n |' in capsys.readouterr().out
    assert json.loads((tmp_path / 'told' / 'summary.json').read_text())['grader'] == 'compat'


def test_without_flags_the_agents_are_compared(capsys):
    assert commands.main([]) == 0
    said = capsys.readouterr().out
    assert '| oracle | 100.0' in said and '| greedy | 0.0' in said and 'next:' in said


def test_original_files_load_and_are_graded(capsys):
    task = {
        'problem_description': 'Double it.',
        'ground_truth': 'def f(x):\n    return 2 * x',
        'test_cases': {f'test{k}': f'f({k})' for k in range(10)},
    }
    rows = [
        {'task': task, 'dialogue_history': [], 'answer': f'```python\ndef f(x):\n    return {k} * x\n```'}
        for k in (2, 3)
    ]
    files.write_lines('original.jsonl', rows)
    assert commands.main(['report', '--trajectories=original.jsonl']) == 0
    assert '| agent | 50.0 (' in capsys.readouterr().out


ROW = {
    'task': {
        'problem_description': 'Double it.',
        'ground_truth': 'def f(x):\n    return 2 * x',
        'test_cases': {'test1': 'f(1)', 'test2': 'f(2)'},
    },
    'dialogue_history': [],
    'answer': 'def f(x):\n    return 2 * x',
}


def test_refused_answers_are_said(capsys):
    bad = [ROW | {'answer': f'import os\ndef f(x):\n    return {k}'} for k in range(2)]
    files.write_lines('some.jsonl', [ROW, *bad, ROW | {'answer': 'def f(x):\n    return 1 / 0'}])
    assert commands.main(['grade', '--trajectories=some.jsonl', '--out=out.jsonl']) == 0
    assert '2 answers refused: import of os 2x\n' in capsys.readouterr().out
    rows = files.read_trajectories('out.jsonl')
    assert [row.get('errors') for row in rows] == [
        None,
        *[['refused: import of os (line 1)'] * 2] * 2,
        ['ZeroDivisionError'] * 2,
    ]
    assert commands.main(['report', '--trajectories=out.jsonl']) == 0
    assert '2 answers refused: import of os 2x\n' in capsys.readouterr().out


def test_only_what_has_no_reward_is_graded_by_a_report(capsys):
    files.write_lines('some.jsonl', [ROW | {'reward': 0.5}, ROW])
    assert commands.main(['report', '--trajectories=some.jsonl']) == 0
    said = capsys.readouterr().out
    assert '1 of 2 trajectories have no reward' in said and '| agent | 50.0 (' in said and '| 75.0 |' in said
    files.write_lines('mixed.jsonl', [ROW | {'reward': 0.5, 'grader': 'compat'}, ROW])
    with pytest.raises(UserError, match='rewards by compat and by strict; grade them anew'):
        commands.main(['report', '--trajectories=mixed.jsonl'])


def test_half_a_character_stays_what_it_is(capsys):
    turn = {'role': 'user', 'content': 'a \ud83d'}
    files.write_lines('some.jsonl', [ROW | {'dialogue_history': [turn], 'answer': '# \ud83d\n' + ROW['answer']}])
    assert commands.main(['grade', '--trajectories=some.jsonl', '--out=out.jsonl']) == 0
    (row,) = files.read_trajectories('out.jsonl')
    assert row['dialogue_history'] == [turn] and row['answer'].startswith('# \ud83d')


def test_a_file_of_tasks_is_cut_to_the_count(capsys):
    assert commands.main(['generate', '--count=3', '--grammar=restricted', '--out=t.jsonl']) == 0
    assert commands.main(['rollout', '--tasks=t.jsonl', '--count=2']) == 0
    assert len(files.read_trajectories(commands.PLAYED)) == 2


@pytest.mark.parametrize(
    'url,said',
    [
        ('http://127.0.0.1:9/v1', 'cannot be reached: .*refused'),
        ('failing', 'gave no reply that can be used: status 500'),
    ],
)
def test_an_endpoint_that_is_dead_or_fails_for_ever_leaves_no_file(tmp_path, url, said):
    assert commands.main(['generate', '--count=2', '--grammar=restricted', '--out=t.jsonl']) == 0
    with server((500, b'')) as (failing, _), pytest.raises(UserError, match=said):
        url = failing if url == 'failing' else url
        commands.main(['rollout', '--tasks=t.jsonl', f'--human={url}', '--turns=2', '--retries=0', '--out=out.jsonl'])
    assert not (tmp_path / 'out.jsonl').exists()


def test_an_interrupt_leaves_a_silent_endpoint(tmp_path, monkeypatch):
    """One episode is interrupted while the other waits for a server that says nothing."""
    assert commands.main(['generate', '--count=2', '--grammar=restricted', '--out=t.jsonl']) == 0

    def interrupted(items, count, what):
        while what == 'episodes' and not seen:
            time.sleep(0.01)
        if what == 'episodes':
            raise KeyboardInterrupt
        return items

    monkeypatch.setattr(commands, '_progress', interrupted)
    before = set(threading.enumerate())
    with server(lambda handler, done: done.wait(30)) as (url, seen):
        began = time.monotonic()
        with pytest.raises(UserError, match='interrupted'):
            commands.main(['rollout', '--tasks=t.jsonl', f'--human={url}', '--timeout=30', '--out=out.jsonl'])
        while any(t.name.startswith('ThreadPool') for t in set(threading.enumerate()) - before):
            assert time.monotonic() - began < 10
            time.sleep(0.01)
    assert not (tmp_path / 'out.jsonl').exists()


def test_a_person_plays_the_agent(monkeypatch, capsys):
    typed = ['Which one?', 'I WANT TO ANSWER:', 'def f():', '    return 1', '.']
    monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(typed) + '\n'))
    assert commands.main(['play', '--count=2', '--number=1']) == 0
    said = capsys.readouterr().out
    assert 'person: Write a function' in said and '0 of 10 calls are right' in said


def test_a_person_plays_the_human(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stdin', io.StringIO('no idea\n' * 20))
    assert commands.main(['play', '--count=1', '--as=human']) == 0
    said = capsys.readouterr().out
    assert 'the agent must not see it' in said and 'agent: ' in said and 'calls are right' in said


def test_a_talk_that_ends_early(monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.StringIO(''))
    with pytest.raises(UserError, match='ended before the answer'):
        commands.main(['play', '--count=1'])


@pytest.mark.parametrize(
    'words,complaint',
    [
        (['generat'], "did you mean 'generate'"),
        (['generate', '--grammer=full'], "did you mean '--grammar'"),
        (['generate', '--grammar=ful'], "did you mean 'full'"),
        (['generate', '--split=tset'], "did you mean 'test'"),
        (['generate', '--count=0'], 'at least 1'),
        (['generate', '--count=x'], 'invalid int'),
        (['generate', '--hidden=4:2'], 'least must be'),
        (['generate', '--hidden=a'], 'cannot read --hidden=a'),
        (['generate', '--leak=2'], 'between 0 and 1'),
        (['generate', '--out=taken'], '--overwrite'),
        (['rollout', '--agent=oracel'], "did you mean 'oracle'"),
        (['rollout', '--human=script'], "did you mean 'scripted'"),
        (['rollout', '--human=ftp://x'], 'is no address of a server'),
        (['rollout', '--tasks=none.jsonl'], 'cannot read none.jsonl'),
        (['rollout', '--tasks=taken'], 'taken, line 1 is damaged'),
        (['rollout', '--tasks=taken', '--grammar=full'], '--grammar is for tasks that are made now'),
        (['rollout', '--tasks=taken', '--hidden=2:3'], '--hidden is for tasks that are made now'),
        (['play', '--tasks=taken', '--split=test'], '--split is for tasks that are made now'),
        (['play', '--tasks=taken', '--leak=0.5'], '--leak is for tasks that are made now'),
        (['generate', '--domain=frontend', '--grammar=restricted'], '--grammar is for programs'),
        (['rollout', '--human=http://localhost:80x/v1'], 'is no address of a server'),
        (['rollout', '--timeout=0'], '--timeout must be above 0'),
        (['rollout', '--retries=-1'], '--retries at least 0'),
        (['rollout', '--repeat=0'], 'at least 1'),
        (['play', '--as=humn'], "did you mean 'human'"),
        (['play', '--count=1', '--number=1'], 'between 0 and 0'),
        (['grade', '--mode=compact'], "did you mean 'compat'"),
        (['grade', '--trajectories=taken'], 'taken, line 1 is damaged'),
        (['report', '--config.x=3'], "unknown flag '--config.x'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, words, complaint):
    (tmp_path / 'taken').write_text('{"torn')
    with pytest.raises(UserError) as error:
        commands.main(words)
    assert complaint in str(error.value) and '\n' not in str(error.value)
    assert not list(tmp_path.rglob('*.jsonl'))


def test_intervals():
    turn = {'role': 'assistant', 'content': ''}
    rows = [
        {'task': {}, 'dialogue_history': [turn] * k, 'reward': reward} for k, reward in ((1, 1.0), (2, 0.5), (3, 0.0))
    ]
    found = report.metrics_of(rows)
    assert found['success/agent']['value'] == pytest.approx(1 / 3) and found['tests/agent']['value'] == 0.5
    assert found['tests/agent']['high'] - 0.5 == pytest.approx(
        4.302653 * 0.5 / 3**0.5
    )  # Student's, two degrees of freedom
    assert found['turns/agent']['value'] == 2 and '| agent | 33.3 (' in report.table(found)
