"""Statistics of few runs, and Markdown tables of measured results: `make table`.

The interquartile mean and the stratified bootstrap are those of Agarwal et al. 2021 (arXiv 2108.13264), the binomial
interval is Wilson's (1927).
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, (low, high) in 0..1; it holds up at 0 and at n, too."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f'{successes} successes of {n}')
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> dict[str, float | int | None]:
    """{'value', 'low', 'high', 'n'}: the mean and Student's interval of it, whose ends are None for a single value."""
    values = np.asarray(values, float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {'value': mean, 'low': None, 'high': None, 'n': n}
    from scipy.stats import t

    half = float(t.ppf(0.5 + confidence / 2, n - 1) * values.std(ddof=1) / n**0.5)
    return {'value': mean, 'low': mean - half, 'high': mean + half, 'n': n}


def iqm(scores: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Interquartile mean along `axis`: the mean without the lowest and the highest quarter of scores, rounded down.

    Of scores [runs, tasks] it takes both axes at once: runs and tasks count alike.
    """
    scores = np.asarray(scores, np.float64)
    axes = tuple(range(scores.ndim)) if axis is None else np.atleast_1d(axis) % scores.ndim
    rows = np.moveaxis(scores, tuple(axes), tuple(range(-len(axes), 0)))
    rows = np.sort(rows.reshape(*rows.shape[: scores.ndim - len(axes)], -1))
    cut = rows.shape[-1] // 4
    return rows[..., cut : rows.shape[-1] - cut].mean(axis=-1)


def stratified_bootstrap(
    scores: np.ndarray,
    statistic: Callable[..., np.ndarray] = iqm,
    *,
    repetitions: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """(value, low, high): a statistic of scores [runs, tasks] and its percentile interval.

    Every repetition draws as many runs as there are, with replacement, for each task on its own.
    statistic(scores [..., runs, tasks], axis=(-2, -1)) -> [...]: `iqm`, `np.mean`, `np.median`, ...
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f'scores must be [runs, tasks], not of shape {scores.shape}')
    runs, tasks = scores.shape
    drawn = np.random.default_rng(seed).integers(runs, size=(repetitions, runs, tasks))
    values = statistic(scores[drawn, np.arange(tasks)], axis=(-2, -1))
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(statistic(scores, axis=(-2, -1))), float(low), float(high)


# Tables

_TEXT, _NUMBER = (str, 'a text'), ((int, float), 'a number')
_RESULT = {
    'paper': _TEXT,
    'title': _TEXT,
    'command': _TEXT,
    'device': _TEXT,
    'scale': _TEXT,
    'seeds': (list, 'a list'),
    'date': _TEXT,
    'versions': (dict, 'a table'),
    'metrics': (dict, 'a table'),
    'published': (dict, 'a table'),  # may be left out
}
_METRIC = {'value': _NUMBER, 'low': _NUMBER, 'high': _NUMBER, 'n': (int, 'a whole number'), 'interval': _TEXT}
_PUBLISHED = {'value': _NUMBER, 'spread': ((str, int, float), 'a text or a number'), 'source': _TEXT, 'verified': _TEXT}


def read_results(folder: str | os.PathLike) -> list[dict]:
    """The results in `folder`, one JSON file a quoted run, sorted by paper and title; each with its 'file'.

    Files of rows without `metrics` are measurements of another kind (`make tpu-check`) and are left out.

    Raises UserError, naming file and field, where a file is damaged or a field is missing or of the wrong type.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}')
    results = []
    for path in sorted(folder.glob('*.json')):
        try:
            result = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as error:
            raise UserError(f'{path} is no JSON file: {error}') from error
        if isinstance(result, dict):
            if 'rows' in result and 'metrics' not in result:
                continue
            result.setdefault('published', {})
        _check(path, '', result, _RESULT)
        for kind, fields in (('metrics', _METRIC), ('published', _PUBLISHED)):
            for name, figure in result[kind].items():
                _check(path, f'{kind}.{name}', figure, fields)
        for name in result['published']:
            if name not in result['metrics']:
                raise UserError(f'{path}: published.{name} belongs to no measured metric')
        results.append(result | {'file': path.name})
    return sorted(results, key=lambda result: (result['paper'], result['title'], result['file']))


def _check(path: pathlib.Path, where: str, table: Any, fields: dict) -> None:
    if not isinstance(table, dict):
        raise UserError(f'{path}: {where or "the file"} must be a table')
    for field, (kind, words) in fields.items():
        name = f'{where}.{field}'.lstrip('.')
        if field not in table:
            raise UserError(f'{path}: {name} is missing')
        if not isinstance(table[field], kind) or isinstance(table[field], bool):
            raise UserError(f'{path}: {name} must be {words}, not {table[field]!r}')


def markdown(results: list[dict]) -> str:
    """One table a paper: what was measured and at which scale, and the published figure with how far it is verified."""
    lines = ['# Measured results', '', 'Written by `make table` from `results/*.json`; do not edit.']
    for paper in sorted({result['paper'] for result in results}):
        ours = [result for result in results if result['paper'] == paper]
        lines += ['', f'## {paper}', '']
        lines += _row('run', 'metric', 'measured', 'interval', 'n', 'seeds', 'scale', 'device', 'published')
        lines += _row(*['---'] * 9)
        for result in ours:
            about = len(result['seeds']), result['scale'], result['device']
            for name, metric in sorted(result['metrics'].items()):
                interval = f'{metric["low"]:.4g} to {metric["high"]:.4g} ({metric["interval"]})'
                published = _published(result['published'].get(name))
                lines += _row(result['title'], name, f'{metric["value"]:.4g}', interval, metric['n'], *about, published)
        lines += ['', *(f'- {r["title"]}: `{r["command"]}`, {r["date"]} (`{r["file"]}`)' for r in ours)]
    return '\n'.join(lines) + '\n'


def _row(*cells: Any) -> list[str]:
    texts = (' '.join(str(cell).split()).replace('|', '\\|') for cell in cells)
    return [f'| {" | ".join(texts)} |']


def _published(figure: dict | None) -> str:
    if figure is None:
        return '-'
    spread = figure['spread'] if isinstance(figure['spread'], str) else f'± {figure["spread"]:.4g}'
    return f'{figure["value"]:.4g} {spread}'.rstrip() + f' ({figure["source"]}; {figure["verified"]})'


def main() -> int:
    parser = Parser(prog='python -m core_jax.stats', description='Markdown tables of measured results.')
    parser.add_argument('folder', nargs='?', default='results', help='of the JSON files (default: results)')
    parser.add_argument('--out', default='docs/results.md', help='the file to write (default: docs/results.md)')
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 where the file is stale')
    flags, overrides = parser.parse()
    if overrides:
        parser.error('there is no --config here')
    text = markdown(read_results(flags.folder))
    out = pathlib.Path(flags.out)
    if flags.check:
        if out.is_file() and out.read_text(encoding='utf-8') == text:
            return 0
        print(f'{out} is stale: run `make table`')
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding='utf-8')
    print(f'wrote {out}')
    return 0


if __name__ == '__main__':
    exit_on_user_error(main)
