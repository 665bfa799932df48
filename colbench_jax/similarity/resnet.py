"""The image embedding of AugNet (arXiv 2107.13929), whose weights ship in the package `imgsim`: a ResNet-50 and tanh.

The network is that of torchvision (He et al. 2016, with the stride on the 3x3 convolution) with a last layer of 768
units. The package resizes the short side to 350 px; here a screenshot is squeezed to 224 x 224, so that all pages have
one shape. Parameters have the names of the checkpoint, without its `module.pre.`, in Flax's layout.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from colbench_jax.similarity.weights import read
from core_jax.errors import UserError

SIDE = 224  # px
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red green blue


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and a way past them."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, H/stride, W/stride, 4 width]"""
        y = nn.relu(_norm('bn1')(_conv(self.width, 1, 1, 'conv1')(x)))
        y = nn.relu(_norm('bn2')(_conv(self.width, 3, self.stride, 'conv2')(y)))
        y = _norm('bn3')(_conv(4 * self.width, 1, 1, 'conv3')(y))
        if y.shape != x.shape:
            x = _norm('downsample_1')(_conv(4 * self.width, 1, self.stride, 'downsample_0')(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Normalised images [B, H, W, 3] -> embeddings [B, features] in -1..1."""

    stages: tuple[int, ...] = (3, 4, 6, 3)  # blocks in each
    width: int = 64
    features: int = 768

    @nn.compact
    def __call__(self, x):
        x = nn.relu(_norm('bn1')(_conv(self.width, 7, 2, 'conv1')(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Bottleneck(self.width * 2**stage, stride, name=f'layer{stage + 1}_{block}')(x)
        return jnp.tanh(nn.Dense(self.features, name='fc')(x.mean((1, 2))))


def _conv(features: int, size: int, stride: int, name: str) -> nn.Conv:
    around = (size // 2, size // 2)
    return nn.Conv(features, (size, size), (stride, stride), (around, around), use_bias=False, name=name)


def _norm(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name)


_LEAVES = {'running_mean': ('batch_stats', 'mean'), 'running_var': ('batch_stats', 'var'), 'bias': ('params', 'bias')}


def from_torch(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Flax's variables {'params', 'batch_stats'} of a checkpoint's arrays. Keys: such as 'layer1.0.conv1.weight'."""
    found: dict[str, Any] = {'params': {}, 'batch_stats': {}}
    for key, value in weights.items():
        *path, leaf = key.split('.')
        if leaf == 'num_batches_tracked':
            continue
        if leaf == 'weight':
            collection, leaf = 'params', 'scale' if value.ndim == 1 else 'kernel'
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        else:
            collection, leaf = _LEAVES[leaf]
        block = found[collection]
        for name in re.sub(r'\.(\d+)', r'_\1', '.'.join(path)).split('.'):  # layer1.0.downsample.1: two names
            block = block.setdefault(name, {})
        block[leaf] = np.ascontiguousarray(value)
    return found


def prepared(image: Image.Image) -> np.ndarray:
    """A picture, squeezed to [224, 224, 3] and normalised, float32."""
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 255
    return (pixels - np.float32(MEAN)) / np.float32(STD)


def load(directory: pathlib.Path):
    """The embedding, of an image a vector [768], from the checkpoint that colbench_jax.fetch made. Raises UserError."""
    variables, network = from_torch(read(directory)), ResNet()
    wanted = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    if jax.tree.map(lambda x: x.shape, variables) != jax.tree.map(lambda x: x.shape, wanted):
        raise UserError(f'{directory} does not hold the weights of imgsim; remove it and fetch them again')
    variables, apply = jax.device_put(variables), jax.jit(network.apply)
    return lambda image: np.asarray(apply(variables, prepared(image)[None])[0])
