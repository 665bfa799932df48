"""A small U-Net for images, told how noisy they are: what `gaussian` denoises with.

After DDPM's (arXiv 2006.11239, appendix B) and EDM's: residual blocks of two convolutions, scaled and shifted by the
noise's embedding, attention where the image is smallest, skips from the way down to the way up.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from core_jax.errors import UserError
from diffusion_jax.models.convolution import Conv


def embedding(numbers: jax.Array, size: int) -> jax.Array:
    """Sines and cosines [N, size] of numbers [N] of the order of 1, at frequencies from 1/4 to 16 turns."""
    frequencies = 2 * jnp.pi * 2.0 ** jnp.linspace(-2, 4, size // 2)
    angles = numbers[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def folded(x: jax.Array, size: int) -> jax.Array:
    """[N, H, W, C] -> [N, H / size, W / size, size^2 C]: squares of pixels become channels."""
    rows, height, width, channels = x.shape
    x = x.reshape(rows, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(rows, height // size, width // size, size * size * channels)


def unfolded(x: jax.Array, size: int) -> jax.Array:
    """What `folded` was given."""
    rows, height, width, channels = x.shape
    x = x.reshape(rows, height, width, size, size, channels // size**2).swapaxes(2, 3)
    return x.reshape(rows, height * size, width * size, channels // size**2)


def norm(x: jax.Array) -> jax.Array:
    """Group norm, with groups of 8 channels or one."""
    return nn.GroupNorm(num_groups=None, group_size=8 if x.shape[-1] % 8 == 0 else x.shape[-1])(x)


class Block(nn.Module):
    """[N, H, W, C] and the noise's embedding [N, E] -> [N, H, W, features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        y = Conv(self.features, (3, 3))(nn.silu(norm(x)))
        scale, shift = jnp.split(nn.Dense(2 * self.features)(noise)[:, None, None], 2, -1)
        y = nn.silu(norm(y) * (1 + scale) + shift)
        y = Conv(self.features, (3, 3), kernel_init=nn.initializers.zeros)(y)
        return y + (x if x.shape[-1] == self.features else nn.Dense(self.features)(x))


class Attention(nn.Module):
    """Self-attention over the pixels of [N, H, W, C], one head, added to its input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pixels = norm(x).reshape(x.shape[0], -1, x.shape[-1])
        query, key, value = jnp.split(nn.Dense(3 * x.shape[-1])(pixels), 3, -1)
        weights = nn.softmax(jnp.einsum('nqc,nkc->nqk', query, key) / jnp.sqrt(x.shape[-1]))
        out = nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(weights @ value)
        return x + out.reshape(x.shape)


class UNet(nn.Module):
    """Images [N, H, W, C] and a number [N] that says their noise -> [N, H, W, C].

    channels: at full size, times `multipliers` at each halving of it. blocks: on each size, down and up. patch: squares
    of so many pixels are made one of the network's, which saves patch^2 of the work.
    """

    channels: int = 32
    multipliers: Sequence[int] = (1, 2)
    blocks: int = 1
    patch: int = 1

    @nn.compact
    def __call__(self, images: jax.Array, noise: jax.Array) -> jax.Array:
        _, height, width, colours = images.shape
        unit = self.patch * 2 ** (len(self.multipliers) - 1)
        if height % unit or width % unit:
            raise UserError(f'a U-Net of {len(self.multipliers)} sizes needs images in multiples of {unit} pixels')
        noise = nn.silu(nn.Dense(4 * self.channels)(embedding(noise, 2 * self.channels)))
        noise = nn.silu(nn.Dense(4 * self.channels)(noise))

        x = Conv(self.channels, (3, 3))(folded(images, self.patch))
        skips = [x]
        for i, multiplier in enumerate(self.multipliers):
            if i > 0:
                x = nn.Dense(x.shape[-1])(folded(x, 2))
                skips.append(x)
            for _ in range(self.blocks):
                x = Block(multiplier * self.channels)(x, noise)
                skips.append(x)

        x = Block(x.shape[-1])(x, noise)
        x = Attention()(x)
        x = Block(x.shape[-1])(x, noise)

        for i, multiplier in reversed(list(enumerate(self.multipliers))):
            for _ in range(self.blocks + 1):
                x = Block(multiplier * self.channels)(jnp.concatenate([x, skips.pop()], -1), noise)
            if i > 0:
                x = Conv(x.shape[-1], (3, 3))(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))

        x = Conv(self.patch**2 * colours, (3, 3), kernel_init=nn.initializers.zeros)(nn.silu(norm(x)))
        return unfolded(x, self.patch)
