"""Tokens out of a decoder: a prompt is read once, and all its samples go on from there, a token at a time.

    tokens, lengths = padded(prompts, limit=room(config, 64))
    generated = generate(config, params, tokens, lengths, key, samples=4, max_tokens=64, stops=tokenizer.stops)

Keys and values of the prompts are read only, and shared by the samples; those of the tokens that are drawn stand in a
cache of fixed size, one for each layer, which the loop carries and writes in place. Layers are written out one after
the other there: a scan over them would copy weights and caches at every token. `unstack` cuts stacked parameters into
layers once, for who draws more than once from them.

Randomness belongs to prompt, sample and token, not to a place in a batch: a row draws what it would draw alone.
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
from core_jax.transformer import rules
from core_jax.transformer.config import Config
from core_jax.transformer.model import Decoder, Layer, Prefix, rotation

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits. temperature 0: the likeliest one."""

    temperature: float = 1.0
    top_k: int = 0  # among the k likeliest; 0: all
    top_p: float = 1.0  # among the fewest that have this much of the probability

    def __post_init__(self):
        if not (self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise UserError('temperature and top_k are at least 0, top_p lies above 0 and at most at 1')


@flax.struct.dataclass
class Generated:
    """B prompts, n samples of each. Behind a row's length stand zeros."""

    tokens: jax.Array  # [B, n, N], the one that ends a row included
    logps: jax.Array  # [B, n, N] of the model itself, whatever the sampling
    lengths: jax.Array  # [B, n]
    stopped: jax.Array  # [B, n] whether a row was ended by a stop, not by the limit


def unstack(params: PyTree) -> PyTree:
    """Parameters with a list of layers in place of stacked ones."""
    if isinstance(params['layers'], list):
        return params
    leaves, tree = jax.tree.flatten(params['layers'])
    return params | {'layers': [jax.tree.unflatten(tree, own) for own in zip(*leaves, strict=True)]}


def bucket(length: int, least: int = 32) -> int:
    """The power of two that a length is padded to, so that few shapes are compiled."""
    return max(least, 1 << max(length - 1, 0).bit_length())


def room(config: Config, max_tokens: int) -> int:
    """Tokens that a prompt can have in front of `max_tokens` that are drawn. Raises UserError where there is none."""
    if max_tokens < 1:
        raise UserError(f'max_tokens must be at least 1, got {max_tokens}')
    if max_tokens >= config.max_positions:
        raise UserError(
            f'max_tokens {max_tokens} leaves no room for a prompt: the model has {config.max_positions} positions'
        )
    return config.max_positions - max_tokens


def checked(prompts: Sequence[Sequence[int]], limit: int | None = None) -> np.ndarray:
    """Lengths [B] of prompts. Raises UserError where there is none, one is empty, or longer than `limit`."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    if not len(lengths) or lengths.min() < 1:
        raise UserError('a prompt has at least one token')
    if limit is not None and lengths.max() > limit:
        raise UserError(f'prompt {lengths.argmax()} has {lengths.max()} tokens, there is room for {limit}')
    return lengths


def padded(prompts: Sequence[Sequence[int]], limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [B, P], lengths [B]) of prompts of any lengths, P a `bucket` and at most `limit`.

    Raises UserError where one is empty, or longer than `limit`: for `generate`, what `room` says.
    """
    lengths = checked(prompts, limit)
    width = bucket(int(lengths.max()))
    tokens = np.zeros((len(lengths), width if limit is None else min(width, limit)), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens, lengths


def prefill(config: Config, params: PyTree, tokens: jax.Array, lengths: jax.Array) -> tuple[Prefix, jax.Array]:
    """(what prompts [B, P] leave behind, logits [B, V] of the token that follows each)."""
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    seen = places < lengths[:, None]
    if isinstance(params['layers'], list):
        outer, layer = _outer(config, params), Layer(config, keep=True)
        x, kept = outer(tokens, 'embed'), []
        for own in params['layers']:
            x, kv = layer.apply({'params': own}, x, None, rotation(config, places), seen.astype(jnp.int32), None)
            kept.append(kv)
        kv = tuple([pair[part] for pair in kept] for part in (0, 1))
        last = outer(_at(x, lengths - 1), 'last')
    else:
        model, variables = Decoder(config, keep=True), {'params': params}
        hidden, kv = model.apply(variables, tokens, places, seen.astype(jnp.int32))
        last = model.apply(variables, _at(hidden, lengths - 1), method='logits')
    return Prefix(kv, seen), last


def _outer(config: Config, params: PyTree):
    """The parts around the layers."""
    variables = {'params': {name: part for name, part in params.items() if name != 'layers'}}
    return lambda x, method: Decoder(config).apply(variables, x, method=method)


def _at(x: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, places[:, None, None], 1)[:, 0]


def generate(
    config: Config,
    params: PyTree,
    tokens: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    *,
    samples: int = 1,
    max_tokens: int = 128,
    stops: Sequence[int] = (),
    sampling: Sampling = Sampling(),  # noqa: B008  # frozen
) -> Generated:
    """Continues prompts [B, P] of these lengths [B]; to be jitted, all but params, tokens, lengths and key static.

    Raises UserError where P and `max_tokens` are more than the model's positions: `padded` keeps P within `room`.
    """
    if tokens.shape[1] > room(config, max_tokens):
        raise UserError(
            f'prompts of {tokens.shape[1]} places, padding included, and {max_tokens} tokens behind them are more than '
            f"the model's {config.max_positions} positions"
        )
    params = unstack(params)
    prefix, first = prefill(config, params, tokens, lengths)
    options = {'samples': samples, 'max_tokens': max_tokens, 'stops': stops, 'sampling': sampling}
    return decode(config, params, prefix, first, lengths, key, **options)


def decode(
    config: Config,
    params: PyTree,
    prefix: Prefix,
    first: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    *,
    samples: int,
    max_tokens: int,
    stops: Sequence[int],
    sampling: Sampling,
) -> Generated:
    """What `generate` draws behind prompts that `prefill` has read; parameters and prefix with lists of layers."""
    b, m = lengths.shape[0], lengths.shape[0] * samples
    outer, layer = _outer(config, params), Layer(config)
    keys = jax.vmap(
        lambda b: jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key, b), n))(jnp.arange(samples))
    )
    keys = keys(jnp.arange(b)).reshape(m)
    starts = jnp.repeat(lengths, samples)
    ends = jnp.asarray(stops or (-1,), jnp.int32)

    def drawn(logits, t, done):
        token, logp = draw(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, t), sampling)
        token, logp = jnp.where(done, 0, token), jnp.where(done, 0.0, logp)
        return token, logp, done | (token[:, None] == ends[None]).any(-1)

    def cell():
        shape = m, config.num_kv_heads, max_tokens, config.head_dim
        return tuple(rules.laid(jnp.zeros(shape, config.dtype), 'tensor', None, None) for _ in range(2))

    def going(carry):
        t, *_, done = carry[:5]
        return (t < max_tokens) & ~done.all()

    def one(carry):
        t, out, logps, lengths, done, caches = carry
        x = outer(jax.lax.dynamic_slice_in_dim(out, t - 1, 1, 1), 'embed')
        rope = rotation(config, (starts + t - 1)[:, None])
        sees = jnp.broadcast_to(jnp.arange(max_tokens) <= t - 1, (m, 1, max_tokens))
        new = []
        for i, (own, cache) in enumerate(zip(params['layers'], caches, strict=True)):
            before = prefix.kv[0][i], prefix.kv[1][i]
            x, cache = layer.apply({'params': own}, x, before, rope, prefix.seen, cache, t - 1, sees, method='step')
            new.append(cache)
        lengths = lengths + ~done
        token, logp, done = drawn(outer(x[:, 0], 'last'), t, done)
        out = jax.lax.dynamic_update_slice_in_dim(out, token[:, None], t, 1)
        logps = jax.lax.dynamic_update_slice_in_dim(logps, logp[:, None], t, 1)
        return t + 1, out, logps, lengths, done, new

    token, logp, done = drawn(jnp.repeat(first, samples, 0), 0, jnp.zeros(m, bool))
    out = jnp.zeros((m, max_tokens), jnp.int32).at[:, 0].set(token)
    logps = jnp.zeros((m, max_tokens)).at[:, 0].set(logp)
    carry = jnp.int32(1), out, logps, jnp.ones(m, jnp.int32), done, [cell() for _ in params['layers']]
    _, out, logps, lengths, done, _ = jax.lax.while_loop(going, one, carry)
    return jax.tree.map(lambda leaf: leaf.reshape(b, samples, *leaf.shape[1:]), Generated(out, logps, lengths, done))


def draw(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
    """(tokens [M], their log-probabilities [M] without temperature and cuts) by logits [M, V] and keys [M]."""
    if sampling.temperature == 0:
        token = jnp.argmax(logits, -1)
    else:
        scaled = logits / sampling.temperature
        if sampling.top_k:
            least = jax.lax.top_k(scaled, min(sampling.top_k, scaled.shape[-1]))[0][:, -1:]
            scaled = jnp.where(scaled >= least, scaled, -jnp.inf)
        if sampling.top_p < 1:
            ordered = -jnp.sort(-scaled, -1)
            chances = jax.nn.softmax(ordered, -1)
            kept = jnp.cumsum(chances, -1) - chances < sampling.top_p  # always the first
            least = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
            scaled = jnp.where(scaled >= least, scaled, -jnp.inf)
        token = jax.vmap(jax.random.categorical)(keys, scaled)
    logp = jnp.take_along_axis(logits, token[:, None], 1)[:, 0] - jax.nn.logsumexp(logits, -1)
    return token.astype(jnp.int32), logp
