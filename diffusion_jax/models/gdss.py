"""The networks of GDSS (arXiv 2202.02514), which denoises molecular graphs, and its weights in Flax.

A graph of N nodes is x [N, F], the nodes' features, and adjacency [N, N]; `flags` [N] says which nodes there are.

    NodeScore       x by a variance-preserving process: gives the noise (`gaussian.from_noise`)
    EdgeScore       adjacency by a variance-exploding one: gives the score (`gaussian.from_score`, signal 1)

The noise levels are `vp` and `ve`. Neither network is told the level. Modules have the names of the released code, so
that `convert` is a rule for names: `layers.0.attn.1.gnn_q.weight` is layers_0 / attn_1 / gnn_q / kernel. Only the
networks are here; a sampler of both at once is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.errors import UserError

PyTree = Any


class GraphConv(nn.Module):
    """x [B, N, I], adjacency [B, N, N] -> [B, N, features]: D^-1/2 (A with ones on its diagonal) D^-1/2 x W + b.

    Degrees are those of that matrix, at least 1: on the way, entries of A may be negative.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, adjacency: jax.Array) -> jax.Array:
        kernel = self.param('kernel', nn.initializers.xavier_uniform(), (x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        own = jnp.eye(adjacency.shape[-1])[None]
        adjacency = adjacency * (1 - own) + own
        scale = jnp.maximum(adjacency.sum(-1), 1.0) ** -0.5
        return scale[:, :, None] * adjacency * scale[:, None] @ (x @ kernel) + bias[None, None]


class ELUs(nn.Module):
    """Dense layers with ELU between them."""

    features: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.features):
            x = nn.Dense(width, name=f'linears_{i}')(x if i == 0 else nn.elu(x))
        return x


class GraphAttention(nn.Module):
    """x [B, N, I], adjacency [B, N, N] -> (values [B, N, O], attention [B, N, N], symmetric, the mean over heads)."""

    size: int
    features: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, adjacency: jax.Array) -> tuple[jax.Array, jax.Array]:
        def split(name: str) -> jax.Array:
            out = GraphConv(self.size, name=name)(x, adjacency)
            return out.reshape(*out.shape[:2], self.heads, -1)

        scores = jnp.einsum('bqhc,bkhc->bhqk', split('gnn_q'), split('gnn_k'))
        attention = jnp.tanh(scores / np.sqrt(self.features)).mean(1)
        return GraphConv(self.features, name='gnn_v')(x, adjacency), (attention + attention.mT) / 2


class EdgeLayer(nn.Module):
    """x [B, N, I], edges [B, N, N, C], flags [B, N] -> (x [B, N, features], edges [B, N, N, channels])."""

    size: int
    features: int
    channels: int
    linears: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, edges: jax.Array, flags: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = edges.shape[-1]
        hidden = 2 * max(count, self.channels)
        found = [
            GraphAttention(self.size, self.features, self.heads, name=f'attn_{i}')(x, edges[..., i])
            for i in range(count)
        ]
        values, attention = zip(*found, strict=True)
        x = ELUs((hidden, self.features), name='multi_channel')(jnp.concatenate(values, -1))
        edges = jnp.concatenate([jnp.stack(attention, -1), edges], -1)
        edges = ELUs((hidden,) * (self.linears - 1) + (self.channels,), name='mlp')(edges)
        return jnp.tanh(x * flags[..., None]), _present(edges + edges.swapaxes(1, 2), flags)


def _present(edges: jax.Array, flags: jax.Array) -> jax.Array:
    """Edges [B, N, N, C] between nodes that there are."""
    return edges * (flags[:, :, None] * flags[:, None])[..., None]


class NodeScore(nn.Module):
    """(x [B, N, F], adjacency [B, N, N], flags [B, N]) -> [B, N, F]. Sizes are those of the model of ZINC250k."""

    depth: int = 2
    hidden: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, adjacency: jax.Array, flags: jax.Array) -> jax.Array:
        seen = [x]
        for i in range(self.depth):
            seen.append(jnp.tanh(GraphConv(self.hidden, name=f'layers_{i}')(seen[-1], adjacency)))
        together = jnp.concatenate(seen, -1)
        width = 2 * together.shape[-1]
        return ELUs((width, width, x.shape[-1]), name='final')(together) * flags[..., None]


class EdgeScore(nn.Module):
    """(x [B, N, F], adjacency [B, N, N], flags [B, N]) -> [B, N, N]. Sizes are those of the model of ZINC250k."""

    layers: int = 6
    hidden: int = 16
    attention: int = 16
    linears: int = 3
    first: int = 2  # powers of the adjacency that are its channels in the beginning
    inner: int = 8  # channels of edges on the way
    last: int = 4
    heads: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, adjacency: jax.Array, flags: jax.Array) -> jax.Array:
        powers = [adjacency]
        for _ in range(self.first - 1):
            powers.append(powers[-1] @ adjacency)
        edges = jnp.stack(powers, -1)
        seen = [edges]
        for i in range(self.layers):
            size = self.hidden if i == 0 else self.attention
            channels = self.last if i == self.layers - 1 else self.inner
            layer = EdgeLayer(size, self.hidden, channels, self.linears, self.heads, name=f'layers_{i}')
            x, edges = layer(x, edges, flags)
            seen.append(edges)
        together = jnp.concatenate(seen, -1)
        width = 2 * together.shape[-1]
        score = _present(ELUs((width, width, 1), name='final')(together), flags)[..., 0]
        return score * (1 - jnp.eye(adjacency.shape[-1]))[None]


# Noise levels of the released model: t runs from 1 (noise) to 0


def vp(t: np.ndarray, first: float = 0.1, last: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(signal, sigma) of the nodes at times t, with beta on a line from `first` to `last`."""
    signal = np.exp(-0.25 * t**2 * (last - first) - 0.5 * t * first)
    return signal, np.sqrt(1 - signal**2)


def ve(t: np.ndarray, least: float = 0.2, most: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(signal, sigma) of the adjacency at times t. At t = 0 there is noise left, `least`."""
    return np.ones_like(t), least * (most / least) ** t


# Weights


def convert(state: Mapping[str, np.ndarray], structure: PyTree) -> PyTree:
    """A PyTorch state_dict as parameters of NodeScore or EdgeScore, whose shapes `structure` gives.

    Raises UserError where names or shapes do not fit.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(structure)
    found = {_flax_name(name): np.asarray(array) for name, array in state.items()}
    wanted = {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}
    if missing := sorted(set(wanted) ^ set(found)):
        where = 'the weights lack' if missing[0] in wanted else 'the network has no'
        raise UserError(f'{where} {"/".join(missing[0])} (and {len(missing) - 1} more names differ)')
    arrays = []
    for name, shape in wanted.items():
        # A dense layer's weight is [out, in] in PyTorch; that of GDSS's graph convolution is [in, out] already.
        array = found[name].T if name[-2].startswith('linears_') else found[name]
        if array.shape != shape:
            raise UserError(f'{"/".join(name)} has shape {array.shape}; it should have {shape}')
        arrays.append(jnp.asarray(array, jnp.float32))
    return jax.tree.unflatten(tree, arrays)


def averaged(state: Mapping[str, np.ndarray], shadow: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """A state_dict with the moving averages that a checkpoint lists (`ema_x`, `ema_adj`), in the order of its names.

    All entries of these networks are parameters, so none is left out of the list. Raises UserError.
    """
    if len(state) != len(shadow):
        raise UserError(f'{len(shadow)} moving averages for {len(state)} parameters')
    return dict(zip(state, shadow, strict=True))


def _flax_name(name: str) -> tuple[str, ...]:
    """'module.layers.0.attn.1.gnn_q.weight' -> ('params', 'layers_0', 'attn_1', 'gnn_q', 'kernel')."""
    parts: list[str] = ['params']
    for part in name.removeprefix('module.').split('.'):
        if part.isdigit():
            parts[-1] += f'_{part}'
        else:
            parts.append({'weight': 'kernel'}.get(part, part))
    return tuple(parts)
