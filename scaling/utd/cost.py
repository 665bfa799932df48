"""What an update costs, counted by hand: the matrix products of SAC and of BRO, and their floating-point operations."""

from __future__ import annotations

import ml_collections

from core_jax import cost

Products = list[tuple[int, int, int, int]]  # (how often, m, k, n), each [m, k] @ [k, n]


def sac(config: ml_collections.ConfigDict, observation: int, action: int) -> Products:
    """One SAC update with MLP critics."""
    counted, c = cost.Products(config.batch_size), config.num_critics
    # Each critic: the target; Q on the data, trained; Q on the policy's actions, followed back to them.
    critic = (observation + action, *config.hidden_dims, 1)
    counted.network(critic, forward=3 * c, kernels=c, inner=2 * c, first=c)
    # The policy: the next actions, and those that it is trained by.
    counted.network((observation, *config.hidden_dims, 2 * action), forward=2, kernels=1, inner=1)
    return counted.all()


def bro(config: ml_collections.ConfigDict, observation: int, action: int) -> Products:
    """One BRO update and the environment step before it; physics is not counted."""
    critic = _sizes(observation + action, config.critic_width, config.critic_depth, config.num_quantiles)
    actor = _sizes(observation, config.actor_width, config.actor_depth, 2 * action)
    shift = _sizes(observation + action, config.actor_width, config.actor_depth, action)
    optimist = int(config.optimistic)
    update = cost.Products(config.batch_size)
    # Both critics: the target; Z on the data, trained; Z on the policy's and the optimist's actions, followed back.
    followed = 1 + optimist
    update.network(critic, forward=2 * (2 + followed), kernels=2, inner=2 * (1 + followed), first=2 * followed)
    # The next actions, the policy, trained, and what the optimist's mean starts from.
    update.network(actor, forward=2 + optimist, kernels=1, inner=1)
    step = cost.Products(config.envs + 1)  # the held-out environment too
    step.network(actor, forward=1)
    if optimist:
        update.network(shift, forward=1, kernels=1, inner=1)
        step.network(shift, forward=1)
    return update.all() + step.all()


def _sizes(inputs: int, width: int, depth: int, outputs: int) -> list[int]:
    """The widths between the Dense layers of a BroNet."""
    return [inputs, *[width] * (1 + 2 * depth), outputs]


flops = cost.flops
