"""The image tower of CLIP (arXiv 2103.00020), from a directory that you bring: openai/clip-vit-base-patch32 or alike.

A directory as Hugging Face's: config.json, and model.safetensors or pytorch_model.bin. Pictures are prepared as CLIP's
processor does it: the short side to the size of the tower (bicubic), a square out of the middle, the mean and deviation
of CLIP's images. Of a tall page the middle alone counts, as in the paper. Parameters have the names of the checkpoint,
in Flax's layout.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from colbench_jax.similarity.weights import read
from core_jax.errors import UserError
from core_jax.files import reason

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # red green blue


class Config(NamedTuple):
    """The shape of a tower; the defaults are ViT-B/32."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    projection_dim: int = 512
    layer_norm_eps: float = 1e-5
    hidden_act: str = 'quick_gelu'


_ACTS = {'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x), 'gelu': lambda x: jax.nn.gelu(x, approximate=False)}


class Layer(nn.Module):
    """Attention and a perceptron, each behind a norm."""

    config: Config

    @nn.compact
    def __call__(self, x):
        """[B, T, hidden] -> [B, T, hidden]"""
        c = self.config
        y = _norm(c, 'layer_norm1')(x)
        heads = (*y.shape[:2], c.num_attention_heads, c.hidden_size // c.num_attention_heads)
        q, k, v = (nn.Dense(c.hidden_size, name=f'{name}_proj')(y).reshape(heads) for name in 'qkv')
        y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = x + nn.Dense(c.hidden_size, name='out_proj')(y)
        y = _ACTS[c.hidden_act](nn.Dense(c.intermediate_size, name='fc1')(_norm(c, 'layer_norm2')(x)))
        return x + nn.Dense(c.hidden_size, name='fc2')(y)


class Tower(nn.Module):
    """Normalised images [B, H, W, 3] -> embeddings [B, projection_dim]."""

    config: Config

    @nn.compact
    def __call__(self, x):
        c = self.config
        size = (c.patch_size, c.patch_size)
        patches = nn.Conv(c.hidden_size, size, size, 'VALID', use_bias=False, name='patch_embedding')(x)
        patches = patches.reshape(len(x), -1, c.hidden_size)
        first = self.param('class_embedding', nn.initializers.normal(), (c.hidden_size,))
        places = self.param('position_embedding', nn.initializers.normal(), (patches.shape[1] + 1, c.hidden_size))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, c.hidden_size)), patches], 1) + places[None]
        x = _norm(c, 'pre_layrnorm')(x)
        for number in range(c.num_hidden_layers):
            x = Layer(c, name=f'layers_{number}')(x)
        return nn.Dense(c.projection_dim, use_bias=False, name='visual_projection')(_norm(c, 'post_layernorm')(x[:, 0]))


def _norm(config: Config, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_eps, name=name)


def from_hf(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Flax's variables of a checkpoint's arrays; those of the text tower are passed over."""
    params: dict[str, Any] = {}
    for key, value in weights.items():
        if not key.startswith(('vision_model.', 'visual_projection.')) or key.endswith('position_ids'):
            continue
        *path, leaf = key.removeprefix('vision_model.').split('.')
        path = [name for name in path if name not in ('embeddings', 'encoder', 'self_attn', 'mlp')]
        if path and path[0] == 'layers':
            path[:2] = [f'layers_{path[1]}']
        if path == ['position_embedding'] or leaf == 'class_embedding':
            params[path[0] if path else leaf] = value
            continue
        if leaf == 'weight':
            leaf = 'scale' if value.ndim == 1 else 'kernel'
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        block = params
        for name in path:
            block = block.setdefault(name, {})
        block[leaf] = np.ascontiguousarray(value)
    return {'params': params}


def prepared(image: Image.Image, size: int) -> np.ndarray:
    """The middle of a picture, [size, size, 3], normalised, float32."""
    short, long = sorted(image.size)
    other = int(size * long / short)
    image = image.resize((size, other) if image.width <= image.height else (other, size), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return (pixels - np.float32(MEAN)) / np.float32(STD)


def config_of(directory: pathlib.Path) -> Config:
    """The shape that a directory's config.json names. Raises UserError where it is no CLIP's."""
    path = directory / 'config.json'
    try:
        document = json.loads(path.read_text())
        vision = document['vision_config']
        named = vision | {name: document[name] for name in ('projection_dim',) if name in document}  # of both towers
        config = Config(**{field: named[field] for field in Config._fields if field in named})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is no configuration of CLIP: {reason(error)}') from error
    if config.hidden_act not in _ACTS:
        raise UserError(f'{path}: hidden_act {config.hidden_act!r} is none of {", ".join(_ACTS)}')
    return config


def load(directory: pathlib.Path):
    """The embedding, of an image a vector [projection_dim]. Raises UserError where the directory holds no CLIP."""
    config = config_of(directory)
    tower, variables = Tower(config), from_hf(read(directory))
    side = config.image_size
    wanted = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    if jax.tree.map(lambda x: x.shape, variables) != jax.tree.map(lambda x: x.shape, wanted):
        raise UserError(f'the weights in {directory} do not have the shapes of its config.json')
    variables, apply = jax.device_put(variables), jax.jit(tower.apply)
    return lambda image: np.asarray(apply(variables, prepared(image, side)[None])[0])
