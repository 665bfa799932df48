"""What the arms came to: success and tests passed on the test tasks, over seeds and tasks, with 95 % intervals."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from core_jax import stats

Rows = list[dict[str, Any]]


def line(name: str, seed: int, rows: Rows) -> str:
    """One arm and seed in a line."""
    solved = np.mean([row['reward'] == 1.0 for row in rows])
    return f'{name}, seed {seed}: {solved:.1%} solved, {np.mean([row["reward"] for row in rows]):.1%} of tests passed'


def measured(seeds: Sequence[Rows]) -> dict[str, dict[str, float]]:
    """{'success', 'tests', 'turns'}: value and 95 % interval.

    Student's, over the means of seeds; of one seed over its tasks, for success Wilson's.
    """
    found = {}
    for name, of in {
        'success': lambda row: float(row['reward'] == 1.0),
        'tests': lambda row: row['reward'],
        'turns': lambda row: sum(turn['role'] == 'assistant' for turn in row['dialogue_history']),
    }.items():
        if len(seeds) > 1:
            found[name] = stats.mean_interval([np.mean([of(row) for row in rows]) for rows in seeds])
            continue
        found[name] = stats.mean_interval([of(row) for row in seeds[0]])
        if name == 'success':
            low, high = stats.wilson(int(sum(of(row) for row in seeds[0])), len(seeds[0]))
            found[name] |= {'low': low, 'high': high}
    return found


def document(found: dict[str, list[Rows]], command: str, config: Any, seeds: int, seconds: float) -> dict[str, Any]:
    """What summary.json holds."""
    import jax

    from core_jax import provenance
    from core_jax.files import plain

    return {
        'paper': 'sweet_rl',
        'command': command,
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'commit': provenance.git_commit(),
        'seeds': seeds,
        'test_tasks': config.test_tasks,
        'wall_seconds': seconds,
        'config': plain(config.to_dict()),
        'metrics': {f'{key}/{name}': v for name, runs in found.items() for key, v in measured(runs).items()},
    }


def markdown(about: dict[str, Any]) -> str:
    """The table."""
    metrics = about['metrics']
    names = [key.removeprefix('success/') for key in metrics if key.startswith('success/')]
    lines = [
        f'`{about["command"]}`: {about["test_tasks"]} test tasks, {about["seeds"]} seeds, 95 % intervals; '
        "measured at the scale of a small model trained here, not at the paper's.",
        '',
        '| | solved, % | tests passed, % | turns |',
        '| --- | --- | --- | --- |',
    ]
    for name in names:
        success, tests, turns = (metrics[f'{kind}/{name}'] for kind in ('success', 'tests', 'turns'))
        cells = [f'{100 * m["value"]:.1f} [{100 * m["low"]:.1f}, {100 * m["high"]:.1f}]' for m in (success, tests)]
        lines.append(f'| {name} | {cells[0]} | {cells[1]} | {turns["value"]:.1f} |')
    return '\n'.join(lines) + '\n'


def draw(about: dict[str, Any], path: pathlib.Path) -> None:
    """A bar an arm, with its interval."""
    import matplotlib.figure

    metrics = about['metrics']
    names = [key.removeprefix('success/') for key in metrics if key.startswith('success/')]
    figure = matplotlib.figure.Figure(figsize=(8, 0.45 * len(names) + 1.2), layout='constrained')
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        entry = metrics[f'success/{name}']
        value, low, high = (100 * entry[key] for key in ('value', 'low', 'high'))
        axes.barh(place, value, color='tab:blue', height=0.6)
        axes.errorbar(value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], color='black', capsize=3)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel(f'solved, % of {about["test_tasks"]} test tasks ({about["seeds"]} seeds, 95 % interval)')
    figure.savefig(path, dpi=110)
