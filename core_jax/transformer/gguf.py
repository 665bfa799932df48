"""GGUF, the format of llama.cpp, turned into a checkpoint with Hugging Face's names: weights and tokenizer.

Quantised weights become float32. llama.cpp stores queries and keys of Llama models for rotations by neighbouring pairs;
they are put back to halves of a head, where the reference has them.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from core_jax.errors import UserError, unknown
from core_jax.files import reason
from core_jax.transformer import checkpoint
from core_jax.transformer.config import Config, RopeScaling
from core_jax.transformer.model import frequencies
from core_jax.transformer.tokenizer import Tokenizer

FAMILIES = {'llama': {}, 'qwen2': {'qkv_bias': True}, 'qwen3': {'qk_norm': True}}  # `general.architecture`
_OUTSIDE = {'token_embd.weight': 'model.embed_tokens.weight', 'output_norm.weight': 'model.norm.weight'}
_OUTSIDE |= {'output.weight': 'lm_head.weight'}
DIVISORS = 'rope_freqs.weight'  # what the rotations of Llama 3.1 and later are divided by
_INSIDE = {
    'attn_norm': 'input_layernorm',
    'ffn_norm': 'post_attention_layernorm',
    'attn_output': 'self_attn.o_proj',
    **{f'attn_{p}': f'self_attn.{p}_proj' for p in 'qkv'},
    **{f'attn_{p}_norm': f'self_attn.{p}_norm' for p in 'qk'},
    **{f'ffn_{p}': f'mlp.{p}_proj' for p in ('gate', 'up', 'down')},
}


def convert(path: Any, directory: Any) -> Config:
    """Writes the checkpoint of a GGUF file into a directory. Raises UserError where it is damaged or not known."""
    from gguf import GGUFReader

    path = pathlib.Path(path)
    try:
        file = GGUFReader(path)
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f'{path} is no GGUF file, or damaged: {reason(error)}') from None
    fields = _Fields(file, path)
    config = _config(fields, file)
    words = tokenizer(fields)
    held = [tensor for tensor in file.tensors if tensor.name != DIVISORS]
    sizes = {_name(tensor.name, path): tuple(map(int, reversed(tensor.shape))) for tensor in held}
    checkpoint.check(path, config, sizes, dict.fromkeys(sizes, path))
    checkpoint.write(directory, config, _tensors(held, config, fields.text('general.architecture'), path))
    words.save(directory)
    return config


class _Fields:
    """Metadata by name."""

    def __init__(self, file: Any, path: pathlib.Path):
        self._file, self.path = file, path

    def __call__(self, name: str, default: Any = ...) -> Any:
        field = self._file.get_field(name)
        if field is not None:
            return field.contents()
        if default is ...:
            raise UserError(f'{self.path} does not say its {name}')
        return default

    def text(self, name: str) -> str:
        return str(self(name))


def _config(fields: _Fields, file: Any) -> Config:
    family = fields.text('general.architecture')
    if family not in FAMILIES:
        raise unknown(f'architecture in {fields.path}', family, FAMILIES)

    def of(name, default=...):
        return fields(f'{family}.{name}', default)

    stretch = of('rope.scaling.type', None), of('rope.scaling.factor', of('rope.scale_linear', None))
    if stretch[0] not in (None, 'none') or (stretch[0] is None and stretch[1] not in (None, 0, 1)):
        kind = stretch[0] or 'linear'  # llama.cpp's default
        raise UserError(f'{fields.path}: rope of type {kind} is not supported, only default and llama3')
    heads, width = of('attention.head_count'), of('embedding_length')
    names = {tensor.name for tensor in file.tensors}
    config = Config(
        vocab_size=len(fields('tokenizer.ggml.tokens')),
        hidden_size=width,
        intermediate_size=of('feed_forward_length'),
        num_layers=of('block_count'),
        num_heads=heads,
        num_kv_heads=of('attention.head_count_kv', heads),
        head_dim=of('attention.key_length', width // heads),
        max_positions=of('context_length'),
        rope_theta=float(of('rope.freq_base', 10_000.0)),
        rms_eps=round(float(of('attention.layer_norm_rms_epsilon')), 12),  # a float32 in the file
        tie_embeddings='output.weight' not in names,
        bos_token_id=fields('tokenizer.ggml.bos_token_id', None),
        eos_token_id=fields('tokenizer.ggml.eos_token_id', None),
        **FAMILIES[family],
    )
    stretched = next((tensor for tensor in file.tensors if tensor.name == DIVISORS), None)
    return config if stretched is None else _scaled(config, np.asarray(stretched.data), fields.path)


def _scaled(config: Config, divisors: np.ndarray, path: pathlib.Path) -> Config:
    """With the rope scaling whose divisors a file holds."""
    for factor in (8.0, 32.0):  # Llama 3.1, and 3.2
        scaled = dataclasses.replace(config, rope_scaling=RopeScaling(factor))
        if np.allclose(frequencies(config) / frequencies(scaled), divisors, rtol=1e-4):
            return scaled
    raise UserError(f'{path} scales its rotations in a way that is not known')


def _tensors(held: list[Any], config: Config, family: str, path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    from gguf.quants import dequantize

    for tensor in held:
        name = _name(tensor.name, path)
        try:
            value = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except (NotImplementedError, ValueError) as error:
            raise UserError(f'{path}: {tensor.name} cannot be read: {reason(error)}') from None
        if family == 'llama' and tensor.name.split('.')[2:3] in (['attn_q'], ['attn_k']):
            value = _halves(value, config.head_dim)
        yield name, np.ascontiguousarray(value)


def _name(name: str, path: pathlib.Path) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    parts = name.split('.')
    if len(parts) == 4 and parts[0] == 'blk' and parts[2] in _INSIDE:
        return f'model.layers.{parts[1]}.{_INSIDE[parts[2]]}.{parts[3]}'
    raise UserError(f'{path}: no place for its tensor {name}')


def _halves(weight: np.ndarray, dim: int) -> np.ndarray:
    """Rows [H d, D] whose pairs are neighbours, to rows whose pairs are d / 2 apart."""
    return weight.reshape(-1, dim // 2, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


# Tokenizer


def tokenizer(fields: _Fields) -> Tokenizer:
    """The byte-pair tokenizer that a file holds. Raises UserError where it is of another kind."""
    if fields.text('tokenizer.ggml.model') != 'gpt2':
        raise UserError(
            f'{fields.path}: a tokenizer of kind {fields.text("tokenizer.ggml.model")}, only byte pairs are read'
        )
    split = fields.text('tokenizer.ggml.pre')
    words = pre_tokenizers.Sequence(_words(split, fields.path))
    tokens, kinds = fields('tokenizer.ggml.tokens'), fields('tokenizer.ggml.token_type')
    merges = [tuple(pair.split(' ', 1)) for pair in fields('tokenizer.ggml.merges')]
    places = {name: fields(f'tokenizer.ggml.{key}_token_id', None) for name, key in _SPECIAL.items()}
    try:
        # Llama 3 takes a word that is a token as it is.
        pairs = models.BPE({text: i for i, text in enumerate(tokens)}, merges, ignore_merges=split == 'llama-bpe')
        found = tokenizers.Tokenizer(pairs)
        special, more = ([t for t, kind in zip(tokens, kinds, strict=True) if kind == wanted] for wanted in (3, 4))
        named = {f'{name}_token': tokens[place] for name, place in places.items() if place is not None}
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f'{fields.path}: its tokenizer is damaged: {reason(error)}') from None
    if split == 'qwen2':
        found.normalizer = normalizers.NFC()
    found.pre_tokenizer, found.decoder = words, decoders.ByteLevel()
    found.add_special_tokens(special)
    found.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in more])
    return Tokenizer(found, fields('tokenizer.chat_template', None), named, str(fields.path))


_SPECIAL = {'bos': 'bos', 'eos': 'eos', 'unk': 'unknown', 'pad': 'padding'}


def _words(kind: str, path: pathlib.Path) -> list[Any]:
    """How a text falls apart before pairs are merged, by llama.cpp's name for it."""
    if kind == 'smollm':
        return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if kind not in ('llama-bpe', 'qwen2'):
        raise unknown(f'tokenizer.ggml.pre in {path}', kind, ('smollm', 'llama-bpe', 'qwen2'))
    digits = r'\p{N}{1,3}' if kind == 'llama-bpe' else r'\p{N}'
    contractions, word = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r'[^\r\n\p{L}\p{N}]?\p{L}+'
    rest = r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
    split = tokenizers.Regex('|'.join([contractions, word, digits, rest]))
    return [
        pre_tokenizers.Split(split, behavior='isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
