"""What the agents share: state and step, networks, sampling from a flow, losses of critics, the best of N samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax import flow
from core_jax.networks import Actor, Value, make_encoder
from core_jax.state import Trainable, copy, descend, global_norm, polyak, trainable

ADAM = optax.scale_by_adam()


@flax.struct.dataclass
class State:
    """One Adam moves all networks; the target critics lie outside of it."""

    key: jax.Array
    step: jax.Array
    nets: Trainable  # params: {'critic': ..., and the agent's own}
    target_critic: Any


def begin(key: jax.Array, params: dict[str, Any]) -> State:
    """The state before the first update; the target critics are a copy of the critics."""
    return State(key, jnp.zeros((), jnp.int32), trainable(params, ADAM), copy(params['critic']))


def step(total_loss: Callable, state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
    """One step on total_loss(params, state, batch, hparams) -> (loss, metrics).

    The target critics follow the parameters from before the step, as in the release.
    """
    gradients, metrics = jax.grad(total_loss, has_aux=True)(state.nets.params, state, batch, hparams)
    target_critic = polyak(state.nets.params['critic'], state.target_critic, hparams['tau'])
    nets = descend(state.nets, gradients, ADAM, hparams['learning_rate'])
    metrics['grad_norm'] = global_norm(gradients)
    return state.replace(step=state.step + 1, nets=nets, target_critic=target_critic), metrics


def critic_network(config: ml_collections.ConfigDict, size: int) -> Value:
    """`size` value functions of (observations, actions) -> [size, B]; without actions, of the state."""
    return Value(
        tuple(config.hidden_dims),
        size=size,
        layer_norm=config.critic_layer_norm,
        encoder=make_encoder(config.encoder),
    )


def actor_network(config: ml_collections.ConfigDict, action_dim: int, final_scale: float = 1.0) -> Actor:
    """A network of (observations, anything else) -> [B, action_dim]."""
    return Actor(
        tuple(config.hidden_dims),
        action_dim,
        layer_norm=config.actor_layer_norm,
        final_scale=final_scale,
        encoder=make_encoder(config.encoder),
    )


def flow_actions(velocity: Actor, params: Any, observations: jax.Array, noise: jax.Array, steps: int) -> jax.Array:
    """Actions [B, A]: Euler's integral of velocity(s, x, t) from `noise`, clipped once, at the end."""
    features = velocity.apply(params, observations, method='encode')
    x = flow.euler(lambda x, t: velocity.apply(params, features, x, t, method='head'), noise, steps)
    return jnp.clip(x, -1.0, 1.0)


def flow_samples(velocity: Actor, params: Any, observations: jax.Array, noise: jax.Array, steps: int) -> jax.Array:
    """`flow_actions` for each of several noises [N, B, A] -> [N, B, A]."""
    return jax.vmap(lambda z: flow_actions(velocity, params, observations, z, steps))(noise)


def q_of_samples(critic: Value, params: Any, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Q of several actions for each observation, [N, B, A] -> [ensemble, N, B]; the observations are encoded once."""
    features = critic.apply(params, observations, method='encode')
    return jax.vmap(lambda a: critic.apply(params, features, a, method='head'), out_axes=1)(actions)


def aggregate(q: jax.Array, how: str, pessimism: jax.Array | float = 0.0) -> jax.Array:
    """[ensemble, B] -> [B]: 'min', or 'mean' less `pessimism` standard deviations over the ensemble."""
    if how == 'min':
        return q.min(axis=0)
    return q.mean(axis=0) - pessimism * q.std(axis=0)


def td_loss(q: jax.Array, target: jax.Array, weight: jax.Array | float = 1.0) -> tuple[jax.Array, dict[str, Any]]:
    """Squared error of q [ensemble, B] to the constant target [B], mean over both axes, and metrics of q.

    weight [B]: 0 masks a row out (the mean is still over all rows, as in the releases).
    """
    loss = jnp.mean(jnp.atleast_2d(weight) * (q - jax.lax.stop_gradient(target)[None]) ** 2)
    return loss, {'critic/loss': loss, 'critic/q_mean': q.mean(), 'critic/q_min': q.min(), 'critic/q_max': q.max()}


def expectile_loss(difference: jax.Array, expectile: float) -> jax.Array:
    """mean of |expectile - 1(u < 0)| u^2: its minimiser over v of u = q - v is the expectile of q (IQL, eq. 5)."""
    weight = jnp.where(difference >= 0, expectile, 1.0 - expectile)
    return jnp.mean(weight * difference**2)


def pick_best(actions: jax.Array, q: jax.Array) -> jax.Array:
    """The candidate with the highest value, row by row: actions [N, B, A], q [N, B] -> [B, A]."""
    best = jnp.argmax(q, axis=0)
    return jnp.take_along_axis(actions, best[None, :, None], axis=0)[0]


def rank_of_observations(config: ml_collections.ConfigDict) -> int:
    """[B, D] without an encoder, [B, H, W, C] with one."""
    return 4 if config.encoder else 2
