"""Files of tasks: one JSON object a line, in the schema of the original ColBench files, which load unchanged.

`problem_description` and `ground_truth` are texts; `test_cases` is {"test1": "fn(...)", ...}, of backend tasks alone.
What has none and begins with a tag is a frontend task: its `ground_truth` is the HTML of a page.
`spec` is ours and may be missing: of a backend task, it holds what a scripted person knows.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from core_jax.errors import UserError
from core_jax.files import reason, write_atomic

DOMAINS = ('backend', 'frontend')


class Row(dict):
    """An object of a file, which remembers where it stood there."""

    where: str = ''  # 'FILE, line 3'


def write_lines(path: str | os.PathLike, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as JSON lines; the file is whole or not there. Raises UserError.

    In ASCII, since a text may hold half a character, which UTF-8 cannot say.
    """
    write_atomic(path, ''.join(json.dumps(row) + '\n' for row in rows).encode())


def read_tasks(path: str | os.PathLike, limit: int | None = None) -> list[dict[str, Any]]:
    """The tasks of a file, at most `limit`. Raises UserError that names file and line of what is broken."""
    rows: list[Row] = []
    for where, row in _lines(path):
        check_task(row, where)
        _check_domain(rows, row, where)
        rows.append(row)
        if len(rows) == limit:
            break
    if not rows:
        raise UserError(f'{path} holds no tasks')
    return rows


def read_trajectories(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Trajectories {task, dialogue_history, answer, ...} of a file. Raises UserError that names file and line."""
    rows: list[Row] = []
    for where, row in _lines(path):
        if not isinstance(row.get('task'), dict):
            raise UserError(f'{where}: no task')
        row['task'] = _row(row['task'], where)
        check_task(row['task'], where)
        _check_domain([row['task'] for row in rows[:1]], row['task'], where)
        _check_trajectory(row, where)
        rows.append(row)
    if not rows:
        raise UserError(f'{path} holds no trajectories')
    return rows


def check_task(row: dict[str, Any], where: str) -> None:
    """Raises UserError, which begins with `where`, for what is no task."""
    for field in ('problem_description', 'ground_truth'):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise UserError(f'{where}: {field} is {"missing" if field not in row else "no text"}')
    spec = row.get('spec')
    if spec is not None and not (isinstance(spec, dict) and isinstance(spec.get('family', ''), str)):
        raise UserError(f'{where}: spec is no object with a family')
    if domain_of(row) == 'frontend':
        return
    calls = row.get('test_cases')
    if not isinstance(calls, dict) or not calls or not all(isinstance(call, str) for call in calls.values()):
        raise UserError(f'{where}: test_cases is no table of calls, such as {{"test1": "f(1)"}}')
    if spec is not None and not isinstance(spec.get('slots'), list):
        raise UserError(f'{where}: spec has no slots')
    for number, slot in enumerate(spec['slots'] if spec else ()):
        wrong = next(
            (name for name, fits in _SLOT.items() if not isinstance(slot, dict) or not fits(slot.get(name))), ''
        )
        if wrong or 'value' not in slot:
            raise UserError(f'{where}: slot {number} of spec has no {wrong or "value"}')


_SLOT = {
    'name': lambda name: isinstance(name, str),
    'questions': lambda texts: isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts),
    'answer': lambda text: isinstance(text, str),
    'hidden': lambda hidden: isinstance(hidden, bool),
}


def _check_trajectory(row: dict[str, Any], where: str) -> None:
    """Raises UserError, which begins with `where`, for what is no talk, or no grade of it."""
    turns = row.get('dialogue_history')
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and 'role' in turn for turn in turns):
        raise UserError(f'{where}: dialogue_history is no list of turns')
    for number, turn in enumerate(turns):
        if turn['role'] not in ('user', 'assistant'):
            raise UserError(f'{where}: turn {number} has neither the role user nor assistant')
        if not isinstance(turn.get('content'), str):
            raise UserError(f'{where}: turn {number} has no content that is a text')
    for name in ('answer', *(name for name in ('agent', 'grader', 'similarity', 'failed') if name in row)):
        if not isinstance(row.get(name), str):
            raise UserError(f'{where}: {name} is no text')
    reward, errors = row.get('reward', 0), row.get('errors', [])
    if type(reward) not in (int, float) or not 0 <= reward <= 1:
        raise UserError(f'{where}: reward is no number between 0 and 1')
    if not isinstance(errors, list) or not all(why is None or isinstance(why, str) for why in errors):
        raise UserError(f'{where}: errors is no list of texts')


def domain_of(task: dict[str, Any]) -> str:
    """`frontend` of a task whose reference is a page, else `backend`."""
    page = 'test_cases' not in task and task.get('ground_truth', '').lstrip().startswith('<')
    return 'frontend' if page else 'backend'


def _check_domain(before: list[Row], task: Row, where: str) -> None:
    if before and domain_of(before[0]) != domain_of(task):
        raise UserError(f'{where}: a {domain_of(task)} task among {domain_of(before[0])} tasks')


def _row(row: dict[str, Any], where: str) -> Row:
    row = Row(row)
    row.where = where
    return row


def _lines(path: str | os.PathLike):
    """('file, line 3', object) of each line that is not empty."""
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from error
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        where = f'{path}, line {number}'
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise UserError(f'{where} is damaged: {reason(error)}') from error
        if not isinstance(row, dict):
            raise UserError(f'{where} is no JSON object')
        yield where, _row(row, where)
