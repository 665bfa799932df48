"""Rewards on the host: the same designs as on the device, counts, failures, several devices, and who waits for whom."""

import functools

import host_rewards
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.mesh import make_mesh
from diffusion_jax.models import table
from diffusion_jax.rewards import Scorer
from diffusion_jax.search import on_host, run, svdd, tree
from diffusion_jax.value import Value

LENGTH, SIZE, GROUPS = 4, 3, 6
VALUE = Value(floor=-3.0)  # most tests share it and `common`, so that they are compiled once


@pytest.fixture(scope='module')
def laboratory():
    """A process over strings of 4 letters of 3, and rewards of them in steps of 1/16, exact in float32."""
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(SIZE**LENGTH)).reshape((SIZE,) * LENGTH)
    return table.make(prior), rng.integers(0, 64, (SIZE,) * LENGTH) / 16


def decode(designs):
    return [''.join(map(str, design)) for design in designs]


def on_device(rewards):
    """(params, reward) of a table."""

    def reward(params, designs):
        return table.lookup(params, designs)

    return table.value(rewards), reward


def scorer_of(rewards, workers=1):
    return Scorer(functools.partial(host_rewards.from_table, table=rewards), workers=workers)


def dsearch_rows():
    """Beams that shrink, rows that are not searched, and a narrow row with padding beside a wide one."""
    return [
        tree.Row([1] * 4, search=False),
        tree.Row([2] * 4, search=True, keep=2),
        tree.Row([5] * 2, search=True, keep=1),
        tree.Row([3], search=True),
    ]


def common(process, value):
    return svdd.plan(process, value, children=2)


PLANS = {
    'common': (common, {'floor': -3.0}),
    'ahead': (common, {'samples': 2, 'lookahead': 2, 'alpha': 0.5}),
    'dsearch': (lambda process, value: tree.make_plan(dsearch_rows(), process, value, beams=4, alpha=0.1), {}),
}


def assert_same(a, b):
    for name, one, other in zip(a._fields, a, b, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_array_equal, err_msg=name), one, other)


@pytest.mark.parametrize(
    ('kind', 'groups'), [('common', GROUPS), ('dsearch', 5), pytest.param('ahead', 1, marks=pytest.mark.slow)]
)
def test_designs_are_those_of_the_device(laboratory, key, kind, groups):
    process, rewards = laboratory
    make_plan, about = PLANS[kind]
    params, reward = on_device(rewards)
    value = Value(params=params, reward=reward, **about)
    plan = make_plan(process, value)
    expected = run.on_device(tree.search, None, process, value, plan, groups=groups, key=key)
    with scorer_of(rewards) as scorer:
        found, pace = on_host.search(process, Value(**about), plan, run.group_keys(key, groups), decode, scorer)
    assert_same(found, expected)
    assert (found.calls == plan.calls).all() and (found.reward_calls == plan.rewards).all()
    assert 0 < pace.busy <= 1 and pace.seconds > 0
    assert len(np.unique(expected.designs, axis=0)) > 1 or groups == 1
    # Every design was scored at most once.
    assert scorer.calls <= SIZE**LENGTH and scorer.calls + scorer.hits == plan.rewards * groups


def test_goes_on_from_states(laboratory, key):
    """As RERD does: from noised designs, at a level on the way."""
    process, rewards = laboratory
    params, reward = on_device(rewards)
    value = Value(params=params, reward=reward)
    plan = tree.make_plan([tree.Row([3, 3], search=True)] * 2, process, value, beams=2)
    keys = run.group_keys(key, 3)
    designs = jnp.zeros((3, 2, LENGTH), jnp.int8)
    x = jax.vmap(jax.vmap(process.noise, (None, 0, None)), (0, 0, None))(keys, designs, plan.first)
    expected = jax.jit(
        lambda x: tree.result(plan, *tree.run(process, value, plan, tree.start(process, plan, keys, x)))
    )(x)
    with scorer_of(rewards) as scorer:
        found, _ = on_host.search(process, Value(), plan, keys, decode, scorer, x=x)
    assert_same(found, jax.tree.map(np.asarray, expected))


def test_values_of_states_stay_on_the_device(laboratory, key):
    """A learned or exact value: only the designs at the end are scored on the host."""
    process, rewards = laboratory
    padded = np.pad(rewards, [(0, 1)] * LENGTH)  # masks count 0

    def of_state(params, x, level):
        return table.lookup(params, x)

    params, reward = on_device(rewards)
    value = Value(params=table.value(padded), of_state=of_state, reward=lambda _, x: reward(params, x))
    plan = svdd.plan(process, value, children=3)
    expected = run.on_device(tree.search, None, process, value, plan, groups=4, key=key)
    with scorer_of(rewards) as scorer:
        found, _ = on_host.search(process, value, plan, run.group_keys(key, 4), decode, scorer)
        assert scorer.calls + scorer.hits == 4 * 3
    assert_same(found, expected)


def test_eight_devices_give_the_same_designs(laboratory, key):
    process, rewards = laboratory
    plan, keys = common(process, VALUE), run.group_keys(key, GROUPS)
    with scorer_of(rewards) as scorer:
        one, _ = on_host.search(process, VALUE, plan, keys, decode, scorer)
        eight, _ = on_host.search(process, VALUE, plan, keys, decode, scorer, mesh=make_mesh('data:8'))
    assert_same(eight, one)


def test_compiles_once(laboratory, key):
    process, rewards = laboratory
    plan = common(process, VALUE)
    with scorer_of(rewards) as scorer:
        on_host.search(process, VALUE, plan, run.group_keys(key, GROUPS), decode, scorer)
        compiled = on_host._compiled.cache_info().misses
        on_host.search(process, VALUE, plan, run.group_keys(jax.random.key(1), GROUPS), decode, scorer)
        assert on_host._compiled.cache_info().misses == compiled


def test_rewards_that_are_not_finite_are_floored_and_counted(laboratory, key):
    process, rewards = laboratory
    rewards = rewards.copy()
    rewards[0], rewards[1, 0] = np.nan, np.inf
    params, reward = on_device(rewards)
    value = Value(params=params, reward=reward, floor=-3.0)
    plan = common(process, value)
    expected = run.on_device(tree.search, None, process, value, plan, groups=GROUPS, key=key)
    with scorer_of(rewards) as scorer:
        found, _ = on_host.search(process, VALUE, plan, run.group_keys(key, GROUPS), decode, scorer)
    assert_same(found, expected)
    assert found.failed.sum() > 0 and np.isfinite(found.rewards).all()


def test_a_reward_of_the_wrong_length_is_an_error(laboratory, key):
    process, rewards = laboratory
    plan, keys = common(process, VALUE), run.group_keys(key, GROUPS)
    with Scorer(host_rewards.one_short, workers=1) as scorer:
        with pytest.raises(UserError, match='one number a design'):
            on_host.search(process, VALUE, plan, keys, decode, scorer)


@pytest.mark.slow
def test_the_device_works_while_the_host_scores(laboratory, key):
    """A device that has much to do is rarely idle; beside a slow reward it is."""
    process, rewards = laboratory

    def slow(params, x, level):
        work = jnp.ones((256, 256)) + x.sum() * 0
        work = jax.lax.fori_loop(0, 40, lambda _, w: w @ w / 256, work)
        return process.denoise(params, x, level) + 0 * work[0, 0]

    slowed = process.replace(denoise=slow)
    plan, keys = svdd.plan(slowed, Value(), children=3), run.group_keys(key, 8)
    with Scorer(functools.partial(host_rewards.nap, seconds=1e-4), workers=1) as scorer:
        _, pace = on_host.search(slowed, Value(), plan, keys, decode, scorer)
    with Scorer(functools.partial(host_rewards.nap, seconds=0.05), workers=1) as scorer:
        _, waiting = on_host.search(slowed, Value(), plan, keys, decode, scorer)
    assert pace.busy > 0.5 and waiting.busy < pace.busy - 0.1
