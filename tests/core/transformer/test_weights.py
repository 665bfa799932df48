"""Weights in and out: what is written is what is read, on any mesh, and what is damaged is named."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core_jax.errors import UserError
from core_jax.mesh import make_mesh
from core_jax.transformer import checkpoint, lora, model, rules
from core_jax.transformer.config import PRESETS, preset

CONFIG = preset('tiny', qkv_bias=True, tie_embeddings=False)
KEY = jax.random.key(2)


@pytest.fixture(scope='module')
def params():
    fresh = jax.jit(lambda key: model.init(CONFIG, key))(KEY)
    return jax.tree.map(lambda leaf: leaf + jax.random.normal(KEY, leaf.shape), fresh)


@pytest.fixture
def saved(params, tmp_path):
    checkpoint.save(tmp_path / 'model', CONFIG, params)
    return tmp_path / 'model'


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_parameters_of_published_models():
    """As their publishers count them."""
    published = {
        'smollm2-135m': 134_515_008,
        'llama-3.2-1b': 1_235_814_400,
        'llama-3.1-8b': 8_030_261_248,
        'llama-3.1-70b': 70_553_706_496,
        'qwen2.5-0.5b': 494_032_768,
        'qwen2.5-7b': 7_615_616_512,
        'qwen3-0.6b': 596_049_920,
    }
    assert {name: PRESETS[name].parameters for name in published} == published
    assert sum(np.prod(shape) for shape in checkpoint.names(CONFIG).values()) == CONFIG.parameters


def test_written_and_read(saved, params):
    config, read = checkpoint.load(saved)
    assert config == CONFIG
    same(read, params)
    names = load_file(saved / 'model.safetensors')
    np.testing.assert_array_equal(  # [out, in], heads side by side
        names['model.layers.1.self_attn.q_proj.weight'],
        np.asarray(params['layers']['self_attn']['q_proj']['kernel'][1]).reshape(64, 64).T,
    )


def test_many_files_and_other_types(params, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, 'SHARD_BYTES', 60_000)
    short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    checkpoint.save(tmp_path, CONFIG, short)
    assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 2
    assert not list(tmp_path.glob('.*'))
    _, read = checkpoint.load(tmp_path)
    assert read['norm']['weight'].dtype == jnp.float32
    same(read, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), short))
    same(checkpoint.load(tmp_path, dtype=jnp.bfloat16)[1], short)


@pytest.mark.parametrize('sizes', [(60_000, 10**9), (10**9, 60_000), (60_000, 90_000)])
def test_a_checkpoint_over_another(params, tmp_path, monkeypatch, sizes):
    """Of one file over one of many, the other way round, and of fewer: nothing of the old one is left or read."""
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    for size, tree in zip(sizes, (params, other), strict=True):
        monkeypatch.setattr(checkpoint, 'SHARD_BYTES', size)
        checkpoint.save(tmp_path, CONFIG, tree)
    same(checkpoint.load(tmp_path)[1], other)
    index = tmp_path / 'model.safetensors.index.json'
    held = set(json.loads(index.read_text())['weight_map'].values()) if index.is_file() else {'model.safetensors'}
    assert {path.name for path in tmp_path.iterdir()} - {index.name, 'config.json'} == held


@pytest.mark.parametrize('at', [0, 1, 3, 4, 5])
def test_a_save_that_is_interrupted_is_no_mixture(saved, params, monkeypatch, at):
    """While files take the place of others, a directory is no checkpoint; before, it is what it was."""
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    monkeypatch.setattr(checkpoint, 'SHARD_BYTES', 200_000)
    done, replace, written = [], pathlib.Path.replace, checkpoint.save_file

    def step(function):
        def interrupted(*arguments, **keywords):
            done.append(function)
            if len(done) > at:
                raise KeyboardInterrupt
            return function(*arguments, **keywords)

        return interrupted

    monkeypatch.setattr(checkpoint, 'save_file', step(written))
    monkeypatch.setattr(pathlib.Path, 'replace', step(replace))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(saved, CONFIG, other)
    assert not list(saved.glob('.*'))
    if replace not in done:
        same(checkpoint.load(saved)[1], params)
    else:
        with pytest.raises(UserError, match=r'no config\.json'):
            checkpoint.load(saved)


def test_weights_are_on_the_disk_before_they_have_their_name(params, tmp_path, monkeypatch):
    synced, replace = [], pathlib.Path.replace
    monkeypatch.setattr(os, 'fsync', lambda descriptor: synced.append(os.fstat(descriptor).st_ino))

    def renamed(path, to):
        assert path.stat().st_ino in synced
        return replace(path, to)

    monkeypatch.setattr(pathlib.Path, 'replace', renamed)
    checkpoint.save(tmp_path, CONFIG, params)


@pytest.mark.parametrize('shape', ['fsdp:4,tensor:2', 'fsdp:2,tensor:4'])
def test_straight_into_shards(saved, params, shape):
    mesh = make_mesh(shape)
    _, read = checkpoint.load(saved, rules.params(checkpoint.shapes(CONFIG), mesh))
    same(read, params)
    kernel = read['layers']['mlp']['gate_proj']['kernel']
    assert kernel.addressable_shards[0].data.size == kernel.size // 8


def change(path, edit):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    'edit,complaint',
    [
        (lambda t: t.pop('model.layers.1.mlp.up_proj.weight'), 'model.layers.1.mlp.up_proj.weight is missing'),
        (lambda t: t.update({'model.layers.0.mlp.up_prj.weight': t['lm_head.weight']}), "did you mean 'model.layers.0"),
        (lambda t: t.update({'model.norm.weight': np.ones(63, np.float32)}), r'model.norm.weight is \[63\], .* \[64\]'),
    ],
)
def test_a_checkpoint_that_does_not_fit(saved, edit, complaint):
    change(saved / 'model.safetensors', edit)
    with pytest.raises(UserError, match=complaint) as error:
        checkpoint.load(saved)
    assert str(saved) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'edit',
    [
        lambda t: t.update({'model.norm.weight': np.ones(63, np.float32)}),
        lambda t: t.update({'model.nrm.weight': t['model.norm.weight']}),
    ],
)
def test_the_shard_of_a_tensor_that_does_not_fit(params, tmp_path, monkeypatch, edit):
    monkeypatch.setattr(checkpoint, 'SHARD_BYTES', 60_000)
    checkpoint.save(tmp_path, CONFIG, params)
    where = json.loads((tmp_path / 'model.safetensors.index.json').read_text())['weight_map']['model.norm.weight']
    change(tmp_path / where, edit)
    with pytest.raises(UserError, match=where):
        checkpoint.load(tmp_path)


def test_what_is_no_checkpoint(saved, tmp_path):
    with pytest.raises(UserError, match=r'no config\.json'):
        checkpoint.load(tmp_path)
    weights = saved / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r'model\.safetensors is damaged'):
        checkpoint.load(saved)
    weights.unlink()
    with pytest.raises(UserError, match=r'has no model\.safetensors'):
        checkpoint.load(saved)
    document = json.loads((saved / 'config.json').read_text())
    for edit, complaint in (
        ({'model_type': 'qwen22'}, "did you mean 'qwen2'"),
        ({'hidden_act': 'gelu'}, 'silu'),
        ({'num_key_value_heads': 3}, 'do not divide'),
        ({'rope_parameters': {'rope_type': 'yarn'}}, 'yarn'),
        ({'rope_parameters': 3}, 'rope parameters'),
        ({'rope_parameters': {'rope_type': 'llama3', 'factor': 8}}, 'no low_freq_factor'),
        ({'hidden_size': '16'}, "hidden_size is a whole number above 0, got '16'"),
        ({'vocab_size': 0}, 'vocab_size is a whole number above 0, got 0'),
        ({'rms_norm_eps': None}, 'has no rms_norm_eps'),
        ({'rms_norm_eps': float('nan')}, 'rms_norm_eps is a number above 0'),
        ({'tie_word_embeddings': 'no'}, 'tie_word_embeddings'),
        ({'eos_token_id': '<|end|>'}, 'eos_token_id is the number of a token'),
    ):
        (saved / 'config.json').write_text(json.dumps(document | edit))
        with pytest.raises(UserError, match=complaint):
            checkpoint.read_config(saved)
    for content in ('{', '[]'):
        (saved / 'config.json').write_text(content)
        with pytest.raises(UserError, match=r'config\.json is damaged'):
            checkpoint.read_config(saved)
    (saved / 'config.json').write_text(json.dumps(document))
    for name, complaint in (('../elsewhere.safetensors', 'has no'), (5, 'no name of a file')):  # files beside it alone
        (saved / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': name}}))
        with pytest.raises(UserError, match=complaint):
            checkpoint.load(saved)


def test_a_file_is_no_place_for_a_checkpoint(params, tmp_path):
    (tmp_path / 'file').touch()
    for write in (
        lambda: checkpoint.save(tmp_path / 'file', CONFIG, params),
        lambda: lora.export(tmp_path / 'file', CONFIG, lora.init(params, KEY, rank=1)),
    ):
        with pytest.raises(UserError, match='could not write .*file'):
            write()


def test_a_full_disk_leaves_nothing(params, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(checkpoint, 'save_file', full)
    with pytest.raises(UserError, match='no space left'):
        checkpoint.save(tmp_path / 'model', CONFIG, params)
    assert not list((tmp_path / 'model').iterdir())


# Adapters


@pytest.fixture
def adapter(params):
    fresh = lora.init(params, KEY, rank=4)
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), fresh)


@jax.jit
def logits(params, adapter=None):
    net = model.Decoder(CONFIG)
    tokens = jnp.arange(12)[None] * 7
    variables = {'params': params} | ({} if adapter is None else {'lora': adapter})
    hidden, _ = net.apply(variables, tokens, tokens, jnp.ones_like(tokens))
    return net.apply(variables, hidden, method='logits')


def test_an_adapter_begins_as_nothing_and_merges_as_itself(params, adapter):
    fresh = lora.init(params, KEY, rank=4)
    np.testing.assert_array_equal(logits(params, fresh), logits(params))
    assert sum(leaf.size for leaf in jax.tree.leaves(fresh)) == 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert np.abs(logits(params, adapter) - logits(params)).max() > 0.1
    np.testing.assert_allclose(logits(lora.merge(CONFIG, params, adapter)), logits(params, adapter), atol=2e-3)


def test_adapters_by_pefts_names(params, adapter, tmp_path):
    lora.export(tmp_path, CONFIG, adapter)
    alpha, read = lora.load(tmp_path, params)
    assert alpha == CONFIG.lora_alpha
    same(read, adapter)
    tensors = load_file(tmp_path / 'adapter_model.safetensors')
    name = 'base_model.model.model.layers.1.mlp.down_proj.lora_A.weight'
    assert tensors[name].shape == (4, 128)
    change(tmp_path / 'adapter_model.safetensors', lambda t: t.pop(name))
    with pytest.raises(UserError, match=f'{name} is missing'):
        lora.load(tmp_path, params)
    with pytest.raises(UserError, match="did you mean 'q_proj'"):
        lora.init(params, KEY, targets=['q_prj'])
    with pytest.raises(UserError, match='no adapter'):
        lora.load(tmp_path / 'nowhere', params)


@pytest.mark.parametrize(
    'setting,complaint',
    [
        ({'use_rslora': True}, 'use_rslora True'),
        ({'alpha_pattern': {'q_proj': 8}}, 'alpha_pattern'),
        ({'rank_pattern': {'q_proj': 8}}, 'rank_pattern'),
        ({'use_dora': True}, 'use_dora'),
        ({'fan_in_fan_out': True}, 'fan_in_fan_out'),
        ({'modules_to_save': ['lm_head']}, 'modules_to_save'),
        ({'bias': 'all'}, "bias 'all'"),
        ({'target_modules': 'all-linear'}, 'target_modules is a list of names'),
        ({'target_modules': ['q_prj']}, "did you mean 'q_proj'"),
    ],
)
def test_adapters_of_other_kinds(params, adapter, tmp_path, setting, complaint):
    lora.export(tmp_path, CONFIG, adapter)
    path = tmp_path / 'adapter_config.json'
    empty = {'modules_to_save': None, 'alpha_pattern': {}, 'rank_pattern': {}, 'use_dora': False}
    path.write_text(json.dumps(json.loads(path.read_text()) | empty))
    lora.load(tmp_path, params)
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(UserError, match=complaint) as error:
        lora.load(tmp_path, params)
    assert str(path) in str(error.value)


def test_matrices_of_an_adapter_that_lie_on_their_side(params, adapter, tmp_path):
    """Of the same size, which is not enough."""
    lora.export(tmp_path, CONFIG, adapter)
    name = 'base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight'
    change(tmp_path / 'adapter_model.safetensors', lambda t: t.update({name: np.ascontiguousarray(t[name].T)}))
    with pytest.raises(UserError, match=rf'{name} is \[64, 4\], the model asks for \[4, 64\]'):
        lora.load(tmp_path, params)


@pytest.mark.filterwarnings('ignore::FutureWarning')  # peft's, about transformers
def test_live_against_peft(params, adapter, tmp_path):
    """Where torch, transformers and peft are installed: PEFT computes with our adapter what we do."""
    torch, peft = pytest.importorskip('torch'), pytest.importorskip('peft')
    transformers = pytest.importorskip('transformers')
    checkpoint.save(tmp_path / 'base', CONFIG, params)
    lora.export(tmp_path / 'adapter', CONFIG, adapter, base=str(tmp_path / 'base'))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'base', dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / 'adapter')).eval()
    with torch.no_grad():
        wanted = theirs(torch.arange(12)[None] * 7, position_ids=torch.arange(12)[None] * 7).logits.numpy()
    np.testing.assert_allclose(logits(params, adapter), wanted, atol=2e-2 * np.abs(wanted).max() / 100)
