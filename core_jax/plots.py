"""The learning curve of a run, drawn from its metrics.jsonl: evaluation above, losses below.

Evaluation rows are read by these names; the first that occurs is drawn:

    success, success_rate      with <name>_low, <name>_high: an interval in [0, 1]
    return, episode_return     likewise
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from core_jax.files import cannot_write, write_atomic

SCORES = {
    'success': 'success rate',
    'success_rate': 'success rate',
    'return': 'episode return',
    'episode_return': 'episode return',
}
MOST_LINES = 10  # as many colours as the eye tells apart


def learning_curve(rows: list[dict], path: pathlib.Path, *, title: str = '') -> pathlib.Path:
    """Draws `rows` (as `files.read_metrics` gives them) into the PNG `path`, and returns `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5), layout='constrained')
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title, fontsize=12, fontweight='bold')
    _draw_evaluation(above, [row for row in rows if row['kind'] == 'eval'])
    _draw_losses(below, [row for row in rows if row['kind'] == 'train'])
    below.set_xlabel('gradient step (updates)')
    for axes in (above, below):
        axes.grid(True, color='0.9', linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.xaxis.set_major_formatter(lambda x, _: _steps(x))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, loc='center left', bbox_to_anchor=(1.0, 0.5))
    image = io.BytesIO()
    figure.savefig(image, dpi=150)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cannot_write(path, error)
    write_atomic(path, image.getvalue())
    return path


def _draw_evaluation(axes: Any, rows: list[dict]) -> None:
    score = next((name for name in SCORES if any(name in row for row in rows)), None)
    if score is None:
        _draw_nothing(axes, 'no evaluation yet')
        return
    rows = [row for row in rows if score in row]
    axes.set_title('Evaluation', fontsize=10, loc='left')
    axes.set_ylabel(SCORES[score])
    if 'success' in score:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda y, _: f'{100 * y:.0f} %')
    members = _grouped(rows, 'member')
    if len(members) > MOST_LINES:
        _draw_crowd(axes, members, score)
        return
    for index, (member, own) in enumerate(members.items()):
        steps = [row['step'] for row in own]
        label = None if member is None else f'member {member}'
        axes.plot(steps, _column(own, score), color=f'C{index}', marker='o', markersize=4, linewidth=1.6, label=label)
        if all(f'{score}_low' in row and f'{score}_high' in row for row in own):
            # The bands of several members lie over each other.
            strength, label = (0.18, '95 % interval') if len(members) == 1 else (0.06, None)
            low, high = _column(own, f'{score}_low'), _column(own, f'{score}_high')
            axes.fill_between(steps, low, high, color=f'C{index}', alpha=strength, linewidth=0, label=label)


def _draw_crowd(axes: Any, members: dict, score: str) -> None:
    """More members than there are colours: thin lines, and their median."""
    for own in members.values():
        axes.plot([row['step'] for row in own], _column(own, score), color='C0', linewidth=0.6, alpha=0.25)
    steps = _grouped([row for own in members.values() for row in own], 'step')
    middle = [np.median(_column(rows, score)) for rows in steps.values()]
    axes.plot(list(steps), middle, color='C0', linewidth=2.0, label=f'median of {len(members)} members')


def _draw_losses(axes: Any, rows: list[dict]) -> None:
    losses = list(dict.fromkeys(name for row in rows for name in row if 'loss' in name))[:MOST_LINES]
    if not losses:
        _draw_nothing(axes, 'no losses yet')
        return
    axes.set_title('Losses', fontsize=10, loc='left')
    # Losses of one run differ by orders of magnitude, and some are negative.
    values = np.concatenate([_column(rows, name) for name in losses])
    values = values[np.isfinite(values) & (values != 0)]
    if not len(values):
        _draw_nothing(axes, 'no finite losses')
        return
    if (values > 0).all():
        axes.set_yscale('log')
        axes.set_ylabel('loss (log scale)')
    else:
        axes.set_yscale('symlog', linthresh=10 ** np.floor(np.log10(np.percentile(np.abs(values), 5))))
        axes.set_ylabel('loss (symmetric log scale)')
    for index, name in enumerate(losses):
        steps = _grouped([row for row in rows if np.isfinite(float(row.get(name, 'nan')))], 'step')
        values = [_column(own, name) for own in steps.values()]
        axes.plot(list(steps), [np.median(v) for v in values], color=f'C{index}', linewidth=1.3, label=name)
        if any(len(v) > 1 for v in values):  # a population: the median, and the range of its members
            low, high = [v.min() for v in values], [v.max() for v in values]
            axes.fill_between(list(steps), low, high, color=f'C{index}', alpha=0.12, linewidth=0)


def _grouped(rows: Sequence[dict], name: str) -> dict[Any, list[dict]]:
    """{value of `name`: the rows that have it}, in the order of first appearance."""
    groups: dict[Any, list[dict]] = {}
    for row in rows:
        groups.setdefault(row.get(name), []).append(row)
    return groups


def _draw_nothing(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center', color='0.5')
    axes.set_yticks([])


def _column(rows: Sequence[dict], name: str) -> np.ndarray:
    """[rows]; non-finite values are strings in the file, missing ones (an early row) are gaps."""
    return np.array([float(row.get(name, 'nan')) for row in rows])


def _steps(x: float) -> str:
    for size, letter in ((1e6, 'M'), (1e3, 'k')):
        if abs(x) >= size:
            return f'{x / size:g}{letter}'
    return f'{x:g}'
