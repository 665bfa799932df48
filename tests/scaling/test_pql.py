"""PQL's losses against NumPy, its gradients against finite differences, its schedules, and what it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_nets import (
    ACT,
    BATCH,
    OBS,
    as_float64,
    assert_same,
    batch,
    check_gradients,
    check_metrics,
    check_target,
    mlp,
    normal,
    once,
    random_state,
    rows_of,
    scalars,
    xavier_state,
)
from probe_rows import BANDIT, FIRST, LAST, LOOP, MINUS, PLUS, dataset, probe_rows

from core_jax import replay, sources
from scaling.utd import pql

HORIZON = 3


def config(**fields):
    cfg = pql.get_config()
    small = {'hidden_dims': (16, 16), 'batch_size': BATCH, 'num_atoms': 9, 'v_min': -3.0, 'v_max': 3.0}
    cfg.update(small | {'max_grad_norm': 1e6, 'discount': 0.9, 'tau': 0.25} | fields)
    return cfg


# PQL once more, in NumPy and float64


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def actor(params, observations):
    return np.tanh(mlp(params['params'], observations, activation=elu))


def critics(params, observations, actions):
    """[2, B, 1], or [2, B, K]."""
    inputs = np.concatenate([observations, actions], -1)
    members = (jax.tree.map(lambda p, i=i: p[i], params['params']) for i in range(2))
    return np.stack([mlp(member, inputs, activation=elu) for member in members])


def q_values(outputs, cfg):
    return (
        softmax(outputs) @ np.linspace(cfg.v_min, cfg.v_max, cfg.num_atoms) if cfg.distributional else outputs[..., 0]
    )


def normalized(statistics, observations):
    return np.clip((observations - statistics.mean) / np.sqrt(statistics.variance + 1e-4), -5, 5)


def n_step(b, discount):
    """Returns and bootstraps [B], one step after the other."""
    if b['rewards'].ndim == 1:
        return b['rewards'], discount * b['masks']
    returns, bootstraps = [], []
    for rewards, masks, valid in zip(b['rewards'], b['masks'], b['valid'], strict=True):
        total, weight = 0.0, 1.0
        for reward, mask, inside in zip(rewards, masks, valid, strict=True):
            if not inside or weight == 0:
                break
            total, weight = total + weight * reward, weight * discount * mask
        returns.append(total)
        bootstraps.append(weight)
    return np.array(returns), np.array(bootstraps)


def project(p, returns, bootstraps, atoms):
    """C51's projection, atom by atom: [B, K]."""
    out = np.zeros_like(p)
    for i in range(len(p)):
        for k, z in enumerate(atoms):
            at = (min(max(returns[i] + bootstraps[i] * z, atoms[0]), atoms[-1]) - atoms[0]) / (atoms[1] - atoms[0])
            low = min(int(np.floor(at)), len(atoms) - 2)
            out[i, low] += p[i, k] * (low + 1 - at)
            out[i, low + 1] += p[i, k] * (at - low)
    return out


def critic_loss(params, policy, target_critic, b, noise, hparams, cfg):
    """b: normalised observations."""
    noise = np.clip(cfg.target_std * noise, -cfg.target_noise_clip, cfg.target_noise_clip)
    following = b['next_observations']
    target_outputs = critics(target_critic, following, np.clip(actor(policy, following) + noise, -1, 1))
    returns, bootstraps = n_step(b, hparams['discount'])
    returns = cfg.reward_scale * returns
    outputs = critics(params, b['observations'], first_actions(b))
    if cfg.distributional:
        atoms = np.linspace(cfg.v_min, cfg.v_max, cfg.num_atoms)
        y = np.minimum(*(project(p, returns, bootstraps, atoms) for p in softmax(target_outputs)))
        p = softmax(outputs)
        return -sum((y * np.log(p[i]) + (1 - y) * np.log(1 - p[i])).mean() for i in range(2))
    y = returns + bootstraps * np.minimum(*target_outputs[..., 0])
    return sum(np.mean((outputs[i, :, 0] - y) ** 2) for i in range(2))


def first_actions(b):
    return b['actions'] if b['actions'].ndim == 2 else b['actions'][:, 0]


def actor_loss(params, critic, b, cfg):
    return -np.minimum(*q_values(critics(critic, b['observations'], actor(params, b['observations'])), cfg)).mean()


def moments(statistics, observations, batches):
    """Mean and variance with one more batch, from the sums."""
    n = batches * len(observations)
    mean = (n * statistics.mean + observations.sum(0)) / (n + len(observations))
    squares = n * (statistics.variance + statistics.mean**2) + (observations**2).sum(0)
    return pql.Statistics(mean, squares / (n + len(observations)) - mean**2)


STATISTICS = pql.Statistics(np.float32([0.3, -0.2, 0.1]), np.float32([1.5, 0.7, 0.9]))


def special(cfg, step=5, seed=0):
    """(learner, batch, state): a point that is nowhere special, at a step that has a P update."""
    learner, b = pql.make(cfg, ACT), batch(horizon=cfg.horizon if cfg.horizon > 1 else None)
    state = random_state(learner, b, seed, step, scale=0.4).replace(statistics=STATISTICS)
    return learner, b, state


VARIANTS = {
    'default': {},
    'transitions': {'horizon': 1, 'reward_scale': 0.5, 'normalize_observations': False},
    'distributional': {'distributional': True},
    'stale': {'stale': True, 'critic_per_step': 8},
    'distributional-stale': {'distributional': True, 'stale': True, 'critic_per_step': 5},
}


@pytest.fixture(scope='module', params=VARIANTS)
def updated(request):
    cfg = config(**VARIANTS[request.param], actor_learning_rate=1e-3, critic_learning_rate=3e-3)
    learner, b, state = special(cfg)
    hparams = scalars(learner)
    new, metrics = once(learner.update)(state, b, hparams)
    noise = normal(jax.random.fold_in(state.key, 5), BATCH, ACT)
    b, statistics = as_float64(b), moments(as_float64(STATISTICS), np.float64(b['observations']), 5)
    if cfg.normalize_observations:
        b |= {name: normalized(statistics, b[name]) for name in ('observations', 'next_observations')}
    return cfg, state, new, metrics, b, hparams, noise


def test_critic_loss_and_gradient(updated):
    cfg, state, new, metrics, b, hparams, noise = updated
    policy = state.stale_actor if cfg.stale and cfg.critic_per_step == 8 else state.actor.params
    params, policy, target = as_float64((state.critic.params, policy, state.target_critic))

    def loss(params):
        return critic_loss(params, policy, target, b, noise, hparams, cfg)

    q = q_values(critics(params, b['observations'], first_actions(b)), cfg)
    check_metrics(
        metrics,
        {'critic/loss': loss(params), 'critic/q_mean': q.mean(), 'critic/q_min': q.min(), 'critic/q_max': q.max()},
    )
    loss, adam_state = magnified(30 if cfg.distributional else 1, loss, new.critic.opt_state[1])
    check_gradients(loss, params, adam_state)


def test_actor_loss_and_gradient(updated):
    """It climbs the moved critics; if stale, the copy (which a step that begins a super-step has just made)."""
    cfg, state, new, metrics, b, _, _ = updated
    climbed = new.critic.params
    if cfg.stale:
        climbed = state.stale_critic if cfg.critic_per_step == 8 else state.critic.params
    params, climbed = as_float64((state.actor.params, climbed))

    def loss(params):
        return actor_loss(params, climbed, b, cfg)

    check_metrics(metrics, {'actor/loss': loss(params)})
    assert new.actor_loss == metrics['actor/loss']
    other = as_float64(new.critic.params if cfg.stale else state.critic.params)
    assert abs(actor_loss(params, other, b, cfg) - loss(params)) > 1e-3
    loss, adam_state = magnified(30 if cfg.distributional else 1, loss, new.actor.opt_state[1])
    check_gradients(loss, params, adam_state)


def magnified(times, loss, adam_state):
    """For `check_gradients`: losses of distributions are means over atoms, and their gradients small."""
    return lambda params: times * loss(params), adam_state._replace(mu=jax.tree.map(lambda m: times * m, adam_state.mu))


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in jax.tree.leaves(tree)))


def test_norms_targets_and_optimizers(updated):
    cfg, state, new, metrics, _, hparams, _ = updated
    check_target(state.target_critic, new.critic.params, new.target_critic, 0.25)
    gradients = [jax.tree.map(lambda mu: mu / 0.1, getattr(new, name).opt_state[1].mu) for name in ('critic', 'actor')]
    expected = {f'{name}/parameter_norm': norm(getattr(new, name).params) for name in ('critic', 'actor')}
    check_metrics(metrics, expected | {'grad_norm': norm(gradients)})
    for name, gradient in zip(('critic', 'actor'), gradients, strict=True):
        check_adamw(getattr(state, name).params, getattr(new, name).params, gradient, hparams[f'{name}_learning_rate'])
    assert new.step == 6


def check_adamw(before, after, gradient, rate):
    """A first step: the sign of the gradient, and a hundredth of the parameters themselves."""
    for p, q, g in zip(*map(jax.tree.leaves, as_float64((before, after, gradient))), strict=True):
        np.testing.assert_allclose(p - q, rate * (g / (np.abs(g) + 1e-8) + 0.01 * p), rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize('distributional', [False, True])
def test_td_error_is_the_critic_loss_by_the_statistics_of_the_state(distributional):
    cfg = config(distributional=distributional)
    learner, b, state = special(cfg)
    hparams, key = scalars(learner), jax.random.key(9)
    found = once(learner.td_error)(state, b, key, hparams)
    b, statistics = as_float64(b), as_float64(STATISTICS)
    b |= {name: normalized(statistics, b[name]) for name in ('observations', 'next_observations')}
    params, policy, target = as_float64((state.critic.params, state.actor.params, state.target_critic))
    expected = critic_loss(params, policy, target, b, normal(key, BATCH, ACT), hparams, cfg)
    assert found.shape == () and float(found) == pytest.approx(expected, rel=1e-4)


def test_gradients_are_clipped_each_by_their_own_norm():
    cfg = config(max_grad_norm=0.05)
    learner, b, state = special(cfg)
    new, metrics = once(learner.update)(state, b, scalars(learner))
    assert metrics['grad_norm'] > 0.2
    for bundle in (new.critic, new.actor):
        assert norm(bundle.opt_state[1].mu) / 0.1 == pytest.approx(0.05, rel=1e-3)


# The target


def test_projection_equals_the_loop_outside_of_the_support_and_on_atoms():
    rng, atoms = np.random.default_rng(0), np.linspace(-2, 2, 9)
    p = softmax(rng.normal(size=(2, 64, 9)))
    returns = rng.uniform(-4, 4, 64)
    bootstraps = rng.uniform(0, 1, 64)
    returns[:8], bootstraps[:8] = [0, 0.5, -1, 2, -2, 9, -9, 0.25], [1, 1, 1, 0, 0, 0.5, 0.5, 0]
    found = once(pql.project)(*map(np.float32, (p, returns, bootstraps, atoms)))
    expected = np.stack([project(q, returns, bootstraps, atoms) for q in p])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    # By hand: nothing moves, all move by one atom and the last ones pile up, all land between two atoms.
    np.testing.assert_allclose(found[:, 0], p[:, 0], atol=1e-6)
    np.testing.assert_allclose(found[:, 1, 1:-1], p[:, 1, :-2], atol=1e-6)
    np.testing.assert_allclose(found[:, 1, -1], p[:, 1, -2:].sum(-1), atol=1e-6)
    np.testing.assert_allclose(found[:, 7], [[0, 0, 0, 0, 0.5, 0.5, 0, 0, 0]] * 2, atol=1e-6)
    # Mass is kept at the published size too.
    many, spread = np.float32(softmax(rng.normal(size=(2, 64, 51)))), np.linspace(-10, 10, 51, dtype=np.float32)
    wide = once(pql.project)(many, np.float32(5 * returns), np.float32(bootstraps), spread)
    np.testing.assert_allclose(wide.sum(-1), 1, atol=2e-6)
    # Means are kept where nothing leaves the support.
    inside = np.abs(returns) + 2 * bootstraps < 2
    assert inside.sum() > 5
    np.testing.assert_allclose((found @ atoms)[:, inside], (returns + bootstraps * (p @ atoms))[:, inside], atol=1e-5)


def test_cross_entropy_is_finite_where_a_distribution_is_certain():
    logits = jnp.array([[[200.0, 0.0, -200.0], [1.0, 2.0, 3.0]]])
    target = jnp.array([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    loss, gradient = once(jax.value_and_grad(lambda x: pql.binary_cross_entropy(x, target).sum()))(logits)
    assert np.isfinite(loss) and np.isfinite(gradient).all() and gradient[0, 0, 0] > 0.1 > -0.1 > gradient[0, 0, 1]
    p = softmax(np.float64(logits))[0, 1]
    exact = -(target[1] * np.log(p) + (1 - target[1]) * np.log(1 - p))
    np.testing.assert_allclose(pql.binary_cross_entropy(logits, target)[0, 1], exact, rtol=1e-5)


def test_targets_of_windows_by_hand():
    """A trajectory of rewards 1, 2, 4 that a time limit cuts, one of 8, 16 that ends; discount 1/2, value 10."""
    end = np.zeros(OBS)
    rows = [(end, 0, r, 1, 0) for r in (1, 2, 4)] + [(end, 0, 0, 1, 1)]
    rows += [(end, 0, 8, 1, 0), (end, 0, 16, 0, 0), (end, 0, 0, 0, 1)]
    learner = pql.make(config(normalize_observations=False), 1)
    td_error = once(learner.td_error)
    for index, target in enumerate([3 + 10 / 8, 4 + 10 / 4, 4 + 10 / 2, 16, 16]):
        window = once(functools.partial(replay.read, horizon=HORIZON))(dataset(rows), np.array([index]))
        state = jax.tree.map(jnp.zeros_like, jax.eval_shape(learner.init, jax.random.key(0), window).replace(key=()))
        value = jax.tree.map(jnp.zeros_like, state.target_critic)
        value['params']['Dense_2']['bias'] += 10.0
        state = state.replace(target_critic=value)
        found = td_error(state, window, jax.random.key(0), scalars(learner, discount=0.5))
        assert float(found) == pytest.approx(2 * target**2, rel=1e-5), index


# Schedules


@functools.cache
def history(**fields):
    """(cfg, states before each of 9 updates and after the last, metrics, batches), from the initial state."""
    cfg = config(**fields, actor_learning_rate=1e-2, critic_learning_rate=1e-2)
    learner = pql.make(cfg, ACT)
    batches = [batch(seed, horizon=HORIZON) for seed in range(9)]
    batches = [b | {'observations': (seed + 1) * b['observations'] + seed} for seed, b in enumerate(batches)]
    update, hparams = once(learner.update), scalars(learner)
    states, metrics = [once(learner.init)(jax.random.key(1), batches[0])], []
    for b in batches:
        state, found = update(states[-1], jax.tree.map(np.float32, b), hparams)
        states.append(state)
        metrics.append(found)
    return cfg, states, metrics, batches


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize('every', [2, 3])
def test_actor_moves_on_every_nth_update_and_its_loss_is_kept(every):
    _, states, metrics, _ = history(critic_per_actor=every)
    assert states[0].stale_actor is None and metrics[0]['actor/loss'] == 0
    for i, found in enumerate(metrics):
        turn = (i + 1) % every == 0
        assert same(states[i].actor, states[i + 1].actor) == (not turn)
        assert not same(states[i].critic, states[i + 1].critic)
        assert states[i + 1].actor.opt_state[1].count == (i + 1) // every
        assert (found['actor/loss'] == states[i].actor_loss) == (not turn)


def test_stale_copies_are_made_where_a_super_step_begins():
    _, states, _, _ = history(stale=True, critic_per_step=4)
    assert_same(states[0].stale_actor, states[0].actor.params)
    assert_same(states[0].stale_critic, states[0].critic.params)
    for i in range(9):
        begin = states[4 * (i // 4)]
        assert_same(states[i + 1].stale_actor, begin.actor.params)
        assert_same(states[i + 1].stale_critic, begin.critic.params)


def test_statistics_are_those_of_all_observations_so_far():
    _, states, _, batches = history(critic_per_actor=2)
    assert_same(states[0].statistics, pql.Statistics(np.zeros(OBS), np.ones(OBS)))
    for i in (0, 1, 8):
        seen = np.concatenate([b['observations'] for b in batches[: i + 1]])
        np.testing.assert_allclose(states[i + 1].statistics.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(states[i + 1].statistics.variance, seen.var(0), rtol=1e-4)


def test_a_population_is_its_members():
    cfg = config(actor_learning_rate=1e-3)
    learner, b, first = special(cfg, step=4)
    states = [first, random_state(learner, b, 1, 5).replace(statistics=STATISTICS)]
    hparams = [scalars(learner), scalars(learner, discount=0.5)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states), jax.tree.map(lambda *x: np.stack(x), *hparams)
    found = once(jax.vmap(learner.update, in_axes=(0, None, 0)))(stacked[0], b, stacked[1])
    for i in range(2):
        alone = once(learner.update)(states[i], b, hparams[i])
        member = jax.tree.map(lambda x, i=i: x[i], found)
        for x, y in zip(*(jax.tree.leaves(pair[0].replace(key=())) for pair in (alone, member)), strict=True):
            np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)
        check_metrics(member[1], alone[1])


# Acting


def test_rows_explore_with_their_own_deviations():
    learner, _, state = special(config())
    act = once(learner.act)
    observations = np.random.default_rng(0).normal(size=(8, OBS)).astype(np.float32)
    policy, key = learner.policy(state), jax.random.key(4)
    mode = actor(as_float64(policy.actor), normalized(as_float64(STATISTICS), np.float64(observations)))
    np.testing.assert_allclose(act(policy, (), observations, key)[1], mode, rtol=1e-4, atol=1e-5)

    memory, found = act(learner.explore(policy), (), observations, key)
    std = 0.05 + (0.8 - 0.05) * np.arange(8) / 7
    expected = np.clip(mode + std[:, None] * normal(key, 8, ACT), -1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert memory == () and (np.abs(found) == 1).any() and not (np.abs(found) == 1).all()
    single = act(learner.explore(policy), (), observations[:1], key)[1]
    np.testing.assert_allclose(single, np.clip(mode[:1] + 0.05 * normal(key, 1, ACT), -1, 1), rtol=1e-4, atol=1e-5)


def test_initial_state():
    learner, b, _ = special(config(stale=True))
    state = once(learner.init)(jax.random.key(0), b)
    assert_same(state.critic.params, state.target_critic)
    kernel = state.critic.params['params']['Dense_0']['kernel']
    assert kernel.shape == (2, OBS + ACT, 16) and not np.array_equal(kernel[0], kernel[1])
    assert learner.hparams == {
        'actor_learning_rate': 5e-4,
        'critic_learning_rate': 5e-4,
        'discount': pytest.approx(0.9),
        'tau': 0.25,
    }
    _, actions = once(learner.act)(learner.policy(state), (), b['observations'], jax.random.key(1))
    assert actions.shape == (BATCH, ACT) and np.abs(actions).max() < 0.2  # the last layer starts small


# Learning, on the tasks of probe_rows.py

DISCOUNT = 0.5
TASKS = np.stack([BANDIT, FIRST, LAST, LOOP, MINUS, PLUS])


@functools.cache
def learned(**fields):
    """(cfg, learner, state): two thirds of the updates at one learning rate, the others at a tenth of it."""
    cfg = config(hidden_dims=(64,), batch_size=128, tau=0.05, discount=DISCOUNT, max_grad_norm=0.5, **fields)
    cfg.update({'num_atoms': 31})  # 0.2 apart
    learner, source = pql.make(cfg, 1), sources.offline(probe_rows(), cfg.batch_size, horizon=HORIZON)

    @jax.jit
    def run(state, rows, rate, n):
        # A fast actor would saturate its tanh while the critics are still wrong, and stay there.
        hparams = scalars(learner) | {'actor_learning_rate': rate / 5, 'critic_learning_rate': rate}

        def step(_, state):
            key = jax.random.fold_in(jax.random.key(0), state.step)
            return learner.update(state, source.sample(rows, (), state, key)[1], hparams)[0]

        return jax.lax.fori_loop(0, n, step, state)

    state = xavier_state(learner, source.example)
    for rate, n in ((5e-3, 1000), (5e-4, 500)):
        state = run(state, source.constants, np.float32(rate), np.int32(n))
    return cfg, learner, jax.device_get(state)


@pytest.mark.parametrize('fields', [{}, {'distributional': True}, {'stale': True}], ids=['pql', 'pql-d', 'stale'])
def test_learns_values_and_policies(fields):
    cfg, learner, state = learned(**fields)
    actions = np.array([0.5, 0, 0, 0, 0.5, 0.5])[:, None]
    tasks = normalized(as_float64(state.statistics), np.float64(TASKS))
    found = q_values(critics(as_float64(state.critic.params), tasks, actions), cfg)
    expected = [0.5, DISCOUNT, 1, 1 / (1 - DISCOUNT), -0.5, 0.5]
    np.testing.assert_allclose(found, np.tile(expected, (2, 1)), atol=0.1)
    down, up = (
        np.asarray(once(learner.act)(learner.policy(state), (), rows_of(task, 2), jax.random.key(0))[1])
        for task in (MINUS, PLUS)
    )
    assert (down < -0.9).all() and (up > 0.9).all()
