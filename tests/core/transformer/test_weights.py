"""Weights in and out: what is written is what is read, on any mesh, and what is damaged is named."""

import json

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
    ):
        (saved / 'config.json').write_text(json.dumps(document | edit))
        with pytest.raises(UserError, match=complaint):
            checkpoint.read_config(saved)
    (saved / 'config.json').write_text('{')
    with pytest.raises(UserError, match=r'config\.json is damaged'):
        checkpoint.read_config(saved)
    (saved / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': '../elsewhere.safetensors'}}))
    (saved / 'config.json').write_text(json.dumps(document))
    with pytest.raises(UserError, match='has no'):  # files beside it, and no others
        checkpoint.load(saved)


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
