"""Checkpoints with Hugging Face's names: a directory of config.json and safetensors, read straight into shards.

    config, params = load(directory)            save(directory, config, params)

A stacked leaf [L, ...] is read a layer at a time, and of each tensor only what a device holds, so that a host never
has a whole model in memory. Hugging Face writes matrices [out, in], we [in, out], with heads as axes of their own:
`TABLE` says which is which. Nothing in a checkpoint is ever run: safetensors are numbers and names.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_dtypes  # noqa: F401  # makes bfloat16 a name that numpy knows
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core_jax.errors import UserError, unknown
from core_jax.files import (
    cannot_write,
    make_directory,
    reason,
    remove_leftovers,
    sync_directory,
    sync_file,
    temporary_name,
    write_json_atomic,
)
from core_jax.sharding import path_name
from core_jax.transformer.config import Config, from_hf, to_hf

PyTree = Any
CONFIG, FILE, INDEX = 'config.json', 'model.safetensors', 'model.safetensors.index.json'
SHARD_BYTES = 5 * 10**9
IGNORED = re.compile(r'rotary_emb\.inv_freq$')  # buffers that old checkpoints hold


class Entry(NamedTuple):
    """How a leaf is written: name, with {} for the layer; how many of its axes are inputs; None: as it is."""

    name: str
    inputs: int | None


_LAYER = 'model.layers.{}.'
TABLE = {  # path of ours: what Hugging Face writes
    'embed_tokens/embedding': Entry('model.embed_tokens.weight', None),
    'norm/weight': Entry('model.norm.weight', None),
    'lm_head/kernel': Entry('lm_head.weight', 1),
    **{
        f'layers/{norm}/weight': Entry(f'{_LAYER}{norm}.weight', None)
        for norm in ('input_layernorm', 'post_attention_layernorm')
    },
    **{
        f'layers/self_attn/{norm}/weight': Entry(f'{_LAYER}self_attn.{norm}.weight', None)
        for norm in ('q_norm', 'k_norm')
    },
    **{f'layers/self_attn/{p}_proj/kernel': Entry(f'{_LAYER}self_attn.{p}_proj.weight', 1) for p in 'qkv'},
    **{f'layers/self_attn/{p}_proj/bias': Entry(f'{_LAYER}self_attn.{p}_proj.bias', 0) for p in 'qkv'},
    'layers/self_attn/o_proj/kernel': Entry(f'{_LAYER}self_attn.o_proj.weight', 2),
    **{f'layers/mlp/{p}_proj/kernel': Entry(f'{_LAYER}mlp.{p}_proj.weight', 1) for p in ('gate', 'up', 'down')},
}


def shapes(config: Config) -> PyTree:
    """The parameters of a model as float32 ShapeDtypeStructs."""
    from core_jax.transformer import model

    return jax.eval_shape(lambda: model.init(config, jax.random.key(0)))


def names(config: Config) -> dict[str, tuple[int, ...]]:
    """What a checkpoint holds: {name: shape}."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes(config))[0]:
        name = path_name(path)
        entry, stacked = TABLE[name], name.startswith('layers/')
        shape = _theirs(leaf.shape[stacked:], entry.inputs)
        for layer in range(leaf.shape[0] if stacked else 1):
            found[entry.name.format(layer)] = shape
    return found


def _theirs(shape: tuple[int, ...], inputs: int | None) -> tuple[int, ...]:
    if inputs is None:
        return shape
    out = math.prod(shape[inputs:])
    return (out, math.prod(shape[:inputs])) if inputs else (out,)


# Reading


def load(directory: Any, shardings: PyTree | None = None, dtype: Any = np.float32) -> tuple[Config, PyTree]:
    """(config, parameters) of a checkpoint, each leaf placed as `shardings` say (a tree, or None: one device).

    Raises UserError, naming file and tensor, where one is missing, of another shape, or not known.
    """
    directory = pathlib.Path(directory)
    config = read_config(directory)
    with contextlib.ExitStack() as stack:
        tensors = _open(directory, stack)
        sizes = {name: tuple(tensor.slice.get_shape()) for name, tensor in tensors.items()}
        check(directory, config, sizes, {name: tensor.file for name, tensor in tensors.items()})

        def one(path, leaf, sharding):
            name = path_name(path)
            entry, stacked = TABLE[name], name.startswith('layers/')

            def part(index):
                index = [range(size)[piece] for size, piece in zip(leaf.shape, index, strict=True)]
                wanted, rest = (index[0], index[1:]) if stacked else ((0,), index)
                out = np.empty([len(wanted), *map(len, rest)], dtype)
                for row, layer in enumerate(wanted):
                    out[row] = _read(tensors[entry.name.format(layer)].slice, leaf.shape[stacked:], rest, entry.inputs)
                return out if stacked else out[0]

            if sharding is None:
                return jax.device_put(part((slice(None),) * len(leaf.shape)))
            return jax.make_array_from_callback(leaf.shape, sharding, part)

        tree = shapes(config)
        shardings = jax.tree.map(lambda _: None, tree) if shardings is None else shardings
        return config, jax.tree_util.tree_map_with_path(one, tree, shardings, is_leaf=lambda x: x is None)


def read_config(directory: pathlib.Path) -> Config:
    """The architecture that a checkpoint names. Raises UserError."""
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f'no checkpoint at {directory}: it has no {CONFIG}, which is written last')
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f'{path} is damaged: {error}') from None
    return from_hf(document, str(path))


class _Tensor(NamedTuple):
    """One that is read where it is indexed, and the file that it is in."""

    slice: Any
    file: pathlib.Path


def _open(directory: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, _Tensor]:
    """{name: tensor} of all files of a checkpoint."""
    index = directory / INDEX
    files = [FILE]
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_text())['weight_map'].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f'{index} is damaged: it has no weight_map') from None
    tensors = {}
    for name in files:
        if not isinstance(name, str):
            raise UserError(f'{index} is damaged: {name!r} in its weight_map is no name of a file')
        path = directory / name
        if path.parent.resolve() != directory.resolve() or not path.is_file():
            raise UserError(f'{directory} has no {name}')
        try:
            file = stack.enter_context(safe_open(path, framework='numpy'))
        except (SafetensorError, OSError) as error:
            raise UserError(f'{path} is damaged: {reason(error)}') from None
        tensors |= {key: _Tensor(file.get_slice(key), path) for key in file.keys()}  # noqa: SIM118
    return tensors


def check(source: Any, config: Config, found: Mapping[str, tuple[int, ...]], files: Mapping[str, Any]) -> None:
    """Raises UserError where tensors {name: shape} of a source are not those of an architecture, with `files` of each.

    Buffers that old checkpoints hold and a tied head may be among them.
    """
    wanted = names(config)
    extra = [name for name in found if name not in wanted and not IGNORED.search(name)]
    if config.tie_embeddings:  # some files hold the tied head a second time
        extra = [name for name in extra if name != 'lm_head.weight']
    missing = [name for name in wanted if name not in found]
    if missing:
        more = f', and {_some(extra)} not known (in {files[extra[0]]})' if extra else ''
        raise UserError(f'{source}: {_some(missing)} missing{more}')
    if extra:
        raise UserError(
            f'{files[extra[0]]}: {_some(extra)} not known to this architecture; {unknown("tensor", extra[0], wanted)}'
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(f'{files[name]}: {name} is {list(found[name])}, the architecture makes it {list(shape)}')


def _some(found: list[str]) -> str:
    more = f' and {len(found) - 1} more' if len(found) > 1 else ''
    return f'{found[0]}{more} {"are" if more else "is"}'


def _read(tensor: Any, shape: tuple[int, ...], index: list[range], inputs: int | None) -> np.ndarray:
    """Part `index` of a leaf of ours, out of a tensor of theirs."""
    if inputs is None:
        return np.asarray(tensor[tuple(slice(r.start, r.stop) for r in index)])
    wanted, out = [len(part) for part in index], _flat(shape[inputs:], index[inputs:])
    if not inputs:
        return np.asarray(tensor[out]).reshape(wanted)
    return np.asarray(tensor[out, _flat(shape[:inputs], index[:inputs])]).T.reshape(wanted)


def _flat(shape: tuple[int, ...], index: list[range]) -> slice:
    """The slice of the flattened axes that a range of the first of them is; the others are whole."""
    for size, part in zip(shape[1:], index[1:], strict=True):
        if len(part) != size:
            raise UserError(f'a head of {size} numbers cannot be divided among devices')
    inner = math.prod(shape[1:])
    return slice(index[0].start * inner, index[0].stop * inner)


# Writing


def save(directory: Any, config: Config, params: PyTree) -> None:
    """Writes config.json and safetensors that `transformers` reads, a file after the other, each whole or not there.

    Raises UserError where a file cannot be written.
    """
    write(directory, config, tensors(params))


def tensors(params: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) as Hugging Face has them, one at a time."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = path_name(path)
        entry, stacked = TABLE[name], name.startswith('layers/')
        for layer in range(leaf.shape[0] if stacked else 1):
            value = np.asarray(jax.device_get(leaf[layer] if stacked else leaf))
            if entry.inputs is not None:
                value = value.reshape(_theirs(value.shape, entry.inputs)[::-1]).T
            yield entry.name.format(layer), np.ascontiguousarray(value)


def write(directory: Any, config: Config, named: Iterator[tuple[str, np.ndarray]]) -> None:
    """Writes tensors as they come; no more than a file of them is held in memory.

    What was there before stays until all of them are on the disk. From then until the end the directory has no
    config.json: who is interrupted leaves no checkpoint, and never half of one beside half of another.
    """
    directory = make_directory(directory)
    remove_leftovers(directory, r'part-\d+\.safetensors')
    parts: list[tuple[pathlib.Path, list[str]]] = []
    held: dict[str, np.ndarray] = {}
    total = 0

    def flush():
        path = directory / temporary_name(f'part-{len(parts)}.safetensors')
        parts.append((path, list(held)))
        save_file(held, path, metadata={'format': 'pt'})
        path.chmod(0o644)  # the library makes it for its owner alone
        sync_file(path)
        held.clear()

    try:
        for name, value in named:
            if held and sum(v.nbytes for v in held.values()) + value.nbytes > SHARD_BYTES:
                flush()
            held[name], total = value, total + value.nbytes
        flush()
        _replace(directory, parts, total)
    except BaseException as error:
        for path, _ in parts:
            path.unlink(missing_ok=True)
        if isinstance(error, SafetensorError | OSError):
            cannot_write(directory, error)
        raise
    write_json_atomic(directory / CONFIG, to_hf(config))


def _replace(directory: pathlib.Path, parts: list[tuple[pathlib.Path, list[str]]], total: int) -> None:
    """Puts files of tensors of these names in place of those that are there, and of their config.json."""
    files = [FILE]
    if len(parts) > 1:
        files = [f'model-{i + 1:05}-of-{len(parts):05}.safetensors' for i in range(len(parts))]
    for name in (CONFIG, INDEX):
        (directory / name).unlink(missing_ok=True)
    sync_directory(directory)
    for (path, _), name in zip(parts, files, strict=True):
        path.replace(directory / name)
    for path in directory.glob('model*.safetensors'):  # `transformers` would rather read an old one of these
        if path.name not in files:
            path.unlink()
    if len(parts) > 1:
        where = {key: name for (_, keys), name in zip(parts, files, strict=True) for key in keys}
        write_json_atomic(directory / INDEX, {'metadata': {'total_size': total}, 'weight_map': where})
    sync_directory(directory)
