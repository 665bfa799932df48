"""Denoiser networks: shapes, sizes, the convolution against a loop, what positions see of each other."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.networks import parameter_count
from diffusion_jax.models import networks


def test_sizes_of_the_published_networks(key):
    def count(network, inputs):
        return parameter_count(jax.eval_shape(network.init, key, jax.ShapeDtypeStruct((1, 30, inputs), jnp.float32)))

    # Gosai's 3,326,661 without what computes a function of the noise level: here 20 constants of 128.
    time_layers = 64 + (128 * 128 + 128) + 20 * (128 * 128 + 128)
    assert count(networks.DilatedCNN(5), 5) == 3_326_661 - time_layers + 20 * 128
    block = 2 * 1024 + (1024 * 512 + 512) + 2 * 512 + (5 * 512 * 512 + 512) + 2 * 512 + (512 * 1024 + 1024)
    ends = 31 * 8 + (8 * 1024 + 1024) + 2 * 1024 + (1024 * 31 + 31)
    assert count(networks.ByteNet(31), 31) == 16 * block + ends == 37_890_327  # 38M


def test_dilations_of_the_cnn_follow_each_other(key):
    """With two stacks the layers are 1, 1, 1, 1, 4, 4, 16, 16, 64, 64."""
    network = networks.DilatedCNN(4, 8, 2)
    x = jax.random.normal(key, (1, 600, 5))
    params = jax.jit(network.init)(key, x)
    slope = jax.jit(jax.grad(lambda x, params: (network.apply(params, x)[0, 300] ** 2).sum()))

    def reach_with(layers):
        """How far an input is seen when only these layers and the input's convolution are left."""
        kept = {'params': dict(params['params'])}
        for i in range(10):
            if i not in layers:
                kept['params'][f'conv_{i}'] = jax.tree.map(np.zeros_like, params['params'][f'conv_{i}'])
        seen = np.flatnonzero(np.abs(np.asarray(slope(x, kept))[0]).sum(-1))
        return 300 - seen.min(), seen.max() - 300

    assert reach_with([]) == (4, 4)
    for i, dilation in enumerate([1, 1, 1, 1, 4, 4, 16, 16, 64, 64]):
        assert reach_with([i]) == (4 + 4 * dilation, 4 + 4 * dilation), i


@pytest.mark.parametrize(
    ('kind', 'sizes'),
    [
        ('cnn', {'hidden': 8, 'stacks': 1}),
        ('bytenet', {'width': 16, 'layers': 3, 'r': 2, 'embedding': 4}),
        ('transformer', {'width': 16, 'layers': 1, 'heads': 2}),
    ],
)
def test_networks_by_name_take_relaxed_tokens_and_look_both_ways(key, kind, sizes):
    network = networks.make(ml_collections.ConfigDict({'kind': kind, **sizes}), 4)
    x = networks.one_hot(jax.random.randint(key, (2, 7), 0, 5), 5)
    params = jax.jit(network.init)(key, x)

    @jax.jit
    def value_and_slope(x):
        return jax.value_and_grad(lambda x: (network.apply(params, x)[0, 3] ** 2).sum())(x)

    assert jax.eval_shape(network.apply, params, x).shape == (2, 7, 4)
    slope = value_and_slope(x)[1][0]
    assert np.abs(np.asarray(slope)[2]).sum() > 0 and np.abs(np.asarray(slope)[4]).sum() > 0


def test_bytenet_dilations_double_and_begin_again(key):
    network = networks.ByteNet(4, 8, 5, r=4, embedding=2)
    x = jax.random.normal(key, (1, 80, 5))
    params = jax.jit(network.init)(key, x)
    slope = jax.jit(jax.grad(lambda x, params: (network.apply(params, x)[0, 40] ** 2).sum()))
    for i, dilation in enumerate([1, 2, 4, 1, 2]):
        kept = {'params': dict(params['params'])}
        for j in range(5):
            if j != i:
                kept['params'][f'out_{j}'] = jax.tree.map(np.zeros_like, params['params'][f'out_{j}'])
        seen = np.flatnonzero(np.abs(np.asarray(slope(x, kept))[0]).sum(-1))
        assert seen.min() == 40 - 2 * dilation and seen.max() == 40 + 2 * dilation


def test_bad_names():
    with pytest.raises(UserError, match="unknown network 'transfomer'"):
        networks.make(ml_collections.ConfigDict({'kind': 'transfomer'}), 4)
    with pytest.raises(UserError, match="unknown size of a cnn 'layers'"):
        networks.make(ml_collections.ConfigDict({'kind': 'cnn', 'layers': 3}), 4)


def test_one_hot_rows_are_padded(key):
    tokens = jnp.asarray([[0, 2, 3]], jnp.int8)
    assert (networks.one_hot(tokens, 5) == jnp.asarray(np.eye(5)[[[0, 2, 3]]])).all()
    soft = networks.one_hot(tokens, 4)
    assert (networks.one_hot(soft, 6) == networks.one_hot(tokens, 6)).all()
