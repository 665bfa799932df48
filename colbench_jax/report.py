"""What trajectories came to: success and tests passed, by agent and over all families, with 95 % intervals."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from core_jax.stats import mean_interval, wilson

Metrics = dict[str, dict[str, float]]


def metrics_of(rows: list[dict[str, Any]]) -> Metrics:
    """{'success/GROUP': {'value', 'low', 'high', 'n'}, ...} of graded trajectories; likewise `tests` and `turns`.

    Groups are agents and, of generated tasks, `agent/family`. Success has Wilson's interval; tests passed and turns
    have Student's of the mean.
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
        solved = sum(row['reward'] == 1.0 for row in own)
        low, high = wilson(solved, len(own))
        found[f'success/{name}'] = {'value': solved / len(own), 'low': low, 'high': high, 'n': len(own)}
        found[f'tests/{name}'] = mean_interval([row['reward'] for row in own])
        turns = [sum(turn['role'] == 'assistant' for turn in row['dialogue_history']) for row in own]
        found[f'turns/{name}'] = mean_interval(turns)
    return found


def table(metrics: Metrics) -> str:
    """A Markdown table, a line for each agent, then one for each agent and family."""
    lines = ['| | success % | tests passed % | turns | n |', '|---|---|---|---|---|']
    for key, success in metrics.items():
        kind, _, name = key.partition('/')
        if kind != 'success':
            continue
        tests, turns = metrics[f'tests/{name}'], metrics[f'turns/{name}']
        spread = f'{success["value"]:.1%} ({success["low"]:.1%} to {success["high"]:.1%})'.replace('%', '')
        passed = f'{tests["value"]:.1%}'.replace('%', '')
        lines.append(f'| {name} | {spread} | {passed} | {turns["value"]:.1f} | {success["n"]} |')
    return '\n'.join(lines)
