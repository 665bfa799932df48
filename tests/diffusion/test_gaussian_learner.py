"""Training of Gaussian denoisers: losses against NumPy, learning against the linear optimum, the U-Net's shapes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.networks import MLP, parameter_count
from diffusion_jax import process as processes
from diffusion_jax.models import averaged, gaussian, gaussian_learner
from diffusion_jax.models.unet import UNet, embedding, folded, unfolded


class Net(nn.Module):
    """An MLP of designs [B, D] and numbers [B]."""

    hidden: int = 64

    @nn.compact
    def __call__(self, x, numbers):
        return MLP((self.hidden, self.hidden, x.shape[-1]))(jnp.concatenate([x, numbers[:, None]], -1))


class Linear(nn.Module):
    """x W + number b, which NumPy does as well."""

    @nn.compact
    def __call__(self, x, numbers):
        return (
            nn.Dense(x.shape[-1], use_bias=False)(x)
            + numbers[:, None] * self.param('b', nn.initializers.ones, (1,))[None]
        )


def config(**fields):
    config = gaussian_learner.get_config()
    config.update({'batch_size': 16, 'warmup': 1} | fields)
    return config


@pytest.fixture
def batch():
    return {'designs': np.float32(np.random.default_rng(0).normal(size=(16, 3)) * 0.5)}


def stepped(cfg, network, batch):
    """(state before, state after, metrics, W, b) of one update from a random point."""
    learner = gaussian_learner.make(cfg, network)
    state = jax.jit(learner.init)(jax.random.key(3), batch)
    new, metrics = jax.jit(learner.update)(state, batch, learner.hparams)
    params = state.net.params['params']
    return state, new, metrics, np.float64(params['Dense_0']['kernel']), np.float64(params['b'])


def test_edm_loss_against_numpy(batch):
    state, _, metrics, w, b = stepped(config(sigma_data=0.4), Linear(), batch)
    level, drawn = jax.random.split(jax.random.fold_in(state.key, 0))
    sigma = np.exp(-1.2 + 1.2 * np.float64(jax.random.normal(level, (16,))))[:, None]
    x0, n = np.float64(batch['designs']), np.float64(jax.random.normal(drawn, (16, 3)))
    x, total = x0 + sigma * n, sigma**2 + 0.4**2
    f = (x / np.sqrt(total)) @ w + np.log(sigma) / 4 * b
    denoised = 0.4**2 / total * x + sigma * 0.4 / np.sqrt(total) * f
    expected = (total / (sigma * 0.4) ** 2 * (denoised - x0) ** 2).mean()
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-4)


def test_ddpm_loss_against_numpy(batch):
    state, _, metrics, w, b = stepped(config(loss='ddpm', train_steps=50), Linear(), batch)
    level, drawn = jax.random.split(jax.random.fold_in(state.key, 0))
    t = np.asarray(jax.random.randint(level, (16,), 0, 50))
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 50))[t][:, None]
    n = np.float64(jax.random.normal(drawn, (16, 3)))
    x = np.sqrt(abar) * batch['designs'] + np.sqrt(1 - abar) * n
    expected = ((x @ w + t[:, None] / 50 * b - n) ** 2).mean()
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-4)


def test_average_warmup_and_metrics(batch):
    cfg = config(warmup=10, learning_rate=1e-2, ema=0.9)
    learner = gaussian_learner.make(cfg, Linear())
    state, new, metrics, w, _ = stepped(cfg, Linear(), batch)
    np.testing.assert_array_equal(state.ema['params']['Dense_0']['kernel'], w.astype(np.float32))
    moved = np.float64(new.net.params['params']['Dense_0']['kernel'])
    np.testing.assert_allclose(np.abs(moved - w).max(), 1e-3, rtol=1e-3)  # Adam's first step, a tenth of the rate
    average = np.float64(new.ema['params']['Dense_0']['kernel'])
    np.testing.assert_allclose(average, 0.1 * w + 0.9 * moved, rtol=1e-4, atol=1e-6)  # decay (1 + 0) / (10 + 0)
    assert learner.policy(new) is new.ema and set(metrics) == {'loss', 'grad_norm'} and new.step == 1
    late = state.replace(step=jnp.int32(1000))
    after, _ = jax.jit(learner.update)(late, batch, learner.hparams)
    expected = jax.tree.map(lambda old, net: 0.9 * old + 0.1 * net, late.ema, after.net.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.ema, expected)


def test_gradients_are_clipped_and_weights_decay():
    cfg = config(clip=0.5, weight_decay=0.1, learning_rate=1.0)
    learner = averaged.make(lambda w, batch, key: 100 * w.sum(), lambda key, batch: jnp.array([2.0, -3.0]), cfg)
    state = learner.init(jax.random.key(0), {})
    new, metrics = learner.update(state, {}, learner.hparams)
    assert float(metrics['grad_norm']) == pytest.approx(100 * np.sqrt(2), rel=1e-5)
    np.testing.assert_allclose(new.net.params, [2.0 - 1.0 - 0.2, -3.0 - 1.0 + 0.3], rtol=1e-4)
    clipped = 0.5 / np.sqrt(2) * 0.1  # Adam's first moment
    np.testing.assert_allclose(new.net.opt_state[1].mu, [clipped, clipped], rtol=1e-4)


def trained(cfg, network, sampler, steps):
    learner = gaussian_learner.make(cfg, network)

    @jax.jit
    def run(state):
        def one(state, step):
            designs = sampler(jax.random.fold_in(jax.random.key(7), step), cfg.batch_size)
            return learner.update(state, {'designs': designs}, learner.hparams)

        return jax.lax.scan(one, state, jnp.arange(steps))

    state, metrics = run(jax.jit(learner.init)(jax.random.key(0), {'designs': jnp.zeros((1, 2))}))
    return learner.policy(state), metrics['loss']


MEAN = np.array([0.3, -0.2])
COV = np.array([[0.5, 0.3], [0.3, 0.4]])


@pytest.fixture(scope='module', params=['edm', 'ddpm'])
def learned(request):
    cfg = config(loss=request.param, sigma_data=0.7, batch_size=256, learning_rate=3e-3, ema=0.99)
    factor = jnp.asarray(np.linalg.cholesky(COV), jnp.float32)

    def sampler(key, count):
        return jnp.asarray(MEAN, jnp.float32)[None] + jax.random.normal(key, (count, 2)) @ factor.T

    params, _ = trained(cfg, Net(), sampler, 2000)

    def process(steps):
        about = {'sigma_min': 0.02, 'sigma_max': 20, 'network': Net()}
        return gaussian_learner.process(cfg, params, shape=(2,), steps=steps, **about)

    return cfg, process


def test_learned_denoiser_is_the_linear_optimum(learned):
    """D*(x) = m + C (C + u^2 I)^-1 (x / a - m), u = s / a: it leaves an error of which little may come on top."""
    cfg, process = learned[0], learned[1](30)
    if cfg.loss == 'edm':
        signal, sigma = np.ones(30), gaussian.karras(30, 0.02, 20)[:-1]
    else:
        abar = gaussian.linear_abar()[gaussian.timesteps(30, 1000)]
        signal, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    rng = np.random.default_rng(1)
    x0 = rng.multivariate_normal(MEAN, COV, 2000)
    denoise = jax.jit(process.denoise)
    for level in (8, 15, 22):
        a, s = signal[level], sigma[level]
        u = s / a
        x = x0 + u * rng.normal(size=x0.shape)
        best = MEAN + (x - MEAN) @ np.linalg.solve(COV + u**2 * np.eye(2), COV)
        found = np.float64(denoise(process.params, np.float32(a * x), level))
        left, more = ((best - x0) ** 2).mean(), ((found - best) ** 2).mean()
        assert more < 0.05 * left, (level, u, left, more)


def test_learned_sampler_draws_the_data(learned):
    process = learned[1](200)
    x = np.float64(jax.jit(lambda keys: processes.sample(process, keys))(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.08)
    np.testing.assert_allclose(np.cov(x.T), COV, atol=0.1)


def test_unknown_loss():
    with pytest.raises(UserError, match="did you mean 'edm'"):
        gaussian_learner.make(config(loss='edn'))


# The U-Net


def test_default_unet_has_the_parameters_of_its_layers():
    """Counted by hand, from channels 32 and 64, one block a size."""

    def conv(i, o, k=3):
        return k * k * i * o + o

    def block(i, o):
        return 2 * i + conv(i, o) + (128 * 2 * o + 2 * o) + 2 * o + conv(o, o) + (conv(i, o, 1) if i != o else 0)

    def attention(c):
        return 2 * c + c * 3 * c + 3 * c + c * c + c

    noise = 64 * 128 + 128 + 128 * 128 + 128
    down = conv(1, 32) + block(32, 32) + conv(4 * 32, 32, 1) + block(32, 64)
    middle = 2 * block(64, 64) + attention(64)
    up = block(128, 64) + block(96, 64) + conv(64, 64) + block(96, 32) + block(64, 32)
    params = jax.eval_shape(UNet().init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros((1,)))
    assert parameter_count(params) == noise + down + middle + up + 2 * 32 + conv(32, 1) == 703_681


@pytest.mark.parametrize('shape, patch', [((8, 8, 1), 1), ((28, 28, 1), 2), ((12, 8, 3), 1)])
def test_unet_keeps_the_shape(shape, patch):
    net, x = UNet(channels=4, patch=patch), jnp.zeros((2, *shape))
    found, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), x, jnp.zeros((2,)))
    assert found.shape == x.shape


def test_unet_sees_noise_and_every_pixel_but_no_other_row():
    net = UNet(channels=4)
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(3, 8, 8, 1)))
    numbers = np.float32([0.1, 0.1, -0.7])
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, numbers)
    params = jax.tree.map(lambda leaf: np.float32(0.3 * rng.normal(size=leaf.shape)), shapes)
    apply = jax.jit(net.apply)
    out = np.asarray(apply(params, x, numbers))
    alone = np.asarray(apply(params, x[[0, 0, 0]], numbers))  # the first image at each number
    np.testing.assert_allclose(alone[:1], out[:1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alone[1], alone[0], rtol=1e-4, atol=1e-5)
    assert np.abs(alone[2] - alone[0]).max() > 1e-3
    touched = x.copy()
    touched[0, 0, 0, 0] += 1
    moved = np.asarray(apply(params, touched, numbers)) - out
    assert np.abs(moved[0, 7, 7]).max() > 1e-6  # attention reaches the other corner
    assert not moved[1:].any()


def test_folding_keeps_squares_together():
    x = np.arange(2 * 4 * 6 * 2).reshape(2, 4, 6, 2)
    y = np.asarray(folded(x, 2))
    np.testing.assert_array_equal(y[1, 1, 2], x[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(unfolded(y, 2), x)


def test_unet_refuses_sizes_that_do_not_halve():
    with pytest.raises(UserError, match='multiples of 4'):
        jax.eval_shape(UNet(patch=2).init, jax.random.key(0), jnp.zeros((1, 10, 10, 1)), jnp.zeros((1,)))


def test_embedding_tells_numbers_apart():
    numbers = jnp.array([-1.0, 0.0, 0.01, 1.0])
    found = np.asarray(embedding(numbers, 16))
    assert found.shape == (4, 16)
    np.testing.assert_allclose(found[1], [1] * 8 + [0] * 8, atol=1e-6)
    gaps = np.linalg.norm(found[:, None] - found[None], axis=-1)
    assert gaps[np.triu_indices(4, 1)].min() > 0.5
