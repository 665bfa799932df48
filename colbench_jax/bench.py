"""Measures the grader on this machine and appends rows to results/bench.jsonl.

    make bench                       everything, some minutes
    python -m colbench_jax.bench     gradings a second, a jail for each CPU

A grading: all ten calls of a task, the answer and the reference each in a child of its own. Once where every answer is
to a task of its own, once where four are to one task, whose reference then runs once. In compat both are in one child.
Answers are the references themselves, and every one must score 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core_jax import bench
from core_jax.errors import exit_on_user_error

PARTS = ('strict', 'compat')
TASKS = 200  # of the 24 families


def main() -> int:
    parser = bench.parser('python -m colbench_jax.bench', __doc__, PARTS)
    flags, parts, measure = bench.parse(parser, PARTS)
    from colbench_jax.grader.pool import Pool
    from colbench_jax.tasks.backend.generate import generate

    show = bench.Rows()
    with Pool() as pool:
        tasks = list(generate(pool, TASKS, split='test'))
        for mode in parts:
            answers = (1, 4) if mode == 'strict' else (1,)
            rates = measure({f'{number}': gradings(pool, mode, tasks, number) for number in answers})
            for number, values in rates.items():
                row = {'bench': 'colbench grade', 'mode': mode, 'answers_a_task': int(number), 'jails': pool.size}
                show(row | bench.spread(values))
    show.append_to(flags.out)
    return 0


def gradings(pool: Any, mode: str, tasks: Sequence[dict[str, Any]], answers: int) -> Callable[[int], None]:
    """A function that grades `count` answers, `answers` to a task; no reference is known from before."""
    from colbench_jax.grader import Grader

    pairs = [(task, task['ground_truth']) for task in tasks for _ in range(answers)]

    def run(count: int) -> None:
        for start in range(0, count, len(pairs)):
            grades = Grader(mode, pool=pool).grade_many(pairs[: min(count - start, len(pairs))])
            assert mode == 'compat' or all(grade.success for grade in grades)

    return run


if __name__ == '__main__':
    exit_on_user_error(main)
