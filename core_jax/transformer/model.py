"""A decoder of the Llama family (Llama 3, Qwen2.5, Qwen3, SmolLM2), in flax.linen.

    x = embed(tokens)
    a layer:  x += o_proj(attention(rope(q), rope(k), v)),  q, k, v = projections of RMSNorm(x)
              x += down_proj(silu(gate_proj(h)) * up_proj(h)),  h = RMSNorm(x)
    logits = RMSNorm(x) @ head

Numbers follow the reference implementation, Hugging Face's transformers: RMSNorm and softmax in float32 and cast back
before the weight, rotations by halves of a head, not by pairs. Parameters are one nested dict with Hugging Face's
names, those of the layers stacked along a leading axis [L].

What a query may see is said once, by segments and places: key k is seen by query q where they are of the same segment
and k does not stand behind q. Segment 0 is padding. `Prefix` holds keys and values that stand before: many
continuations of one prompt share them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from core_jax import sharding
from core_jax.transformer import rules
from core_jax.transformer.config import Config

PyTree = Any
Kv = tuple[jax.Array, jax.Array]  # keys, values, each [B, KV, S, d]: heads first, as products ask for them


@flax.struct.dataclass
class Prefix:
    """What stands before B prompts: keys and values, each [L, B, KV, S, d], of which `seen` [B, S] are real.

    `seen` [M, S] says it for each of the M rows that come after, where they do not stand behind the same tokens.
    """

    kv: Kv
    seen: jax.Array


# Rotary positions


def frequencies(config: Config) -> np.ndarray:
    """Radians a position [d / 2], float32."""
    powers = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    turns = (1.0 / np.float32(config.rope_theta) ** powers).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return turns
    waves = 2 * np.pi / turns
    share = np.clip((scaling.original / waves - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return ((1 - share) * turns / scaling.factor + share * turns).astype(np.float32)


def rotation(config: Config, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(cos, sin) [..., d / 2] of positions [...], float32."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)[(None,) * positions.ndim]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns heads x [B, T, H, d], of which number i and i + d / 2 are a pair."""
    cos, sin = (part[:, :, None].astype(x.dtype) for part in rope)
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


# Attention


def attention(q: jax.Array, own: Kv, sees: jax.Array, prefix: Kv | None = None, seen: jax.Array | None = None):
    """Heads [M, T, H, d] of queries q [M, T, H, d]; each of the KV heads of keys serves H / KV of them.

    own: keys and values [M, KV, S, d] of the rows themselves, of which query t of row m sees `sees` [M, T, S].
    prefix: those [B, KV, P, d] that stand before, shared by M / B rows each, of which `seen` [B, P] or [M, P] are real.

    A query that sees nothing (padding) gets zeros, and no NaN.
    """
    (m, t, h, d), kv = q.shape, own[0].shape[1]
    q = (q * jnp.asarray(d**-0.5, q.dtype)).reshape(m, t, kv, h // kv, d).transpose(0, 2, 3, 1, 4)
    parts = [(*own, sees[:, None, None])]
    if prefix is not None:
        seen = jnp.repeat(seen, m // len(seen), 0)
        parts.append((*prefix, seen[:, None, None, None]))
    scores = []
    for keys, _, mask in parts:
        products = jnp.einsum('bkqd,bksd->bkqs', _gathered(q, keys), keys, preferred_element_type=jnp.float32)
        scores.append(jnp.where(mask, _apart(products, q), -jnp.inf))
    top = functools.reduce(jnp.maximum, [part.max(-1, keepdims=True) for part in scores])
    top = jnp.maximum(jax.lax.stop_gradient(top), jnp.finfo(jnp.float32).min)
    weights = [jnp.exp(part - top) for part in scores]
    total = sum((part.sum(-1, keepdims=True) for part in weights), jnp.finfo(jnp.float32).tiny)
    heads = 0.0
    for (_, values, _), part in zip(parts, weights, strict=True):
        # Divided here and not after the sums, which the gradient would then have to make again.
        asked = _gathered((part / total).astype(q.dtype), values)
        sums = jnp.einsum('bkqs,bksd->bkqd', asked, values, preferred_element_type=jnp.float32)
        heads = heads + _apart(sums, q)
    return heads.astype(q.dtype).transpose(0, 3, 1, 2, 4).reshape(m, t, h, d)


def _gathered(x: jax.Array, keys: jax.Array) -> jax.Array:
    """[M, KV, G, T, e] as [B, KV, M / B G T, e]: all rows that stand behind one of B prompts ask it at once."""
    b = len(keys)
    return jnp.moveaxis(x.reshape(b, -1, *x.shape[1:]), 1, 2).reshape(b, x.shape[1], -1, x.shape[-1])


def _apart(x: jax.Array, like: jax.Array) -> jax.Array:
    """What `_gathered` was given: [M, KV, G, T, e], with M to T those of `like`."""
    m, kv, g, t, _ = like.shape
    rows = jnp.moveaxis(x.reshape(len(x), kv, m // len(x), g, t, x.shape[-1]), 2, 1)
    return rows.reshape(m, kv, g, t, x.shape[-1])


def causal(segments: jax.Array, queries: jax.Array) -> jax.Array:
    """[B, Q, T] which places the queries at places [Q] see, where segments [B, T] are numbered and 0 is padding."""
    asked = segments[:, queries]
    same = (asked[:, :, None] == segments[:, None]) & (asked[:, :, None] != 0)
    return same & (jnp.arange(segments.shape[1])[None] <= queries[:, None])[None]


def attend(config: Config, q: jax.Array, own: Kv, segments: jax.Array, prefix: Kv | None, seen) -> jax.Array:
    """`attention` of a whole sequence [B, T], some queries at a time, whose scores the backward pass makes again."""
    length = q.shape[1]
    if length <= config.query_block:
        return attention(q, own, causal(segments, jnp.arange(length)), prefix, seen)
    count, block = equal_parts(length, config.query_block)
    q = lengthened(q, count * block)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def some(first):
        part = jax.lax.dynamic_slice_in_dim(q, first, block, 1)
        places = jnp.minimum(first + jnp.arange(block), length - 1)
        return attention(part, own, causal(segments, places), prefix, seen)

    heads = jax.lax.map(some, block * jnp.arange(count))  # [count, B, block, H, d]
    return jnp.moveaxis(heads, 0, 1).reshape(q.shape)[:, :length]


def equal_parts(length: int, most: int) -> tuple[int, int]:
    """(count, size) of equal parts of at most `most` places that a row of `length` is cut into, and a few more."""
    count = -(-length // most)
    return count, min(most, -(-length // (8 * count)) * 8)  # memory comes in tiles of eight


def lengthened(x: jax.Array, length: int) -> jax.Array:
    """[B, T, ...] with zeros behind, up to this length."""
    return jnp.pad(x, [(0, length - x.shape[1] if axis == 1 else 0) for axis in range(x.ndim)])


# Modules


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times weight."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param('weight', nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * _as_last(weight, x)


class Projection(nn.Module):
    """The last `taken` axes of x onto axes `shape`: kernel [*axes, *shape], bias [*shape].

    An adapter of this projection in the collection `lora`, a [*axes, r] and b [r, *shape], adds x a b `alpha` / r.
    """

    shape: tuple[int, ...]
    taken: int = 1
    bias: bool = False
    alpha: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.shape[-self.taken :]
        kernel = self.param('kernel', nn.initializers.normal(0.02), (*axes, *self.shape))
        kernel = rules.gathered('/'.join((*self.path, 'kernel')), kernel.astype(x.dtype))
        # Matrices, not tensors: XLA's CPU backend takes twice as long for the gradients of a product of tensors.
        size, rows = math.prod(axes), x.shape[: -self.taken]
        flat = x.reshape(-1, size)
        y = flat @ kernel.reshape(size, -1)
        if self.has_variable('lora', 'a'):
            a, b = (self.get_variable('lora', part).astype(x.dtype) for part in 'ab')
            rank = a.shape[-1]
            low = flat @ a.reshape(size, rank) * jnp.asarray(self.alpha / rank, x.dtype)
            y = y + low @ b.reshape(rank, -1)
        y = y.reshape(*rows, *self.shape)
        return y + _as_last(self.param('bias', nn.initializers.zeros, self.shape), y) if self.bias else y


def _as_last(weight: jax.Array, x: jax.Array) -> jax.Array:
    """A weight in the type of x, for its last axes."""
    return weight.astype(x.dtype).reshape((1,) * (x.ndim - weight.ndim) + weight.shape)


class Attention(nn.Module):
    """Queries, keys and values of a sequence, and what becomes of the heads."""

    config: Config

    def setup(self):
        c = self.config
        own = {'bias': c.qkv_bias, 'alpha': c.lora_alpha}
        self.q_proj = Projection((c.num_heads, c.head_dim), **own)
        self.k_proj = Projection((c.num_kv_heads, c.head_dim), **own)
        self.v_proj = Projection((c.num_kv_heads, c.head_dim), **own)
        self.o_proj = Projection((c.hidden_size,), taken=2, alpha=c.lora_alpha)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(c.rms_eps), RMSNorm(c.rms_eps)

    def project(self, x: jax.Array, rope) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, T, D] -> q [B, T, H, d], k, v [B, KV, T, d], turned to their positions."""
        q, k, v = (rules.laid(part(x), None, 'tensor', None) for part in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, rope), rotate(k, rope).swapaxes(1, 2), v.swapaxes(1, 2)

    def combine(self, heads: jax.Array) -> jax.Array:
        """[B, T, H, d] -> [B, T, D]."""
        return self.o_proj(heads)


class MLP(nn.Module):
    config: Config

    def setup(self):
        c = self.config
        self.gate_proj = Projection((c.intermediate_size,), alpha=c.lora_alpha)
        self.up_proj = Projection((c.intermediate_size,), alpha=c.lora_alpha)
        self.down_proj = Projection((c.hidden_size,), alpha=c.lora_alpha)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = (rules.laid(part(x), None, 'tensor') for part in (self.gate_proj, self.up_proj))
        return self.down_proj(nn.silu(gate) * up)


class Layer(nn.Module):
    """One layer. Called, it is the body of the scan over layers; `step` is the same for a token of a row with a cache.

    keep: whether a call returns its keys and values.
    """

    config: Config
    keep: bool = False

    def setup(self):
        self.input_layernorm, self.self_attn = RMSNorm(self.config.rms_eps), Attention(self.config)
        self.post_attention_layernorm, self.mlp = RMSNorm(self.config.rms_eps), MLP(self.config)

    def __call__(self, x: jax.Array, before: Kv | None, rope, segments: jax.Array, seen: jax.Array | None):
        """(x [B, T, D], keys and values). before: of this layer, what stands in front."""
        q, k, v = self.self_attn.project(self.input_layernorm(x), rope)
        heads = attend(self.config, q, (k, v), segments, before, seen)
        return self._rest(x, heads), (k, v) if self.keep else None

    def step(self, x: jax.Array, before: Kv, rope, seen: jax.Array, cache: Kv, at: jax.Array, sees: jax.Array):
        """(x [M, 1, D], the cache [M, KV, S, d] with this token at place `at`). sees: [M, 1, S]."""
        q, k, v = self.self_attn.project(self.input_layernorm(x), rope)
        cache = tuple(
            jax.lax.dynamic_update_slice_in_dim(old, new, at, 2) for old, new in zip(cache, (k, v), strict=True)
        )
        return self._rest(x, attention(q, cache, sees, before, seen)), cache

    def _rest(self, x: jax.Array, heads: jax.Array) -> jax.Array:
        x = x + rules.laid(self.self_attn.combine(heads))
        return x + rules.laid(self.mlp(self.post_attention_layernorm(x)))


def lookup(table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows [B, T, D] of a table [V, D] in type `dtype`.

    Under `jax.set_mesh` every device looks up the tokens of all along `fsdp` in its columns, and columns change places
    with rows: the table is never gathered, nor is its gradient. Along `tensor` each has a part of the vocabulary.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jnp.take(table, tokens, axis=0).astype(dtype)
    divided = tokens.shape[0] % (mesh.shape['data'] * mesh.shape['fsdp']) == 0
    sides = sharding.fit(table.shape, P('tensor', 'fsdp' if divided else None), mesh)

    def own(table, tokens):
        if sides[1]:
            tokens = jax.lax.all_gather(tokens, 'fsdp', axis=0, tiled=True)
        if sides[0]:
            tokens = tokens - jax.lax.axis_index('tensor') * table.shape[0]
        here = (tokens >= 0) & (tokens < table.shape[0])
        x = jnp.where(here[..., None], jnp.take(table, jnp.where(here, tokens, 0), axis=0), 0).astype(dtype)
        if sides[0]:
            x = jax.lax.psum(x, 'tensor')
        return jax.lax.all_to_all(x, 'fsdp', 0, 2, tiled=True) if sides[1] else x

    rows = P(rules.BATCH) if divided else P()
    return jax.shard_map(own, in_specs=(sides, rows), out_specs=rows)(table, tokens)


class Head(nn.Module):
    """Hidden states [..., D] -> logits [..., V], where the head is not the embedding."""

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', nn.initializers.normal(0.02), (x.shape[-1], self.size))
        return x @ rules.gathered('lm_head/kernel', kernel.astype(x.dtype))


class Decoder(nn.Module):
    """tokens [B, T] -> hidden states [B, T, D] after the last norm; `logits` makes [B, T, V] of them.

    keep: whether a call returns keys and values, too.
    """

    config: Config
    keep: bool = False

    def setup(self):
        c = self.config
        self.embed_tokens = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=nn.initializers.normal(0.02))
        body = Layer
        if c.remat != 'none':
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if c.remat == 'dots' else None
            body = nn.remat(Layer, policy=policy, prevent_cse=False)
        every = nn.broadcast
        self.layers = nn.scan(
            body,
            variable_axes={'params': 0, 'lora': 0},
            split_rngs={'params': True},
            in_axes=(0, every, every, every),
            length=c.num_layers,
            unroll=c.unroll,
        )(c, self.keep)
        self.norm = RMSNorm(c.rms_eps)
        if not c.tie_embeddings:
            self.lm_head = Head(c.vocab_size)

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array, prefix: Prefix | None = None
    ) -> tuple[jax.Array, Kv | None]:
        """(hidden [B, T, D], keys and values [L, B, KV, T, d] or None).

        positions [B, T] decide the rotation, segments [B, T] what is seen: 0 is padding. Rows that come after a prefix
        of b rows are B / b for each of them, in its order.
        """
        before, seen = (None, None) if prefix is None else (prefix.kv, prefix.seen)
        x, kept = self.layers(self.embed(tokens), before, rotation(self.config, positions), segments, seen)
        if self.is_initializing() and not self.config.tie_embeddings:
            self.lm_head(x)
        return self.norm(x), kept

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, T] -> [B, T, D]."""
        return lookup(self.embed_tokens.embedding, tokens, self.config.dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., V], float32."""
        if not self.config.tie_embeddings:
            return self.lm_head(hidden).astype(jnp.float32)
        table = self.embed_tokens.embedding.astype(hidden.dtype)
        return jnp.einsum('...d,vd->...v', hidden, table).astype(jnp.float32)

    def last(self, x: jax.Array) -> jax.Array:
        """What the layers end with [..., D] -> logits [..., V], float32."""
        return self.logits(self.norm(x))


def init(config: Config, key: jax.Array) -> PyTree:
    """Random parameters, as published: normal, 0.02."""
    token = jnp.zeros((1, 1), jnp.int32)
    return Decoder(config).init(key, token, token, token + 1)['params']


def logits(config: Config, params: PyTree, tokens: jax.Array, positions=None, segments=None) -> jax.Array:
    """[B, T, V] of whole sequences [B, T]; positions count from 0 and nothing is padding, where they are not given."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape) if positions is None else positions
    segments = jnp.ones_like(tokens) if segments is None else segments
    model, variables = Decoder(config), {'params': params}
    return model.apply(variables, model.apply(variables, tokens, positions, segments)[0], method='logits')
