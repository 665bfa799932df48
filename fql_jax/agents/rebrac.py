"""ReBRAC, Tarasov et al. 2023, arXiv 2305.09836: TD3+BC with the cloning term in actor and critic.

A deterministic policy pi(s) = tanh(.), its target copy, and twin critics:

    L_Q    mean_{i,B} (Q_i(s, a) - r - discount * mask * (min_i Qbar_i(s', a') - alpha_critic |a' - a_next|^2))^2
           a' = clip(pibar(s') + clip(noise * eps, -noise_clip, noise_clip), -1, 1),   eps ~ N(0, I)
    L_pi   -mean_B min_i Q_i(s, pi(s)) / mean |min_i Q_i| + alpha_actor mean_B |pi(s) - a|^2

|.|^2 sums over the action dimensions. Policy and both targets move at every `actor_freq`-th update only. a_next is the
data's action in s'; the last transition of a trajectory has none and no such term. Policy and critics have an Adam of
their own, and an update that leaves the policy alone leaves its moments alone. `released` is as in the released FQL
code instead: a_next there is the first action of the next trajectory, and since one Adam holds all networks, its
momentum moves the policy at the other updates too.

Metrics, means over the batch: critic/loss; critic/q_mean, q_min, q_max of Q(s, a); actor/loss, actor/q, actor/bc_loss
(|pi(s) - a|^2), all of the updates that move the policy and of the others alike; grad_norm (2-norm of all gradients).
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax.state import Learner, Trainable, copy, descend, global_norm, polyak, step_key, trainable
from fql_jax.agents import parts

HPARAMS = ('learning_rate', 'alpha_actor', 'alpha_critic', 'discount', 'tau')


@flax.struct.dataclass
class State:
    """Two networks with an optimizer each, and their targets."""

    key: jax.Array
    step: jax.Array
    critic: Trainable
    actor: Trainable
    target_critic: Any
    target_actor: Any


@flax.struct.dataclass
class Policy:
    """What `act` reads. noise 0 is pi itself, 1 explores with the deviation `config.noise`."""

    actor: Any
    noise: jax.Array


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """ReBRAC for observations [B, D], or images with an encoder, and actions [B, action_dim] in [-1, 1]."""
    critic = parts.critic_network(config, config.num_critics)
    actor = parts.actor_network(config, action_dim, final_scale=1e-2)
    adam = optax.scale_by_adam()

    def policy_actions(params, observations):
        return jnp.tanh(actor.apply(params, observations))

    def critic_loss(params, state, batch, key, hparams):
        noise = config.noise * jax.random.normal(key, batch['actions'].shape)
        noise = jnp.clip(noise, -config.noise_clip, config.noise_clip)
        next_actions = jnp.clip(policy_actions(state.target_actor, batch['next_observations']) + noise, -1.0, 1.0)
        next_q = critic.apply(state.target_critic, batch['next_observations'], next_actions)
        distance = jnp.sum((next_actions - batch['next_actions']) ** 2, axis=-1)
        if not config.released:
            distance = distance * batch['next_valid']
        next_value = parts.aggregate(next_q, config.q_agg) - hparams['alpha_critic'] * distance
        target = batch['rewards'] + hparams['discount'] * batch['masks'] * next_value  # [B]
        return parts.td_loss(critic.apply(params, batch['observations'], batch['actions']), target)

    def actor_loss(params, state, batch, hparams):
        actions = policy_actions(params, batch['observations'])
        # Stored critic parameters: the gradient reaches the actions alone.
        q = critic.apply(state.critic.params, batch['observations'], actions).min(axis=0)
        bc_loss = jnp.mean(jnp.sum((actions - batch['actions']) ** 2, axis=-1))
        loss = -q.mean() / jax.lax.stop_gradient(jnp.abs(q).mean()) + hparams['alpha_actor'] * bc_loss
        return loss, {'actor/loss': loss, 'actor/q': q.mean(), 'actor/bc_loss': bc_loss}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        grad_critic, metrics = jax.grad(critic_loss, has_aux=True)(
            state.critic.params, state, batch, step_key(state), hparams
        )
        grad_actor, actor_metrics = jax.grad(actor_loss, has_aux=True)(state.actor.params, state, batch, hparams)
        full = (state.step + 1) % config.actor_freq == 0

        rate, tau = hparams['learning_rate'], hparams['tau']
        new_critic = descend(state.critic, grad_critic, adam, rate)
        if config.released:
            seen = jax.tree.map(lambda g: jnp.where(full, g, 0.0), grad_actor)
            new_actor = descend(state.actor, seen, adam, rate)
        else:
            new_actor = _where(full, descend(state.actor, grad_actor, adam, rate), state.actor)
        targets = (state.target_critic, state.target_actor)
        moved = polyak((state.critic.params, state.actor.params), targets, tau)
        target_critic, target_actor = _where(full, moved, targets)

        metrics |= actor_metrics | {'grad_norm': global_norm((grad_critic, grad_actor))}
        return State(state.key, state.step + 1, new_critic, new_actor, target_critic, target_actor), metrics

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        noise = config.noise * jax.random.normal(key, (len(observations), action_dim))
        noise = jnp.clip(noise, -config.noise_clip, config.noise_clip)
        return memory, jnp.clip(policy_actions(policy.actor, observations) + policy.noise * noise, -1.0, 1.0)

    def init(key: jax.Array, batch: dict) -> State:
        key, critic_key, actor_key = jax.random.split(key, 3)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        critic_params = critic.init(critic_key, observations, actions)
        actor_params = actor.init(actor_key, observations)
        return State(
            key,
            jnp.zeros((), jnp.int32),
            trainable(critic_params, adam),
            trainable(actor_params, adam),
            copy(critic_params),
            copy(actor_params),
        )

    def policy(state: State) -> Policy:
        return Policy(state.actor.params, jnp.zeros(()))

    def explore(policy: Policy) -> Policy:
        return policy.replace(noise=jnp.ones(()))

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS}, explore=explore)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def get_config() -> ml_collections.ConfigDict:
    """The settings of the released FQL code."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for both networks
            'alpha_actor': 0.1,  # weight of the cloning term in the policy's loss; per task
            'alpha_critic': 0.01,  # weight of the cloning term in the critics' target; per task
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the targets
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'encoder': '',  # of images, one a network: impala_small, impala, impala_large, impala_debug
            'num_critics': 2,  # size of the critic ensemble
            'critic_layer_norm': True,  # LayerNorm after each activation of the critics
            'actor_layer_norm': False,  # the same in the policy
            'q_agg': 'min',  # over the target critics: min, or mean
            'actor_freq': 2,  # updates of the critics for one of the policy
            'noise': 0.2,  # deviation of the noise on the target's actions, and when exploring
            'noise_clip': 0.5,  # its bound
            'released': False,  # the released FQL code's next actions at trajectory ends, and its shared momentum
        }
    )
