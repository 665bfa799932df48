"""Implicit Q-learning (IQL), Kostrikov, Nair and Levine 2021, arXiv 2110.06169.

A value V(s) regresses to a high expectile of Q over the data's actions, so that no action is ever asked for that the
data lack; the policy is cloned from the data, weighted by advantage.

    L = L_V + L_Q + L_pi,   u = min_i Qbar_i(s, a) - V(s)

    L_V    mean_B |expectile - 1(u < 0)| u^2
    L_Q    mean_B sum_i (Q_i(s, a) - r - discount * mask * V(s'))^2                a sum over the critics, not a mean
    L_pi   awr:     -mean_B min(exp(alpha (min_i Q_i(s, a) - V(s))), 100) log pi(a | s)
           ddpgbc:  -mean_B min_i Q_i(s, pi(s)) / mean |min_i Q_i| - alpha mean_B log pi(a | s)

As in the released FQL code the advantage of the policy takes the critics themselves, not their targets, and std
'constant' makes log pi half a squared error.

Metrics, means over the batch: value/loss, value/v; critic/loss; critic/q_mean, q_min, q_max of Q(s, a); actor/loss;
actor/advantage; actor/mse (of the mean action); loss (the sum); grad_norm (2-norm of all gradients).
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections

from core_jax import policies
from core_jax.networks import Value, make_encoder
from core_jax.policies import GaussianActor
from core_jax.state import Learner, step_key
from fql_jax.agents import parts
from fql_jax.agents.parts import State

HPARAMS = ('learning_rate', 'alpha', 'expectile', 'discount', 'tau')
WEIGHT_LIMIT = 100.0


@flax.struct.dataclass
class Policy:
    """What `act` reads. noise scales the standard deviation: 0 is the mean, 1 explores."""

    actor: Any
    noise: jax.Array


def value_and_critic_loss(value: Value, critic: Value, params, state, batch, hparams) -> tuple[jax.Array, dict]:
    """L_V + L_Q, the critic half of IQL, of IFQL and of IDQL."""
    observations, actions = batch['observations'], batch['actions']
    q_target = critic.apply(state.target_critic, observations, actions).min(axis=0)
    v = value.apply(params['value'], observations)[0]
    loss_value = parts.expectile_loss(q_target - v, hparams['expectile'])

    next_v = value.apply(state.nets.params['value'], batch['next_observations'])[0]
    target = batch['rewards'] + hparams['discount'] * batch['masks'] * next_v  # [B]
    q = critic.apply(params['critic'], observations, actions)  # [2, B]
    mean_loss, metrics = parts.td_loss(q, target)
    loss_critic = len(q) * mean_loss  # the sum over the ensemble
    return loss_value + loss_critic, metrics | {
        'critic/loss': loss_critic,
        'value/loss': loss_value,
        'value/v': v.mean(),
    }


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """IQL for observations [B, D], or images with an encoder, and actions [B, action_dim] in [-1, 1]."""
    value = parts.critic_network(config, 1)
    critic = parts.critic_network(config, 2)
    actor = GaussianActor(
        tuple(config.hidden_dims),
        action_dim,
        config.std,
        config.actor_layer_norm,
        encoder=make_encoder(config.encoder),
    )

    def actor_loss(params, state, batch, key, hparams):
        observations, actions, stored = batch['observations'], batch['actions'], state.nets.params
        policy = actor.apply(params['actor'], observations)
        log_prob = policies.log_prob(policy, actions)

        def smaller_q(actions):
            return critic.apply(stored['critic'], observations, actions).min(axis=0)

        advantage = smaller_q(actions) - value.apply(stored['value'], observations)[0]
        if config.actor_loss == 'awr':
            weight = jnp.minimum(jnp.exp(hparams['alpha'] * advantage), WEIGHT_LIMIT)
            loss = -jnp.mean(weight * log_prob)
        else:
            # A constant deviation says nothing of the policy: the mean climbs Q. A learned one is sampled.
            q = smaller_q(policies.sample(policy, key, float(config.std == 'state')))
            loss = -q.mean() / jax.lax.stop_gradient(jnp.abs(q).mean()) - hparams['alpha'] * log_prob.mean()
        mse = jnp.mean((policy[0] - actions) ** 2)
        return loss, {'actor/loss': loss, 'actor/advantage': advantage.mean(), 'actor/mse': mse}

    def total_loss(params, state, batch, hparams):
        loss_critic, metrics = value_and_critic_loss(value, critic, params, state, batch, hparams)
        loss_actor, actor_metrics = actor_loss(params, state, batch, step_key(state), hparams)
        loss = loss_critic + loss_actor
        return loss, metrics | actor_metrics | {'loss': loss}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        return parts.step(total_loss, state, batch, hparams)

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        return memory, policies.sample(actor.apply(policy.actor, observations), key, policy.noise)

    def init(key: jax.Array, batch: dict) -> State:
        key, value_key, critic_key, actor_key = jax.random.split(key, 4)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        params = {
            'value': value.init(value_key, observations),
            'critic': critic.init(critic_key, observations, actions),
            'actor': actor.init(actor_key, observations),
        }
        return parts.begin(key, params)

    def policy(state: State) -> Policy:
        return Policy(state.nets.params['actor'], jnp.zeros(()))

    def explore(policy: Policy) -> Policy:
        return policy.replace(noise=jnp.ones(()))

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS}, explore=explore)


def get_config() -> ml_collections.ConfigDict:
    """The settings of the released FQL code."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for all networks
            'alpha': 10.0,  # awr: inverse temperature; ddpgbc: weight of the cloning term
            'expectile': 0.9,  # of Q over the data's actions
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'encoder': '',  # of images, one a network: impala_small, impala, impala_large, impala_debug
            'critic_layer_norm': True,  # LayerNorm after each activation of value and critics
            'actor_layer_norm': False,  # the same in the policy
            'actor_loss': 'awr',  # awr, or ddpgbc
            'std': 'constant',  # of the policy: constant (1), or state (learned)
        }
    )
