"""What there is to choose from, for `python -m fql_jax.main --list`: environments, agents, presets, data sets.

Source is read, not imported, where importing it would bring jax: the answer comes at once.
"""

from __future__ import annotations

import ast
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from core_jax.errors import unknown
from fql_jax import data, oracles, tasks

HERE = Path(__file__).parent
PRESETS = HERE.parent / 'configs' / 'fql'  # beside the package in the repository; an installed package has none
FIGURES = (
    'Paper:',
    'Released data:',
    'Others:',
    'Expected:',
)  # begin the paragraphs of a preset's header that we print


class Preset(NamedTuple):
    """path: as --config takes it. what: the header's first line. figures: the numbers known, with who says so."""

    path: str
    what: str
    figures: tuple[str, ...]


def show(what: str = 'all') -> str:
    """The list of one kind, or of all, as text. Raises UserError for a word that is none of `SECTIONS`."""
    if what not in ('all', *SECTIONS):
        raise unknown('list', what, ('all', *SECTIONS))
    chosen = SECTIONS.values() if what == 'all' else [SECTIONS[what]]
    return '\n\n'.join(section() for section in chosen)


def presets() -> list[Preset]:
    """Every preset under configs/fql, by path."""
    result = []
    for file in sorted(PRESETS.rglob('*.py'), key=lambda file: (len(file.parts), file)):
        what, *paragraphs = (' '.join(part.split()) for part in docstring(file).split('\n\n'))
        figures = tuple(part for part in paragraphs if part.startswith(FIGURES))
        result.append(Preset(os.path.relpath(file), what, figures))
    return result


def agents() -> list[tuple[str, str]]:
    """(name, the first line of its module's docstring) of each agent in `fql_jax.settings.AGENTS`."""
    body = ast.parse((HERE / 'settings.py').read_text()).body
    (names,) = (node.value for node in body if isinstance(node, ast.Assign) and node.targets[0].id == 'AGENTS')
    return [(name, docstring(HERE / 'agents' / f'{name}.py').split('\n')[0]) for name in ast.literal_eval(names)]


def docstring(file: Path) -> str:
    """A module's docstring, without running the module."""
    return ast.get_docstring(ast.parse(file.read_text())) or ''


def _environments() -> str:
    rows = [('environment', 'data', 'task', 'steps', 'collected here')]
    for name in tasks.ENVIRONMENTS:
        task = tasks.resolve(f'ogbench-{name}')
        here = ', '.join(oracles.collectable(task)) or '-'
        rows.append((f'ogbench-{name}', ', '.join(task.kinds), str(task.number), str(task.max_steps), here))
    for name in tasks.D4RL:
        task = tasks.resolve(name)
        rows.append((f'd4rl-{name.rpartition("-v")[0]}', "D4RL's file", '-', str(task.max_steps), '-'))
    notes = (
        'A name may be followed by a kind and a task: ogbench-cube-double-noisy-task4. `task` is the one without.\n'
        'Also OGBench ids (cube-single-play-singletask-v0), D4RL ids (pen-human-v1), gymnasium ids (my_package:Env-v0).'
    )
    return f'Environments (--env=NAME)\n\n{_table(rows)}\n\n{textwrap.indent(notes, "  ")}'


def _agents() -> str:
    return f'Agents (--agent=NAME)\n\n{_table(agents())}'


def _presets() -> str:
    lines = ['Presets (--config=FILE), each with its figure and who says so', '']
    for preset in presets():
        lines.append(f'  {preset.path}')
        for text in (preset.what, *preset.figures):
            lines += textwrap.wrap(text, 118, initial_indent=6 * ' ', subsequent_indent=8 * ' ')
    return '\n'.join(lines) if len(lines) > 2 else f'Presets: none at {PRESETS}; they are in the repository'


def _data() -> str:
    home = data.directory()
    files = [path for pattern in ('*.npz', '*.hdf5') for path in home.glob(pattern) if not path.stem.endswith('-val')]
    rows = [(path.name, f'{path.stat().st_size / 1e6:.1f} MB') for path in sorted(files)]
    prepared = sorted(info.parent for info in home.glob('d4rl_*/*/*/dataset_info.json'))
    rows += [(str(path.relative_to(home)), 'TFDS') for path in prepared]
    return f'Data sets in {home}\n\n{_table(rows) if rows else "  none"}'


SECTIONS: dict[str, Callable[[], str]] = {
    'environments': _environments,
    'agents': _agents,
    'presets': _presets,
    'data': _data,
}


def _table(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as they must be, indented by two."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = (zip(row, widths, strict=True) for row in rows)
    return '\n'.join('  ' + '  '.join(text.ljust(width) for text, width in row).rstrip() for row in cells)
