"""Searches in the exact laboratory: each does what its equations say, in numbers that can be had another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.mesh import make_mesh
from diffusion_jax.domains import lab
from diffusion_jax.models import table
from diffusion_jax.process import sample
from diffusion_jax.search import dsearch, refine, smc, svdd, tree
from diffusion_jax.search.run import on_device

ALPHA = 0.1
PROCESS, EXACT, GUESSED = lab.process(), lab.value(alpha=ALPHA), lab.value(exact=False)
KEY = jax.random.key(0)


def histogram(rewards):
    return np.histogram(np.clip(rewards, 0, 1), bins=20, range=(0, 1))[0] / rewards.size


def distance(rewards):
    """Total variation between the 20-bin histogram of rewards and that of the exact tilt."""
    exact = np.histogram(lab.rewards().ravel(), bins=20, range=(0, 1), weights=lab.target(alpha=ALPHA).ravel())[0]
    return 0.5 * np.abs(histogram(np.asarray(rewards).ravel()) - exact).sum()


def unique(designs):
    return len(np.unique(designs.reshape(-1, lab.LENGTH), axis=0))


def run(plan, value=GUESSED, groups=1000, kernel=tree.search, mesh=None, key=KEY, **more):
    return on_device(kernel, mesh, PROCESS, value, plan, groups=groups, key=key, **more)


def test_the_process_draws_from_its_prior():
    designs = np.asarray(jax.jit(sample)(PROCESS, jax.random.split(KEY, 20_000)))
    rewards = lab.rewards()[tuple(designs.T)]
    exact = np.histogram(lab.rewards().ravel(), bins=20, range=(0, 1), weights=lab.prior().ravel())[0]
    assert 0.5 * np.abs(histogram(rewards) - exact).sum() < 0.02
    first = np.bincount(designs[:, 0], minlength=4) / len(designs)
    np.testing.assert_allclose(first, 0.25, atol=0.015)


def test_the_denoiser_is_exact():
    """Against sums over the whole table, of states that hide some positions."""
    x = np.array([[4, 1, 4, 0, 2, 4, 3, 3], [4] * 8, [0, 1, 2, 3, 0, 1, 4, 3]], np.int8)
    out = np.exp(PROCESS.denoise(PROCESS.params, jnp.asarray(x), 0))
    for row, state in enumerate(x):
        known = tuple(slice(None) if token == 4 else int(token) for token in state)
        for position in np.flatnonzero(state == 4):
            axis = int((state[:position] == 4).sum())
            joint = lab.prior()[known]
            marginal = joint.sum(tuple(a for a in range(joint.ndim) if a != axis))
            np.testing.assert_allclose(out[row, position], marginal / marginal.sum(), rtol=1e-4)


def test_soft_values_are_the_exact_expectation():
    soft = table.soft_values(lab.prior(), lab.rewards(), ALPHA)
    inside = lab.prior()[1, :, 2, 0] * np.exp(lab.rewards()[1, :, 2, 0] / ALPHA)
    wanted = ALPHA * np.log(inside.sum() / lab.prior()[1, :, 2, 0].sum())
    assert soft[1, 4, 2, 0, 4, 4, 4, 4] == pytest.approx(wanted, rel=1e-9)
    np.testing.assert_allclose(soft[:4, :4, :4, :4, :4, :4, :4, :4], lab.rewards(), rtol=1e-6, atol=1e-9)


def test_importance_sampling_approaches_the_tilt_and_greed_collapses():
    errors, found = [], []
    for children in (5, 40):
        result = run(svdd.plan(PROCESS, EXACT, children=children, alpha=ALPHA), EXACT, groups=5000)
        errors.append(distance(result.rewards))
        found.append(unique(result.designs))
    assert errors[0] > 0.08 and errors[1] < 0.04
    greedy = run(svdd.plan(PROCESS, EXACT, children=40), EXACT, groups=5000)
    assert distance(greedy.rewards) > 0.5 and unique(greedy.designs) < found[1] / 5
    assert greedy.rewards.mean() > 0.95


@pytest.mark.slow
def test_the_soft_optimal_policy_draws_the_tilt():
    """At N = 20,000: many children are the policy itself."""
    result = run(svdd.plan(PROCESS, EXACT, children=400, alpha=ALPHA), EXACT, groups=20_000)
    assert distance(result.rewards) < 0.02


def test_svdd_is_a_dsearch_key_for_key():
    options = {'children': 6, 'designs': 3, 'alpha': 0.0}
    one = run(svdd.plan(PROCESS, GUESSED, **options), groups=20)
    other = run(dsearch.plan(PROCESS, GUESSED, **options, search='all'), groups=20)
    np.testing.assert_array_equal(one.designs, other.designs)
    np.testing.assert_array_equal(one.rewards, other.rewards)


def test_one_child_and_no_search_is_sampling():
    result = run(svdd.best_of_n(PROCESS, GUESSED, n=1), groups=5000)
    exact = np.histogram(lab.rewards().ravel(), bins=20, range=(0, 1), weights=lab.prior().ravel())[0]
    assert 0.5 * np.abs(histogram(result.rewards) - exact).sum() < 0.04


@pytest.mark.parametrize('block', [1, 3, 8])
def test_an_only_child_is_scored_at_the_end_alone(block):
    plan = svdd.plan(PROCESS, GUESSED, children=1, designs=5, block=block)
    assert (plan.calls, plan.rewards) == (5 * PROCESS.steps, 5)


def test_best_of_n_is_the_best_of_n():
    """The mean of the best of four draws of the prior, by its distribution function."""
    result = run(svdd.best_of_n(PROCESS, GUESSED, n=4), groups=5000)
    order = np.argsort(lab.rewards().ravel())
    below = np.concatenate([[0.0], np.cumsum(lab.prior().ravel()[order])]) ** 4
    wanted = (np.diff(below) * lab.rewards().ravel()[order]).sum()
    assert result.rewards.mean() == pytest.approx(wanted, abs=0.006)


PLANS = {
    'svdd': lambda value: svdd.plan(PROCESS, value, children=4, designs=2),
    'blocks': lambda value: svdd.plan(PROCESS, value, children=4, designs=2, block=3),
    'best of n': lambda value: svdd.best_of_n(PROCESS, value, n=5, designs=2),
    'dsearch': lambda value: dsearch.plan(PROCESS, value, children=3, designs=2, width=2, oversample=4),
    'released': lambda value: dsearch.plan(
        PROCESS, value, children=3, designs=2, width=2, oversample=4, search='uniform', released=True
    ),
    'depth': lambda value: dsearch.plan(PROCESS, value, children=2, designs=2, oversample=2, depth=3),
    'depth, sums': lambda value: dsearch.plan(
        PROCESS, value, children=2, designs=2, oversample=2, depth=3, released=True
    ),
    'replace': lambda value: dsearch.plan(PROCESS, value, children=3, designs=8, replace=0.25, search='all'),
}


def quick(*names):
    """All plans, those that are not named behind the slow marker: each is a compilation."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in PLANS]


@pytest.mark.parametrize('name', quick('dsearch'))
def test_what_a_search_costs_is_known_before_and_counted(name):
    value = GUESSED.replace(samples=2, lookahead=2)
    plan = PLANS[name](value)
    result = run(plan, value, groups=3)
    assert set(result.calls) == {plan.calls} and set(result.reward_calls) == {plan.rewards}
    assert result.designs.shape == (3, plan.designs, lab.LENGTH) and result.designs.max() < 4
    np.testing.assert_allclose(result.rewards, lab.rewards()[tuple(np.moveaxis(result.designs, -1, 0))], atol=1e-5)


@pytest.mark.parametrize('mode', ['replace', pytest.param('redraw', marks=pytest.mark.slow)])
def test_beams_replace_each_other_but_not_at_the_end(mode):
    """First beams that have descendants: fewer on the way, and as many designs after the last step as beams before."""
    if mode == 'replace':
        plan = dsearch.plan(PROCESS, GUESSED, children=2, designs=8, replace=0.25, search='all')
    else:
        rows = [tree.Row([2] * 8, search=True, redraw=i < 7) for i in range(8)]
        plan = tree.make_plan(rows, PROCESS, GUESSED, beams=8, resample_temperature=0.1)
    assert list(plan.resample) == [True] * 7 + [False]
    left = run(plan, groups=50).trace['origins']
    assert left[0].mean() < 8 and left[-2].mean() < left[0].mean()
    np.testing.assert_array_equal(left[-1], left[-2])


@pytest.mark.parametrize('name', quick('dsearch'))
def test_eight_devices_return_the_designs_of_one(name):
    value = GUESSED.replace(samples=1)
    plan = PLANS[name](value)
    for groups in (8, 3):  # divides over the devices, and does not: then candidates are laid over them
        one = run(plan, value, groups=groups)
        eight = run(plan, value, groups=groups, mesh=make_mesh('data:8'))
        np.testing.assert_array_equal(one.designs, eight.designs)
        np.testing.assert_array_equal(one.rewards, eight.rewards)


def naive(plan_rows, value, key, beams, alpha):
    """One group, beam by beam in Python: what the flat buffer must reproduce. plan_rows: of `dsearch._rows`."""
    own = jax.random.fold_in(key, 0)
    step, look = jax.jit(PROCESS.step), jax.jit(lambda x, level: PROCESS.denoise(PROCESS.params, x[None], level)[0])

    def purpose(row, number):
        return jax.random.fold_in(jax.random.fold_in(own, row), number)

    states = [(PROCESS.init(own), 0.0)] * beams
    for row, what in enumerate(plan_rows):
        kids = []
        for beam, (x, kept) in enumerate(states):
            for _ in range(what.children[beam]):
                key_of = jax.random.fold_in(purpose(row, tree.EXPAND), len(kids))
                y = step(key_of, x, look(x, row), row)
                design = y
                if row + 1 < PROCESS.steps:
                    design = PROCESS.mode(y, look(y, row + 1), row + 1)
                worth = float(lab.rewards()[tuple(np.asarray(design))]) if what.search else kept
                kids.append((beam, y, worth))
        if not what.search:
            states = [(y, worth) for _, y, worth in kids]
            continue
        winners = [max((kid for kid in kids if kid[0] == beam), key=lambda kid: kid[2]) for beam in range(len(states))]
        best = sorted(range(len(winners)), key=lambda b: -winners[b][2])[: what.keep]
        states = [winners[b][1:] for b in range(len(winners)) if b in best]
    return states


def test_the_flat_buffer_equals_a_naive_loop():
    kept = dsearch.beam_schedule('exponential', 8, 8, 2)
    rows = dsearch._rows(kept, 3.0, 8, dsearch.coins('exponential', 8, 0), 3, 0, False)
    assert {row.search for row in rows} == {True, False} and len({len(row.children) for row in rows}) > 2
    states = naive(rows, GUESSED, KEY, 8, 0.0)
    result = run(tree.make_plan(rows, PROCESS, GUESSED, beams=8), groups=1)
    np.testing.assert_array_equal(result.designs[0], np.stack([np.asarray(x) for x, _ in states]))


def test_beam_schedules():
    assert dsearch.beam_schedule('exponential', 6, 60, 12) == [60, 40, 26, 17, 12, 12]
    assert dsearch.beam_schedule('linear', 6, 60, 12) == [60, 48, 36, 24, 12, 12]
    assert dsearch.beam_schedule('quadratic', 6, 60, 12) == [60, 39, 24, 15, 12, 12]
    assert dsearch.beam_schedule('none', 4, 5, 5) == [5, 5, 5, 5]
    sigmoid = dsearch.beam_schedule('sigmoid', 20, 60, 12)
    assert sigmoid[0] == 59 and sigmoid[-1] == 12 and sigmoid == sorted(sigmoid, reverse=True)
    assert [dsearch.coins('exponential', 400, seed)[-1] for seed in range(3)] == [True] * 3
    share = np.mean([dsearch.coins('exponential', 400, seed) for seed in range(50)])
    assert share == pytest.approx(1 - (1 - np.exp(-3)) / 3, abs=0.01)


# Sequential Monte Carlo


# Sums of values weigh heavily; at a higher temperature few groups suffice to see their mean.
@pytest.mark.parametrize(
    'potential,alpha,every',
    [
        ('difference', ALPHA, 1),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [('max', 1.0, 1), ('sum', 2.0, 1), ('difference', ALPHA, 3), ('max', 1.0, 3), ('sum', 2.0, 3)]
        ],
    ],
)
def test_normaliser_is_unbiased(potential, alpha, every):
    plan = smc.plan(PROCESS, GUESSED, particles=16, alpha=alpha, potential=potential, every=every)
    result = run(plan, kernel=smc.search, groups=4000)
    exact = (lab.prior() * np.exp(lab.rewards() / alpha)).sum()
    ratios = np.exp(result.trace['log_z'][-1] - np.log(exact))
    error = ratios.std() / np.sqrt(ratios.size)
    assert abs(ratios.mean() - 1) < 3 * error and error < 0.1
    assert set(result.calls) == {plan.calls} and set(result.reward_calls) == {plan.rewards}


@pytest.mark.slow
def test_smc_with_exact_values_draws_the_tilt():
    plan = smc.plan(PROCESS, EXACT, particles=64, designs=8, alpha=ALPHA)
    assert distance(run(plan, EXACT, kernel=smc.search, groups=1000).rewards) < 0.04


def test_resampling_is_by_the_weights():
    log_weight = jnp.log(jnp.array([0.1, 0.0, 0.5, 0.4]) + 1e-30)
    drawn = jax.vmap(lambda key: smc.systematic(key, log_weight, 10))(jax.random.split(KEY, 200))
    counts = np.stack([np.bincount(row, minlength=4) for row in np.asarray(drawn)])
    np.testing.assert_array_equal(counts, np.tile([1, 0, 5, 4], (200, 1)))
    assert float(smc.effective(jnp.log(jnp.array([0.5, 0.5, 1e-30])))) == pytest.approx(2)


# Refinement


def soft(children, steps):
    """The last steps by importance sampling."""
    return tree.make_plan([tree.Row([children], search=True)] * steps, PROCESS, EXACT, alpha=ALPHA)


@pytest.mark.slow
def test_refinement_converges_from_the_prior_and_leaves_the_target():
    unguided = svdd.best_of_n(PROCESS, EXACT, n=1)
    plan = refine.plan(PROCESS, soft(100, steps=3), whole=unguided, iterations=8)
    result = run(plan, EXACT, kernel=refine.search, groups=4000)
    means = result.trace['mean'].mean(1)
    assert means[0] < 0.58 and (np.diff(means) > 0).all()
    assert distance(result.rewards) < 0.05
    # From the target itself, which it leaves where it is.
    rng = np.random.default_rng(0)
    flat = rng.choice(4**8, size=4000, p=lab.target(alpha=ALPHA).ravel())
    seeds = np.stack(np.unravel_index(flat, (4,) * 8), -1).astype(np.int8)[:, None]
    kept = run(
        refine.plan(PROCESS, soft(100, steps=3), iterations=3), EXACT, kernel=refine.search, groups=4000, x=seeds
    )
    assert distance(kept.rewards) < 0.03


@pytest.mark.slow
def test_selection_tilts_further():
    local = [tree.Row([100] * 50, search=True)] * 3
    local = tree.make_plan(local, PROCESS, EXACT, beams=50, alpha=ALPHA)
    whole = svdd.plan(PROCESS, EXACT, children=100, designs=50, alpha=ALPHA)
    plan = refine.plan(PROCESS, local, whole=whole, iterations=7, temperature=ALPHA)
    result = run(plan, EXACT, kernel=refine.search, groups=80)
    assert distance(result.rewards) > 0.12
    assert set(result.calls) == {plan.calls} and set(result.reward_calls) == {plan.rewards}


def climbing():
    local = tree.make_plan([tree.Row([4], search=True)] * 2, PROCESS, GUESSED)
    return refine.plan(PROCESS, local, whole=svdd.plan(PROCESS, GUESSED, children=4), iterations=12, keep=True)


@pytest.mark.slow
def test_keeping_climbs():
    result = run(climbing(), kernel=refine.search, groups=300)
    assert (np.diff(result.trace['mean'], axis=0) >= 0).all()


@pytest.mark.slow
def test_eight_devices_refine_as_one():
    one = run(climbing(), kernel=refine.search, groups=8)
    eight = run(climbing(), kernel=refine.search, groups=8, mesh=make_mesh('data:8'))
    np.testing.assert_array_equal(one.designs, eight.designs)


# What cannot be


def test_rewards_that_are_not_numbers_are_floored_and_counted():
    def broken(params, designs):
        return jnp.where(designs[:, 0] == 0, jnp.nan, 0.5)

    value = GUESSED.replace(reward=broken, floor=-2.0)
    plan = svdd.plan(PROCESS, value, children=3)
    result = run(plan, value, groups=50)
    assert result.failed.sum() > 0 and np.isfinite(result.rewards).all()
    assert set(np.unique(result.rewards)) <= {-2.0, 0.5}


def test_plans_that_cannot_be():
    with pytest.raises(UserError, match='at least 1'):
        svdd.plan(PROCESS, GUESSED, children=0)
    with pytest.raises(UserError, match='at least 0, got -1'):
        svdd.plan(PROCESS, GUESSED, children=2, alpha=-1.0)
    with pytest.raises(UserError, match='must be positive'):
        dsearch.plan(PROCESS, GUESSED, children=2, designs=8, replace=0.25, resample_temperature=0.0)
    with pytest.raises(UserError, match='exponentia'):
        dsearch.plan(PROCESS, GUESSED, children=2, oversample=2, beams='exponentia')
    with pytest.raises(UserError, match='at least one'):
        dsearch.plan(PROCESS, GUESSED, children=2, designs=4, replace=0.1)
    with pytest.raises(UserError, match='alpha'):
        smc.plan(PROCESS, GUESSED, particles=4, alpha=0.0)
    with pytest.raises(UserError, match='gradient'):
        smc.plan(PROCESS, GUESSED, particles=4, alpha=0.1, guidance=1.0)
    with pytest.raises(UserError, match='0 < K'):
        refine.plan(PROCESS, svdd.plan(PROCESS, GUESSED, children=2), iterations=3)
    with pytest.raises(UserError, match='between 0 and 1'):
        refine.steps_back(PROCESS, 0.0)
    for share in (0.05, 0.99):
        with pytest.raises(UserError, match='rounds to'):
            refine.steps_back(PROCESS, share)
    assert [refine.steps_back(PROCESS, share) for share in (0.1, 0.2, 0.5)] == [1, 2, 4]
