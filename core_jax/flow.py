"""Flow matching with straight paths (rectified flow): time runs from noise at t = 0 to data at t = 1.

    x_t = (1 - t) x_0 + t x_1,   x_0 ~ N(0, I),   t ~ U[0, 1],   target velocity  x_1 - x_0

Source: Lipman et al. 2023 (arXiv 2210.02747), Liu et al. 2023 (arXiv 2209.03003), as used by FQL (arXiv 2502.02538).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def training_pairs(key: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x1 [B, D] -> (x_t [B, D], t [B, 1], velocity [B, D]); one time per row."""
    noise_key, time_key = jax.random.split(key)
    x0 = jax.random.normal(noise_key, x1.shape, x1.dtype)
    t = jax.random.uniform(time_key, (x1.shape[0], 1), x1.dtype)
    return (1 - t) * x0 + t * x1, t, x1 - x0


def matching_loss(predicted: jax.Array, velocity: jax.Array) -> jax.Array:
    """Mean squared error over rows and dimensions, a scalar."""
    return jnp.mean((predicted - velocity) ** 2)


def euler(velocity: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, steps: int) -> jax.Array:
    """Integrates dx/dt = velocity(x [B, D], t [B, 1]) from t = 0 to 1 with left endpoints t = 0, 1/steps, ...

    The loop is unrolled: `steps` is small (10), and a compiled loop's iterations cost more than they save on a GPU.
    """
    for i in range(steps):
        t = jnp.full((x.shape[0], 1), i / steps, x.dtype)
        x = x + velocity(x, t) / steps
    return x
