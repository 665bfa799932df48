"""Flow Q-learning (FQL), Park, Li and Levine 2025, arXiv 2502.02538.

Three networks: a critic ensemble Q_i(s, a), a flow policy v(s, x, t) that clones the behaviour, and a one-step policy
mu(s, z) that is distilled from the flow and alone sees the critic, so no gradient runs through the ODE.

    L = L_critic + L_flow + alpha * L_distill + L_Q

    L_critic   mean_{i,B} (Q_i(s, a) - r - discount * mask * agg_i Qbar_i(s', clip mu(s', z')))^2
    L_flow     mean_{B,A} |v(s, x_t, t) - (a - x_0)|^2
    L_distill  mean_{B,A} |mu(s, z) - clip Euler(v)(s, z)|^2          same z for teacher and student
    L_Q        -mean_B mean_i Q_i(s, clip mu(s, z))

Metrics, means over the batch: critic/loss; critic/q_mean, q_min, q_max of Q(s, a) on data; actor/flow_loss;
actor/distill_loss (how far the one-step policy is from the flow); actor/q_loss; actor/q (value of the policy's own
actions); loss (the sum above); grad_norm (2-norm of all gradients).
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax import flow
from core_jax.networks import Actor, Value
from core_jax.state import Learner, Trainable, copy, descend, global_norm, polyak, step_key, trainable

HPARAMS = ('learning_rate', 'alpha', 'discount', 'tau')


@flax.struct.dataclass
class State:
    """One Adam moves all three networks; the target critic lies outside of it."""

    key: jax.Array
    step: jax.Array
    nets: Trainable  # params: {'critic', 'flow', 'onestep'}
    target_critic: Any


@flax.struct.dataclass
class Policy:
    """What `act` reads."""

    onestep: Any


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """FQL for observations [B, D] and actions [B, action_dim] in [-1, 1]."""
    critic = Value(tuple(config.hidden_dims), size=config.num_critics, layer_norm=config.critic_layer_norm)
    velocity = Actor(tuple(config.hidden_dims), action_dim, layer_norm=config.actor_layer_norm)
    onestep = Actor(tuple(config.hidden_dims), action_dim, layer_norm=config.actor_layer_norm)
    aggregate = {'mean': jnp.mean, 'min': jnp.min}[config.q_agg]
    adam = optax.scale_by_adam()

    def policy_actions(params, observations, noise):
        return jnp.clip(onestep.apply(params, observations, noise), -1.0, 1.0)

    def critic_loss(params, state, batch, key, hparams):
        # The next action is the current one-step policy's: there is no target actor and no entropy term.
        noise = jax.random.normal(key, batch['actions'].shape)
        next_actions = policy_actions(state.nets.params['onestep'], batch['next_observations'], noise)
        next_q = aggregate(critic.apply(state.target_critic, batch['next_observations'], next_actions), axis=0)
        target = batch['rewards'] + hparams['discount'] * batch['masks'] * next_q  # [B]
        q = critic.apply(params['critic'], batch['observations'], batch['actions'])  # [num_critics, B]
        loss = jnp.mean((q - jax.lax.stop_gradient(target)[None]) ** 2)
        return loss, {'critic/loss': loss, 'critic/q_mean': q.mean(), 'critic/q_min': q.min(), 'critic/q_max': q.max()}

    def flow_loss(params, batch, key):
        x_t, t, target = flow.training_pairs(key, batch['actions'])
        return flow.matching_loss(velocity.apply(params['flow'], batch['observations'], x_t, t), target)

    def distill_and_q_loss(params, state, batch, key):
        observations = batch['observations']
        noise = jax.random.normal(key, batch['actions'].shape)
        teacher = flow.euler(
            lambda x, t: velocity.apply(state.nets.params['flow'], observations, x, t), noise, config.flow_steps
        )
        student = onestep.apply(params['onestep'], observations, noise)
        distill = jnp.mean((student - jnp.clip(teacher, -1.0, 1.0)) ** 2)  # only the teacher is clipped

        # Stored critic parameters: the gradient reaches the action alone. Always the mean, whatever q_agg says.
        q = critic.apply(state.nets.params['critic'], observations, jnp.clip(student, -1.0, 1.0)).mean(axis=0)
        q_loss = -q.mean()
        if config.normalize_q_loss:
            q_loss = q_loss / jax.lax.stop_gradient(jnp.abs(q).mean())
        return distill, q_loss, q.mean()

    def total_loss(params, state, batch, hparams):
        critic_key, flow_key, actor_key = jax.random.split(step_key(state), 3)
        loss_critic, metrics = critic_loss(params, state, batch, critic_key, hparams)
        loss_flow = flow_loss(params, batch, flow_key)
        distill, loss_q, q = distill_and_q_loss(params, state, batch, actor_key)
        loss = loss_critic + loss_flow + hparams['alpha'] * distill + loss_q
        actor = {'flow_loss': loss_flow, 'distill_loss': distill, 'q_loss': loss_q, 'q': q}
        return loss, metrics | {f'actor/{name}': value for name, value in actor.items()} | {'loss': loss}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank([batch['observations'], batch['actions'], batch['rewards'], batch['masks']], [2, 2, 1, 1])
        gradients, metrics = jax.grad(total_loss, has_aux=True)(state.nets.params, state, batch, hparams)
        # The target follows the parameters from before this step, as in the release.
        target_critic = polyak(state.nets.params['critic'], state.target_critic, hparams['tau'])
        nets = descend(state.nets, gradients, adam, hparams['learning_rate'])
        metrics['grad_norm'] = global_norm(gradients)
        return state.replace(step=state.step + 1, nets=nets, target_critic=target_critic), metrics

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        noise = jax.random.normal(key, (observations.shape[0], action_dim))  # always sampled, in evaluation too
        return memory, policy_actions(policy.onestep, observations, noise)

    def init(key: jax.Array, batch: dict) -> State:
        key, critic_key, flow_key, onestep_key = jax.random.split(key, 4)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        params = {
            'critic': critic.init(critic_key, observations, actions),
            'flow': velocity.init(flow_key, observations, actions, actions[:, :1]),
            'onestep': onestep.init(onestep_key, observations, actions),
        }
        return State(key, jnp.zeros((), jnp.int32), trainable(params, adam), copy(params['critic']))

    def policy(state: State) -> Policy:
        return Policy(state.nets.params['onestep'])

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS})


def get_config() -> ml_collections.ConfigDict:
    """The published settings."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for all networks
            'alpha': 10.0,  # weight of the distillation loss, the one knob per task (3 to 30000; see tasks.py)
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the target critic
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'num_critics': 2,  # size of the critic ensemble
            'critic_layer_norm': True,  # LayerNorm after each activation of the critic
            'actor_layer_norm': False,  # the same in the flow and the one-step policy
            'flow_steps': 10,  # Euler steps of the teacher
            'q_agg': 'mean',  # over the target critics: mean, or min (antmaze-large and -giant, Adroit)
            'normalize_q_loss': False,  # divide L_Q by mean |Q|; then alpha is 0.03 to 10
        }
    )
