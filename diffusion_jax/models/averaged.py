"""A learner of one network and one loss, whose policy is the moving average of its parameters.

Metrics: loss, mean over the batch; grad_norm, before clipping.
"""

from __future__ import annotations

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax.state import Learner, Trainable, copy, descend, global_norm, polyak, step_key, trainable
from diffusion_jax.process import PyTree


@flax.struct.dataclass
class State:
    key: jax.Array
    step: jax.Array
    net: Trainable
    ema: PyTree


def make(loss: Callable, initial: Callable, config: ml_collections.ConfigDict) -> Learner:
    """loss(params, batch, key) -> scalar; initial(key, batch) -> params.

    Of `config` it reads learning_rate and ema, which are hparams, and warmup, clip and weight_decay.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(),
        optax.add_decayed_weights(config.weight_decay),
    )

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        value, gradients = jax.value_and_grad(loss)(state.net.params, batch, step_key(state))
        warm = jnp.minimum(1.0, (state.step + 1) / max(config.warmup, 1))
        net = descend(state.net, gradients, optimizer, hparams['learning_rate'] * warm)
        # Early on the average is of the last tenth or so, since the first parameters are no part of any model.
        decay = jnp.minimum(hparams['ema'], (1 + state.step) / (10 + state.step))
        ema = polyak(net.params, state.ema, 1.0 - decay)
        return State(state.key, state.step + 1, net, ema), {'loss': value, 'grad_norm': global_norm(gradients)}

    def init(key: jax.Array, batch: dict) -> State:
        key, net_key = jax.random.split(key)
        params = initial(net_key, batch)
        return State(key, jnp.zeros((), jnp.int32), trainable(params, optimizer), copy(params))

    hparams = {name: float(config[name]) for name in ('learning_rate', 'ema')}
    return Learner(init, update, None, lambda state: state.ema, hparams)
