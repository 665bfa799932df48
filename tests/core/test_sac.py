"""SAC's losses against NumPy, its gradients against finite differences, its learning on the probe environments."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import EXAMPLE, PROBES, ProbeFeed

from core_jax import sources
from core_jax.driver import HostDriver
from core_jax.learners import sac
from core_jax.mesh import fetch, make_mesh

OBS, ACT, BATCH = 3, 2, 8


def config(**fields):
    config = sac.get_config()
    config.update({'hidden_dims': (16, 16), 'batch_size': BATCH} | fields)
    return config


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        'observations': rng.normal(size=(BATCH, OBS)).astype(np.float32),
        'actions': rng.uniform(-1, 1, (BATCH, ACT)).astype(np.float32),
        'rewards': rng.normal(size=BATCH).astype(np.float32),
        'masks': rng.integers(0, 2, BATCH).astype(np.float32),
        'next_observations': rng.normal(size=(BATCH, OBS)).astype(np.float32),
    }


# SAC once more, in NumPy and float64, from the paper's equations

ACTIVATIONS = {
    'relu': lambda x: np.maximum(x, 0),
    'gelu': lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}
AGGREGATES = {'min': np.min, 'mean': np.mean}


def mlp(params, x, cfg, layer_norm=False):
    params = params['params']
    depth = sum(name.startswith('Dense') for name in params)
    for i in range(depth):
        x = x @ params[f'Dense_{i}']['kernel'] + params[f'Dense_{i}']['bias']
        if i < depth - 1:
            x = ACTIVATIONS[cfg.activation](x)
            if layer_norm:
                norm = params[f'LayerNorm_{i}']
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
                x = x * norm['scale'] + norm['bias']
    return x


def critics(params, observations, actions, cfg):
    inputs = np.concatenate([observations, actions], -1)
    members = [jax.tree.map(lambda p, i=i: p[i], params) for i in range(cfg.num_critics)]
    return np.stack([mlp(member, inputs, cfg, cfg.critic_layer_norm)[:, 0] for member in members])


def policy(params, observations, noise, cfg):
    """Actions and their log-densities."""
    out = mlp(params, observations, cfg)
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


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def check_gradient(loss, params, adam_state, rng):
    """Adam's first moment after one step from zero is 0.1 times the gradient. Two entries of every leaf."""
    leaves, structure = jax.tree.flatten(params)
    checked = 0.0
    for i, mu in enumerate(jax.tree.leaves(adam_state.mu)):
        for _ in range(2):
            at = tuple(rng.integers(0, n) for n in leaves[i].shape)
            values = []
            for shift in (1e-6, -1e-6):
                moved = [leaf.copy() for leaf in leaves]
                moved[i][at] += shift
                values.append(loss(jax.tree.unflatten(structure, moved)))
            np.testing.assert_allclose(mu[at] / 0.1, (values[0] - values[1]) / 2e-6, rtol=5e-3, atol=2e-4)
            checked += abs(mu[at])
    assert checked > 0.1  # not all zero


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
    b, rng = batch(), np.random.default_rng(1)
    shapes = jax.eval_shape(learner.init, jax.random.key(0), b)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.replace(key=()))
    draw = lambda tree: jax.tree.map(lambda x: np.float32(0.4 * rng.normal(size=x.shape)), tree)  # noqa: E731
    state = zeros.replace(
        key=jax.random.key(3),
        step=np.int32(5),
        actor=zeros.actor.replace(params=draw(zeros.actor.params)),
        critic=zeros.critic.replace(params=draw(zeros.critic.params)),
        target_critic=draw(zeros.target_critic),
        temperature=zeros.temperature.replace(params=np.float32(-0.7)),
    )
    hparams = {name: np.float32(cfg[name]) for name in sac.HPARAMS}
    # The compiler's last optimizations take longer than they save for a single call.
    new, metrics = jax.jit(learner.update, compiler_options={'xla_backend_optimization_level': 0})(state, b, hparams)
    critic_key, actor_key = jax.random.split(jax.random.fold_in(state.key, 5))
    noises = [np.asarray(jax.random.normal(k, (BATCH, ACT)), np.float64) for k in (critic_key, actor_key)]
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
    check_gradient(loss, params, new.critic.opt_state, np.random.default_rng(2))


def test_actor_loss_and_gradient_see_the_moved_critics(updated):
    cfg, state, new, metrics, b, _, (_, noise) = updated
    params, moved, stale = as_float64((state.actor.params, new.critic.params, state.critic.params))

    def loss(params):
        return actor_loss(params, moved, -0.7, b, noise, cfg)

    np.testing.assert_allclose(metrics['actor/loss'], loss(params), rtol=1e-4, atol=1e-5)
    assert abs(actor_loss(params, stale, -0.7, b, noise, cfg) - loss(params)) > 1e-3
    _, log_prob = policy(params, b['observations'], noise, cfg)
    np.testing.assert_allclose(metrics['actor/entropy'], -log_prob.mean(), rtol=1e-4, atol=1e-5)
    check_gradient(loss, params, new.actor.opt_state, np.random.default_rng(3))


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
    for target, online, moved in zip(
        *map(jax.tree.leaves, fetch((state.target_critic, new.critic.params, new.target_critic))), strict=True
    ):
        np.testing.assert_allclose(moved, 0.25 * online + 0.75 * target, rtol=1e-5, atol=1e-6)
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
        driver.set_host_state({'environment_steps': 0, 'calls': 0, 'feed': driver.feed.get_state()})
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

    observations, explore = np.linspace(-1, 1, 64, dtype=np.float32)[:, None], learner.policy(state)
    _, a = learner.act(explore, (), observations, jax.random.key(1))
    _, b = learner.act(explore, (), observations, jax.random.key(2))
    assert a.shape == (64, 1) and np.abs(a).max() <= 1 and np.std(a) > 0.3 and not np.array_equal(a, b)
    _, c = learner.act(explore.replace(noise=np.float32(0)), (), observations, jax.random.key(1))
    expected = np.tanh(mlp(as_float64(explore.actor), observations, cfg)[:, :1])
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(c).max() < 0.1  # the last layer starts small


def q_values(cfg, state, observations, actions):
    column = lambda x: np.float64(x)[:, None]  # noqa: E731
    return critics(as_float64(state.critic.params), column(observations), column(actions), cfg)


def best(learner, state, observations):
    policy = learner.policy(state).replace(noise=np.float32(0))
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
    out = mlp(as_float64(state.actor.params), np.ones((1, 1)), cfg)
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
    act = lambda observations: np.sin(observations)  # noqa: E731
    feed, other = ProbeFeed('observation', seed=1), ProbeFeed('observation', seed=2)
    for _ in range(3):
        feed.next(act)
    other.set_state(json.loads(json.dumps(feed.get_state())))
    for _ in range(3):
        for ours, theirs in zip(*map(jax.tree.leaves, (feed.next(act), other.next(act))), strict=True):
            np.testing.assert_array_equal(ours, theirs)
