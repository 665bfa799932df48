"""SAC's losses against NumPy, its gradients against finite differences, its learning on the probe environments."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_nets import (
    ACT,
    BATCH,
    as_float64,
    batch,
    check_gradients,
    check_target,
    ensemble,
    gelu,
    mlp,
    normal,
    once,
    random_state,
    relu,
    scalars,
)
from probes import EXAMPLE, PROBES, ProbeFeed

from core_jax import sources
from core_jax.host_driver import HostDriver
from core_jax.learners import sac
from core_jax.mesh import fetch, make_mesh


def config(**fields):
    config = sac.get_config()
    config.update({'hidden_dims': (16, 16), 'batch_size': BATCH} | fields)
    return config


# SAC once more, in NumPy and float64, from the paper's equations

ACTIVATIONS = {'relu': relu, 'gelu': gelu}
AGGREGATES = {'min': np.min, 'mean': np.mean}


def actor(params, observations, cfg):
    """Means and log-deviations, one after the other: [B, 2A]."""
    return mlp(params['params'], observations, activation=ACTIVATIONS[cfg.activation])


def critics(params, observations, actions, cfg):
    inputs = np.concatenate([observations, actions], -1)
    return ensemble(params['params'], inputs, cfg.critic_layer_norm, ACTIVATIONS[cfg.activation])


def policy(params, observations, noise, cfg):
    """Actions and their log-densities."""
    out = actor(params, observations, cfg)
    mean, log_std = out[:, :ACT], np.clip(out[:, ACT:], -5, 2)
    u = mean + np.exp(log_std) * noise
    normal = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    return np.tanh(u), (normal - np.log(1 - np.tanh(u) ** 2)).sum(-1)


def critic_loss(params, actor, target, log_alpha, b, noise, hparams, cfg):
    next_actions, log_prob = policy(actor, b['next_observations'], noise, cfg)
    value = AGGREGATES[cfg.target_agg](critics(target, b['next_observations'], next_actions, cfg), axis=0)
    if cfg.backup_entropy:
        value = value - np.exp(log_alpha) * log_prob
    y = b['rewards'] + hparams['discount'] * b['masks'] * value
    return np.mean((critics(params, b['observations'], b['actions'], cfg) - y) ** 2)


def actor_loss(params, critic, log_alpha, b, noise, cfg):
    actions, log_prob = policy(params, b['observations'], noise, cfg)
    q = AGGREGATES[cfg.actor_agg](critics(critic, b['observations'], actions, cfg), axis=0)
    return np.mean(np.exp(log_alpha) * log_prob - q)


RLPD = {
    'activation': 'gelu',
    'critic_layer_norm': True,
    'num_critics': 3,
    'target_entropy': 'half',
    'temperature_loss': 'log_alpha',
    'actor_agg': 'mean',
    'backup_entropy': False,
}


@pytest.fixture(scope='module', params=[{}, RLPD], ids=['default', 'variants'])
def updated(request):
    """One update from a point that is nowhere special."""
    cfg = config(**request.param, discount=0.9, tau=0.25, critic_learning_rate=3e-3, temperature_learning_rate=1e-2)
    learner = sac.make(cfg, ACT)
    b = batch()
    state = random_state(learner, b, scale=0.4)
    state = state.replace(temperature=state.temperature.replace(params=np.float32(-0.7)))
    hparams = scalars(learner)
    new, metrics = once(learner.update)(state, b, hparams)
    critic_key, actor_key = jax.random.split(jax.random.fold_in(state.key, 5))
    noises = [normal(key, BATCH, ACT) for key in (critic_key, actor_key)]
    return cfg, state, new, metrics, as_float64(b), hparams, noises


def test_critic_loss_and_gradient(updated):
    cfg, state, new, metrics, b, hparams, (noise, _) = updated
    params, actor, target = as_float64((state.critic.params, state.actor.params, state.target_critic))

    def loss(params):
        return critic_loss(params, actor, target, -0.7, b, noise, hparams, cfg)

    np.testing.assert_allclose(metrics['critic/loss'], loss(params), rtol=1e-4)
    q = critics(params, b['observations'], b['actions'], cfg)
    for name, value in (('mean', q.mean()), ('min', q.min()), ('max', q.max())):
        np.testing.assert_allclose(metrics[f'critic/q_{name}'], value, rtol=1e-4, atol=1e-5)
    check_gradients(loss, params, new.critic.opt_state)


def test_actor_loss_and_gradient_see_the_moved_critics(updated):
    cfg, state, new, metrics, b, _, (_, noise) = updated
    params, moved, stale = as_float64((state.actor.params, new.critic.params, state.critic.params))

    def loss(params):
        return actor_loss(params, moved, -0.7, b, noise, cfg)

    np.testing.assert_allclose(metrics['actor/loss'], loss(params), rtol=1e-4, atol=1e-5)
    assert abs(actor_loss(params, stale, -0.7, b, noise, cfg) - loss(params)) > 1e-3
    _, log_prob = policy(params, b['observations'], noise, cfg)
    np.testing.assert_allclose(metrics['actor/entropy'], -log_prob.mean(), rtol=1e-4, atol=1e-5)
    check_gradients(loss, params, new.actor.opt_state)


def test_temperature_loss_and_gradient(updated):
    cfg, _, new, metrics, b, _, _ = updated
    gap = float(metrics['actor/entropy']) - {'full': -ACT, 'half': -ACT / 2}[cfg.target_entropy]
    alpha = np.exp(-0.7)
    loss, gradient = {'alpha': (alpha * gap, alpha * gap), 'log_alpha': (-0.7 * gap, gap)}[cfg.temperature_loss]
    np.testing.assert_allclose(metrics['temperature/loss'], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics['temperature/alpha'], alpha, rtol=1e-6)
    np.testing.assert_allclose(new.temperature.opt_state.mu / 0.1, gradient, rtol=1e-4)
    # Adam's first step has the length of the learning rate.
    np.testing.assert_allclose(new.temperature.params, -0.7 - 1e-2 * np.sign(gradient), rtol=1e-4)


def test_target_follows_the_moved_critics_and_each_optimizer_has_its_rate(updated):
    _, state, new, _, _, hparams, _ = updated
    check_target(state.target_critic, new.critic.params, new.target_critic, 0.25)
    for name in ('critic', 'actor'):
        before, after = getattr(state, name).params, getattr(new, name).params
        longest = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, fetch((before, after))), strict=True))
        assert longest == pytest.approx(hparams[f'{name}_learning_rate'], rel=1e-2)
    assert new.step == 6


# Learning, all probes in one compiled program

DISCOUNT = 0.5


@pytest.fixture(scope='module')
def learned():
    cfg = config(hidden_dims=(64,), batch_size=64, tau=0.05, discount=DISCOUNT)
    cfg.update({f'{name}_learning_rate': 3e-3 for name in ('actor', 'critic', 'temperature')})
    learner = sac.make(cfg, 1)
    source = sources.online(EXAMPLE, capacity=4096, batch_size=cfg.batch_size)
    driver = HostDriver(learner, source, mesh=make_mesh('data:1'), feed=ProbeFeed('constant'), warmup=64)
    driver.initialize()
    fresh = jax.tree.map(jnp.copy, driver.carry)
    states = {'initial': driver.state()}
    for name in PROBES:
        driver.feed = ProbeFeed(name)
        driver.set_host_state({'environment_steps': 0, 'calls': 0, 'memory': [], 'feed': driver.feed.get_state()})
        driver.start(jax.tree.map(jnp.copy, fresh))
        driver.advance(1500)
        states[name] = driver.state()
    assert driver.traces == 1
    return cfg, learner._replace(act=jax.jit(learner.act)), states


def test_initial_state_and_acting(learned):
    cfg, learner, states = learned
    state = states['initial']
    jax.tree.map(np.testing.assert_array_equal, state.critic.params, state.target_critic)
    assert float(state.temperature.params) == 0.0
    kernel = state.critic.params['params']['Dense_0']['kernel']
    assert kernel.shape == (2, 2, 64) and not np.array_equal(kernel[0], kernel[1])

    observations, explore = np.linspace(-1, 1, 64, dtype=np.float32)[:, None], learner.explore(learner.policy(state))
    _, a = learner.act(explore, (), observations, jax.random.key(1))
    _, b = learner.act(explore, (), observations, jax.random.key(2))
    assert a.shape == (64, 1) and np.abs(a).max() <= 1 and np.std(a) > 0.3 and not np.array_equal(a, b)
    _, c = learner.act(learner.policy(state), (), observations, jax.random.key(1))
    expected = np.tanh(actor(as_float64(explore.actor), observations, cfg)[:, :1])
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(c).max() < 0.1  # the last layer starts small


def q_values(cfg, state, observations, actions):
    column = lambda x: np.float64(x)[:, None]  # noqa: E731
    return critics(as_float64(state.critic.params), column(observations), column(actions), cfg)


def best(learner, state, observations):
    policy = learner.policy(state)
    return np.asarray(learner.act(policy, (), np.float32(observations)[:, None], jax.random.key(0))[1])[:, 0]


def test_probe_constant(learned):
    cfg, _, states = learned
    np.testing.assert_allclose(q_values(cfg, states['constant'], [0, 0, 0], [-0.5, 0, 0.5]), np.ones((2, 3)), atol=0.1)


def test_probe_observation(learned):
    cfg, _, states = learned
    found = q_values(cfg, states['observation'], [-1, 1, -1, 1], [-0.5, -0.5, 0.5, 0.5])
    np.testing.assert_allclose(found, np.tile([-1, 1, -1, 1], (2, 1)), atol=0.1)


def test_probe_discounting(learned):
    """The second step's value has its entropy: Q(0) = discount (1 + alpha H(pi(. | 1)))."""
    cfg, _, states = learned
    state = states['discounting']
    noise = np.random.default_rng(0).normal(size=(1000, 1))
    out = actor(as_float64(state.actor.params), np.ones((1, 1)), cfg)
    u = out[:, :1] + np.exp(out[:, 1:]) * noise
    normal = -0.5 * noise**2 - out[:, 1:] - 0.5 * np.log(2 * np.pi)
    bonus = np.exp(state.temperature.params) * -(normal - np.log(1 - np.tanh(u) ** 2)).mean()
    found = q_values(cfg, state, [0, 1], [0, 0])
    np.testing.assert_allclose(found, np.tile([DISCOUNT * (1 + bonus), 1], (2, 1)), atol=0.1)


def test_probe_action(learned):
    cfg, learner, states = learned
    found = q_values(cfg, states['action'], np.zeros(5), np.linspace(-0.8, 0.8, 5))
    np.testing.assert_allclose(found, np.tile(np.linspace(-0.8, 0.8, 5), (2, 1)), atol=0.15)
    assert best(learner, states['action'], [0.0])[0] > 0.8


def test_probe_both(learned):
    cfg, learner, states = learned
    found = q_values(cfg, states['both'], [-1, -1, 1, 1], [-0.5, 0.5, -0.5, 0.5])
    np.testing.assert_allclose(found, np.tile([0.5, -0.5, -0.5, 0.5], (2, 1)), atol=0.15)
    down, up = best(learner, states['both'], [-1.0, 1.0])
    assert down < -0.8 and up > 0.8


def test_probe_feed_goes_on_from_its_state():
    act = lambda observations, fresh: np.sin(observations)  # noqa: E731
    feed, other = ProbeFeed('observation', seed=1), ProbeFeed('observation', seed=2)
    for _ in range(3):
        feed.next(act)
    other.set_state(json.loads(json.dumps(feed.get_state())))
    for _ in range(3):
        for ours, theirs in zip(*map(jax.tree.leaves, (feed.next(act), other.next(act))), strict=True):
            np.testing.assert_array_equal(ours, theirs)
