"""Behaviour cloning against closed forms: least squares, maximum likelihood, and the loss by SciPy."""

import jax
import numpy as np
import pytest
import scipy.stats

from core_jax.driver import DeviceDriver, Source
from core_jax.learners import bc
from core_jax.mesh import make_mesh, place, replicated

OBS, ACT, ROWS = 3, 2, 1024
WEIGHTS = np.array([[0.4, -0.2], [-0.3, 0.1], [0.2, 0.3]])
BIAS = np.array([0.1, -0.3])
LOG_STD = np.array([[0.5, -0.4], [0.0, 0.3], [-0.3, 0.0]]), np.array([-1.5, -1.0])


@pytest.fixture(scope='module')
def data():
    """a = W s + b + sigma(s) * noise with log sigma linear in s."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=(ROWS, OBS))
    a = s @ WEIGHTS + BIAS + np.exp(s @ LOG_STD[0] + LOG_STD[1]) * rng.normal(size=(ROWS, ACT))
    return s.astype(np.float32), a.astype(np.float32)


def config(**fields):
    config = bc.get_config()
    config.update({'hidden_dims': (), 'batch_size': ROWS} | fields)  # no hidden layer: linear, so convex
    return config


def train(cfg, data, rates, updates):
    """Full batches, the rates one after the other, in one program. Returns the last state and the mean metrics."""
    learner = bc.make(cfg, ACT)
    mesh = make_mesh('data:1')
    rows = dict(zip(('observations', 'actions'), place(data, (replicated(mesh),) * 2), strict=True))
    source = Source(rows, rows, lambda constants, data, state, key: (data, constants))
    driver = DeviceDriver(learner, source, mesh=mesh, hparams={'learning_rate': rates[0]})
    driver.initialize()
    for rate in rates:
        driver.hparams['learning_rate'][:] = rate
        driver.start(driver.carry, driver.updates)
        driver.advance(updates)
        metrics = driver.report().metrics
    assert driver.traces == 1
    return learner, driver.state(), metrics


def layer(state):
    dense = state.actor.params['params']['body']['mlp']['Dense_0']
    return dense['kernel'], dense['bias']


def test_constant_std_is_least_squares(data):
    cfg = config(std='constant')
    learner, state, metrics = train(cfg, data, [1e-2, 1e-4], 400)
    s, a = np.float64(data[0]), np.float64(data[1])
    design = np.concatenate([s, np.ones((ROWS, 1))], axis=1)
    solution, residuals, *_ = np.linalg.lstsq(design, a, rcond=None)
    kernel, bias = layer(state)
    np.testing.assert_allclose(kernel, solution[:-1], atol=2e-3)
    np.testing.assert_allclose(bias, solution[-1], atol=2e-3)
    mse = residuals.sum() / (ROWS * ACT)
    assert metrics['mse'][0] == pytest.approx(mse, rel=1e-3)
    # -log N(a; mu, 1), summed over the dimensions.
    assert metrics['loss'][0] == pytest.approx(0.5 * ACT * (mse + np.log(2 * np.pi)), rel=1e-3)
    assert metrics['std'][0] == 1.0


def test_state_dependent_std_is_recovered(data):
    cfg = config(std='state')
    learner, state, metrics = train(cfg, data, [1e-2, 1e-3], 500)
    kernel, bias = layer(state)
    s, a = np.float64(data[0]), np.float64(data[1])

    # The likelihood's own maximum: there its gradient vanishes. Per dimension, with z = (a - mu) / sigma:
    mean, log_std = np.split(s @ kernel + bias, 2, axis=1)
    z = (a - mean) / np.exp(log_std)
    design = np.concatenate([s, np.ones((ROWS, 1))], axis=1)
    np.testing.assert_allclose(design.T @ (z / np.exp(log_std)) / ROWS, 0, atol=0.03)
    np.testing.assert_allclose(design.T @ (z**2 - 1) / ROWS, 0, atol=0.03)
    # ... and it lies near the truth: standard errors are about 1 / sqrt(2 * ROWS) = 0.02 for log sigma.
    np.testing.assert_allclose(kernel[:, ACT:], LOG_STD[0], atol=0.1)
    np.testing.assert_allclose(bias[ACT:], LOG_STD[1], atol=0.1)
    np.testing.assert_allclose(kernel[:, :ACT], WEIGHTS, atol=0.05)
    np.testing.assert_allclose(bias[:ACT], BIAS, atol=0.05)
    loss = -scipy.stats.norm(mean, np.exp(log_std)).logpdf(a).sum(axis=1).mean()
    assert metrics['loss'][0] == pytest.approx(loss, rel=5e-3)

    # Acting: the mean by default, the clone with noise 1, both clipped to the range of actions.
    policy = learner.policy(state)
    one = np.zeros((4000, OBS), np.float32)
    act = jax.jit(learner.act)
    _, still = act(policy, (), one, jax.random.key(0))
    np.testing.assert_allclose(still, np.broadcast_to(bias[:ACT], still.shape), atol=1e-6)
    _, sampled = act(learner.explore(policy), (), one, jax.random.key(0))
    np.testing.assert_allclose(np.std(sampled, axis=0), np.exp(bias[ACT:]), rtol=0.06)
    _, far = act(policy, (), 100 * np.ones((1, OBS), np.float32), jax.random.key(0))
    np.testing.assert_array_equal(np.abs(far), 1.0)


def test_log_std_is_clipped():
    """Noise-free data would drive log sigma to minus infinity."""
    learner = bc.make(config(std='state', log_std_min=-2.0), ACT)
    layer = {'kernel': np.zeros((OBS, 2 * ACT), np.float32), 'bias': np.float32([0, 0, -50, -3])}
    policy = bc.Policy({'params': {'body': {'mlp': {'Dense_0': layer}}}}, np.float32(1))
    _, actions = jax.jit(learner.act)(policy, (), np.zeros((4000, OBS), np.float32), jax.random.key(0))
    np.testing.assert_allclose(np.std(actions, axis=0), np.exp([-2.0, -2.0]), rtol=0.06)


def test_loss_with_hidden_layers_is_scipy_s():
    """Two hidden layers with LayerNorm, biases not zero, against NumPy in float64."""
    cfg = config(hidden_dims=(8, 8), layer_norm=True, batch_size=16, log_std_min=-0.5)
    learner, rng = bc.make(cfg, ACT), np.random.default_rng(1)
    s, a = np.float32(rng.normal(size=(16, OBS))), np.float32(rng.uniform(-1, 1, (16, ACT)))
    batch = {'observations': s, 'actions': a}
    shapes = jax.eval_shape(learner.init, jax.random.key(0), batch)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.replace(key=()))
    params = jax.tree.map(lambda x: np.float32(0.5 * rng.normal(size=x.shape)), state.actor.params)
    state = state.replace(key=jax.random.key(0), actor=state.actor.replace(params=params))
    # The compiler's last optimizations take longer than they save for a single call.
    update = jax.jit(learner.update, compiler_options={'xla_backend_optimization_level': 0})
    new, metrics = update(state, batch, {'learning_rate': np.float32(1e-3)})

    layers, x = params['params']['body']['mlp'], np.float64(s)
    for i in range(3):
        x = x @ layers[f'Dense_{i}']['kernel'] + layers[f'Dense_{i}']['bias']
        if i < 2:
            x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
            norm = layers[f'LayerNorm_{i}']
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * norm['scale'] + norm['bias']
    mean, std = x[:, :ACT], np.exp(np.clip(x[:, ACT:], -0.5, 2))
    assert (x[:, ACT:] < -0.5).any()
    loss = -scipy.stats.norm(mean, std).logpdf(a).sum(axis=1).mean()
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics['mse'], np.mean((mean - a) ** 2), rtol=1e-4)
    np.testing.assert_allclose(metrics['std'], std.mean(), rtol=1e-4)
    # Of the last bias, the gradient is known: (mu - a) / sigma^2, and 1 - z^2 where log sigma is not clipped.
    z = (a - mean) / std
    gradient = np.concatenate([-z / std, (1 - z**2) * (x[:, ACT:] > -0.5)], axis=1).mean(axis=0)
    found = new.actor.opt_state.mu['params']['body']['mlp']['Dense_2']['bias'] / 0.1
    np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-5)
    assert new.step == 1
