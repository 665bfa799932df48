"""Distributions of actions. distrax is imported on first use: it costs seconds, and not every paper needs it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def gaussian(mean: jax.Array, std: jax.Array | float = 1.0) -> Any:
    """distrax's diagonal Gaussian over actions: log_prob and entropy sum over the last axis.

    mean [..., A]; std [..., A] where it depends on the state, [A] or a scalar where it is a constant.
    """
    import distrax

    return distrax.MultivariateNormalDiag(mean, jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape))


class TanhGaussian(NamedTuple):
    """a = tanh(u), u ~ N(mean, std^2) in each of A dimensions; mean and log_std [..., A].

    Our own lines instead of distrax's, since they lie in the inner loop of SAC. The change of variables takes
    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which neither under- nor overflows (Haarnoja et al. 2018,
    arXiv 1812.05905, appendix C, in the form that TensorFlow Probability uses).
    """

    mean: jax.Array
    log_std: jax.Array

    def mode(self) -> jax.Array:
        """tanh(mean), the median, called the mode by custom; [..., A]."""
        return jnp.tanh(self.mean)

    def sample(self, key: jax.Array, scale: jax.Array | float = 1.0) -> jax.Array:
        """Actions [..., A] with the standard deviation times `scale`; 0 gives the mode."""
        return jnp.tanh(self.mean + scale * jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape))

    def sample_and_log_prob(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions [..., A], differentiable in mean and log_std, and their log-densities [...].

        The density is computed from u, so that actions that round to -1 or 1 are no exception.
        """
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        u = self.mean + jnp.exp(self.log_std) * noise
        return jnp.tanh(u), self._log_prob(u, noise)

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Log-densities [...] of actions [..., A] in [-1, 1].

        -1 and 1 have no finite u; they are read as the nearest number inside.
        """
        inside = 1.0 - jnp.finfo(actions.dtype).epsneg
        u = jnp.arctanh(jnp.clip(actions, -inside, inside))
        return self._log_prob(u, (u - self.mean) * jnp.exp(-self.log_std))

    def _log_prob(self, u: jax.Array, noise: jax.Array) -> jax.Array:
        normal = -0.5 * noise**2 - self.log_std - 0.5 * jnp.log(2 * jnp.pi)
        log_slope = 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u))
        return jnp.sum(normal - log_slope, axis=-1)
