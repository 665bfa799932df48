"""Published checkpoints, on random weights of their shapes: our networks against NumPy by PyTorch's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from torch_pickle import Build, Call, Name, write

from core_jax.errors import UserError
from core_jax.networks import parameter_count
from diffusion_jax.models import convert, masked_learner

# The published layers, once more and apart from the rules: names, shapes, forward passes.


def gosai_shapes(hidden=128, stacks=4, vocabulary=5):
    shapes = {'linear.weight': (hidden, vocabulary, 9), 'linear.bias': (hidden,), 'time_embedder.0.W': (hidden // 2,)}
    shapes |= {'time_embedder.1.weight': (hidden, hidden), 'time_embedder.1.bias': (hidden,)}
    layers = range(5 * stacks)
    for name, shape in (
        ('convs.{}', (hidden, hidden, 9)),
        ('time_layers.{}.dense', (hidden, hidden)),
        ('norms.{}', (hidden,)),
    ):
        for i in layers:
            shapes |= {f'{name.format(i)}.weight': shape, f'{name.format(i)}.bias': (hidden,)}
    shapes |= {'final_conv.0.weight': (hidden, hidden, 1), 'final_conv.0.bias': (hidden,)}
    return shapes | {'final_conv.2.weight': (vocabulary, hidden, 1), 'final_conv.2.bias': (vocabulary,)}


def evodiff_shapes(d_model=1024, layers=16, kernel=5, d_embed=8, vocabulary=31):
    half = d_model // 2
    shapes = {
        'embedder.embedder.weight': (vocabulary, d_embed),
        'embedder.up_embedder.conv.weight': (d_model, d_embed, 1),
    }
    shapes['embedder.up_embedder.conv.bias'] = (d_model,)
    for i in range(layers):
        block = {'conv': (half, half, kernel), 'sequence1.0': (d_model,), 'sequence1.2.conv': (half, d_model, 1)}
        block |= {'sequence1.3': (half,), 'sequence2.0': (half,), 'sequence2.2.conv': (d_model, half, 1)}
        for name, shape in block.items():
            shapes |= {f'embedder.layers.{i}.{name}.weight': shape, f'embedder.layers.{i}.{name}.bias': shape[:1]}
    shapes |= {'decoder.conv.weight': (vocabulary, d_model, 1), 'decoder.conv.bias': (vocabulary,)}
    return shapes | {'last_norm.weight': (d_model,), 'last_norm.bias': (d_model,)}


def random_weights(shapes, seed=0):
    """Of the size that PyTorch begins with; norms away from 1 and 0."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = 0.2 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
        weights[name] = (scale * rng.standard_normal(shape, np.float32)).astype(np.float32)
        if len(shape) == 1 and name.endswith('weight'):
            weights[name] += 1
    return weights


def conv(x, w, name, dilation=1):
    """[L, in] -> [L, out], zeros beyond the ends."""
    kernel = w[f'{name}.weight'].astype(np.float64)
    centre, length = kernel.shape[2] // 2, len(x)
    y = np.zeros((length, kernel.shape[0])) + w[f'{name}.bias']
    for tap in range(kernel.shape[2]):
        shift = (tap - centre) * dilation
        here = slice(max(0, -shift), min(length, length - shift))
        if here.start < here.stop:
            y[here] += x[here.start + shift : here.stop + shift] @ kernel[:, :, tap].T
    return y


def norm(x, w, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * w[f'{name}.weight'] + w[f'{name}.bias']


def relu(x):
    return np.maximum(x, 0)


def gosai_forward(w, tokens, stacks):
    sigma = 0.0
    angle = 2 * np.pi * sigma * w['time_embedder.0.W']
    embedding = np.concatenate([np.sin(angle), np.cos(angle)])
    time = relu(w['time_embedder.1.weight'] @ embedding + w['time_embedder.1.bias'])
    x = relu(conv(np.eye(5)[tokens], w, 'linear'))
    dilations = [1] * (2 * stacks) + [4] * stacks + [16] * stacks + [64] * stacks
    for i, dilation in enumerate(dilations):
        h = x + w[f'time_layers.{i}.dense.weight'] @ time + w[f'time_layers.{i}.dense.bias']
        x = x + relu(conv(norm(h, w, f'norms.{i}'), w, f'convs.{i}', dilation))
    return conv(relu(conv(x, w, 'final_conv.0')), w, 'final_conv.2')


def evodiff_forward(w, tokens, layers, r=128):
    def gelu(x):
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    x = conv(w['embedder.embedder.weight'][tokens], w, 'embedder.up_embedder.conv')
    period = int(np.log2(r)) + 1
    for i in range(layers):
        name = f'embedder.layers.{i}'
        h = conv(gelu(norm(x, w, f'{name}.sequence1.0')), w, f'{name}.sequence1.2.conv')
        h = conv(gelu(norm(h, w, f'{name}.sequence1.3')), w, f'{name}.conv', 2 ** (i % period))
        x = x + conv(gelu(norm(h, w, f'{name}.sequence2.0')), w, f'{name}.sequence2.2.conv')
    return conv(norm(x, w, 'last_norm'), w, 'decoder.conv')


# Tests


def agrees(network, params, expected, tokens, width):
    logits = np.asarray(jax.jit(network.apply)(params, jax.nn.one_hot(tokens[None], width)))[0]
    np.testing.assert_allclose(logits, expected, atol=2e-4 * np.abs(expected).max())
    assert expected.std() > 0.1  # a network that says nothing would agree with everything


def test_gosai_of_the_published_size():
    weights = random_weights(gosai_shapes())
    assert sum(w.size for w in weights.values()) == 3_326_661
    network, params = convert.gosai(weights)
    assert (network.hidden, network.stacks, network.outputs) == (128, 4, 5)
    assert parameter_count(params) == 3_326_661 - 64 - 21 * (128 * 128 + 128) + 20 * 128
    tokens = np.random.default_rng(1).integers(0, 5, 200)
    agrees(network, params, gosai_forward(weights, tokens, 4), tokens, 5)


def test_evodiff_of_the_published_depth():
    """All 16 layers, narrower: the 38M network itself is the slow test."""
    weights = random_weights(evodiff_shapes(d_model=64))
    network, params = convert.evodiff(weights)
    assert (network.width, network.layers, network.kernel, network.outputs) == (64, 16, 5, 31)
    tokens = np.random.default_rng(1).integers(0, 31, 90)
    agrees(network, params, evodiff_forward(weights, tokens, 16), tokens, 31)


@pytest.mark.slow
def test_evodiff_of_the_published_size():
    weights = random_weights(evodiff_shapes())
    assert sum(w.size for w in weights.values()) == 37_890_327
    network, params = convert.evodiff(weights)
    tokens = np.random.default_rng(1).integers(0, 31, 60)
    agrees(network, params, evodiff_forward(weights, tokens, 16), tokens, 31)


def lightning(last, average, trainable):
    """A checkpoint as Lightning writes it, configuration objects included."""
    state = {f'backbone.{name}': array for name, array in last.items()}
    config = Build(Call(Name('omegaconf.dictconfig', 'DictConfig'), ()), {'_content': {'lr': 3e-4}})
    return {
        'epoch': 99,
        'state_dict': state,
        'ema': {'decay': 0.9999, 'num_updates': 131_500, 'shadow_params': [average[name] for name in trainable]},
        'hyper_parameters': {'config': config},
        'callbacks': {'x': Call(Name('lightning.pytorch.callbacks', 'ModelCheckpoint'), ())},
    }


def test_a_lightning_checkpoint_is_read_by_its_moving_average(tmp_path):
    shapes = gosai_shapes(16, 1)
    last, average = random_weights(shapes, 0), random_weights(shapes, 1)
    trainable = [name for name in shapes if name != 'time_embedder.0.W']
    path = write(tmp_path / 'last.ckpt', lightning(last, average, trainable))
    tokens = np.random.default_rng(1).integers(0, 5, 60)
    agrees(*convert.load_gosai(path), gosai_forward(average, tokens, 1), tokens, 5)
    agrees(*convert.load_gosai(path, ema=False), gosai_forward(last, tokens, 1), tokens, 5)
    # A process of it draws bases.
    network, params = convert.load_gosai(path)
    model = masked_learner.process(network, params, **convert.GOSAI)
    out = jax.jit(model.denoise)(params, jnp.full((1, 200), 4, jnp.int8), 0)
    assert out.shape == (1, 200, 4)
    swapped = [trainable[1], trainable[0], *trainable[2:]]
    with pytest.raises(UserError, match='are not those of the'):
        convert.load_gosai(write(tmp_path / 'order.ckpt', lightning(last, average, swapped)))
    with pytest.raises(UserError, match='no moving average'):
        convert.gosai_weights({'state_dict': {}})
    with pytest.raises(UserError, match='no Lightning checkpoint'):
        convert.load_gosai(write(tmp_path / 'x.ckpt', {'model': {}}))


def test_an_evodiff_checkpoint_loses_its_prefix(tmp_path):
    weights = random_weights(evodiff_shapes(16, 2))
    state = {f'module.{name}': array for name, array in weights.items()}
    path = write(tmp_path / 'oaar.tar', {'epoch': 1, 'model_state_dict': state})
    network, params = convert.load_evodiff(path)
    tokens = np.random.default_rng(1).integers(0, 31, 40)
    agrees(network, params, evodiff_forward(weights, tokens, 2), tokens, 31)
    model = masked_learner.process(network, params, length=40, **convert.EVODIFF)
    assert jax.jit(model.denoise)(params, jnp.full((1, 40), 28, jnp.int8), 0).shape == (1, 40, 20)
    alphabet = convert.EVODIFF_ALPHABET
    assert alphabet[28] == '#' and len(alphabet) == 31 and alphabet[:20] == 'ACDEFGHIKLMNPQRSTVWY'
    with pytest.raises(UserError, match='no model_state_dict'):
        convert.load_evodiff(write(tmp_path / 'x.tar', {'state_dict': state}))


def test_weights_of_another_model_are_refused():
    good = random_weights(gosai_shapes(16, 1))
    with pytest.raises(UserError, match='which has no cls_embedder.weight'):
        convert.gosai(good | {'cls_embedder.weight': np.zeros((4, 16))})
    with pytest.raises(UserError, match='there is no norms.3.bias'):
        convert.gosai({name: w for name, w in good.items() if name != 'norms.3.bias'})
    with pytest.raises(UserError, match=r'convs.2.weight is \(16, 16, 7\), not \(16, 16, 9\)'):
        convert.gosai(good | {'convs.2.weight': np.zeros((16, 16, 7))})
    with pytest.raises(UserError, match='not the weights of an EvoDiff OA-DM model'):
        convert.evodiff(good)


@pytest.mark.slow
def test_evodiff_agrees_with_pytorch():
    """The layers in PyTorch itself: its GELU, LayerNorm and padding are what NumPy's above stand for."""
    torch = pytest.importorskip('torch')
    weights = random_weights(evodiff_shapes(32, 9))
    w = {name: torch.from_numpy(array) for name, array in weights.items()}
    f = torch.nn.functional
    tokens = np.random.default_rng(1).integers(0, 31, 50)

    def conv1d(x, name, dilation=1):
        kernel = w[f'{name}.weight']
        padding = dilation * (kernel.shape[-1] - 1) // 2
        return f.conv1d(x.T[None], kernel, w[f'{name}.bias'], padding=padding, dilation=dilation)[0].T

    def layer(x, name):
        return f.layer_norm(x, x.shape[-1:], w[f'{name}.weight'], w[f'{name}.bias'])

    x = conv1d(w['embedder.embedder.weight'][tokens], 'embedder.up_embedder.conv')
    for i in range(9):
        name = f'embedder.layers.{i}'
        h = conv1d(f.gelu(layer(x, f'{name}.sequence1.0')), f'{name}.sequence1.2.conv')
        h = conv1d(f.gelu(layer(h, f'{name}.sequence1.3')), f'{name}.conv', 2 ** (i % 8))
        x = x + conv1d(f.gelu(layer(h, f'{name}.sequence2.0')), f'{name}.sequence2.2.conv')
    expected = conv1d(layer(x, 'last_norm'), 'decoder.conv').numpy()
    agrees(*convert.evodiff(weights), expected, tokens, 31)
