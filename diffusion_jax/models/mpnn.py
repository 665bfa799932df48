"""ProteinMPNN as a masked model of sequences that fold to a backbone (Dauparas et al., Science 378:49, 2022).

A residue is a node; it has an edge to each of the K residues whose C-alpha lie closest. The encoder makes features of
nodes and edges from the backbone alone. The decoder then looks at tokens, each residue at those of its neighbours that
were decoded before it: the network was trained on all orders, so it gives

    p(s_i | tokens that are revealed, backbone)      for any set of them

and is a denoiser of order-agnostic diffusion. Here revealed residues count as decoded in the order of the chain, and
before all masked ones, so that one pass serves every masked residue. What depends on the backbone alone is computed
once (`Conditions`). The first layer of a message, W1 [h_i, e_ij, s_j, h_j], is kept as one matrix for each of these
parts, so that only sums run over edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.errors import UserError
from diffusion_jax.models import masked
from diffusion_jax.models.masked_learner import bound
from diffusion_jax.models.networks import one_hot
from diffusion_jax.process import Process

ALPHABET = 'ACDEFGHIKLMNPQRSTVWYX'  # of the weights; X, unknown, is never drawn
LETTERS = 20
HIDDEN = 128
LAYERS = 3
NEIGHBOURS = 48
SCALE = 30.0  # what sums of messages are divided by
CLOSE, FAR, RADII = 2.0, 22.0, 16  # centres of the radial basis functions of distances, in angstrom
REACH = 32  # offsets along the chain that are told apart

# Pairs of atoms, of a residue and of its neighbour, in the order of the weights. Atoms: N, CA, C, O, virtual CB.
PAIRS = np.array(
    [
        *[(1, 1), (0, 0), (2, 2), (3, 3), (4, 4), (1, 0), (1, 2), (1, 3), (1, 4), (0, 2), (0, 3), (0, 4), (4, 2)],
        *[(4, 3), (3, 2), (0, 1), (2, 1), (3, 1), (4, 1), (2, 0), (3, 0), (4, 0), (2, 4), (3, 4), (2, 3)],
    ]
)


def _gelu(x: jax.Array) -> jax.Array:
    return nn.gelu(x, approximate=False)


def _norm() -> nn.Module:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)


class Message(nn.Module):
    """Of each edge: gelu(W2 gelu(W1 [h_i, e_ij, ...])) [L, K, H], before the last layer, W3, which is linear."""

    parts: tuple[str, ...]  # what else W1 sees, beside the node itself, whose part has the bias

    def setup(self):
        self.own = nn.Dense(HIDDEN)
        self.of = {part: nn.Dense(HIDDEN, use_bias=False) for part in self.parts}
        self.middle = nn.Dense(HIDDEN)
        self.last = nn.Dense(HIDDEN)

    def __call__(self, nodes: jax.Array, rest: jax.Array) -> jax.Array:
        """nodes [L, H]; rest [L, K, H], the other parts of W1's output."""
        return _gelu(self.middle(_gelu(self.own(nodes)[:, None] + rest)))


class FeedForward(nn.Module):
    """[..., H] -> [..., H] through a layer four times as wide."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(HIDDEN, name='out')(_gelu(nn.Dense(4 * HIDDEN, name='in')(x)))


def _summed(message: Message, messages: jax.Array) -> jax.Array:
    """The last layer of the messages, summed over edges: W3 is linear, so it is applied to their mean."""
    return message.last(messages.mean(1)) * (messages.shape[1] / SCALE)


class EncoderLayer(nn.Module):
    """Nodes take messages of their edges, then edges one of their nodes."""

    def setup(self):
        self.to_nodes, self.to_edges = Message(('edge', 'other')), Message(('edge', 'other'))
        self.feed_forward = FeedForward()
        self.norm1, self.norm2, self.norm3 = _norm(), _norm(), _norm()

    def __call__(self, nodes: jax.Array, edges: jax.Array, neighbours: jax.Array) -> tuple[jax.Array, jax.Array]:
        def messages(message, nodes):
            return message(nodes, message.of['edge'](edges) + message.of['other'](nodes)[neighbours])

        nodes = self.norm1(nodes + _summed(self.to_nodes, messages(self.to_nodes, nodes)))
        nodes = self.norm2(nodes + self.feed_forward(nodes))
        return nodes, self.norm3(edges + self.to_edges.last(messages(self.to_edges, nodes)))


class DecoderLayer(nn.Module):
    """Nodes take messages of edges whose other end's token is known, or not yet."""

    def setup(self):
        self.message = Message(('edge', 'token', 'other'))
        self.feed_forward = FeedForward()
        self.norm1, self.norm2 = _norm(), _norm()

    def prepare(self, nodes: jax.Array, edges: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The parts of W1's output that no token changes: of edges [L, K, H], of neighbours not yet decoded [L, H]."""
        return self.message.of['edge'](edges), self.message.of['other'](nodes)

    def __call__(self, nodes, tokens, neighbours, visible, prepared) -> jax.Array:
        """nodes, tokens [L, H] (embedded); visible [L, K]: whether the neighbour was decoded before."""
        of_edges, unseen = prepared
        seen = self.message.of['token'](tokens) + self.message.of['other'](nodes)
        rest = of_edges + jnp.where(visible[..., None], seen[neighbours], unseen[neighbours])
        nodes = self.norm1(nodes + _summed(self.message, self.message(nodes, rest)))
        return self.norm2(nodes + self.feed_forward(nodes))


@flax.struct.dataclass
class Conditions:
    """What the decoder needs of a backbone of L residues."""

    nodes: jax.Array  # [L, H]
    neighbours: jax.Array  # [L, K] int32
    prepared: tuple  # for each layer of the decoder ([L, K, H], [L, H])


class ProteinMPNN(nn.Module):
    """1,660,485 parameters. `encode` once a backbone, `decode` for each sequence."""

    def setup(self):
        self.offsets = nn.Dense(RADII)
        self.edge_embedding = nn.Dense(HIDDEN, use_bias=False)
        self.edge_norm = _norm()
        self.edge_input = nn.Dense(HIDDEN)
        self.encoder = [EncoderLayer() for _ in range(LAYERS)]
        self.embedding = nn.Embed(len(ALPHABET), HIDDEN)
        self.decoder = [DecoderLayer() for _ in range(LAYERS)]
        self.output = nn.Dense(len(ALPHABET))

    def __call__(self, coordinates: jax.Array, residues: jax.Array, chains: jax.Array, tokens: jax.Array) -> jax.Array:
        """Logits [L, 21] of a backbone and partly masked tokens, one-hot [L, 21], where 20 is the mask."""
        return self.decode(self.encode(coordinates, residues, chains), tokens, revealed_first(tokens))

    def encode(self, coordinates: jax.Array, residues: jax.Array, chains: jax.Array) -> Conditions:
        """coordinates [L, 4, 3] of N, CA, C, O in angstrom; numbers along the chain [L] int, chains [L] int."""
        edges, neighbours = self._edges(coordinates, residues, chains)
        edges = self.edge_input(edges)
        nodes = jnp.zeros((coordinates.shape[0], HIDDEN))
        for layer in self.encoder:
            nodes, edges = layer(nodes, edges, neighbours)
        return Conditions(nodes, neighbours, tuple(layer.prepare(nodes, edges) for layer in self.decoder))

    def decode(self, conditions: Conditions, tokens: jax.Array, rank: jax.Array) -> jax.Array:
        """Logits [L, 21] for one-hot tokens [L, 20 or 21], of which a residue sees those of a lower `rank` [L]."""
        neighbours = conditions.neighbours
        visible = rank[neighbours] < rank[:, None]
        nodes, embedded = conditions.nodes, tokens @ self.embedding.embedding[: tokens.shape[-1]]
        for layer, prepared in zip(self.decoder, conditions.prepared, strict=True):
            nodes = layer(nodes, embedded, neighbours, visible, prepared)
        return self.output(nodes)

    def _edges(self, coordinates, residues, chains) -> tuple[jax.Array, jax.Array]:
        """Features [L, K, H] of each residue's edges to the nearest K, itself among them, and these [L, K]."""
        n, ca, c, o = jnp.moveaxis(coordinates, 1, 0)
        b, d = ca - n, c - ca
        cb = ca - 0.58273431 * jnp.cross(b, d) + 0.56802827 * b - 0.54067466 * d  # where an ideal C-beta would be
        atoms = jnp.stack([n, ca, c, o, cb])  # [5, L, 3]
        between = jnp.linalg.norm(ca[:, None] - ca[None], axis=-1)
        _, neighbours = jax.lax.top_k(-between, min(NEIGHBOURS, len(ca)))
        here, there = atoms[PAIRS[:, 0]][:, :, None], atoms[PAIRS[:, 1]][:, neighbours]  # [25, L, 1 or K, 3]
        distance = jnp.sqrt(((here - there) ** 2).sum(-1) + 1e-6)
        centres = jnp.linspace(CLOSE, FAR, RADII)[None, None, None]
        radial = jnp.exp(-(((distance[..., None] - centres) * RADII / (FAR - CLOSE)) ** 2))
        radial = jnp.moveaxis(radial, 0, 2).reshape(*neighbours.shape, -1)
        offset = jnp.clip(residues[:, None] - residues[neighbours] + REACH, 0, 2 * REACH)
        offset = jnp.where(chains[:, None] == chains[neighbours], offset, 2 * REACH + 1)  # another chain is one class
        along = self.offsets(jax.nn.one_hot(offset, 2 * REACH + 2))
        return self.edge_norm(self.edge_embedding(jnp.concatenate([along, radial], -1))), neighbours


def revealed_first(tokens: jax.Array) -> jax.Array:
    """Ranks [L] of one-hot tokens [L, 21]: revealed ones in the order of the chain, masked ones after all of them."""
    length = tokens.shape[0]
    return jnp.where(tokens[:, LETTERS] > 0.5, length, jnp.arange(length))


# Weights


def from_haiku(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our parameters from the published ones in Haiku's names, {'module|parameter': array}.

    Raises UserError where one is missing, left over, or has another shape.
    """
    left = {key.removeprefix('protein_mpnn/~/'): value for key, value in weights.items()}

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in left or left[name].shape != shape:
            found = 'missing' if name not in left else f'of shape {left[name].shape}, not {shape}'
            raise UserError(f'these are no weights of ProteinMPNN: {name} is {found}')
        return np.asarray(left.pop(name), np.float32)

    def dense(name: str, rows: int, columns: int) -> dict:
        return {'kernel': take(f'{name}|w', rows, columns), 'bias': take(f'{name}|b', columns)}

    def norm(name: str) -> dict:
        return {'scale': take(f'{name}|scale', HIDDEN), 'bias': take(f'{name}|offset', HIDDEN)}

    def message(name: str, number: str, parts: tuple[str, ...]) -> dict:
        kernel, *others = np.split(take(f'{name}{number}1|w', HIDDEN * (1 + len(parts)), HIDDEN), 1 + len(parts))
        own = {'own': {'kernel': kernel, 'bias': take(f'{name}{number}1|b', HIDDEN)}}
        other = {f'of_{part}': {'kernel': kernel} for part, kernel in zip(parts, others, strict=True)}
        deep = {'middle': dense(f'{name}{number}2', HIDDEN, HIDDEN), 'last': dense(f'{name}{number}3', HIDDEN, HIDDEN)}
        return own | other | deep

    def feed_forward(name: str, i: int, kind: str) -> dict:
        inner = f'{name}/position_wise_feed_forward/~/{kind}{i}_dense_W_'
        return {'in': dense(f'{inner}in', HIDDEN, 4 * HIDDEN), 'out': dense(f'{inner}out', 4 * HIDDEN, HIDDEN)}

    params: dict[str, Any] = {}
    for i in range(LAYERS):
        suffix = f'_{i}' if i else ''
        name = f'enc_layer{suffix}/~'
        params[f'encoder_{i}'] = {
            'to_nodes': message(f'{name}/enc{i}_W', '', ('edge', 'other')),
            'to_edges': message(f'{name}/enc{i}_W', '1', ('edge', 'other')),
            'feed_forward': feed_forward(name, i, 'enc'),
        } | {f'norm{n}': norm(f'{name}/enc{i}_norm{n}') for n in (1, 2, 3)}
        name = f'dec_layer{suffix}/~'
        params[f'decoder_{i}'] = {
            'message': message(f'{name}/dec{i}_W', '', ('edge', 'token', 'other')),
            'feed_forward': feed_forward(name, i, 'dec'),
        } | {f'norm{n}': norm(f'{name}/dec{i}_norm{n}') for n in (1, 2)}
    features = 'protein_features/~/'
    params |= {
        'offsets': dense(f'{features}positional_encodings/~/embedding_linear', 2 * REACH + 2, RADII),
        'edge_embedding': {'kernel': take(f'{features}edge_embedding|w', RADII * (1 + len(PAIRS)), HIDDEN)},
        'edge_norm': norm(f'{features}norm_edges'),
        'edge_input': dense('W_e', HIDDEN, HIDDEN),
        'embedding': {'embedding': take('embed_token|W_s', len(ALPHABET), HIDDEN)},
        'output': dense('W_out', HIDDEN, len(ALPHABET)),
    }
    if left:
        raise UserError(f'these are no weights of ProteinMPNN: {next(iter(left))} is left over')
    return {'params': params}


# As a process and as a judge

NET = ProteinMPNN()


@flax.struct.dataclass
class Conditioned:
    """Parameters with what they make of one backbone."""

    params: Any
    conditions: Conditions


def conditioned(params: Any, coordinates: np.ndarray, residues: np.ndarray, chains: np.ndarray) -> Conditioned:
    """Encodes a backbone of L residues; arguments as of `ProteinMPNN.encode`."""
    return Conditioned(params, _encode(params, *map(jnp.asarray, (coordinates, residues, chains))))


@jax.jit
def _encode(params: Any, *backbone: jax.Array) -> Conditions:
    return NET.apply(params, *backbone, method='encode')


def denoise(model: Conditioned, x: jax.Array, level: jax.Array) -> jax.Array:
    """log p(s_i | what is revealed, backbone) [N, L, 20] of x, partly masked tokens [N, L] or one-hot [N, L, 21].

    It does not depend on the level.
    """

    def one(tokens):
        return NET.apply(model.params, model.conditions, tokens, revealed_first(tokens), method='decode')

    return jax.nn.log_softmax(jax.vmap(one)(one_hot(x, LETTERS + 1))[..., :LETTERS])


def log_likelihoods(model: Conditioned, designs: jax.Array, ranks: jax.Array) -> jax.Array:
    """log p(s | backbone) [N, O] of designs, tokens [N, L] or relaxed [N, L, 20], decoded in orders of `ranks` [O, L].

    It is how ProteinMPNN scores a sequence: one pass an order.
    """

    def one(tokens, rank):
        logits = NET.apply(model.params, model.conditions, tokens, rank, method='decode')[:, :LETTERS]
        return (tokens * jax.nn.log_softmax(logits)).sum()

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(one_hot(designs, LETTERS), ranks)


def random_ranks(key: jax.Array, orders: int, length: int) -> jax.Array:
    """Ranks [orders, length] of random orders."""
    return jax.vmap(lambda key: jax.random.permutation(key, length))(jax.random.split(key, orders))


def make(model: Conditioned, *, steps: int = 0, samples: int = 16, micro: int = 0) -> Process:
    """The reverse process. Tokens are those of ALPHABET, 20 is the mask.

    steps: of MDLM's grid, of which each reveals several residues that do not see each other; 0 for one a step, in a
    random order. samples: passes for the bound on a design's likelihood (`masked_learner.bound`). micro: see `Process`.
    """
    about = {'length': model.conditions.nodes.shape[0], 'mask': LETTERS, 'micro': micro} | masked.relaxation(LETTERS)
    if steps:
        made = masked.grid(model, denoise, steps=steps, **about)
    else:
        made = masked.one_position(model, denoise, **about)
    return made.replace(log_likelihood=bound(made, LETTERS, samples))
