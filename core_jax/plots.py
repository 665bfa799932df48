"""The learning curve of a run, drawn from its metrics.jsonl: evaluation above, losses below.

Evaluation rows are read by these names; the first that occurs is drawn:

    success, success_rate      with <name>_low, <name>_high: an interval in [0, 1]
    return, episode_return     likewise
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SCORES = {
    'success': 'success rate',
    'success_rate': 'success rate',
    'return': 'episode return',
    'episode_return': 'episode return',
}
MOST_LOSSES = 8  # as many lines as the eye tells apart


def learning_curve(rows: list[dict], path: pathlib.Path, *, title: str = '') -> pathlib.Path:
    """Draws `rows` (as `runs.read_metrics` gives them) into the PNG `path`, and returns `path`."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
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
    members = list(dict.fromkeys(row.get('member') for row in rows))
    for index, member in enumerate(members):
        own = [row for row in rows if row.get('member') == member]
        steps = [row['step'] for row in own]
        color = f'C{index % 10}'
        label = None if member is None else f'member {member}'
        axes.plot(steps, _column(own, score), color=color, marker='o', markersize=4, linewidth=1.6, label=label)
        if all(f'{score}_low' in row and f'{score}_high' in row for row in own):
            # Bands of many members would hide each other.
            band = 0.18 if len(members) == 1 else 0.06
            low, high = _column(own, f'{score}_low'), _column(own, f'{score}_high')
            label = '95 % interval' if len(members) == 1 else None
            axes.fill_between(steps, low, high, color=color, alpha=band, linewidth=0, label=label)


def _draw_losses(axes: Any, rows: list[dict]) -> None:
    losses = list(dict.fromkeys(name for row in rows for name in row if 'loss' in name))[:MOST_LOSSES]
    if not losses:
        _draw_nothing(axes, 'no losses yet')
        return
    axes.set_title('Losses', fontsize=10, loc='left')
    axes.set_ylabel('loss (symmetric log scale)')
    # Losses of one run differ by orders of magnitude, and some are negative.
    sizes = np.abs(np.concatenate([_column(rows, name) for name in losses]))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    axes.set_yscale('symlog', linthresh=float(np.percentile(sizes, 5)) if sizes.size else 1.0)
    for index, name in enumerate(losses):
        own = [row for row in rows if name in row]
        steps = np.unique([row['step'] for row in own])
        values = [_column([row for row in own if row['step'] == step], name) for step in steps]
        axes.plot(steps, [np.median(v) for v in values], color=f'C{index}', linewidth=1.3, label=name)
        if any(len(v) > 1 for v in values):  # a population: the median, and the range of its members
            axes.fill_between(
                steps, [v.min() for v in values], [v.max() for v in values], color=f'C{index}', alpha=0.12, linewidth=0
            )


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
