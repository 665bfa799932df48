"""What the arms came to: success and tests passed on the test tasks, over seeds and tasks, with 95 % intervals."""

from __future__ import annotations

import datetime
import io
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


def best_of(arm: str, samples: int, informed: bool) -> str:
    """What the first model is called that says what a critic likes best: one that is told reads the hidden program."""
    return f'best of {samples} by the critic of {arm}' + (' (told the program)' if informed else '')


def measured(seeds: dict[int, Rows]) -> dict[str, dict[str, Any]]:
    """{'success', 'tests', 'turns'}: value and 95 % interval.

    Student's, over the means of seeds; of one seed over its tasks, for success Wilson's.
    """
    found = {}
    for name, of in {
        'success': lambda row: float(row['reward'] == 1.0),
        'tests': lambda row: row['reward'],
        'turns': lambda row: sum(turn['role'] == 'assistant' for turn in row['dialogue_history']),
    }.items():
        means = [float(np.mean([of(row) for row in rows])) for rows in seeds.values()]
        if len(seeds) > 1:
            found[name] = stats.mean_interval(means) | {'interval': "95 %, Student's, over seeds"}
        else:
            (rows,) = seeds.values()
            found[name] = stats.mean_interval([of(row) for row in rows])
            found[name] |= {'interval': "95 %, Student's, over the tasks of one seed"}
            if name == 'success':
                low, high = stats.wilson(int(sum(of(row) for row in rows)), len(rows))
                found[name] |= {'low': low, 'high': high, 'interval': "95 %, Wilson's, over the tasks of one seed"}
        found[name]['per_seed'] = means
    return found


def document(
    found: dict[str, dict[int, Rows]],
    left_out: dict[str, list[str]],
    command: str,
    config: Any,
    seeds: Sequence[int],
    seconds: dict[int, dict[str, float]],
    wall_seconds: float,
) -> dict[str, Any]:
    """What summary.json holds. wall_seconds: of this command alone, which found finished stages there."""
    import jax

    from core_jax import provenance
    from core_jax.files import plain

    model = config.model or f'a decoder of width {config.width} and {config.layers} layers, trained here'
    return {
        'paper': 'sweet_rl',
        'title': f'SWEET-RL on backend tasks of the {config.grammar} grammar',
        'command': command,
        'date': datetime.date.today().isoformat(),
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'scale': f'{model}; {config.test_tasks} test tasks a seed',
        'seeds': list(seeds),
        'versions': provenance.versions(),
        'commit': provenance.git_commit(),
        'wall_seconds': wall_seconds,
        'stage_seconds': {str(seed): own for seed, own in seconds.items()},
        'left_out': left_out,
        'config': plain(config.to_dict()),
        'metrics': {f'{name} / {arm}': v for arm, runs in found.items() for name, v in measured(runs).items()},
    }


def arms_of(about: dict[str, Any]) -> list[str]:
    """All that were measured, in their order."""
    return [key.removeprefix('success / ') for key in about['metrics'] if key.startswith('success / ')]


def minutes(about: dict[str, Any], arm: str) -> float | None:
    """Of training and evaluating an arm, a mean over seeds; without what it shares with others. None: not known."""
    own = [of[arm] + of.get(f'evaluated-{arm}', 0.0) for of in about['stage_seconds'].values() if arm in of]
    return float(np.mean(own)) / 60 if own else None


def markdown(about: dict[str, Any]) -> str:
    """The table."""
    metrics = about['metrics']
    lines = [
        f'`{about["command"]}`: seeds {", ".join(map(str, about["seeds"]))}, 95 % intervals; measured with '
        f"{about['scale']}, not at the paper's scale.",
        '',
        '| | seeds | solved, % | tests passed, % | turns | minutes a seed |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for arm in arms_of(about):
        success, tests, turns = (metrics[f'{kind} / {arm}'] for kind in ('success', 'tests', 'turns'))
        cells = [f'{100 * m["value"]:.1f} [{100 * m["low"]:.1f}, {100 * m["high"]:.1f}]' for m in (success, tests)]
        took = minutes(about, arm)
        lines.append(
            f'| {arm} | {len(success["per_seed"])} | {cells[0]} | {cells[1]} | {turns["value"]:.1f} '
            f'| {"" if took is None else f"{took:.1f}"} |'
        )
    lines += [f'| {arm} | left out: {"; ".join(why)} | | | | |' for arm, why in about['left_out'].items()]
    return '\n'.join(lines) + '\n'


def write(about: dict[str, Any], directory: pathlib.Path, whole: bool) -> list[pathlib.Path]:
    """summary.json, report.md and report.png; of some arms some-summary.json, ..., which replace no whole table."""
    from core_jax.files import make_directory, write_atomic, write_json_atomic

    make_directory(directory)
    first = '' if whole else 'some-'
    paths = [directory / f'{first}{name}' for name in ('summary.json', 'report.md', 'report.png')]
    write_json_atomic(paths[0], about)
    write_atomic(paths[1], markdown(about).encode())
    write_atomic(paths[2], drawn(about))
    print(markdown(about))
    return paths


def drawn(about: dict[str, Any]) -> bytes:
    """A PNG: a bar an arm, with its interval and its seeds."""
    import matplotlib.figure

    names = arms_of(about)
    figure = matplotlib.figure.Figure(figsize=(8, 0.4 * len(names) + 1.2), layout='constrained')
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        entry = about['metrics'][f'success / {name}']
        value, low, high = (100 * entry[key] for key in ('value', 'low', 'high'))
        colour = 'tab:blue' if name in ('zero_shot', 'rft', 'mt_dpo', 'sweet') else 'tab:gray'
        axes.barh(place, value, color=colour, height=0.6)
        axes.errorbar(value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], color='black', capsize=3)
        seeds = [100 * one for one in entry['per_seed']]
        axes.plot(seeds, [place] * len(seeds), 'o', color='tab:orange', markersize=4)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlim(0, 100)
    axes.set_xlabel(f'solved, % of test tasks ({len(about["seeds"])} seeds: points; 95 % intervals)')
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=110)
    return picture.getvalue()
