"""The decoder in numbers that are not ours: logits of Hugging Face's transformers, written down by golden/make.py."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from core_jax.transformer import checkpoint, generate, model
from core_jax.transformer.config import from_hf, to_hf

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
    for key in ('hidden_size', 'rms_norm_eps', 'num_key_value_heads', 'tie_word_embeddings'):
        assert to_hf(config)[key] == document[key]
    for key, value in document['rope_parameters'].items():
        assert to_hf(config)['rope_parameters'][key] == value


def test_live_against_transformers(tmp_path):
    """Where torch and transformers are installed (the extra `parity`): they read what we wrote."""
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    written('qwen3', tmp_path)
    config, params = checkpoint.load(tmp_path)
    checkpoint.save(tmp_path / 'ours', config, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'ours', dtype=torch.float32).eval()
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, 33))
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(model.logits(config, params, jnp.asarray(tokens)), wanted, atol=2e-5)


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
