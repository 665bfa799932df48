"""Flow matching: the pairs' identities and moments, the loss by hand, Euler against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import flow


def test_pairs_lie_on_straight_lines_from_noise_to_data(key):
    x1 = np.float32(np.random.default_rng(0).normal(size=(5000, 2)) * 0.5 + 3)
    x_t, t, velocity = (np.float64(x) for x in jax.jit(flow.training_pairs)(key, x1))
    assert t.shape == (5000, 1) and x_t.shape == velocity.shape == (5000, 2)
    np.testing.assert_allclose(x_t + (1 - t) * velocity, x1, atol=1e-5)  # at t = 1 the data
    x0 = x_t - t * velocity  # at t = 0 the noise
    np.testing.assert_allclose([x0.mean(), x0.std(), np.corrcoef(x0[:, 0], x0[:, 1])[0, 1]], [0, 1, 0], atol=0.05)
    np.testing.assert_allclose(np.quantile(t, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.03)
    assert abs(np.corrcoef(t[:, 0], x0[:, 0])[0, 1]) < 0.05


def test_loss_is_the_mean_over_rows_and_dimensions():
    loss = flow.matching_loss(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 4.0]]))
    assert float(loss) == (1 + 4 + 0 + 16) / 4


@pytest.mark.parametrize('steps', [1, 4, 10])
def test_euler_against_closed_forms(steps):
    x = np.float32([[1.0, -2.0], [0.5, 3.0]])
    constant = flow.euler(lambda x, t: jnp.full_like(x, 2.0), x, steps)
    np.testing.assert_allclose(constant, x + 2.0, atol=1e-6)
    # dx/dt = -x: the factor (1 - 1/n)^n.
    np.testing.assert_allclose(flow.euler(lambda x, t: -x, x, steps), x * (1 - 1 / steps) ** steps, rtol=1e-5)
    # dx/dt = t with left endpoints: the sum (0 + 1 + ... + n-1) / n^2 = (n - 1) / 2n.
    moved = flow.euler(lambda x, t: t + jnp.zeros_like(x), x, steps)
    np.testing.assert_allclose(moved, x + (steps - 1) / (2 * steps), atol=1e-6)


def test_times_have_one_column_and_go_from_zero_up():
    seen = []
    flow.euler(lambda x, t: seen.append((t.shape, float(t[0, 0]))) or jnp.zeros_like(x), jnp.zeros((3, 2)), 4)
    assert seen == [((3, 1), 0.0), ((3, 1), 0.25), ((3, 1), 0.5), ((3, 1), 0.75)]


def test_best_velocity_of_gaussians_carries_noise_to_data(key):
    """For data N(m, s^2) the least-squares velocity is linear in x and known; its flow maps noise to the data."""
    m, s = 2.0, 0.5

    def velocity(x, t):
        variance = (1 - t) ** 2 + (t * s) ** 2
        return m + (t * s**2 - (1 - t)) / variance * (x - t * m)

    x1 = m + s * jax.random.normal(key, (4000, 1))
    x_t, t, target = flow.training_pairs(jax.random.key(1), x1)
    best = float(flow.matching_loss(velocity(x_t, t), target))
    for change in (lambda v: v + 0.2, lambda v: 0.9 * v):  # any other velocity has a larger loss
        assert float(flow.matching_loss(change(velocity(x_t, t)), target)) > best
    z = jax.random.normal(jax.random.key(2), (4000, 1))
    moved = np.asarray(jax.jit(lambda z: flow.euler(velocity, z, 50))(z))
    np.testing.assert_allclose(moved, m + s * np.asarray(z), atol=0.06)
