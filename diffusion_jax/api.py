"""What the commands do, as functions: designs of a task by a search at a budget, and what is said of them.

task = diffusion_jax.task('dna')                               a domain's model, rewards, decoding
found = diffusion_jax.design(task, method='dsearch', nfe=64)     designs, rewards, trace, costs
found.table()                                                  one dict a design

Your own model or reward: build a `domains.task.Task` (a `process.Process` and a dict of `Reward`), and pass it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from core_jax import cli
from core_jax.errors import UserError, unknown
from core_jax.files import reason
from core_jax.mesh import fetch
from diffusion_jax import learned_value, methods
from diffusion_jax.domains.task import Reward, Task
from diffusion_jax.process import Process, sample
from diffusion_jax.search import anneal, hosted, on_host, refine, smc, tree
from diffusion_jax.search.run import Result, group_keys, on_device
from diffusion_jax.value import Value

DOMAINS = ('dna', 'molecules', 'proteins', 'images')
VALUES = ('posterior', 'learned')  # of states on the way: by what they point to, or by a network


class Found(NamedTuple):
    """Designs of one search, [N, ...]. rewards: by name, the one that was searched with first, then its held-out judge.

    result: groups, trace and counts; plan: what it was to cost; seconds: with compilation.
    """

    designs: np.ndarray
    texts: list[str]
    rewards: dict[str, np.ndarray]
    result: Result
    plan: methods.Plan
    config: ml_collections.ConfigDict
    seconds: float
    busy: float | None = None  # share of the time in which the device had work, where rewards are the host's
    fit: learned_value.Fit | None = None  # of a learned value: what it cost beside `calls` and `reward_calls`, once

    @property
    def calls(self) -> float:
        """Denoiser calls for each design that groups returned, which may be more than were wanted."""
        return float(self.result.calls.sum()) / self.result.rewards.size

    @property
    def reward_calls(self) -> float:
        """Reward calls for each of these."""
        return float(self.result.reward_calls.sum()) / self.result.rewards.size

    def table(self) -> list[dict[str, Any]]:
        columns = {name: values.tolist() for name, values in self.rewards.items()}
        return [
            {'design': text, **{name: column[i] for name, column in columns.items()}}
            for i, text in enumerate(self.texts)
        ]


def task(domain: str, name: str | None = None, config: ml_collections.ConfigDict | None = None) -> Task:
    """A domain's task. name: one of its `TASKS`, by default the first; config: `task_config`'s. Trains the models that
    it lacks.

    Raises UserError for an unknown name, or where data must be fetched first.
    """
    module = domain_module(domain)
    return module.make(name or module.TASKS[0], config)


def task_config(
    domain: str, name: str | None = None, fields: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
    """The settings of a task, with these fields. Raises UserError for unknown names and values of another type."""
    module = domain_module(domain)
    name = name or module.TASKS[0]
    config = module.get_config(name)
    if fields and not config:
        raise UserError(f'the task {name} has no fields to set')
    cli.apply(config, fields or {})
    return config


def check_reward(domain: str, name: str | None, config: ml_collections.ConfigDict, reward: str | None) -> None:
    """Raises UserError for a reward that a task does not have, before it trains its models."""
    module = domain_module(domain)
    name = name or module.TASKS[0]
    names = module.reward_names(name, config)
    if reward and reward not in names:
        raise unknown(f'reward of {name}', reward, names)


def domain_module(domain: str) -> Any:
    """TASKS, names of which the first is the default, get_config(name), reward_names(name, config), and
    make(name, config) -> Task.
    """
    if domain not in DOMAINS:
        raise unknown('domain', domain, DOMAINS)
    return importlib.import_module(f'diffusion_jax.domains.{domain}')


def method_config(method: str, task: Task, fields: dict[str, Any] | None = None) -> ml_collections.ConfigDict:
    """The method's settings: the task's temperature where it weighs by one, then these fields."""
    config = methods.get_config(method)
    if config.get('alpha'):
        config.alpha = float(task.alpha)
    cli.apply(config, fields or {})
    return config


def check_values(values: str, samples: int, lookahead: int) -> None:
    """Raises UserError for a way to value states that there is not."""
    if values not in VALUES:
        raise unknown('way to value states', values, VALUES)
    if samples < 0 or lookahead < 0:
        raise UserError('samples and lookahead must be at least 0')
    if values == 'learned' and (samples or lookahead):
        raise UserError('a learned value takes no samples and no lookahead')


def check_shape(reward: Reward, process: Process) -> None:
    """Raises UserError where a reward on the device does not give a number for each design."""
    if reward.on_device is None:
        return
    key = jax.ShapeDtypeStruct((3,), jax.random.key(0).dtype)
    try:
        designs = jax.eval_shape(lambda keys: sample(process, keys), key)
        found = jax.eval_shape(reward.on_device, reward.params, designs)
        shape = found.shape
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f'the reward fails on designs of shape {designs.shape}: {reason(error)}') from error
    if shape != (3,):
        raise UserError(f'the reward of 3 designs has shape {shape}, not (3,): one number a design')


def value_of(reward: Reward, *, samples: int = 0, lookahead: int = 0, alpha: float = 0.0) -> Value:
    """The value of states on the way to designs with this reward."""
    return Value(
        params=reward.params,
        reward=reward.on_device,
        slope=sloped(reward.on_relaxed) if reward.on_relaxed else None,
        samples=samples,
        lookahead=lookahead,
        alpha=alpha,
        floor=reward.floor,
    )


def design(
    task: Task,
    *,
    method: str = 'dsearch',
    reward: str | None = None,
    nfe: int | None = None,
    designs: int = 32,
    seed: int = 0,
    fields: dict[str, Any] | None = None,
    values: str = 'posterior',
    samples: int = 0,
    lookahead: int = 0,
    mesh: Mesh | None = None,
    workers: int | None = None,
    by: str = 'calls',
    start: Sequence[str] | None = None,
    scorer: Any = None,
) -> Found:
    """Designs by a search whose cost for each of them is at most `nfe` calls of the denoiser (by='rewards': of the
    reward; None: 64, or the next power of two that the method's smallest plan takes).

    reward: a name of the task's, by default its first. samples, lookahead: of the value, see `value.Value`.
    values: 'posterior', or 'learned': by a network that is fitted first, once (`learned_value`); the budget does not
    hold what that takes, nor do `Found.calls` and `Found.seconds`.
    start: designs to refine, as `Task.decode` writes them, in turn where more are wanted (rerd, genetic, anneal).
    scorer: an open pool of the reward's, to be used again; workers: processes of a new one.

    Raises UserError for unknown names, a budget smaller than one pass, a reward that is broken.
    """
    check_values(values, samples, lookahead)
    chosen, name = choose(task, reward)
    config, fit = method_config(method, task, fields), None
    check_shape(chosen, task.process)
    value = value_of(chosen, samples=samples, lookahead=lookahead, alpha=config.get('alpha', 0.0) if samples else 0.0)
    learning = learned_value.get_config()
    if values == 'learned':
        value = learned_value.untrained(value, task.process, learning)
    seeds = None if start is None else task.encode(start)
    plan = methods.at_budget(method, task.process, value, config, nfe, by=by, seeds=seeds is not None)
    groups = -(-designs // plan.designs)
    if seeds is not None:
        if len(seeds) > groups * plan.designs:
            raise UserError(f'{len(seeds)} designs to begin from, {groups * plan.designs} are wanted: raise designs')
        seeds = seeds[np.arange(groups * plan.designs) % len(seeds)].reshape(groups, plan.designs, *seeds.shape[1:])
    with _pool(chosen, workers, scorer) as scorer:
        if values == 'learned':
            score = functools.partial(judge, task, name, scorer=scorer)
            fit = learned_value.fitted(task.process, f'{task.name}-{name}', score, learning, floor=chosen.floor)
            value = value.replace(params=value.params | fit.params)
        began = time.perf_counter()
        result, busy = _search(task, value, plan, jax.random.key(seed), groups, mesh, scorer, seeds)
        seconds = time.perf_counter() - began
        if (result.failed == result.reward_calls).all():
            why = scorer.first_error if scorer is not None else ''
            raise UserError(f'not one design has a reward; {why or "it was never a finite number"}')
        flat = result.designs.reshape(-1, *result.designs.shape[2:])[:designs]
        own = judge(task, name, flat, scorer=scorer)  # NaN for those that count as the floor
    found = result.rewards.reshape(-1)[:designs]
    rewards = {name: np.where(np.isfinite(own), found, np.nan)}
    if chosen.held_out:
        rewards[chosen.held_out] = judge(task, chosen.held_out, flat, workers)
    return Found(flat, task.decode(flat), rewards, result, plan, config, seconds, busy, fit)


def choose(task: Task, name: str | None) -> tuple[Reward, str]:
    """(reward, its name): the task's first where none is named."""
    name = name or next(iter(task.rewards))
    if name not in task.rewards:
        raise unknown(f'reward of {task.name}', name, task.rewards)
    return task.rewards[name], name


@contextlib.contextmanager
def _pool(reward: Reward, workers: int | None, scorer: Any = None) -> Iterator[Any]:
    """`scorer`, or a new pool of the reward's while it is wanted; None where the device scores."""
    if not reward.on_host or scorer is not None:
        yield scorer if reward.on_host else None
        return
    from diffusion_jax.rewards import Scorer

    with Scorer(reward.on_host, workers=workers) as opened:
        yield opened


def judge(task: Task, name: str, designs: np.ndarray, workers: int | None = None, scorer: Any = None) -> np.ndarray:
    """Rewards [N] of designs, NaN where there is none. scorer: an open pool of the reward's."""
    reward = task.rewards[name]
    if reward.on_host:
        with _pool(reward, workers, scorer) as scorer:
            return np.asarray(scorer.submit(task.decode(designs)).result(), np.float64)
    return np.asarray(fetch(jax.jit(reward.on_device)(reward.params, jnp.asarray(designs))), np.float64)


@functools.cache  # the same reward is the same program
def sloped(on_relaxed: Callable[[Any, jax.Array], jax.Array]) -> Callable:
    """The slope of the value by the softened state, through the denoiser: what guidance goes along.

    On the way a relaxed design is valued: expected tokens [L, V], or the posterior mean.
    """

    def slope(params: Any, process: Process, x: jax.Array, level: jax.Array) -> jax.Array:
        def total(soft):
            out = process.denoise(process.params, soft, level)
            guessed = jax.vmap(process.mode, (0, 0, None))(soft, out, level)
            return on_relaxed(params, guessed).sum()

        return jax.grad(total)(jax.vmap(process.soften)(x))

    return slope


def _search(task: Task, value: Value, plan, key, groups: int, mesh, scorer, x) -> tuple[Result, float | None]:
    if scorer is None:
        run = on_device(methods.kernel(plan), mesh, task.process, value, plan, groups=groups, key=key, x=x)
        return run, None
    keys = group_keys(key, groups)
    if isinstance(plan, tree.Plan):
        result, pace = on_host.search(task.process, value, plan, keys, task.decode, scorer, mesh=mesh)
        return result, pace.busy
    search = {refine.Plan: hosted.refined, smc.Plan: hosted.particles, anneal.Plan: hosted.annealed}[type(plan)]
    return search(task.process, value, plan, keys, task.decode, scorer, x=x, mesh=mesh), None
