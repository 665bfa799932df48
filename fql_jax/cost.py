"""What one FQL update costs, counted by hand: its matrix products, and their floating-point operations."""

from __future__ import annotations

import collections

import ml_collections


def products(config: ml_collections.ConfigDict, observation: int, action: int) -> list[tuple[int, int, int, int]]:
    """The matrix products of one update as (how often, m, k, n), each [m, k] @ [k, n].

    A layer [B, k] @ [k, n] appears once forward, once for the gradient of its kernel, [k, B] @ [B, n], and once for
    that of its input, [B, n] @ [n, k]. The input of a network is data, so its first layer lacks the last, except where
    Q is followed back to the action.
    """
    rows, counted = config.batch_size, collections.Counter()

    def network(inputs: int, outputs: int, *, forward: int, kernels: int = 0, inner: int = 0, first: int = 0) -> None:
        sizes = (inputs, *config.hidden_dims, outputs)
        for layer, (k, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            counted[rows, k, n] += forward
            counted[k, rows, n] += kernels
            counted[rows, n, k] += inner if layer else first

    # Each critic: the target; Q on the data, trained; Q on the policy's actions, followed back to them.
    c = config.num_critics
    network(observation + action, 1, forward=3 * c, kernels=c, inner=2 * c, first=c)
    # Flow: trained once, and the teacher's Euler steps.
    network(observation + action + 1, action, forward=1 + config.flow_steps, kernels=1, inner=1)
    # One-step policy: the next actions, and the student, trained.
    network(observation + action, action, forward=2, kernels=1, inner=1)
    return [(times, *shape) for shape, times in counted.items() if times]


def flops(config: ml_collections.ConfigDict, observation: int, action: int) -> float:
    """FLOPs of all matrix products of one update, two a multiply-add."""
    return float(sum(2 * times * m * k * n for times, m, k, n in products(config, observation, action)))
