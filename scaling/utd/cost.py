"""What one BRO update and the environment step before it cost, counted by hand: the FLOPs of their matrix products."""

from __future__ import annotations

import ml_collections


def flops(config: ml_collections.ConfigDict, observation: int, action: int) -> float:
    """FLOPs of all matrix products, two a multiply-add; physics is not counted.

    A layer [B, k] @ [k, n] costs the same forward, for the gradient of its kernel and for that of its input. The input
    of a network is data, so its first layer lacks the last, except where Z is followed back to the action.
    """
    total = 0.0

    def network(sizes: list[int], rows: int, *, forward: int, kernels: int = 0, inner: int = 0, first: int = 0) -> None:
        nonlocal total
        for layer, (k, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            total += 2.0 * rows * k * n * (forward + kernels + (inner if layer else first))

    critic = _sizes(observation + action, config.critic_width, config.critic_depth, config.num_quantiles)
    actor = _sizes(observation, config.actor_width, config.actor_depth, 2 * action)
    shift = _sizes(observation + action, config.actor_width, config.actor_depth, action)
    rows, acting = config.batch_size, config.envs + 1  # the held-out environment too
    optimist = int(config.optimistic)
    for _ in range(2):
        # The target; Z on the data, trained; Z on the policy's and the optimist's actions, followed back to them.
        followed = 1 + optimist
        network(critic, rows, forward=2 + followed, kernels=1, inner=1 + followed, first=followed)
    # The next actions, the policy, trained, and what the optimist's mean starts from.
    network(actor, rows, forward=2 + optimist, kernels=1, inner=1)
    network(shift, rows * optimist, forward=1, kernels=1, inner=1)
    network(actor, acting, forward=1)
    network(shift, acting * optimist, forward=1)
    return total


def _sizes(inputs: int, width: int, depth: int, outputs: int) -> list[int]:
    """The widths between the Dense layers of a BroNet."""
    return [inputs, *[width] * (1 + 2 * depth), outputs]
