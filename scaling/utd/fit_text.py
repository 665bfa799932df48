"""What `python -m scaling.utd.fit` prints, from what fits.json holds."""

from __future__ import annotations

from typing import Any

FORM = {
    'sigma': 'D_J(sigma) = D_min + (beta/sigma)^alpha',
    'joint': 'D_J(sigma, N) = D_min + (a/sigma)^alpha + (b/N)^beta',
}
EXPONENTS = {'sigma': ['alpha'], 'joint': ['alpha', 'beta']}
SCALES = {'sigma': ['d_min', 'beta'], 'joint': ['d_min', 'a', 'b']}
SYMBOL = {'compute': 'C*', 'data': 'D*', 'sigma': 'sigma*', 'model_size': 'N*'}


def describe(document: dict[str, Any]) -> str:
    """All laws, with 95 % intervals in brackets; one paragraph a task."""
    lines = [f'left out or noted: {note}' for note in document['notes']]
    for name, found in document['tasks'].items():
        lines += ['', *_task(name, found)]
    if document['average']:
        lines += ['', *_task('average over tasks (crossings over their median)', document['average'])]
    for field, law in document['hyperparameters'].items():
        lines += ['', *_hyperparameter(field, law)]
    fitted = [found['relative_error'] for found in document['tasks'].values() if 'relative_error' in found]
    if len(fitted) > 1:
        lines += ['', f'mean over tasks: {_errors(_means(fitted))}']
    return '\n'.join(lines).lstrip('\n') + '\n'


def describe_predictions(rows: list[dict[str, Any]]) -> str:
    """A line a threshold; the interval is that of a new run."""
    lines, before = [], None
    for row in rows:
        place = row['task'], row['sigma'], row['model_size']
        if place != before:
            outside = ' (outside what was run)' if row['extrapolates'] else ''
            lines.append(f'{place[0]} at sigma {place[1]:g}, N {place[2]:.0f}{outside}: predicted environment steps')
        before = place
        lines.append(f'  J {row["threshold"]:8.4g}  D {_estimate(row["data"], ",.0f")}')
    return '\n'.join(lines) + ('\n\n' if lines else '')


def _task(name: str, found: dict[str, Any]) -> list[str]:
    rows = found['configurations']
    sigmas = sorted({row['sigma'] for row in rows})
    sizes = sorted({row['model_size'] for row in rows})
    ladder = found['thresholds']
    lines = [
        f'{name}: {len(rows)} configurations, sigma {sigmas[0]:g} to {sigmas[-1]:g}, N {sizes[0]:.3g} to '
        f'{sizes[-1]:.3g}, {len(ladder)} thresholds {ladder[0]:.4g} to {ladder[-1]:.4g}'
    ]
    lines += [f'  note: {note}' for note in found['notes']]
    law = found['law']
    if law:
        exponents = ', '.join(f'{e} {_estimate(law[e], ".3g")}' for e in EXPONENTS[found['kind']])
        bare = '' if found['identifiable'] else 'not a law; the bare fit: '
        lines.append(f'  {bare}{FORM[found["kind"]]}: {exponents}')
        for index in sorted({0, len(ladder) // 2, len(ladder) - 1}):
            shown = [f'{e} {_estimate(law[e][index], ".3g")}' for e in SCALES[found['kind']]]
            lines.append(f'    J {ladder[index]:8.4g}  {"  ".join(shown)}')
        lines.append(f'  relative error of D: {_errors(found["relative_error"])}')
    lines.append(f'  {found["verdict"]}')
    if found['budget']:
        lines += _budget(found)
    return lines


def _budget(found: dict[str, Any]) -> list[str]:
    budget = found['budget']
    fits = [f'{SYMBOL[field]} ~ F^{_estimate(law["exponent"], ".3f")}' for field, law in budget['laws'].items()]
    errors = ', '.join(f'{SYMBOL[field]} {_size(law["held_out_errors"])}' for field, law in budget['laws'].items())
    return [
        f'  budget F = C + {budget["delta"]:.3g} D ({budget["delta_source"]}): {", ".join(fits)}',
        f'    top {budget["held_out"]} thresholds held out, off by {errors}; '
        f'{budget["inside_measured_range"]} of {len(found["thresholds"])} optima lie inside what was run',
    ]


def _size(errors: list[float | None]) -> str:
    known = [abs(error) for error in errors if error is not None]
    return f'{sum(known) / len(known):.0%}' if known else '-'


def _hyperparameter(field: str, law: dict[str, Any]) -> list[str]:
    at_one = ', '.join(f'{task} {value:.4g}' for task, value in law['at_one'].items())
    over_size = [
        f'  {task}: B(sigma, N) = {b["a"]:.4g} sigma^-{b["alpha"]:.3g} / (1 + {b["b"]:.3g} N^-{b["beta"]:.3g}), '
        f'relative error {b["relative_error"]:.1%}'
        for task, b in law.get('over_size', {}).items()
    ]
    return [
        f'best {field.replace("_", " ")} ~ sigma^{_estimate(law["slope"], ".3f")}, at sigma 1: {at_one}',
        f'  {law["verdict"]}',
        *over_size,
    ]


def _errors(errors: dict[str, float | None]) -> str:
    shown = {name: '-' if value is None else f'{value:.1%}' for name, value in errors.items()}
    return (
        f'{shown["fitted"]} on the fitted runs; configurations left out {shown["left_out_interpolating"]} '
        f'interpolating, {shown["left_out_extrapolating"]} extrapolating ({shown["left_out_constant"]} by a constant)'
    )


def _means(errors: list[dict[str, float | None]]) -> dict[str, float | None]:
    columns = {name: [row[name] for row in errors if row[name] is not None] for name in errors[0]}
    return {name: sum(values) / len(values) if values else None for name, values in columns.items()}


def _estimate(estimate: dict[str, float | None], form: str) -> str:
    def number(value: float | None) -> str:
        return 'inf' if value is None else format(value, form)

    if estimate['low'] is None:
        return number(estimate['value'])
    return f'{number(estimate["value"])} [{number(estimate["low"])}, {number(estimate["high"])}]'
