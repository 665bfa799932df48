"""The paper's comparison: several agents on several environments, with intervals, the paper's figures beside.

    make reproduce-fql                                                       what two CPU cores carry in about two hours
    python -m fql_jax.reproduce --config=configs/reproduce_fql/paper.py      the paper's size, for an accelerator
    python -m fql_jax.reproduce --environments=cube-single --methods=fql,iql

Each pair of environment and agent is one ordinary run (`fql_jax.main`) of a few seeds, in a directory of its own under
--workdir. What is finished is not run again, what was stopped goes on, and a pair that fails is named and does not stop
the others. At the end (and with --report at any time): a table, a picture, and the JSON that they are made from.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
import traceback
from typing import Any, NamedTuple

from core_jax.cli import Parser, load_preset
from core_jax.errors import UserError, exit_on_user_error, unknown
from core_jax.files import plain, write_atomic, write_json_atomic

CONFIG = 'configs/reproduce_fql/cpu.py'


class Cell(NamedTuple):
    """One run of the grid: the fields that it sets, and where it lies."""

    environment: str
    method: str
    fields: dict[str, Any]
    directory: pathlib.Path


def main() -> int:
    parser = Parser(prog='python -m fql_jax.reproduce', description=__doc__)
    parser.add_argument('--config', default=CONFIG, help='the grid (%(default)s)')
    parser.add_argument('--environments', help='some of them, separated by commas')
    parser.add_argument('--methods', help='some of them, separated by commas')
    parser.add_argument('--steps', type=int, help='updates of every run, instead of what the grid says')
    parser.add_argument('--seeds', type=int, help='seeds of every run, instead of what the grid says')
    parser.add_argument('--workdir', help='of the runs (default: runs/reproduce-NAME, NAME being that of the grid)')
    parser.add_argument('--out', help='the JSON of the results (default: what the grid says)')
    parser.add_argument('--plan', action='store_true', help='print what would be run')
    parser.add_argument('--report', action='store_true', help='write the table of what there is, and run nothing')
    flags, overrides = parser.parse()
    if overrides:
        raise UserError('reproduce has no --config.FIELD; copy the grid and change it')
    grid = load_preset(flags.config)
    extra = {name: getattr(flags, name) for name in ('steps', 'seeds') if getattr(flags, name) is not None}
    if extra and not (flags.workdir and flags.out):
        raise UserError('--steps and --seeds make another grid: give --workdir and --out too')
    workdir = pathlib.Path(flags.workdir or f'runs/reproduce-{grid["name"]}')
    cells = plan(grid, workdir, flags.environments, flags.methods, extra)
    if flags.plan:
        for cell in cells:
            state = 'finished' if finished(cell) else 'to do'
            print(f'{cell.environment:16} {cell.method:8} {state:9} {_words(cell.fields)}')
        return 0
    failed = [] if flags.report else run_all(cells)
    out = pathlib.Path(flags.out or grid['out'])
    # All that is finished, also where some of it was asked for.
    report(grid, plan(grid, workdir, extra=extra), out, f'python -m fql_jax.reproduce --config={flags.config}')
    return 1 if failed else 0


def plan(
    grid: dict[str, Any],
    workdir: pathlib.Path,
    environments: str | None = None,
    methods: str | None = None,
    extra: dict[str, Any] | None = None,
) -> list[Cell]:
    """The cells of a grid, environment by environment.

    grid: common (fields of all), environments and methods ({name: fields}), tuned ({environment: {method: fields}});
    later ones win, and `extra` over all.
    """
    cells = []
    for environment in _chosen('environment', environments, grid['environments']):
        for method in _chosen('method', methods, grid['methods']):
            tuned = grid['tuned'].get(environment, {}).get(method, {})
            layers = (grid['common'], grid['environments'][environment], grid['methods'][method], tuned, extra or {})
            fields = {name: value for layer in layers for name, value in layer.items()}
            cells.append(Cell(environment, method, fields, workdir / environment / method))
    return cells


def _chosen(kind: str, wanted: str | None, known: dict[str, Any]) -> list[str]:
    names = wanted.split(',') if wanted else list(known)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return names


def finished(cell: Cell) -> bool:
    """Whether the run has come to its end. UserError where its directory holds a run of other settings."""
    return begun(cell) and (cell.directory / 'summary.json').exists()


def begun(cell: Cell) -> bool:
    """Whether there is a run. UserError where it is not the one that the grid asks for."""
    from core_jax.files import differences
    from core_jax.runs import Run
    from fql_jax import settings

    saved = Run.saved_config(cell.directory)
    if saved is None:
        return False
    found = differences(saved['config'], plain(settings.resolve(cell.fields, {}).to_dict()))
    differ = [f'{name}: {there} there, {here} wanted' for name, there, here in found if name not in ('workers', 'mesh')]
    if differ:
        raise UserError(f'{cell.directory} holds another run ({"; ".join(differ)}); choose another --workdir')
    return True


def run_all(cells: list[Cell]) -> list[Cell]:
    """Runs what is not finished; returns what failed."""
    from core_jax import loop
    from fql_jax import api

    failed = []
    for number, cell in enumerate(cells, 1):
        if finished(cell):
            continue
        print(f'--- {number} of {len(cells)}: {cell.method} on {cell.environment}: {_words(cell.fields)}')
        resume = begun(cell)
        try:
            api.train(fields={} if resume else cell.fields, preset={}, workdir=str(cell.directory), resume=resume)
        except loop.Preempted as stopped:
            print('the same command goes on from here')
            raise SystemExit(stopped.status) from None
        except Exception as error:  # whatever it is, the other runs go on
            failed.append(cell)
            if not isinstance(error, (UserError, loop.NonFinite)):
                traceback.print_exc()
            print(f'failed: {cell.method} on {cell.environment}: {error}', file=sys.stderr)
    return failed


def measure(cell: Cell) -> dict[str, Any] | None:
    """Success over all seeds and episodes of a finished run, with each seed's own; None for one that is not."""
    from core_jax import stats

    if not finished(cell):
        return None
    summary = json.loads((cell.directory / 'summary.json').read_text())
    names = [f'member_{i}/success' for i in range(len(summary['members']))]
    seeds = [summary['metrics'][name] for name in names if name in summary['metrics']] or [
        summary['metrics']['success']
    ]
    wins, n = sum(round(m['value'] * m['n']) for m in seeds), sum(m['n'] for m in seeds)
    low, high = stats.wilson(wins, n)
    values = [m['value'] for m in seeds]
    return {
        'value': wins / n,
        'low': low,
        'high': high,
        'n': n,
        'per_seed': values,
        'frozen': summary['frozen_members'],
        'updates': summary['steps'],
        'wall_seconds': summary['wall_seconds'],
    }


def earlier(cells: list[Cell], out: pathlib.Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What `out` already says of runs with the same fields: a grid may be run in pieces, on more than one machine."""
    try:
        saved = json.loads(out.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f'{out} is no JSON file: {error}') from None
    found = {}
    for cell in cells:
        name = f'{cell.environment}/{cell.method}'
        if saved.get('runs', {}).get(name) == plain(cell.fields):
            found[cell.environment, cell.method] = saved['metrics'][name]
    return found


def report(grid: dict[str, Any], cells: list[Cell], out: pathlib.Path, command: str) -> None:
    """The JSON, the Markdown table and the picture of what is finished."""
    here = {(cell.environment, cell.method): measure(cell) for cell in cells}
    measured = earlier(cells, out) | {pair: found for pair, found in here.items() if found}
    if not measured:
        raise UserError('no run of this grid is finished yet')
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out, document(grid, cells, measured, command))
    text = table(grid, measured)
    write_atomic(out.with_suffix('.md'), text.encode())
    picture = draw(grid, measured, out.with_suffix('.png'))
    print(text)
    print(f'{len(measured)} of {len(cells)} runs are finished; wrote {out}, {out.with_suffix(".md")} and {picture}')


def document(grid: dict, cells: list[Cell], measured: dict, command: str) -> dict[str, Any]:
    """What `make table` reads, with the fields of every run."""
    import jax

    from core_jax import provenance

    device = jax.devices()[0]
    seeds = max(cell.fields.get('seeds', 1) for cell in cells)
    metrics, published = {}, {}
    for (environment, method), found in measured.items():
        name = f'{environment}/{method}'
        metrics[name] = {
            key: found[key] for key in ('value', 'low', 'high', 'n', 'per_seed', 'frozen', 'updates', 'wall_seconds')
        }
        metrics[name]['interval'] = '95 % Wilson over episodes of all seeds'
        figure = grid['published'].get(environment, {}).get(method)
        if figure:
            published[name] = dict(zip(('value', 'spread', 'source', 'verified'), figure, strict=True))
    return {
        'paper': 'fql',
        'title': grid['title'],
        'command': command,
        'date': time.strftime('%Y-%m-%d'),
        'device': f'{jax.device_count()} x {device.device_kind}',
        'seeds': list(range(seeds)),
        'scale': grid['scale'],
        'versions': provenance.versions(),
        'commit': provenance.git_commit(),
        'metrics': metrics,
        'published': published,
        'runs': {
            f'{cell.environment}/{cell.method}': cell.fields
            for cell in cells
            if (cell.environment, cell.method) in measured
        },
    }


def table(grid: dict, measured: dict) -> str:
    """Markdown: a row an environment, a column a method, success in per cent with its interval, the paper's below."""
    methods = [name for name in grid['methods'] if any(method == name for _, method in measured)]
    lines = [f'| success, % | {" | ".join(methods)} |', f'| --- |{" --- |" * len(methods)}']
    for environment in grid['environments']:
        here = [measured.get((environment, method)) for method in methods]
        if not any(here):
            continue
        shown = [_percent(found) if found else '-' for found in here]
        figures = [grid['published'].get(environment, {}).get(method) for method in methods]
        paper = [f'{100 * figure[0]:.0f}' if figure else '-' for figure in figures]
        lines += [f'| {environment} | {" | ".join(shown)} |', f'| (paper) | {" | ".join(paper)} |']
    return '\n'.join([*lines, '', grid['note'], ''])


def _percent(found: dict) -> str:
    return f'{100 * found["value"]:.0f} [{100 * found["low"]:.0f}, {100 * found["high"]:.0f}]'


def draw(grid: dict, measured: dict, path: pathlib.Path) -> pathlib.Path:
    """Bars with intervals and one dot a seed; the paper's figures as dashes."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    environments = [name for name in grid['environments'] if any(environment == name for environment, _ in measured)]
    figure = Figure(figsize=(2.6 * len(environments) + 1, 3.4), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(environments), sharey=True, squeeze=False)[0]
    for axes, environment in zip(panels, environments, strict=True):
        methods = [name for name in grid['methods'] if (environment, name) in measured]
        for x, method in enumerate(methods):
            found = measured[environment, method]
            error = [[found['value'] - found['low']], [found['high'] - found['value']]]
            axes.bar(
                x, found['value'], yerr=error, color=f'C{list(grid["methods"]).index(method)}', capsize=3, width=0.7
            )
            axes.plot([x] * len(found['per_seed']), found['per_seed'], '.', color='black', markersize=4)
            published = grid['published'].get(environment, {}).get(method)
            if published:
                axes.hlines(published[0], x - 0.42, x + 0.42, color='black', linestyles='dashed', linewidth=1)
        axes.set_title(environment, fontsize=10)
        axes.set_xticks(range(len(methods)), methods, rotation=60, fontsize=8)
        axes.set_ylim(0, 1.02)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].set_ylabel('success rate')
    figure.suptitle(f'{grid["title"]} (bars: measured here; dots: seeds; dashes: paper)', fontsize=10)
    image = io.BytesIO()
    figure.savefig(image, dpi=130)
    write_atomic(path, image.getvalue())
    return path


def _words(fields: dict[str, Any]) -> str:
    return ' '.join(f'{name}={value}' for name, value in fields.items())


if __name__ == '__main__':
    exit_on_user_error(main)
