"""Flow behaviour-regularised actor-critic (FBRAC), a baseline of Park, Li and Levine 2025, arXiv 2502.02538.

The flow version of diffusion Q-learning: one flow policy, regularised by its own cloning loss, that climbs the critic
through all Euler steps. It is what FQL's one-step policy does without.

    L = L_critic + alpha * L_flow + L_Q          a_pi(s, z) = clip Euler(v)(s, z)

    L_critic   mean_{i,B} (Q_i(s, a) - r - discount * mask * agg_i Qbar_i(s', a_pi(s', z')))^2
    L_flow     mean_{B,A} |v(s, x_t, t) - (a - x_0)|^2
    L_Q        -mean_B mean_i Q_i(s, a_pi(s, z)), with gradients through the integral

The paper releases no code for it; this follows the agent that the authors' later projects released (Value Flows,
arXiv 2510.07650; QAM, arXiv 2601.14234).

Metrics, means over the batch: critic/loss; critic/q_mean, q_min, q_max of Q(s, a); actor/flow_loss; actor/q_loss;
actor/q; loss (the sum); grad_norm (2-norm of all gradients).
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
from fql_jax.agents.parts import State

HPARAMS = ('learning_rate', 'alpha', 'discount', 'tau')


@flax.struct.dataclass
class Policy:
    """What `act` reads."""

    flow: Any


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """FBRAC for observations [B, D], or images with an encoder, and actions [B, action_dim] in [-1, 1]."""
    critic = parts.critic_network(config, config.num_critics)
    velocity = parts.actor_network(config, action_dim)

    def policy_actions(params, observations, key):
        noise = jax.random.normal(key, (len(observations), action_dim))
        return parts.flow_actions(velocity, params, observations, noise, config.flow_steps)

    def critic_loss(params, state, batch, key, hparams):
        next_actions = policy_actions(state.nets.params['flow'], batch['next_observations'], key)
        next_q = critic.apply(state.target_critic, batch['next_observations'], next_actions)
        target = batch['rewards'] + hparams['discount'] * batch['masks'] * parts.aggregate(next_q, config.q_agg)
        return parts.td_loss(critic.apply(params['critic'], batch['observations'], batch['actions']), target)

    def actor_losses(params, state, batch, flow_key, q_key):
        x_t, t, target = flow.training_pairs(flow_key, batch['actions'])
        loss_flow = flow.matching_loss(velocity.apply(params['flow'], batch['observations'], x_t, t), target)
        # Stored critic parameters: the gradient reaches the actions alone.
        actions = policy_actions(params['flow'], batch['observations'], q_key)
        q = critic.apply(state.nets.params['critic'], batch['observations'], actions).mean(axis=0)
        q_loss = -q.mean()
        if config.normalize_q_loss:
            q_loss = q_loss / jax.lax.stop_gradient(jnp.abs(q).mean())
        return loss_flow, q_loss, q.mean()

    def total_loss(params, state, batch, hparams):
        critic_key, flow_key, q_key = jax.random.split(step_key(state), 3)
        loss_critic, metrics = critic_loss(params, state, batch, critic_key, hparams)
        loss_flow, loss_q, q = actor_losses(params, state, batch, flow_key, q_key)
        loss = loss_critic + hparams['alpha'] * loss_flow + loss_q
        return loss, metrics | {'actor/flow_loss': loss_flow, 'actor/q_loss': loss_q, 'actor/q': q, 'loss': loss}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        return parts.step(total_loss, state, batch, hparams)

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        return memory, policy_actions(policy.flow, observations, key)

    def init(key: jax.Array, batch: dict) -> State:
        key, critic_key, flow_key = jax.random.split(key, 3)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        params = {
            'critic': critic.init(critic_key, observations, actions),
            'flow': velocity.init(flow_key, observations, actions, actions[:, :1]),
        }
        return parts.begin(key, params)

    def policy(state: State) -> Policy:
        return Policy(state.nets.params['flow'])

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS})


def get_config() -> ml_collections.ConfigDict:
    """The sizes of FQL; alpha as in the release of Value Flows."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for both networks
            'alpha': 100.0,  # weight of the cloning loss
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'encoder': '',  # of images, one a network: impala_small, impala, impala_large, impala_debug
            'num_critics': 2,  # size of the critic ensemble
            'critic_layer_norm': True,  # LayerNorm after each activation of the critics
            'actor_layer_norm': False,  # the same in the flow
            'flow_steps': 10,  # Euler steps of an action
            'q_agg': 'mean',  # over the target critics: mean, or min
            'normalize_q_loss': False,  # divide L_Q by mean |Q|
        }
    )
