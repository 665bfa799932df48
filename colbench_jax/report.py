"""What trajectories came to, by agent and over all families, with 95 % intervals.

Of programs: success and tests passed. Of pages: the cosine to the page that was meant, by one way of comparing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

from core_jax.errors import UserError
from core_jax.stats import mean_interval, wilson

Metrics = dict[str, dict[str, float]]


def metrics_of(rows: list[dict[str, Any]]) -> Metrics:
    """{'success/GROUP': {'value', 'low', 'high', 'n'}, ...} of graded trajectories; likewise `tests` and `turns`.

    Pages have `cosine` in place of `success` and `tests`. Groups are agents and, of generated tasks, `agent/family`.
    Success has Wilson's interval; what is a mean has Student's, that of a cosine cut to 0..1.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        agent = row.get('agent', 'agent')
        groups[agent].append(row)
        family = (row['task'].get('spec') or {}).get('family')
        if family:
            groups[f'{agent}/{family}'].append(row)
    found = {}
    for name in sorted(groups, key=lambda name: ('/' in name, name)):
        own = groups[name]
        if 'similarity' in own[0]:
            found[f'cosine/{name}'] = within(mean_interval([row['reward'] for row in own]))
        else:
            found |= _success(name, own)
        turns = [sum(turn['role'] == 'assistant' for turn in row['dialogue_history']) for row in own]
        found[f'turns/{name}'] = mean_interval(turns)
    return found


def within(interval: dict[str, Any]) -> dict[str, Any]:
    """An interval of a quantity in 0..1."""
    if interval['low'] is None:
        return interval
    return interval | {'low': max(0.0, interval['low']), 'high': min(1.0, interval['high'])}


def _success(name: str, own: list[dict[str, Any]]) -> Metrics:
    solved = sum(row['reward'] == 1.0 for row in own)
    low, high = wilson(solved, len(own))
    success = {'value': solved / len(own), 'low': low, 'high': high, 'n': len(own)}
    return {f'success/{name}': success, f'tests/{name}': mean_interval([row['reward'] for row in own])}


def label_of(rows: list[dict[str, Any]]) -> str:
    """By what pages were compared, or the grader's mode. Raises UserError where it was not the same for all."""
    labels = sorted({row.get('similarity') or row.get('grader', 'strict') for row in rows})
    if len(labels) > 1:
        raise UserError(f'rewards by {" and by ".join(labels)}; grade them anew')
    return labels[0]


def refusals(rows: list[dict[str, Any]]) -> str:
    """'2 answers refused: import of os 2x', '' where none was."""
    reasons = Counter(
        re.sub(r' \(line \d+\)$', '', said.removeprefix('refused: '))
        for said in ((row.get('errors') or [None])[0] or '' for row in rows)
        if said.startswith('refused: ')
    )
    listed = ', '.join(f'{reason} {count}x' for reason, count in reasons.most_common())
    return f'{reasons.total()} answers refused: {listed}' if reasons else ''


def table(metrics: Metrics, label: str = 'strict') -> str:
    """A Markdown table, a line for each agent, then one for each agent and family. label: of `label_of`."""
    cosine, mode = next(iter(metrics)).startswith('cosine/'), '' if label == 'strict' else f' ({label})'
    head = f'cosine by {label}' if cosine else f'success %{mode} | tests passed %{mode}'
    lines = [f'| | {head} | turns | n |', '|---|---|---|---|' + ('' if cosine else '---|')]
    for key, first in metrics.items():
        kind, _, name = key.partition('/')
        turns = metrics[f'turns/{name}']['value']
        if kind == 'success':
            spread = f'{first["value"]:.1%} ({first["low"]:.1%} to {first["high"]:.1%})'.replace('%', '')
            passed = f'{metrics[f"tests/{name}"]["value"]:.1%}'.replace('%', '')
            lines.append(f'| {name} | {spread} | {passed} | {turns:.1f} | {first["n"]} |')
        elif kind == 'cosine':
            spread = '' if first['low'] is None else f' ({first["low"]:.3f} to {first["high"]:.3f})'
            lines.append(f'| {name} | {first["value"]:.3f}{spread} | {turns:.1f} | {first["n"]} |')
    return '\n'.join(lines)
