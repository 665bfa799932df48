"""Augmentation of image batches, inside jit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from core_jax.errors import UserError


def random_crop(
    key: jax.Array, batch: dict[str, Any], probability: jax.Array | float, padding: int = 3
) -> dict[str, Any]:
    """With `probability`, every image of the batch moves by up to `padding` pixels each way, its edge repeated.

    One coin decides for the whole batch, as in the released FQL; the offsets are drawn for each image, and observations
    and next_observations [B, H, W, C] share them. Raises UserError where the observations are no images.
    """
    shape = batch['observations'].shape
    if len(shape) != 4:
        raise UserError(f'random crops need images [B, H, W, C]; these observations have shape {shape}')
    coin_key, offset_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (shape[0], 2), 0, 2 * padding + 1)
    # Cut in the middle, an image is itself again: no branch is needed.
    offsets = jnp.where(jax.random.bernoulli(coin_key, probability), offsets, padding)

    def crop(images):
        padded = jnp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)], mode='edge')
        return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), shape[1:]))(padded, offsets)

    return batch | {name: crop(batch[name]) for name in ('observations', 'next_observations')}
