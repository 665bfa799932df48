"""RERD (arXiv 2502.14944): designs are noised a little and denoised again under the reward, over and over.

    noise     x_K ~ q(x_K | x_0): a design goes back K steps
    denoise   from there with any guided search (`local`), as one would from full noise
    select    optional: the designs of a group are redrawn by exp(r / alpha'), after all iterations but the last

With the exact soft-optimal policy as the search, noise and denoise are a Gibbs step on p(x_0) exp(r(x_0) / alpha) / Z
and q(x_K | x_0): that target is invariant, and reached from any start where the noise reaches everything. Selection is
no part of it, and tilts further at every turn (sheet of the papers, 2.3). Nor is `keep`, which drops a design that is
worse than the one it came from: a hill climber.

A genetic algorithm with the pre-trained model as its mutation is the same loop with an unguided `local` and selection.
"""

from __future__ import annotations

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp

from core_jax.errors import UserError
from diffusion_jax.process import Process, static
from diffusion_jax.search import smc, tree
from diffusion_jax.search.run import Result, fold
from diffusion_jax.value import Value, floored, rewards_of

NOISE, LOCAL, SELECT = range(3)  # what keys of an iteration are told apart by
GLOBAL = 0x91D0


@flax.struct.dataclass
class Plan:
    """`iterations` in all, the first of which makes designs from full noise (`whole`) or takes the user's seeds."""

    whole: tree.Plan | smc.Plan | None
    local: tree.Plan | smc.Plan
    temperature: jax.Array  # alpha' of the selection; read where `select`
    iterations: int = static()
    designs: int = static()
    select: bool = static(default=False)
    keep: bool = static(default=False)
    calls: int = static(default=0)
    rewards: int = static(default=0)


def plan(
    process: Process,
    local: tree.Plan | smc.Plan,
    *,
    iterations: int,
    whole: tree.Plan | smc.Plan | None = None,
    temperature: float | None = None,
    keep: bool = False,
) -> Plan:
    """A plan around `local`, whose rows begin where the noise ends. whole: None where seeds are given.

    temperature: of the selection; None: there is none.

    Raises UserError where the plans do not fit.
    """
    if iterations < 1 or (temperature is not None and temperature <= 0):
        raise UserError('iterations must be at least 1, the temperature of the selection positive')
    if not 0 < local.first < process.steps:
        raise UserError(
            f'refinement goes back K steps, 0 < K < {process.steps}: this plan goes back {process.steps - local.first}'
        )
    if whole is not None and (whole.designs != local.designs or whole.first != 0):
        raise UserError(f'the first plan returns {whole.designs} designs, refinement takes {local.designs}')
    turns = iterations - 1
    return Plan(
        whole=whole,
        local=local,
        temperature=jnp.float32(temperature or 1.0),
        iterations=iterations,
        designs=local.designs,
        select=temperature is not None,
        keep=keep,
        calls=(whole.calls if whole else 0) + turns * local.calls,
        rewards=(whole.rewards if whole else local.designs) + turns * local.rewards,
    )


def from_seeds(plan):
    """The same plan, a refinement or an annealing, of designs that are given, without the first search."""
    if plan.whole is None:
        return plan
    calls, rewards = plan.calls - plan.whole.calls, plan.rewards - plan.whole.rewards + plan.designs
    return plan.replace(whole=None, calls=calls, rewards=rewards)


def steps_back(process: Process, share: float) -> int:
    """K for a share of the steps, rounded. Raises UserError outside of (0, 1), and where nothing would be noised."""
    if not 0 < share < 1:
        raise UserError(f'the share of steps to go back is {share}; it lies between 0 and 1')
    steps = round(share * process.steps)
    if not 0 < steps < process.steps:
        raise UserError(
            f'going back {share} of {process.steps} steps rounds to {steps}; at least 1 and not all: try '
            f'{1 / process.steps:.2g}'
        )
    return steps


def search(
    process: Process,
    value: Value,
    plan: Plan,
    keys: jax.Array,
    axis: str | None = None,
    x: jax.Array | None = None,
) -> Result:
    """Refines the designs of each group of `keys` [G]: its own, or seeds x [G, D, ...].

    The trace is by iteration, [S, G].
    """
    begun = begin(process, value, plan, keys, axis, x)
    designs, rewards, spent = begun.designs, begun.rewards, (begun.calls, begun.reward_calls, begun.failed)

    def one(carry, turn):
        designs, rewards, (calls, asked, failed) = carry
        before, noised, local = prepared(process, plan, keys, designs, rewards, turn)
        found = inner(plan.local)(process, value, plan.local, local, axis, noised)
        designs, rewards = kept(plan, before, (found.designs, found.rewards))
        spent = calls + found.calls, asked + found.reward_calls, failed + found.failed
        return (designs, rewards, spent), trace(rewards, spent)

    first = jax.tree.map(lambda leaf: leaf[None], trace(rewards, spent))
    (designs, rewards, spent), traced = jax.lax.scan(one, (designs, rewards, spent), jnp.arange(plan.iterations - 1))
    traced = jax.tree.map(lambda start, rest: jnp.concatenate([start, rest]), first, traced)
    return Result(designs, rewards, traced, *spent)


def begin(process: Process, value: Value, plan, keys: jax.Array, axis: str | None, x: jax.Array | None) -> Result:
    """What a plan with a `whole` and `designs` begins with: the designs of its first search, or seeds x."""
    if plan.whole is not None:
        return inner(plan.whole)(process, value, plan.whole, keys, axis)
    return given(value, x, lambda rows: rewards_of(value, rows, axis))


def given(value: Value, x: jax.Array | None, reward: Callable[[jax.Array], jax.Array]) -> Result:
    """Seeds x [G, D, ...] as what a search has found. reward(designs [N, ...]) -> [N]. Raises UserError without x."""
    if x is None:
        raise UserError('a plan without a first search begins with seeds: give them')
    groups, count = x.shape[:2]
    rewards, failed = floored(value, jnp.asarray(reward(x.reshape(-1, *x.shape[2:]))).reshape(groups, count))
    return Result(x, rewards, {}, jnp.zeros(groups, jnp.int32), jnp.full(groups, count), failed.sum(1))


def inner(plan: tree.Plan | smc.Plan):
    """The kernel that a plan is of."""
    return smc.search if isinstance(plan, smc.Plan) else tree.search


def prepared(process: Process, plan: Plan, keys: jax.Array, designs: jax.Array, rewards: jax.Array, turn) -> tuple:
    """((designs, rewards) after the selection, noised states [G, B, ...], keys [G] of the search from there)."""
    own = fold(fold(keys, GLOBAL), turn)
    if plan.select:
        designs, rewards = _selected(plan, fold(own, SELECT), designs, rewards)
    return (designs, rewards), _noised(process, plan, fold(own, NOISE), designs), fold(own, LOCAL)


def kept(plan: Plan, before: tuple, after: tuple) -> tuple[jax.Array, jax.Array]:
    """(designs [G, D, ...], rewards [G, D]) that an iteration ends with: the new ones, or with `keep` the better."""
    if not plan.keep:
        return after
    better = after[1] >= before[1]
    shape = (*better.shape, *(1,) * (after[0].ndim - 2))
    return jnp.where(better.reshape(shape), after[0], before[0]), jnp.where(better, after[1], before[1])


def _noised(process: Process, plan: Plan, keys: jax.Array, designs: jax.Array) -> jax.Array:
    """States [G, B, ...] at the first level of the local plan: each design as often as its beams divide."""
    local, count = plan.local, plan.designs
    beams = local.particles if isinstance(local, smc.Plan) else local.beams
    source = jnp.arange(beams) * count // beams
    each = jax.vmap(lambda key: jax.random.split(key, beams))(keys)
    return jax.vmap(jax.vmap(process.noise, (0, 0, None)), (0, 0, None))(each, designs[:, source], local.first)


def _selected(plan: Plan, keys: jax.Array, designs: jax.Array, rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
    def one(key, designs, rewards):
        drawn = jax.random.categorical(key, rewards / plan.temperature, shape=rewards.shape)
        return designs[drawn], rewards[drawn]

    return jax.vmap(one)(keys, designs, rewards)


def trace(rewards: jax.Array, spent: tuple) -> dict[str, jax.Array]:
    """Of the designs after an iteration [G]: rewards and costs."""
    return {'best': rewards.max(1), 'mean': rewards.mean(1), 'calls': spent[0], 'rewards': spent[1]}
