"""Architectures of the Llama family, by published name and in the words of a checkpoint's config.json."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from core_jax.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's: waves longer than `original` / `low` positions turn slower by `factor`, those shorter than
    `original` / `high` as they did, and between the two a mixture of both.
    """

    factor: float
    low: float = 1.0
    high: float = 4.0
    original: int = 8192  # positions that the model was first trained on


@dataclasses.dataclass(frozen=True)
class Config:
    """One decoder. What is computed, and below the line how."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    rms_eps: float = 1e-5
    tie_embeddings: bool = False  # the head is the embedding, transposed
    qkv_bias: bool = False  # Qwen2.5
    qk_norm: bool = False  # Qwen3: queries and keys are normalised, head by head
    bos_token_id: int | None = None  # what a checkpoint says that texts begin and end with
    eos_token_id: int | tuple[int, ...] | None = None
    # ---
    dtype: str = 'float32'  # of the activations; norms, softmax, rotations and log-probabilities are float32 always
    remat: str = 'none'  # what the backward pass computes again: none, dots (all but matrix products), full
    unroll: int = 1  # layers a turn of the scan over them: a small model trains a fifth faster on a CPU with all
    query_block: int = 1024  # queries whose scores exist at a time, where a sequence is longer
    lora_alpha: float = 16.0  # of an adapter of rank r, which adds x a b alpha / r

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise UserError(f'{self.num_heads} heads do not divide among {self.num_kv_heads} heads of keys and values')
        if self.head_dim % 2:
            raise UserError(f'a head of {self.head_dim} numbers has no halves to rotate')
        if self.remat not in REMATS:
            raise unknown('remat policy', self.remat, REMATS)

    @property
    def parameters(self) -> int:
        """How many numbers the model has; a tied head is counted once."""
        d, heads = self.hidden_size, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        attention = d * heads + self.num_heads * self.head_dim * d + self.qkv_bias * heads
        layer = attention + self.qk_norm * 2 * self.head_dim + 3 * d * self.intermediate_size + 2 * d
        return self.num_layers * layer + d + self.vocab_size * d * (1 if self.tie_embeddings else 2)

    def flops_a_token(self, length: int, *, backward: bool = False) -> float:
        """Of a token in a sequence of `length`: matrix products, attention over half of it (causal); lookups are none.

        backward: with the gradient, twice the forward pass again.
        """
        matrices = self.parameters - (0 if self.tie_embeddings else self.vocab_size * self.hidden_size)
        attention = 2 * self.num_layers * self.num_heads * self.head_dim * length  # 2 products of 2 FLOPs, halved
        return (2 * matrices + attention) * (3 if backward else 1)


REMATS = ('none', 'dots', 'full')


def _llama(layers, d, ffn, heads, kv, dim, *, factor, tied):
    scaling = RopeScaling(factor)
    return Config(128_256, d, ffn, layers, heads, kv, dim, 131_072, 5e5, scaling, tie_embeddings=tied)


def _smollm2(layers, d, ffn, heads, kv, theta):
    return Config(49_152, d, ffn, layers, heads, kv, 64, 8192, theta, tie_embeddings=True)


def _qwen2(layers, d, ffn, heads, kv, dim, *, vocab=151_936, tied=True):
    return Config(vocab, d, ffn, layers, heads, kv, dim, 32_768, 1e6, None, 1e-6, tied, qkv_bias=True)


def _qwen3(layers, d, ffn, heads, *, tied=True):
    return Config(151_936, d, ffn, layers, heads, 8, 128, 40_960, 1e6, None, 1e-6, tied, qk_norm=True)


PRESETS = {
    'tiny': Config(256, 64, 128, 2, 4, 2, 16, 1024, 1e4, tie_embeddings=True),  # bytes; for tests
    'smollm2-135m': _smollm2(30, 576, 1536, 9, 3, 1e5),
    'smollm2-360m': _smollm2(32, 960, 2560, 15, 5, 1e5),
    'smollm2-1.7b': _smollm2(24, 2048, 8192, 32, 32, 1.3e5),
    'llama-3.2-1b': _llama(16, 2048, 8192, 32, 8, 64, factor=32, tied=True),
    'llama-3.2-3b': _llama(28, 3072, 8192, 24, 8, 128, factor=32, tied=True),
    'llama-3.1-8b': _llama(32, 4096, 14_336, 32, 8, 128, factor=8, tied=False),
    'llama-3.1-70b': _llama(80, 8192, 28_672, 64, 8, 128, factor=8, tied=False),
    'qwen2.5-0.5b': _qwen2(24, 896, 4864, 14, 2, 64),
    'qwen2.5-1.5b': _qwen2(28, 1536, 8960, 12, 2, 128),
    'qwen2.5-3b': _qwen2(36, 2048, 11_008, 16, 2, 128),
    'qwen2.5-7b': _qwen2(28, 3584, 18_944, 28, 4, 128, vocab=152_064, tied=False),
    'qwen3-0.6b': _qwen3(28, 1024, 3072, 16),
    'qwen3-1.7b': _qwen3(28, 2048, 6144, 16),
    'qwen3-4b': _qwen3(36, 2560, 9728, 32),
    'qwen3-8b': _qwen3(36, 4096, 12_288, 32, tied=False),
}


def preset(name: str, **changes: Any) -> Config:
    """The architecture of a published model. Raises UserError for an unknown one, with the nearest name."""
    if name not in PRESETS:
        raise unknown('model', name, PRESETS)
    return dataclasses.replace(PRESETS[name], **changes)


FAMILIES = {'llama': {}, 'qwen2': {'qkv_bias': True}, 'qwen3': {'qk_norm': True}}  # by `model_type`


def from_hf(document: dict[str, Any], source: str = 'config.json') -> Config:
    """Reads a checkpoint's config.json. Raises UserError where it is damaged, or asks for what is not here."""
    if not isinstance(document, dict):
        raise UserError(f'{source} is damaged: it is no object')
    family = document.get('model_type')
    if not isinstance(family, str) or family not in FAMILIES:
        raise unknown(f'model_type in {source}', str(family), FAMILIES)
    # transformers 5 writes `rope_parameters`; before, `rope_theta` stood outside and the scaling in `rope_scaling`.
    rope = document.get('rope_parameters') or document.get('rope_scaling') or {}
    if not isinstance(rope, dict):
        raise UserError(f'{source} is damaged: its rope parameters are no object')
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind not in ('default', 'llama3'):
        raise UserError(f'{source}: rope of type {kind} is not supported, only default and llama3')

    def whole(name: str, default: Any = None, among: dict[str, Any] = document) -> int:
        return _number(among, name, source, default, int)

    def real(name: str, default: Any = None, among: dict[str, Any] = document) -> float:
        return float(_number(among, name, source, default, int | float))

    scaling = None
    if kind == 'llama3':
        factors = (real(f'{part}factor', among=rope) for part in ('', 'low_freq_', 'high_freq_'))
        scaling = RopeScaling(*factors, whole('original_max_position_embeddings', among=rope))
    width, heads = whole('hidden_size'), whole('num_attention_heads')
    tied = document.get('tie_word_embeddings', False)
    if not isinstance(tied, bool):
        raise UserError(f'{source}: tie_word_embeddings is true or false, got {tied!r}')
    config = Config(
        vocab_size=whole('vocab_size'),
        hidden_size=width,
        intermediate_size=whole('intermediate_size'),
        num_layers=whole('num_hidden_layers'),
        num_heads=heads,
        num_kv_heads=whole('num_key_value_heads', heads),
        head_dim=whole('head_dim', max(width // heads, 1)),
        max_positions=whole('max_position_embeddings'),
        rope_theta=real('rope_theta', real('rope_theta', 1e4), rope),
        rope_scaling=scaling,
        rms_eps=real('rms_norm_eps'),
        tie_embeddings=tied,
        bos_token_id=token_ids(document, 'bos_token_id', source),
        eos_token_id=token_ids(document, 'eos_token_id', source),
        **FAMILIES[family],
    )
    if document.get('hidden_act', 'silu') != 'silu' or document.get('use_sliding_window') or document.get('mlp_bias'):
        raise UserError(
            f'{source}: other activations than silu, sliding windows and biases of the MLP are not supported'
        )
    if document.get('attention_bias'):
        raise UserError(f'{source}: a bias on the output of the attention is not supported')
    return config


def _number(document: dict[str, Any], name: str, source: str, default: Any, kind: Any) -> Any:
    """A number above zero; what is not there, or null, is the default, where there is one."""
    value = document.get(name)
    value = default if value is None else value
    if value is None:
        raise UserError(f'{source} has no {name}')
    if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UserError(f'{source}: {name} is a {"whole " if kind is int else ""}number above 0, got {value!r}')
    return value


def token_ids(document: dict[str, Any], name: str, source: str) -> Any:
    """An id, several as a tuple, or None, as a config.json says which tokens begin or end a text. Raises UserError."""
    value = document.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in ids):
        raise UserError(f'{source}: {name} is the number of a token, or a list of such, got {value!r}')
    return tuple(value) if isinstance(value, list) else value


def to_hf(config: Config) -> dict[str, Any]:
    """The config.json that `transformers` reads."""
    family = 'qwen3' if config.qk_norm else 'qwen2' if config.qkv_bias else 'llama'
    names = {'llama': 'LlamaForCausalLM', 'qwen2': 'Qwen2ForCausalLM', 'qwen3': 'Qwen3ForCausalLM'}
    rope: dict[str, Any] = {'rope_type': 'default', 'rope_theta': config.rope_theta}
    if config.rope_scaling:
        scaling = config.rope_scaling
        rope |= {'rope_type': 'llama3', 'factor': scaling.factor}
        rope |= {'low_freq_factor': scaling.low, 'high_freq_factor': scaling.high}
        rope['original_max_position_embeddings'] = scaling.original
    return {
        'architectures': [names[family]],
        'model_type': family,
        'vocab_size': config.vocab_size,
        'hidden_size': config.hidden_size,
        'intermediate_size': config.intermediate_size,
        'num_hidden_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'num_key_value_heads': config.num_kv_heads,
        'head_dim': config.head_dim,
        'max_position_embeddings': config.max_positions,
        'rope_parameters': rope,
        'rope_theta': config.rope_theta,
        'rope_scaling': {k: v for k, v in rope.items() if k != 'rope_theta'} if config.rope_scaling else None,
        'rms_norm_eps': config.rms_eps,
        'tie_word_embeddings': config.tie_embeddings,
        'bos_token_id': config.bos_token_id,
        'eos_token_id': list(eos) if isinstance(eos := config.eos_token_id, tuple) else eos,
        'hidden_act': 'silu',
        'attention_bias': False,
        'torch_dtype': 'float32',
    }
