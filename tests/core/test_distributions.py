"""The tanh-Gaussian against distrax, extended-precision arithmetic and an integral; the Gaussian against SciPy."""

import subprocess
import sys

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from core_jax.distributions import TanhGaussian, gaussian


@pytest.fixture(scope='module')
def parameters():
    rng = np.random.default_rng(0)
    return np.float32(2 * rng.normal(size=(64, 3))), np.float32(rng.uniform(-5, 2, (64, 3)))


def in_distrax(mean, log_std):
    base = distrax.MultivariateNormalDiag(jnp.asarray(mean), jnp.exp(jnp.asarray(log_std)))
    return distrax.Transformed(base, distrax.Block(distrax.Tanh(), 1))


def in_longdouble(mean, log_std, u):
    """Log-density of tanh(u), with 1 - tanh(u)^2 = 1 / cosh(u)^2."""
    mean, log_std, u = (np.asarray(x, np.longdouble) for x in (mean, log_std, u))
    normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.longdouble(np.pi))
    return (normal + 2 * np.log(np.cosh(u))).sum(-1)


def test_samples_and_densities_are_distrax_s(parameters, key):
    actions, log_prob = TanhGaussian(*parameters).sample_and_log_prob(key)
    with jax.numpy_rank_promotion('allow'):  # distrax's own
        expected_actions, expected = in_distrax(*parameters).sample_and_log_prob(seed=key)
    np.testing.assert_allclose(actions, expected_actions, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(TanhGaussian(*parameters).sample(key), actions)
    np.testing.assert_array_equal(TanhGaussian(*parameters).sample(key, 0.0), TanhGaussian(*parameters).mode())
    np.testing.assert_allclose(TanhGaussian(*parameters).mode(), np.tanh(np.float64(parameters[0])), rtol=1e-6)


def test_float64_densities_are_distrax_s_to_the_last_digits(parameters):
    actions = np.tanh(np.random.default_rng(1).normal(size=(64, 3)) * 3)
    with jax.enable_x64(True):
        mean, log_std = (jnp.asarray(x, jnp.float64) for x in parameters)
        ours = TanhGaussian(mean, log_std).log_prob(jnp.asarray(actions))
        theirs = in_distrax(mean, log_std).log_prob(jnp.asarray(actions))
        assert ours.dtype == jnp.float64
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        np.testing.assert_allclose(ours, np.float64(in_longdouble(*parameters, np.arctanh(actions))), rtol=1e-9)


def test_density_of_a_sample_is_exact_where_tanh_saturates(key):
    """At u = 20 the action rounds to 1 and log(1 - a^2) is -inf: the density must come from u."""
    mean = np.repeat(np.float32([0, 8, -20, 80]), 16)[:, None] + np.zeros((1, 2), np.float32)
    log_std = np.full_like(mean, -1.0)
    u = mean + np.exp(-1.0) * np.asarray(jax.random.normal(key, mean.shape), np.float64)

    def of(mean):
        actions, log_prob = TanhGaussian(mean, log_std).sample_and_log_prob(key)
        return log_prob.sum(), (actions, log_prob)

    gradient, (actions, log_prob) = jax.jit(jax.grad(of, has_aux=True))(mean)
    np.testing.assert_allclose(log_prob, np.float64(in_longdouble(mean, log_std, u)), rtol=2e-5, atol=2e-5)
    assert np.abs(actions).max() == 1.0
    # d/du of 2 log cosh(u) is 2 tanh(u); the noise stays the same.
    np.testing.assert_allclose(gradient, 2 * np.tanh(u), rtol=1e-5, atol=1e-5)


def test_density_of_given_extreme_actions():
    distribution = TanhGaussian(jnp.zeros((1,)), jnp.full((1,), 1.0))
    for action in (0.0, 0.999, -0.99999, 1 - 2**-20):
        action = np.float32([action])
        np.testing.assert_allclose(
            distribution.log_prob(action), in_distrax(np.zeros(1), np.ones(1)).log_prob(action), rtol=1e-5
        )
        expected = in_longdouble(np.zeros(1), np.ones(1), np.arctanh(np.float64(action)))
        np.testing.assert_allclose(distribution.log_prob(action), float(expected), rtol=1e-5)
    for sign in (-1.0, 1.0):  # distrax: nan
        inside = np.float32([sign * (1 - 2**-24)])
        np.testing.assert_allclose(distribution.log_prob(np.float32([sign])), distribution.log_prob(inside))
        assert np.isfinite(distribution.log_prob(np.float32([sign])))


def test_density_integrates_to_one():
    edges = np.linspace(-1, 1, 20001)
    middles = np.float32((edges[1:] + edges[:-1]) / 2)[:, None]
    for mean, log_std in ((0.3, -1.0), (-0.5, 0.2)):
        log_prob = TanhGaussian(jnp.full((1, 1), mean), jnp.full((1, 1), log_std)).log_prob(middles)
        assert np.exp(np.float64(log_prob)).mean() * 2 == pytest.approx(1.0, abs=2e-3)


def test_gaussian_with_state_dependent_and_constant_std(parameters):
    mean, log_std = parameters
    actions = np.random.default_rng(2).normal(size=mean.shape).astype(np.float32)
    expected = scipy.stats.norm(mean, np.exp(log_std)).logpdf(actions).sum(-1)
    np.testing.assert_allclose(gaussian(mean, np.exp(log_std)).log_prob(actions), expected, rtol=1e-4)
    for std in (0.5, np.float32([0.5, 1.0, 2.0])):
        expected = scipy.stats.norm(mean, std).logpdf(actions).sum(-1)
        np.testing.assert_allclose(gaussian(mean, std).log_prob(actions), expected, rtol=1e-4)
    assert gaussian(mean).entropy()[0] == pytest.approx(1.5 * np.log(2 * np.pi * np.e), rel=1e-5)


def test_distrax_is_imported_on_use_only():
    code = 'import sys, core_jax.distributions, core_jax.learners.sac; sys.exit("distrax" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
