"""BRO's losses against NumPy, its gradients against finite differences, its resets, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from numpy_nets import (
    ACT,
    BATCH,
    as_float64,
    assert_same,
    batch,
    check_gradients,
    check_metrics,
    check_target,
    normal,
    once,
    random_state,
    scalars,
)
from probe_rows import BANDIT, FIRST, LAST, LOOP, MINUS, PLUS, probe_rows
from test_utd_networks import bronet

from core_jax import replay, sources
from core_jax.mesh import fetch
from scaling.utd import bro

MINIMAL = {'optimistic': False, 'reset_interval': 0}
# At the published log_std_min, -10, the first policy is so narrow, 0.02, that the optimist's KL is in the hundreds. It
# hides the rest of the loss, and Adam then holds the weights still for thousands of updates.
TINY = {'critic_width': 12, 'critic_depth': 1, 'actor_width': 10, 'num_quantiles': 12, 'log_std_min': -2.0}


def config(**fields):
    cfg = bro.get_config()
    cfg.update(TINY | {'batch_size': BATCH, 'reset_interval': 0} | fields)
    return cfg


# BRO once more, in NumPy and float64, from the equations


def squash(x, low, high):
    return low + (high - low) * (1 + np.tanh(x)) / 2


def weight(x):
    return np.exp(squash(x, -10, 7.5))


def actor(params, observations):
    mean, x = np.split(bronet(params['params'], observations), 2, axis=-1)
    return mean, squash(x, -2, 2)


def critics(params, observations, actions):
    """[2, B, N]"""
    members = [jax.tree.map(lambda p, i=i: p[i], params['params']) for i in range(2)]
    return np.stack([bronet(member, np.concatenate([observations, actions], -1)) for member in members])


def entropy_of(u, log_std, noise):
    """-log pi of tanh(u), [B]."""
    return (0.5 * noise**2 + log_std + 0.5 * np.log(2 * np.pi) + np.log(1 - np.tanh(u) ** 2)).sum(-1)


def policy(params, observations, noise):
    """Actions and -log pi."""
    mean, log_std = actor(params, observations)
    u = mean + np.exp(log_std) * noise
    return np.tanh(u), entropy_of(u, log_std, noise)


def quantile_huber(z, target):
    levels = (np.arange(z.shape[-1]) + 0.5) / z.shape[-1]
    u = target[None, :, None, :] - z[..., None]
    huber = np.where(np.abs(u) <= 1, u**2 / 2, np.abs(u) - 0.5)
    return (np.abs(levels[:, None] - (u < 0)) * huber).sum((0, 2)).mean()


def critic_loss(params, pi, target, log_alpha, b, noise, hparams):
    next_actions, entropy = policy(pi, b['next_observations'], noise)
    value = critics(target, b['next_observations'], next_actions).mean(0) + np.exp(log_alpha) * entropy[:, None]
    y = b['rewards'][:, None] + hparams['discount'] * b['masks'][:, None] * value
    return quantile_huber(critics(params, b['observations'], b['actions']), y)


def actor_loss(params, critic, log_alpha, b, noise):
    actions, entropy = policy(params, b['observations'], noise)
    return np.mean(-np.exp(log_alpha) * entropy - critics(critic, b['observations'], actions).mean((0, 2)))


def shift(params, observations, mean):
    return bronet(params['params'], np.concatenate([observations, mean], -1))


def divergence(params, pi, observations):
    """KL of the optimist, its deviation scaled back, from pi, [B]."""
    mean, log_std = actor(pi, observations)
    std, moved = np.exp(log_std), mean + shift(params, observations, mean)
    return (np.log(std / std) + (std**2 + (moved - mean) ** 2) / (2 * std**2) - 0.5).sum(-1)


def optimist_loss(params, pi, critic, weights, b, noise):
    mean, log_std = actor(pi, b['observations'])
    u = mean + shift(params, b['observations'], mean) + 0.75 * np.exp(log_std) * noise
    first, second = critics(critic, b['observations'], np.tanh(u))
    upper = (first + second) / 2 + weight(weights['optimism']) * np.abs(first - second) / 2
    return -upper.mean() + weight(weights['regularizer']) * divergence(params, pi, b['observations']).mean()


@pytest.fixture(scope='module', params=[{}, pytest.param(MINIMAL, marks=pytest.mark.slow)], ids=['bro', 'minimal'])
def updated(request):
    """One update from a point that is nowhere special."""
    rates = {'actor_learning_rate': 2e-2, 'critic_learning_rate': 3e-2, 'temperature_learning_rate': 1e-2}
    cfg = config(**request.param, discount=0.9, tau=0.25, weight_decay=0.1, weights_learning_rate=2e-2, **rates)
    learner, b = bro.make(cfg, ACT), batch()
    state = random_state(learner, b, scale=0.3)
    state = state.replace(temperature=state.temperature.replace(params=np.float32(-0.7)))
    if cfg.optimistic:  # 1.8 and 0.5
        weights = {'optimism': np.float32(0.21), 'regularizer': np.float32(0.06)}
        state = state.replace(weights=state.weights.replace(params=weights))
    hparams = scalars(learner)
    new, metrics = once(learner.update)(state, b, hparams)
    _, *keys = jax.random.split(jax.random.fold_in(state.key, 5), 4)
    noises = [normal(key, BATCH, ACT) for key in keys]
    return cfg, state, new, metrics, as_float64(b), hparams, noises


def norm(tree):
    return np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(as_float64(tree))))


def gradient(network):
    """Adam's first moment after one step from zero is 0.1 times the gradient."""
    return jax.tree.map(lambda mu: np.float64(mu) / 0.1, network.opt_state[0].mu)


def test_critic_loss_and_gradient(updated):
    _, state, new, metrics, b, hparams, (noise, *_) = updated
    params, pi, target = as_float64((state.critic.params, state.actor.params, state.target_critic))

    def loss(params):
        return critic_loss(params, pi, target, -0.7, b, noise, hparams)

    q = critics(params, b['observations'], b['actions']).mean(-1)
    expected = {'loss': loss(params), 'q_mean': q.mean(), 'q_min': q.min(), 'q_max': q.max()}
    expected |= {'parameter_norm': norm(new.critic.params), 'gradient_norm': norm(gradient(new.critic))}
    check_metrics(metrics, {f'critic/{name}': value for name, value in expected.items()})
    check_gradients(loss, params, new.critic.opt_state[0])


def test_actor_loss_and_gradient_see_the_moved_critics(updated):
    _, state, new, metrics, b, _, (_, noise, _) = updated
    params, moved, stale = as_float64((state.actor.params, new.critic.params, state.critic.params))

    def loss(params):
        return actor_loss(params, moved, -0.7, b, noise)

    assert abs(actor_loss(params, stale, -0.7, b, noise) - loss(params)) > 1e-3
    entropy = policy(params, b['observations'], noise)[1].mean()
    check_metrics(
        metrics, {'actor/loss': loss(params), 'actor/entropy': entropy, 'actor/parameter_norm': norm(new.actor.params)}
    )
    check_gradients(loss, params, new.actor.opt_state[0])


def test_temperature_loss_and_gradient(updated):
    _, _, new, metrics, _, hparams, _ = updated
    slope = np.exp(-0.7) * (float(metrics['actor/entropy']) + ACT / 2)
    check_metrics(metrics, {'temperature/loss': slope, 'temperature/alpha': np.exp(-0.7)})
    np.testing.assert_allclose(new.temperature.opt_state.mu / 0.5, slope, rtol=1e-4)
    # No decay: Adam's first step has the length of the learning rate.
    moved = -0.7 - hparams['temperature_learning_rate'] * np.sign(slope)
    np.testing.assert_allclose(new.temperature.params, moved, rtol=1e-5)


def test_optimist_loss_and_gradient_see_the_moved_networks(updated):
    cfg, state, new, metrics, b, _, (*_, noise) = updated
    if not cfg.optimistic:
        assert new.optimist is None and new.weights is None
        assert not {'optimist/loss', 'actor/kl', 'optimism', 'regularizer'} & set(metrics)
        return
    params, weights = as_float64((state.optimist.params, state.weights.params))
    pi, critic = as_float64((new.actor.params, new.critic.params))

    def loss(params):
        return optimist_loss(params, pi, critic, weights, b, noise)

    for stale in ((as_float64(state.actor.params), critic), (pi, as_float64(state.critic.params))):
        assert abs(optimist_loss(params, *stale, weights, b, noise) - loss(params)) > 1e-3
    kl = divergence(params, pi, b['observations']).mean() / ACT
    check_metrics(metrics, {'optimist/loss': loss(params), 'actor/kl': kl})
    check_gradients(loss, params, new.optimist.opt_state[0])

    # Too far from pi: less optimism, more regularisation.
    assert kl > cfg.kl_target
    for name, sign in (('optimism', 1), ('regularizer', -1)):
        x = weights[name]
        np.testing.assert_allclose(metrics[name], weight(x), rtol=1e-4)
        slope = sign * (weight(x + 1e-6) - weight(x - 1e-6)) / 2e-6 * (kl - cfg.kl_target)
        np.testing.assert_allclose(new.weights.opt_state.mu[name] / 0.5, slope, rtol=1e-3)
        np.testing.assert_allclose(new.weights.params[name], x - sign * cfg.weights_learning_rate, rtol=1e-4)


def test_weight_decay_and_targets(updated):
    cfg, state, new, metrics, _, hparams, _ = updated
    check_target(state.target_critic, new.critic.params, new.target_critic, 0.25)
    rates = {'critic': 'critic', 'actor': 'actor'} | ({'optimist': 'actor'} if cfg.optimistic else {})
    squares = float(new.temperature.opt_state.mu / 0.5) ** 2
    for name, rate in rates.items():
        before, after = getattr(state, name), getattr(new, name)
        leaves = zip(*map(jax.tree.leaves, (before.params, after.params, gradient(after))), strict=True)
        for p, q, g in leaves:
            p = np.float64(p)
            expected = p - hparams[f'{rate}_learning_rate'] * (g / (np.abs(g) + 1e-8) + 0.1 * p)
            np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-5)
        squares += norm(gradient(after)) ** 2
    if cfg.optimistic:
        squares += norm(new.weights.opt_state.mu) ** 2 / 0.25
    np.testing.assert_allclose(metrics['grad_norm'], np.sqrt(squares), rtol=1e-4)
    assert new.step == 6


def test_td_error_is_the_critic_loss_of_any_batch(updated):
    cfg, state, _, _, _, hparams, _ = updated
    b, key = batch(seed=7, size=3), jax.random.key(9)
    found = once(bro.make(cfg, ACT).td_error)(state, b, key, hparams)
    nets = as_float64((state.critic.params, state.actor.params, state.target_critic))
    expected = critic_loss(*nets, -0.7, as_float64(b), normal(key, 3, ACT), hparams)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# The quantile loss


def test_quantile_huber_is_the_loop():
    rng = np.random.default_rng(0)
    z, target = np.float32(2 * rng.normal(size=(2, 3, 4))), np.float32(2 * rng.normal(size=(3, 5)))
    expected, slopes = 0.0, np.zeros(z.shape)
    for m, row, j in np.ndindex(*z.shape):
        level = (j + 0.5) / 4
        for sample in np.float64(target[row]):
            u = sample - z[m, row, j]
            side = level if u > 0 else 1 - level
            expected += side * (u**2 / 2 if abs(u) <= 1 else abs(u) - 0.5) / (3 * 5)
            slopes[m, row, j] -= side * min(max(u, -1), 1) / (3 * 5)
    loss, found = jax.jit(jax.value_and_grad(bro.quantile_huber))(z, target)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, quantile_huber(np.float64(z), np.float64(target)), rtol=1e-5)
    np.testing.assert_allclose(found, slopes, rtol=1e-4, atol=1e-6)
    doubled = jax.grad(lambda z: 2 * bro.quantile_huber(z, target))(z)
    np.testing.assert_allclose(doubled, 2 * slopes, rtol=1e-4, atol=1e-6)


def test_quantile_huber_of_a_coin():
    """Samples 0 and 10: below the median the best z is tau / (1 - tau), above it 10 less its mirror image."""
    levels = (np.arange(20) + 0.5) / 20
    best = np.where(levels < 0.5, levels / (1 - levels), 10 - (1 - levels) / levels)
    slope = jax.grad(bro.quantile_huber)
    target = np.float32([[0, 10]])
    np.testing.assert_allclose(slope(np.float32(best)[None, None], target), 0, atol=1e-6)
    above, below = (slope(np.float32(best + shift)[None, None], target) for shift in (0.1, -0.1))
    assert (above > 1e-3).all() and (below < -1e-3).all()


# Acting and the initial state


@pytest.mark.parametrize('fields', [{}, MINIMAL], ids=['bro', 'minimal'])
def test_acting(fields):
    learner, key = bro.make(config(**fields), ACT), jax.random.key(1)
    state, observations = random_state(learner, batch()), batch(seed=3)['observations']
    act = once(learner.act)
    mean, log_std = actor(as_float64(state.actor.params), np.float64(observations))
    memory, best = act(learner.policy(state), (), observations, key)
    assert memory == ()
    np.testing.assert_allclose(best, np.tanh(mean), rtol=1e-4, atol=1e-5)

    moved, scale = mean, 1.0
    if not fields:
        moved, scale = mean + shift(as_float64(state.optimist.params), np.float64(observations), mean), 0.75
    explored = act(learner.explore(learner.policy(state)), (), observations, key)[1]
    expected = np.tanh(moved + scale * np.exp(log_std) * normal(key, BATCH, ACT))
    np.testing.assert_allclose(explored, expected, rtol=1e-4, atol=1e-5)


# Resets

STEPS, DUE = np.arange(11, dtype=np.int32), (2, 5, 10)


@pytest.fixture(scope='module')
def resets():
    """The update with resets, of a population whose members are at different steps; the same without; starts."""
    shallow = {'critic_depth': 0, 'actor_depth': 0}
    learner = bro.make(config(reset_steps=(2,), reset_interval=5, **shallow), ACT)
    plain = bro.make(config(**shallow), ACT)
    hparams, b = scalars(plain), batch()
    state = random_state(plain, b)
    keys = jnp.stack([jax.random.split(jax.random.fold_in(state.key, step), 4)[0] for step in DUE])
    starts = once(jax.vmap(plain.init, in_axes=(0, None)))(keys, b)
    states = jax.tree.map(lambda x: jnp.stack([x] * len(STEPS)), state).replace(step=jnp.asarray(STEPS))
    begun = jax.tree.map(lambda x, new: x.at[np.array(DUE)].set(new), states, starts)
    begun = begun.replace(key=states.key, step=states.step)
    update, expected = (jax.vmap(learner.update, in_axes=(0, None, None)) for learner in (learner, plain))
    found = fetch(once(update)(states, b, hparams))
    return update, (states, b, hparams), found, fetch(once(expected)(begun, b, hparams)), fetch(starts)


@pytest.mark.slow
def test_resets_fall_on_their_steps_and_leave_nothing(resets):
    """Updates 2 (by reset_steps), 5 and 10 (by reset_interval) are the first ones of new networks; 0 is not."""
    _, (states, *_), found, expected, starts = resets
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    assert_same(found[0].key, fetch(states.key))
    assert_same(found[0].step, STEPS + 1)
    kernels = starts.actor.params['params']['Dense_0']['kernel']
    for i, first in enumerate(kernels):
        assert all(np.abs(first - other).max() > 0.1 for other in kernels[i + 1 :])


@pytest.mark.slow
def test_initial_state(resets):
    state = jax.tree.map(lambda x: x[0], resets[-1])
    assert_same(state.critic.params, state.target_critic)
    assert state.step == 0 and state.temperature.params == 0
    np.testing.assert_allclose(weight(state.weights.params['optimism']), 1, rtol=1e-4)
    np.testing.assert_allclose(weight(state.weights.params['regularizer']), 0.25, rtol=1e-4)
    for name in ('actor', 'critic', 'temperature', 'optimist', 'weights'):
        assert not any(np.any(moment) for moment in jax.tree.leaves(getattr(state, name).opt_state))
    last = state.optimist.params['params']['Dense_1']
    assert set(last) == {'kernel'}
    np.testing.assert_allclose(last['kernel'].T @ last['kernel'], 1e-4 * np.eye(ACT), atol=1e-8)
    first, second = state.critic.params['params']['Dense_0']['kernel']
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_a_reset_is_a_branch_even_in_a_population(resets):
    """What initialisation costs, the QR decompositions of orthogonal kernels, is within a `cond`, and so skipped."""
    update, arguments, *_ = resets

    def decompositions(jaxpr):
        """(within a cond, outside of one)"""
        inside = outside = 0
        for equation in jaxpr.eqns:
            outside += equation.primitive.name == 'qr'
            for sub in jaxprs_in_params(equation.params):
                counts = decompositions(sub)
                if equation.primitive.name == 'cond':
                    inside += sum(counts)
                else:
                    inside, outside = inside + counts[0], outside + counts[1]
        return inside, outside

    inside, outside = decompositions(jax.make_jaxpr(update)(*arguments).jaxpr)
    assert inside > 0 and outside == 0


def test_presets():
    names = set(bro.get_config()) | {'utd', 'warmup'}
    assert all(set(preset) <= names for preset in bro.PRESETS.values())
    # Ten updates after each of steps 2 501 to 15 000, then the reset, then those of step 15 001.
    assert bro.PRESETS['bro']['reset_steps'][:2] == (125_000, 475_000)
    assert bro.PRESETS['bro_fast']['reset_steps'] == (25_000,)
    assert not bro.PRESETS['bro_minimal']['optimistic']


def test_hparams_are_traced():
    """One program for all members, and each hyperparameter moves what it should."""
    learner, b = bro.make(config(**MINIMAL), ACT), batch()
    state, update, hparams = random_state(learner, b), once(learner.update), scalars(learner)
    assert tuple(hparams) == bro.HPARAMS
    touched = {
        'actor_learning_rate': lambda new, metrics: new.actor.params,
        'critic_learning_rate': lambda new, metrics: new.critic.params,
        'temperature_learning_rate': lambda new, metrics: new.temperature.params,
        'discount': lambda new, metrics: metrics['critic/loss'],
        'tau': lambda new, metrics: new.target_critic,
    }
    base = fetch(update(state, b, hparams))
    for name, part in touched.items():
        other = fetch(update(state, b, hparams | {name: np.float32(0.5 * hparams[name])}))
        assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, part(*base), part(*other)))), name
    assert update._cache_size() == 1


# Learning, against closed forms: the tasks of probe_rows.py, all in one run, with a reset in its first part

DISCOUNT, ALPHA = 0.5, 0.05
TASKS = np.stack([BANDIT, FIRST, LAST, LOOP, MINUS, PLUS])


@pytest.fixture(scope='module')
def learned():
    """(learner, state, rows); the temperature stands still, so that the entropy's share is known."""
    fields = {'critic_width': 32, 'actor_width': 32, 'num_quantiles': 8, 'batch_size': 128, 'reset_steps': (300,)}
    cfg = config(**fields, discount=DISCOUNT, tau=0.05, initial_alpha=ALPHA, weights_learning_rate=3e-4)
    learner, rows = bro.make(cfg, 1), probe_rows()
    source = sources.offline(rows, cfg.batch_size)

    def run(state, rows, hparams, n):
        def step(_, state):
            key = jax.random.fold_in(jax.random.key(0), state.step)
            return learner.update(state, source.sample(rows, (), state, key)[1], hparams)[0]

        return jax.lax.fori_loop(0, n, step, state)

    run = jax.jit(run, compiler_options={'xla_backend_optimization_level': 1})
    state = random_state(learner, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), source.example), step=0)
    for rate, n in ((3e-3, 2000), (3e-4, 1000)):
        rates = {'actor_learning_rate': rate, 'critic_learning_rate': rate, 'temperature_learning_rate': 0.0}
        state = run(state, rows, scalars(learner, **rates), np.int32(n))
    return learner, fetch(state), rows


@pytest.mark.slow
def test_learned_values(learned):
    """Those of SAC: the next action's entropy is worth alpha a nat. No return has any spread."""
    _, state, _ = learned
    assert state.temperature.params == pytest.approx(np.log(ALPHA))
    mean, log_std = actor(as_float64(state.actor.params), TASKS)
    noise = np.random.default_rng(0).normal(size=(2000, 1, 1))
    bonus = ALPHA * entropy_of(mean + np.exp(log_std) * noise, log_std, noise).mean(0)
    actions = np.array([0.5, 0, 0, 0, 0.5, 0.5])
    z = critics(as_float64(state.critic.params), TASKS, actions[:, None])
    loop = (1 + DISCOUNT * bonus[3]) / (1 - DISCOUNT)
    expected = np.array([0.5, DISCOUNT * (1 + bonus[2]), 1, loop, -0.5, 0.5])
    np.testing.assert_allclose(z, np.broadcast_to(expected[None, :, None], z.shape), atol=0.1)
    np.testing.assert_allclose(z.mean(-1), np.broadcast_to(expected, (2, 6)), atol=0.05)


@pytest.mark.slow
def test_learned_policy_climbs(learned):
    learner, state, _ = learned
    best = np.asarray(once(learner.act)(learner.policy(state), (), TASKS, jax.random.key(0))[1])[:, 0]
    assert best[4] < -0.8 and best[5] > 0.8


@pytest.mark.slow
def test_optimist_is_held_at_its_distance(learned):
    """The mean over the data, of which the tasks are shares."""
    _, state, rows = learned
    transitions = fetch(replay.read(rows, np.arange(int(replay.count(rows)))))
    shares = transitions['observations'].mean(0)
    kl = divergence(*as_float64((state.optimist.params, state.actor.params)), TASKS)
    assert shares @ kl == pytest.approx(0.05, abs=0.01)
