"""Learning curves from a CSV or from run directories, one `Curves` a configuration.

The CSV (also .csv.gz) has one row an evaluation and the columns of `COLUMNS`, in any order; others are ignored:

    env            task
    algo           algorithm
    sigma          updates an environment step (UTD)
    batch_size     of one update
    learning_rate  of the critic
    model_size     parameters of the critic, both heads, without target
    seed           any name that tells the runs of one configuration apart
    env_step       environment transitions collected so far, warm-up included
    return         undiscounted, in the unit that the thresholds will have

A directory is read as the cells.csv or runs.csv (or .gz) that it holds, else as all runs of `scaling.utd` below it.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from core_jax.errors import UserError, unknown
from core_jax.files import read_metrics, reason

COLUMNS = ('env', 'algo', 'sigma', 'batch_size', 'learning_rate', 'model_size', 'seed', 'env_step', 'return')
TEXTS = ('env', 'algo', 'seed')
RETURN = 'online/return'  # the column of our metrics.jsonl: what training collects, as the paper uses it
LEAST_LENGTH = 0.95  # of the longest run of a configuration (the authors' qscaled removes shorter ones)


class Key(NamedTuple):
    """A configuration."""

    env: str
    algo: str
    sigma: float
    batch_size: float
    learning_rate: float
    model_size: float

    def __str__(self) -> str:
        numbers = ' '.join(f'{name}={getattr(self, name):.10g}' for name in self._fields[2:])
        return f'{self.env} {self.algo} {numbers}'


class Curves(NamedTuple):
    """The runs of one configuration on one logging grid."""

    key: Key
    env_step: np.ndarray  # [T], increasing
    returns: np.ndarray  # [seeds, T]
    seeds: tuple[str, ...]
    resets: tuple[float, ...] = ()  # environment steps at which the networks began anew; known of our own runs


class Runs(NamedTuple):
    """All that was read: curves sorted by configuration, what was left out and why, and what the returns are called."""

    curves: list[Curves]
    notes: list[str]
    return_column: str


Columns = dict[str, list]


def read(path: str) -> Runs:
    """The runs at `path`: a CSV or a directory (see the module's docstring).

    Raises UserError, naming file and line or configuration, for an empty file, missing columns, texts that are no
    numbers, returns that are not finite, and logging grids that differ between the seeds of a configuration.
    """
    place = pathlib.Path(path)
    if place.is_dir():
        names = ('cells.csv', 'cells.csv.gz', 'runs.csv', 'runs.csv.gz')
        place = next((place / name for name in names if (place / name).is_file()), place)
    if place.is_dir():
        columns, notes, resets = _read_directory(place)
        curves, left_out = group(columns, str(place), late_starts=True)
        curves = [own._replace(resets=resets.get(own.key, ())) for own in curves]
        return Runs(curves, notes + left_out, RETURN)
    if not place.is_file():
        raise UserError(f'there is no file or directory {path}')
    return Runs(*group(_read_csv(place), str(place)), 'return')


def _read_csv(path: pathlib.Path) -> Columns:
    try:
        with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8-sig', newline='') as file:
            header, *rows = csv.reader(file)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'could not read {path}: {reason(error)}') from error
    except ValueError:
        raise UserError(f'{path} is empty') from None
    header = [name.strip() for name in header]
    for name in COLUMNS:
        if name not in header:
            hint = str(unknown('column', name, header)).partition('; ')[2]
            raise UserError(f'{path} has no column {name!r}; {hint}')
    if not any(rows):
        raise UserError(f'{path} has a header and no rows')
    place = {name: header.index(name) for name in COLUMNS}
    columns: Columns = {name: [] for name in COLUMNS}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(header):
            raise UserError(f'{path}, line {number} has {len(row)} fields, the header {len(header)}')
        for name, index in place.items():
            columns[name].append(row[index].strip() if name in TEXTS else _number(path, number, name, row[index]))
    return columns


def _number(path: pathlib.Path, line: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f'{path}, line {line}: {name} must be a number, not {text!r}') from None


def _read_directory(root: pathlib.Path) -> tuple[Columns, list[str], dict[Key, tuple[float, ...]]]:
    """Rows of every finished run of `scaling.utd` below `root`, and where each configuration was reset.

    Runs without summary.json are still under way.
    """
    columns: Columns = {name: [] for name in COLUMNS}
    notes, resets = [], {}
    for file in sorted(root.rglob('config.json')):
        saved = _json(file)
        if saved.get('paper') != 'utd':
            continue
        directory = file.parent
        if not (directory / 'summary.json').is_file():
            notes.append(f'{directory} is not finished (no summary.json): left out')
            continue
        known = len(columns['env'])
        notes += _add_run(columns, directory, saved, _json(directory / 'summary.json'))
        for key in set(zip(*(columns[name][known:] for name in Key._fields), strict=True)):
            resets[Key(*key)] = _resets(saved['config'])
    if not columns['env']:
        raise UserError(f'{root} holds no finished run of scaling.utd, and no cells.csv or runs.csv')
    return columns, notes, resets


def _resets(config: dict[str, Any]) -> tuple[float, ...]:
    """The environment steps of BRO's resets, which its config counts in updates."""
    steps, warmup, ratio = config.get('steps', 0), config.get('warmup', 0), config['utd']
    updates = list(config.get('reset_steps', ()))
    if config.get('reset_interval'):
        updates += range(config['reset_interval'], int(ratio * steps), config['reset_interval'])
    return tuple(sorted(warmup + update / ratio for update in updates if warmup + update / ratio < steps))


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'could not read {path}: {reason(error)}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must be a table')
    return content


def _add_run(columns: Columns, directory: pathlib.Path, saved: dict, summary: dict) -> list[str]:
    """Appends the rows of a run; returns a note for each member that was frozen, which is left out."""
    config = saved.get('config', {})
    size = saved.get('model_size', summary.get('model_size'))
    needed = {name: config.get(name) for name in ('env', 'agent', 'utd', 'batch_size')} | {'model_size': size}
    for name, value in needed.items():
        if value is None:
            raise UserError(f'{directory / "config.json"}: {name} is missing')
    rate = config.get('learning_rate') or config.get('critic_learning_rate', config.get('actor_learning_rate'))
    members = summary.get('members') or [{'seed': config.get('seed', 0)}]
    notes = [
        f'{directory}: member {number} (seed {member["seed"]}) was frozen at update {member["frozen_at"]}: left out'
        for number, member in enumerate(members)
        if member.get('frozen_at') is not None
    ]
    latest: dict[int, float] = {}
    for row in read_metrics(directory / 'metrics.jsonl'):
        number = row.get('member', 0)
        if row.get('kind') != 'train' or members[number].get('frozen_at') is not None:
            continue
        for name in ('environment_steps', RETURN):
            if name not in row:
                raise unknown(f'column of {directory / "metrics.jsonl"}', name, row)
        value = float(row[RETURN])
        # No episode ended since the last row: what was known then still is; before the first one nothing is.
        if math.isnan(value) and math.isnan(float(row.get('online/length', 0))):
            if number not in latest:
                continue
            value = latest[number]
        latest[number] = value
        own = float(members[number].get('hparams', {}).get('critic_learning_rate', rate))
        key = config['env'], config['agent'], float(config['utd']), float(config['batch_size']), own, float(size)
        values = *key, str(members[number]['seed']), float(row['environment_steps']), value
        for name, entry in zip(COLUMNS, values, strict=True):
            columns[name].append(entry)
    return notes


def group(columns: Columns, source: str, late_starts: bool = False) -> tuple[list[Curves], list[str]]:
    """(curves, notes): the rows of each configuration as one array, short seeds left out and named.

    Seeds that end a little earlier than others of their configuration (5 % at most) set the end for all; with
    late_starts (our runs, where a row has no return before the first episode ends) also the start.

    Raises UserError, naming `source` and configuration.
    """
    seeds: dict[Key, dict[str, list[tuple[float, float]]]] = {}
    for *key, seed, step, value in zip(*(columns[name] for name in COLUMNS), strict=True):
        seeds.setdefault(Key(*key), {}).setdefault(seed, []).append((step, value))
    curves, notes = [], []
    for key, runs in sorted(seeds.items()):
        for name in Key._fields[2:]:
            if not 0 < getattr(key, name) < math.inf:
                raise UserError(f'{source}: {key}: {name} must be above 0')
        arrays = {seed: np.array(sorted(rows)) for seed, rows in runs.items()}
        last = max(rows[-1, 0] for rows in arrays.values())
        short = [seed for seed, rows in arrays.items() if rows[-1, 0] < LEAST_LENGTH * last]
        notes += [
            f'{key}: seed {seed} ends at step {arrays[seed][-1, 0]:.0f} of {last:.0f}: left out' for seed in short
        ]
        kept = {seed: rows for seed, rows in arrays.items() if seed not in short}
        curves.append(_on_one_grid(key, kept, source, late_starts))
    return curves, notes


def _on_one_grid(key: Key, runs: dict[str, np.ndarray], source: str, late_starts: bool) -> Curves:
    if late_starts:
        start = max(rows[0, 0] for rows in runs.values())
        runs = {seed: rows[rows[:, 0] >= start] for seed, rows in runs.items()}
    length = min(len(rows) for rows in runs.values())
    grid = next(iter(runs.values()))[:length, 0]
    for seed, rows in runs.items():
        if not np.isfinite(rows).all():
            raise UserError(f'{source}: {key}: seed {seed} has returns or steps that are not finite')
        if (np.diff(rows[:, 0]) <= 0).any():
            raise UserError(f'{source}: {key}: seed {seed} logs a step twice')
        if not np.array_equal(rows[:length, 0], grid):
            raise UserError(f'{source}: {key}: seed {seed} is logged at other steps than the seeds before it')
    return Curves(key, grid, np.stack([rows[:length, 1] for rows in runs.values()]), tuple(runs))
