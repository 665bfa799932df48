"""DSearch (arXiv 2503.02039): beams that grow fewer while their trees grow wider, and are searched more often, later.

A group of `designs` beams begins with `oversample` times as many. Before step i there are b_i of them (`beams`), of
which each makes `width` * `children` * B_0 / b_i children where the step is searched, so that a searched step costs
about the same everywhere. Whether it is searched is a coin of the plan (`search`): early states say little about their
reward. Where it is not, every beam makes one child and nothing is valued (the released code makes `children` and values
them: `released`). Beams are pruned where values are fresh, on searched steps.

`depth` searches blocks of so many steps as whole trees, by the values of the last level, or with `released` by the sums
of all: the variant released for proteins. `replace` is DSearch-R. Sheet of the papers: sections 1.4 to 1.8.

At width 1, oversampling 1, every step searched and depth 1 it is SVDD, key for key.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from core_jax.errors import UserError, unknown
from diffusion_jax.process import Process
from diffusion_jax.search import tree
from diffusion_jax.value import Value

# Beams before step i of n + 1 steps, from first to last, before flooring (released image code).
BEAMS: dict[str, Callable[[int, int, int, int], float]] = {
    'none': lambda i, n, first, last: first,
    'exponential': lambda i, n, first, last: first * (last / first) ** (i / n),
    'quadratic': lambda i, n, first, last: last + (first - last) * (1 - i / n) ** 2,
    'linear': lambda i, n, first, last: first - i * (first - last) / n,
    'sigmoid': lambda i, n, first, last: first / (1 + math.exp(-10 * (0.5 - i / n))),
}
# Probability that step i is searched.
SEARCH: dict[str, Callable[[int, int], float]] = {
    'all': lambda i, n: 1.0,
    'uniform': lambda i, n: 0.7,
    'linear': lambda i, n: (i + 10) / n,
    'exponential': lambda i, n: 1 - math.exp(-3 * i / n),
    'steep': lambda i, n: 1 - math.exp(-4 * i / n),  # the protein code's
}


def beam_schedule(name: str, steps: int, first: int, last: int) -> list[int]:
    """Beams [steps] that step i leaves, never fewer than `last`; the last step always leaves `last`."""
    if name not in BEAMS:
        raise unknown('beam schedule', name, BEAMS)
    n = max(steps - 2, 1)
    kept = [max(int(BEAMS[name](i, n, first, last) + 1e-9), last) for i in range(steps - 1)]
    return [*np.minimum.accumulate(kept).tolist(), last] if kept else [last]


def coins(name: str, steps: int, seed: int) -> list[bool]:
    """Which steps are searched; the last always is, since what it makes are designs."""
    if name not in SEARCH:
        raise unknown('search schedule', name, SEARCH)
    drawn = np.random.default_rng(seed).uniform(size=steps)
    n = max(steps - 2, 1)
    return [bool(drawn[i] < SEARCH[name](i, n)) for i in range(steps - 1)] + [True]


def plan(
    process: Process,
    value: Value,
    *,
    children: int,
    designs: int = 1,
    width: float = 1.0,
    oversample: int = 1,
    beams: str = 'exponential',
    search: str = 'exponential',
    depth: int = 1,
    alpha: float = 0.0,
    replace: float = 0.0,
    resample_temperature: float = 1.0,
    seed: int = 0,
    released: bool = False,
) -> tree.Plan:
    """Tables of a DSearch of groups of `designs`.

    replace: share of the beams that DSearch-R replaces on each searched step but the last; it wants oversample 1.

    Raises UserError where numbers are out of range.
    """
    if min(children, designs, oversample, depth) < 1 or width <= 0:
        raise UserError('children, designs, oversample and depth must be at least 1, width positive')
    worst = int(replace * designs)
    if replace and (worst < 1 or oversample > 1 or depth > 1 or not 0 < replace < 1):
        raise UserError(f'replace {replace} of {designs} beams must be at least one and not all, without oversampling')
    first = oversample * designs
    if replace and resample_temperature <= 0:
        raise UserError(f'the temperature of the replacement must be positive, got {resample_temperature}')
    kept = beam_schedule(beams if oversample > 1 else 'none', process.steps, first, designs)
    if depth > 1:
        rows = _blocks(process.steps, kept, children, first, depth, search, seed, released)
    else:
        rows = _rows(kept, children * width, first, coins(search, process.steps, seed), children, worst, released)
    return tree.make_plan(rows, process, value, beams=first, alpha=alpha, resample_temperature=resample_temperature)


def _rows(kept, budget: float, first: int, searched, children: int, worst: int, released: bool) -> list[tree.Row]:
    rows, alive, last = [], first, len(kept) - 1
    for i, (keep, search) in enumerate(zip(kept, searched, strict=True)):
        if search:
            each = max(int(budget * max(1.0, first / alive)), 1)
            # What the last step makes are designs: copies of the better ones would be no more of them.
            rows.append(tree.Row([each] * alive, search=True, keep=keep, replace=worst if i < last else 0))
            alive = min(keep, alive)
        elif released:
            rows.append(tree.Row([children] * alive, search=True, keep=keep))
            alive = min(keep, alive)
        else:
            rows.append(tree.Row([1] * alive, search=False))
    return rows


def _blocks(
    steps: int, kept: list[int], children: int, first: int, depth: int, search: str, seed: int, released: bool
) -> list[tree.Row]:
    """Blocks of `depth` steps, whole trees where a block is searched; what does not divide comes first, as SVDD."""
    head = steps % depth
    blocks = (steps - head) // depth
    searched = coins(search, max(blocks, 1), seed)
    rows, alive = [], first
    for i in range(head):
        rows.append(tree.Row([children] * alive, search=True, keep=kept[i]))
        alive = min(kept[i], alive)
    for block in range(blocks):
        at = head + block * depth
        if not searched[block]:
            for i in range(at, at + depth):
                rows.append(tree.Row([children] * alive, search=True, keep=kept[i]))
                alive = min(kept[i], alive)
            continue
        leaves, roots = alive, list(range(alive))
        for level in range(depth):
            roots = [root for root in roots for _ in range(children)]
            if level < depth - 1:  # every child is kept; its value is wanted where values are summed
                home = list(range(leaves * children))
                rows.append(tree.Row([children] * leaves, search=released, compete=home, add=released and level > 0))
                leaves *= children
        keep = kept[at + depth - 1]
        rows.append(tree.Row([children] * leaves, search=True, compete=roots, keep=keep, add=released))
        alive = min(keep, alive)
    return rows
