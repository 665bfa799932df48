"""BroNet and SimbaNet against NumPy, their initialisation, and the parameter count of the published critic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_nets import as_float64, once, relu

from core_jax.mesh import fetch
from core_jax.networks import ensemble, parameter_count
from scaling.utd.networks import BroNet, SimbaNet

BATCH, OBS = 5, 3

# The networks once more, in NumPy and float64


def dense(layer, x):
    return x @ layer['kernel'] + layer.get('bias', 0)


def norm(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * layer['scale'] + layer['bias']


def bronet(layers, x):
    depth = (sum(name.startswith('Dense') for name in layers) - 2) // 2

    def dense_norm(i, x):
        return norm(layers[f'LayerNorm_{i}'], dense(layers[f'Dense_{i}'], x))

    x = relu(dense_norm(0, x))
    for i in range(1, 2 * depth, 2):
        x = x + dense_norm(i + 1, relu(dense_norm(i, x)))
    return dense(layers[f'Dense_{2 * depth + 1}'], x)


def simbanet(layers, x):
    depth = (sum(name.startswith('Dense') for name in layers) - 2) // 2
    x = dense(layers['Dense_0'], x)
    for i in range(depth):
        hidden = relu(dense(layers[f'Dense_{2 * i + 1}'], norm(layers[f'LayerNorm_{i}'], x)))
        x = x + dense(layers[f'Dense_{2 * i + 2}'], hidden)
    return dense(layers[f'Dense_{2 * depth + 1}'], norm(layers[f'LayerNorm_{depth}'], x))


NETS = [(BroNet, bronet), (SimbaNet, simbanet)]


def initial(module, inputs):
    return fetch(once(module.init)(jax.random.key(0), jnp.zeros((1, inputs))))['params']


@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('net, expected', NETS)
def test_values(net, expected, depth):
    x = np.float32(np.random.default_rng(0).normal(size=(BATCH, OBS)))
    module = net(8, depth, 4)
    shapes, rng = jax.eval_shape(module.init, jax.random.key(0), x), np.random.default_rng(1)
    params = jax.tree.map(lambda p: np.float32(0.5 * rng.normal(size=p.shape)), shapes)
    values = once(module.apply)(params, x)
    np.testing.assert_allclose(values, expected(as_float64(params['params']), np.float64(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('net, _', NETS)
def test_a_critic_has_one_feature_and_members_of_its_own(net, _):
    params = initial(ensemble(net, 2)(8, 1), OBS)
    assert ensemble(net, 2)(8, 1).apply({'params': params}, jnp.zeros((BATCH, OBS))).shape == (2, BATCH, 1)
    for i in range(4):
        first, second = params[f'Dense_{i}']['kernel']
        assert not np.array_equal(first, second)


def assert_orthogonal(kernel, gain):
    """Rows or columns, whichever are fewer, are orthogonal and of this length."""
    kernel = np.float64(kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T)
    np.testing.assert_allclose(kernel.T @ kernel, gain**2 * np.eye(kernel.shape[1]), atol=1e-5 * gain**2)


def assert_rest_is_plain(params):
    for layer in params.values():
        assert not np.any(layer.get('bias', 0)) and np.all(layer.get('scale', 1) == 1)


def test_initialisation_of_bronet():
    params = initial(BroNet(32, 2, 4), 6)
    assert len(params) == 6 + 5  # Dense and LayerNorm
    for i in range(6):
        assert_orthogonal(params[f'Dense_{i}']['kernel'], np.sqrt(2))
    assert_rest_is_plain(params)
    small = initial(BroNet(32, 1, 4, final_scale=1e-2, final_bias=False), 6)
    assert_orthogonal(small['Dense_2']['kernel'], np.sqrt(2))
    assert_orthogonal(small['Dense_3']['kernel'], 1e-2)
    assert set(small['Dense_3']) == {'kernel'}


def test_initialisation_of_simbanet():
    params = initial(SimbaNet(64, 2, 4), 6)
    assert len(params) == 6 + 3
    for i in (0, 5):
        assert_orthogonal(params[f'Dense_{i}']['kernel'], 1)
    for i, (fan_in, fan_out) in enumerate([(64, 256), (256, 64)] * 2, start=1):
        kernel = params[f'Dense_{i}']['kernel']
        assert kernel.shape == (fan_in, fan_out) and kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
        assert abs(kernel.mean()) < 0.01
    assert_rest_is_plain(params)


def test_parameter_count_of_the_published_critic():
    """Two critics with 100 quantiles at HalfCheetah's shapes, biases and LayerNorm included: 2 * 1 119 332."""
    width, inputs, quantiles = 512, 17 + 6, 100
    shapes = jax.eval_shape(ensemble(BroNet, 2)(width, 2, quantiles).init, jax.random.key(0), jnp.zeros((1, inputs)))
    by_hand = (inputs + 1 + 2) * width + 4 * (width + 1 + 2) * width + (width + 1) * quantiles
    assert parameter_count(shapes) == 2 * by_hand == 2_238_664
