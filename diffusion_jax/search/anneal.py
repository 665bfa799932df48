"""Annealed refinement, a search of our own: a population of whole designs that the reward cools.

    begin     the designs of a group come from the unguided process, at beta = 0
    cool      beta rises as far as exp((beta' - beta) r) leaves a share `ess` of the group effective, at most to
              1 / alpha; the group is resampled by these weights (systematically)
    move      x_l ~ q(x_l | x_0), y ~ p(x_0 | x_l): back to level l and forth in one call of the denoiser
    accept    y takes the place of x_0 with probability min(1, exp(beta' (r(y) - r(x_0))))

p(x_0) q(x_l | x_0) p(y | x_l) does not change when x_0 and y change places, so the move is reversible for the prior,
and with `accept` for p exp(beta r) / Z. What is left is an SMC sampler along a path of temperatures (Del Moral, Doucet
and Jasra, JRSS B 68:411, 2006) whose kernel is the noise and the denoiser of RERD: at 1 / alpha a large group is a
sample of the papers' target, and the product of the mean weights estimates Z. With alpha = 0 beta rises without end,
and `ess` is the diversity that may be spent a turn: 1 - turnover / turns, so that a longer run cools more slowly and
loses as much (never below a half). The levels go from `back` of the steps to one: moves are far while most of them are
accepted, and near when few are.

A group returns its designs where it is cooled to a temperature: they are a sample. With alpha = 0 many of them are
copies, so then it returns the best different ones of all that it has visited, which costs nothing.

Guesses of several positions are drawn independently of each other, so the target is exact where a move hides one.
An iteration costs one call of the denoiser and one of the reward a design: as many of one as of the other, where SVDD
needs a pass of the process for what it knows of a design only at its end.
"""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.errors import UserError, unknown
from diffusion_jax.process import Process, denoise, static
from diffusion_jax.search import refine, smc, tree
from diffusion_jax.search.run import Result, ancestors, fold, item_keys, take
from diffusion_jax.value import Value, floored, rewards_of

COOL, NOISE, GUESS, ACCEPT = range(4)  # what keys of an iteration are told apart by
OWN = 0xA22EA1  # and from those of the first search
ACCEPTS = ('metropolis', 'better', 'always')
LEAST, MOST = 1e-9, 1e12  # increments of beta that are thought of; MOST stands for no limit


@flax.struct.dataclass
class Plan:
    """`levels` [S] that the iterations after the first go back to; `whole` makes the designs that they begin with, or
    is None where seeds are given.
    """

    whole: tree.Plan | None
    levels: jax.Array  # [S]
    limit: jax.Array  # of beta
    ess: jax.Array
    accept: str = static()
    sample: bool = static()  # whether what is returned is the group, or the best that it has visited
    designs: int = static()
    calls: int = static(default=0)
    rewards: int = static(default=0)


def plan(
    process: Process,
    whole: tree.Plan,
    *,
    iterations: int,
    back: float,
    last: float = 0.0,
    turnover: float = 12.0,
    alpha: float = 0.0,
    accept: str = 'metropolis',
) -> Plan:
    """A plan of `iterations` in all, the first of which is `whole`.

    back, last: shares of the steps that the first and the last move go back; 0: one step. turnover: how often,
    about, the group is replaced by its better part in the course of all turns. alpha: the temperature that it is cooled
    to. accept: 'better' takes no worse designs, 'always' all of them: neither leaves the target invariant.

    Raises UserError where numbers are out of range.
    """
    if iterations < 1 or alpha < 0 or turnover <= 0:
        raise UserError('iterations must be at least 1, alpha at least 0, turnover positive')
    if accept not in ACCEPTS:
        raise unknown('acceptance', accept, ACCEPTS)
    if last > back:
        raise UserError(f'the last move goes back {last} of the steps, no more than the first, which goes back {back}')
    turns = iterations - 1
    ends = [refine.steps_back(process, share) if share else 1 for share in (back, last)]
    steps = np.rint(np.geomspace(*ends, turns)).astype(np.int32)
    return Plan(
        whole=whole,
        levels=process.steps - steps,
        limit=np.float32(min(1 / alpha, MOST) if alpha else MOST),
        ess=np.float32(1 - min(turnover / max(turns, 1), 0.5)),
        accept=accept,
        sample=alpha > 0,
        designs=whole.designs,
        calls=whole.calls + turns * whole.designs,
        rewards=whole.rewards + turns * whole.designs,
    )


@flax.struct.dataclass
class Population:
    """Designs of G groups of D."""

    key: jax.Array  # [G]
    x: jax.Array  # [G, D, ...]
    reward: jax.Array  # [G, D]
    best: tuple[jax.Array, jax.Array]  # (designs [G, D, ...], rewards [G, D]): the best different ones so far
    beta: jax.Array  # [G]
    log_z: jax.Array  # [G]
    origin: jax.Array  # [G, D] which of the first designs one descends from
    moved: jax.Array  # [G] share of the last moves that were accepted
    calls: jax.Array  # [G]
    rewards: jax.Array  # [G]
    failed: jax.Array  # [G]


def search(
    process: Process,
    value: Value,
    plan: Plan,
    keys: jax.Array,
    axis: str | None = None,
    x: jax.Array | None = None,
) -> Result:
    """Populations of the groups of `keys` [G]: of their own, or of seeds x [G, D, ...]. The trace is by iteration."""
    population = start(keys, refine.begin(process, value, plan, keys, axis, x))

    def one(population: Population, turn):
        population, proposed = propose(process, plan, population, turn, axis)
        rewards = rewards_of(value, proposed.reshape(-1, *proposed.shape[2:]), axis)
        population = accepted(value, plan, population, turn, proposed, rewards.reshape(population.reward.shape))
        return population, trace(population)

    first = jax.tree.map(lambda leaf: leaf[None], trace(population))
    if not len(plan.levels):
        return result(plan, population, first)
    population, traced = jax.lax.scan(one, population, jnp.arange(len(plan.levels)))
    return result(plan, population, jax.tree.map(lambda start, rest: jnp.concatenate([start, rest]), first, traced))


def start(keys: jax.Array, begun: Result) -> Population:
    """What the first search, or the user, has found."""
    groups, count = begun.rewards.shape
    none = jnp.zeros(groups)
    x, reward = jnp.asarray(begun.designs), jnp.asarray(begun.rewards)
    return Population(
        key=fold(keys, OWN),
        x=x,
        reward=reward,
        best=different(x, reward, count),
        beta=none,
        log_z=none,
        origin=jnp.broadcast_to(jnp.arange(count), (groups, count)),
        moved=none + 1.0,
        calls=jnp.asarray(begun.calls, jnp.int32),
        rewards=jnp.asarray(begun.reward_calls, jnp.int32),
        failed=jnp.asarray(begun.failed, jnp.int32),
    )


def propose(process: Process, plan: Plan, population: Population, turn: Any, axis=None) -> tuple[Population, jax.Array]:
    """(the population, cooled, what its designs may move to [G, D, ...])."""
    groups, count = population.reward.shape
    beta = cooled(population.beta, population.reward, plan.ess, plan.limit)
    weight = (beta - population.beta)[:, None] * (population.reward - population.reward.max(1, keepdims=True))
    keys = fold(fold(population.key, turn), COOL)
    parents = jax.vmap(lambda key, weight: smc.systematic(key, weight, count))(keys, weight)
    x, reward, origin = take((population.x, population.reward, population.origin), parents)
    gained = jax.nn.logsumexp((beta - population.beta)[:, None] * population.reward, 1) - jnp.log(count)

    level = jnp.asarray(plan.levels)[turn]
    noise, guess = (item_keys(population.key, turn, purpose, count).reshape(-1) for purpose in (NOISE, GUESS))
    noised = jax.vmap(process.noise, (0, 0, None))(noise, x.reshape(-1, *x.shape[2:]), level)
    out = denoise(process, noised, level, axis)
    proposed = jax.vmap(process.guess, (0, 0, 0, None))(guess, noised, out, level).reshape(x.shape)
    population = population.replace(
        x=x, reward=reward, origin=origin, beta=beta, log_z=population.log_z + gained, calls=population.calls + count
    )
    return population, proposed


def cooled(beta: jax.Array, reward: jax.Array, ess: jax.Array, limit: jax.Array) -> jax.Array:
    """The largest beta' <= limit [G] at which weights exp((beta' - beta) reward [G, D]) have `ess` * D effective ones.

    Their number falls with beta', so halving the interval of its logarithm finds it.
    """
    least = ess * reward.shape[1]

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = smc.effective(jnp.exp(middle)[:, None] * (reward - reward.max(1, keepdims=True))) >= least
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    bounds = jnp.full_like(beta, np.log(LEAST)), jnp.full_like(beta, np.log(MOST))
    return jnp.minimum(beta + jnp.exp(jax.lax.fori_loop(0, 40, halve, bounds)[0]), limit)


def accepted(value: Value, plan: Plan, population: Population, turn: Any, proposed, rewards: jax.Array) -> Population:
    """The population after the moves to `proposed` with these rewards [G, D], by the rule of the plan."""
    rewards, failed = floored(value, rewards)
    count = rewards.shape[1]
    visited = (jnp.concatenate(pair, 1) for pair in zip(population.best, (proposed, rewards), strict=True))
    gain = rewards - population.reward
    if plan.accept == 'metropolis':
        keys = fold(fold(population.key, turn), ACCEPT)
        chance = jax.vmap(lambda key: jax.random.uniform(key, (count,), minval=jnp.finfo(jnp.float32).tiny))(keys)
        taken = jnp.log(chance) < population.beta[:, None] * gain
    else:
        taken = gain >= 0 if plan.accept == 'better' else jnp.ones_like(gain, bool)
    return population.replace(
        x=jnp.where(taken.reshape(*taken.shape, *(1,) * (proposed.ndim - 2)), proposed, population.x),
        reward=jnp.where(taken, rewards, population.reward),
        best=different(*visited, count),
        moved=taken.mean(1),
        rewards=population.rewards + count,
        failed=population.failed + failed.sum(1),
    )


def different(x: jax.Array, reward: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` best designs of x [G, N, ...] by reward [G, N], each once; copies only where there are too few."""
    flat = x.reshape(*x.shape[:2], -1)
    same = (flat[:, :, None] == flat[:, None]).all(-1)
    copy = (same & (jnp.arange(x.shape[1])[None] < jnp.arange(x.shape[1])[:, None])[None]).any(-1)
    by_reward = jnp.argsort(-reward, -1, stable=True)
    order = jnp.argsort(jnp.take_along_axis(copy, by_reward, 1), -1, stable=True)
    return take((x, reward), jnp.take_along_axis(by_reward, order, 1)[:, :count])


def result(plan: Plan, population: Population, traced: dict) -> Result:
    """What a search ends with."""
    spent = population.calls, population.rewards, population.failed
    found = (population.x, population.reward) if plan.sample else population.best
    return Result(*found, traced, *spent)


def trace(population: Population) -> dict[str, jax.Array]:
    """Of the designs after an iteration [G]: rewards, temperature, accepted moves, first designs that have descendants,
    costs, log Z.
    """
    return {
        'best': population.reward.max(1),
        'mean': population.reward.mean(1),
        'beta': population.beta,
        'accepted': population.moved,
        'origins': ancestors(population.origin, jnp.ones(population.origin.shape[1], bool)),
        'calls': population.calls,
        'rewards': population.rewards,
        'log_z': population.log_z,
    }
