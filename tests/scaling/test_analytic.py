"""The analytic environments: their physics against float64, their rewards, what can be reached, the probes' values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from numpy_nets import once

from core_jax.errors import UserError
from scaling.utd import analytic
from scaling.utd.analytic import ENVIRONMENTS, PROBES

G = 9.81
SEEDS = 16


# The equations of motion once more: each gives d(state)/dt, from the Lagrangian and in NumPy


def pendulum(x, u, damping=0.1):
    return np.array([x[1], G * np.sin(x[0]) + 5 * u[0] - damping * x[1]])


def cartpole(x, u, damping=0.05):
    """The manipulator equation, its mass matrix solved numerically."""
    (_, angle, velocity, angular), mass, half = x, 0.1, 0.5
    matrix = np.array([[1 + mass, mass * half * np.cos(angle)], [mass * half * np.cos(angle), mass / 3]])
    centrifugal = mass * half * np.sin(angle) * angular**2
    forces = [10 * u[0] + centrifugal - damping * velocity, mass * G * half * np.sin(angle) - damping / 100 * angular]
    return np.concatenate([x[2:], np.linalg.solve(matrix, forces)])


def point_mass(x, u, damping=1.0):
    return np.concatenate([x[2:4], 3 * u - damping * x[2:4], np.zeros(2)])


DYNAMICS = {'pendulum': pendulum, 'cartpole': cartpole, 'point_mass': point_mass}


def rollout(env, controller, keys):
    """(states [T + 1, n, ...], Outcome [T, n]) of one episode a key; controller(states, key) -> actions [n, A]."""

    def step(states, key):
        following, outcome = jax.vmap(env.step)(states, controller(states, key))
        return following, (following, outcome)

    first = jax.vmap(env.reset)(keys)
    _, (states, outcome) = jax.lax.scan(step, first, jax.random.split(keys[0], env.max_steps))
    return jnp.concatenate([first[None], states]), outcome


def random_actions(env):
    return lambda states, key: jax.random.uniform(key, (len(states), env.action_dim), minval=-1.0, maxval=1.0)


def racing(env):
    """Full force along each velocity: as fast as it gets."""
    if env.name == 'point_mass':
        return lambda states, key: jnp.where(states[:, 2:4] >= 0, 1.0, -1.0)
    return lambda states, key: jnp.where(states[:, env.observation_dim // 2 :][:, :1] >= 0, 1.0, -1.0)


def turn(angle):
    return jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi


def regulator(env, size, weights, price):
    """The gain [1, size] of the linear-quadratic regulator of the control steps around the upright state 0."""
    a, b = (np.float64(jax.jacobian(lambda x, u: env.step(x, u)[0], i)(jnp.zeros(size), jnp.zeros(1))) for i in (0, 1))
    p = scipy.linalg.solve_discrete_are(a, b, np.diag(weights), np.full((1, 1), price))
    return np.linalg.solve(price + b.T @ p @ b, b.T @ p @ a)


def swing_up(env):
    """Pumps energy until the regulator can take over; the point mass has a spring and a damper."""
    if env.name == 'point_mass':
        return lambda states, key: 6 * (states[:, 4:] - states[:, :2]) - 2 * states[:, 2:4]
    if env.name == 'pendulum':
        gain = regulator(env, 2, [1.0, 0.1], 0.1)

        def action(state, balance):
            pump = jnp.sign(state[1]) * jnp.clip(3 * (G - env.energy(state)), -1, 1)
            return jnp.where(jnp.abs(balance) < 1, balance, pump)

        angle = 0
    else:
        gain = regulator(env, 4, [1.0, 1.0, 0.1, 0.1], 1.0)

        def action(state, balance):
            position, angle, velocity, angular = state
            lack = 0.1 * 0.5 * G * (1 - jnp.cos(angle)) - 0.1 / 3 * angular**2 / 2
            pump = -jnp.clip(40 * lack, -1, 1) * jnp.sign(angular * jnp.cos(angle))
            caught = (jnp.abs(turn(angle)) < 0.5) & (jnp.abs(angular) < 4)
            return jnp.where(caught, balance, 0.8 * pump - 0.6 * position - 0.3 * velocity)

        angle = 1

    def one(state):
        error = state.at[angle].set(turn(state[angle]))
        return action(state, -(np.float32(gain) @ error)[0])[None]

    return lambda states, key: jax.vmap(one)(states)


@pytest.fixture(scope='module', params=ENVIRONMENTS)
def episodes(request):
    """(environment, {controller: (states, outcome)}) from one compiled program."""
    env = analytic.make(request.param)
    controllers = {'random': random_actions(env), 'racing': racing(env), 'swing_up': swing_up(env)}
    keys = jax.random.split(jax.random.key(0), SEEDS)
    run = once(lambda keys: {name: rollout(env, c, keys) for name, c in controllers.items()})
    return env, run(keys)


@pytest.mark.parametrize('name', ENVIRONMENTS)
def test_physics_is_that_of_an_accurate_integration(name):
    env, rng = analytic.make(name), np.random.default_rng(1)
    step = once(env.step)
    for _ in range(3):
        state = env.reset(jax.random.key(rng.integers(100)))
        exact = np.float64(state)
        for _ in range(8):
            action = rng.uniform(-1, 1, env.action_dim)
            state, _ = step(state, np.float32(action))
            exact = scipy.integrate.solve_ivp(
                lambda t, x, u: DYNAMICS[name](x, u), (0, 0.05), exact, args=(action,), rtol=1e-10, atol=1e-12
            ).y[:, -1]
            np.testing.assert_allclose(state, exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('name, start', [('pendulum', [0.5, 1.0]), ('cartpole', [0.0, 0.5, 0.0, 2.0])])
def test_energy_is_conserved_without_damping_and_lost_with_it(name, start):
    free, damped = getattr(analytic, name)(damping=0.0), getattr(analytic, name)(damping=0.5)
    start = jnp.float32(start)

    @once
    def energies():
        def step(env):
            return lambda state, _: (env.step(state, jnp.zeros(1))[0],) * 2

        states = (jax.lax.scan(step(env), start, length=200)[1] for env in (free, damped))
        return [jax.vmap(free.energy)(x) for x in states]

    kept, lost = energies()
    swing = {'pendulum': 2 * G, 'cartpole': 0.1 * G}[name]  # of the potential energy
    np.testing.assert_allclose(kept, free.energy(start), atol=2e-3 * swing)
    assert (np.diff(lost) < 1e-3 * swing).all() and lost[-1] < lost[0] - 0.2 * swing


def test_stops_take_the_energy_of_what_they_stop():
    cart = analytic.cartpole(damping=0.0)
    before = jnp.array([1.99, 0.7, 3.0, -2.0])
    after, _ = cart.step(before, jnp.zeros(1))
    assert 1.99 < after[0] <= 2 and abs(after[2]) < 0.1 and cart.energy(after) < cart.energy(before) - 1
    # Of the pole, which turns about its hinge, the stop takes no momentum (gravity gives some within the step).
    momentum = [0.1 / 3 * x[3] + 0.05 * np.cos(x[1]) * x[2] for x in np.float64([before, after])]
    assert momentum[1] - momentum[0] == pytest.approx(0.05 * 0.05 * G * np.sin(0.7), rel=0.5)
    away, _ = cart.step(after, -jnp.ones(1))
    assert away[0] < after[0] and away[2] < 0  # a stop holds nothing back

    mass, wall = ENVIRONMENTS['point_mass'], jnp.array([0.99, 0.0, 2.0, 1.0, 0.0, 0.5])
    after, _ = mass.step(wall, jnp.zeros(2))
    assert after[0] == 1 and after[2] == 0 and after[3] > 0.9


def test_rewards_and_observations_are_bounded(episodes):
    env, runs = episodes
    for states, outcome in runs.values():
        assert outcome.reward.shape == (200, SEEDS) and not outcome.terminated.any()
        assert (0 <= outcome.reward).all() and (outcome.reward <= 5).all()
        observations = jax.vmap(jax.vmap(env.observe))(states)
        assert observations.shape == (201, SEEDS, env.observation_dim) and observations.dtype == jnp.float32
        assert np.isfinite(observations).all() and np.abs(observations).max() <= 2


def test_tasks_can_be_solved_and_are_not_by_chance(episodes):
    env, runs = episodes
    returns = {name: outcome.reward.sum(0) for name, (_, outcome) in runs.items()}
    assert returns['random'].mean() < 150 and returns['racing'].mean() < 400
    assert returns['swing_up'].min() > {'pendulum': 750, 'cartpole': 700, 'point_mass': 850}[env.name]


def test_rewards_of_chosen_states():
    """At rest in the goal 5 a step, a pole that races past the top nothing, the cart at a stop 0.55 of it."""
    for name, state, expected in (
        ('pendulum', [0, 0], 5),
        ('pendulum', [np.pi, 0], 0),
        ('pendulum', [-0.8, 16], 0),
        ('cartpole', [0, 0, 0, 0], 5),
        ('cartpole', [2, 0, 0, 0], 5 * 0.55),
        ('point_mass', [0.5, 0.5, 0, 0, 0.5, 0.5], 5),
        ('point_mass', [0, 0, 0, 0, 0.5, 0], 5 / 10),
    ):
        env = analytic.make(name)
        _, outcome = env.step(jnp.float32(state), jnp.zeros(env.action_dim))
        assert outcome.reward == pytest.approx(expected, abs=0.2), (name, state)


@pytest.mark.parametrize('name', [*ENVIRONMENTS, *PROBES])
def test_single_equals_jitted_and_vmapped_and_actions_are_clipped(name):
    env = analytic.make(name)
    keys = jax.random.split(jax.random.key(2), 4)
    actions = jax.random.uniform(jax.random.key(3), (4, env.action_dim), minval=-1.0, maxval=1.0)
    batch = jax.jit(lambda keys, actions: jax.vmap(env.step)(jax.vmap(env.reset)(keys), actions))(keys, actions)
    singles = [env.step(env.reset(key), action) for key, action in zip(keys, actions, strict=True)]
    for found, *expected in zip(*map(jax.tree.leaves, (batch, *singles)), strict=True):
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-5, atol=1e-6)
    assert env.observe(env.reset(keys[0])).shape == (env.observation_dim,)
    if name in ENVIRONMENTS:
        state = env.reset(keys[0])
        far, edge = (env.step(state, jnp.full(env.action_dim, x))[0] for x in (7.0, 1.0))
        np.testing.assert_array_equal(far, edge)


DISCOUNT = 0.5
VALUES = {  # of observation and action, in the episode that the action begins; any later action is 0.3
    'constant': lambda o, a: 1,
    'observation': lambda o, a: o,
    'discounting': lambda o, a: DISCOUNT,
    'action': lambda o, a: a,
    'both': lambda o, a: o * a,
}


@pytest.mark.parametrize('name', PROBES)
def test_probes_have_their_values(name):
    env, seen = analytic.make(name), set()
    for seed in range(8):
        state = env.reset(jax.random.key(seed))
        observation, action = float(env.observe(state)[0]), 0.1 * seed
        seen.add(observation)
        total, steps, terminated = 0.0, 0, False
        while not terminated:
            state, (reward, terminated) = env.step(state, jnp.full(1, 0.3 if steps else action))
            total, steps = total + DISCOUNT**steps * float(reward), steps + 1
        assert steps == env.max_steps == (2 if name == 'discounting' else 1)
        assert total == pytest.approx(VALUES[name](observation, action), abs=1e-6)
    assert seen == ({-1, 1} if name in ('observation', 'both') else {0})


def test_unknown_environment():
    with pytest.raises(UserError, match="did you mean 'pendulum'"):
        analytic.make('pendulm')
