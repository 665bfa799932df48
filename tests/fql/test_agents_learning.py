"""What the agents learn, against closed forms: on the tasks of probe_rows.py, each agent in one compiled run."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats
from numpy_nets import actor, as_float64, gaussian, once, rows_of, value
from probe_rows import BANDIT, FIRST, LAST, LOOP, MINUS, PLUS, dataset, probe_rows, train

from core_jax import replay
from fql_jax.agents import bc, fawac, fbrac, flow_bc, fql, idql, ifql, iql, rebrac

DISCOUNT, EXPECTILE = 0.5, 0.8
TASKS = np.stack([BANDIT, FIRST, LAST, LOOP, MINUS, PLUS])
ROWS = probe_rows()
TRANSITIONS = int(replay.count(ROWS))


def settings(agent, **fields):
    config = agent.get_config()
    hidden = (64,) if agent in (bc, iql, rebrac) else (32, 32)  # the flows need two layers
    small = {'hidden_dims': hidden, 'batch_size': 128, 'learning_rate': 3e-3, 'flow_steps': 8, 'expectile': EXPECTILE}
    small |= {'discount': DISCOUNT, 'tau': 0.05} | fields
    config.update({name: x for name, x in small.items() if name in config})
    return config


@functools.cache
def learned(agent, updates=2000, **fields):
    """(learner, the states of the members, compiled act); a field with several values makes a population."""
    hparams = {name: x for name, x in fields.items() if name in agent.HPARAMS and isinstance(x, tuple)}
    cfg = settings(agent, **{name: x for name, x in fields.items() if name not in hparams})
    members = max([len(x) for x in hparams.values()], default=1)
    learner, states = train(agent, cfg, ROWS, updates, members, **hparams)
    return learner, states, once(learner.act)


def acted(agent_run, member, observation, explore=False, count=1000):
    """Actions [count] in one observation."""
    learner, states, act = agent_run
    policy = learner.policy(states[member])
    policy = learner.explore(policy) if explore else policy
    return np.asarray(act(policy, (), rows_of(observation, count), jax.random.key(1))[1])[:, 0]


def q_of(params, observations, actions):
    """Mean over the critics, [B]."""
    return value(as_float64(params), np.float64(observations), np.float64(actions).reshape(len(observations), -1)).mean(
        0
    )


def data_of(observation):
    """Actions that the data have there."""
    transitions = jax.device_get(replay.read(ROWS, np.arange(TRANSITIONS)))
    return np.float64(transitions['actions'][(transitions['observations'] == observation).all(1), 0])


def assert_both_modes(actions):
    assert np.mean(actions > 0) == pytest.approx(0.5, abs=0.08)
    assert np.mean(np.abs(np.abs(actions) - 0.5) < 0.3) > 0.85


# Clones


def test_flow_bc_keeps_both_modes():
    run = learned(flow_bc)
    assert_both_modes(acted(run, 0, BANDIT))
    assert scipy.stats.ks_1samp(acted(run, 0, PLUS), scipy.stats.uniform(-1, 2).cdf).statistic < 0.12


def test_bc_has_the_moments_of_the_data():
    run = learned(bc, std='state')
    for observation in (BANDIT, PLUS):
        data = data_of(observation)
        mean, std = gaussian(as_float64(run[1][0].actor.params), observation[None], 'state')
        assert mean.item() == pytest.approx(data.mean(), abs=0.05) and std.item() == pytest.approx(data.std(), abs=0.05)
        assert acted(run, 0, observation, count=8) == pytest.approx(mean.item(), abs=1e-5)


# IQL and what is built on it: V is the expectile of Q over the data's actions

IMPLICIT = {iql: {'alpha': 2.0}, ifql: {}, idql: {'updates': 4000, 'hidden_dims': (64, 64)}}


@pytest.mark.parametrize('agent', [iql, ifql, pytest.param(idql, marks=pytest.mark.slow)])
def test_implicit_values(agent):
    params = learned(agent, **IMPLICIT[agent])[1][0].nets.params
    bandit, minus, plus = (
        scipy.stats.expectile(sign * data_of(observation), EXPECTILE)
        for observation, sign in ((BANDIT, 1), (MINUS, -1), (PLUS, 1))
    )
    # Of a uniform distribution on -1..1 it is (1 - k) / (1 + k), k = sqrt((1 - tau) / tau).
    k = np.sqrt((1 - EXPECTILE) / EXPECTILE)
    np.testing.assert_allclose([minus, plus], (1 - k) / (1 + k), atol=0.05)
    found = value(as_float64(params['value']), TASKS)[0]
    np.testing.assert_allclose(found, [bandit, DISCOUNT, 1, 1 / (1 - DISCOUNT), minus, plus], atol=0.08)

    found = q_of(params['critic'], TASKS, [0.5, 0, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(found, [0.5, DISCOUNT, 1, 1 / (1 - DISCOUNT), -0.5, 0.5], atol=0.12)


def test_iql_policy_is_the_weighted_mean():
    run = learned(iql, **IMPLICIT[iql])
    for observation, sign, closed in (
        (BANDIT, 1, 0.5 * np.tanh(1.0) + 2 * 0.1**2),  # two Gaussians, tilted by exp(2 a)
        (MINUS, -1, 0.5 - 1 / np.tanh(2)),  # uniform, tilted
        (PLUS, 1, 1 / np.tanh(2) - 0.5),
    ):
        data = data_of(observation)
        expected = np.average(data, weights=np.exp(sign * 2.0 * data))
        assert expected == pytest.approx(closed, abs=0.05)
        assert acted(run, 0, observation, count=8) == pytest.approx(expected, abs=0.06)


def test_ifql_picks_the_better_mode():
    run = learned(ifql)
    assert np.mean(acted(run, 0, BANDIT) > 0.3) > 0.97
    assert np.mean(acted(run, 0, MINUS)) < -0.75 and np.mean(acted(run, 0, PLUS)) > 0.75


@pytest.mark.slow
def test_idql_picks_the_better_mode_or_by_weight():
    run = learned(idql, **IMPLICIT[idql])
    assert np.mean(acted(run, 0, BANDIT) > 0.3) > 0.97
    assert np.mean(acted(run, 0, MINUS)) < -0.75 and np.mean(acted(run, 0, PLUS)) > 0.75
    # The clone alone: of a single sample there is no choice.
    alone = once(idql.make(settings(idql, **(IMPLICIT[idql] | {'num_samples': 1})), 1).act)
    cloned = acted((run[0], run[1], alone), 0, BANDIT, count=4000)
    assert np.mean(cloned > 0) == pytest.approx(0.5, abs=0.08)
    assert np.mean(np.abs(np.abs(cloned) - 0.5) < 0.3) > 0.72  # of a uniform distribution, 0.6

    # Exploring, a sample with Q >= V is expectile : 1 - expectile as likely as another.
    params = run[1][0].nets.params
    v = value(as_float64(params['value']), BANDIT[None])

    def share_above(actions):
        return np.mean(q_of(params['critic'], rows_of(BANDIT, len(actions)), actions) >= v)

    good = np.arange(33)  # so many of the 32 are above, by chance
    drawn = EXPECTILE * good / (EXPECTILE * good + (1 - EXPECTILE) * (32 - good))
    expected = scipy.stats.binom(32, share_above(cloned)).pmf(good) @ drawn
    assert share_above(acted(run, 0, BANDIT, explore=True)) == pytest.approx(expected, abs=0.05)


# ReBRAC


@pytest.fixture(scope='module')
def regularised():
    return learned(rebrac, alpha_actor=(0.05, 2.0), alpha_critic=1.0)


def test_rebrac_small_weight_climbs(regularised):
    assert acted(regularised, 0, MINUS, count=8).max() < -0.9 and acted(regularised, 0, PLUS, count=8).min() > 0.9


def test_rebrac_policy_has_the_closed_form(regularised):
    """The minimum of -Q(pi) / m + alpha (pi - a)^2, m = mean |Q|, lies at pi = mean a + Q'(pi) / (2 alpha m)."""
    state = regularised[1][1]
    params = as_float64(state.critic.params)
    chosen = np.array([acted(regularised, 1, observation, count=8)[0] for observation in TASKS], np.float64)

    def smaller_q(actions):
        return value(params, TASKS, actions[:, None]).min(0)

    shares = np.array([len(data_of(observation)) for observation in TASKS]) / TRANSITIONS
    scale = shares @ np.abs(smaller_q(chosen))
    slopes = (smaller_q(chosen + 1e-3) - smaller_q(chosen - 1e-3)) / 2e-3
    expected = [data_of(observation).mean() for observation in TASKS] + slopes / (2 * 2.0 * scale)
    np.testing.assert_allclose(chosen, expected, atol=0.08)
    assert slopes[4] < -0.5 and slopes[5] > 0.5


def test_rebrac_values_carry_the_distance_to_the_next_action(regularised):
    """Q(FIRST) = discount (1 - alpha_critic E (a' - a_next)^2); a trajectory's last transition has no such term."""
    state = regularised[1][1]
    pi, data = acted(regularised, 1, LAST, count=8)[0], data_of(LAST)
    noise = np.clip(0.2 * np.random.default_rng(0).normal(size=100_000), -0.5, 0.5)
    distance = (pi - data.mean()) ** 2 + data.var() + noise.var()
    assert distance > 0.3
    found = q_of(state.critic.params, TASKS, [0.5, 0, 0, 0, 0.5, 0.5])
    expected = [0.5, DISCOUNT * (1 - distance), 1, 1 / (1 - DISCOUNT), -0.5, 0.5]
    np.testing.assert_allclose(found, expected, atol=0.12)


# Flows that are trained by value


def assert_probe_values(critic):
    found = q_of(critic, TASKS, [0.5, 0, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(found, [0.5, DISCOUNT, 1, 1 / (1 - DISCOUNT), -0.5, 0.5], atol=0.12)


@pytest.mark.slow
def test_fbrac_large_weight_clones_and_small_weight_climbs():
    run = learned(fbrac, alpha=(20.0, 0.1))
    assert_both_modes(acted(run, 0, BANDIT))
    assert np.mean(acted(run, 1, BANDIT) > 0.3) > 0.97
    assert np.mean(acted(run, 1, MINUS)) < -0.85 and np.mean(acted(run, 1, PLUS)) > 0.85
    for state in run[1]:
        assert_probe_values(state.nets.params['critic'])


@pytest.mark.slow
def test_fawac_weights_the_modes_by_the_exponential_of_their_gap():
    """The modes lie 1 apart in value: exp(inv_temp) to 1."""
    run = learned(fawac, inv_temp=1.5)
    actions = acted(run, 0, BANDIT, count=4000)
    assert np.mean(actions > 0) == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.06)
    assert np.mean(np.abs(np.abs(actions) - 0.5) < 0.3) > 0.85
    params = run[1][0].nets.params
    assert_probe_values(params['critic'])
    # V is the mean of Q over the data's actions.
    found = value(as_float64(params['value']), TASKS)[0]
    np.testing.assert_allclose(found, [0, DISCOUNT, 1, 1 / (1 - DISCOUNT), 0, 0], atol=0.08)


# FQL with chunks of two
#
#   A, B, C, D   four steps, reward = action, ends: Q(A, (a, b)) = a + discount b + discount^2 max Q(C, .)
#   LONG         reward 1 for ever, cut by a time limit after eight steps
#   STOP         reward 1 and the task is over, but the trajectory goes on with GO, reward 5: Q(STOP, .) = 1

A, B, C, D, LONG, STOP, GO = np.eye(7, dtype=np.float32)


@pytest.fixture(scope='module')
def chunked():
    rng, rows = np.random.default_rng(0), []
    for _ in range(500):
        for i, observation in enumerate((A, B, C, D)):
            action = rng.uniform(-1, 1)
            rows.append((observation, action, action, i < 3, 0))
        rows += [(D, 0, 0, 0, 1)]
        rows += [(LONG, rng.uniform(-1, 1), 1, 1, i == 8) for i in range(9)]
        rows += [(STOP, rng.uniform(-1, 1), 1, 0, 0), (GO, rng.uniform(-1, 1), 5, 1, 0), (GO, 0, 0, 1, 1)]
    cfg = settings(fql, horizon=2, alpha=0.2)
    learner, (state,) = train(fql, cfg, dataset(rows), 2000)
    return learner, state


def test_chunk_values(chunked):
    _, state = chunked
    best = 1 + DISCOUNT
    cases = [
        (C, (0.5, 0.5), 0.5 + DISCOUNT * 0.5),
        (C, (-0.5, 0.5), -0.5 + DISCOUNT * 0.5),
        (C, (0.5, -0.5), 0.5 - DISCOUNT * 0.5),
        (A, (0.5, 0.5), 0.5 + DISCOUNT * 0.5 + DISCOUNT**2 * best),
        (A, (-0.5, 0.5), -0.5 + DISCOUNT * 0.5 + DISCOUNT**2 * best),
        (LONG, (0, 0), 1 / (1 - DISCOUNT)),
        (STOP, (0, 0), 1),
    ]
    observations, actions, expected = map(np.array, zip(*cases, strict=True))
    np.testing.assert_allclose(q_of(state.nets.params['critic'], observations, actions), expected, atol=0.15)


def test_chunk_policy_climbs_in_both_steps(chunked):
    _, state = chunked
    noise = np.random.default_rng(0).normal(size=(500, 2))
    chosen = np.clip(actor(as_float64(state.nets.params['onestep']), rows_of(C, 500), noise), -1, 1)
    assert chosen.mean(0).min() > 0.85
