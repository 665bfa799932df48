"""Particles, refinement and annealing with rewards that are made on the host, a step at a time (trees: `on_host`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from core_jax.errors import UserError
from core_jax.mesh import fetch
from diffusion_jax.process import Process
from diffusion_jax.rewards import Scorer
from diffusion_jax.search import anneal, on_host, refine, smc, tree
from diffusion_jax.search.run import Result
from diffusion_jax.value import Value

Decode = Callable[[np.ndarray], Sequence[str]]


def particles(
    process: Process,
    value: Value,
    plan: smc.Plan,
    keys: jax.Array,
    decode: Decode,
    scorer: Scorer,
    *,
    x: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> Result:
    """`smc.search` with the scorer's rewards, on one device. Raises UserError where rewards would need a gradient."""
    if plan.guided:
        raise UserError('a reward on the host has no gradient: guidance and TDS need one on the device')
    programs = _programs()
    state, traced = programs['start'](process, value, plan, keys, x), []
    for step in range(plan.steps):
        final = step == plan.steps - 1
        state = programs['move'](process, value, plan, state, step, final)
        due = plan.potential is not None and (step + 1) % plan.every == 0
        if due and value.of_state and not final:
            state = programs['judge'](process, value, plan, state, step)
        elif due or final:
            designs = fetch(programs['designs'](process, value, plan, state, step, final))
            rewards = scorer.submit(decode(designs.reshape(-1, *designs.shape[3:]))).result()
            rewards = np.asarray(rewards, np.float32).reshape(designs.shape[:3])
            state = programs['reward'](process, value, plan, state, rewards, step, final)
        traced.append(programs['trace'](state))
    traced = {name: np.stack([one[name] for one in fetch(traced)]) for name in traced[0]}
    return Result(*fetch(tuple(smc.result(plan, state, traced))))


@functools.cache
def _programs() -> dict[str, Callable]:
    def move(process, value, plan, state, step, final):
        return smc.moved(process, value, plan, state, step, final, None)

    def designs(process, value, plan, state, step, final):
        return smc.designs(process, value, state, step, plan.first + step + 1, final, None)

    def judge(process, value, plan, state, step):
        return smc.valued(process, value, plan, state, step, False, None)

    def reward(process, value, plan, state, rewards, step, final):
        return smc.rewarded(process, value, plan, state, rewards, step, final)

    return {
        'start': jax.jit(lambda process, value, plan, keys, x: smc.start(process, value, plan, keys, None, x)),
        'move': jax.jit(move, static_argnums=5),
        'designs': jax.jit(designs, static_argnums=5),
        'judge': jax.jit(judge),
        'reward': jax.jit(reward, static_argnums=6),
        'trace': jax.jit(smc.trace),
    }


def refined(
    process: Process,
    value: Value,
    plan: refine.Plan,
    keys: jax.Array,
    decode: Decode,
    scorer: Scorer,
    *,
    x: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> Result:
    """`refine.search` with the scorer's rewards."""

    def inner(part, keys, x=None) -> Result:
        if isinstance(part, tree.Plan):
            return on_host.search(process, value, part, keys, decode, scorer, x=x, mesh=mesh)[0]
        return particles(process, value, part, keys, decode, scorer, x=x)

    begun = inner(plan.whole, keys) if plan.whole is not None else _given(value, x, decode, scorer)
    designs, rewards, spent = begun.designs, begun.rewards, (begun.calls, begun.reward_calls, begun.failed)
    traced = [refine.trace(rewards, spent)]
    for turn in range(plan.iterations - 1):
        noised, local, before = _between(process, plan, keys, designs, rewards, turn)
        found = inner(plan.local, local, noised)
        designs, rewards = fetch(refine.kept(plan, before, (jnp.asarray(found.designs), jnp.asarray(found.rewards))))
        spent = spent[0] + found.calls, spent[1] + found.reward_calls, spent[2] + found.failed
        traced.append(refine.trace(rewards, spent))
    trace = {name: np.stack([np.asarray(one[name]) for one in traced]) for name in traced[0]}
    return Result(designs, rewards, trace, *(np.asarray(part) for part in spent))


def _given(value: Value, x: jax.Array | None, decode: Decode, scorer: Scorer) -> Result:
    """Seeds x [G, D, ...] with the scorer's rewards."""

    def reward(rows: jax.Array) -> np.ndarray:
        return np.asarray(scorer.submit(decode(np.asarray(rows))).result(), np.float32)

    return Result(*fetch(tuple(refine.given(value, x, reward))))


@jax.jit
def _between(process, plan, keys, designs, rewards, turn):
    """(states to search from, keys of that search, what was before)."""
    before, noised, local = refine.prepared(process, plan, keys, jnp.asarray(designs), jnp.asarray(rewards), turn)
    return noised, local, before


def annealed(
    process: Process,
    value: Value,
    plan: anneal.Plan,
    keys: jax.Array,
    decode: Decode,
    scorer: Scorer,
    *,
    x: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> Result:
    """`anneal.search` with the scorer's rewards, on one device: two halves of the groups take turns."""
    if plan.whole is not None:
        begun = on_host.search(process, value, plan.whole, keys, decode, scorer, mesh=mesh)[0]
    else:
        begun = _given(value, x, decode, scorer)
    propose, accept = _moves()

    def half(rows: np.ndarray) -> Iterator[on_host.When]:
        own = Result(*(field[rows] for field in begun[:2]), {}, *(field[rows] for field in begun[3:]))
        population = anneal.start(keys[rows], own)
        traced = [anneal.trace(population)]
        for turn in range(len(plan.levels)):
            population, proposed = propose(process, plan, population, turn)
            scores = scorer.submit(decode(fetch(proposed).reshape(-1, *proposed.shape[2:])))
            yield scores.when_done
            rewards = np.asarray(scores.result(), np.float32).reshape(population.reward.shape)
            population = accept(value, plan, population, turn, proposed, rewards)
            traced.append(anneal.trace(population))
        traced = {name: np.stack([one[name] for one in fetch(traced)]) for name in traced[0]}
        return Result(*fetch(tuple(anneal.result(plan, population, traced))))

    halves = np.array_split(np.arange(keys.shape[0]), min(2, keys.shape[0]))
    return on_host.joined(on_host.take_turns([half(rows) for rows in halves]))


@functools.cache
def _moves() -> tuple[Callable, Callable]:
    return jax.jit(anneal.propose), jax.jit(anneal.accepted)
