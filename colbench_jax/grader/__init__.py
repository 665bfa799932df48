"""Grades of answers: the share of a task's calls on which an answer gives what the reference gives.

`strict` (default) and `lenient` compare values that come out of the jail as plain data; `compat` has the semantics of
the released grader, its faults included, in the same jail, for comparisons with published numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from colbench_jax.grader.compare import same
from colbench_jax.grader.pool import Job, Limits, Pool, calls_of, jail_of, program_of, well_formed
from core_jax.errors import UserError, unknown
from core_jax.files import write_json_atomic

DEFAULT_LIMITS = Limits()
MODES = ('strict', 'lenient', 'compat')


class Grade(NamedTuple):
    """What an answer scored."""

    reward: float  # share of calls passed, 0 to 1
    passed: tuple[bool, ...]  # [calls]
    errors: tuple[str | None, ...]  # [calls]: why an answer has no value there
    unusable: int  # calls on which the reference itself has no value; nobody can pass them

    @property
    def success(self) -> bool:
        return bool(self.passed) and all(self.passed)


class Grader:
    """Grades answers in a pool of jails. Close it, or use it as a context."""

    def __init__(
        self,
        mode: str = 'strict',
        *,
        workers: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        cache: str | os.PathLike | None = None,
        pool: Pool | None = None,
    ):
        """cache: a JSON file where the references' values are kept, by hash. pool: one to share, which stays open."""
        if mode not in MODES:
            raise unknown('grader mode', mode, MODES)
        self.mode, self.limits = mode, limits
        self._cache = pathlib.Path(cache) if cache else None
        self._values: dict[str, list] = _read_cache(self._cache) if self._cache else {}
        self._saved = len(self._values)
        self._owned = pool is None
        self.pool = pool or Pool(workers)

    def grade(self, task: dict[str, Any], answer: str) -> Grade:
        """The grade of one answer to a task (`ground_truth`, `test_cases`)."""
        return self.grade_many([(task, answer)])[0]

    def grade_many(
        self, pairs: Iterable[tuple[dict[str, Any], str]], tick: Callable[[], None] = lambda: None
    ) -> list[Grade]:
        """Grades of (task, answer) pairs, in their order. tick: called after each answer."""
        pairs = [(task, program_of(answer)) for task, answer in pairs]
        if self.mode == 'compat':
            jobs = [
                Job((task['ground_truth'], answer), calls_of(task), screen=False, compat=True, limits=self.limits)
                for task, answer in pairs
            ]
            return [
                _grade(outcome.passed, [None] * len(outcome.passed), sum(why is not None for why in outcome.errors[0]))
                for outcome in self.pool.map(jobs, tick)
            ]
        wanted = self.expected([task for task, _ in pairs])
        jobs = [Job((answer,), calls_of(task), limits=self.limits) for task, answer in pairs]
        outcomes = self.pool.map(jobs, tick)
        return [
            self._compare(mine, outcome.values[0], outcome.errors[0])
            for mine, outcome in zip(wanted, outcomes, strict=True)
        ]

    def expected(self, tasks: Sequence[dict[str, Any]]) -> list[list[list | None]]:
        """The reference's tagged value for every call of every task; each reference runs once."""
        keys = [_key(task) for task in tasks]
        new = {key: task for key, task in zip(keys, tasks, strict=True) if key not in self._values}
        for jail in ('grades', 'references'):
            # References of original files are written by a model: they pass the walls, but not the list of what is
            # allowed.
            jobs = {
                key: Job((task['ground_truth'],), calls_of(task), screen=False, jail=jail, limits=self.limits)
                for key, task in new.items()
                if jail_of(task['ground_truth']) == jail
            }
            for key, outcome in zip(jobs, self.pool.map(list(jobs.values())), strict=True):
                self._values[key] = outcome.values[0]
        return [self._values[key] for key in keys]

    def _compare(self, wanted: list, found: list, errors: list) -> Grade:
        passed = [
            mine is not None and its is not None and same(mine, its, lenient=self.mode == 'lenient')
            for mine, its in zip(wanted, found, strict=True)
        ]
        return _grade(passed, errors, sum(mine is None for mine in wanted))

    def close(self) -> None:
        if self._cache and len(self._values) > self._saved:
            write_json_atomic(self._cache, self._values)
        if self._owned:
            self.pool.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def _grade(passed: Sequence[bool], errors: Sequence[str | None], unusable: int) -> Grade:
    return Grade(sum(passed) / max(1, len(passed)), tuple(passed), tuple(errors), unusable)


def _key(task: dict[str, Any]) -> str:
    """A hash of what a reference's values depend on, the version of Python among it."""
    parts = [sys.version_info[:2], task['ground_truth'], calls_of(task)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_cache(path: pathlib.Path) -> dict[str, list]:
    if not path.exists():
        return {}
    try:
        saved = json.loads(path.read_text())
        if all(isinstance(row, list) and all(v is None or well_formed(v) for v in row) for row in saved.values()):
            return saved
    except (OSError, ValueError, AttributeError):
        pass
    raise UserError(f'{path} is damaged; remove it, it is made again')
