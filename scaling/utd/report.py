"""Plots and one page of a sweep: curves, hyperparameters, data requirements, budgets, overfitting, plasticity."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from core_jax.files import write_atomic
from scaling.utd.cells import Cell

SYMBOLS = {'sigma': 'sigma*', 'compute': 'C*', 'data': 'D*'}
LEAST_OPTIMA = 3  # inside the ratios that were run, for a line through them to mean anything
Results = list[tuple[Cell, dict[str, Any]]]


def write(
    root: pathlib.Path,
    profile: dict[str, Any],
    choice: dict[str, Any],
    fits: dict[str, Any],
    grid: Results,
    fitted: Results,
) -> None:
    """Writes ROOT/plots/*.png and ROOT/report.md, and says where they are."""
    pictures = {
        'curves': lambda figure: curves(figure, fits, fitted),
        'hyperparameters': lambda figure: hyperparameters(figure, choice),
        'data': lambda figure: data(figure, fits),
        'frontier': lambda figure: frontier(figure, fits),
        'budget': lambda figure: budget(figure, fits),
        'overfitting': lambda figure: measures(figure, grid),
    }
    for name, draw in pictures.items():
        _save(root / 'plots' / f'{name}.png', draw)
    text = page(profile, choice, fits, list(pictures))
    write_atomic(root / 'report.md', text.encode())
    print(f'report: {root / "report.md"}, plots in {root / "plots"}')


def _save(path: pathlib.Path, draw: Callable[[Any], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout='constrained')
    FigureCanvasAgg(figure)
    draw(figure)
    image = io.BytesIO()
    figure.savefig(image, dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, image.getvalue())


def _panels(figure: Any, count: int, rows: int = 1, width: float = 4.2, height: float = 3.4, **keywords: Any) -> Any:
    """[rows, count] axes without the frame's upper and right line."""
    figure.set_size_inches(width * count, height * rows)
    axes = figure.subplots(rows, count, squeeze=False, **keywords)
    for one in axes.flat:
        one.grid(True, color='0.92', linewidth=0.8)
        one.set_axisbelow(True)
        one.spines[['top', 'right']].set_visible(False)
    return axes


def _log(axis: Any, base: int = 10) -> None:
    """A logarithmic axis whose few labels are numbers as one writes them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    (axis.axes.set_xscale if axis.axis_name == 'x' else axis.axes.set_yscale)('log', base=base)
    axis.set_major_locator(LogLocator(base, subs=(1.0, 2.0, 5.0) if base == 10 else (1.0,)))
    axis.set_major_formatter(lambda value, _: f'{value:.3g}'.replace('e+', 'e') if value < 1e3 else _short(value))
    axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """2000, 25k, 3e10."""
    return (
        f'{value:.0f}' if value < 1e4 else f'{value / 1e3:.3g}k' if value < 1e6 else f'{value:.2g}'.replace('e+', 'e')
    )


def _colour(values: list[float], value: float) -> Any:
    """From dark to light over the sorted values."""
    from matplotlib import colormaps

    place = sorted(values).index(value) / max(len(values) - 1, 1)
    return colormaps['viridis'](0.05 + 0.85 * place)


def _error_bars(estimates: list[dict[str, float | None]]) -> tuple[np.ndarray, np.ndarray]:
    """(values [n], distances [2, n] to the ends of the interval; 0 where there is none)."""
    values = np.array([e['value'] for e in estimates], float)
    low = np.array([e['value'] if e['low'] is None else e['low'] for e in estimates], float)
    high = np.array([e['value'] if e['high'] is None else e['high'] for e in estimates], float)
    return values, np.stack([np.maximum(values - low, 0), np.maximum(high - values, 0)])


def curves(figure: Any, fits: dict[str, Any], fitted: Results) -> None:
    """Mean return of each ratio, its isotonic fit, and where it crosses the thresholds."""
    from scaling.utd.crossings import isotonic

    panels = _panels(figure, len(fits['tasks']))[0]
    for axes, (name, task) in zip(panels, fits['tasks'].items(), strict=True):
        own = [(cell, result) for cell, result in fitted if cell.config.env == task['env'] and not result['failed_at']]
        ratios = sorted({cell.config.utd for cell, _ in own})
        for utd in ratios:
            runs = [result for cell, result in own if cell.config.utd == utd]
            steps = np.array(runs[0]['env_step'])
            mean = np.mean([np.array(run['return'], float) for run in runs], axis=0)
            steps, mean = steps[np.isfinite(mean)], mean[np.isfinite(mean)]  # an episode of every seed ended there
            colour = _colour(ratios, utd)
            axes.plot(steps, mean, color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(steps, isotonic(mean), color=colour, linewidth=1.8, label=f'$\\sigma$ = {utd:g}')
        for row in task['configurations']:
            reached = [(d, j) for d, j in zip(row['data'], task['thresholds'], strict=True) if d is not None]
            if reached:
                axes.plot(*zip(*reached, strict=True), '.', color=_colour(ratios, row['sigma']), markersize=5)
        axes.set_title(name, fontsize=10, loc='left')
        axes.set_xlabel('environment steps')
    panels[0].set_ylabel('return while training')
    panels[0].legend(fontsize=8, frameon=False)


def hyperparameters(figure: Any, choice: dict[str, Any]) -> None:
    """What was best where, with intervals, and the shared slope through it."""
    laws = choice['laws']
    if not laws:
        _nothing(_panels(figure, 1)[0, 0], 'one batch size and one learning rate: nothing to fit')
        return
    for axes, (field, law) in zip(_panels(figure, len(laws))[0], laws.items(), strict=True):
        for index, task in enumerate(law['at_one']):
            points = [point for point in law['points'] if point['task'] == task]
            sigma = np.array([point['sigma'] for point in points])
            values, bars = _error_bars([point['best'] for point in points])
            axes.errorbar(
                sigma * 1.02**index, values, yerr=bars, fmt='o', color=f'C{index}', capsize=3, markersize=5, label=task
            )
            proposed = [row for row in choice['proposals'] if row['env'] == task]
            ratios = [row['utd'] for row in proposed]
            axes.plot(ratios, [row[field] for row in proposed], color=f'C{index}', linewidth=1.2)
        slope = law['slope']
        sign = 'law' if law['identifiable'] else 'no law'
        axes.set_title(
            f'{field.replace("_", " ")}: slope {slope["value"]:.2f} [{slope["low"]:.2f}, {slope["high"]:.2f}], {sign}',
            fontsize=10,
            loc='left',
        )
        _log(axes.xaxis, 2)
        _log(axes.yaxis, 2)
        axes.set_xlabel('$\\sigma$, updates an environment step')
        axes.legend(fontsize=8, frameon=False)


def law_of(task: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray] | None:
    """sigma [S] -> D [S, J] by the fitted law of a task; None where there is none, or the model size varies."""
    law = task['law']
    if law is None or task['kind'] != 'sigma':
        return None
    floor, scale = (np.array([entry['value'] for entry in law[name]], float) for name in ('d_min', 'beta'))
    alpha = law['alpha']['value']
    return lambda sigma: floor + (scale / np.asarray(sigma, float)[:, None]) ** alpha


def _shown(count: int, most: int = 4) -> list[int]:
    """Some indices of a ladder, spread over it."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))})


def data(figure: Any, fits: dict[str, Any]) -> None:
    """D_J over sigma, measured and fitted, for a few thresholds."""
    panels = _panels(figure, len(fits['tasks']))[0]
    for axes, (name, task) in zip(panels, fits['tasks'].items(), strict=True):
        sigma = np.array([row['sigma'] for row in task['configurations']])
        law, fine = law_of(task), np.geomspace(sigma.min(), sigma.max(), 100)
        indices = _shown(len(task['thresholds']))
        for j in indices:
            measured = np.array([row['data'][j] for row in task['configurations']], float)
            colour = _colour(indices, j)
            axes.plot(sigma, measured, 'o', color=colour, markersize=5, label=f'J = {task["thresholds"][j]:.0f}')
            if law:
                axes.plot(
                    fine, law(fine)[:, j], color=colour, linewidth=1.4, alpha=1.0 if task['identifiable'] else 0.35
                )
        held_out = fits['held_out_sigma'][name]
        if held_out['relative_error'] is not None:
            axes.plot(
                [held_out['sigma']] * len(indices), np.array(held_out['predicted'])[indices], 'x', color='black',
                label='predicted without it', markersize=6,
            )  # fmt: skip
        verdict = '' if task['identifiable'] else ' (no law)'
        axes.set_title(f'{name}{verdict}', fontsize=10, loc='left')
        _log(axes.xaxis, 2)
        _log(axes.yaxis)
        axes.set_xlabel('$\\sigma$, updates an environment step')
        axes.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel('$D_J$, environment steps')


def frontier(figure: Any, fits: dict[str, Any]) -> None:
    """Data against compute at equal return; a star where the budget is least."""
    from scaling.utd.budget import compute_cost
    from scaling.utd.power_laws import log_line

    panels = _panels(figure, len(fits['tasks']))[0]
    for axes, (name, task) in zip(panels, fits['tasks'].items(), strict=True):
        axes.set_title(name, fontsize=10, loc='left')
        law = law_of(task)
        if law is None or not task['identifiable']:
            _nothing(axes, 'no law, so no frontier')
            continue
        rows = task['configurations']
        sigma, batch = (np.array([row[field] for row in rows]) for field in ('sigma', 'batch_size'))
        fine = np.geomspace(sigma.min(), sigma.max(), 100)
        steps = law(fine)
        compute = compute_cost(fine[:, None], steps, log_line(sigma, batch)(fine)[:, None], rows[0]['model_size'])
        indices = _shown(len(task['thresholds']))
        for j in indices:
            colour = _colour(indices, j)
            axes.plot(compute[:, j], steps[:, j], color=colour, linewidth=1.5, label=f'J = {task["thresholds"][j]:.0f}')
            if task['budget']:
                best = task['budget']['optima']
                axes.plot(best['compute'][j], best['data'][j], '*', color=colour, markersize=11)
        _log(axes.xaxis)
        _log(axes.yaxis)
        axes.set_xlabel('compute to J, 10 N B $\\sigma$ D')
        axes.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel('data to J, environment steps')


def budget(figure: Any, fits: dict[str, Any]) -> None:
    """The cheapest sigma over the budget, with the line of the lower thresholds and those held out."""
    panels = _panels(figure, len(fits['tasks']))[0]
    for axes, (name, task) in zip(panels, fits['tasks'].items(), strict=True):
        axes.set_title(name, fontsize=10, loc='left')
        if not task['budget']:
            _nothing(axes, 'no law, so no optimal ratio')
            continue
        found = task['budget']
        if found['inside_measured_range'] < LEAST_OPTIMA:
            _nothing(axes, 'the cheapest ratio lies at the end of\nthose that were run: run others')
            continue
        cost, sigma = (np.array(found['optima'][field], float) for field in ('budget', 'sigma'))
        law, known = found['laws']['sigma'], len(cost) - found['held_out']
        exponent = law['exponent']
        axes.plot(cost[:known], sigma[:known], 'o', color='C0', markersize=5, label='fitted')
        axes.plot(cost[known:], sigma[known:], 'o', color='C1', markersize=6, label='held out')
        axes.plot(cost, 10 ** law['log10_coefficient'] * cost ** exponent['value'], color='C0', linewidth=1.2)
        axes.set_title(f'{name}: $\\sigma^* \\propto F^{{{exponent["value"]:.2f}}}$', fontsize=10, loc='left')
        _log(axes.xaxis)
        _log(axes.yaxis)
        axes.set_xlabel('budget F = C + $\\delta$ D')
        axes.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel('$\\sigma^*$')


def held_out_ratio(result: dict[str, Any]) -> np.ndarray:
    """log of TD error on held-out over that on replayed data [rows]: 0 where nothing is overfitted."""
    held_out, replayed = (np.array(result[f'td_error/{name}'], float) for name in ('held_out', 'replayed'))
    return np.log(held_out / replayed)


def measures(figure: Any, grid: Results) -> None:
    """Overfitting over sigma and batch size, norm of the critics over sigma and learning rate.

    Means over the other hyperparameter and seeds, in the second half of the grid's runs. Two measures of overfitting:
    held-out against replayed data, and fresh less replayed. The second one is the paper's, and falls once a task is
    solved, since fresh episodes are then the easy ones.
    """
    environments = list(dict.fromkeys(cell.config.env for cell, _ in grid))
    rows = (
        (held_out_ratio, 'log TD error, held out / replayed', 'batch', lambda cell: cell.config.batch_size),
        (_column('td_error/overfitting'), 'TD error, fresh - replayed', 'batch', lambda cell: cell.config.batch_size),
        (_column('norm/critic'), 'norm of the critics', 'learning rate', lambda cell: cell.learning_rate),
    )
    panels = _panels(figure, max(len(environments), 1), rows=3, height=3.0)
    for line, (measure, label, other, value_of) in zip(panels, rows, strict=True):
        for axes, env in zip(line, environments, strict=False):
            own = [(cell, r) for cell, r in grid if cell.config.env == env and r['failed_at'] is None]
            values = sorted({value_of(cell) for cell, _ in own})
            for value in values:
                points: dict[float, list[float]] = {}
                for cell, result in own:
                    if value_of(cell) == value:
                        late = measure(result)
                        late = late[len(late) // 2 :]
                        points.setdefault(cell.config.utd, []).append(float(np.mean(late)))
                sigma = sorted(points)
                axes.errorbar(
                    sigma,
                    [np.mean(points[s]) for s in sigma],
                    yerr=[half_interval(points[s]) for s in sigma],
                    color=_colour(values, value),
                    marker='o',
                    markersize=4,
                    capsize=2,
                    linewidth=1.2,
                    label=f'{other} {value:g}',
                )
            _log(axes.xaxis, 2)
            axes.set_title(env, fontsize=10, loc='left')
            axes.set_xlabel('$\\sigma$')
        line[0].set_ylabel(label)
        line[0].legend(fontsize=7, frameon=False)


def _column(name: str) -> Callable[[dict[str, Any]], np.ndarray]:
    return lambda result: np.array(result[name], float)


def half_interval(values: list[float]) -> float:
    """Half of the 95 % interval of a mean by the normal approximation; 0 for a single value."""
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _nothing(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center', color='0.5', fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


# The page


def page(profile: dict[str, Any], choice: dict[str, Any], fits: dict[str, Any], pictures: list[str]) -> str:
    """Markdown: the verdicts first, then the numbers."""
    tasks = fits['tasks']
    lines = [f'# Sweep over UTD ratios: profile {profile["name"]}', '', '## Verdict', '']
    lines += [f'- {name}: {task["verdict"]}.' for name, task in tasks.items()]
    lines += [f'- {field.replace("_", " ")}: {law["verdict"]}.' for field, law in choice['laws'].items()]
    lines += ['', '## Data requirements, D_J(sigma) = D_min + (beta / sigma)^alpha', '']
    lines += ['| task | alpha | J | D_min | beta | error on the fit | left out: inside, at the ends | sigma held out |']
    lines += ['| --- | --- | --- | --- | --- | --- | --- | --- |']
    for name, task in tasks.items():
        law, errors = task['law'], task.get('relative_error')
        if law is None:
            lines.append(f'| {name} | - | - | - | - | - | - | - |')
            continue
        held_out = fits['held_out_sigma'][name]
        last = len(task['thresholds']) - 1
        cells = [
            name if task['identifiable'] else f'{name} (not a law)',
            _estimate(law['alpha']),
            f'{task["thresholds"][last]:.0f}',
            _estimate(law['d_min'][last], '.0f'),
            _estimate(law['beta'][last], '.3g'),
            _percent(errors['fitted']),
            ', '.join(_percent(errors[f'left_out_{which}polating']) for which in ('inter', 'extra')),
            f'{held_out["sigma"]:g}: {_percent(held_out["relative_error"])}',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    lines += ['', 'Intervals: 95 % bootstrap over seeds. Errors: mean of |predicted - observed| / observed in D_J.', '']
    lines += ['## Budgets', '']
    for name, task in tasks.items():
        found = task['budget']
        if not found:
            lines.append(f'- {name}: none, since there is no law.')
            continue
        if found['inside_measured_range'] < LEAST_OPTIMA:
            best = found['optima']['sigma'][-1]
            lines.append(f'- {name}: the cheapest ratio lies at the end of those that were run ({best:g}): run others.')
            continue
        sigma = found['laws']['sigma']
        errors = [abs(e) for e in sigma['held_out_errors'] if e is not None]
        shown = _percent(float(np.mean(errors))) if errors else '-'
        laws = ', '.join(
            f'{symbol} ~ F^{_estimate(found["laws"][field]["exponent"])}' for field, symbol in SYMBOLS.items()
        )
        lines.append(
            f'- {name}: {laws}; the top {found["held_out"]} thresholds, held out, are off by {shown} in sigma*; '
            f'{found["inside_measured_range"]} of {len(task["thresholds"])} optima lie inside the ratios that were run.'
        )
    lines += [
        '',
        '## Batch size and learning rate',
        '',
        '| env | sigma | batch size | learning rate |',
        '| --- | --- | --- | --- |',
    ]
    lines += [
        f'| {row["env"]} | {row["utd"]:g} | {row["batch_size"]:g} | {row["learning_rate"]:.3g} |'
        for row in choice['proposals']
    ]
    notes = [*choice['notes'], *fits['notes'], *(note for task in tasks.values() for note in task['notes'])]
    if notes:
        lines += ['', '## Left out, or worth knowing', '', *(f'- {note}' for note in notes)]
    lines += ['', '## Pictures', '', *(f'![{name}](plots/{name}.png)\n' for name in pictures)]
    return '\n'.join(lines) + '\n'


def _estimate(estimate: dict[str, float | None], form: str = '.2f') -> str:
    if estimate['value'] is None:
        return 'inf'
    if estimate['low'] is None or estimate['high'] is None:
        return format(estimate['value'], form)
    return f'{estimate["value"]:{form}} [{estimate["low"]:{form}}, {estimate["high"]:{form}}]'


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{value:.1%}'
