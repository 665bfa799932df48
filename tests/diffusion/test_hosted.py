"""Particles and refinement with rewards on the host return what they return with the same rewards on the device."""

import functools

import host_rewards
import jax
import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax.models import table
from diffusion_jax.rewards import Scorer
from diffusion_jax.search import hosted, refine, run, smc, svdd, tree
from diffusion_jax.value import Value

LENGTH, SIZE = 4, 3


@pytest.fixture(scope='module')
def laboratory():
    """A process over strings of 4 letters of 3, and rewards of them in steps of 1/16, exact in float32."""
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(SIZE**LENGTH)).reshape((SIZE,) * LENGTH)
    return table.make(prior), rng.integers(0, 64, (SIZE,) * LENGTH) / 16


def decode(designs):
    return [''.join(map(str, design)) for design in designs]


def both(laboratory, key, make_plan, kernel, search, groups=4, x=None, **about):
    process, rewards = laboratory
    value = Value(params=table.value(rewards), reward=table.lookup, **about)
    plan = make_plan(process, value)
    expected = run.on_device(kernel, None, process, value, plan, groups=groups, key=key, x=x)
    reward = functools.partial(host_rewards.from_table, table=rewards)
    with Scorer(reward, workers=1) as scorer:
        found = search(process, Value(**about), plan, run.group_keys(key, groups), decode, scorer, x=x)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5, err_msg=name), one, other)
    return expected


@pytest.mark.parametrize('potential,every', [('difference', 1), pytest.param('max', 2, marks=pytest.mark.slow)])
def test_particles(laboratory, key, potential, every):
    make = functools.partial(smc.plan, particles=6, designs=2, alpha=0.5, potential=potential, every=every)
    found = both(laboratory, key, make, smc.search, hosted.particles, samples=2, alpha=0.5)
    assert len(np.unique(found.designs.reshape(-1, LENGTH), axis=0)) > 1


@pytest.mark.parametrize('temperature,keep', [(None, True), pytest.param(0.5, False, marks=pytest.mark.slow)])
def test_refinement(laboratory, key, temperature, keep):
    def make(process, value):
        local = tree.make_plan([tree.Row([2] * 2, search=True)] * 2, process, value, beams=2)
        whole = svdd.plan(process, value, children=2, designs=2)
        return refine.plan(process, local, whole=whole, iterations=3, temperature=temperature, keep=keep)

    both(laboratory, key, make, refine.search, hosted.refined)


@pytest.mark.slow
def test_refinement_of_seeds(laboratory, key):
    def make(process, value):
        return refine.plan(process, smc.plan(process, value, particles=4, alpha=0.5, steps=2), iterations=3)

    seeds = np.array([[[0, 1, 2, 0]], [[2, 2, 2, 2]]], np.int8)
    both(laboratory, key, make, refine.search, hosted.refined, groups=2, x=seeds)


def test_guidance_needs_a_gradient(laboratory, key):
    process, _ = laboratory
    plan = smc.plan(process, Value(), particles=2, alpha=1.0).replace(guided=True)
    with pytest.raises(UserError, match='no gradient'):
        hosted.particles(process, Value(), plan, run.group_keys(key, 1), decode, None)
