"""The other critic, an ablation: a number a turn instead of log-ratios, from a head on the language model.

V(o_t, a_t, c) = w . h + b with h the last hidden state of the turn, sigmoid(V) being the chance that the trajectory
is solved; the loss is -log p of how it ended. Turns are ranked by V. It starts from the same parameters, and a head of
zeros.

Metrics: loss; accuracy, of V > 0 against the end.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from colbench_jax.sweet_rl import words
from colbench_jax.sweet_rl.credit import Known, State
from core_jax.state import Learner, Trainable, descend, global_norm, trainable
from core_jax.transformer import learner, model, packing
from core_jax.transformer.config import Config
from core_jax.transformer.tokenizer import Tokenizer

PyTree = Any


@flax.struct.dataclass
class HeadState:
    key: jax.Array
    step: jax.Array
    net: Trainable


def values(arch: Config, params: PyTree, rows: dict[str, jax.Array]) -> jax.Array:
    """V [B, T] at every token of rows."""
    hidden, _ = model.Decoder(arch).apply(
        {'params': params['body']}, rows['tokens'], rows['positions'], rows['segments']
    )
    return hidden @ params['head']['w'] + params['head']['b']


def ends(rows: dict[str, jax.Array]) -> jax.Array:
    """[B, T] whether a token is the last one of an agent's turn."""
    after = jnp.pad(rows['turns'][:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    return (rows['turns'] >= 0) & (after != rows['turns'])


def make(arch: Config, config: ml_collections.ConfigDict) -> Learner:
    """Trains on batches of rows with 'solved' [B], 1 or 0."""
    optimizer = optax.chain(optax.clip_by_global_norm(config.clip), optax.scale_by_adam(config.beta1, config.beta2))

    def loss(params: PyTree, batch: dict) -> tuple[jax.Array, jax.Array]:
        found, at = values(arch, params, batch), ends(batch)
        wanted = jnp.broadcast_to(batch['solved'][:, None], found.shape)
        losses = optax.sigmoid_binary_cross_entropy(found, wanted)
        count = jnp.maximum(at.sum(), 1)
        return jnp.where(at, losses, 0.0).sum() / count, jnp.where(
            at, (found > 0) == (wanted > 0.5), False
        ).sum() / count

    def update(state: HeadState, batch: dict, hparams: dict) -> tuple[HeadState, dict]:
        (value, accuracy), gradients = jax.value_and_grad(loss, has_aux=True)(state.net.params, batch)
        rate = hparams['learning_rate'] * learner.schedule(state.step, config)
        net = descend(state.net, gradients, optimizer, rate)
        metrics = {'loss': value, 'accuracy': accuracy, 'grad_norm': global_norm(gradients)}
        return HeadState(state.key, state.step + 1, net), metrics

    def init(key: jax.Array, batch: dict) -> HeadState:
        key, own = jax.random.split(key)
        params = {'body': model.init(arch, own), 'head': {'w': jnp.zeros(arch.hidden_size), 'b': jnp.zeros(())}}
        return HeadState(key, jnp.zeros((), jnp.int32), trainable(params, optimizer))

    return Learner(init, update, None, lambda state: state.net.params, {'learning_rate': float(config.learning_rate)})


class ValueJudge:
    """Ranks candidates by V at their last token."""

    def __init__(self, arch: Config, params: PyTree, tokenizer: Tokenizer, known: Known, *, batch: int = 16):
        self.params, self.tokenizer, self.known, self.batch = params, tokenizer, known, batch
        self._values, self.room = jax.jit(functools.partial(values, arch)), arch.max_positions

    def advantages(self, states: Sequence[State], candidates: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
        """[N, K]. Raises UserError where one does not fit into the context."""
        count = len(candidates[0])
        rows = []
        for state, own in zip(states, candidates, strict=True):
            before = words.prompt(self.tokenizer, state.history, self.known(state.task))
            for ids in own:
                mask = [0] * len(before) + [1] * len(ids)
                rows.append({'tokens': [*before, *ids], 'mask': mask, 'turns': [-1] * len(before) + [0] * len(ids)})
        width, found = min(self.room, packing.width_of(rows)), []
        for first in range(0, len(rows), self.batch * count):
            part = rows[first : first + self.batch * count]
            filled = packing.rows(part + part[:1] * (self.batch * count - len(part)), width)
            last = np.maximum(filled['segments'].sum(1) - 1, 0)
            found += list(np.asarray(self._values(self.params, filled))[np.arange(len(last)), last][: len(part)])
        return np.asarray(found).reshape(-1, count)
