"""Statistics of few runs, and Markdown tables of measured results: `make table`.

Intervals are 95 % unless said otherwise. The interquartile mean and the stratified bootstrap are those of Agarwal et al.
2021 (arXiv 2108.13264); the binomial interval is Wilson's (1927).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
from scipy.stats import norm, trim_mean

from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, (low, high) in 0..1; it behaves at 0 and at n, too."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f'{successes} successes of {n}')
    z = float(norm.ppf(0.5 + confidence / 2))
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter of all scores."""
    return float(trim_mean(np.asarray(scores), 0.25, axis=None))


def stratified_bootstrap(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float] = iqm,
    *,
    repetitions: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """(value, low, high) of statistic(scores [runs, tasks]): percentiles over resampled runs, each task on its own."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f'scores must be [runs, tasks], got shape {scores.shape}')
    rng = np.random.default_rng(seed)
    runs, tasks = scores.shape
    drawn = rng.integers(0, runs, (repetitions, runs, tasks))
    values = [statistic(np.take_along_axis(scores, index, axis=0)) for index in drawn]
    low, high = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(statistic(scores)), float(low), float(high)


# Tables

REQUIRED = ('paper', 'title', 'command', 'device', 'scale', 'seeds', 'metrics')


def read_results(folder: str | pathlib.Path) -> list[dict]:
    """The results in `folder`, one JSON file a quoted run, sorted by paper and title.

    Files without `metrics` hold something else (rows of `make tpu-check`) and are left out. Raises UserError for a
    file that is damaged or lacks a field.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}')
    results = []
    for path in sorted(folder.glob('*.json')):
        try:
            result = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f'{path} is no JSON file: {error}') from error
        if not isinstance(result, dict):
            raise UserError(f'{path} holds no result')
        if 'rows' in result and 'metrics' not in result:
            continue
        for field in REQUIRED:
            if field not in result:
                raise UserError(f'{path} lacks {field!r}')
        for name, metric in result['metrics'].items():
            for field in ('value', 'low', 'high', 'n'):
                if not isinstance(metric.get(field), (int, float)):
                    raise UserError(f'{path}: metric {name!r} lacks a number {field!r}')
        results.append(result | {'file': path.name})
    return sorted(results, key=lambda r: (r['paper'], r['title'], r['file']))


def markdown(results: list[dict]) -> str:
    """One table a paper: what was measured, at which scale, and the published figure with how far it is verified."""
    lines = ['# Measured results', '', 'Written by `make table` from `results/*.json`; do not edit.']
    for paper in sorted({result['paper'] for result in results}):
        lines += ['', f'## {paper}', '']
        lines += ['| run | metric | measured [95 % interval] | n | seeds | scale | published | file |']
        lines += ['| --- | --- | --- | --- | --- | --- | --- | --- |']
        for result in (r for r in results if r['paper'] == paper):
            for name, metric in result['metrics'].items():
                measured = f'{_number(metric["value"])} [{_number(metric["low"])}, {_number(metric["high"])}]'
                seeds = len(result['seeds'])
                cells = [result['title'], name, measured, metric['n'], seeds, result['scale'], _published(result, name)]
                lines.append('| ' + ' | '.join(str(cell).replace('|', '/') for cell in [*cells, result['file']]) + ' |')
        lines.append('')
        for result in (r for r in results if r['paper'] == paper):
            lines.append(f'- {result["title"]}: `{result["command"]}` on {result["device"]}')
    return '\n'.join(lines) + '\n'


def _published(result: dict, name: str) -> str:
    figure = result.get('published', {}).get(name)
    if figure is None:
        return '-'
    spread = f' {figure["spread"]}' if figure.get('spread') else ''
    return f'{_number(figure["value"])}{spread} ({figure["source"]}; {figure["verified"]})'


def _number(value: float) -> str:
    return f'{value:.4g}'


def main() -> int:
    parser = Parser(prog='python -m core_jax.stats', description='Markdown tables of measured results.')
    parser.add_argument('folder', nargs='?', default='results', help='of the JSON files')
    parser.add_argument('--out', default='docs/results.md', help='the file to write')
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 where the file is stale')
    flags, _ = parser.parse()
    text = markdown(read_results(flags.folder))
    out = pathlib.Path(flags.out)
    if flags.check:
        if out.is_file() and out.read_text() == text:
            return 0
        print(f'{out} is stale: run `make table`')
        return 1
    out.write_text(text)
    print(f'wrote {out}')
    return 0


if __name__ == '__main__':
    exit_on_user_error(main)
