"""The networks once more, in NumPy and float64, and what tests of agents need beside them.

`value`, `actor` and `gaussian` read the parameter trees of `core_jax.networks.Value`, `Actor` and
`core_jax.policies.GaussianActor`. Agents are tested at a point that is nowhere special (`random_state`), their
gradients against finite differences of the NumPy loss (`check_gradients`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.state import Trainable

OBS, ACT, BATCH = 3, 2, 8


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def relu(x):
    return np.maximum(x, 0)


def mlp(layers, x, layer_norm=False, activation=gelu):
    """[B, D] -> [B, features]: Dense, activation, LayerNorm; the last layer bare."""
    depth = sum(name.startswith('Dense') for name in layers)
    for i in range(depth):
        x = x @ layers[f'Dense_{i}']['kernel'] + layers[f'Dense_{i}']['bias']
        if i < depth - 1:
            x = activation(x)
            if layer_norm:
                norm = layers[f'LayerNorm_{i}']
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
                x = x * norm['scale'] + norm['bias']
    return x


def ensemble(stack, x, layer_norm=True, activation=gelu):
    """MLPs with a leading axis on their parameters, and one output each: [ensemble, B]."""
    size = jax.tree.leaves(stack)[0].shape[0]
    members = [jax.tree.map(lambda p, i=i: p[i], stack) for i in range(size)]
    return np.stack([mlp(member, x, layer_norm, activation)[:, 0] for member in members])


def value(params, *inputs):
    """`Value` with LayerNorm, [ensemble, B]."""
    return ensemble(params['params']['ensemble'], np.concatenate(inputs, -1))


def actor(params, *inputs):
    """`Actor` without LayerNorm, [B, A]."""
    return mlp(params['params']['mlp'], np.concatenate(inputs, -1))


def gaussian(params, observations, std):
    """`GaussianActor`: (mean, std) [B, A]."""
    out = mlp(params['params']['body']['mlp'], observations)
    if std == 'constant':
        return out, np.ones_like(out)
    mean, log_std = np.split(out, 2, axis=-1)
    return mean, np.exp(np.clip(log_std, -5, 2))


def flow_actions(params, observations, x, steps):
    """Euler's integral of the velocity from x at time 0, times 0, 1/steps, ..., clipped at the end."""
    for i in range(steps):
        x = x + actor(params, observations, x, np.full((len(x), 1), i / steps)) / steps
    return np.clip(x, -1, 1)


def batch(seed=0, size=BATCH, horizon=None):
    """Transitions; with a horizon, windows of which some are cut."""
    rng = np.random.default_rng(seed)
    steps = () if horizon is None else (horizon,)
    rows = {
        'observations': rng.normal(size=(size, OBS)),
        'actions': rng.uniform(-1, 1, (size, *steps, ACT)),
        'rewards': rng.normal(size=(size, *steps)),
        'masks': rng.integers(0, 2, (size, *steps)),
        'next_observations': rng.normal(size=(size, OBS)),
    }
    if horizon is None:
        rows |= {'next_actions': rng.uniform(-1, 1, (size, ACT)), 'next_valid': rng.integers(0, 2, size)}
    else:
        rows['valid'] = np.arange(horizon) < rng.integers(1, horizon + 1, size)[:, None]
    return {name: array.astype(np.float32) for name, array in rows.items()}


def random_state(learner, batch, seed=0, step=5, scale=0.5):
    """A state with parameters from N(0, scale^2), the targets' too, and fresh optimizers.

    The scales of LayerNorm are around 1, so that values differ more from row to row than from network to network.
    """
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        return ("'scale'" in str(path[-1:])) + scale * rng.normal(size=shape)

    return _state(learner, batch, draw, step)


def xavier_state(learner, batch, seed=0):
    """A state as good as `learner.init` gives, but that nothing is compiled for it, and targets are drawn apart."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        if "'kernel'" in str(path[-1:]):
            return rng.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape[-2:]))
        return np.full(shape, float("'scale'" in str(path[-1:])))

    return _state(learner, batch, draw, 0)


def _state(learner, batch, draw, step):
    def array(path, x):
        return np.float32(draw(path, x.shape))

    def node(path, x):
        if not isinstance(x, Trainable):
            return array(path, x)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), x.opt_state)
        return Trainable(jax.tree_util.tree_map_with_path(array, x.params), zeros)

    shapes = jax.eval_shape(learner.init, jax.random.key(0), batch).replace(key=(), step=())
    state = jax.tree_util.tree_map_with_path(node, shapes, is_leaf=lambda x: isinstance(x, Trainable))
    return state.replace(key=jax.random.key(3), step=np.int32(step))


def scalars(learner, **more):
    """The hparams that `update` takes."""
    return {name: np.float32(x) for name, x in (learner.hparams | more).items()}


def once(function):
    """Compiled in a hurry, for what runs a few times."""
    return jax.jit(function, compiler_options={'xla_backend_optimization_level': 0})


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def normal(key, *shape):
    return np.asarray(jax.random.normal(key, shape), np.float64)


def flow_noise(key, size=BATCH, dim=ACT):
    """(x_0 [B, A], t [B, 1]) of `core_jax.flow.training_pairs`."""
    x0_key, t_key = jax.random.split(key)
    return normal(x0_key, size, dim), np.asarray(jax.random.uniform(t_key, (size, 1)), np.float64)


def check_metrics(metrics, expected):
    for name, number in expected.items():
        np.testing.assert_allclose(metrics[name], number, rtol=2e-4, atol=2e-5, err_msg=name)


def check_gradients(loss, params, adam_state, seed=0):
    """Two entries of every leaf: the largest, and any. loss(params) is a float; its gradient must not be zero.

    Adam's first moment after one step from zero is 0.1 times the gradient.
    """
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(as_float64(params))
    steepest = 0.0
    for i, mu in enumerate(jax.tree.leaves(adam_state.mu)):
        gradient = np.asarray(mu, np.float64) / 0.1
        steepest = max(steepest, np.abs(gradient).max())
        largest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        for at in {largest, tuple(rng.integers(0, n) for n in gradient.shape)}:
            values = []
            for shift in (1e-6, -1e-6):
                moved = [leaf.copy() for leaf in leaves]
                moved[i][at] += shift
                values.append(loss(jax.tree.unflatten(structure, moved)))
            np.testing.assert_allclose(gradient[at], (values[0] - values[1]) / 2e-6, rtol=5e-3, atol=2e-4)
    assert steepest > 0.1


def check_target(old, online, new, tau):
    """new = tau * online + (1 - tau) * old, leaf by leaf."""
    for o, p, n in zip(*map(jax.tree.leaves, (old, online, new)), strict=True):
        np.testing.assert_allclose(n, tau * p + (1 - tau) * o, rtol=1e-5, atol=1e-6)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rows_of(observation, count):
    return jnp.broadcast_to(jnp.asarray(observation), (count, len(observation)))
