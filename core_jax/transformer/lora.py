"""Low-rank adapters (LoRA, arXiv 2106.09685): a tree of their own beside parameters that stay as they are.

    h = W x + (alpha / r) B A x,    A normal, B zero, so that an adapter begins as nothing

`Decoder.apply({'params': params, 'lora': adapter}, ...)` reads both; `merge` makes one of them. The reference of a
preference loss is the same parameters without the adapter: there is no second model. Leaves are ours, a [L, *in, r]
and b [L, r, *out]; `save` writes PEFT's names.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from core_jax.errors import UserError, unknown
from core_jax.files import make_directory, reason, write_atomic, write_json_atomic
from core_jax.transformer.checkpoint import TABLE
from core_jax.transformer.config import Config

PyTree = Any
ATTENTION, MATRICES = ('q_proj', 'k_proj', 'v_proj', 'o_proj'), ('gate_proj', 'up_proj', 'down_proj')
FILE, SETTINGS = 'adapter_model.safetensors', 'adapter_config.json'
# Settings of PEFT that make another adapter of the same tensors, or ask for more of them.
OTHERS = ('use_rslora', 'use_dora', 'fan_in_fan_out', 'alpha_pattern', 'rank_pattern', 'modules_to_save', 'bias')
OTHERS += ('layers_to_transform', 'lora_bias')


def init(params: PyTree, key: jax.Array, *, rank: int = 16, targets: Sequence[str] = ATTENTION + MATRICES) -> PyTree:
    """An adapter that changes nothing yet. Raises UserError for an unknown target."""
    if rank < 1:
        raise UserError(f'the rank of an adapter is at least 1, got {rank}')
    adapter: dict[str, Any] = {}
    for number, name in enumerate(targets):
        block = _block(name)
        kernel = params['layers'][block][name]['kernel']
        inputs = TABLE[f'layers/{block}/{name}/kernel'].inputs
        taken, given = kernel.shape[1 : 1 + inputs], kernel.shape[1 + inputs :]
        a = jax.random.normal(jax.random.fold_in(key, number), (kernel.shape[0], *taken, rank))
        part = {'a': a / math.sqrt(math.prod(taken)), 'b': jnp.zeros((kernel.shape[0], rank, *given))}
        adapter.setdefault(block, {})[name] = part
    return {'layers': adapter}


def _block(name: str) -> str:
    if name not in ATTENTION + MATRICES:
        raise unknown('target of an adapter', name, ATTENTION + MATRICES)
    return 'self_attn' if name in ATTENTION else 'mlp'


def merge(config: Config, params: PyTree, adapter: PyTree) -> PyTree:
    """Parameters in which the adapter is part of the matrices."""
    layers = dict(params['layers'])
    for block, parts in adapter['layers'].items():
        layers[block] = dict(layers[block])
        for name, part in parts.items():
            scale = config.lora_alpha / part['a'].shape[-1]
            delta = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(part['a'], part['b']) * scale
            own = layers[block][name]
            layers[block][name] = own | {'kernel': own['kernel'] + delta.astype(own['kernel'].dtype)}
    return params | {'layers': layers}


def export(directory: Any, config: Config, adapter: PyTree, base: str = '') -> None:
    """Writes an adapter that PEFT loads. base: what it is an adapter of."""
    directory = make_directory(directory)
    tensors, rank = {}, 0
    for block, parts in adapter['layers'].items():
        for name, part in parts.items():
            a, b = np.asarray(part['a']), np.asarray(part['b'])
            layers, rank = a.shape[0], a.shape[-1]
            for layer in range(layers):
                stem = f'base_model.model.model.layers.{layer}.{block}.{name}'
                tensors[f'{stem}.lora_A.weight'] = np.ascontiguousarray(a[layer].reshape(-1, rank).T)
                tensors[f'{stem}.lora_B.weight'] = np.ascontiguousarray(b[layer].reshape(rank, -1).T)
    write_atomic(directory / FILE, save(tensors, {'format': 'pt'}))
    settings = {'peft_type': 'LORA', 'task_type': 'CAUSAL_LM', 'base_model_name_or_path': base, 'bias': 'none'}
    settings |= {'r': rank, 'lora_alpha': config.lora_alpha, 'lora_dropout': 0.0, 'fan_in_fan_out': False}
    settings['target_modules'] = [name for parts in adapter['layers'].values() for name in parts]
    write_json_atomic(directory / SETTINGS, settings)


def load(directory: Any, params: PyTree) -> tuple[float, PyTree]:
    """(lora_alpha, adapter) that `export` or PEFT wrote, for these parameters.

    Raises UserError where a file is missing, damaged, or made for another model.
    """
    directory = pathlib.Path(directory)
    where = directory / SETTINGS
    try:
        settings = json.loads(where.read_text())
        alpha, rank, targets = float(settings['lora_alpha']), int(settings['r']), settings['target_modules']
        with safe_open(directory / FILE, framework='numpy') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f'no adapter in {directory}, or a damaged one: {reason(error)}') from None
    for name in OTHERS:
        if settings.get(name) not in (None, False, 'none', [], {}):
            raise UserError(f'{where}: adapters with {name} {settings[name]!r} are not supported')
    if not isinstance(targets, list):
        raise UserError(f'{where}: target_modules is a list of names, got {targets!r}')
    for name in targets:
        if name not in ATTENTION + MATRICES:
            raise unknown(f'target of an adapter in {where}', str(name), ATTENTION + MATRICES)
    adapter = jax.tree.map(np.asarray, init(params, jax.random.key(0), rank=rank, targets=targets))
    wanted = set()
    for block, parts in adapter['layers'].items():
        for name, part in parts.items():
            for letter, leaf in part.items():
                leaf = part[letter] = leaf.copy()
                shape = (rank, leaf[0].size // rank) if letter == 'a' else (leaf[0].size // rank, rank)
                for layer in range(leaf.shape[0]):
                    key = f'base_model.model.model.layers.{layer}.{block}.{name}.lora_{letter.upper()}.weight'
                    wanted.add(key)
                    if key not in tensors:
                        raise UserError(f'{directory / FILE}: {key} is missing')
                    if tensors[key].shape != shape:
                        raise UserError(
                            f'{directory / FILE}: {key} is {list(tensors[key].shape)}, the model asks for {list(shape)}'
                        )
                    leaf[layer] = tensors[key].T.reshape(leaf[layer].shape)
    if extra := sorted(set(tensors) - wanted):
        raise UserError(f'{directory / FILE}: no place for {extra[0]}')
    return alpha, jax.tree.map(jnp.asarray, adapter)
