"""Behaviour cloning with a flow policy: the flow of FQL (arXiv 2502.02538) alone.

    L = mean_{B,A} |v(s, x_t, t) - (a - x_0)|^2

Metrics, means over the batch: loss (the above); grad_norm (2-norm of all gradients).
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
from core_jax.state import Learner, Trainable, descend, global_norm, step_key, trainable
from fql_jax.agents import parts

HPARAMS = ('learning_rate',)


@flax.struct.dataclass
class State:
    """One network, one optimizer."""

    key: jax.Array
    step: jax.Array
    flow: Trainable


@flax.struct.dataclass
class Policy:
    """What `act` reads."""

    flow: Any


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """Flow BC for observations [B, D], or images with an encoder, and actions [B, action_dim] in [-1, 1]."""
    velocity = parts.actor_network(config, action_dim)
    adam = optax.scale_by_adam()

    def flow_loss(params, batch, key):
        x_t, t, target = flow.training_pairs(key, batch['actions'])
        return flow.matching_loss(velocity.apply(params, batch['observations'], x_t, t), target)

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        loss, gradients = jax.value_and_grad(flow_loss)(state.flow.params, batch, step_key(state))
        moved = descend(state.flow, gradients, adam, hparams['learning_rate'])
        return state.replace(step=state.step + 1, flow=moved), {'loss': loss, 'grad_norm': global_norm(gradients)}

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        noise = jax.random.normal(key, (len(observations), action_dim))
        return memory, parts.flow_actions(velocity, policy.flow, observations, noise, config.flow_steps)

    def init(key: jax.Array, batch: dict) -> State:
        key, flow_key = jax.random.split(key)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        params = velocity.init(flow_key, observations, actions, actions[:, :1])
        return State(key, jnp.zeros((), jnp.int32), trainable(params, adam))

    def policy(state: State) -> Policy:
        return Policy(state.flow.params)

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS})


def get_config() -> ml_collections.ConfigDict:
    """The sizes of FQL."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),
            'encoder': '',  # of images: impala_small, impala, impala_large, impala_debug
            'actor_layer_norm': False,  # LayerNorm after each activation
            'flow_steps': 10,  # Euler steps of an action
        }
    )
