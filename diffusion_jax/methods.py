"""The searches by name, each with its settings and, for a budget, its size.

A budget is the number of denoiser calls for each design that is returned. What a method grows with it is one number
(`size`), the largest that the budget allows; the rest are settings, for all budgets the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from core_jax.errors import UserError, unknown
from diffusion_jax.process import Process
from diffusion_jax.search import anneal, dsearch, refine, smc, svdd, tree
from diffusion_jax.value import Value

Plan = tree.Plan | smc.Plan | refine.Plan | anneal.Plan


class Method(NamedTuple):
    """make(process, value, config, size) -> plan; its cost grows with the size, which is at least 1."""

    about: str
    make: Callable[[Process, Value, ml_collections.ConfigDict, int], Plan]
    settings: dict[str, Any]


class TooSmall(UserError):
    """A budget below what the smallest plan of a method costs."""


def kernel(plan: Plan) -> Callable:
    """The function that runs plans of this kind."""
    kernels = {tree.Plan: tree.search, smc.Plan: smc.search, refine.Plan: refine.search, anneal.Plan: anneal.search}
    return kernels[type(plan)]


def _best_of_n(process, value, config, size):
    return svdd.best_of_n(process, value, n=size)


def _svdd(process, value, config, size):
    options = {'designs': config.group, 'alpha': config.alpha, 'block': config.get('block', 1)}
    return svdd.plan(process, value, children=size, **options)


def _nested(process, value, config, size):
    rows = [tree.Row([size] * config.group, search=True, redraw=i < process.steps - 1) for i in range(process.steps)]
    options = {'beams': config.group, 'alpha': config.alpha, 'resample_temperature': config.temperature}
    return tree.make_plan(rows, process, value, **options)


def _dsearch(process, value, config, size):
    return dsearch.plan(
        process,
        value,
        children=size,
        designs=config.group,
        oversample=config.oversample,
        beams=config.beams,
        search=config.search,
        depth=config.depth,
        alpha=config.alpha,
        replace=config.replace,
        resample_temperature=config.temperature,
        seed=config.coins,
        released=config.released,
    )


def _smc(process, value, config, size):
    if config.alpha <= 0:
        raise UserError('alpha must be positive: weights and slopes are those of value / alpha')
    return smc.plan(
        process,
        value,
        particles=size,
        alpha=config.alpha,
        potential=config.potential or None,
        every=config.every,
        threshold=config.threshold,
        guidance=config.guidance / config.alpha,
        pick='best',
    )


def _rerd(process, value, config, size):
    """size: iterations. The first search has as many children as the refinements."""
    back = refine.steps_back(process, config.back)
    local = svdd.block_rows(back, config.children, config.group, 1)
    local = tree.make_plan(local, process, value, beams=config.group, alpha=config.alpha)
    whole = svdd.plan(process, value, children=config.children, designs=config.group, alpha=config.alpha)
    temperature = config.temperature or None
    return refine.plan(process, local, whole=whole, iterations=size, temperature=temperature, keep=config.keep)


def _genetic(process, value, config, size):
    """size: generations. A child is its parent with some positions hidden and filled in by the model, unguided."""
    back = refine.steps_back(process, config.back)
    local = tree.make_plan(svdd.block_rows(back, 1, config.group, 1), process, value, beams=config.group)
    whole = svdd.best_of_n(process, value, n=1, designs=config.group)
    return refine.plan(process, local, whole=whole, iterations=size, temperature=config.alpha)


def _anneal(process, value, config, size):
    """size: iterations."""
    whole = svdd.best_of_n(process, value, n=1, designs=config.group)
    options = {name: config[name] for name in ('back', 'last', 'turnover', 'alpha', 'accept')}
    return anneal.plan(process, whole, iterations=size, **options)


_SMC = {
    'alpha': 0.1,  # temperature of the weights exp(value / alpha)
    'potential': 'difference',  # of FK steering: difference (SMC), max, sum; '' for no weights
    'every': 1,  # steps between two valuations
    'threshold': 0.5,  # resample below this share of effective particles
    'guidance': 0.0,  # how far to go along the slope of value / alpha
}
# A group is searched together and returns `group` designs. An alpha that is not 0 stands for the task's.
METHODS = {
    'best_of_n': Method('the best of N unguided designs', _best_of_n, {}),
    'smc': Method('particles resampled by the change of their value', _smc, _SMC),
    'fk': Method('FK steering: particles resampled by the best value so far', _smc, _SMC | {'potential': 'max'}),
    'tds': Method('particles drawn under guidance, and weighted for it', _smc, _SMC | {'guidance': 1.0}),
    'guidance': Method(
        'the best of N designs drawn along the slope of the value', _smc, _SMC | {'guidance': 1.0, 'potential': ''}
    ),
    'svdd': Method('the best (alpha > 0: a draw) of M children a step', _svdd, {'alpha': 0.0, 'group': 1}),
    'code': Method('CoDe: the best of M children every few steps', _svdd, {'alpha': 0.0, 'group': 1, 'block': 4}),
    'nested_is': Method(
        'SVDD whose designs are redrawn among themselves after each step',
        _nested,
        {'alpha': 0.0, 'group': 8, 'temperature': 0.0},
    ),
    'dsearch': Method(
        'beams that grow fewer while their trees grow wider',
        _dsearch,
        {
            'alpha': 0.0,  # temperature of the choice among children; 0: the best one
            'group': 1,  # designs that a group of beams ends with
            'oversample': 4,  # beams to begin with, for each of them
            'beams': 'exponential',  # how their number falls
            'search': 'all',  # which steps are searched: all, uniform, linear, exponential, steep
            'depth': 1,  # steps of a tree
            'replace': 0.0,  # DSearch-R: share of the beams that is replaced after each searched step
            'temperature': 1.0,  # of that replacement, in units of the reward
            'coins': 0,  # seed of the plan
            'released': False,  # values where nothing is searched, sums over depth, as the released codes
        },
    ),
    'rerd': Method(
        'refinement: designs are noised a little and searched again',
        _rerd,
        {
            'alpha': 0.0,
            'group': 1,
            'children': 4,  # of a step, in the first search and in all others
            'back': 0.2,  # share of the steps that the noise goes back
            'keep': False,  # a design that became worse is dropped
            'temperature': 0.0,  # of the selection among the designs of a group; 0: none
        },
    ),
    'genetic': Method(
        'selection, and mutation by the model',
        _genetic,
        {'group': 16, 'back': 0.1, 'alpha': 0.1},
    ),
    'anneal': Method(
        'ours: a population of whole designs, moved by noise and denoiser and cooled by the reward',
        _anneal,
        {
            'alpha': 0.0,  # temperature that it is cooled to; 0: no end
            'group': 32,  # designs of a population
            'turnover': 12.0,  # how often it is replaced by its better part in all turns: more is greedier
            'back': 0.2,  # share of the steps that the noise of the first move goes back
            'last': 0.0,  # ... and that of the last one; 0: one step
            'accept': 'metropolis',  # or better, or always
        },
    ),
}


def get_config(method: str) -> ml_collections.ConfigDict:
    """The settings of a method beside its size. Raises UserError for an unknown one."""
    if method not in METHODS:
        raise unknown('method', method, METHODS)
    return ml_collections.ConfigDict(METHODS[method].settings)


def at_budget(
    method: str,
    process: Process,
    value: Value,
    config: ml_collections.ConfigDict,
    budget: int | None,
    *,
    by: str = 'calls',
    seeds: bool = False,
) -> Plan:
    """The largest plan of a method whose cost for each returned design is at most `budget`.

    budget: None for 64, or where the smallest plan costs more, the next power of two. by: 'calls' of the denoiser, or
    'rewards'. seeds: of designs that are given, in place of a first search; then one turn is the least.

    Raises TooSmall where the budget does not allow the smallest one, UserError where the method takes no seeds, and
    where a larger plan costs no more, as with a process of one step.
    """

    def made(size: int) -> tuple[Plan, float]:
        plan = METHODS[method].make(process, value, config, size)
        if seeds:
            if not isinstance(plan, (refine.Plan, anneal.Plan)):
                raise UserError(f'{method} begins from noise; rerd, genetic and anneal begin from designs')
            plan = refine.from_seeds(plan)
        return plan, getattr(plan, by) / plan.designs

    low = 2 if seeds else 1
    best, cost = made(low)
    if budget is None:
        budget = max(64, 1 << math.ceil(math.log2(max(cost, 1))))
    if cost > budget:
        raise TooSmall(f'{method} takes at least {cost:g} {by} a design here, the budget is {budget}')
    high = 2 * low
    while (larger := made(high))[1] <= budget:
        if larger[1] <= cost:
            raise UserError(
                f'{method} has no use for more {by} here: no step but the last of {process.steps} is searched'
            )
        (best, cost), low, high = larger, high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        plan, cost = made(middle)
        if cost <= budget:
            best, low = plan, middle
        else:
            high = middle
    return best
