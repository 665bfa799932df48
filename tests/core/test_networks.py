"""Networks against NumPy, and against counts made by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import networks
from core_jax.errors import UserError
from core_jax.mesh import fetch

BATCH = 5


def shaken(module, *inputs, seed=0):
    """Parameters of the right shapes, none of them zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda x: np.float32(0.5 * rng.normal(size=x.shape)), shapes)


def numpy_mlp(params, x, layer_norm, activate_final=False, activation='gelu'):
    depth = sum(name.startswith('Dense') for name in params)
    for i in range(depth):
        x = x @ params[f'Dense_{i}']['kernel'] + params[f'Dense_{i}']['bias']
        if i < depth - 1 or activate_final:
            if activation == 'gelu':
                x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
            else:
                x = np.maximum(x, 0)
            if layer_norm:
                norm = params[f'LayerNorm_{i}']
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
                x = x * norm['scale'] + norm['bias']
    return x


@pytest.mark.parametrize(
    'fields',
    [{}, {'layer_norm': True}, {'layer_norm': True, 'activate_final': True, 'activation': nn.relu}],
    ids=['plain', 'norm', 'norm-final-relu'],
)
def test_mlp_is_dense_activation_norm(fields):
    x = np.float32(np.random.default_rng(1).normal(size=(BATCH, 3)))
    module = networks.MLP((16, 8, 2), **fields)
    params = shaken(module, x)
    options = fields | {'layer_norm': fields.get('layer_norm', False)}
    options['activation'] = 'relu' if 'activation' in fields else 'gelu'
    expected = numpy_mlp(jax.tree.map(np.float64, params['params']), np.float64(x), **options)
    np.testing.assert_allclose(jax.jit(module.apply)(params, x), expected, rtol=2e-5, atol=2e-5)


def test_initialisation_is_xavier_with_a_small_last_layer_and_members_differ():
    module = networks.ensemble(networks.MLP, 2)((64, 64, 4), final_scale=1e-2)
    params = fetch(jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32))))['params']
    for i, (fan_in, fan_out, scale) in enumerate([(32, 64, 1.0), (64, 64, 1.0), (64, 4, 1e-2)]):
        kernels = params[f'Dense_{i}']['kernel']
        assert kernels.shape == (2, fan_in, fan_out) and not np.array_equal(*kernels)
        bound = np.sqrt(scale * 6 / (fan_in + fan_out))
        for kernel in kernels:
            assert 0.95 * bound < np.abs(kernel).max() <= bound
            assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)  # uniform
        assert not params[f'Dense_{i}']['bias'].any()


def test_value_is_an_ensemble_of_independent_networks():
    rng = np.random.default_rng(1)
    observations, actions = np.float32(rng.normal(size=(BATCH, 3))), np.float32(rng.normal(size=(BATCH, 2)))
    module = networks.Value((8, 8), size=3)
    params = shaken(module, observations, actions)
    stack, inputs = params['params']['ensemble'], np.float64(np.concatenate([observations, actions], axis=1))
    members = [numpy_mlp(jax.tree.map(lambda p, i=i: np.float64(p[i]), stack), inputs, True)[:, 0] for i in range(3)]
    values = jax.jit(module.apply)(params, observations, actions)
    assert values.shape == (3, BATCH)
    np.testing.assert_allclose(values, members, rtol=5e-5, atol=5e-5)
    alone = jax.eval_shape(networks.Value((8,)).init, jax.random.key(0), observations)['params']['ensemble']
    assert alone['Dense_0']['kernel'].shape == (2, 3, 8)  # observations alone


def test_actor_concatenates_its_inputs():
    rng = np.random.default_rng(1)
    inputs = [np.float32(rng.normal(size=(BATCH, size))) for size in (3, 2, 1)]
    module = networks.Actor((8,), 2)
    params = shaken(module, *inputs)
    expected = numpy_mlp(params['params']['mlp'], np.concatenate(inputs, axis=1), False)
    np.testing.assert_allclose(jax.jit(module.apply)(params, *inputs), expected, rtol=2e-5, atol=2e-5)


def numpy_conv(layer, x):
    """Naive 3x3 convolution with a border of zeros."""
    height, width = x.shape[1:3]
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    kernel = np.float64(layer['kernel'])
    out = sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))
    return out + layer['bias']


def numpy_pool(x):
    """Maxima of 3x3 windows at even places; with an even side, SAME pads one row at the end only."""
    height, width = x.shape[1:3]
    padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=-np.inf)
    rows = [[padded[:, i : i + 3, j : j + 3].max((1, 2)) for j in range(0, width, 2)] for i in range(0, height, 2)]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def test_impala_encoder_on_bytes():
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    module = networks.ImpalaEncoder(stacks=(4,), hidden=5)
    params = shaken(module, images)
    stack = params['params']['ResnetStack_0']
    x = numpy_pool(numpy_conv(stack['Conv_0'], images / 255.0))
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    x = relu(x + numpy_conv(stack['Conv_2'], relu(numpy_conv(stack['Conv_1'], relu(x)))))
    expected = numpy_mlp(params['params']['MLP_0'], x.reshape(2, -1), False, activate_final=True)
    np.testing.assert_allclose(jax.jit(module.apply)(params, images), expected, rtol=2e-4, atol=2e-4)


def test_members_of_a_value_share_an_encoder_that_is_asked_once():
    rng = np.random.default_rng(1)
    images, actions = rng.integers(0, 256, (BATCH, 8, 8, 3)).astype(np.uint8), np.float32(rng.normal(size=(BATCH, 2)))
    encoder = networks.ImpalaEncoder(stacks=(4,), hidden=5)
    for module in (networks.Value((8,), encoder=encoder), networks.Actor((8,), 2, encoder=encoder)):
        params = shaken(module, images, actions)
        features = encoder.apply({'params': params['params']['encoder']}, images)
        np.testing.assert_allclose(module.apply(params, images, method='encode'), features, rtol=1e-6)
        head = 'ensemble' if isinstance(module, networks.Value) else 'mlp'
        assert set(params['params']) == {'encoder', head}
        out = module.apply(params, images, actions)
        np.testing.assert_allclose(module.apply(params, features, actions, method='head'), out, rtol=1e-5)
        plain = module.copy(encoder=None)
        inner = {'params': {head: params['params'][head]}}
        np.testing.assert_allclose(plain.apply(inner, features, actions), out, rtol=1e-5)
        np.testing.assert_array_equal(plain.apply(inner, features, method='encode'), features)


def test_encoders_of_the_published_sizes():
    """By hand, for 64x64x9: a layer of 3x3 takes 9 * in * out + out; three stacks leave 8x8, two 16x16."""
    assert networks.make_encoder('') is None
    with pytest.raises(UserError, match="unknown encoder 'impala_smal'; did you mean 'impala_small'"):
        networks.make_encoder('impala_smal')

    def stacks(sizes, blocks):
        channels = zip((9, *sizes[:-1]), sizes, strict=True)
        return sum(9 * i * o + o + 2 * blocks * (9 * o * o + o) for i, o in channels)

    expected = {
        'impala_small': stacks((16, 32, 32), 1) + 2048 * 512 + 512,
        'impala': stacks((16, 32, 32), 2) + 2048 * 512 + 512,
        'impala_large': stacks((64, 128, 128), 2) + 8192 * 1024 + 1024,
        'impala_debug': stacks((4, 4), 1) + 1024 * 512 + 512,
    }
    images = jnp.zeros((1, 64, 64, 9), jnp.uint8)
    for name, size in expected.items():
        shapes = jax.eval_shape(networks.make_encoder(name).init, jax.random.key(0), images)
        assert networks.parameter_count(shapes) == size, name
    assert set(networks.ENCODERS) == set(expected)


def test_parameters_of_the_published_sizes():
    """impala_small on 64x64x3: convolutions 448 + 4640, 4640 + 18496, 9248 + 18496; then 2048 x 512 + 512."""
    shapes = jax.eval_shape(networks.ImpalaEncoder().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.uint8))
    assert networks.parameter_count(shapes) == 55_968 + 1_049_088
    # FQL's critics for cube-single: 33 inputs, four layers of 512 with LayerNorm, two of them.
    one = 33 * 512 + 512 + 3 * (512 * 512 + 512) + 512 + 1 + 4 * 2 * 512
    shapes = jax.eval_shape(networks.Value((512,) * 4).init, jax.random.key(0), jnp.zeros((1, 28)), jnp.zeros((1, 5)))
    assert networks.parameter_count(shapes) == 2 * one == 1_619_970
