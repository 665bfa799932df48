"""FQL's losses against NumPy, its gradients against finite differences, its learning against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_nets import (
    ACT,
    BATCH,
    actor,
    as_float64,
    batch,
    check_gradients,
    check_metrics,
    check_target,
    flow_actions,
    flow_noise,
    normal,
    once,
    random_state,
    rows_of,
    scalars,
    value,
)
from probe_rows import BANDIT, FIRST, LAST, LOOP, MINUS, PLUS, probe_rows

from core_jax import flow, replay, sources
from core_jax.driver import DeviceDriver
from core_jax.mesh import make_mesh
from core_jax.networks import Actor, Value
from fql_jax.agents import fql


def config(**fields):
    config = fql.get_config()
    config.update({'hidden_dims': (16, 16), 'batch_size': BATCH} | fields)
    return config


# FQL once more, in NumPy and float64, from the paper's equations


def bellman(b, discount):
    """(reward, factor of the next value, weight) of each row: the steps of a window until it ends or a mask is 0."""
    if b['rewards'].ndim == 1:
        return b['rewards'], discount * b['masks'], np.ones(BATCH)
    sums, factors = np.zeros(BATCH), np.ones(BATCH)
    for i in range(BATCH):
        for reward, mask, valid in zip(b['rewards'][i], b['masks'][i], b['valid'][i], strict=True):
            if valid:
                sums[i] += factors[i] * reward
                factors[i] *= discount * mask
    return sums, factors, b['valid'].all(1)


def numpy_loss(params, stored, target, b, noises, hparams, cfg):
    """The summed loss; gradients flow through `params` alone."""
    observations, following = b['observations'], b['next_observations']
    actions = b['actions'].reshape(BATCH, -1)

    def act(z):
        if cfg.policy == 'flow':
            return flow_actions(stored['flow'], following, z, cfg.flow_steps)
        return np.clip(actor(stored['onestep'], following, z), -1, 1)

    def aggregate(q):
        return {'mean': np.mean, 'min': np.min}[cfg.q_agg](q, axis=0)

    candidates = np.stack([act(z) for z in noises['next']])
    best = [aggregate(value(stored['critic'], following, candidate)) for candidate in candidates]
    next_actions = candidates[np.argmax(best, axis=0), np.arange(BATCH)]
    next_q = value(target, following, next_actions)
    pessimistic = aggregate(next_q) - hparams['pessimism'] * next_q.std(0)
    rewards, factors, weights = bellman(b, hparams['discount'])
    q = value(params['critic'], observations, actions)
    losses = {
        'critic/loss': np.mean(weights * (q - rewards - factors * pessimistic) ** 2),
        'critic/q_mean': q.mean(),
        'critic/q_min': q.min(),
        'critic/q_max': q.max(),
    }

    x0, t = noises['flow']
    errors = (actor(params['flow'], observations, (1 - t) * x0 + t * actions, t) - (actions - x0)) ** 2
    if cfg.horizon > 1:
        errors = errors.reshape(BATCH, cfg.horizon, ACT) * b['valid'][:, :, None]
    losses['actor/flow_loss'] = errors.mean()
    losses['loss'] = losses['critic/loss'] + losses['actor/flow_loss']
    if cfg.policy == 'flow':
        return losses

    teacher = flow_actions(stored['flow'], observations, noises['z'], cfg.flow_steps)
    student = actor(params['onestep'], observations, noises['z'])
    losses['actor/distill_loss'] = np.mean((student - teacher) ** 2)
    q = value(stored['critic'], observations, np.clip(student, -1, 1)).mean(0)
    losses |= {'actor/q': q.mean(), 'actor/q_loss': -q.mean()}
    if cfg.normalize_q_loss:
        # The denominator is a constant for the gradient: use the stored student's.
        frozen = np.clip(actor(stored['onestep'], observations, noises['z']), -1, 1)
        losses['actor/q_loss'] /= np.abs(value(stored['critic'], observations, frozen).mean(0)).mean()
    losses['loss'] += hparams['alpha'] * losses['actor/distill_loss'] + losses['actor/q_loss']
    return losses


def noises_of(state, cfg):
    """The random numbers that this step draws."""
    critic_key, flow_key, actor_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    shape = BATCH, cfg.horizon * ACT
    drawn = (
        normal(critic_key, *shape)[None] if cfg.target_samples == 1 else normal(critic_key, cfg.target_samples, *shape)
    )
    return {'next': drawn, 'flow': flow_noise(flow_key, *shape), 'z': normal(actor_key, *shape)}


@pytest.mark.parametrize(
    'fields',
    [
        {'alpha': 7.0},
        {'q_agg': 'min', 'normalize_q_loss': True},
        {'horizon': 3, 'num_critics': 3, 'pessimism': 0.5, 'alpha': 7.0},
        {'policy': 'flow', 'q_agg': 'min', 'target_samples': 3},
    ],
    ids=['default', 'variants', 'pessimistic chunks', 'flow of three samples'],
)
def test_losses_and_gradients_are_the_papers(fields):
    cfg = config(flow_steps=3, discount=0.9, **fields)
    learner, b = fql.make(cfg, ACT), batch(horizon=cfg.horizon if cfg.horizon > 1 else None)
    state, hparams = random_state(learner, b), scalars(learner)
    new, metrics = once(learner.update)(state, b, hparams)

    stored, target, b64 = as_float64((state.nets.params, state.target_critic, b))
    rest = target, b64, noises_of(state, cfg), hparams, cfg
    expected = numpy_loss(stored, stored, *rest)
    check_metrics(metrics, expected)
    assert metrics.keys() == expected.keys() | {'grad_norm'}
    assert expected.get('actor/distill_loss', 1) > 0.1  # the case is not degenerate
    check_gradients(lambda params: numpy_loss(params, stored, *rest)['loss'], stored, new.nets.opt_state)


def test_target_lags_by_one_step_and_step_size_is_adams():
    cfg = config(tau=0.25, learning_rate=1e-2, flow_steps=1)
    learner = fql.make(cfg, ACT)
    update = once(learner.update)
    state = once(learner.init)(jax.random.key(0), batch())
    hparams = scalars(learner)
    state, _ = update(state, batch(), hparams)  # now critic and target differ
    new, _ = update(state, batch(1), hparams)
    check_target(state.target_critic, state.nets.params['critic'], new.target_critic, 0.25)
    mu, nu = new.nets.opt_state.mu, new.nets.opt_state.nu
    for old, m, v, moved in zip(*map(jax.tree.leaves, (state.nets.params, mu, nu, new.nets.params)), strict=True):
        step = 1e-2 * (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)
        np.testing.assert_allclose(moved, old - step, rtol=1e-4, atol=1e-6)


def test_sizes_and_initialisation_are_the_releases():
    example = {'observations': jnp.zeros((1, 28)), 'actions': jnp.zeros((1, 5))}
    shapes = jax.eval_shape(fql.make(fql.get_config(), 5).init, jax.random.key(0), example)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert [count(shapes.nets.params[name]) for name in ('critic', 'flow', 'onestep')] == [1_619_970, 808_453, 807_941]
    assert count(shapes.nets.params) + count(shapes.target_critic) == 4_856_334

    state = once(fql.make(config(hidden_dims=(128, 128)), 5).init)(jax.random.key(0), example)
    params = state.nets.params
    kernel = params['flow']['params']['mlp']['Dense_1']['kernel']
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(3 / 128), rel=1e-2)  # Xavier uniform
    assert all(not leaf.any() for path, leaf in jax.tree_util.tree_leaves_with_path(params) if 'bias' in str(path))
    critic = params['critic']['params']['ensemble']
    assert 'LayerNorm_0' in critic and 'LayerNorm_0' not in params['flow']['params']['mlp']
    assert not np.array_equal(critic['Dense_0']['kernel'][0], critic['Dense_0']['kernel'][1])
    for online, target in zip(jax.tree.leaves(params['critic']), jax.tree.leaves(state.target_critic), strict=True):
        assert np.array_equal(online, target) and online is not target


def test_actions_are_clipped_and_sampled():
    learner = fql.make(config(), ACT)
    state = once(learner.init)(jax.random.key(0), batch())
    policy = jax.tree.map(lambda p: 20 * p, learner.policy(state))
    observations, act = batch()['observations'], jax.jit(learner.act)
    _, a = act(policy, (), observations, jax.random.key(1))
    _, b = act(policy, (), observations, jax.random.key(2))
    assert a.shape == (BATCH, ACT) and np.abs(a).max() == 1.0 and not np.array_equal(a, b)


# Learning

ALPHAS = (5.0, 0.2)
DISCOUNT = 0.5


@pytest.fixture(scope='module')
def trained():
    """(learner, config, {alpha: state}): two distillation weights in one program."""
    cfg = config(hidden_dims=(48, 48), batch_size=128, flow_steps=8, learning_rate=2e-3, tau=0.05, discount=DISCOUNT)
    learner = fql.make(cfg, 1)
    mesh = make_mesh('data:1')
    source = sources.offline(replay.place_dataset(probe_rows(), mesh), cfg.batch_size)
    driver = DeviceDriver(learner, source, mesh=mesh, seeds=[0] * len(ALPHAS), hparams={'alpha': ALPHAS})
    driver.initialize()
    driver.advance(2500)
    return learner, cfg, {alpha: driver.state(i) for i, alpha in enumerate(ALPHAS)}


@pytest.fixture(scope='module')
def bandit(trained):
    """alpha -> (the clone's actions, the one-step policy's) for the same 2000 noises, in the bandit."""
    _, cfg, states = trained
    net = Actor(tuple(cfg.hidden_dims), 1)
    observations = rows_of(BANDIT, 2000)
    noise = jax.random.normal(jax.random.key(1), (2000, 1))

    @jax.jit
    def actions(params):
        velocity = lambda x, t: net.apply(params['flow'], observations, x, t)  # noqa: E731
        return flow.euler(velocity, noise, cfg.flow_steps), net.apply(params['onestep'], observations, noise)

    return {alpha: [np.asarray(a)[:, 0] for a in actions(state.nets.params)] for alpha, state in states.items()}


def test_bandit_flow_keeps_both_modes(bandit):
    for cloned, _ in bandit.values():
        assert np.mean(cloned > 0) == pytest.approx(0.5, abs=0.08)
        assert np.mean(np.abs(np.abs(cloned) - 0.5) < 0.3) > 0.85


def test_bandit_large_alpha_has_the_closed_form(bandit, trained):
    """The minimum of alpha (mu - teacher)^2 - Q(mu) lies at mu = teacher + Q'(mu) / (2 alpha); Q(a) = a here, so that
    the shift is about 0.1, and both modes are kept."""
    cloned, chosen = bandit[5.0]
    _, cfg, states = trained
    critic = Value(tuple(cfg.hidden_dims), size=cfg.num_critics)

    def value(action):
        inputs = BANDIT[None], action[None, None]
        return critic.apply(states[5.0].nets.params['critic'], *inputs).mean()

    slopes = np.asarray(jax.jit(jax.vmap(jax.grad(value)))(jnp.asarray(chosen)))
    assert np.median(slopes) == pytest.approx(1.0, abs=0.6)
    assert np.median(chosen - cloned - slopes / (2 * 5.0)) == pytest.approx(0.0, abs=0.06)
    assert np.mean(chosen < 0.1) == pytest.approx(np.mean(cloned < 0), abs=0.1)


def test_bandit_small_alpha_picks_the_better_mode(bandit):
    _, chosen = bandit[0.2]
    assert np.mean(chosen > 0.3) > 0.97


@pytest.mark.parametrize('alpha', ALPHAS)
def test_probe_values(trained, alpha):
    """Discounting, and bootstrapping through a time limit, which a learner that took the cut for an end would miss."""
    _, cfg, states = trained
    critic = Value(tuple(cfg.hidden_dims), size=cfg.num_critics)
    observations = np.stack([FIRST, LAST, LOOP, MINUS, PLUS, MINUS, PLUS])
    actions = np.float32([[0], [0], [0], [0.5], [0.5], [-0.5], [-0.5]])
    values = critic.apply(states[alpha].nets.params['critic'], observations, actions).mean(0)
    expected = [DISCOUNT, 1, 1 / (1 - DISCOUNT), -0.5, 0.5, 0.5, -0.5]
    np.testing.assert_allclose(values, expected, atol=0.12)


def test_probe_policy_depends_on_the_observation(trained):
    learner, _, states = trained
    for observation, sign in ((MINUS, -1), (PLUS, 1)):
        observations = rows_of(observation, 500)
        _, chosen = learner.act(learner.policy(states[0.2]), (), observations, jax.random.key(0))
        assert float(jnp.mean(chosen * sign)) > 0.85
