"""Implicit flow Q-learning (IFQL), the flow version of IDQL in Park, Li and Levine 2025, arXiv 2502.02538.

IQL's value and critics, a flow that clones the behaviour without any weight, and a choice among its samples:

    L = L_V + L_Q + L_flow                       L_V and L_Q: iql.py;  L_flow: mean_{B,A} |v(s, x_t, t) - (a - x_0)|^2
    action = argmax of min_i Q_i(s, a) over num_samples samples a of the flow

(The released sampler works for a single observation only; this one for batches.)

Metrics: those of iql.py without the actor's; actor/flow_loss; loss (the sum); grad_norm.
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import ml_collections

from core_jax import flow
from core_jax.state import Learner, step_key
from fql_jax.agents import iql, parts
from fql_jax.agents.parts import State

HPARAMS = ('learning_rate', 'expectile', 'discount', 'tau')


@flax.struct.dataclass
class Policy:
    """What `act` reads."""

    flow: Any
    critic: Any


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """IFQL for observations [B, D], or images with an encoder, and actions [B, action_dim] in [-1, 1]."""
    value = parts.critic_network(config, 1)
    critic = parts.critic_network(config, 2)
    velocity = parts.actor_network(config, action_dim)

    def total_loss(params, state, batch, hparams):
        loss_critic, metrics = iql.value_and_critic_loss(value, critic, params, state, batch, hparams)
        x_t, t, target = flow.training_pairs(step_key(state), batch['actions'])
        loss_flow = flow.matching_loss(velocity.apply(params['flow'], batch['observations'], x_t, t), target)
        loss = loss_critic + loss_flow
        return loss, metrics | {'actor/flow_loss': loss_flow, 'loss': loss}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        return parts.step(total_loss, state, batch, hparams)

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        noise = jax.random.normal(key, (config.num_samples, len(observations), action_dim))
        actions = parts.flow_samples(velocity, policy.flow, observations, noise, config.flow_steps)
        q = parts.q_of_samples(critic, policy.critic, observations, actions).min(axis=0)  # [N, B]
        return memory, parts.pick_best(actions, q)

    def init(key: jax.Array, batch: dict) -> State:
        key, value_key, critic_key, flow_key = jax.random.split(key, 4)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        params = {
            'value': value.init(value_key, observations),
            'critic': critic.init(critic_key, observations, actions),
            'flow': velocity.init(flow_key, observations, actions, actions[:, :1]),
        }
        return parts.begin(key, params)

    def policy(state: State) -> Policy:
        return Policy(state.nets.params['flow'], state.nets.params['critic'])

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS})


def get_config() -> ml_collections.ConfigDict:
    """The settings of the released FQL code."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for all networks
            'expectile': 0.9,  # of Q over the data's actions
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'encoder': '',  # of images, one a network: impala_small, impala, impala_large, impala_debug
            'critic_layer_norm': True,  # LayerNorm after each activation of value and critics
            'actor_layer_norm': False,  # the same in the flow
            'flow_steps': 10,  # Euler steps of an action
            'num_samples': 32,  # actions that each decision chooses from
        }
    )
