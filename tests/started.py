"""Run directories as the tests open them."""

import json
import pathlib

from core_jax import runs
from core_jax.runs import Run

CONFIG = {'env': 'cube-single', 'alpha': 30.0, 'hidden': (256, 256), 'steps': 100}


def start(directory, config=CONFIG, **options):
    return Run.open(directory, config, paper='fql', command='python -m fql_jax.main', **options)


def lines(run):
    return [json.loads(line) for line in (run.directory / 'metrics.jsonl').read_text().splitlines()]


def tree(directory):
    """{path: content} of everything in a directory but its lock."""
    files = (p for p in pathlib.Path(directory).rglob('*') if p.is_file() and p.name != runs.LOCK)
    return {str(p.relative_to(directory)): p.read_bytes() for p in files}
