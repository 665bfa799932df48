"""What one SAC update costs, counted by hand: its matrix products, and their floating-point operations."""

from __future__ import annotations

import ml_collections

from core_jax import cost


def products(config: ml_collections.ConfigDict, observation: int, action: int) -> list[tuple[int, int, int, int]]:
    """The matrix products of one update with MLP critics as (how often, m, k, n), each [m, k] @ [k, n]."""
    counted, c = cost.Products(config.batch_size), config.num_critics
    # Each critic: the target; Q on the data, trained; Q on the policy's actions, followed back to them.
    critic = (observation + action, *config.hidden_dims, 1)
    counted.network(critic, forward=3 * c, kernels=c, inner=2 * c, first=c)
    # The policy: the next actions, and those that it is trained by.
    counted.network((observation, *config.hidden_dims, 2 * action), forward=2, kernels=1, inner=1)
    return counted.all()


def flops(config: ml_collections.ConfigDict, observation: int, action: int) -> float:
    """FLOPs of all matrix products of one update, two a multiply-add."""
    return cost.flops(products(config, observation, action))
