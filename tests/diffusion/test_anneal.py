"""Annealed refinement: its target, its normaliser, its temperatures and costs, on devices and on the host."""

import functools

import host_rewards
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from core_jax.errors import UserError
from core_jax.mesh import make_mesh
from diffusion_jax import api
from diffusion_jax.domains import lab
from diffusion_jax.models import table
from diffusion_jax.rewards import Scorer
from diffusion_jax.search import anneal, hosted, refine, svdd, tree
from diffusion_jax.search.run import group_keys, on_device
from diffusion_jax.value import Value

ALPHA = 0.1
LAB = lab.process(), lab.value(exact=False)
LENGTH, SIZE = 4, 3
REWARDS = np.random.default_rng(0).integers(0, 64, (SIZE,) * LENGTH) / 16  # exact in float32
SMALL = (
    table.make(np.random.default_rng(1).dirichlet(np.ones(SIZE**LENGTH)).reshape(REWARDS.shape)),
    Value(params=table.value(REWARDS), reward=table.lookup),
)


def made(model=SMALL, designs=16, **about):
    whole = svdd.best_of_n(*model, n=1, designs=designs)
    return anneal.plan(model[0], whole, **({'iterations': 12, 'back': 0.5} | about))


def found(plan, key, groups=8, model=SMALL, mesh=None, x=None):
    return on_device(anneal.search, mesh, *model, plan, groups=groups, key=key, x=x)


def histogram(rewards, weights=None):
    return np.histogram(np.clip(rewards.ravel(), 0, 1), bins=20, range=(0, 1), weights=weights)[0]


@pytest.fixture(scope='module')
def sampled():
    """8 groups of 1,000 designs, moved a position at a time, down to the temperature of the target."""
    plan = made(LAB, 1000, iterations=30, back=0.0, turnover=9.0, alpha=ALPHA)
    return found(plan, jax.random.key(1), model=LAB)


def test_it_samples_the_tilted_prior(sampled):
    """Total variation between 20-bin histograms of the rewards: the prior is 0.63 from the target."""
    exact = histogram(lab.rewards(), lab.target(alpha=ALPHA).ravel())
    assert sampled.trace['beta'][-1] == pytest.approx(1 / ALPHA)
    assert 0.5 * np.abs(histogram(sampled.rewards) / sampled.rewards.size - exact).sum() < 0.02


def test_it_estimates_the_normaliser(sampled):
    """log E_p[exp(r / alpha)], within five standard errors of the groups."""
    exact = np.log((lab.prior() * np.exp(lab.rewards() / ALPHA)).sum())
    log_z = sampled.trace['log_z'][-1]
    assert abs(log_z.mean() - exact) < 5 * log_z.std(ddof=1) / np.sqrt(len(log_z)) < 0.1


def test_taking_all_moves_leaves_the_target():
    """What `accept` is for: without it the designs go back to the prior. Against sums over all 81 strings."""
    process, value = SMALL
    prior = np.exp(process.log_likelihood(process.params, jax.random.key(0), jnp.asarray(strings())))
    target = prior * np.exp(REWARDS.ravel() / 0.5)
    exact = (target * REWARDS.ravel()).sum() / target.sum()
    about = {'iterations': 25, 'back': 0.0, 'turnover': 6.0, 'alpha': 0.5}
    means = {
        accept: found(made(designs=500, accept=accept, **about), jax.random.key(0)).rewards.mean()
        for accept in anneal.ACCEPTS
    }
    assert means['metropolis'] == pytest.approx(exact, abs=0.03)
    assert means['always'] < exact - 0.3 and means['better'] > exact + 0.03


def strings():
    """All strings [81, 4], in the order of the table."""
    return np.stack(np.unravel_index(np.arange(SIZE**LENGTH), REWARDS.shape), -1).astype(np.int8)


def test_temperatures_keep_the_share_that_is_asked_for():
    """Against Brent's method on the effective sample size in float64."""
    rewards = np.random.default_rng(0).gamma(2.0, 3.0, (5, 32))
    rewards[4, 3] = -1e6  # a design without a reward

    def missing(increment, row):
        weight = np.exp(increment * (row - row.max()))
        return weight.sum() ** 2 / (weight**2).sum() - 0.6 * 32

    for beta in (0.0, 2.5):
        start = jnp.full(5, beta, jnp.float32)
        cooled = anneal.cooled(start, jnp.asarray(rewards, jnp.float32), 0.6, 1e12) - start
        expected = [optimize.brentq(missing, 1e-4, 1e3, args=(row,)) for row in rewards]
        np.testing.assert_allclose(cooled, expected, rtol=1e-3)
    np.testing.assert_allclose(anneal.cooled(start, jnp.asarray(rewards, jnp.float32), 0.6, 2.55), 2.55)


def test_a_plan_costs_what_it_says(key):
    plan = made(designs=8)
    run = found(plan, key, groups=3)
    assert (run.calls == plan.calls).all() and (run.reward_calls == plan.rewards).all()
    assert plan.calls == 8 * (LENGTH + 11) and plan.rewards == 8 * 12
    np.testing.assert_array_equal(np.diff(run.trace['calls'], axis=0), 8)


def test_a_budget_of_one_pass_makes_no_moves(key):
    plan = made(iterations=1, alpha=1.0)
    result = found(plan, key)
    whole = on_device(tree.search, None, *SMALL, plan.whole, groups=8, key=key)
    np.testing.assert_array_equal(result.designs, whole.designs)
    assert set(result.calls) == {plan.calls} and result.trace['beta'].shape == (1, 8)


def test_what_is_returned_is_different(key):
    """The best of all that was visited, each once; a sample where a temperature is the end."""
    x = jnp.array([[[1, 2], [3, 4], [1, 2], [5, 6], [3, 4]]])
    reward = jnp.array([[7.0, 5.0, 7.0, 6.0, 5.0]])
    designs, rewards = anneal.different(x, reward, 4)
    np.testing.assert_array_equal(designs[0], [[1, 2], [5, 6], [3, 4], [1, 2]])  # a copy for want of a fourth
    np.testing.assert_array_equal(rewards[0], [7, 6, 5, 7])
    result = found(made(iterations=40), key)
    for group, rewards in zip(result.designs, result.rewards, strict=True):
        assert len(np.unique(group, axis=0)) == 16 and (np.diff(rewards) <= 0).all()
    assert (result.rewards[:, 0] >= result.trace['best'].max(0)).all()
    copies = found(made(iterations=40, alpha=0.05), key)
    np.testing.assert_allclose(copies.rewards.mean(1), copies.trace['mean'][-1], rtol=1e-6)


def test_levels_go_from_far_to_near():
    levels = made(LAB, iterations=8, back=0.5).levels
    assert levels[0] == 4 and levels[-1] == 7 and (np.diff(levels) >= 0).all() and len(levels) == 7
    assert (made(LAB, back=0.5, last=0.5).levels == 4).all() and (made(LAB, back=0.0).levels == 7).all()


def test_rewards_are_those_of_the_designs(key):
    run = found(made(), key)
    np.testing.assert_array_equal(run.rewards, REWARDS[tuple(np.moveaxis(run.designs, -1, 0))])
    assert run.designs.max() < SIZE


def test_it_climbs_above_single_shot_searches():
    task = api.task('dna')
    medians = {
        method: np.median(api.design(task, method=method, nfe=64, designs=64).rewards['six6'])
        for method in ('best_of_n', 'svdd', 'anneal')
    }
    assert medians['anneal'] > medians['svdd'] > medians['best_of_n']


def test_one_and_eight_devices_agree(key):
    for groups in (8, 3):
        one, eight = (found(made(), key, groups, mesh=mesh) for mesh in (None, make_mesh('data:8')))
        np.testing.assert_array_equal(one.designs, eight.designs)
        np.testing.assert_array_equal(one.rewards, eight.rewards)


def test_seeds_are_where_it_begins(key):
    seeds = np.random.default_rng(0).integers(0, SIZE, (2, 16, LENGTH)).astype(np.int8)
    run = found(refine.from_seeds(made(iterations=5)), key, 2, x=seeds)
    np.testing.assert_allclose(run.trace['mean'][0], REWARDS[tuple(np.moveaxis(seeds, -1, 0))].mean(1), rtol=1e-6)
    assert run.calls.tolist() == [16 * 4] * 2 and run.reward_calls.tolist() == [16 * 5] * 2


def test_seeds_that_are_missing_are_asked_for(key):
    plan = refine.from_seeds(made())
    with pytest.raises(UserError, match='seeds: give them'):
        found(plan, key, 2)
    with pytest.raises(UserError, match='seeds: give them'):
        hosted.annealed(*SMALL, plan, group_keys(key, 2), None, None)


@pytest.mark.parametrize('seeded', [False, True])
def test_rewards_on_the_host_are_the_same(key, seeded):
    rewards = np.where(np.arange(SIZE**LENGTH).reshape(REWARDS.shape) < 27, np.nan, REWARDS)
    value = SMALL[1].replace(params=table.value(rewards), floor=-1.0)
    plan, x = made(designs=6, iterations=5), None
    if seeded:
        plan, x = refine.from_seeds(plan), strings()[20:38].reshape(3, 6, LENGTH)
    expected = found(plan, key, 3, (SMALL[0], value), x=x)
    reward = functools.partial(host_rewards.from_table, table=rewards)
    decode = lambda designs: [''.join(map(str, design)) for design in designs]  # noqa: E731
    with Scorer(reward, workers=1) as scorer:
        run = hosted.annealed(SMALL[0], Value(floor=-1.0), plan, group_keys(key, 3), decode, scorer, x=x)
    for one, other in zip(run, expected, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), one, other)
    assert run.failed.sum() > 0


@pytest.mark.parametrize(
    'about,said',
    [
        ({'turnover': 0.0}, 'turnover'),
        ({'iterations': 0}, 'iterations'),
        ({'alpha': -1.0}, 'alpha'),
        ({'back': 1.0}, 'share of steps'),
        ({'last': 0.75}, 'no more than the first'),
        ({'back': 0.05}, 'rounds to 0'),
        ({'accept': 'metropolys'}, "did you mean 'metropolis'"),
    ],
)
def test_what_cannot_be_is_said(about, said):
    with pytest.raises(UserError, match=said):
        made(**about)
