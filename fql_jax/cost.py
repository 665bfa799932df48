"""What one FQL update costs, counted by hand: its matrix products, and their floating-point operations."""

from __future__ import annotations

import ml_collections

from core_jax import cost


def products(config: ml_collections.ConfigDict, observation: int, action: int) -> list[tuple[int, int, int, int]]:
    """The matrix products of one update as (how often, m, k, n), each [m, k] @ [k, n]."""
    counted = cost.Products(config.batch_size)

    def network(inputs: int, outputs: int, **times: int) -> None:
        counted.network((inputs, *config.hidden_dims, outputs), **times)

    # Each critic: the target; Q on the data, trained; Q on the policy's actions, followed back to them.
    c = config.num_critics
    network(observation + action, 1, forward=3 * c, kernels=c, inner=2 * c, first=c)
    # Flow: trained once, and the teacher's Euler steps.
    network(observation + action + 1, action, forward=1 + config.flow_steps, kernels=1, inner=1)
    # One-step policy: the next actions, and the student, trained.
    network(observation + action, action, forward=2, kernels=1, inner=1)
    return counted.all()


def flops(config: ml_collections.ConfigDict, observation: int, action: int) -> float:
    """FLOPs of all matrix products of one update, two a multiply-add."""
    return cost.flops(products(config, observation, action))
