"""Oracles: networks that predict a measurement of a sequence, trained on real ones, for rewards on the device.

A search finds the errors of the oracle that it is guided by. So oracles come in pairs, fitted on disjoint halves of the
data: one guides, the other, which it never saw, judges (`halves`).

    squared     mean_B (f(x) - y)^2
    logistic    mean_B log(1 + exp f(x)) - y f(x), y in [0, 1]; f is then the log-odds of the mean of y

Metrics: those of `averaged`. Targets of `squared` should be standardised.
"""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax.errors import unknown
from core_jax.state import Learner
from diffusion_jax.models import averaged
from diffusion_jax.models.networks import one_hot
from diffusion_jax.process import PyTree


class Oracle(nn.Module):
    """One-hot rows [N, L, V] -> [N]: a convolution, means of `pool` neighbours, dense layers that see every place."""

    hidden: int
    width: int = 9
    pool: int = 3
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """key: for dropout, while training."""
        rows, length, _ = x.shape
        padded = jnp.pad(x, ((0, 0), (self.width // 2, self.width // 2), (0, 0)))
        # Windows side by side make the convolution one matrix product, which is faster for so few letters.
        windows = jnp.concatenate([padded[:, i : i + length] for i in range(self.width)], -1)
        x = nn.gelu(nn.Dense(self.hidden, name='convolution')(windows))
        x = nn.avg_pool(x, (self.pool,), strides=(self.pool,)).reshape(rows, -1)
        if key is not None and self.dropout:
            kept = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(kept, x / (1 - self.dropout), 0.0)
        x = nn.gelu(nn.Dense(2 * self.hidden, name='dense')(x))
        return nn.Dense(1, name='output')(x)[:, 0]


def _squared(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.mean((prediction - target) ** 2)


def _logistic(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.mean(jax.nn.softplus(prediction) - target * prediction)


LOSSES = {'squared': _squared, 'logistic': _logistic}


def make(config: ml_collections.ConfigDict) -> Learner:
    """Trains on batches {'tokens' [B, L] of 0 to config.tokens - 1, 'target' [B]}; its policy is the moving average."""
    if config.loss not in LOSSES:
        raise unknown('loss', config.loss, LOSSES)
    network, error = network_of(config), LOSSES[config.loss]

    def loss(params: PyTree, batch: dict, key: jax.Array) -> jax.Array:
        chex.assert_rank([batch['tokens'], batch['target']], [2, 1])
        rows = one_hot(batch['tokens'].astype(jnp.int32), config.tokens)
        return error(network.apply(params, rows, key), batch['target'])

    def initial(key: jax.Array, batch: dict) -> PyTree:
        return network.init(key, one_hot(batch['tokens'][:1].astype(jnp.int32), config.tokens))

    return averaged.make(loss, initial, config)


def network_of(config: ml_collections.ConfigDict) -> Oracle:
    """The network that `make` trains."""
    return Oracle(config.hidden, config.width, config.pool, config.dropout)


def get_config() -> ml_collections.ConfigDict:
    """Settings for some ten thousand sequences of below a hundred letters."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars.
            'learning_rate': 1e-3,  # Adam's step size
            'ema': 0.999,  # decay of the moving average, at most (1 + step) / (10 + step)
            # Shapes and switches: static.
            'tokens': 4,  # size of the alphabet
            'loss': 'squared',  # squared, or logistic
            'batch_size': 128,  # sequences an update
            'hidden': 32,  # channels; the dense layer has twice as many
            'width': 9,  # of the convolution, odd
            'pool': 3,  # neighbours that are averaged
            'dropout': 0.3,  # of what the dense layers see
            'warmup': 1,
            'clip': 10.0,  # most that the norm of the gradients may be
            'weight_decay': 1e-2,  # decoupled, as AdamW's
        }
    )


def halves(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two disjoint random halves of `count` examples, each in order."""
    shuffled = np.random.default_rng(seed).permutation(count)
    return np.sort(shuffled[: count // 2]), np.sort(shuffled[count // 2 :])
