"""Published weights as parameters of our networks, by rules over their PyTorch names.

    gosai     the enhancer model of DRAKES (MDLM on Gosai's data): a Lightning checkpoint; the moving average by default
    evodiff   EvoDiff's order-agnostic models, OA-DM 38M and 640M

Kernels of convolutions (out, in, width) become (width, in, out), those of dense layers are transposed. Both check every
name and shape, so that another model is refused and not half read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from core_jax import torch_file
from core_jax.errors import UserError
from diffusion_jax.models import networks
from diffusion_jax.process import PyTree

Weights = Mapping[str, np.ndarray]

GOSAI = {'length': 200, 'tokens': 4}  # ACGT; the mask is 4. More for `masked_learner.process`
EVODIFF_ALPHABET = 'ACDEFGHIKLMNPQRSTVWYBZXJOU-*#@!'
EVODIFF = {'tokens': 20, 'mask': 28, 'inputs': 31}  # of the alphabet, the 20 amino acids are drawn


def load_gosai(path: str | os.PathLike, *, ema: bool = True) -> tuple[networks.DilatedCNN, PyTree]:
    """(network, parameters) of a checkpoint file of DRAKES, by `torch_file.read`."""
    return gosai(gosai_weights(torch_file.read(path), ema=ema))


def load_evodiff(path: str | os.PathLike) -> tuple[networks.ByteNet, PyTree]:
    """(network, parameters) of a checkpoint file of EvoDiff, by `torch_file.read`."""
    checkpoint = torch_file.read(path)
    if not isinstance(checkpoint, dict) or 'model_state_dict' not in checkpoint:
        raise UserError(f'{path} is no checkpoint of EvoDiff: it has no model_state_dict')
    return evodiff({name.removeprefix('module.'): array for name, array in checkpoint['model_state_dict'].items()})


# Gosai


def gosai_weights(checkpoint: Mapping[str, Any], *, ema: bool = True) -> dict[str, np.ndarray]:
    """The network's weights by name, without 'backbone.'; with `ema` the moving average in place of the last ones.

    The average is a list in the order of the trainable parameters: all of them but the frequencies of the noise level.
    """
    if 'state_dict' not in checkpoint:
        raise UserError('this is no Lightning checkpoint: it has no state_dict')
    prefix = 'backbone.'
    last = {name.removeprefix(prefix): w for name, w in checkpoint['state_dict'].items() if name.startswith(prefix)}
    if not ema:
        return last
    trainable = [name for name in last if name != 'time_embedder.0.W']
    average = checkpoint.get('ema')
    average = average.get('shadow_params') if isinstance(average, Mapping) else average
    if not isinstance(average, list | tuple):
        raise UserError('the checkpoint has no moving average (ema.shadow_params)')
    shapes = [np.shape(w) for w in average]
    if shapes != [last[name].shape for name in trainable]:
        raise UserError(
            f'the moving average has {len(shapes)} arrays that are not those of the {len(trainable)} weights'
        )
    return last | dict(zip(trainable, average, strict=True))


def gosai(weights: Weights) -> tuple[networks.DilatedCNN, PyTree]:
    """(network, parameters). The noise level was always given as 0, so what is computed of it is a constant a layer:
    its features are sin 0 and cos 0, whatever their frequencies.
    """
    rules = _Rules(weights, 'the enhancer model')
    layers = rules.count(r'convs\.(\d+)\.weight')
    hidden = rules.take('linear.bias').shape[0]
    width = 9
    features = np.concatenate([np.zeros(hidden // 2), np.ones(hidden // 2)]).astype(np.float32)
    rules.take('time_embedder.0.W', hidden // 2)
    kernel, bias = rules.take('time_embedder.1.weight', hidden, hidden), rules.take('time_embedder.1.bias', hidden)
    level = np.maximum(kernel @ features + bias, 0)
    inputs = rules.take('linear.weight').shape[1]
    params: dict[str, Any] = {'embed': rules.conv('linear', inputs, hidden, width)}
    for i in range(layers):
        dense = f'time_layers.{i}.dense'
        params[f'shift_{i}'] = rules.take(f'{dense}.weight', hidden, hidden) @ level + rules.take(
            f'{dense}.bias', hidden
        )
        params[f'norm_{i}'] = rules.norm(f'norms.{i}', hidden)
        params[f'conv_{i}'] = rules.conv(f'convs.{i}', hidden, hidden, width)
    params['out_0'] = rules.pointwise('final_conv.0', hidden, hidden)
    params['out_1'] = rules.pointwise('final_conv.2', hidden, inputs)
    rules.finish()
    if layers % len(networks.DILATIONS):
        raise UserError(f'{layers} convolutions are no stacks of {len(networks.DILATIONS)}')
    return networks.DilatedCNN(inputs, hidden, layers // len(networks.DILATIONS)), {'params': params}


# EvoDiff


def evodiff(weights: Weights, r: int = 128) -> tuple[networks.ByteNet, PyTree]:
    """(network, parameters). r: the largest dilation, which no weight shows; that of both published sizes."""
    rules = _Rules(weights, 'an EvoDiff OA-DM model')
    layers = rules.count(r'embedder\.layers\.(\d+)\.conv\.weight')
    tokens, embedding = rules.take('embedder.embedder.weight').shape
    width = rules.take('last_norm.weight').shape[0]
    inner = width // 2
    kernel = rules.take('embedder.layers.0.conv.weight').shape[-1]
    params: dict[str, Any] = {
        'embed': {'kernel': rules.take('embedder.embedder.weight', tokens, embedding)},
        'up': rules.pointwise('embedder.up_embedder.conv', embedding, width),
    }
    for i in range(layers):
        block = f'embedder.layers.{i}'
        params[f'norm_in_{i}'] = rules.norm(f'{block}.sequence1.0', width)
        params[f'in_{i}'] = rules.pointwise(f'{block}.sequence1.2.conv', width, inner)
        params[f'norm_conv_{i}'] = rules.norm(f'{block}.sequence1.3', inner)
        params[f'conv_{i}'] = rules.conv(f'{block}.conv', inner, inner, kernel)
        params[f'norm_out_{i}'] = rules.norm(f'{block}.sequence2.0', inner)
        params[f'out_{i}'] = rules.pointwise(f'{block}.sequence2.2.conv', inner, width)
    params['norm'] = rules.norm('last_norm', width)
    params['decoder'] = rules.pointwise('decoder.conv', width, tokens)
    rules.finish()
    return networks.ByteNet(tokens, width, layers, kernel, r, embedding), {'params': params}


class _Rules:
    """Weights by name, each of a known shape; those never asked for are found by `finish`."""

    def __init__(self, weights: Weights, model: str):
        self._weights, self._model, self._used = weights, model, set()

    def count(self, pattern: str) -> int:
        """How many layers there are: one more than the largest number in names of `pattern`."""
        found = [int(match[1]) for name in self._weights if (match := re.fullmatch(pattern, name))]
        if not found:
            raise UserError(f'these are not the weights of {self._model}: no {pattern}')
        return max(found) + 1

    def take(self, name: str, *shape: int) -> np.ndarray:
        """The weight of this name in float32; without a shape any is good."""
        if name not in self._weights:
            raise UserError(f'these are not the weights of {self._model}: there is no {name}')
        array = np.asarray(self._weights[name], np.float32)
        if shape and array.shape != shape:
            raise UserError(f'these are not the weights of {self._model}: {name} is {array.shape}, not {shape}')
        self._used.add(name)
        return array

    def conv(self, name: str, inputs: int, outputs: int, width: int) -> dict[str, np.ndarray]:
        kernel = self.take(f'{name}.weight', outputs, inputs, width)
        return {'kernel': kernel.transpose(2, 1, 0), 'bias': self.take(f'{name}.bias', outputs)}

    def pointwise(self, name: str, inputs: int, outputs: int) -> dict[str, np.ndarray]:
        """A convolution of width 1 as a dense layer."""
        conv = self.conv(name, inputs, outputs, 1)
        return conv | {'kernel': conv['kernel'][0]}

    def norm(self, name: str, size: int) -> dict[str, np.ndarray]:
        return {'scale': self.take(f'{name}.weight', size), 'bias': self.take(f'{name}.bias', size)}

    def finish(self) -> None:
        """Raises UserError where weights are left over."""
        if left := [name for name in self._weights if name not in self._used]:
            more = f' and {len(left) - 1} more' if len(left) > 1 else ''
            raise UserError(f'these are not the weights of {self._model}, which has no {left[0]}{more}')
