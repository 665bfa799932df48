"""Gaussian processes: steps and preconditioning against NumPy, samplers against mixtures, guidance against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax import process as processes
from diffusion_jax.models import gaussian, mixture
from diffusion_jax.search import run, svdd, tree
from diffusion_jax.value import Value

PRIOR = mixture.Prior(np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [1.0, -0.5]]), np.array([[0.04, 0.2], [0.1, 0.05]]))
ONE = mixture.Prior(np.array([1.0]), np.array([[0.4, -0.2]]), np.array([[0.3, 0.6]]))


def edm_levels(steps, eta=1.0, high=20.0, low=0.01):
    return gaussian.ancestral(np.ones(steps + 1), gaussian.karras(steps, low, high), eta)


def vp_levels(steps, eta=1.0):
    abar = gaussian.linear_abar()[gaussian.timesteps(steps, 1000)]
    return gaussian.ancestral(np.sqrt(np.append(abar, 1)), np.sqrt(np.append(1 - abar, 0)), eta)


def by_mean(prior, levels, **about):
    """A sampler that goes by the exact posterior mean."""
    return gaussian.make(None, mixture.denoiser(prior, levels), levels, shape=(prior.means.shape[1],), **about)


def drawn(process, key, count):
    return np.float64(jax.jit(lambda keys: processes.sample(process, keys))(jax.random.split(key, count)))


def moments(x):
    return np.concatenate([x.mean(0), np.cov(x.T).ravel()])


def prior_moments(prior):
    mean = prior.weights @ prior.means
    centred = prior.means - mean
    cov = np.diag(prior.weights @ prior.variances) + np.einsum('k,ki,kj->ij', prior.weights, centred, centred)
    return np.concatenate([mean, cov.ravel()])


# Levels


def test_karras_levels_against_the_formula():
    sigma = gaussian.karras(18)
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma[:-1], expected, rtol=1e-12)
    assert sigma[-1] == 0 and len(sigma) == 19


def test_ddim_spread_is_the_published_one():
    """sigma_t = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s) (DDIM, equation 16)."""
    levels = vp_levels(50, eta=0.7)
    abar = levels.signal**2
    t, s = abar[:-1], abar[1:]
    expected = 0.7 * np.sqrt((1 - s) / (1 - t)) * np.sqrt(1 - t / s)
    np.testing.assert_allclose(levels.spread, expected, rtol=1e-9)
    np.testing.assert_allclose(levels.keep, np.sqrt(1 - s - expected**2), rtol=1e-9, atol=1e-12)
    # eta = 1 is the variance of q(x_s | x_t, x_0), DDPM's beta tilde where s = t - 1.
    full = vp_levels(1000)
    beta = 1 - gaussian.linear_abar()[1:] / gaussian.linear_abar()[:-1]
    abar = gaussian.linear_abar()
    tilde = (1 - abar[:-1]) / (1 - abar[1:]) * beta
    np.testing.assert_allclose(full.spread[:-1][::-1], np.sqrt(tilde), rtol=1e-6)


def test_timesteps_begin_at_full_noise():
    assert gaussian.timesteps(4, 1000).tolist() == [999, 749, 499, 249]
    np.testing.assert_array_equal(gaussian.timesteps(1000, 1000), np.arange(999, -1, -1))


def test_churn_raises_the_noise_of_the_published_range():
    sigma = gaussian.karras(10, 0.01, 80)
    levels = gaussian.churned(sigma, churn=3.0, low=0.05, high=50, inflate=1.0)
    inside = (sigma >= 0.05) & (sigma <= 50)
    np.testing.assert_allclose(levels.sigma, np.where(inside, 1.3 * sigma, sigma))
    np.testing.assert_allclose(levels.keep**2 + levels.spread**2, levels.sigma[1:] ** 2, rtol=1e-12)
    assert gaussian.churned(sigma, churn=1e9).sigma[5] == pytest.approx(np.sqrt(2) * sigma[5])


@pytest.mark.parametrize(
    'bad, message',
    [
        (lambda: gaussian.ancestral(np.ones(3), np.array([1.0, 0.5, 0.0]), 1.5), 'eta'),
        (lambda: gaussian.ancestral(np.ones(3), np.array([1.0, 2.0, 0.0])), 'fall'),
        (lambda: gaussian.ancestral(np.ones(3), np.array([1.0, 0.5, 0.1])), 'end at 0'),
        (lambda: gaussian.karras(0), '0 steps'),
        (lambda: gaussian.karras(5, 2.0, 1.0), 'from 1.0 down to 2.0'),
        (lambda: gaussian.timesteps(1001, 1000), '1001 steps'),
        (lambda: gaussian.churned(gaussian.karras(4), -1.0), 'churn'),
        (lambda: gaussian.principal_directions(np.zeros((4, 3)), 9), 'rank'),
        (
            lambda: gaussian.ddpm(None, None, gaussian.linear_abar(), shape=(2,), steps=5, predicts='nois'),
            "did you mean 'noise'",
        ),
    ],
)
def test_bad_input(bad, message):
    with pytest.raises(UserError, match=message):
        bad()


# Denoisers


def test_preconditioning_against_the_published_formula(key):
    weights = np.float32(np.random.default_rng(0).normal(size=(3, 3)))
    seen = []

    def network(params, x, noise):
        seen.append((np.float64(x), np.float64(noise)))
        return x @ params

    x = np.float32(np.random.default_rng(1).normal(size=(4, 3)) * 5)
    sigma = np.float32([0.01, 0.5, 3.0, 60.0])
    found = gaussian.preconditioned(network, 0.5)(jnp.asarray(weights), jnp.asarray(x), jnp.asarray(sigma))
    s = np.float64(sigma)[:, None]
    c_skip, c_out, c_in = 0.25 / (s**2 + 0.25), s * 0.5 / np.sqrt(s**2 + 0.25), 1 / np.sqrt(s**2 + 0.25)
    np.testing.assert_allclose(found, c_skip * x + c_out * ((c_in * x) @ weights), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen[0][0], c_in * x, rtol=1e-5)
    np.testing.assert_allclose(seen[0][1], np.log(sigma) / 4, rtol=1e-5)


def test_noise_and_score_predictions_give_the_same_mean():
    x0, n = np.float32([[1.0, -2.0]]), np.float32([[0.3, 0.7]])
    a, s = 0.6, 0.8
    x = a * x0 + s * n
    np.testing.assert_allclose(gaussian.from_noise(x, n, a, s), x0, rtol=1e-5)
    np.testing.assert_allclose(gaussian.from_score(x, -n / s, a, s), x0, rtol=1e-5)


@pytest.mark.parametrize('predicts', ['noise', 'score'])
def test_ddpm_asks_the_network_at_its_timesteps(key, predicts):
    """A network that knows the exact score of one Gaussian gives the posterior mean at every level."""
    abar = gaussian.linear_abar()
    mean, variance = (jnp.asarray(array[0], jnp.float32) for array in ONE[1:])

    def network(params, x, t):
        a2 = jnp.asarray(abar, jnp.float32)[t.astype(jnp.int32)][:, None]
        total = a2 * variance[None] + 1 - a2
        score = -(x - jnp.sqrt(a2) * mean[None]) / total
        return score if predicts == 'score' else -jnp.sqrt(1 - a2) * score

    process = gaussian.ddpm(None, network, abar, shape=(2,), steps=20, predicts=predicts)
    exact = mixture.denoiser(ONE, vp_levels(20))
    x = jax.random.normal(key, (5, 2))
    for level in (0, 7, 19):
        np.testing.assert_allclose(process.denoise(None, x, level), exact(None, x, level), rtol=1e-3, atol=1e-4)


def test_exact_denoiser_against_numerical_integration():
    levels = vp_levels(10)
    prior = mixture.Prior(PRIOR.weights, PRIOR.means[:, :1], PRIOR.variances[:, :1])
    grid = np.linspace(-6, 6, 20001)
    density = sum(
        w * np.exp(-((grid - m) ** 2) / (2 * v)) / np.sqrt(v)
        for w, m, v in zip(prior.weights, prior.means[:, 0], prior.variances[:, 0], strict=True)
    )
    for level in (2, 6, 9):
        for x in (-0.7, 0.1, 1.3):
            like = density * np.exp(-((x - levels.signal[level] * grid) ** 2) / (2 * levels.sigma[level] ** 2))
            found = mixture.denoiser(prior, levels)(None, jnp.full((1, 1), x), level)[0, 0]
            assert float(found) == pytest.approx((grid * like).sum() / like.sum(), abs=2e-4)
            value = mixture.soft_value(prior, levels, np.array([2.0]), 0.5)(None, jnp.full((1, 1), x), level)[0]
            soft = 0.5 * np.log((np.exp(2.0 * grid / 0.5) * like).sum() / like.sum())
            assert float(value) == pytest.approx(soft, abs=1e-3)


# Steps


def test_ddim_step_against_numpy(key):
    levels = vp_levels(20, eta=0.6)
    process = by_mean(ONE, levels)
    rng = np.random.default_rng(0)
    x, x0 = np.float32(rng.normal(size=2)), np.float32(rng.normal(size=2))
    abar, step = levels.signal**2, jax.jit(jax.vmap(process.step, (0, None, None, None)))
    for level in (0, 8, 19):
        t, s = abar[level], abar[level + 1]
        eps = (x - np.sqrt(t) * x0) / np.sqrt(1 - t)
        sigma = 0.6 * np.sqrt((1 - s) / (1 - t)) * np.sqrt(1 - t / s)
        mean = np.sqrt(s) * x0 + np.sqrt(1 - s - sigma**2) * eps
        keys = jax.random.split(key, 4000)
        y = np.float64(step(keys, x, x0, level))
        np.testing.assert_allclose(y.mean(0), mean, atol=4 * sigma / np.sqrt(4000) + 1e-5)
        np.testing.assert_allclose(y.std(0), sigma, rtol=0.05, atol=1e-6)
        if level == 19:
            np.testing.assert_allclose(y, np.broadcast_to(x0, y.shape), atol=1e-5)
            assert float(process.log_step(x, x0, level, x0)) == 0.0
        else:
            expected = -0.5 * (((y[0] - mean) / sigma) ** 2).sum() - 2 * np.log(sigma) - np.log(2 * np.pi)
            found = process.log_step(x, x0, level, jnp.asarray(y[0], jnp.float32))
            assert float(found) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_edm_ancestral_step_is_the_published_split():
    """sigma_up^2 = s'^2 (s^2 - s'^2) / s^2 and sigma_down^2 = s'^2 - sigma_up^2 at eta = 1."""
    levels = edm_levels(12)
    s, t = levels.sigma[:-1], levels.sigma[1:]
    np.testing.assert_allclose(levels.spread**2, t**2 * (s**2 - t**2) / s**2, rtol=1e-9)
    np.testing.assert_allclose(levels.keep, t**2 / s, rtol=1e-6, atol=1e-12)


def test_children_differ_by_noise_alone(key):
    keys = jax.random.split(key, 3)
    x, x0 = jnp.ones(2), jnp.zeros(2)
    for eta, same in ((0.0, True), (1.0, False)):
        process = by_mean(ONE, edm_levels(10, eta))
        y = np.asarray(jax.vmap(lambda k, p=process: p.step(k, x, x0, 3))(keys))
        assert np.array_equal(y[0], y[1]) == same


# Samplers against the prior


@pytest.mark.parametrize(
    'levels',
    [
        edm_levels(150),
        edm_levels(100, eta=0.0),
        vp_levels(200),
        vp_levels(300, eta=0.0),
        gaussian.churned(gaussian.karras(150, 0.01, 20), churn=20.0, low=0.02, high=20, inflate=1.0),
    ],
    ids=['edm', 'edm-ode', 'ddpm', 'ddim', 'churn'],
)
def test_samplers_reproduce_a_mixture(key, levels):
    x = drawn(by_mean(PRIOR, levels), key, 8000)
    np.testing.assert_allclose(moments(x), prior_moments(PRIOR), atol=0.05)
    np.testing.assert_allclose((x[:, 0] < 0).mean(), 0.3, atol=0.03)


def test_exact_process_needs_few_steps(key):
    x = drawn(mixture.make(PRIOR, vp_levels(3)), key, 20000)
    np.testing.assert_allclose(moments(x), prior_moments(PRIOR), atol=0.03)
    crude = drawn(by_mean(PRIOR, vp_levels(3)), key, 20000)
    assert np.abs(moments(crude) - prior_moments(PRIOR)).max() > 0.08


@pytest.mark.parametrize('exact', [True, False])
def test_noising_and_denoising_leave_the_prior_as_it_is(key, exact):
    levels = vp_levels(6 if exact else 100)
    process = mixture.make(PRIOR, levels) if exact else by_mean(PRIOR, levels)
    first, second = levels.steps // 2, 8000
    designs = mixture.sample(PRIOR, key, second)

    @jax.jit
    def refined(keys):
        x = jax.vmap(process.noise, (0, 0, None))(keys, designs, first)
        level_noise = x

        def one_step(x, level):
            out = process.denoise(process.params, x, level)
            drawn = jax.vmap(jax.random.fold_in, (0, None))(keys, level)
            return jax.vmap(process.step, (0, 0, 0, None))(drawn, x, out, level), None

        return level_noise, jax.lax.scan(one_step, x, jnp.arange(first, levels.steps))[0]

    noised, x = (np.float64(array) for array in refined(jax.random.split(jax.random.fold_in(key, 1), second)))
    a, s = levels.signal[first], levels.sigma[first]
    mean, cov = prior_moments(PRIOR)[:2], prior_moments(PRIOR)[2:]
    np.testing.assert_allclose(moments(noised), np.append(a * mean, a**2 * cov + s**2 * np.eye(2).ravel()), atol=0.06)
    np.testing.assert_allclose(moments(x), prior_moments(PRIOR), atol=0.05)
    moved = np.abs(x - np.asarray(designs)).mean()
    assert moved > 0.1  # it is another design


def test_guess_is_the_posterior(key):
    """One Gaussian: x_0 given x is known, and `guess` draws it; with directions too."""
    levels = vp_levels(10)
    data = mixture.Prior(np.array([1.0]), np.zeros((1, 2)), np.array([[0.5, 2.0]]))
    directions = np.eye(2, dtype=np.float32)[::-1], np.float32([2.0, 0.5])
    process = by_mean(data, levels, directions=directions)
    x, level = jnp.array([0.3, -0.8]), 5
    out = process.denoise(None, x[None], level)[0]
    keys, many = (
        jax.random.split(key, 20000),
        lambda p, out: np.float64(jax.jit(jax.vmap(lambda k: p.guess(k, x, out, level)))(keys)),
    )
    y = many(process, out)
    a, s = levels.signal[level], levels.sigma[level]
    variance = 1 / (1 / data.variances[0] + a**2 / s**2)
    np.testing.assert_allclose(y.mean(0), variance * a / s**2 * np.asarray(x), atol=0.02)
    np.testing.assert_allclose(y.var(0), variance, rtol=0.05)
    same = mixture.make(data, levels)
    out = jax.tree.map(lambda leaf: leaf[0], same.denoise(same.params, x[None], level))
    np.testing.assert_allclose(many(same, out).var(0), variance, rtol=0.05)
    isotropic = by_mean(data, levels, sigma_data=0.7)
    np.testing.assert_allclose(many(isotropic, x).var(0), 1 / (1 / 0.49 + a**2 / s**2), rtol=0.05)


def test_principal_directions():
    rng = np.random.default_rng(0)
    data = np.float32(rng.normal(size=(4000, 2, 2)) * np.array([[3.0, 1.0], [0.5, 2.0]])[None])
    vectors, variances = gaussian.principal_directions(data, 2)
    np.testing.assert_allclose(variances, [9, 4], rtol=0.1)
    np.testing.assert_allclose(np.abs(vectors.reshape(2, 4)), np.eye(4)[[0, 3]], atol=0.05)


# Guidance


def test_guide_is_tweedie_of_the_tilted_density(key):
    """x0_hat of p_t(x) exp(v(x)) is (x + s^2 grad (log p_t + v)) / a: by autodiff of the exact log-density."""
    levels = vp_levels(10)
    process, value = by_mean(PRIOR, levels), mixture.soft_value(PRIOR, levels, np.array([1.0, -2.0]), 1.0)
    level = 6
    a, s = levels.signal[level], levels.sigma[level]
    noisy = mixture.Prior(PRIOR.weights, a * PRIOR.means, a**2 * PRIOR.variances + s**2)
    x = jax.random.normal(key, (2,))
    out = process.denoise(None, x[None], level)[0]

    def tilted(x):
        return mixture.log_density(noisy, x[None])[0] + value(None, x[None], level)[0]

    slope = jax.grad(lambda x: value(None, x[None], level)[0])(x)
    expected = (x + s**2 * jax.grad(tilted)(x)) / a
    np.testing.assert_allclose(process.guide(x, out, slope, level), expected, rtol=2e-3, atol=2e-4)
    # Classifier guidance as published: eps <- eps - s grad.
    eps = (x - a * out) / s - s * slope
    np.testing.assert_allclose(gaussian.from_noise(x, eps, a, s), expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_array_equal(process.guide(x, out, slope, 9), out)
    np.testing.assert_array_equal(process.soften(x), x)


def test_guided_sampling_reaches_the_tilted_prior(key):
    levels = edm_levels(150)
    slope, alpha = np.array([1.0, -0.5]), 1.0
    process, value = by_mean(PRIOR, levels), mixture.soft_value(PRIOR, levels, slope, alpha)
    goal = mixture.tilted(PRIOR, slope, alpha)
    gradient = jax.grad(lambda x, level: value(None, x, level).sum() / alpha)

    def denoise(params, x, level):
        out = process.denoise(params, x, level)
        return jax.vmap(process.guide, (0, 0, 0, None))(x, out, gradient(x, level), level)

    x = drawn(process.replace(denoise=denoise), key, 8000)
    np.testing.assert_allclose(moments(x), prior_moments(goal), atol=0.06)
    assert np.abs(prior_moments(goal) - prior_moments(PRIOR)).max() > 0.2


# The exact process, as the table model is used


def test_soft_values_satisfy_the_bellman_equation(key):
    """exp(v(x) / alpha) = E[exp(v(x') / alpha)] over the exact process's steps, at every level."""
    levels, slope, alpha = vp_levels(4), np.array([1.0, -1.0]), 0.7
    process, value = mixture.make(PRIOR, levels), mixture.soft_value(PRIOR, levels, slope, alpha)
    x, step = jnp.array([0.2, -0.4]), jax.jit(jax.vmap(process.step, (0, None, None, None)))
    for level in range(4):
        out = jax.tree.map(lambda leaf: leaf[0], process.denoise(process.params, x[None], level))
        keys = jax.random.split(jax.random.fold_in(key, level), 20000)
        y = step(keys, x, out, level)
        weights = np.exp(np.float64(value(None, y, level + 1)) / alpha)
        expected = np.exp(float(value(None, x[None], level)[0]) / alpha)
        assert weights.mean() == pytest.approx(expected, abs=4 * weights.std() / np.sqrt(len(weights)))


def test_exact_log_step_is_the_density_of_step(key):
    """In one dimension: integrates to 1, with the mean and variance of the draws."""
    prior = mixture.Prior(PRIOR.weights, PRIOR.means[:, :1], PRIOR.variances[:, :1])
    process = mixture.make(prior, vp_levels(4))
    grid = jnp.linspace(-5, 5, 4001)[:, None]
    for level in (1, 3):
        x = jnp.array([0.3])
        out = jax.tree.map(lambda leaf: leaf[0], process.denoise(process.params, x[None], level))
        density = np.exp(jax.jit(jax.vmap(process.log_step, (None, None, None, 0)))(x, out, level, grid))
        y = jax.jit(jax.vmap(process.step, (0, None, None, None)))(jax.random.split(key, 20000), x, out, level)
        width = 10 / 4000
        assert density.sum() * width == pytest.approx(1, abs=1e-3)
        mean = (density * grid[:, 0]).sum() * width
        assert mean == pytest.approx(float(y.mean()), abs=0.02)
        assert (density * (grid[:, 0] - mean) ** 2).sum() * width == pytest.approx(float(y.var()), rel=0.05)


def test_svdd_with_exact_values_draws_the_tilted_prior(key):
    """The search kernel on a continuous process: as the number of children grows, designs follow the tilted prior."""
    levels, slope, alpha = vp_levels(5), np.array([1.0, -0.5]), 0.5
    process = mixture.make(PRIOR, levels)
    reward = lambda params, designs: designs @ jnp.asarray(slope, jnp.float32)  # noqa: E731
    value = Value(None, reward, mixture.soft_value(PRIOR, levels, slope, alpha), alpha=alpha)
    goal = prior_moments(mixture.tilted(PRIOR, slope, alpha))
    plan = svdd.plan(process, value, children=32, alpha=alpha)

    found = run.on_device(tree.search, None, process, value, plan, groups=4000, key=key)
    np.testing.assert_allclose(moments(np.float64(found.designs[:, 0])), goal, atol=0.08)
    assert found.calls[0] == plan.calls and found.reward_calls[0] == plan.rewards


# Likelihood


@pytest.mark.slow
def test_bound_is_close_to_the_exact_likelihood(key):
    designs = mixture.sample(PRIOR, key, 400)
    exact = np.asarray(mixture.log_density(PRIOR, designs))
    levels = vp_levels(200)
    process = mixture.make(PRIOR, levels)
    np.testing.assert_allclose(process.log_likelihood(process.params, key, designs), exact, rtol=1e-5, atol=1e-5)
    # One Gaussian's posterior mean is linear, and the bound is tight; with few levels the integral's rule still holds.
    for prior, gap in ((ONE, 0.05), (PRIOR, 0.15)):
        designs = mixture.sample(prior, key, 2000)
        exact = float(mixture.log_density(prior, designs).mean())
        for levels in (edm_levels(40), vp_levels(100)):
            bound = jax.jit(by_mean(prior, levels).log_likelihood)
            found = np.mean([float(bound(None, jax.random.fold_in(key, i), designs).mean()) for i in range(4)])
            assert exact - gap < found < exact + 0.05, (found, exact)


def test_bound_does_not_depend_on_the_other_rows(key):
    designs = mixture.sample(PRIOR, key, 6)
    bound = jax.jit(by_mean(PRIOR, vp_levels(20)).log_likelihood)
    np.testing.assert_allclose(bound(None, key, designs)[:3], bound(None, key, designs[:3]), rtol=1e-5)
