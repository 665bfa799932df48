"""Gaussian policies: a network and the distribution over actions that it parametrises."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from core_jax.distributions import gaussian
from core_jax.networks import Actor


class GaussianActor(nn.Module):
    """observations [B, ...] -> (mean [B, A], std [B, A]), not squashed.

    std: 'constant' (1 everywhere) or 'state' (exp of a second output, clipped to log_std_range).
    """

    hidden_dims: Sequence[int]
    action_dim: int
    std: str = 'state'
    layer_norm: bool = False
    log_std_range: tuple[float, float] = (-5.0, 2.0)
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = {'constant': 1, 'state': 2}[self.std] * self.action_dim
        body = Actor(self.hidden_dims, outputs, self.layer_norm, final_scale=1e-2, encoder=self.encoder, name='body')
        out = body(observations)
        if self.std == 'constant':
            return out, jnp.ones_like(out)
        mean, log_std = jnp.split(out, 2, axis=-1)
        return mean, jnp.exp(jnp.clip(log_std, *self.log_std_range))


def log_prob(policy: tuple[jax.Array, jax.Array], actions: jax.Array) -> jax.Array:
    """Log-densities [B] of actions [B, A] under (mean, std)."""
    return gaussian(*policy).log_prob(actions)


def sample(policy: tuple[jax.Array, jax.Array], key: jax.Array, noise: jax.Array | float) -> jax.Array:
    """Actions [B, A] in [-1, 1], with the standard deviation times `noise`; 0 gives the mean."""
    mean, std = policy
    return jnp.clip(mean + noise * std * jax.random.normal(key, mean.shape), -1.0, 1.0)
