"""What language models are trained by: log-probabilities of tokens, sums of them by turn, likelihood and preferences.

    token_logps        log p(token t | tokens before it), the vocabulary in parts where it is divided among devices
    branch_logps       the same of many continuations of one sequence, which is read once
    reduce             a number a row: sums, means over tokens, sums over turns of means over tokens (SWEET-RL)
    preference_loss    DPO (2305.18290), conservative DPO, IPO (2310.12036), SimPO (2405.14734)
    likelihood_loss    supervised fine-tuning

Three arrays say three things, and none is made from another: `segments` which tokens are real and of one piece,
`mask` which tokens the loss is about, `turns` whose turn a token belongs to (-1: nobody's).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from core_jax import sharding
from core_jax.errors import UserError, unknown
from core_jax.transformer import rules
from core_jax.transformer.config import Config
from core_jax.transformer.model import Decoder, Prefix, equal_parts, lengthened

PyTree = Any
REDUCTIONS = ('sum', 'token_mean', 'turn_mean_sum', 'turn_mean_mean')
PREFERENCES = ('dpo', 'cdpo', 'ipo', 'simpo')
CHUNK = 512  # tokens of a row whose logits exist at a time; of so few in all they are kept


def token_logps(
    config: Config,
    params: PyTree,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    adapter: PyTree | None = None,
    prefix: Prefix | None = None,
) -> jax.Array:
    """log p of each token [B, T], float32; zero for the first of each segment, which nothing precedes, and padding.

    With a prefix, the first token of a row is still zero: begin a row with the last token of what stands before.
    """
    variables = {'params': params} | ({} if adapter is None else {'lora': adapter})
    hidden, _ = Decoder(config).apply(variables, tokens, positions, segments, prefix)
    labels = jnp.roll(tokens, -1, 1)
    table = params['embed_tokens']['embedding'].T if config.tie_embeddings else params['lm_head']['kernel']
    logps = jnp.roll(label_logps(hidden, table, labels), 1, 1)
    follows = (segments == jnp.roll(segments, 1, 1)) & (segments != 0)
    return jnp.where(follows.at[:, 0].set(False), logps, 0.0)


def branch_logps(
    config: Config, params: PyTree, branches: dict[str, jax.Array], *, adapter: PyTree | None = None
) -> jax.Array:
    """log p of each token [B, M, C] of M branches of each of B stems; gradients go through the stems, too.

    branches: `stem` [B, P] with `length` [B] real tokens; how many of them stand before each branch, `after` [B, M];
    `tokens` and `segments` [B, M, C], which begin with the token of the stem behind those, itself not scored.
    """
    stems, lengths, after = (branches[name] for name in ('stem', 'length', 'after'))
    variables = {'params': params} | ({} if adapter is None else {'lora': adapter})
    places = jnp.broadcast_to(jnp.arange(stems.shape[1]), stems.shape)
    own = (places < lengths[:, None]).astype(jnp.int32)
    _, kv = Decoder(config, keep=True).apply(variables, stems, places, own)
    b, m, c = branches['tokens'].shape
    prefix = Prefix(kv, (places[:, None] < after[..., None]).reshape(b * m, -1))
    tokens, segments = (branches[name].reshape(b * m, c) for name in ('tokens', 'segments'))
    positions = after.reshape(b * m, 1) + jnp.arange(c)[None]
    return token_logps(config, params, tokens, positions, segments, adapter=adapter, prefix=prefix).reshape(b, m, c)


def label_logps(hidden: jax.Array, table: jax.Array, labels: jax.Array) -> jax.Array:
    """log softmax(hidden @ table) [B, T] at labels [B, T], of hidden [B, T, D] and a head [D, V].

    Under `jax.set_mesh` every device makes the logits of its rows and, where a `tensor` axis divides V, of its part of
    the vocabulary, of which maxima and sums are all that is exchanged. Logits of `CHUNK` tokens exist at a time, and
    are made again for the gradient.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _chunked(functools.partial(_logps, None), hidden, table, labels)
    divided = hidden.shape[0] % (mesh.shape['data'] * mesh.shape['fsdp']) == 0
    rows = P(rules.BATCH) if divided else P()
    sides = sharding.fit(table.shape, P('fsdp' if divided else None, 'tensor'), mesh)

    def own(hidden, table, labels):
        if sides[0]:  # here, and not by the specs: the gradient of this is a sum of which each device gets its part
            table = jax.lax.all_gather(table, 'fsdp', axis=0, tiled=True)
        if divided:  # before the chunks, so that gradients are added up over devices once, after them
            table = jax.lax.pcast(table, 'data' if sides[0] else rules.BATCH, to='varying')
        return _chunked(functools.partial(_logps, sides[1]), hidden, table, labels)

    return jax.shard_map(own, in_specs=(rows, sides, rows), out_specs=rows)(hidden, table, labels)


def _chunked(logps, hidden: jax.Array, table: jax.Array, labels: jax.Array) -> jax.Array:
    """`logps` of some columns of [B, T] at a time."""
    length = labels.shape[1]
    if labels.size <= CHUNK:  # so few that their logits may stay for the gradient
        return logps(hidden, table, labels)
    if length <= CHUNK:
        return jax.checkpoint(logps)(hidden, table, labels)
    count, size = equal_parts(length, CHUNK)

    def columns(x):
        return jnp.moveaxis(lengthened(x, count * size).reshape(len(x), count, size, *x.shape[2:]), 1, 0)

    inner = jax.checkpoint(lambda part: logps(part[0], table, part[1]), prevent_cse=False)
    found = jnp.moveaxis(jax.lax.map(inner, (columns(hidden), columns(labels))), 0, 1)
    return found.reshape(len(labels), -1)[:, :length]


def _logps(axis: str | None, hidden: jax.Array, table: jax.Array, labels: jax.Array) -> jax.Array:
    logits = (hidden @ table.astype(hidden.dtype)).astype(jnp.float32)
    top = jax.lax.stop_gradient(logits.max(-1))
    if axis is None:
        total = jnp.exp(logits - top[..., None]).sum(-1)
        return jnp.take_along_axis(logits, labels[..., None], -1)[..., 0] - top - jnp.log(total)
    top = jax.lax.pmax(top, axis)
    total = jax.lax.psum(jnp.exp(logits - top[..., None]).sum(-1), axis)
    own = labels - jax.lax.axis_index(axis) * table.shape[1]
    here = (own >= 0) & (own < table.shape[1])
    found = jnp.take_along_axis(logits, jnp.where(here, own, 0)[..., None], -1)[..., 0]
    return jax.lax.psum(jnp.where(here, found, 0.0), axis) - top - jnp.log(total)


def reduce(logps: jax.Array, mask: jax.Array, turns: jax.Array, how: str, count: int = 0) -> jax.Array:
    """[B] of log-probabilities [B, T] at the tokens of `mask`.

    turns [B, T] number the turns from 0, -1 elsewhere; count: how many there may be, for the reductions over turns.
    Turns without a token count as none.

    Raises UserError for an unknown reduction, or one over turns without their count.
    """
    weight = mask.astype(logps.dtype)
    if how == 'sum':
        return (logps * weight).sum(1)
    if how == 'token_mean':
        return (logps * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    if how not in REDUCTIONS:
        raise unknown('reduction', how, REDUCTIONS)
    if count < 1:
        raise UserError(f'{how} needs the number of turns')
    means, sizes = turn_means(logps, mask, turns, count)
    total = means.sum(1)
    return total if how == 'turn_mean_sum' else total / jnp.maximum((sizes > 0).sum(1), 1)


def turn_means(logps: jax.Array, mask: jax.Array, turns: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """(mean log-probability of each turn [B, count], its tokens [B, count])."""
    belongs = (turns[..., None] == jnp.arange(count)[None, None]) & (mask.astype(bool))[..., None]
    sizes = belongs.sum(1)
    return jnp.where(belongs, logps[..., None], 0.0).sum(1) / jnp.maximum(sizes, 1), sizes


def preference_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float,
    kind: str = 'dpo',
    smoothing: float = 0.0,
    gamma: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """(loss [B], margin [B]) of reduced log-probabilities [B] under the policy and its reference.

        margin = beta ((chosen - reference_chosen) - (rejected - reference_rejected))
        dpo    - log sigmoid(margin)
        cdpo   - (1 - smoothing) log sigmoid(margin) - smoothing log sigmoid(-margin)
        ipo    (margin / beta - 1 / (2 beta))^2
        simpo  - log sigmoid(margin - gamma), with no reference; log-probabilities are token means

    Raises UserError for an unknown kind.
    """
    if kind not in PREFERENCES:
        raise unknown('preference loss', kind, PREFERENCES)
    margin = chosen - rejected if kind == 'simpo' else (chosen - reference_chosen) - (rejected - reference_rejected)
    if kind == 'ipo':
        return (margin - 1 / (2 * beta)) ** 2, beta * margin
    margin = beta * margin
    if kind == 'cdpo':
        log_sigmoid = jax.nn.log_sigmoid
        return -(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin), margin
    return -jax.nn.log_sigmoid(margin - (gamma if kind == 'simpo' else 0.0)), margin


def likelihood_loss(logps: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean negative log-probability of the tokens of `mask` [B, T], over the whole batch."""
    weight = mask.astype(logps.dtype)
    return -(logps * weight).sum() / jnp.maximum(weight.sum(), 1)
