"""Sequential Monte Carlo over diffusion: groups (islands) of particles with weights; SMC, TDS, FK steering, guidance.

Particles are drawn from the process, weighted by how their value has changed, and resampled (systematically, inside
their group) where the effective sample size falls below a share of them. Weights are kept in logarithms, and those of
steps without resampling add up:

    difference   log w += (v_{i+1} - v_i) / alpha                      SMC; telescopes to r / alpha
    max, sum     log w += max_s v_s / alpha, sum_s v_s / alpha          FK steering (arXiv 2501.06848); the last step
                                                                       divides by all that came before

so that the target stays p(x_0) exp(r(x_0) / alpha) / Z, and the product of the mean weights at each resampling is an
unbiased estimate of Z. v is 0 before the first step. TDS (arXiv 2306.17775) draws particles from the process guided by
the slope of the value, and log w += log p(y | x) - log q(y | x) makes up for it. Guidance alone (classifier guidance,
DPS) is the same without weights. A slope costs one call of the denoiser beside the one that it is the slope of, and one
of the reward.
"""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp

from core_jax.errors import UserError, unknown
from diffusion_jax.process import Process, PyTree, denoise, spread, static
from diffusion_jax.search.run import Result, ancestors, fold, item_keys, take
from diffusion_jax.value import Value, combined, floored, guesses, rewards_of

POTENTIALS = ('difference', 'max', 'sum')
START, STEP, GUESS, RESAMPLE, PICK = range(5)  # what keys of a step are told apart by


@flax.struct.dataclass
class Plan:
    """Islands of `particles`, of which `designs` are returned."""

    alpha: jax.Array
    guidance: jax.Array  # scale of the slope; read where `guided`
    particles: int = static()
    designs: int = static()
    steps: int = static()
    first: int = static(default=0)  # level that it begins at
    potential: str | None = static(default='difference')  # None: no weights
    every: int = static(default=1)  # steps between two valuations, the last step aside
    threshold: float = static(default=0.5)  # resample below this share of effective particles; 1: always
    guided: bool = static(default=False)
    pick: str = static(default='draw')  # what is returned: draws by the last weights, or the best by reward
    calls: int = static(default=0)
    rewards: int = static(default=0)


def plan(
    process: Process,
    value: Value,
    *,
    particles: int,
    designs: int = 1,
    alpha: float,
    potential: str | None = 'difference',
    every: int = 1,
    threshold: float = 0.5,
    guidance: float = 0.0,
    pick: str = 'draw',
    steps: int | None = None,
) -> Plan:
    """A plan with what it costs a group. steps: the last ones only, from states that are given.

    Raises UserError where numbers are out of range or the process cannot be guided.
    """
    steps = process.steps if steps is None else steps
    if particles < designs or designs < 1 or every < 1:
        raise UserError('particles must be at least designs, designs and every at least 1')
    if potential is not None and alpha <= 0:
        raise UserError('alpha must be positive: weights are exp(value / alpha)')
    if potential is not None and potential not in POTENTIALS:
        raise unknown('potential', potential, POTENTIALS)
    if pick not in ('draw', 'best'):
        raise unknown('pick', pick, ('draw', 'best'))
    guided = guidance != 0
    if guided and (process.guide is None or value.slope is None):
        raise UserError('this model or reward has no gradient: guidance and TDS need one')
    calls, rewards = particles * (2 if guided else 1), particles if guided else 0
    for i in range(steps):
        left = steps - i - 1
        if left:
            calls += particles * (2 if guided else 1)
            rewards += particles if guided else 0
        if left == 0 or (potential and (i + 1) % every == 0):
            calls += particles * value.calls_a_state(left) if left else 0
            rewards += particles * (value.rewards_a_state if left else 1)
    return Plan(
        alpha=jnp.float32(max(alpha, 1e-30)),
        guidance=jnp.float32(guidance),
        particles=particles,
        designs=designs,
        steps=steps,
        first=process.steps - steps,
        potential=potential,
        every=every,
        threshold=threshold,
        guided=guided,
        pick=pick,
        calls=calls,
        rewards=rewards,
    )


@flax.struct.dataclass
class Particles:
    """States of G groups of N particles."""

    key: jax.Array  # [G]
    x: jax.Array  # [G, N, ...]
    out: PyTree
    slope: PyTree  # of the value by the relaxed state; () where nothing is guided
    value: jax.Array  # [G, N] the last one, 0 at first
    log_weight: jax.Array  # [G, N] since the last resampling
    paid: jax.Array  # [G, N] sum of log potentials so far, of a particle and those it descends from
    record: jax.Array  # [G, N] the running max or sum of values
    log_z: jax.Array  # [G] of the resamplings so far
    origin: jax.Array
    calls: jax.Array  # [G]
    rewards: jax.Array
    failed: jax.Array


def _flat(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _grouped(tree: PyTree, groups: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.reshape(groups, -1, *leaf.shape[1:]), tree)


def _look(process: Process, value: Value, plan: Plan, x: jax.Array, level: Any, axis) -> tuple[PyTree, PyTree]:
    """(denoiser's output, slope of the value) of particles [G, N, ...]."""
    groups, flat = x.shape[0], _flat(x)
    out = denoise(process, flat, level, axis)
    slope = ()
    if plan.guided:
        slope = spread(lambda rows: value.slope(value.params, process, rows, level), flat, axis, process.micro)
    return _grouped(out, groups), _grouped(slope, groups)


def start(process: Process, value: Value, plan: Plan, keys: jax.Array, axis: str | None = None, x=None) -> Particles:
    """Particles of the groups of `keys` [G], of full noise or at states x [G, N, ...]."""
    groups, count = keys.shape[0], plan.particles
    if x is None:
        x = jax.vmap(jax.vmap(process.init))(item_keys(keys, 0, START, count))
    out, slope = _look(process, value, plan, x, jnp.int32(plan.first), axis)
    zeros, none = jnp.zeros((groups, count)), jnp.zeros(groups, jnp.int32)
    origin = jnp.broadcast_to(jnp.arange(count), (groups, count))
    calls, rewards = none + count * (2 if plan.guided else 1), none + (count if plan.guided else 0)
    record = jnp.full((groups, count), -jnp.inf if plan.potential == 'max' else 0.0)
    return Particles(keys, x, out, slope, zeros, zeros, zeros, record, jnp.zeros(groups), origin, calls, rewards, none)


def search(
    process: Process,
    value: Value,
    plan: Plan,
    keys: jax.Array,
    axis: str | None = None,
    x: jax.Array | None = None,
) -> Result:
    """Runs the islands of `keys` [G] from full noise, or from states x [G, N, ...] at the plan's first level.

    The trace has `log_z` beside what all searches tell: the estimate of log Z = log E[exp(r / alpha)] so far.
    """
    state, last = start(process, value, plan, keys, axis, x), plan.steps - 1

    def one(state: Particles, step: Any, final: bool = False) -> Particles:
        state = moved(process, value, plan, state, step, final, axis)
        if final:
            return valued(process, value, plan, state, step, True, axis)
        if plan.potential is None:
            return state
        if plan.every == 1:
            return valued(process, value, plan, state, step, False, axis)
        due = (step + 1) % plan.every == 0
        return jax.lax.cond(due, lambda s: valued(process, value, plan, s, step, False, axis), lambda s: s, state)

    def body(state, step):
        state = one(state, step)
        return state, trace(state)

    state, traced = jax.lax.scan(body, state, jnp.arange(last))
    state = one(state, last, final=True)
    traced = jax.tree.map(lambda leaf, end: jnp.concatenate([leaf, end[None]]), traced, trace(state))
    return result(plan, state, traced)


def result(plan: Plan, state: Particles, traced: dict) -> Result:
    """What a search has ended with."""
    return Result(*_picked(plan, state), traced, state.calls, state.rewards, state.failed)


def moved(process: Process, value: Value, plan: Plan, state: Particles, step, final: bool, axis) -> Particles:
    """Every particle's next state, drawn from the process or from the guided one."""
    level, out = plan.first + step, state.out
    if plan.guided:
        guide = jax.vmap(jax.vmap(process.guide, (0, 0, 0, None)), (0, 0, 0, None))
        scaled = jax.tree.map(lambda leaf: plan.guidance * leaf, state.slope)
        out = guide(state.x, state.out, scaled, level)
    keys = item_keys(state.key, step, STEP, plan.particles)
    y = jax.vmap(jax.vmap(process.step, (0, 0, 0, None)), (0, 0, 0, None))(keys, state.x, out, level)
    if plan.guided and plan.potential is not None:
        log_step = jax.vmap(jax.vmap(process.log_step, (0, 0, None, 0)), (0, 0, None, 0))
        ratio = log_step(state.x, state.out, level, y) - log_step(state.x, out, level, y)
        state = state.replace(log_weight=state.log_weight + ratio)
    if final:
        return state.replace(x=y)
    out, slope = _look(process, value, plan, y, level + 1, axis)
    made, asked = (plan.particles * 2, plan.particles) if plan.guided else (plan.particles, 0)
    return state.replace(x=y, out=out, slope=slope, calls=state.calls + made, rewards=state.rewards + asked)


def designs(process: Process, value: Value, state: Particles, step, level, final: bool, axis) -> jax.Array:
    """Designs [G, N, m, ...] whose rewards value the particles; after the last step these themselves."""
    if final:
        return state.x[:, :, None]
    groups, count = state.x.shape[:2]
    keys = item_keys(state.key, step, GUESS, count).reshape(-1)
    guessed = guesses(value, process, keys, _flat(state.x), _flat(state.out), level, axis)
    return guessed.reshape(groups, count, *guessed.shape[1:])


def valued(process: Process, value: Value, plan: Plan, state: Particles, step, final: bool, axis) -> Particles:
    """Values on the device, weights, and a resampling where it is due (the last weights are for `_picked`)."""
    groups, count = state.x.shape[:2]
    level = plan.first + step + 1
    if value.of_state and not final:
        values = value.of_state(value.params, _flat(state.x), level).reshape(groups, count)
        return _weighed(plan, state, values, step, final)
    guessed = designs(process, value, state, step, level, final, axis)
    rewards = rewards_of(value, guessed.reshape(-1, *guessed.shape[3:]), axis)
    return rewarded(process, value, plan, state, rewards.reshape(guessed.shape[:3]), step, final)


def rewarded(process: Process, value: Value, plan: Plan, state: Particles, rewards, step, final: bool) -> Particles:
    """Weights by the rewards [G, N, m] of the designs that the particles point to; counted."""
    _, count, asked = rewards.shape
    rewards, failed = floored(value, rewards)
    values = rewards[..., 0] if final else combined(value, rewards)
    ahead = 0 if final else value.calls_a_state(process.steps - (plan.first + step + 1), jnp.minimum)
    state = state.replace(
        calls=state.calls + count * ahead,
        rewards=state.rewards + count * asked,
        failed=state.failed + failed.sum((1, 2)),
    )
    return _weighed(plan, state, values, step, final)


def _weighed(plan: Plan, state: Particles, values: jax.Array, step: Any, final: bool) -> Particles:
    if plan.potential is None:
        return state.replace(value=values)
    scaled, record = values / plan.alpha, state.record
    if plan.potential == 'difference':
        gained = scaled - state.value / plan.alpha
    else:
        record = jnp.maximum(record, scaled) if plan.potential == 'max' else record + scaled
        gained = scaled - state.paid if final else record
    state = state.replace(value=values, record=record, paid=state.paid + gained, log_weight=state.log_weight + gained)
    return state if final else _resampled(plan, state, step)


def effective(log_weight: jax.Array) -> jax.Array:
    """Effective sample size (sum w)^2 / sum w^2 over the last axis, from logarithms."""
    return jnp.exp(2 * jax.nn.logsumexp(log_weight, -1) - jax.nn.logsumexp(2 * log_weight, -1))


def systematic(key: jax.Array, log_weight: jax.Array, count: int) -> jax.Array:
    """Ancestors [count] of particles with weights [N]: one uniform number, evenly spaced points."""
    cumulative = jnp.cumsum(jax.nn.softmax(log_weight))
    points = (jnp.arange(count) + jax.random.uniform(key)) / count
    return jnp.clip(jnp.searchsorted(cumulative, points * cumulative[-1]), 0, log_weight.shape[0] - 1)


def _resampled(plan: Plan, state: Particles, step: Any) -> Particles:
    count = plan.particles
    due = effective(state.log_weight) < plan.threshold * count + (plan.threshold >= 1)  # [G]
    keys = fold(fold(state.key, step), RESAMPLE)
    drawn = jax.vmap(lambda key, weight: systematic(key, weight, count))(keys, state.log_weight)
    parents = jnp.where(due[:, None], drawn, jnp.arange(count)[None])
    mean = jax.nn.logsumexp(state.log_weight, -1) - jnp.log(count)
    moved = {
        name: take(getattr(state, name), parents) for name in ('x', 'out', 'slope', 'value', 'paid', 'record', 'origin')
    }
    return state.replace(
        **moved,
        log_weight=jnp.where(due[:, None], 0.0, state.log_weight),
        log_z=state.log_z + jnp.where(due, mean, 0.0),
    )


def _picked(plan: Plan, state: Particles) -> tuple[jax.Array, jax.Array]:
    """(designs [G, D, ...], their rewards): draws by the last weights, or the best."""
    if plan.pick == 'best':
        chosen = jnp.argsort(-state.value, -1, stable=True)[:, : plan.designs]
    elif plan.potential is None:
        chosen = jnp.broadcast_to(jnp.arange(plan.designs), (state.x.shape[0], plan.designs))
    else:
        keys = fold(fold(state.key, plan.steps), PICK)
        chosen = jax.vmap(lambda key, weight: systematic(key, weight, plan.designs))(keys, state.log_weight)
    return take((state.x, state.value), chosen)


def trace(state: Particles) -> dict[str, jax.Array]:
    """Of the particles after a step [G]: values, ancestors that are left, costs, and log Z so far."""
    count = state.origin.shape[1]
    return {
        'best': state.value.max(-1),
        'mean': state.value.mean(-1),
        'origins': ancestors(state.origin, jnp.ones(count, bool)),
        'calls': state.calls,
        'rewards': state.rewards,
        'log_z': state.log_z + jax.nn.logsumexp(state.log_weight, -1) - jnp.log(count),
    }
