"""Behaviour cloning (BC): maximum likelihood of the data's actions under a Gaussian policy.

    L = -mean_B log N(a; mu(s), sigma(s)^2)

With std 'constant', sigma = 1 and L is half the squared error of mu, summed over the action dimensions, plus a
constant; with 'state', log sigma(s) is a second output, clipped.

Metrics, means over the batch: loss (the negative log-likelihood above); mse (of mu, over rows and dimensions); std
(sigma, over rows and dimensions); grad_norm (2-norm of all gradients).
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax import policies
from core_jax.networks import make_encoder
from core_jax.policies import GaussianActor
from core_jax.state import Learner, Trainable, descend, global_norm, trainable

HPARAMS = ('learning_rate',)


@flax.struct.dataclass
class State:
    """One network, one optimizer."""

    key: jax.Array
    step: jax.Array
    actor: Trainable


@flax.struct.dataclass
class Policy:
    """What `act` reads. noise multiplies sigma: 0 is the mean, `policy.replace(noise=1.0)` samples the clone."""

    actor: Any
    noise: jax.Array


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """BC for observations [B, D], or images [B, H, W, C] with an encoder, and actions [B, action_dim] in [-1, 1]."""
    net = GaussianActor(
        tuple(config.hidden_dims),
        action_dim,
        config.std,
        config.layer_norm,
        (config.log_std_min, config.log_std_max),
        make_encoder(config.encoder),
    )
    adam = optax.scale_by_adam()

    def likelihood_loss(params, batch):
        mean, std = net.apply(params, batch['observations'])
        loss = -policies.log_prob((mean, std), batch['actions']).mean()
        return loss, {'loss': loss, 'mse': jnp.mean((mean - batch['actions']) ** 2), 'std': std.mean()}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank([batch['observations'], batch['actions']], [4 if config.encoder else 2, 2])
        gradients, metrics = jax.grad(likelihood_loss, has_aux=True)(state.actor.params, batch)
        metrics['grad_norm'] = global_norm(gradients)
        moved = descend(state.actor, gradients, adam, hparams['learning_rate'])
        return state.replace(step=state.step + 1, actor=moved), metrics

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        return memory, policies.sample(net.apply(policy.actor, observations), key, policy.noise)

    def init(key: jax.Array, batch: dict) -> State:
        key, actor_key = jax.random.split(key)
        params = net.init(actor_key, batch['observations'][:1])
        return State(key, jnp.zeros((), jnp.int32), trainable(params, adam))

    def policy(state: State) -> Policy:
        return Policy(state.actor.params, jnp.zeros(()))

    def explore(policy: Policy) -> Policy:
        return policy.replace(noise=jnp.ones(()))

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS}, explore=explore)


def get_config() -> ml_collections.ConfigDict:
    """Common settings."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),
            'encoder': '',  # of images: impala_small, impala, impala_large, impala_debug; '' for vectors
            'layer_norm': False,  # LayerNorm after each activation
            'std': 'state',  # state: a second output of the network, or constant: 1, which is the squared error
            'log_std_min': -5.0,  # log_std is clipped to this range
            'log_std_max': 2.0,
        }
    )
