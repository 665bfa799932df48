"""GGUF files, written here as llama.cpp's converter writes them, to checkpoints: every number where it belongs."""

import dataclasses
import functools

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from tokenizers import pre_tokenizers

from core_jax.errors import UserError
from core_jax.transformer import checkpoint, model, tokenizer
from core_jax.transformer.config import RopeScaling, preset
from core_jax.transformer.gguf import _INSIDE, _OUTSIDE, convert

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
WORDS = ['ab', 'zy', 'xyz', 'Ã©', '<|im_start|>', '<|im_end|>', '<tool>']  # xyz is no merge of others; é is two bytes
TINY = functools.partial(preset, 'tiny', vocab_size=len(LETTERS + WORDS), bos_token_id=260, eos_token_id=261)
MODELS = {  # architecture: (config, how texts fall apart)
    'llama': (TINY(rope_scaling=RopeScaling(8.0)), 'llama-bpe'),
    'qwen2': (TINY(qkv_bias=True, tie_embeddings=False), 'qwen2'),
    'qwen3': (TINY(qk_norm=True, head_dim=32), 'qwen2'),
}
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' ~ m['content'] ~ '<|im_end|>' }}{% endfor %}"


def weights(config):
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in checkpoint.names(config).items()}


def pairs(value, heads):
    """Rows of queries or keys as llama.cpp has them: those that turn together are neighbours."""
    return value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)


def write(path, family, tensors, kind=Kind.F32, edit=None, **fields):
    """A GGUF file of tensors by Hugging Face's names. edit(tensors by llama.cpp's names)."""
    config, split = MODELS[family]
    file = gguf.GGUFWriter(path, family)
    whole = {'block_count': config.num_layers, 'embedding_length': config.hidden_size}
    whole |= {'feed_forward_length': config.intermediate_size, 'attention.head_count': config.num_heads}
    whole |= {'attention.head_count_kv': config.num_kv_heads, 'context_length': config.max_positions}
    whole |= {'attention.key_length': config.head_dim, 'attention.value_length': config.head_dim}
    for name, value in whole.items():
        file.add_uint32(f'{family}.{name}', value)
    file.add_float32(f'{family}.attention.layer_norm_rms_epsilon', config.rms_eps)
    file.add_float32(f'{family}.rope.freq_base', config.rope_theta)
    file.add_tokenizer_model('gpt2')
    file.add_tokenizer_pre(split)
    file.add_token_list(LETTERS + WORDS)
    file.add_token_types([1] * len(LETTERS) + [1, 1, 1, 1, 3, 3, 4])
    file.add_token_merges(fields.pop('merges', ['a b', 'z y', 'Ã ©']))
    file.add_bos_token_id(260)
    file.add_eos_token_id(261)
    file.add_chat_template(TEMPLATE)
    for name, value in fields.items():
        add = file.add_string if isinstance(value, str) else file.add_float32
        add(f'{family}.rope.scaling.{name}', value)
    theirs = {}
    outside, inside = ({new: old for old, new in table.items()} for table in (_OUTSIDE, _INSIDE))
    for name, value in tensors.items():
        parts = name.split('.')
        if name in outside:
            theirs[outside[name]] = value
            continue
        own = f'blk.{parts[2]}.{inside[".".join(parts[3:-1])]}.{parts[-1]}'
        heads = {'q_proj': config.num_heads, 'k_proj': config.num_kv_heads}.get(parts[-2], 0)
        theirs[own] = pairs(value, heads) if family == 'llama' and heads else value
    if config.rope_scaling:
        plain = dataclasses.replace(config, rope_scaling=None)
        theirs['rope_freqs.weight'] = model.frequencies(plain) / model.frequencies(config)
    if edit:
        edit(theirs)
    for name, value in theirs.items():
        packed = kind if value.ndim > 1 else Kind.F32
        file.add_tensor(name, quantize(value, packed), raw_dtype=packed)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def read(directory):
    config, params = checkpoint.load(directory)
    return config, params, dict(checkpoint.tensors(params))


@pytest.mark.parametrize('family', MODELS)
def test_every_weight_is_where_it_was(family, tmp_path):
    config = MODELS[family][0]
    tensors = weights(config)
    write(tmp_path / 'packed.gguf', family, tensors)
    assert convert(tmp_path / 'packed.gguf', tmp_path / 'made') == config
    found = read(tmp_path / 'made')
    assert found[0] == config and found[2].keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[2][name], value, name)


@pytest.mark.parametrize(
    'kind,error', [('F16', 5e-4), ('BF16', 4e-3), ('Q8_0', 5e-3), ('Q5_1', 1 / 30), ('Q4_1', 1 / 14), ('Q4_0', 1 / 7)]
)
def test_blocks_of_numbers(kind, error, tmp_path):
    """The worst error of a number, over the largest of its block of 32."""
    tensors = weights(MODELS['llama'][0])
    write(tmp_path / 'packed.gguf', 'llama', tensors, Kind[kind])
    convert(tmp_path / 'packed.gguf', tmp_path / 'made')
    found, apart = read(tmp_path / 'made')[2], False
    for name, value in tensors.items():
        if value.ndim == 1:
            np.testing.assert_array_equal(found[name], value)
            continue
        blocks = value.reshape(-1, 32)
        off = np.abs(found[name].reshape(-1, 32) - blocks).max(1) / np.abs(blocks).max(1)
        apart |= bool((off > 0).any())
        assert off.max() < error, name
    assert apart


@pytest.mark.parametrize('family', MODELS)
def test_the_tokenizer_of_a_file(family, tmp_path):
    write(tmp_path / 'packed.gguf', family, weights(MODELS[family][0]))
    convert(tmp_path / 'packed.gguf', tmp_path)
    words = tokenizer.load(tmp_path, MODELS[family][0].vocab_size)
    assert words.stops == (261,) and words.size == 263
    assert words.chat([{'content': 'ab'}], reply=False) == [260, 256, 261]
    assert words.decode(words.encode('<tool>ab')) == '<tool>ab'  # a token, but no special one
    # Llama 3 takes a word that is a token as it is, whatever the merges; Qwen composes accents first.
    assert len(words.encode('xyz')) == (1 if family == 'llama' else 3)
    assert (words.encode('e\u0301') == words.encode('é') == [259]) == (family != 'llama')
    assert words.encode('zy') == [257]


@pytest.mark.parametrize(
    'change,complaint',
    [
        ({'edit': lambda t: t.pop('blk.0.ffn_up.weight')}, 'model.layers.0.mlp.up_proj.weight is missing'),
        (
            {'edit': lambda t: t.update({'output_norm.weight': np.ones(63, np.float32)})},
            r'norm.weight is \[63\], .*\[64',
        ),
        ({'edit': lambda t: t.update({'blk.0.attn_rel.weight': np.ones(3, np.float32)})}, 'no place for its tensor'),
        ({'edit': lambda t: t.update({'blk.7.ffn_up.weight': t['blk.0.ffn_up.weight']})}, r'layers\.7.* not known'),
        ({'merges': ['a b', 'a nowhere']}, 'its tokenizer is damaged: .*nowhere'),
        ({'merges': ['ab']}, 'its tokenizer is damaged'),
        ({'type': 'yarn', 'factor': 4.0}, 'rope of type yarn is not supported'),
        ({'factor': 4.0}, 'rope of type linear is not supported'),
    ],
)
def test_a_file_that_is_no_whole_model_leaves_nothing(change, complaint, tmp_path):
    write(tmp_path / 'packed.gguf', 'qwen2', weights(MODELS['qwen2'][0]), **change)
    with pytest.raises(UserError, match=complaint) as error:
        convert(tmp_path / 'packed.gguf', tmp_path / 'made')
    assert str(tmp_path / 'packed.gguf') in str(error.value) and '\n' not in str(error.value)
    assert not (tmp_path / 'made').exists()
    write(tmp_path / 'packed.gguf', 'qwen2', weights(MODELS['qwen2'][0]), type='none', factor=1.0)
    convert(tmp_path / 'packed.gguf', tmp_path / 'made')


def test_a_tensor_that_cannot_be_read_leaves_nothing(tmp_path, monkeypatch):
    """Found when others are written already."""
    write(tmp_path / 'packed.gguf', 'qwen2', weights(MODELS['qwen2'][0]))
    monkeypatch.setattr(checkpoint, 'SHARD_BYTES', 60_000)
    whole, seen = gguf.quants.dequantize, []

    def torn(data, kind):
        seen.append(kind)
        if len(seen) > 12:
            raise ValueError('of a kind')
        return whole(data, kind)

    monkeypatch.setattr(gguf.quants, 'dequantize', torn)
    with pytest.raises(UserError, match='cannot be read: of a kind'):
        convert(tmp_path / 'packed.gguf', tmp_path / 'made')
    assert not list((tmp_path / 'made').iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('family', ['llama', 'qwen2'])
def test_live_against_transformers(family, tmp_path):
    """Where it is installed: it reads the same file, by code of its own."""
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    write(tmp_path / 'packed.gguf', family, weights(MODELS[family][0]))
    convert(tmp_path / 'packed.gguf', tmp_path / 'made')
    config, params = checkpoint.load(tmp_path / 'made')
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file='packed.gguf', dtype=torch.float32)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (1, 24))
    with torch.no_grad():
        wanted = theirs.eval()(torch.from_numpy(tokens)).logits.numpy()
    config = dataclasses.replace(config, rope_scaling=None)  # which transformers leaves out of a GGUF file
    found = jax.jit(lambda params, tokens: model.logits(config, params, tokens))(params, jnp.asarray(tokens))
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
