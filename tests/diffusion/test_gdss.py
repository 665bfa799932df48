"""GDSS's networks against NumPy on random weights of the published shapes, in the released code's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.networks import parameter_count
from diffusion_jax.models import gdss

NODES, FEATURES = 38, 9  # ZINC250k


def graph(count=2, nodes=7, seed=0):
    """(x, adjacency, flags); the second graph has two nodes fewer."""
    rng = np.random.default_rng(seed)
    adjacency = np.triu(rng.normal(size=(count, nodes, nodes)), 1)
    flags = np.ones((count, nodes))
    flags[1:, -2:] = 0
    x, adjacency = rng.normal(size=(count, nodes, FEATURES)), adjacency + adjacency.swapaxes(1, 2)
    return x * flags[..., None], adjacency * flags[:, None] * flags[:, :, None], flags


def linear(rng, name, i, o):
    return {f'{name}.weight': rng.normal(size=(o, i)) / np.sqrt(i), f'{name}.bias': 0.1 * rng.normal(size=o)}


def conv(rng, name, i, o):
    return {f'{name}.weight': rng.normal(size=(i, o)) / np.sqrt(i), f'{name}.bias': 0.1 * rng.normal(size=o)}


def dense(rng, name, *sizes):
    found = {}
    for i, pair in enumerate(zip(sizes, sizes[1:], strict=False)):
        found |= linear(rng, f'{name}.linears.{i}', *pair)
    return found


def node_weights(seed=1):
    """What `params_x` describes: depth 2, nhid 16."""
    rng = np.random.default_rng(seed)
    state = conv(rng, 'layers.0', FEATURES, 16) | conv(rng, 'layers.1', 16, 16)
    return state | dense(rng, 'final', 41, 82, 82, FEATURES)


def edge_weights(seed=2):
    """What `params_adj` describes: 6 layers, 3 linears, channels 2, 8, ..., 8, 4."""
    rng = np.random.default_rng(seed)
    state, channels = {}, [2, 8, 8, 8, 8, 8, 4]
    for layer, (i, o) in enumerate(zip(channels, channels[1:], strict=False)):
        inputs = FEATURES if layer == 0 else 16
        for a in range(i):
            for part in ('gnn_q', 'gnn_k', 'gnn_v'):
                state |= conv(rng, f'layers.{layer}.attn.{a}.{part}', inputs, 16)
        hidden = 2 * max(i, o)
        state |= dense(rng, f'layers.{layer}.mlp', 2 * i, hidden, hidden, o)
        state |= dense(rng, f'layers.{layer}.multi_channel', 16 * i, hidden, 16)
    return state | dense(rng, 'final', 46, 92, 92, 1)


# Once more in NumPy, loops over graphs and heads


def np_dense(state, name, x):
    count = sum(key.startswith(f'{name}.linears.') for key in state) // 2
    for i in range(count):
        x = x @ state[f'{name}.linears.{i}.weight'].T + state[f'{name}.linears.{i}.bias']
        x = np.where(x > 0, x, np.expm1(np.minimum(x, 0))) if i < count - 1 else x
    return x


def np_conv(state, name, x, adjacency):
    a = adjacency.copy()
    np.fill_diagonal(a, 1.0)
    degree = np.array([max(row.sum(), 1.0) for row in a])
    return (a / np.sqrt(np.outer(degree, degree))) @ (x @ state[f'{name}.weight']) + state[f'{name}.bias']


def np_nodes(state, x, adjacency, flags):
    seen = [x]
    for i in range(2):
        seen.append(np.tanh(np_conv(state, f'layers.{i}', seen[-1], adjacency)))
    return np_dense(state, 'final', np.concatenate(seen, -1)) * flags[:, None]


def np_edges(state, x, adjacency, flags):
    both = np.outer(flags, flags)
    channels = [adjacency, adjacency @ adjacency]
    seen = list(channels)
    for layer in range(6):
        values, attention = [], []
        for a, edges in enumerate(channels):
            q, k, v = (np_conv(state, f'layers.{layer}.attn.{a}.{p}', x, edges) for p in ('gnn_q', 'gnn_k', 'gnn_v'))
            heads = [np.tanh(q[:, h : h + 4] @ k[:, h : h + 4].T / np.sqrt(16)) for h in (0, 4, 8, 12)]
            mean = sum(heads) / 4
            attention.append((mean + mean.T) / 2)
            values.append(v)
        x = np.tanh(np_dense(state, f'layers.{layer}.multi_channel', np.concatenate(values, -1)) * flags[:, None])
        edges = np_dense(state, f'layers.{layer}.mlp', np.stack(attention + channels, -1))
        channels = [(edges[..., c] + edges[..., c].T) * both for c in range(edges.shape[-1])]
        seen += channels
    score = np_dense(state, 'final', np.stack(seen, -1))[..., 0] * both
    np.fill_diagonal(score, 0.0)
    return score


CASES = {
    'nodes': (gdss.NodeScore(), node_weights, np_nodes),
    'edges': (gdss.EdgeScore(), edge_weights, np_edges),
}


def structure(network, nodes=NODES):
    shapes = [(1, nodes, FEATURES), (1, nodes, nodes), (1, nodes)]
    return jax.eval_shape(network.init, jax.random.key(0), *(jnp.zeros(shape) for shape in shapes))


@pytest.mark.parametrize('case', CASES)
def test_networks_with_converted_weights_against_numpy(case):
    network, weights, reference = CASES[case]
    state, inputs = weights(), graph()
    params = gdss.convert({f'module.{name}': array for name, array in state.items()}, structure(network))
    found = jax.jit(network.apply)(params, *(np.float32(array) for array in inputs))
    expected = np.stack([reference(state, *one) for one in zip(*inputs, strict=True)])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('case', CASES)
def test_every_weight_finds_its_place(case):
    network, weights, _ = CASES[case]
    state, shapes = weights(), structure(network)
    assert parameter_count(shapes) == sum(array.size for array in state.values())
    assert len(jax.tree.leaves(shapes)) == len(state)


def test_what_does_not_fit_is_named():
    shapes, state = structure(gdss.NodeScore()), node_weights()
    with pytest.raises(UserError, match='the weights lack params/final/linears_1/bias'):
        gdss.convert({name: array for name, array in state.items() if name != 'final.linears.1.bias'}, shapes)
    with pytest.raises(UserError, match='the network has no params/more/kernel'):
        gdss.convert(state | {'more.weight': np.zeros(3)}, shapes)
    with pytest.raises(UserError, match=r'layers_0/kernel has shape \(9, 8\); it should have \(9, 16\)'):
        gdss.convert(state | {'layers.0.weight': np.zeros((9, 8))}, shapes)


def test_averages_take_the_place_of_the_weights_in_their_order():
    state = node_weights()
    found = gdss.averaged(state, [array + 1 for array in state.values()])
    assert list(found) == list(state)
    np.testing.assert_array_equal(found['final.linears.2.bias'], state['final.linears.2.bias'] + 1)
    with pytest.raises(UserError, match='9 moving averages for 10'):
        gdss.averaged(state, list(state.values())[:9])


def test_noise_levels_solve_the_published_equations():
    """dx = -beta(t) x / 2 dt has signal exp(-integral beta / 2); the exploding noise is geometric."""
    t = np.linspace(0, 1, 1001)
    signal, sigma = gdss.vp(t)
    beta = 0.1 + 0.9 * t
    integral = np.concatenate([[0], np.cumsum((beta[1:] + beta[:-1]) / 2 * np.diff(t))])
    np.testing.assert_allclose(signal, np.exp(-integral / 2), rtol=1e-6)
    np.testing.assert_allclose(signal**2 + sigma**2, 1)
    signal, sigma = gdss.ve(np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(sigma, [0.2, np.sqrt(0.2), 1.0])
    assert (signal == 1).all()
