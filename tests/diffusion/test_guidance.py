"""Guidance and TDS where the guided process is the target itself: independent positions and a reward that is a sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import api
from diffusion_jax.domains.task import Reward
from diffusion_jax.models import masked
from diffusion_jax.search import smc
from diffusion_jax.search.run import on_device

LENGTH, SIZE, ALPHA = 5, 4, 0.5
RNG = np.random.default_rng(0)
PRIOR = RNG.dirichlet(np.ones(SIZE), LENGTH).astype(np.float32)  # [L, V]
WORTH = RNG.normal(size=(LENGTH, SIZE)).astype(np.float32)


def denoise(params, x, level):
    return jnp.broadcast_to(jnp.log(params)[None], (x.shape[0], LENGTH, SIZE))


def relaxed(params, designs):
    return (designs * params[None]).sum((1, 2))


def reward(params, designs):
    return relaxed(params, jax.nn.one_hot(designs, SIZE))


PROCESS = masked.one_position(jnp.asarray(PRIOR), denoise, length=LENGTH, mask=SIZE, **masked.relaxation(SIZE))
VALUE = api.value_of(Reward('a sum over positions', on_device=reward, params=jnp.asarray(WORTH), on_relaxed=relaxed))
TILT = PRIOR * np.exp(WORTH / ALPHA)
LOG_Z = np.log(TILT.sum(1)).sum()


def frequencies(designs):
    flat = designs.reshape(-1, LENGTH)
    return np.stack([(flat == token).mean(0) for token in range(SIZE)], 1)


def test_slope_of_the_value():
    """By hand: a token is worth what it adds, the mask what is expected there."""
    x = np.array([[SIZE, 1, SIZE, 0, 2]], np.int8)
    slope = np.asarray(VALUE.slope(VALUE.params, PROCESS, jnp.asarray(x), 0))
    np.testing.assert_allclose(slope[0, :, :SIZE], WORTH, rtol=1e-5)
    np.testing.assert_allclose(slope[0, :, SIZE], (PRIOR * WORTH).sum(1), rtol=1e-4, atol=1e-6)


def test_guided_draws_are_the_tilt(key):
    plan = smc.plan(PROCESS, VALUE, particles=4, designs=4, alpha=0.0, potential=None, guidance=1 / ALPHA)
    result = on_device(smc.search, None, PROCESS, VALUE, plan, groups=3000, key=key)
    np.testing.assert_allclose(frequencies(result.designs), TILT / TILT.sum(1, keepdims=True), atol=0.02)
    assert set(result.calls) == {plan.calls} and set(result.reward_calls) == {plan.rewards}
    assert plan.rewards == 4 * (LENGTH + 1)  # each slope asks for one, and each design


@pytest.mark.slow
def test_weights_of_tds_make_up_for_the_guidance(key):
    """Fully guided, every particle has the weight Z; half guided, the mean weight is Z."""
    exact = smc.plan(PROCESS, VALUE, particles=8, alpha=ALPHA, guidance=1 / ALPHA, threshold=0.0)
    result = on_device(smc.search, None, PROCESS, VALUE, exact, groups=20, key=key)
    np.testing.assert_allclose(result.trace['log_z'][-1], LOG_Z, rtol=1e-4)
    half = smc.plan(PROCESS, VALUE, particles=32, designs=8, alpha=ALPHA, guidance=0.5 / ALPHA)
    result = on_device(smc.search, None, PROCESS, VALUE, half, groups=2000, key=key)
    ratios = np.exp(result.trace['log_z'][-1] - LOG_Z)
    error = ratios.std() / np.sqrt(ratios.size)
    assert abs(ratios.mean() - 1) < 3 * error and error < 0.02
    np.testing.assert_allclose(frequencies(result.designs), TILT / TILT.sum(1, keepdims=True), atol=0.05)


@pytest.mark.parametrize('make', [masked.one_position, lambda *a, **b: masked.grid(*a, steps=3, **b)])
def test_log_step_is_the_probability_of_a_step(make, key):
    """Frequencies of the states that one step draws."""
    process = make(jnp.asarray(PRIOR), denoise, length=LENGTH, mask=SIZE)
    x = jnp.array([1, SIZE, 3, SIZE, 0], jnp.int8)
    out = process.denoise(process.params, x[None], 0)[0]
    draws = np.asarray(jax.vmap(lambda k: process.step(k, x, out, 1))(jax.random.split(key, 40_000)))
    states, counts = np.unique(draws, axis=0, return_counts=True)
    logs = np.asarray(jax.vmap(lambda y: process.log_step(x, out, 1, y))(jnp.asarray(states)))
    np.testing.assert_allclose(np.exp(logs), counts / len(draws), atol=0.012)
    assert np.exp(logs).sum() == pytest.approx(1, abs=0.02)
