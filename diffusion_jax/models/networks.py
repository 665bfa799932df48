"""Denoisers of token sequences. Each maps x [N, L, I], one-hot or anywhere on the simplex, to logits [N, L, outputs].

    DilatedCNN    of the regulatory-DNA models (Stark et al., arXiv 2402.05841; MDLM on Gosai's enhancers in DRAKES)
    ByteNet       of EvoDiff (Alamdari et al. 2023) and CARP, after Kalchbrenner et al., arXiv 1610.10099
    Transformer   small, pre-norm, bidirectional, with learned positions

None of them is told the noise level: how much of x is masked says it, and MDLM trains without (time_conditioning
off, section 3.5 of arXiv 2406.07524). LayerNorms have PyTorch's epsilon, for weights that come from there.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from core_jax.errors import unknown
from diffusion_jax.models.convolution import Conv

DILATIONS = (1, 1, 4, 16, 64)  # of the CNN's five convolutions
layer_norm = functools.partial(nn.LayerNorm, epsilon=1e-5)


def make(config: ml_collections.ConfigDict, outputs: int) -> nn.Module:
    """The network that `config.kind` names, its sizes the other fields. Raises UserError for names that are unknown."""
    if config.kind not in KINDS:
        raise unknown('network', config.kind, KINDS)
    sizes = {name: value for name, value in config.items() if name != 'kind'}
    known = [name for name in KINDS[config.kind].__annotations__ if name not in ('outputs', 'name', 'parent')]
    for name in sizes:
        if name not in known:
            raise unknown(f'size of a {config.kind}', name, known)
    return KINDS[config.kind](outputs=outputs, **sizes)


class DilatedCNN(nn.Module):
    """A residual stack of 5 `stacks` convolutions of width 9; equal dilations follow each other, as published.

    The published layers also add a function of the noise level, which is always 0 there: a constant, here `shift`.
    """

    outputs: int
    hidden: int = 128
    stacks: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(Conv(self.hidden, (9,), name='embed')(x))
        for i, dilation in enumerate(d for d in DILATIONS for _ in range(self.stacks)):
            shift = self.param(f'shift_{i}', nn.initializers.zeros, (self.hidden,))
            h = layer_norm(name=f'norm_{i}')(x + shift[None, None])
            x = x + nn.relu(Conv(self.hidden, (9,), dilation, name=f'conv_{i}')(h))
        x = nn.relu(nn.Dense(self.hidden, name='out_0')(x))
        return nn.Dense(self.outputs, name='out_1')(x)


class ByteNet(nn.Module):
    """Residual blocks norm-gelu-dense, norm-gelu-convolution, norm-gelu-dense, half as wide inside.

    Dilations double from block to block up to `r`, then begin again at 1.
    """

    outputs: int
    width: int = 1024  # d_model
    layers: int = 16
    kernel: int = 5
    r: int = 128
    embedding: int = 8  # d_embed

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gelu = functools.partial(nn.gelu, approximate=False)
        x = nn.Dense(self.embedding, use_bias=False, name='embed')(x)
        x = nn.Dense(self.width, name='up')(x)
        for i in range(self.layers):
            dilation = 2 ** (i % self.r.bit_length())
            h = nn.Dense(self.width // 2, name=f'in_{i}')(gelu(layer_norm(name=f'norm_in_{i}')(x)))
            h = gelu(layer_norm(name=f'norm_conv_{i}')(h))
            h = Conv(self.width // 2, (self.kernel,), dilation, name=f'conv_{i}')(h)
            x = x + nn.Dense(self.width, name=f'out_{i}')(gelu(layer_norm(name=f'norm_out_{i}')(h)))
        return nn.Dense(self.outputs, name='decoder')(layer_norm(name='norm')(x))


class Transformer(nn.Module):
    """Blocks x + attention(norm x), x + mlp(norm x); the length of the first input is the longest."""

    outputs: int
    width: int = 128
    layers: int = 4
    heads: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        length = x.shape[1]
        x = nn.Dense(self.width, name='embed')(x)
        positions = self.param('positions', nn.initializers.normal(0.2), (length, self.width))
        x = x + positions[None]
        for i in range(self.layers):
            h = layer_norm(name=f'norm_attention_{i}')(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads, name=f'attention_{i}')(h)
            h = nn.gelu(nn.Dense(4 * self.width, name=f'mlp_in_{i}')(layer_norm(name=f'norm_mlp_{i}')(x)))
            x = x + nn.Dense(self.width, name=f'mlp_out_{i}')(h)
        return nn.Dense(self.outputs, name='decoder')(layer_norm(name='norm')(x))


KINDS = {'cnn': DilatedCNN, 'bytenet': ByteNet, 'transformer': Transformer}


def one_hot(x: jax.Array, inputs: int) -> jax.Array:
    """Tokens [N, L] as rows [N, L, inputs]; relaxed ones [N, L, I] as they are, with zeros for the inputs beyond I."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        return jax.nn.one_hot(x, inputs)
    return jnp.pad(x, ((0, 0), (0, 0), (0, inputs - x.shape[-1])))
