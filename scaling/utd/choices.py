"""What to run, by the laws: batch size and learning rate over sigma, and sigma (and model size) over the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.utd.analysis import PUBLISHED, Task, base_name
from scaling.utd.budget import (
    HELD_OUT,
    PER_SAMPLE,
    Optima,
    cheapest_allocation,
    cheapest_sigma,
    extrapolate,
    sigma_grid,
)
from scaling.utd.crossings import best_values, bootstrap_crossings, estimate
from scaling.utd.data_law import DataLaw, fit_batch_size_law
from scaling.utd.power_laws import (
    Line,
    log_line,
    round_batch_size,
    round_learning_rate,
    separate_slopes,
    shared_slope,
)
from scaling.utd.runs_table import Curves

ROUND = {'batch_size': round_batch_size, 'learning_rate': round_learning_rate}


def hyperparameters(
    curves: Mapping[str, Sequence[Curves]],
    thresholds: Mapping[str, np.ndarray],
    resamples: int = 100,
    seed: int = 0,
    *,
    arithmetic: bool = False,
) -> dict[str, dict[str, Any]]:
    """{'batch_size': law, 'learning_rate': law} over sigma, as far as the curves {task: curves} hold grids of them.

    A law: slope (an Estimate, shared by all tasks), at_one ({task: value at sigma 1}), separate_slopes, points (what
    was best where, with intervals), proposals ({task: {sigma: rounded value}} for the sigmas that were run), verdict;
    that of batch sizes also over_size ({task: B(sigma, N)}). Judged by the highest threshold. Pairs of task and model
    size count as tasks where a task has several sizes.
    """
    cells: dict[tuple[str, float], dict[tuple[float, float], np.ndarray]] = {}
    labels: dict[str, tuple[str, float]] = {}
    sizes = {name: {own.key.model_size for own in group} for name, group in curves.items()}
    children = iter(np.random.SeedSequence(seed).spawn(sum(len(group) for group in curves.values())))
    for name, group in curves.items():
        for own in group:
            label = name if len(sizes[name]) == 1 else f'{name}, N={own.key.model_size:.0f}'
            labels[label] = name, own.key.model_size
            crossed = bootstrap_crossings(own.env_step, own.returns, thresholds[name][-1:], resamples, next(children))
            pair = own.key.batch_size, own.key.learning_rate
            cells.setdefault((label, own.key.sigma), {})[pair] = crossed[:, 0]
    laws = {}
    for which, field in enumerate(('batch_size', 'learning_rate')):
        found = {}
        for place, own in cells.items():
            best = best_values({(pair[which], pair[1 - which]): v for pair, v in own.items()}, arithmetic=arithmetic)
            if best is not None:
                found[place] = best
        law = _over_sigma(found, ROUND[field])
        if law:
            laws[field] = law
            if field == 'batch_size':
                law['over_size'] = _over_size(found, labels)
    return laws


def _over_sigma(found: dict[tuple[str, float], tuple[float, np.ndarray]], rounding: Any) -> dict[str, Any] | None:
    """The shared-slope law of {(task, sigma): (best, resampled best [K])}; None where no task has two sigmas."""
    many = {task for task, _ in found if len({sigma for other, sigma in found if other == task}) > 1}
    places = [place for place in found if place[0] in many]
    if not places:
        return None
    tasks = [task for task, _ in places]
    sigma = np.array([sigma for _, sigma in places])
    lines = shared_slope(sigma, np.array([found[place][0] for place in places]), tasks)
    resampled = shared_slope(sigma, np.stack([found[place][1] for place in places], axis=-1), tasks)
    slope = estimate(next(iter(lines.values())).slope, next(iter(resampled.values())).slope)
    enough = max(tasks.count(task) for task in many) > 2
    if not enough:
        verdict = 'no law: fewer than 3 values of sigma'
    elif slope.low <= 0 <= slope.high:
        verdict = 'no law: the interval of the slope holds 0; keep it constant'
    else:
        verdict = 'a law: the interval of the slope excludes 0'
    best = np.array([found[place][0] for place in places])
    return {
        'slope': slope,
        'at_one': {task: float(line(1.0)) for task, line in lines.items()},
        'separate_slopes': {task: float(line.slope) for task, line in separate_slopes(sigma, best, tasks).items()},
        'points': [{'task': task, 'sigma': s, 'best': estimate(*found[task, s])} for task, s in places],
        'proposals': {
            task: {f'{s:g}': rounding(float(line(s))) for s in np.unique(sigma)} for task, line in lines.items()
        },
        'identifiable': verdict.startswith('a law'),
        'verdict': verdict,
    }


def _over_size(
    found: dict[tuple[str, float], tuple[float, np.ndarray]], labels: dict[str, tuple[str, float]]
) -> dict[str, dict[str, float]]:
    """{task: B(sigma, N) and its relative error on the points}, of tasks with at least 3 sigmas and 3 model sizes."""
    laws = {}
    for task in dict.fromkeys(name for name, _ in labels.values()):
        points = [
            (sigma, labels[label][1], best) for (label, sigma), (best, _) in found.items() if labels[label][0] == task
        ]
        sigma, size, best = np.array(points).reshape(-1, 3).T
        if min(len(np.unique(sigma)), len(np.unique(size))) < 3:
            continue
        law = fit_batch_size_law(sigma, size, best)
        laws[task] = law._asdict() | {'relative_error': float(np.mean(np.abs(law(sigma, size) / best - 1)))}
    return laws


def step_cost(task: Task, env: str, delta: float | None) -> tuple[float, str]:
    """(delta, where it comes from): given, published for the task, or the middle compute of a step of these runs."""
    if delta is not None:
        return delta, '--delta'
    if base_name(env) in PUBLISHED:
        return PUBLISHED[base_name(env)][2], 'arXiv 2508.14881, table 2'
    costs = PER_SAMPLE * task.sigma * task.batch_size * task.model_size
    return float(np.exp(np.log(costs).mean())), 'assumed: the geometric mean of 10 N B sigma over the configurations'


def budget(task: Task, delta: float, batch_size: Line | None = None) -> dict[str, Any]:
    """The cheapest sigma (and N) to each threshold, and its power law in the budget F = C + delta D.

    batch_size: B over sigma; by default the line through those that were run. Fitted without the top thresholds (2, or
    a quarter in a joint law), on which held_out_errors are measured. Raises ValueError where too few optima exist.
    """
    if task.joint:
        per_step = PER_SAMPLE * float(np.exp(np.log(task.batch_size).mean()))
        held_out = max(1, len(task.thresholds) // 4)

        def optima(law: DataLaw) -> Optima:
            return cheapest_allocation(law, per_step, delta)
    else:
        grid = sigma_grid(task.sigma.min(), task.sigma.max())
        line = batch_size or log_line(task.sigma, task.batch_size)
        held_out = HELD_OUT

        def optima(law: DataLaw) -> Optima:
            return cheapest_sigma(law, grid, line, float(task.model_size[0]), delta)

    best = optima(task.law)
    resampled = [optima(law) for law in task.laws]
    laws = {}
    for field in ('compute', 'data', 'sigma', *(['model_size'] if task.joint else [])):
        fit = extrapolate(best.budget, getattr(best, field), held_out)
        exponents = np.array([_exponent(other, field, held_out) for other in resampled])
        laws[field] = {
            'exponent': estimate(fit.line.slope, exponents),
            'log10_coefficient': float(fit.line.intercept),
            'held_out_errors': fit.errors,
        }
    inside = _inside(best.sigma, task.sigma)
    if task.joint:
        inside &= _inside(best.model_size, task.model_size)
    return {
        'delta': delta,
        'optima': best._asdict(),
        'laws': laws,
        'held_out': held_out,
        'inside_measured_range': int(inside.sum()),
    }


def _exponent(best: Optima, field: str, held_out: int) -> float:
    try:
        return float(extrapolate(best.budget, getattr(best, field), held_out).line.slope)
    except ValueError:
        return np.nan


def _inside(optimum: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return (optimum > measured.min()) & (optimum < measured.max())
