"""All methods beside each other at equal cost: `python -m diffusion_jax.compare --domain=dna`.

Every method, at every budget of denoiser calls a design, from every seed: reward and held-out judge (median and 90 %
quantile), diversity, likelihood under the prior, and what was spent. What is there already is not run again. It ends
with a table with intervals over the seeds, and four panels: the judge against denoiser calls and against reward calls,
diversity, likelihood.

    make reproduce-dsearch      make reproduce-rerd
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from core_jax.cli import Parser, keep_compiled, load_preset, quoted
from core_jax.errors import UserError, exit_on_user_error

CELL = ('method', 'budget', 'seed', 'commit')  # which one a row is of; the rest is measured
TITLES = {  # of the tables; what a task measures beside these has its name as its title
    'judge': 'Judge, median of the designs',
    'judge_q90': 'Judge, 90 % quantile',
    'reward': 'Reward that was searched with, median',
    'diversity': 'Diversity',
    'unique': 'Share of designs that differ',
    'log_likelihood': 'Log-likelihood under the prior, median',
    'reward_calls': 'Reward calls a design',
}
TRAINING = ('training_denoiser_calls', 'training_reward_calls', 'value_explained')  # of learned values
UNTOLD = ('failed', 'denoiser_calls', 'seconds', *TRAINING)  # in compare.json alone
VALUED = ('values', 'samples', 'lookahead')  # how states are valued, see `api.design`
METHODS = {  # name in the tables: (method, its settings; those of VALUED may be among them)
    'best of N': ('best_of_n', {}),
    'SMC': ('smc', {}),
    'FK': ('fk', {}),
    'TDS': ('tds', {}),
    'guidance': ('guidance', {}),
    'SVDD': ('svdd', {}),
    'CoDe': ('code', {}),
    'nested IS': ('nested_is', {}),
    'DSearch': ('dsearch', {'oversample': 4}),
    'DSearch-R': ('dsearch', {'oversample': 1, 'group': 16, 'replace': 0.25, 'temperature': 1.0}),
    'RERD': ('rerd', {'children': 2, 'back': 0.1}),
    'RERD select': ('rerd', {'children': 1, 'back': 0.1, 'group': 16, 'temperature': 0.2}),
    'genetic': ('genetic', {}),
    'annealed (ours)': ('anneal', {}),
}
DEFAULT = {
    'domain': 'dna',
    'task': '',  # a variant of the domain; '' is its first
    'task_config': {},  # fields of the task, as --task.FIELD=VALUE sets them
    'reward': '',  # '' is the task's first
    'budgets': (16, 64, 256, 1024),  # denoiser calls a design
    'seeds': 5,
    'designs': 64,  # of a method, budget and seed
    'samples': 0,  # of the value on the way
    'lookahead': 0,
    'methods': METHODS,
}


def main() -> int:
    parser = Parser(prog='python -m diffusion_jax.compare', description=__doc__)
    parser.add_argument('--config', metavar='FILE', help='a preset, such as configs/diffusion/rerd.py')
    parser.add_argument('--domain', help='dna, molecules, proteins or images (dna)')
    parser.add_argument('--task', help='a variant of the domain')
    parser.add_argument('--task.FIELD=VALUE', dest='_', action='store_const', const=None, help='of the task')
    parser.add_argument('--reward', help="by default the task's first")
    parser.add_argument('--methods', help='some of the names in the table, with commas')
    parser.add_argument('--budgets', help='denoiser calls a design, with commas (16,64,256,1024)')
    parser.add_argument('--seeds', type=int, help='how many (5)')
    parser.add_argument('--designs', type=int, help='of each method, budget and seed (64)')
    parser.add_argument('--workdir', help='where results are kept (default runs/compare-TASK-REWARD)')
    parser.add_argument('--workers', type=int, help='processes for a reward on the host')
    parser.add_argument('--report', action='store_true', help='run nothing; table and picture of what there is')
    flags, fields = parser.parse(blocks=('task',))
    asked = settings(load_preset(flags.config) if flags.config else {}, flags, fields)
    command = quoted(['python', '-m', 'diffusion_jax.compare', *sys.argv[1:]])
    keep_compiled()  # most of the time of small tasks is compilation
    from core_jax import session

    def compared() -> None:
        try:
            directory = run(asked, flags.workdir, flags.workers, flags.report, command)
        except KeyboardInterrupt:
            raise UserError('interrupted; the same command goes on from here') from None
        print(f'{directory / "report.md"}, {directory / "compare.png"}, {directory / "compare.json"}')

    return session.as_program(compared)


def settings(preset: dict[str, Any], flags: Any, fields: dict[str, str]) -> dict[str, Any]:
    """What is to be compared; fields: of the task. Raises UserError for unknown names and numbers out of range."""
    from core_jax.errors import unknown

    for name in preset:
        if name not in DEFAULT:
            raise unknown('field of the comparison', name, DEFAULT)
    asked = DEFAULT | preset
    for name in ('domain', 'task', 'reward', 'seeds', 'designs'):
        if getattr(flags, name) is not None:
            asked[name] = getattr(flags, name)
    asked['task_config'] = asked['task_config'] | fields
    if flags.budgets:
        if not all(text.isdigit() for text in flags.budgets.split(',')):
            raise UserError(f'cannot read --budgets={flags.budgets}; write it like 16,64,256')
        asked['budgets'] = tuple(int(text) for text in flags.budgets.split(','))
    if flags.methods:
        names = [name.strip() for name in flags.methods.split(',')]
        for name in names:
            if name not in asked['methods']:
                raise unknown('method of the comparison', name, asked['methods'])
        asked['methods'] = {name: asked['methods'][name] for name in names}
    if min(asked['seeds'], asked['designs'], *asked['budgets']) < 1:
        raise UserError('seeds, designs and budgets must be at least 1')
    return asked


def run(
    asked: dict[str, Any], workdir: str | None, workers: int | None, report_only: bool, command: str
) -> pathlib.Path:
    """Runs the cells that are missing, then writes table and picture."""
    from core_jax import provenance
    from core_jax.files import plain, write_json_atomic
    from diffusion_jax import api

    commit = provenance.git_commit()
    for label in asked['methods']:
        api.check_values(**_values(asked, label))
    config = api.task_config(asked['domain'], asked['task'] or None, asked['task_config'])
    asked = asked | {'task_settings': plain(config.to_dict())}
    api.check_reward(asked['domain'], asked['task'] or None, config, asked['reward'] or None)
    task = api.task(asked['domain'], asked['task'] or None, config)
    reward, name = api.choose(task, asked['reward'] or None)
    directory = pathlib.Path(workdir or f'runs/compare-{task.name}-{name}')
    (directory / 'cells').mkdir(parents=True, exist_ok=True)
    cells = [
        (label, budget, seed)
        for seed in range(asked['seeds'])
        for budget in asked['budgets']
        for label in asked['methods']
    ]
    with contextlib.ExitStack() as stack:
        scorer = None
        if reward.on_host and not report_only:
            from diffusion_jax.rewards import Scorer

            scorer = stack.enter_context(Scorer(reward.on_host, workers=workers))
        for number, (label, budget, seed) in enumerate(cells if not report_only else [], 1):
            path = _path(directory, asked, label, budget, seed)
            if path.exists():
                continue
            row = _cell(task, name, asked, label, budget, seed, scorer)
            if 'refused' not in row:
                write_json_atomic(path, row | {'commit': commit})
            told = row.get('refused') or f'{name} {row["reward"]:.4g}  judge {row["judge"]:.4g}  {row["seconds"]:.1f} s'
            print(f'{number}/{len(cells)}  {label} at {budget}, seed {seed}: {told}', flush=True)
    rows = [json.loads(path.read_text()) for cell in cells if (path := _path(directory, asked, *cell)).exists()]
    if not rows:
        raise UserError(f'nothing has been run in {directory}, or every budget is too small')
    order = list(asked['methods'])  # a method may lack the first budget
    table = sorted(summarized(rows), key=lambda entry: order.index(entry['method']))
    about = {
        'paper': 'diffusion',
        'command': command,
        'task': task.name,
        'reward': name,
        'judge': reward.held_out or name,
    }
    settled = ('task_config', 'budgets', 'seeds', 'designs', 'samples', 'lookahead', 'methods')
    commits = sorted({row['commit'] for row in rows})  # of the cells: what was there is not run again
    document = about | {key: asked[key] for key in settled} | {'commits': commits}
    write_json_atomic(directory / 'compare.json', _dated(document | {'rows': table}))
    (directory / 'report.md').write_text(markdown(table, document))
    draw(table, document, directory / 'compare.png')
    return directory


def _path(directory: pathlib.Path, asked: dict, label: str, budget: int, seed: int) -> pathlib.Path:
    """A file named after all that decides the cell's numbers."""
    import hashlib

    from diffusion_jax import methods

    name, fields = asked['methods'][label]
    method = name, methods.get_config(name).to_dict() | fields  # a default that changes is another cell
    decides = [asked[key] for key in ('domain', 'task', 'task_settings', 'reward', 'designs', 'samples', 'lookahead')]
    digest = hashlib.sha256(json.dumps([*decides, method, budget, seed], sort_keys=True).encode()).hexdigest()[:12]
    return directory / 'cells' / f'{label.replace(" ", "_")}-{budget}-{seed}-{digest}.json'


def _values(asked: dict, label: str) -> dict[str, Any]:
    """How a method's states are valued; learned values do not share the samples and the look-ahead of the others."""
    own = {key: value for key, value in asked['methods'][label][1].items() if key in VALUED}
    learned = own.get('values') == 'learned'
    shared = {key: 0 if learned else asked[key] for key in ('samples', 'lookahead')}
    return {'values': 'posterior'} | shared | own


def _cell(task: Any, name: str, asked: dict, label: str, budget: int, seed: int, scorer: Any) -> dict[str, Any]:
    """One method at one budget from one seed."""
    import numpy as np

    from diffusion_jax import api, methods, report

    method, fields = asked['methods'][label]
    fields = {key: value for key, value in fields.items() if key not in VALUED}
    row = {'method': label, 'budget': budget, 'seed': seed}
    if methods.get_config(method).get('guidance') and not task.rewards[name].on_relaxed:
        return row | {'refused': 'this reward has no gradient'}
    try:
        found = api.design(
            task,
            method=method,
            reward=name,
            nfe=budget,
            designs=asked['designs'],
            seed=seed,
            fields=fields,
            scorer=scorer,
            **_values(asked, label),
        )
    except methods.TooSmall as error:
        return row | {'refused': str(error)}
    searched, judged = (list(found.rewards.values())[i] for i in (0, -1))
    return row | {
        'reward': float(np.nanmedian(searched)),
        'judge': float(np.nanmedian(judged)),
        'judge_q90': float(np.nanquantile(judged, 0.9)),
        'failed': int(found.result.failed.sum()),
        'seconds': found.seconds,
        **report.described(task, found),
    }


def summarized(rows: Sequence[dict]) -> list[dict[str, Any]]:
    """Mean over the seeds of what rows measured, with Student's 95 % interval."""
    from core_jax import stats

    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row['method'], row['budget']), []).append(row)
    table = []
    for (method, budget), own in groups.items():
        entry: dict[str, Any] = {'method': method, 'budget': budget, 'n': len(own)}
        for measure in dict.fromkeys(name for row in own for name in row if name not in CELL):
            figure = stats.mean_interval([row[measure] for row in own if measure in row])
            entry[measure] = {key: figure[key] for key in ('value', 'low', 'high')}
        table.append(entry)
    return table


def _dated(document: dict[str, Any]) -> dict[str, Any]:
    import jax

    device = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    return document | {'device': device, 'date': time.strftime('%Y-%m-%d')}


def markdown(table: Sequence[dict], about: dict[str, Any]) -> str:
    """The page of the comparison."""
    budgets = sorted({entry['budget'] for entry in table})
    names = list(dict.fromkeys(entry['method'] for entry in table))
    found = {(entry['method'], entry['budget']): entry for entry in table}
    lines = [
        f'# {about["task"]}: {about["reward"]}, judged by {about["judge"]}',
        '',
        f'`{about["command"]}`: {about["designs"]} designs a cell, means over {about["seeds"]} seeds, 95 % intervals.',
    ]
    for name, (denoiser, reward, explained) in _paid(table).items():
        lines += [
            '',
            f'{name}: its value was learned before, once, from {denoiser:,.0f} denoiser calls and {reward:,.0f} reward '
            f'calls, which no number below holds; it explains {explained:.0%} of the variance of rewards new to it.',
        ]
    others = dict.fromkeys(key for entry in table for key in entry if key not in (*CELL, 'n', *UNTOLD))
    for measure, title in (TITLES | {name: name for name in others if name not in TITLES}).items():
        cells = {key: entry[measure] for key, entry in found.items() if measure in entry}
        if not cells:
            continue
        lines += [
            '',
            f'## {title}',
            '',
            '| method | ' + ' | '.join(map(str, budgets)) + ' |',
            '| --- ' * (len(budgets) + 1) + '|',
        ]
        lines += [
            f'| {name} | ' + ' | '.join(_shown(cells.get((name, budget))) for budget in budgets) + ' |'
            for name in names
        ]
    return '\n'.join(lines) + '\n'


def _paid(table: Sequence[dict]) -> dict[str, list[float]]:
    """What TRAINING names, of the methods with learned values."""
    return {e['method']: [e[name]['value'] for name in TRAINING] for e in table if all(name in e for name in TRAINING)}


def _shown(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return '-'
    interval = '' if figure['low'] is None else f' [{figure["low"]:.3g}, {figure["high"]:.3g}]'
    return f'{figure["value"]:.3g}{interval}'


def draw(table: Sequence[dict], about: dict[str, Any], path: pathlib.Path) -> None:
    """Four panels: the judge against denoiser calls and reward calls, diversity, likelihood."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(14.5, 7.2), layout='constrained')
    panels, colors = figure.subplots(2, 2), matplotlib.colormaps['tab20'].colors
    names = list(dict.fromkeys(entry['method'] for entry in table))
    beside = ' (training aside)' if _paid(table) else ''
    shown = [
        ('denoiser_calls', 'judge', f'denoiser calls a design{beside}', f'{about["judge"]}, median (dashed: 90 %)'),
        ('reward_calls', 'judge', f'reward calls a design{beside}', f'{about["judge"]}, median'),
        ('denoiser_calls', 'diversity', 'denoiser calls a design', 'mean distance of two designs'),
        ('denoiser_calls', 'log_likelihood', 'denoiser calls a design', 'log-likelihood under the prior'),
    ]
    for axes, (x, y, horizontal, vertical) in zip(panels.flat, shown, strict=True):
        for number, name in enumerate(names):
            own = sorted((e for e in table if e['method'] == name and y in e), key=lambda e: e[x]['value'])
            if not own:
                continue
            color = colors[(2 * number + 2 * number // 20) % 20]  # the strong ones of the map first
            across, style = [e[x]['value'] for e in own], {'color': color, 'marker': 'os^Dv<>pPX*'[number % 11]}
            axes.plot(across, [e[y]['value'] for e in own], label=name, markersize=5, linewidth=1.5, **style)
            if own[0][y]['low'] is not None:
                axes.fill_between(
                    across, [e[y]['low'] for e in own], [e[y]['high'] for e in own], color=color, alpha=0.12
                )
            if (x, y) == ('denoiser_calls', 'judge'):
                axes.plot(across, [e['judge_q90']['value'] for e in own], '--', color=color, linewidth=0.8)
        _fit(axes, [e[y]['value'] for e in table if y in e] + [e['judge_q90']['value'] for e in table if y == 'judge'])
        axes.set_xscale('log')
        axes.set_xlabel(horizontal)
        axes.set_ylabel(vertical)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc='outside right upper', fontsize=9, frameon=False)
    figure.suptitle(f'{about["task"]}: designs for {about["reward"]}, judged by {about["judge"]}', fontsize=11)
    figure.savefig(path, dpi=110)


def _fit(axes: Any, values: Sequence[float]) -> None:
    """The vertical range of the means: wide intervals of few seeds, or one method that fails, would flatten them."""
    if values:
        lower, upper = statistics.quantiles(values, n=4)[::2] if len(values) > 1 else values * 2
        far = 6 * (upper - lower)
        low = min(value for value in values if value >= lower - far)
        high = max(value for value in values if value <= upper + far)
        room = 0.12 * (high - low) or 0.1
        axes.set_ylim(low - room, high + room)


if __name__ == '__main__':
    exit_on_user_error(main)
