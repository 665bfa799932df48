"""Learners of language models: supervised fine-tuning, and preferences (DPO and its kin).

Parameters are float32 masters, whatever the arithmetic: an update of 2e-7 would be rounded away in bfloat16. With an
adapter (`lora_rank` > 0) only it is trained; the parameters that it belongs to come with the batch as 'base', and are
neither copied nor saved.

A batch of supervised fine-tuning is {'tokens', 'positions', 'segments', 'mask'} [B, T]. One of preferences has
these for 'chosen' and 'rejected' apart, beside 'turns' [B, T] where the reduction asks for them, and the reduced
log-probabilities of the reference, 'reference_chosen' and 'reference_rejected' [B]: they never change, so they are
computed once (`scores`). Pairs among continuations of one sequence come as 'branches', what `losses.branch_logps`
takes and 'mask' [B, M, C]; 'chosen' and 'rejected' [B, N], which of the M each pair is of; 'weight' [B, N], zero where
a sequence has fewer pairs; and 'reference_branches' [B, M]. SimPO has no reference, and reads none.

Gradients of `micro` rows at a time are summed before the one update, weighed by what the rows count for, so that how a
batch is cut changes nothing.

Metrics: loss; grad_norm, before clipping; of preferences also margin (mean), accuracy (share of positive margins, a tie
counts half), chosen and rejected (mean reduced log-probability, less the reference's): a falling `chosen` beside a
growing margin is DPO's known failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax.errors import UserError, unknown
from core_jax.state import Learner, Trainable, descend, global_norm, trainable
from core_jax.transformer import lora, model
from core_jax.transformer.config import Config
from core_jax.transformer.losses import (
    PREFERENCES,
    REDUCTIONS,
    branch_logps,
    likelihood_loss,
    preference_loss,
    reduce,
    token_logps,
)

PyTree = Any


@flax.struct.dataclass
class State:
    key: jax.Array
    step: jax.Array
    net: Trainable  # of parameters, or of an adapter


def scores(arch: Config, params: PyTree, rows: dict, config: ml_collections.ConfigDict, adapter: PyTree = None):
    """Reduced log-probabilities [B] of rows, or [B, M] of branches, under parameters, and an adapter of them."""
    if 'stem' in rows:
        logps = branch_logps(arch, params, rows, adapter=adapter)
    else:
        logps = token_logps(arch, params, rows['tokens'], rows['positions'], rows['segments'], adapter=adapter)
    turns = rows.get('turns', jnp.zeros_like(rows['tokens']))
    flat = (x.reshape(-1, x.shape[-1]) for x in (logps, rows['mask'], turns))
    return reduce(*flat, config.reduction, config.turns).reshape(logps.shape[:-1]), logps


def make(arch: Config, config: ml_collections.ConfigDict) -> Learner:
    """A learner of `config.objective`. Raises UserError for unknown names and numbers out of range."""
    if config.objective not in ('likelihood', *PREFERENCES):
        raise unknown('objective', config.objective, ('likelihood', *PREFERENCES))
    if config.reduction not in REDUCTIONS:
        raise unknown('reduction', config.reduction, REDUCTIONS)
    if config.micro and config.batch_size % config.micro:
        raise UserError(f'a batch of {config.batch_size} rows is not cut into parts of {config.micro}')
    _check(config)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(config.beta1, config.beta2),
        optax.add_decayed_weights(config.weight_decay),
    )

    def split(params: PyTree, batch: dict) -> tuple[PyTree, PyTree]:
        return (batch['base'], params) if config.lora_rank else (params, None)

    def likelihood(params: PyTree, batch: dict, hparams: dict) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        whole, adapter = split(params, batch)
        logps = token_logps(arch, whole, batch['tokens'], batch['positions'], batch['segments'], adapter=adapter)
        weight = batch['mask'].astype(jnp.float32).sum()
        return likelihood_loss(logps, batch['mask']) * weight, (weight, {})

    def preference(params: PyTree, batch: dict, hparams: dict) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        whole, adapter = split(params, batch)
        sides = branched if 'branches' in batch else paired
        chosen, rejected, own, reference, weight = sides(whole, adapter, batch)
        options = {'beta': hparams['beta'], 'kind': config.objective, 'smoothing': config.smoothing}
        loss, margin = preference_loss(chosen, rejected, *reference, **options, gamma=config.gamma)
        if config.likelihood:  # of the chosen, a row counts as much as another
            loss = loss - config.likelihood * own
        told = {
            'margin': margin,
            'accuracy': (margin > 0) + 0.5 * (margin == 0),
            'chosen': chosen - reference[0],
            'rejected': rejected - reference[1],
        }
        total, told = jax.tree.map(lambda x: (x * weight).sum(), (loss, told))
        return total, (weight.sum(), told)

    def paired(whole: PyTree, adapter: PyTree, batch: dict) -> tuple:
        """(chosen, rejected, the chosen's token mean, both of the reference, weight), each [B]."""
        # One pass over both: a pair's rows are neighbours, so that on a mesh they are on the device that has the pair.
        both = jax.tree.map(
            lambda a, b: jnp.stack([a, b], 1).reshape(-1, *a.shape[1:]), batch['chosen'], batch['rejected']
        )
        found, logps = scores(arch, whole, both, config, adapter)
        own = reduce(logps[::2], batch['chosen']['mask'], batch['chosen']['mask'], 'token_mean')
        reference = (batch['reference_chosen'], batch['reference_rejected']) if referred else (jnp.zeros_like(own),) * 2
        return found[::2], found[1::2], own, reference, jnp.ones_like(own)

    def branched(whole: PyTree, adapter: PyTree, batch: dict) -> tuple:
        """The same of pairs among branches, each [B, N]: every branch is read once, however many pairs it is in."""
        found, logps = scores(arch, whole, batch['branches'], config, adapter)
        flat = (x.reshape(-1, x.shape[-1]) for x in (logps, *[batch['branches']['mask']] * 2))
        own = reduce(*flat, 'token_mean').reshape(found.shape)

        def of(side: str, what: jax.Array) -> jax.Array:
            return jnp.take_along_axis(what, batch[side], 1)

        theirs = batch['reference_branches'] if referred else jnp.zeros_like(found)
        reference = of('chosen', theirs), of('rejected', theirs)
        return of('chosen', found), of('rejected', found), of('chosen', own), reference, batch['weight']

    referred = config.objective != 'simpo'
    objective = likelihood if config.objective == 'likelihood' else preference

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        value, told, gradients = _summed(objective, state.net.params, batch, hparams, config.micro)
        rate = hparams['learning_rate'] * schedule(state.step, config)
        net = descend(state.net, gradients, optimizer, rate)
        metrics = {'loss': value, 'grad_norm': global_norm(gradients)} | told
        return State(state.key, state.step + 1, net), metrics

    def init(key: jax.Array, batch: dict) -> State:
        key, own = jax.random.split(key)
        if config.lora_rank:
            shapes = jax.eval_shape(lambda: model.init(arch, own))
            params = lora.init(shapes, own, rank=config.lora_rank)
        else:
            params = model.init(arch, own)
        return State(key, jnp.zeros((), jnp.int32), trainable(params, optimizer))

    hparams = {name: float(config[name]) for name in ('learning_rate', 'beta')}
    return Learner(init, update, None, lambda state: state.net.params, hparams)


def _check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for numbers that the objective does not know, or not in this range."""
    if config.reduction.startswith('turn_') and config.turns < 1:
        raise UserError(f'{config.reduction} needs the number of turns, which is at least 1, got {config.turns}')
    if config.objective == 'simpo' and config.reduction != 'token_mean':
        raise UserError(f'simpo is about means over tokens: its reduction is token_mean, got {config.reduction}')
    if config.objective in PREFERENCES and not config.beta > 0:
        raise UserError(f'beta of a preference lies above 0, got {config.beta}')
    if not 0 <= config.smoothing < 0.5:
        raise UserError(f'smoothing is at least 0 and below 0.5, got {config.smoothing}')
    for name, only in (('smoothing', 'cdpo'), ('gamma', 'simpo')):
        if config[name] and config.objective != only:
            raise UserError(f'{name} belongs to {only}; with {config.objective} it must be 0, got {config[name]}')


def begin(states: State, params: PyTree) -> State:
    """States stacked by member, each with these parameters (or adapter) in place of its own."""
    fresh = jax.tree.map(
        lambda new, old: jnp.broadcast_to(jnp.asarray(new)[None], old.shape), params, states.net.params
    )
    return states.replace(net=states.net.replace(params=fresh))


def schedule(step: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """What the learning rate is multiplied by: a linear rise over `warmup` of the updates, a cosine to `end`."""
    rise = max(config.warmup * config.updates, 1.0)
    share = jnp.clip((step - rise) / max(config.updates - rise, 1.0), 0, 1)
    return jnp.where(
        step < rise, (step + 1) / rise, config.end + (1 - config.end) * 0.5 * (1 + jnp.cos(jnp.pi * share))
    )


def _summed(objective: Callable, params: PyTree, batch: dict, hparams: dict, micro: int):
    """(loss, metrics, gradients) of the weighted mean of an objective (sum, (weight, sums)) over a batch."""
    gradient = jax.value_and_grad(objective, has_aux=True)
    base = {name: batch[name] for name in ('base',) if name in batch}
    rows = {name: part for name, part in batch.items() if name not in base}
    count = jax.tree.leaves(rows)[0].shape[0]
    if not micro or micro >= count:
        (total, (weight, told)), gradients = gradient(params, batch, hparams)
    else:
        parts = jax.tree.map(lambda x: x.reshape(count // micro, micro, *x.shape[1:]), rows)

        def one(carry, part):
            (total, (weight, told)), gradients = gradient(params, base | part, hparams)
            return jax.tree.map(jnp.add, carry, (total, weight, told, gradients)), None

        shapes = jax.eval_shape(lambda p: gradient(params, base | p, hparams), jax.tree.map(lambda x: x[0], parts))
        (total, (weight, told)), gradients = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (total, weight, told, gradients), _ = jax.lax.scan(one, (total, weight, told, gradients), parts)
    weight = jnp.maximum(weight, 1.0)
    gradients = jax.tree.map(lambda g: g / weight.astype(g.dtype), gradients)
    return total / weight, {name: value / weight for name, value in told.items()}, gradients


def get_config() -> ml_collections.ConfigDict:
    """Settings of fine-tuning a small model; those of published runs are in the papers' presets."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars.
            'learning_rate': 1e-3,  # at the top of its schedule
            'beta': 0.1,  # of preferences: what a unit of log-ratio is worth
            # Switches and shapes: static.
            'objective': 'likelihood',  # or dpo, cdpo, ipo, simpo
            'reduction': 'sum',  # of a row: sum, token_mean, turn_mean_sum, turn_mean_mean
            'turns': 0,  # how many there may be, for the reductions over turns
            'smoothing': 0.0,  # of cdpo: share of the labels that is taken to be wrong
            'gamma': 0.0,  # of simpo: margin that is asked for
            'likelihood': 0.0,  # weight of the chosen's token-mean likelihood beside a preference
            'batch_size': 32,  # rows, or pairs, an update
            'micro': 0,  # rows whose gradients are made at a time; 0: all
            'updates': 1000,  # that the schedule is laid over
            'warmup': 0.03,  # share of them in which the learning rate rises
            'end': 0.1,  # share of the learning rate that is left at the end
            'beta1': 0.9,  # of Adam
            'beta2': 0.95,
            'weight_decay': 0.0,  # decoupled
            'clip': 1.0,  # most that the norm of the gradients may be
            'lora_rank': 0,  # of an adapter that is trained in place of the parameters; 0: none
        }
    )
