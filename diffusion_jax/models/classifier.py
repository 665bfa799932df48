"""Classifiers of images, for rewards on the device: log-odds of a class. Trained in pairs, as `oracle` says.

    loss = mean_B -log p(label | x + sigma n),   sigma ~ U[0, config.noise]

Noise keeps them from being sure of what lies off the images, where a search goes first.

Metrics: loss; grad_norm, before clipping.
"""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax.state import Learner
from diffusion_jax.models import averaged
from diffusion_jax.models.convolution import Conv
from diffusion_jax.models.gaussian import per_row
from diffusion_jax.process import PyTree


class Classifier(nn.Module):
    """Images [N, H, W, C] -> logits [N, classes]: two convolutions, halved after each, and a hidden layer."""

    classes: int
    channels: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images
        for width in (self.channels, 2 * self.channels):
            x = nn.avg_pool(nn.gelu(Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.gelu(nn.Dense(4 * self.channels)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)


def make(config: ml_collections.ConfigDict) -> Learner:
    """Trains on batches {'images' [B, H, W, C], 'labels' [B]}; its policy is the moving average."""
    network = network_of(config)

    def loss(params: PyTree, batch: dict, key: jax.Array) -> jax.Array:
        chex.assert_rank([batch['images'], batch['labels']], [4, 1])
        level, drawn = jax.random.split(key)
        images = batch['images']
        sigma = jax.random.uniform(level, images.shape[:1], maxval=config.noise)
        x = images + per_row(sigma, images) * jax.random.normal(drawn, images.shape)
        return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, x), batch['labels']).mean()

    return averaged.make(loss, lambda key, batch: network.init(key, batch['images'][:1]), config)


def network_of(config: ml_collections.ConfigDict) -> Classifier:
    """The network that `make` trains."""
    return Classifier(config.classes, config.channels)


def log_odds(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """log p / (1 - p) [N] of the classes that `chosen` [classes] marks, in nats, from logits [N, classes]."""
    inside = jax.nn.logsumexp(jnp.where(chosen[None], logits, -jnp.inf), 1)
    return inside - jax.nn.logsumexp(jnp.where(chosen[None], -jnp.inf, logits), 1)


def get_config() -> ml_collections.ConfigDict:
    """Settings for small images in ten classes."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars.
            'learning_rate': 1e-3,  # Adam's step size
            'ema': 0.995,  # decay of the moving average, at most (1 + step) / (10 + step)
            # Shapes and switches: static.
            'classes': 10,
            'channels': 16,  # of the first convolution
            'noise': 0.3,  # most noise that images are trained with; they lie in -1..1
            'batch_size': 64,  # images an update
            'warmup': 1,
            'clip': 1.0,  # most that the norm of the gradients may be
            'weight_decay': 1e-2,  # decoupled, as AdamW's
        }
    )
