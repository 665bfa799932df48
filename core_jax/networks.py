"""Networks that several papers share: MLPs, ensembles, value functions, actors, IMPALA encoders of images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from core_jax.errors import unknown

# variance_scaling(1, fan_avg, uniform) is Xavier's uniform initialisation.
xavier = nn.initializers.xavier_uniform


class MLP(nn.Module):
    """[..., D] -> [..., features[-1]]. Block order: Dense, activation, LayerNorm (after the activation).

    The last layer has neither activation nor norm unless `activate_final`. `nn.gelu` is the tanh approximation.
    """

    features: Sequence[int]
    layer_norm: bool = False
    activate_final: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.gelu
    final_scale: float = 1.0  # of the last kernel's initialisation; policies of SAC-type methods use 1e-2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        last = len(self.features) - 1
        for i, width in enumerate(self.features):
            scale = self.final_scale if i == last else 1.0
            x = nn.Dense(width, kernel_init=nn.initializers.variance_scaling(scale, 'fan_avg', 'uniform'))(x)
            if i < last or self.activate_final:
                x = self.activation(x)
                if self.layer_norm:
                    x = nn.LayerNorm()(x)
        return x


def ensemble(module: type[nn.Module], size: int) -> type[nn.Module]:
    """`size` independent copies of a module on the same input; parameters and outputs get a leading axis [size]."""
    return nn.vmap(
        module, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=None, out_axes=0, axis_size=size
    )


class Encoded(nn.Module):
    """A network that looks at observations through an encoder, if it has one: call = head(encode(observations), ...).

    Who asks about the same observations many times (an ODE of actions, many samples) encodes once and calls `head`:

        features = net.apply(params, observations, method='encode')
        out = net.apply(params, features, actions, method='head')
    """

    encoder: nn.Module | None = dataclasses.field(default=None, kw_only=True)

    def encode(self, observations: jax.Array) -> jax.Array:
        """Features [B, F]; without an encoder the observations [B, D] themselves."""
        return observations if self.encoder is None else self.encoder(observations)

    def __call__(self, observations: jax.Array, *inputs: jax.Array) -> jax.Array:
        return self.head(self.encode(observations), *inputs)


class Value(Encoded):
    """An ensemble of value functions. observations [B, ...] (and actions [B, A]) -> [ensemble, B].

    The members share one encoder, as in the released FQL.
    """

    hidden_dims: Sequence[int]
    size: int = 2
    layer_norm: bool = True

    def setup(self):
        self.ensemble = ensemble(MLP, self.size)((*self.hidden_dims, 1), layer_norm=self.layer_norm)

    def head(self, features: jax.Array, *inputs: jax.Array) -> jax.Array:
        return self.ensemble(jnp.concatenate([features, *inputs], axis=-1)).squeeze(-1)


class Actor(Encoded):
    """A network of actions: observations [B, ...] and any inputs [B, D_i] -> [B, action_dim], not squashed."""

    hidden_dims: Sequence[int]
    action_dim: int
    layer_norm: bool = False
    final_scale: float = 1.0

    def setup(self):
        self.mlp = MLP((*self.hidden_dims, self.action_dim), self.layer_norm, final_scale=self.final_scale)

    def head(self, features: jax.Array, *inputs: jax.Array) -> jax.Array:
        return self.mlp(jnp.concatenate([features, *inputs], axis=-1))


class ResnetStack(nn.Module):
    """[B, H, W, C] -> [B, H/2, W/2, features]: conv 3x3, max-pool by 2, residual blocks (relu, conv, relu, conv)."""

    features: int
    blocks: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(inputs: jax.Array) -> jax.Array:
            return nn.Conv(self.features, (3, 3), kernel_init=xavier())(inputs)

        x = nn.max_pool(conv(x), (3, 3), strides=(2, 2), padding='SAME')
        for _ in range(self.blocks):
            x = x + conv(nn.relu(conv(nn.relu(x))))
        return x


class ImpalaEncoder(nn.Module):
    """Images [B, H, W, C] with values from 0 to 255 -> [B, hidden]. The defaults are OGBench's `impala_small`."""

    stacks: Sequence[int] = (16, 32, 32)
    blocks: int = 1
    hidden: int = 512

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32) / 255.0
        for features in self.stacks:
            x = ResnetStack(features, self.blocks)(x)
        x = nn.relu(x).reshape(*x.shape[:-3], -1)
        return MLP((self.hidden,), activate_final=True)(x)


# By the names of the releases of OGBench and FQL.
ENCODERS: dict[str, Callable[[], nn.Module]] = {
    'impala_small': ImpalaEncoder,
    'impala': functools.partial(ImpalaEncoder, blocks=2),
    'impala_large': functools.partial(ImpalaEncoder, stacks=(64, 128, 128), blocks=2, hidden=1024),
    'impala_debug': functools.partial(ImpalaEncoder, stacks=(4, 4)),
}


def make_encoder(name: str) -> nn.Module | None:
    """The encoder called so; none for ''. Raises UserError for an unknown name."""
    if not name:
        return None
    if name not in ENCODERS:
        raise unknown('encoder', name, ENCODERS)
    return ENCODERS[name]()


def parameter_count(params: Any) -> int:
    """The number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
