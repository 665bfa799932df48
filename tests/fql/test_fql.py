"""FQL's losses against NumPy, its gradients against finite differences, its learning against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import flow, replay, sources
from core_jax.driver import DeviceDriver
from core_jax.mesh import make_mesh
from core_jax.networks import Actor, Value
from fql_jax.agents import fql

OBS, ACT, BATCH = 3, 2, 8


def config(**fields):
    config = fql.get_config()
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


def once(function):
    """Compiled in a hurry, for what runs a few times."""
    return jax.jit(function, compiler_options={'xla_backend_optimization_level': 0})


# FQL once more, in NumPy and float64, from the paper's equations


def mlp(params, x, layer_norm):
    params = params['params']
    if 'mlp' in params:
        params = params['mlp']
    depth = sum(name.startswith('Dense') for name in params)
    for i in range(depth):
        x = x @ params[f'Dense_{i}']['kernel'] + params[f'Dense_{i}']['bias']
        if i < depth - 1:
            x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
            if layer_norm:
                mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
                norm = params[f'LayerNorm_{i}']
                x = (x - mean) / np.sqrt(var + 1e-6) * norm['scale'] + norm['bias']
    return x


def critics(params, *inputs):
    stack = params['params']['ensemble']
    size = jax.tree.leaves(stack)[0].shape[0]
    members = [{'params': jax.tree.map(lambda p, i=i: p[i], stack)} for i in range(size)]
    return np.stack([mlp(m, np.concatenate(inputs, -1), True)[:, 0] for m in members])


def numpy_loss(params, stored, target, b, noises, hparams, cfg):
    """The summed loss; gradients flow through `params` alone."""
    actor = lambda p, *inputs: mlp(p, np.concatenate(inputs, -1), False)  # noqa: E731
    next_actions = np.clip(actor(stored['onestep'], b['next_observations'], noises['next']), -1, 1)
    aggregate = {'mean': np.mean, 'min': np.min}[cfg.q_agg]
    next_q = aggregate(critics(target, b['next_observations'], next_actions), axis=0)
    y = b['rewards'] + hparams['discount'] * b['masks'] * next_q
    q = critics(params['critic'], b['observations'], b['actions'])
    losses = {'critic/loss': np.mean((q - y) ** 2), 'critic/q_mean': q.mean()}

    x0, t, x1 = noises['x0'], noises['t'], b['actions']
    predicted = actor(params['flow'], b['observations'], (1 - t) * x0 + t * x1, t)
    losses['actor/flow_loss'] = np.mean((predicted - (x1 - x0)) ** 2)

    x = noises['z']
    for i in range(cfg.flow_steps):
        time = np.full((BATCH, 1), i / cfg.flow_steps)
        x = x + actor(stored['flow'], b['observations'], x, time) / cfg.flow_steps
    student = actor(params['onestep'], b['observations'], noises['z'])
    losses['actor/distill_loss'] = np.mean((student - np.clip(x, -1, 1)) ** 2)

    q = critics(stored['critic'], b['observations'], np.clip(student, -1, 1)).mean(0)
    losses['actor/q_loss'] = -q.mean()
    if cfg.normalize_q_loss:
        # The denominator is a constant for the gradient: use the stored student's.
        frozen = np.clip(actor(stored['onestep'], b['observations'], noises['z']), -1, 1)
        losses['actor/q_loss'] /= np.abs(critics(stored['critic'], b['observations'], frozen).mean(0)).mean()
    losses['loss'] = (
        losses['critic/loss'] + losses['actor/flow_loss'] + hparams['alpha'] * losses['actor/distill_loss']
    ) + losses['actor/q_loss']
    return losses


def noises_of(state):
    """The random numbers that this step draws."""
    critic_key, flow_key, actor_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    x0_key, t_key = jax.random.split(flow_key)
    drawn = {
        'next': jax.random.normal(critic_key, (BATCH, ACT)),
        'x0': jax.random.normal(x0_key, (BATCH, ACT)),
        't': jax.random.uniform(t_key, (BATCH, 1)),
        'z': jax.random.normal(actor_key, (BATCH, ACT)),
    }
    return {name: np.asarray(value, np.float64) for name, value in drawn.items()}


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


@pytest.mark.parametrize(('q_agg', 'normalize'), [('mean', False), ('min', True)])
def test_losses_and_gradients_are_the_papers(q_agg, normalize):
    cfg = config(q_agg=q_agg, normalize_q_loss=normalize, flow_steps=3, alpha=7.0, discount=0.9)
    learner = fql.make(cfg, ACT)
    b, rng = batch(), np.random.default_rng(1)
    state = once(learner.init)(jax.random.key(0), b)
    # Away from the initial point: biases nonzero, the target different from the critic, actions beyond the bounds.
    shake = lambda p, scale: p + scale * rng.normal(size=p.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(lambda p: shake(p, 0.3), state.nets.params)
    state = state.replace(
        step=jnp.int32(5),
        nets=state.nets.replace(params=params),
        target_critic=jax.tree.map(lambda p: shake(p, 0.3), state.target_critic),
    )
    hparams = {name: np.float32(cfg[name]) for name in fql.HPARAMS}
    new, metrics = once(learner.update)(state, b, hparams)

    stored, target, b64, drawn = as_float64(params), as_float64(state.target_critic), as_float64(b), noises_of(state)
    expected = numpy_loss(stored, stored, target, b64, drawn, hparams, cfg)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    assert expected['actor/distill_loss'] > 0.1  # the case is not degenerate

    # Adam's first moment after one step from zero is 0.1 times the gradient.
    gradients = jax.tree.map(lambda mu: np.asarray(mu, np.float64) / 0.1, new.nets.opt_state.mu)
    leaves, structure = jax.tree.flatten(stored)
    for i, gradient in enumerate(jax.tree.leaves(gradients)):
        at = tuple(rng.integers(0, n) for n in leaves[i].shape)
        differences = []
        for sign in (1, -1):
            moved = [leaf.copy() for leaf in leaves]
            moved[i][at] += sign * 1e-5
            moved = jax.tree.unflatten(structure, moved)
            differences.append(numpy_loss(moved, stored, target, b64, drawn, hparams, cfg)['loss'])
        np.testing.assert_allclose(gradient[at], (differences[0] - differences[1]) / 2e-5, rtol=5e-3, atol=2e-4)


def test_target_lags_by_one_step_and_step_size_is_adams():
    cfg = config(tau=0.25, learning_rate=1e-2, flow_steps=1)
    learner = fql.make(cfg, ACT)
    update = once(learner.update)
    state = once(learner.init)(jax.random.key(0), batch())
    hparams = {name: np.float32(cfg[name]) for name in fql.HPARAMS}
    state, _ = update(state, batch(), hparams)  # now critic and target differ
    new, _ = update(state, batch(1), hparams)
    for old, target, moved in zip(
        *map(jax.tree.leaves, (state.nets.params['critic'], state.target_critic, new.target_critic)), strict=True
    ):
        np.testing.assert_allclose(moved, 0.25 * old + 0.75 * target, rtol=1e-5, atol=1e-7)
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


# Learning: several tasks in one data set, told apart by a one-hot observation, so that one compiled run serves all.
#
#   BANDIT       two modes at -0.5 and 0.5, reward = action, ends
#   FIRST, LAST  two steps, reward 0 then 1, ends: Q = discount, 1
#   LOOP         reward 1 for ever, cut by a time limit: Q = 1 / (1 - discount)
#   MINUS, PLUS  reward = -action or +action, ends

BANDIT, FIRST, LAST, LOOP, MINUS, PLUS = np.eye(6, dtype=np.float32)
ALPHAS = (5.0, 0.2)
DISCOUNT = 0.5


def probe_rows():
    rng = np.random.default_rng(0)
    rows = []  # observation, action, reward, mask, end of trajectory
    for i in range(3000):
        action = (0.5 if i % 2 else -0.5) + 0.1 * rng.normal()
        rows += [(BANDIT, action, action, 0, 0), (BANDIT, 0, 0, 0, 1)]
    for _ in range(300):
        a, b, c, minus, plus = rng.uniform(-1, 1, 5)
        rows += [(FIRST, a, 0, 1, 0), (LAST, b, 1, 0, 0), (LAST, 0, 0, 0, 1)]
        rows += [(LOOP, c, 1, 1, 0), (LOOP, 0, 0, 1, 1)]
        rows += [(MINUS, minus, -minus, 0, 0), (MINUS, 0, 0, 0, 1), (PLUS, plus, plus, 0, 0), (PLUS, 0, 0, 0, 1)]
    observations, actions, rewards, masks, ends = map(np.array, zip(*rows, strict=True))
    return replay.dataset(observations, np.clip(actions, -1, 1)[:, None], rewards, masks, ends)


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
    observations = jnp.broadcast_to(BANDIT, (2000, 6))
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
        observations = jnp.broadcast_to(observation, (500, 6))
        _, chosen = learner.act(learner.policy(states[0.2]), (), observations, jax.random.key(0))
        assert float(jnp.mean(chosen * sign)) > 0.85
