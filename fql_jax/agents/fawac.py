"""Flow advantage-weighted actor-critic (FAWAC), a baseline of Park, Li and Levine 2025, arXiv 2502.02538.

AWAC (Nair et al. 2020, arXiv 2006.09359) with a flow policy: the cloning loss of each row is weighted by advantage.

    L = L_V + L_critic + L_flow                  a_pi(s, z) = clip Euler(v)(s, z)

    L_V        mean_B (V(s) - mean_i Qbar_i(s, a))^2
    L_critic   mean_{i,B} (Q_i(s, a) - r - discount * mask * mean_i Qbar_i(s', a_pi(s', z')))^2
    L_flow     mean_B min(exp(inv_temp (mean_i Q_i(s, a) - V(s))), 100) mean_A |v(s, x_t, t) - (a - x_0)|^2

The paper releases no code for it; this follows the agent released with QAM (arXiv 2601.14234).

Metrics, means over the batch: value/loss, value/v; critic/loss; critic/q_mean, q_min, q_max of Q(s, a);
actor/flow_loss; actor/weight; loss (the sum); grad_norm (2-norm of all gradients).
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections

from core_jax import flow
from core_jax.state import Learner, step_key
from fql_jax.agents import parts
from fql_jax.agents.iql import WEIGHT_LIMIT
from fql_jax.agents.parts import State

HPARAMS = ('learning_rate', 'inv_temp', 'discount', 'tau')


@flax.struct.dataclass
class Policy:
    """What `act` reads."""

    flow: Any


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """FAWAC for observations [B, D], or images with an encoder, and actions [B, action_dim] in [-1, 1]."""
    value = parts.critic_network(config, 1)
    critic = parts.critic_network(config, config.num_critics)
    velocity = parts.actor_network(config, action_dim)

    def policy_actions(params, observations, key):
        noise = jax.random.normal(key, (len(observations), action_dim))
        return parts.flow_actions(velocity, params, observations, noise, config.flow_steps)

    def value_loss(params, state, batch):
        q = critic.apply(state.target_critic, batch['observations'], batch['actions']).mean(axis=0)
        v = value.apply(params['value'], batch['observations'])[0]
        loss = jnp.mean((v - q) ** 2)
        return loss, {'value/loss': loss, 'value/v': v.mean()}

    def critic_loss(params, state, batch, key, hparams):
        next_actions = policy_actions(state.nets.params['flow'], batch['next_observations'], key)
        next_q = critic.apply(state.target_critic, batch['next_observations'], next_actions).mean(axis=0)
        target = batch['rewards'] + hparams['discount'] * batch['masks'] * next_q
        return parts.td_loss(critic.apply(params['critic'], batch['observations'], batch['actions']), target)

    def flow_loss(params, state, batch, key, hparams):
        observations, stored = batch['observations'], state.nets.params
        q = critic.apply(stored['critic'], observations, batch['actions']).mean(axis=0)
        advantage = q - value.apply(stored['value'], observations)[0]
        weight = jnp.minimum(jnp.exp(hparams['inv_temp'] * advantage), WEIGHT_LIMIT)
        x_t, t, target = flow.training_pairs(key, batch['actions'])
        error = jnp.mean((velocity.apply(params['flow'], observations, x_t, t) - target) ** 2, axis=-1)
        loss = jnp.mean(weight * error)
        return loss, {'actor/flow_loss': loss, 'actor/weight': weight.mean()}

    def total_loss(params, state, batch, hparams):
        critic_key, flow_key = jax.random.split(step_key(state))
        loss_value, metrics = value_loss(params, state, batch)
        loss_critic, critic_metrics = critic_loss(params, state, batch, critic_key, hparams)
        loss_flow, flow_metrics = flow_loss(params, state, batch, flow_key, hparams)
        loss = loss_value + loss_critic + loss_flow
        return loss, metrics | critic_metrics | flow_metrics | {'loss': loss}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        return parts.step(total_loss, state, batch, hparams)

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        return memory, policy_actions(policy.flow, observations, key)

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
        return Policy(state.nets.params['flow'])

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS})


def get_config() -> ml_collections.ConfigDict:
    """The sizes of FQL; inv_temp as in most of QAM's runs."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for all networks
            'inv_temp': 0.8,  # of the weights; 6.4 on scene, antmaze-large and humanoidmaze-medium
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'encoder': '',  # of images, one a network: impala_small, impala, impala_large, impala_debug
            'num_critics': 2,  # size of the critic ensemble
            'critic_layer_norm': True,  # LayerNorm after each activation of value and critics
            'actor_layer_norm': False,  # the same in the flow
            'flow_steps': 10,  # Euler steps of an action
        }
    )
