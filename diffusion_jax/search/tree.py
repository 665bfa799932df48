"""Search over a tree of partly denoised designs: one kernel whose plan says which children are made and which kept.

Best-of-N, SVDD, CoDe and DSearch are plans of it. A group of beams is searched together; groups know nothing of each
other and are laid over the mesh. A row of the plan is one step of the process:

    expand      candidate c is drawn from its parent's state and output, and passed through the denoiser
    score       searched rows only: c is valued by the rewards of the designs that it points to
    compete     candidates with the same slot compete for it by value / alpha + Gumbel noise, at alpha = 0 by value
    prune       the best of the slots go on, in their order

All shapes are fixed: candidates live in a flat buffer as wide as the widest row (a narrower one for rows that are not
searched), parents and slots are integer tables. A plan is drawn on the host from its seed, coins included, so what a
search will cost is known before it runs; it is counted while it runs, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.errors import UserError
from diffusion_jax.process import Process, PyTree, denoise, static
from diffusion_jax.search.run import Result, ancestors, fold, item_keys, take
from diffusion_jax.value import Value, combined, floored, guesses, rewards_of

EXPAND, GUESS, COMPETE, RESAMPLE, START = range(5)  # what keys of a row are told apart by


@dataclasses.dataclass(frozen=True)
class Row:
    """One step of a group, as its author says it: `children[i]` of slot i, which compete for `slots` where searched.

    compete: candidates, in the order of their parents, for slot compete[c]; None: each for its parent's slot where the
    row is searched, for a slot of its own where it is not.
    keep: how many slots go on; None: all.
    """

    children: Sequence[int]
    search: bool
    compete: Sequence[int] | None = None
    keep: int | None = None
    add: bool = False  # value += the parent's (the released block scores), rather than = its own
    replace: int = 0  # DSearch-R: so many of the worst beams are replaced by draws of the others
    redraw: bool = False  # nested importance sampling: all beams are drawn anew from among themselves


@flax.struct.dataclass
class Plan:
    """A plan of `rows` steps that begins at level `first` with `alive[0]` beams a group. Arrays are numpy's, [R, C]."""

    parent: jax.Array  # [R, C] the slot that a candidate is drawn from
    compete: jax.Array  # [R, C] the slot that it competes for; -1: no candidate
    alive: jax.Array  # [R + 1] slots in use before each row and at the end
    contested: jax.Array  # [R] slots in use before the row's pruning
    search: jax.Array  # [R]
    add: jax.Array  # [R]
    resample: jax.Array  # [R] whether the row's beams replace each other, as `replace` or `redraw` says
    alpha: jax.Array  # []
    first: int = static()
    beams: int = static()  # alive[0]
    slots: int = static()
    passing: int = static()  # the widest row that is not searched
    searched: str = static()  # 'all', 'none' or 'some' of the rows but the last, which always is
    designs: int = static()  # what a group returns
    replace: int = static(default=0)
    redraw: bool = static(default=False)
    resample_temperature: float = static(default=1.0)
    calls: int = static(default=0)  # of the denoiser a group, known before it runs
    rewards: int = static(default=0)


def make_plan(
    rows: Sequence[Row],
    process: Process,
    value: Value,
    *,
    beams: int = 1,
    alpha: float = 0.0,
    resample_temperature: float = 1.0,
) -> Plan:
    """Tables of these rows, the last of which ends at level `process.steps`; `beams` of a group to begin with.

    Raises UserError where rows do not fit each other.
    """
    first = process.steps - len(rows)
    if not rows or first < 0:
        raise UserError(f'a plan of {len(rows)} steps for a process of {process.steps}')
    if not rows[-1].search:
        raise UserError('the last step of a plan must be searched: what is returned needs a reward')
    if alpha < 0 or resample_temperature < 0:
        raise UserError(f'temperatures are at least 0, got {min(alpha, resample_temperature)}')
    width = max(sum(row.children) for row in rows)
    parent = np.zeros((len(rows), width), np.int32)
    compete = np.full((len(rows), width), -1, np.int32)
    alive, contested, calls, rewards, passing = [beams], [], beams, 0, 1
    for r, row in enumerate(rows):
        if len(row.children) != alive[-1] or min(row.children) < 0:
            raise UserError(f'row {r} of a plan has children of {len(row.children)} beams, there are {alive[-1]}')
        parents = np.repeat(np.arange(len(row.children)), row.children)
        own = parents if row.search else np.arange(len(parents))
        arena = np.asarray(own if row.compete is None else row.compete, np.int32)
        slots = int(arena.max()) + 1
        if set(arena.tolist()) != set(range(slots)):
            raise UserError(f'row {r} of a plan leaves slots empty')
        parent[r, : len(parents)], compete[r, : len(parents)] = parents, arena
        contested.append(slots)
        alive.append(slots if row.keep is None else min(row.keep, slots))
        left = process.steps - (first + r + 1)
        calls += len(parents) * (left > 0)
        if row.search:
            calls += len(parents) * value.calls_a_state(left) if left else 0
            rewards += len(parents) * (value.rewards_a_state if left else 1)
        else:
            passing = max(passing, len(parents))
    return Plan(
        parent=parent,
        compete=compete,
        alive=np.asarray(alive, np.int32),
        contested=np.asarray(contested, np.int32),
        search=np.asarray([row.search for row in rows]),
        add=np.asarray([row.add for row in rows]),
        resample=np.asarray([row.replace > 0 or row.redraw for row in rows]),
        alpha=np.float32(alpha),
        first=first,
        beams=beams,
        searched=_which([row.search for row in rows[:-1]]),
        slots=max(beams, *contested),
        passing=passing,
        designs=alive[-1],
        replace=max(row.replace for row in rows),
        redraw=any(row.redraw for row in rows),
        resample_temperature=resample_temperature,
        calls=calls,
        rewards=rewards,
    )


def _which(search: Sequence[bool]) -> str:
    return 'all' if all(search) else 'some' if any(search) else 'none'


@flax.struct.dataclass
class Beams:
    """States of G groups: slots [G, S], of which the first `alive` count."""

    key: jax.Array  # [G]
    x: jax.Array
    out: PyTree
    value: jax.Array
    origin: jax.Array  # which of the first beams a slot descends from
    calls: jax.Array  # [G] of the denoiser, counted
    rewards: jax.Array  # [G]
    failed: jax.Array  # [G] rewards that were not finite


def start(process: Process, plan: Plan, keys: jax.Array, x: jax.Array | None = None, axis: str | None = None) -> Beams:
    """Beams [G, S] of full noise, or of states x [G, alive, ...] at the plan's first level."""
    groups, beams = keys.shape[0], plan.beams
    if x is None:
        x = jax.vmap(jax.vmap(process.init))(item_keys(keys, 0, START, beams))
    flat = denoise(process, x.reshape(groups * beams, *x.shape[2:]), jnp.int32(plan.first), axis)
    out = jax.tree.map(lambda leaf: leaf.reshape(groups, beams, *leaf.shape[1:]), flat)

    def spread(leaf):
        missing = plan.slots - beams
        return jnp.concatenate([leaf, jnp.repeat(leaf[:, :1], missing, 1)], 1) if missing else leaf

    origin = jnp.minimum(jnp.arange(plan.slots), beams - 1)
    none = jnp.zeros(groups, jnp.int32)
    return Beams(
        key=keys,
        x=spread(x),
        out=jax.tree.map(spread, out),
        value=jnp.zeros((groups, plan.slots)),
        origin=jnp.broadcast_to(origin, (groups, plan.slots)),
        calls=none + beams,
        rewards=none,
        failed=none,
    )


def expand(process: Process, plan: Plan, beams: Beams, row: Any, width: int, last: bool, axis=None) -> tuple:
    """(x [G, C, ...], out) of a row's candidates; out is None after the last step, which ends in designs."""
    parent = jnp.asarray(plan.parent)[row, :width]
    level = plan.first + row
    keys = item_keys(beams.key, row, EXPAND, width)
    parents = jax.tree.map(lambda leaf: leaf[:, parent], (beams.x, beams.out))
    x = jax.vmap(jax.vmap(process.step, (0, 0, 0, None)), (0, 0, 0, None))(keys, *parents, level)
    if last:
        return x, None
    flat = denoise(process, x.reshape(-1, *x.shape[2:]), level + 1, axis)
    return x, jax.tree.map(lambda leaf: leaf.reshape(*x.shape[:2], *leaf.shape[1:]), flat)


def candidate_designs(process: Process, value: Value, beams: Beams, x, out, row, level, last: bool, axis=None):
    """Designs [G, C, m, ...] whose rewards value a row's candidates; after the last step these themselves."""
    if last:
        return x[:, :, None]
    groups, width = x.shape[:2]
    keys = item_keys(beams.key, row, GUESS, width).reshape(-1)
    flat = jax.tree.map(lambda leaf: leaf.reshape(groups * width, *leaf.shape[2:]), (x, out))
    designs = guesses(value, process, keys, *flat, level, axis)
    return designs.reshape(groups, width, *designs.shape[1:])


def compete(plan: Plan, beams: Beams, row: Any, x: jax.Array, out: PyTree, values: jax.Array) -> Beams:
    """The winners of a searched row, pruned. values [G, C]; out is None after the last step, when they are rewards."""
    width = x.shape[1]
    parent, arena = jnp.asarray(plan.parent)[row], jnp.asarray(plan.compete)[row]
    rewards, values = values, values + jnp.where(jnp.asarray(plan.add)[row], beams.value[:, parent], 0.0)
    keys = fold(fold(beams.key, row), COMPETE)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (width,)))(keys)
    alpha = jnp.asarray(plan.alpha)
    scores = jnp.where(alpha == 0, values, values / jnp.where(alpha == 0, 1.0, alpha) + noise)
    table = arena[None] == jnp.arange(plan.slots)[:, None]  # [S, C]
    winner = jnp.argmax(jnp.where(table[None], scores[:, None], -jnp.inf), -1)  # [G, S]
    value = jnp.take_along_axis(values, winner, 1)
    order = _pruned(plan, row, value)
    if plan.replace or plan.redraw:
        order = jnp.where(jnp.asarray(plan.resample)[row], _replaced(plan, beams, row, value, order), order)
    chosen = jnp.take_along_axis(winner, order, 1)
    return beams.replace(
        x=take(x, chosen),
        out=beams.out if out is None else take(out, chosen),
        value=jnp.take_along_axis(rewards if out is None else values, chosen, 1),
        origin=jnp.take_along_axis(beams.origin, parent[chosen], 1),
    )


def _pruned(plan: Plan, row: Any, value: jax.Array) -> jax.Array:
    """Slots [G, S] in their new order: the best `alive[row + 1]` of the contested ones first, in their old order."""
    slots = jnp.arange(plan.slots)
    used = slots < jnp.asarray(plan.contested)[row]
    rank = jnp.argsort(jnp.argsort(jnp.where(used[None], -value, jnp.inf), -1, stable=True), -1)
    return jnp.argsort(rank >= jnp.asarray(plan.alive)[row + 1], -1, stable=True)


def _replaced(plan: Plan, beams: Beams, row: Any, value: jax.Array, order: jax.Array) -> jax.Array:
    """Draws by softmax(value / temperature) for the `replace` worst beams (DSearch-R), or for all of them (`redraw`).

    Temperature 0 stands for the largest |value|, as released for nested importance sampling.
    """
    alive = plan.designs  # the number of beams does not change in these modes
    keys = fold(fold(beams.key, row), RESAMPLE)

    def one(key, value, order):
        kept = order[:alive]
        temperature = plan.resample_temperature or jnp.maximum(jnp.abs(value[kept]).max(), 1e-12)
        if plan.redraw:
            drawn = kept[jax.random.categorical(key, value[kept] / temperature, shape=(alive,))]
            return order.at[:alive].set(drawn)
        survivors = kept[jnp.argsort(-value[kept], stable=True)][: alive - plan.replace]
        drawn = jax.random.categorical(key, value[survivors] / temperature, shape=(plan.replace,))
        return order.at[:alive].set(jnp.concatenate([survivors, survivors[drawn]]))

    return jax.vmap(one)(keys, value, order)


def accept(plan: Plan, beams: Beams, row: Any, x: jax.Array, out: PyTree) -> Beams:
    """The beams after a row that is not searched: every candidate goes on, with its parent's value."""
    width = x.shape[1]
    parent = jnp.asarray(plan.parent)[row, :width]

    def put(old, new):
        return old.at[:, :width].set(new)

    return beams.replace(
        x=put(beams.x, x),
        out=jax.tree.map(put, beams.out, out),
        value=put(beams.value, beams.value[:, parent]),
        origin=put(beams.origin, beams.origin[:, parent]),
    )


def counted(process: Process, plan: Plan, value: Value, beams: Beams, row: Any, searched: bool, last: bool) -> Beams:
    """The beams with what a row has cost."""
    made = (jnp.asarray(plan.compete)[row] >= 0).sum()
    left = process.steps - (plan.first + row + 1)
    ahead = value.calls_a_state(left, jnp.minimum) if searched and not last else 0
    scored = (1 if last else value.rewards_a_state) if searched else 0
    return beams.replace(calls=beams.calls + made * (0 if last else 1 + ahead), rewards=beams.rewards + made * scored)


def judged(process: Process, value: Value, plan: Plan, beams: Beams, row: Any, x: jax.Array, out: PyTree) -> Beams:
    """The beams after a searched row whose candidates are valued by a function of their states."""
    values = value.of_state(value.params, x.reshape(-1, *x.shape[2:]), plan.first + row + 1).reshape(x.shape[:2])
    return compete(plan, counted(process, plan, value, beams, row, True, False), row, x, out, values)


def scored(process: Process, value: Value, plan: Plan, beams: Beams, row: Any, x: jax.Array, out, rewards) -> Beams:
    """The beams after a searched row whose candidates point to designs with these rewards [G, C, m].

    Those that are not finite count as the floor, and are counted. out is None after the last step.
    """
    last = out is None
    real = jnp.asarray(plan.compete)[row] >= 0
    rewards, failed = floored(value, rewards)
    beams = beams.replace(failed=beams.failed + jnp.where(real[None], failed.sum(-1), 0).sum(1))
    values = rewards[..., 0] if last else combined(value, rewards)
    return compete(plan, counted(process, plan, value, beams, row, True, last), row, x, out, values)


def search(
    process: Process,
    value: Value,
    plan: Plan,
    keys: jax.Array,
    axis: str | None = None,
    x: jax.Array | None = None,
) -> Result:
    """The groups of `keys` [G] from full noise, or states x [G, beams, ...] at the plan's first level, to designs."""
    return result(plan, *run(process, value, plan, start(process, plan, keys, x, axis), axis))


def result(plan: Plan, beams: Beams, traced: dict) -> Result:
    """What `run` has ended with."""
    count = plan.designs
    return Result(beams.x[:, :count], beams.value[:, :count], traced, beams.calls, beams.rewards, beams.failed)


def run(process: Process, value: Value, plan: Plan, beams: Beams, axis: str | None = None) -> tuple[Beams, dict]:
    """Goes through the plan on the device. Returns the last beams, whose first `plan.designs` are designs with their
    rewards, and a trace: by row, [R, G], of the beams alive: the best and mean value, how many first beams are left.
    """
    rows = plan.search.shape[0]
    width = plan.parent.shape[1]

    def searched(beams: Beams, row, last: bool = False) -> Beams:
        x, out = expand(process, plan, beams, row, width, last, axis)
        if value.of_state and not last:
            return judged(process, value, plan, beams, row, x, out)
        designs = candidate_designs(process, value, beams, x, out, row, plan.first + row + 1, last, axis)
        rewards = rewards_of(value, designs.reshape(-1, *designs.shape[3:]), axis)
        return scored(process, value, plan, beams, row, x, out, rewards.reshape(designs.shape[:3]))

    def passed(beams: Beams, row) -> Beams:
        x, out = expand(process, plan, beams, row, plan.passing, False, axis)
        return accept(plan, counted(process, plan, value, beams, row, False, False), row, x, out)

    def one(beams: Beams, row):
        if plan.searched == 'all':
            beams = searched(beams, row)
        elif plan.searched == 'none':
            beams = passed(beams, row)
        else:
            beams = jax.lax.cond(jnp.asarray(plan.search)[row], searched, passed, beams, row)
        return beams, trace(plan, beams, row)

    beams, traced = jax.lax.scan(one, beams, jnp.arange(rows - 1))
    beams = searched(beams, rows - 1, last=True)
    final = trace(plan, beams, rows - 1)
    return beams, jax.tree.map(lambda leaf, one: jnp.concatenate([leaf, one[None]]), traced, final)


def trace(plan: Plan, beams: Beams, row: Any) -> dict[str, jax.Array]:
    """Of the beams after a row [G]: the best and mean value, and how many of the first beams have descendants."""
    alive = jnp.arange(plan.slots) < jnp.asarray(plan.alive)[row + 1]
    value = jnp.where(alive[None], beams.value, -jnp.inf)
    return {
        'best': value.max(-1),
        'mean': jnp.where(alive[None], beams.value, 0.0).sum(-1) / alive.sum(),
        'origins': ancestors(beams.origin, alive),
        'calls': beams.calls,
        'rewards': beams.rewards,
    }
