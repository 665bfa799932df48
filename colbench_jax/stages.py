"""Where tasks of a domain are made, played and graded: what the command line does the same way for both.

A stage knows its domain's scripted agents and who grades.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

from colbench_jax.episode import Agent, HumanSimulator, play
from colbench_jax.grader.pool import Pool
from core_jax.errors import UserError, unknown

Rows = list[dict[str, Any]]


class Backend:
    """Programs, in jails."""

    domain = 'backend'

    def __init__(self, pool: Pool, mode: str = 'strict'):
        """mode: of the grader."""
        self.pool, self.mode = pool, mode

    def tasks(self, count: int, **choices: Any) -> Iterator[dict[str, Any]]:
        """Tasks made now. choices: of tasks.backend.generate."""
        from colbench_jax.tasks.backend.generate import generate

        return generate(self.pool, count, **choices)

    def agent(self, name: str, seed: int, turns: int) -> Agent:
        from colbench_jax import agents

        return agents.make(name, seed, turns)

    def check(self, tasks: Rows) -> None:
        """References that fail are counted when they are graded."""

    def play(self, task: dict[str, Any], agent: Agent, human: HumanSimulator, turns: int) -> dict[str, Any]:
        return play(task, agent, human, turns)

    def grade(self, rows: Rows, tick: Any) -> None:
        """Sets `reward` and `grader` (its mode) of each row, and `errors` [calls] where an answer has no value."""
        from colbench_jax.grader import Grader

        grades = Grader(self.mode, pool=self.pool).grade_many([(row['task'], row['answer']) for row in rows], tick)
        for row, grade in zip(rows, grades, strict=True):
            row['reward'], row['grader'] = grade.reward, self.mode
            row.pop('errors', None)
            if any(grade.errors):
                row['errors'] = list(grade.errors)
        unusable = sum(grade.unusable > 0 for grade in grades)
        if unusable:
            print(f'note: {unusable} references fail on some of their own calls; nobody passes those', file=sys.stderr)

    def verdict(self, row: dict[str, Any]) -> str:
        calls = len(row['task']['test_cases'])
        right = round(row['reward'] * calls)
        return f'{right} of {calls} calls are right' + (': solved' if right == calls else '')

    def told(self, rows: Rows) -> str:
        solved, mean = sum(row['reward'] == 1.0 for row in rows), sum(row['reward'] for row in rows) / len(rows)
        return f'{solved} of {len(rows)} solved, {mean:.1%} of tests passed'


class Frontend:
    """Pages, in a browser, or in none."""

    domain = 'frontend'

    def __init__(self, similarity: str = 'auto'):
        """similarity: of similarity.make."""
        self.similarity = similarity

    @functools.cached_property
    def judge(self) -> Any:
        """Who compares; made when the first page is to be looked at. Raises UserError where something is missing."""
        from colbench_jax import similarity

        judge = similarity.make(self.similarity)
        if self.similarity == 'auto' and not judge.sees:
            print(f'note: pages are compared by the {judge.label}', file=sys.stderr)
        return judge

    def tasks(self, count: int, **choices: Any) -> Iterator[dict[str, Any]]:
        """Tasks made now. choices: of tasks.frontend.generate."""
        from colbench_jax.tasks.frontend.generate import generate

        return generate(count, **choices)

    def agent(self, name: str, seed: int, turns: int) -> Agent:
        from colbench_jax import builders

        return builders.make(name, seed, turns)

    def check(self, tasks: Rows) -> None:
        """Raises UserError that names file and line of a reference which does not load."""
        for number, task in enumerate(tasks):
            self.judge.check(task['ground_truth'], _where(task, number))

    def play(self, task: dict[str, Any], agent: Agent, human: HumanSimulator, turns: int) -> dict[str, Any]:
        """A person who looks gets pictures."""
        if not getattr(human, 'looks', False):
            return play(task, agent, human, turns)
        return play(task, agent, human, turns, lambda task, page: self.judge.show(page, task['ground_truth']))

    def grade(self, rows: Rows, tick: Any) -> None:
        """Sets `reward` and `similarity` (by what) of each row, and `failed` (why) where the answer does not load."""
        for number, row in enumerate(rows):
            score = self.judge.score(row['answer'], row['task']['ground_truth'], _where(row['task'], number))
            row['reward'], row['similarity'] = score.reward, self.judge.label
            row.pop('failed', None)
            if score.failed:
                row['failed'] = score.failed
            tick()

    def verdict(self, row: dict[str, Any]) -> str:
        return f'cosine ({self.judge.label}): {row["reward"]:.3f}' + (f'; {row["failed"]}' if 'failed' in row else '')

    def told(self, rows: Rows) -> str:
        failed = sum('failed' in row for row in rows)
        mean = sum(row['reward'] for row in rows) / len(rows)
        return f'{self.judge.label}: mean cosine {mean:.3f} of {len(rows)}' + (
            f', of which {failed} could not be rendered and count 0' if failed else ''
        )

    def close(self) -> None:
        if 'judge' in self.__dict__:
            self.judge.close()


def _where(task: dict[str, Any], number: int) -> str:
    """Where a task stood in its file; of one that was made now, its number."""
    return getattr(task, 'where', '') or f'task {number}'


def human_of(
    domain: str, name: str, model: str | None, seed: int, timeout: float = 60.0, retries: int = 3
) -> HumanSimulator:
    """Who knows what is wanted. model: of an endpoint, or a local one. timeout: seconds of one try of an endpoint.

    Raises UserError with the nearest name.
    """
    from colbench_jax.simulators import OpenAICompatible, ScriptedHuman
    from colbench_jax.viewers import ModelViewer, ScriptedViewer

    if '://' in name:
        kind = ModelViewer if domain == 'frontend' else OpenAICompatible
        return kind(name, model or 'default', timeout=timeout, retries=retries)
    if name == 'local' and domain == 'backend':
        from colbench_jax.local import LocalLM

        return LocalLM(model or 'smollm2-135m')
    kinds = {'scripted': {}, 'terse': {'terse': True}, 'forgetful': {'forgetful': 0.2}}
    if name not in kinds:
        local = ['local'] if domain == 'backend' else []
        raise unknown('human', name, [*kinds, *local, 'http://localhost:8000/v1'])
    if domain == 'backend':
        return ScriptedHuman(seed, **kinds[name])
    if name == 'forgetful':
        raise UserError('nobody forgets a page that is in front of them; --human=forgetful is for programs')
    return ScriptedViewer(1 if name == 'terse' else 3)
