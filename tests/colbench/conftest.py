"""One pool of jails for all tests of a process: starting one takes as long as a hundred gradings."""

import pytest

from colbench_jax.grader import Grader
from colbench_jax.grader.pool import Limits, Pool
from colbench_jax.tasks.backend.generate import GRAMMARS, SPLITS, generate


@pytest.fixture(scope='session')
def pool():
    with Pool(2) as shared:
        yield shared


@pytest.fixture(scope='session')
def graders(pool):
    """{mode: Grader} over the shared pool, with limits that let a bomb go off quickly."""
    limits = Limits(call_seconds=0.2, cpu_seconds=1, deadline=4.0)
    return {mode: Grader(mode, pool=pool, limits=limits) for mode in ('strict', 'lenient', 'compat')}


@pytest.fixture(scope='session')
def made(pool):
    """{(grammar, split): tasks}"""
    return {
        (grammar, split): list(generate(pool, 16 if split == 'test' else 5, grammar=grammar, split=split))
        for grammar in GRAMMARS
        for split in SPLITS
    }
