"""From runs to laws: thresholds, a `Task` for each environment and algorithm, and their average.

What `python -m scaling.utd.fit` computes, as functions. Everything random is a bootstrap over seeds with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from core_jax.errors import UserError
from scaling.utd.crossings import Estimate, bootstrap_all, crossings, estimate, isotonic
from scaling.utd.data_law import DataLaw, LeftOut, fit_data_law, leave_one_out, relative_errors
from scaling.utd.power_laws import fit_power_law
from scaling.utd.runs_table import Curves
from scaling.utd.verdict import Verdict, enough, judge

THRESHOLDS = 20
REACHED_BY = 0.8  # of the configurations reach the highest threshold

# (least J, highest J, delta) of arXiv 2508.14881, table 2.
PUBLISHED = {
    'h1-crawl': (450, 780, 2e12),
    'h1-pole': (300, 680, 5e11),
    'h1-stand': (200, 660, 5e11),
    'humanoid-stand': (300, 850, 5e10),
    'acrobot-swingup': (150, 400, 1e11),
    'cheetah-run': (400, 750, 1e11),
    'finger-turn': (400, 900, 1e11),
    'fish-swim': (200, 710, 1e11),
    'hopper-hop': (150, 320, 1e11),
    'quadruped-run': (200, 790, 1e11),
    'walker-run': (350, 730, 1e11),
    'dog-run': (100, 270, 1e11),
    'dog-trot': (100, 580, 1e11),
    'dog-stand': (100, 910, 1e11),
    'dog-walk': (100, 860, 1e11),
    'humanoid-run': (75, 190, 1e11),
    'humanoid-walk': (200, 650, 1e11),
}


def base_name(env: str) -> str:
    """A task without its version: h1-crawl of h1-crawl-v0."""
    head, _, version = env.rpartition('-v')
    return head if head and version.isdigit() else env


def tasks_of(curves: Sequence[Curves]) -> dict[tuple[str, str], list[Curves]]:
    """{(env, algo): curves}. Runs of single seeds are left in; see `fit_curves`."""
    tasks: dict[tuple[str, str], list[Curves]] = {}
    for own in curves:
        tasks.setdefault((own.key.env, own.key.algo), []).append(own)
    return tasks


def choose_thresholds(curves: Sequence[Curves], count: int = THRESHOLDS) -> np.ndarray:
    """A ladder [count] of returns for one task.

    A task of `PUBLISHED` has its published window where at least half of the pairs (sigma, N) reach the top of it.
    Else the top is the return that 80 % of the pairs reach with their best batch size and learning rate (all, where
    there are fewer than five), less a tenth of the way from the start, since a plateau is crossed at random; the bottom
    lies at 3 tenths of the way, above what any run has at its first row.

    Raises UserError where runs do not learn.
    """
    fits = [isotonic(own.returns.mean(axis=0)) for own in curves]
    plateaus: dict[tuple[float, float], float] = {}
    for own, fit in zip(curves, fits, strict=True):
        pair = own.key.sigma, own.key.model_size
        plateaus[pair] = max(fit[-1], plateaus.get(pair, -math.inf))
    reached = np.array(list(plateaus.values()))
    env = curves[0].key.env
    if base_name(env) in PUBLISHED:
        low, high, _ = PUBLISHED[base_name(env)]
        if (reached >= high).mean() >= 0.5:
            return np.linspace(low, high, count)
    start = max(fit[0] for fit in fits)
    top = float(np.quantile(reached, 1 - REACHED_BY, method='lower'))
    if not top > start:
        raise UserError(f'{env}: the runs do not learn (return {start:.4g} at the first row, {top:.4g} at the end)')
    return start + (top - start) * np.linspace(0.3, 0.9, count)


class Task(NamedTuple):
    """One task's configurations, their data requirements, and the law of them. C configurations, J thresholds."""

    name: str
    thresholds: np.ndarray  # [J]
    sigma: np.ndarray  # [C]
    model_size: np.ndarray  # [C]
    batch_size: np.ndarray  # [C]
    learning_rate: np.ndarray  # [C]
    seeds: np.ndarray  # [C]
    data: np.ndarray  # [C, J], environment steps; NaN: not reached
    resampled: np.ndarray | None  # [K, C, J]; None: one seed a configuration
    law: DataLaw | None  # None: too few points for its parameters
    laws: list[DataLaw]  # of the resampled data
    left_out: LeftOut | None
    verdict: Verdict
    notes: list[str]

    @property
    def joint(self) -> bool:
        """Whether the model size varies, so that the law has it."""
        return len(np.unique(self.model_size)) > 1

    def fitted_errors(self) -> np.ndarray:
        """Relative errors [C] of the law on what it was fitted to."""
        return relative_errors(self.law(self.sigma, self.model_size), self.data)

    def spread(self, quantity: Callable[[DataLaw], Any]) -> Any:
        """Estimate (or a list of them, for a quantity [J]) of something that a law says."""
        value = np.asarray(quantity(self.law))
        resampled = np.array([quantity(law) for law in self.laws]).reshape(-1, *value.shape)
        if not value.shape:
            return estimate(value, resampled)
        return [estimate(v, r) for v, r in zip(value, resampled.T, strict=True)]

    def predict(self, sigma: float, model_size: float) -> list[Estimate]:
        """D [J] of a configuration, with the interval of a new run: seeds resampled, times the law's own misfit.

        Of 1338 crossings of published configurations that were left out of the fit, 90 % lay in their 95 % interval.
        """
        value = self.law(sigma, model_size)
        misfit = (self.data / self.law(self.sigma, self.model_size))[np.isfinite(self.data)]
        drawn = [law(sigma, model_size) * misfit[:, None] for law in self.laws]
        resampled = np.concatenate(drawn) if drawn else np.empty((0, len(value)))
        return [estimate(v, r) for v, r in zip(value, resampled.T, strict=True)]


def fit_curves(
    name: str, curves: Sequence[Curves], thresholds: np.ndarray, resamples: int = 100, seed: int = 0
) -> Task:
    """The law of one task from its curves: of each (sigma, N) the fastest batch size and learning rate.

    Configurations of a single seed are left out where others have more. Raises UserError where no threshold is reached.
    """
    notes = []
    if any(len(own.seeds) > 1 for own in curves):
        notes = [f'{own.key}: one seed only: left out' for own in curves if len(own.seeds) < 2]
        curves = [own for own in curves if len(own.seeds) > 1]
    reached = np.stack([crossings(own.env_step, own.returns.mean(axis=0), thresholds) for own in curves])
    if not np.isfinite(reached).any():
        best = max(isotonic(own.returns.mean(axis=0))[-1] for own in curves)
        raise UserError(
            f'{name}: no configuration reaches the lowest threshold {thresholds[0]:.4g} (highest return: {best:.4g})'
        )
    chosen = [curves[index] for index in fastest([own.key[2:] for own in curves], reached)]
    data, resampled = bootstrap_all(chosen, thresholds, resamples, seed)
    if all(len(own.seeds) < 2 for own in chosen):
        resampled = None
    notes += [
        f'{own.key}: reaches {int(np.isfinite(row).sum())} of {len(thresholds)} thresholds'
        for own, row in zip(chosen, data, strict=True)
        if not np.isfinite(row).all()
    ]
    columns = [np.array(column, float) for column in zip(*(own.key[2:] for own in chosen), strict=True)]
    sigma, batch_size, learning_rate, model_size = columns
    seeds = np.array([len(own.seeds) for own in chosen])
    return fit_task(name, thresholds, sigma, model_size, batch_size, learning_rate, seeds, data, resampled, notes)


def fastest(settings: Sequence[tuple[float, float, float, float]], data: np.ndarray) -> list[int]:
    """Indices of the best of `settings` (sigma, batch size, learning rate, N) for each (sigma, N).

    The best reaches the most thresholds, and the highest of these first. data: crossings [len(settings), J].
    """
    best: dict[tuple[float, float], tuple] = {}
    for index, ((sigma, _, _, size), row) in enumerate(zip(settings, data, strict=True)):
        finite = row[np.isfinite(row)]
        rank = (-len(finite), finite[-1] if len(finite) else 0.0, index)
        best[size, sigma] = min(rank, best.get((size, sigma), rank))
    return [rank[-1] for _, rank in sorted(best.items())]


def fit_task(
    name: str,
    thresholds: np.ndarray,
    sigma: np.ndarray,
    model_size: np.ndarray,
    batch_size: np.ndarray,
    learning_rate: np.ndarray,
    seeds: np.ndarray,
    data: np.ndarray,
    resampled: np.ndarray | None,
    notes: list[str],
) -> Task:
    """A Task from crossings; the arguments are its fields."""
    sizes = model_size if len(np.unique(model_size)) > 1 else None
    law, laws, left_out = None, [], None
    if not enough(data, sigma, sizes):
        law = fit_data_law(data, thresholds, sigma, sizes)
        left_out = leave_one_out(data, thresholds, sigma, sizes, law.raw)
        if resampled is not None:
            laws = [fit_data_law(one, thresholds, sigma, sizes, start=law.raw) for one in resampled]
    verdict = judge(data, resampled, sigma, sizes, law, left_out)
    fields = name, thresholds, sigma, model_size, batch_size, learning_rate, seeds, data, resampled
    return Task(*fields, law, laws, left_out, verdict, notes)


def average(tasks: Sequence[Task]) -> Task | None:
    """The mean task: crossings of each divided by their median, averaged, times the median of the medians (paper 1).

    Of the pairs (sigma, N) that all tasks have; None where there are none, or the ladders differ in length. A threshold
    that some task does not reach counts for no task, or the easy ones would pull the mean down there.
    """
    pairs = [list(zip(task.sigma, task.model_size, strict=True)) for task in tasks]
    common = sorted(set.intersection(*map(set, pairs)), key=lambda pair: pair[::-1])
    resampled_all = [task.resampled for task in tasks if task.resampled is not None]
    if len(tasks) < 2 or not common or len({len(task.thresholds) for task in tasks}) > 1:
        return None
    rows = [[own.index(pair) for pair in common] for own in pairs]
    medians = [np.nanmedian(task.data) for task in tasks]
    scale = np.median(medians)
    data = scale * np.mean([t.data[r] / m for t, r, m in zip(tasks, rows, medians, strict=True)], axis=0)
    resampled = None
    if len(resampled_all) == len(tasks):
        parts = [whole[:, r] / m for whole, r, m in zip(resampled_all, rows, medians, strict=True)]
        resampled = scale * np.mean(parts, axis=0)

    def over_tasks(field: str) -> np.ndarray:
        return np.mean([getattr(task, field)[r] for task, r in zip(tasks, rows, strict=True)], axis=0)

    sigma, size = (np.array(column) for column in zip(*common, strict=True))
    ladder = np.arange(1.0, len(tasks[0].thresholds) + 1)
    name = f'average of {len(tasks)} tasks'
    settings = over_tasks('batch_size'), over_tasks('learning_rate'), over_tasks('seeds')
    return fit_task(name, ladder, sigma, size, *settings, data, resampled, [])


def per_threshold(task: Task) -> list[dict[str, float]] | None:
    """D_min, alpha, beta of each threshold on its own, as arXiv 2502.04327 prints them; None in a joint law."""
    if task.joint or task.law is None:
        return None
    reached = np.isfinite(task.data)
    return [
        fit_power_law(task.sigma[ok], column[ok])._asdict() if ok.sum() > 3 else {}
        for column, ok in zip(task.data.T, reached.T, strict=True)
    ]
