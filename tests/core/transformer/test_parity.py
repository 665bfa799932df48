"""The decoder in numbers that are not ours: logits of Hugging Face's transformers, written down by golden/make.py."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from core_jax.transformer import checkpoint, generate, model
from core_jax.transformer.config import Config, RopeScaling, from_hf, to_hf

GOLDEN = pathlib.Path(__file__).parent / 'golden'


def written(name, directory):
    """A golden file as a checkpoint, and its arrays."""
    arrays = np.load(GOLDEN / f'{name}.npz')
    weights = {key.removeprefix('weight:'): arrays[key] for key in arrays if key.startswith('weight:')}
    save_file(weights, directory / 'model.safetensors')
    (directory / 'config.json').write_text(str(arrays['config']))
    return arrays


def logits(config, params, arrays):
    return jax.jit(lambda p, t, at: model.logits(config, p, t, at))(params, arrays['tokens'], arrays['positions'])


@pytest.mark.parametrize('name', ['llama', 'llama3', 'qwen2', 'qwen3'])
def test_logits_are_those_of_the_reference(name, tmp_path):
    """At positions up to 3,937: a wrong rotation is right for the first few."""
    arrays = written(name, tmp_path)
    config, params = checkpoint.load(tmp_path)
    assert np.std(arrays['logits']) > 0.5
    np.testing.assert_allclose(logits(config, params, arrays), arrays['logits'], atol=2e-5)


def test_each_part_of_an_architecture_matters(tmp_path):
    """What the comparison above would not forgive."""
    for name, change in (
        ('llama', {'rope_theta': 1e4}),
        ('llama3', {'rope_scaling': None}),
    ):
        directory = tmp_path / f'{name}-{next(iter(change))}'
        directory.mkdir()
        arrays = written(name, directory)
        config, params = checkpoint.load(directory)
        wrong = logits(dataclasses.replace(config, **change), params, arrays)
        assert np.abs(wrong - arrays['logits']).max() > 1e-3, (name, change)


@pytest.mark.parametrize('name', ['llama', 'llama3', 'qwen2', 'qwen3'])
def test_a_config_written_is_the_config_read(name):
    document = json.loads(str(np.load(GOLDEN / f'{name}.npz')['config']))
    config = from_hf(document)
    assert from_hf(to_hf(config)) == config
    for key in (
        'bos_token_id',
        'eos_token_id',
        'hidden_size',
        'rms_norm_eps',
        'num_key_value_heads',
        'tie_word_embeddings',
    ):
        assert to_hf(config)[key] == document[key]
    for key, value in document['rope_parameters'].items():
        assert to_hf(config)['rope_parameters'][key] == value


FAMILIES = {
    'llama': {'rope_scaling': RopeScaling(8.0, original=64), 'bos_token_id': 3, 'eos_token_id': (5, 7)},
    'smollm2': {'tie_embeddings': True, 'bos_token_id': 1, 'eos_token_id': 2},
    'qwen2': {'qkv_bias': True, 'rms_eps': 1e-6, 'rope_theta': 1e6},
    'qwen3': {'qk_norm': True, 'rms_eps': 1e-6, 'rope_theta': 1e6, 'tie_embeddings': True},
}


@functools.cache
def made(family):
    """(config, parameters, tokens, positions up to 2,600, logits) of a model of random sizes and weights."""
    rng = np.random.default_rng(sorted(FAMILIES).index(family))
    keys, shared, half = rng.integers(1, 4, 3).tolist()
    sizes = {'vocab_size': 61, 'hidden_size': 8 * keys * shared, 'intermediate_size': 40, 'num_layers': 2}
    sizes |= {'num_heads': keys * shared, 'num_kv_heads': keys, 'head_dim': 4 + 4 * half, 'max_positions': 4096}
    config = Config(**sizes | {'rope_theta': 1e4} | FAMILIES[family])
    weights = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape), checkpoint.shapes(config))
    params = jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(leaf + (path[-1].key == 'weight'), jnp.float32), weights
    )
    tokens = rng.integers(0, config.vocab_size, (1, 27))
    positions = np.arange(27)[None] * 100
    arrays = {'tokens': tokens, 'positions': positions}
    return config, params, tokens, positions, logits(config, params, arrays)


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_live_against_transformers(family, tmp_path):
    """Where torch and transformers are installed (the extra `parity`): they read what we wrote."""
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    config, params, tokens, positions, found = made(family)
    checkpoint.save(tmp_path, config, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        given = {'input_ids': tokens, 'position_ids': positions, 'attention_mask': np.ones_like(tokens)}
        wanted = theirs(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    assert np.std(wanted) > 0.5
    np.testing.assert_allclose(found, wanted, atol=3e-5 * np.abs(wanted).max())
    ends = theirs.config.eos_token_id
    assert (theirs.config.bos_token_id, tuple(ends) if isinstance(ends, list) else ends) == (
        config.bos_token_id,
        config.eos_token_id,
    )


@pytest.mark.parametrize('family', FAMILIES)
def test_a_cache_changes_nothing_in_any_family(family):
    """Tokens that are drawn behind prompts, token by token, against the whole sequence, in one layer of a model."""
    config, params, *_ = made(family)
    config = dataclasses.replace(config, num_layers=1)
    params = params | {'layers': jax.tree.map(lambda leaf: leaf[:1], params['layers'])}
    prompts = [[5, 9, 20, 31, 8], [7, 50]]
    tokens, lengths = generate.padded(prompts)
    draw = jax.jit(functools.partial(generate.generate, config, max_tokens=6))
    found = draw(params, tokens, lengths, jax.random.key(0))
    rows = np.zeros((2, 11), np.int32)
    for row, prompt, drawn in zip(rows, prompts, found.tokens[:, 0], strict=True):
        row[: len(prompt) + 6] = [*prompt, *drawn]
    whole = jax.nn.log_softmax(jax.jit(lambda params, rows: model.logits(config, params, rows))(params, rows))
    for row, prompt, logps, drawn in zip(whole, prompts, found.logps[:, 0], found.tokens[:, 0], strict=True):
        np.testing.assert_allclose(logps, row[len(prompt) - 1 :][np.arange(6), drawn], atol=2e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_is_near_float32(family):
    """The same weights: eight bits of a number are kept, rotations at far positions and norms lose none of theirs."""
    config, params, tokens, positions, wanted = made(family)
    short = dataclasses.replace(config, dtype='bfloat16')
    found = logits(short, params, {'tokens': tokens, 'positions': positions})
    assert found.dtype == jnp.float32
    off = np.abs(found - wanted) / np.std(wanted)
    assert 1e-4 < np.sqrt((off**2).mean()) < 0.04 and off.max() < 0.2


@pytest.mark.slow
def test_smollm2_is_itself():
    """The real SmolLM2-135M: logits, normalisers, and greedy continuations of ten prompts, token for token."""
    from core_jax.transformer import fetch, tokenizer

    arrays = np.load(GOLDEN / 'smollm2.npz')
    directory = fetch.fetch('smollm2-135m')
    config, params = checkpoint.load(directory)
    logits = model.logits(config, params, jnp.asarray(arrays['tokens']))[0]
    np.testing.assert_allclose(logits[:, arrays['columns']], arrays['logits'], atol=1e-3)
    np.testing.assert_allclose(jax.nn.logsumexp(logits, -1), arrays['normalisers'], atol=1e-3)
    known = tokenizer.load(directory, config.vocab_size)
    prompts = [known.encode(text) for text in json.loads(str(arrays['prompts']))]
    tokens, lengths = generate.padded(prompts)
    greedy = generate.Sampling(temperature=0.0)
    count = arrays['continued'].shape[1]
    found = generate.generate(config, params, tokens, lengths, jax.random.key(0), max_tokens=count, sampling=greedy)
    np.testing.assert_array_equal(found.tokens[:, 0], arrays['continued'])
