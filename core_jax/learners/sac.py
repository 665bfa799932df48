"""Soft actor-critic (SAC), Haarnoja et al. 2018, arXiv 1812.05905.

A tanh-Gaussian policy pi(a | s), twin critics Q_i(s, a) with target copies Qbar_i, and a temperature alpha that holds
the entropy of the policy at H = -A (for A action dimensions). With a' ~ pi(s') and a ~ pi(s):

    J_Q      mean_{i,B} (Q_i(s, a_data) - r - discount * mask * (min_i Qbar_i(s', a') - alpha log pi(a' | s')))^2
    J_pi     mean_B alpha log pi(a | s) - min_i Q_i(s, a)
    J_alpha  mean_B alpha * (-log pi(a | s) - H)

One update: critics, policy (which sees the moved critics), temperature, targets. Published variants are switches:

    target_entropy    full: H = -A (the paper, Stable-Baselines3, CleanRL);  half: H = -A/2 (jaxrl, BRO, RLPD)
    temperature_loss  alpha: as above (the paper, jaxrl);  log_alpha: log(alpha) in front (Stable-Baselines3)
    actor_agg         min: as above;  mean: over the critics (RLPD)
    backup_entropy    whether the target of the critics has the entropy term (RLPD: not always)

Metrics, means over the batch: critic/loss; critic/q_mean, q_min, q_max of Q(s, a_data); actor/loss; actor/entropy, the
estimate -log pi(a | s); temperature/loss; temperature/alpha, as used in this update; grad_norm (2-norm of all
gradients).
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax.distributions import TanhGaussian
from core_jax.networks import MLP, ensemble
from core_jax.state import Learner, Trainable, copy, descend, global_norm, polyak, step_key, trainable

HPARAMS = ('actor_learning_rate', 'critic_learning_rate', 'temperature_learning_rate', 'discount', 'tau')
AGGREGATES = {'min': jnp.min, 'mean': jnp.mean}


@flax.struct.dataclass
class State:
    """Three optimizers; the targets of the critics lie outside of them."""

    key: jax.Array
    step: jax.Array
    actor: Trainable
    critic: Trainable
    temperature: Trainable  # params: log(alpha), a scalar
    target_critic: Any


@flax.struct.dataclass
class Policy:
    """What `act` reads. noise scales the standard deviation: 0 is the mode, 1 explores."""

    actor: Any
    noise: jax.Array


def make(config: ml_collections.ConfigDict, action_dim: int, critic: nn.Module | None = None) -> Learner:
    """SAC for observations [B, D] and actions [B, action_dim] in [-1, 1].

    critic: another ensemble than that of config.hidden_dims: [B, D + A] -> [num_critics, B, 1].
    """
    activation = {'relu': nn.relu, 'gelu': nn.gelu}[config.activation]
    hidden = tuple(config.hidden_dims)
    critic_net = critic or ensemble(MLP, config.num_critics)(
        (*hidden, 1), config.critic_layer_norm, activation=activation
    )
    actor_net = MLP((*hidden, 2 * action_dim), activation=activation, final_scale=1e-2)
    target_agg, actor_agg = AGGREGATES[config.target_agg], AGGREGATES[config.actor_agg]
    target_entropy = {'full': -1.0, 'half': -0.5}[config.target_entropy] * action_dim
    in_front = {'alpha': jnp.exp, 'log_alpha': lambda log_alpha: log_alpha}[config.temperature_loss]
    adam = optax.scale_by_adam()

    def critics(params, observations, actions):
        return critic_net.apply(params, jnp.concatenate([observations, actions], axis=-1)).squeeze(-1)  # [N, B]

    def actor(params, observations):
        mean, log_std = jnp.split(actor_net.apply(params, observations), 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std, config.log_std_min, config.log_std_max))

    def critic_loss(params, state, batch, key, hparams):
        next_actions, next_log_prob = actor(state.actor.params, batch['next_observations']).sample_and_log_prob(key)
        next_value = target_agg(critics(state.target_critic, batch['next_observations'], next_actions), axis=0)
        if config.backup_entropy:
            next_value = next_value - jnp.exp(state.temperature.params) * next_log_prob
        target = batch['rewards'] + hparams['discount'] * batch['masks'] * next_value  # [B]
        q = critics(params, batch['observations'], batch['actions'])  # [N, B]
        loss = jnp.mean((q - target[None]) ** 2)  # params appear in q alone
        return loss, {'critic/loss': loss, 'critic/q_mean': q.mean(), 'critic/q_min': q.min(), 'critic/q_max': q.max()}

    def actor_loss(params, critic_params, log_alpha, batch, key):
        actions, log_prob = actor(params, batch['observations']).sample_and_log_prob(key)
        q = actor_agg(critics(critic_params, batch['observations'], actions), axis=0)
        loss = jnp.mean(jnp.exp(log_alpha) * log_prob - q)
        return loss, {'actor/loss': loss, 'actor/entropy': -log_prob.mean()}

    def temperature_loss(log_alpha, entropy):
        loss = in_front(log_alpha) * (entropy - target_entropy)
        return loss, {'temperature/loss': loss, 'temperature/alpha': jnp.exp(log_alpha)}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank([batch['observations'], batch['actions'], batch['rewards'], batch['masks']], [2, 2, 1, 1])
        critic_key, actor_key = jax.random.split(step_key(state))

        grad_critic, metrics = jax.grad(critic_loss, has_aux=True)(
            state.critic.params, state, batch, critic_key, hparams
        )
        critic = descend(state.critic, grad_critic, adam, hparams['critic_learning_rate'])

        grad_actor, actor_metrics = jax.grad(actor_loss, has_aux=True)(
            state.actor.params, critic.params, state.temperature.params, batch, actor_key
        )
        moved_actor = descend(state.actor, grad_actor, adam, hparams['actor_learning_rate'])

        grad_temperature, temperature_metrics = jax.grad(temperature_loss, has_aux=True)(
            state.temperature.params, actor_metrics['actor/entropy']
        )
        temperature = descend(state.temperature, grad_temperature, adam, hparams['temperature_learning_rate'])

        metrics |= actor_metrics | temperature_metrics
        metrics['grad_norm'] = global_norm((grad_critic, grad_actor, grad_temperature))
        target_critic = polyak(critic.params, state.target_critic, hparams['tau'])
        return State(state.key, state.step + 1, moved_actor, critic, temperature, target_critic), metrics

    def td_error(state: State, batch: dict, key: jax.Array, hparams: dict) -> jax.Array:
        return critic_loss(state.critic.params, state, batch, key, hparams)[0]

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        return memory, actor(policy.actor, observations).sample(key, policy.noise)

    def init(key: jax.Array, batch: dict) -> State:
        key, actor_key, critic_key = jax.random.split(key, 3)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        critic_params = critic_net.init(critic_key, jnp.concatenate([observations, actions], axis=-1))
        return State(
            key,
            jnp.zeros((), jnp.int32),
            trainable(actor_net.init(actor_key, observations), adam),
            trainable(critic_params, adam),
            trainable(jnp.log(jnp.float32(config.initial_alpha)), adam),
            copy(critic_params),
        )

    def policy(state: State) -> Policy:
        return Policy(state.actor.params, jnp.zeros(()))

    def explore(policy: Policy) -> Policy:
        return policy.replace(noise=jnp.ones(()))

    hparams = {name: float(config[name]) for name in HPARAMS}
    return Learner(init, update, act, policy, hparams, explore=explore, td_error=td_error)


def get_config() -> ml_collections.ConfigDict:
    """The published settings."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'actor_learning_rate': 3e-4,  # Adam's step size, one for each optimizer
            'critic_learning_rate': 3e-4,
            'temperature_learning_rate': 3e-4,
            'discount': 0.99,
            'tau': 0.005,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (256, 256),  # of every network
            'activation': 'relu',  # relu, or gelu (RLPD in the FQL release)
            'num_critics': 2,  # size of the critic ensemble
            'critic_layer_norm': False,  # LayerNorm after each activation of the critics (RLPD: True)
            'log_std_min': -5.0,  # log_std of the policy is clipped to this range
            'log_std_max': 2.0,
            'initial_alpha': 1.0,  # temperature at the start
            'target_entropy': 'full',  # full: -A, or half: -A/2
            'temperature_loss': 'alpha',  # alpha, or log_alpha
            'target_agg': 'min',  # over the target critics: min, or mean
            'actor_agg': 'min',  # over the critics that the policy climbs: min, or mean (RLPD)
            'backup_entropy': True,  # the entropy term in the target of the critics
        }
    )
