"""Small environments as pure JAX functions: three control tasks for laptops and tests, and five probes.

An environment is stateless and single: the caller vmaps it, resets it and applies its time limit. All tasks start from
a key and are deterministic after that, with actions [A] in [-1, 1] (clipped), control steps of 0.05 s and a limit of
200 of them (10 s). dm_control has 1000 steps with rewards in [0, 1]; here each step's reward is in [0, 5], so that
returns have the same range, 0 to 1000, in a fifth of the steps, and short runs have many episodes. None terminates.
Speeds have limits, which only a policy that races meets; with them all observations lie in [-2, 2].

    pendulum    swing up a pole with a motor that cannot lift it at once       observations 3, actions 1
    cartpole    swing up a pole on a cart between two stops                    observations 5, actions 1
    point_mass  push a mass in the plane to a target that differs by episode   observations 6, actions 2

The probes ask one thing each of a learner, after the practice that rejax made public (keraJLi/rejax, its tests): their
values are known in closed form. Observations and actions have one dimension, rewards are as they stand here.

    constant      reward 1                         Q = 1
    observation   reward o, for o = -1 or 1        Q(o) = o
    discounting   o = 0, then o = 1 and reward 1   Q(0) = discount, Q(1) = 1
    action        reward a                         Q(a) = a, best 1
    both          reward o * a, o = -1 or 1        Q(o, a) = o * a, best o
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.errors import unknown

State = Any

MAX_STEPS = 200
CONTROL_STEP = 0.05  # s
SUBSTEPS = 2  # of the integrator in a control step
REWARD_SCALE = 1000.0 / MAX_STEPS
GRAVITY = 9.81  # m/s^2


class Outcome(NamedTuple):
    """What a step brought: reward, float32, and terminated, bool. Time limits are the caller's."""

    reward: jax.Array
    terminated: jax.Array


class Environment(NamedTuple):
    """One environment; `max_steps` truncates an episode and never terminates it.

    reset(key) -> state                              step(state, action [A]) -> (state, Outcome)
    observe(state) -> observation [D] float32        energy(state) -> J, where the environment is mechanical

    costly_reset: a reset costs as much as steps do, so that the loop makes none where no episode has ended.
    """

    name: str
    observation_dim: int
    action_dim: int
    max_steps: int
    reset: Callable[[jax.Array], State]
    step: Callable[[State, jax.Array], tuple[State, Outcome]]
    observe: Callable[[State], jax.Array]
    energy: Callable[[State], jax.Array] | None = None
    costly_reset: bool = False


def integrate(derivative: Callable[[jax.Array], jax.Array], state: jax.Array, time: float) -> jax.Array:
    """The state after `time` seconds, by one classical Runge-Kutta step of order 4."""
    k1 = derivative(state)
    k2 = derivative(state + time / 2 * k1)
    k3 = derivative(state + time / 2 * k2)
    k4 = derivative(state + time * k3)
    return state + time / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def near(x: jax.Array, margin: float) -> jax.Array:
    """1 at x = 0, falling as a Gaussian to 0.1 at |x| = margin: dm_control's tolerance without a plateau."""
    return 0.1 ** jnp.square(x / margin)


def _outcome(reward: jax.Array) -> Outcome:
    return Outcome(jnp.float32(REWARD_SCALE * reward), jnp.bool_(False))


def pendulum(damping: float = 0.1) -> Environment:
    """A point mass of 1 kg on a massless rod of 1 m; the motor gives up to 5 Nm, gravity up to 9.81 Nm.

    State [2]: angle (rad, 0 upright), angular velocity (rad/s, up to 16). damping in Nms. Episodes start hanging, up
    to 0.2 rad and 0.2 rad/s off. Observation: cos, sin, velocity / 8. Reward: height, from 0 hanging to 1 upright,
    times near(velocity, 5), since spinning would else be an optimum of its own.
    """
    torque, limit = 5.0, np.float32([np.inf, 16.0])

    def derivative(state, action):
        angle, velocity = state
        return jnp.stack([velocity, GRAVITY * jnp.sin(angle) + torque * action - damping * velocity])

    def reset(key):
        return jnp.array([jnp.pi, 0.0]) + jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)

    def step(state, action):
        action = jnp.clip(action[0], -1.0, 1.0)
        for _ in range(SUBSTEPS):
            state = integrate(lambda x: derivative(x, action), state, CONTROL_STEP / SUBSTEPS)
            state = jnp.clip(state, -limit, limit)
        return state, _outcome((1 + jnp.cos(state[0])) / 2 * near(state[1], 5.0))

    def observe(state):
        angle, velocity = state
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity / 8])

    def energy(state):
        return state[1] ** 2 / 2 + GRAVITY * jnp.cos(state[0])

    return Environment('pendulum', 3, 1, MAX_STEPS, reset, step, observe, energy)


def cartpole(damping: float = 0.05, rail: float = 2.0) -> Environment:
    """A cart of 1 kg, pushed with up to 10 N, and on it a uniform pole of 0.1 kg and 1 m (dm_control's sizes).

    State [4]: position (m), angle (rad, 0 upright), their velocities (up to 10 m/s and 20 rad/s). damping: Ns/m of the
    cart; a hundredth of it in Nms is that of the hinge. Stops at +-rail take the cart's momentum and none of the
    pole's about the hinge. Episodes start hanging in the middle, up to 0.1 off in every component. Observation:
    position / rail, cos, sin, velocities / 5 and / 10. Reward: height, from 0 to 1, times
    (1 + near(angular velocity, 5)) / 2 times (1 + near(position, rail)) / 2.
    """
    limit = np.float32([rail, np.inf, 10.0, 20.0])
    force, cart, pole, half = 10.0, 1.0, 0.1, 0.5
    inertia = 4.0 / 3.0 * pole * half**2  # about the hinge
    hinge_damping = damping / 100

    def derivative(state, action):
        _, angle, velocity, angular = state
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        # Lagrange's equations: [[cart + pole, coupling], [coupling, inertia]] @ accelerations = [push, turn].
        coupling = pole * half * cos
        push = force * action + pole * half * sin * angular**2 - damping * velocity
        turn = pole * GRAVITY * half * sin - hinge_damping * angular
        determinant = (cart + pole) * inertia - coupling**2
        acceleration = (inertia * push - coupling * turn) / determinant
        angular_acceleration = ((cart + pole) * turn - coupling * push) / determinant
        return jnp.stack([velocity, angular, acceleration, angular_acceleration])

    def stop(state):
        position, angle, velocity, angular = state
        hit = (jnp.abs(position) >= rail) & (position * velocity > 0)
        kept = angular + pole * half * jnp.cos(angle) * velocity / inertia
        velocity, angular = jnp.where(hit, 0.0, velocity), jnp.where(hit, kept, angular)
        return jnp.clip(jnp.stack([position, angle, velocity, angular]), -limit, limit)

    def reset(key):
        return jnp.array([0.0, jnp.pi, 0.0, 0.0]) + jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)

    def step(state, action):
        action = jnp.clip(action[0], -1.0, 1.0)
        for _ in range(SUBSTEPS):
            state = stop(integrate(lambda x: derivative(x, action), state, CONTROL_STEP / SUBSTEPS))
        upright, still = (1 + jnp.cos(state[1])) / 2, (1 + near(state[3], 5.0)) / 2
        return state, _outcome(upright * still * (1 + near(state[0], rail)) / 2)

    def observe(state):
        position, angle, velocity, angular = state
        return jnp.stack([position / rail, jnp.cos(angle), jnp.sin(angle), velocity / 5, angular / 10])

    def energy(state):
        _, angle, velocity, angular = state
        kinetic = (cart + pole) * velocity**2 + inertia * angular**2
        return kinetic / 2 + pole * half * (jnp.cos(angle) * (velocity * angular + GRAVITY))

    return Environment('cartpole', 5, 1, MAX_STEPS, reset, step, observe, energy)


def point_mass(damping: float = 1.0) -> Environment:
    """A mass of 1 kg in a square of half-width 1 m, pushed with up to 3 N along each axis.

    State [6]: position, velocity (below 3 m/s at the damping given) and target, two each. damping in Ns/m. The walls
    stop the component that hits them. Episodes start at rest within 0.1 m of the middle, the target on a ring of 0.5
    to 0.9 m around it. Observation: position, velocity / 3, target - position. Reward: 1 / (1 + (6 d)^2) at the
    distance d (m) from the target.
    """
    force = 3.0

    def derivative(state, action):
        return jnp.concatenate([state[2:4], force * action - damping * state[2:4], jnp.zeros(2)])

    def stop(state):
        position, velocity, target = jnp.split(state, 3)
        hit = (jnp.abs(position) >= 1) & (position * velocity > 0)
        return jnp.concatenate([jnp.clip(position, -1.0, 1.0), jnp.where(hit, 0.0, velocity), target])

    def reset(key):
        position, radius, angle = jax.random.split(key, 3)
        angle = jax.random.uniform(angle, maxval=2 * jnp.pi)
        target = jax.random.uniform(radius, minval=0.5, maxval=0.9) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return jnp.concatenate([jax.random.uniform(position, (2,), minval=-0.1, maxval=0.1), jnp.zeros(2), target])

    def step(state, action):
        action = jnp.clip(action, -1.0, 1.0)
        for _ in range(SUBSTEPS):
            state = stop(integrate(lambda x: derivative(x, action), state, CONTROL_STEP / SUBSTEPS))
        return state, _outcome(1 / (1 + 36 * jnp.sum(jnp.square(state[4:] - state[:2]))))

    def observe(state):
        position, velocity, target = jnp.split(state, 3)
        return jnp.concatenate([position, velocity / 3, target - position])

    def energy(state):
        return jnp.sum(jnp.square(state[2:4])) / 2

    return Environment('point_mass', 6, 2, MAX_STEPS, reset, step, observe, energy)


def _probe(name: str, first: tuple[float, ...], reward: Callable, last: float | None = None) -> Environment:
    """first: the observations that an episode may begin with; last: that of the second step, where there are two.

    The state is the observation, a scalar.
    """

    def reset(key):
        return jax.random.choice(key, jnp.array(first))

    def step(state, action):
        terminated = jnp.bool_(True) if last is None else state == last
        after = state if last is None else jnp.full_like(state, last)
        return after, Outcome(jnp.float32(reward(state, action[0])), terminated)

    return Environment(name, 1, 1, 1 if last is None else 2, reset, step, lambda state: state[None])


_TASKS = (pendulum(), cartpole(), point_mass())
ENVIRONMENTS: dict[str, Environment] = {task.name: task for task in _TASKS}

_PROBES = (
    _probe('constant', (0.0,), lambda o, a: 1.0),
    _probe('observation', (-1.0, 1.0), lambda o, a: o),
    _probe('discounting', (0.0,), lambda o, a: o, last=1.0),
    _probe('action', (0.0,), lambda o, a: a),
    _probe('both', (-1.0, 1.0), lambda o, a: o * a),
)
PROBES: dict[str, Environment] = {probe.name: probe for probe in _PROBES}


def make(name: str) -> Environment:
    """The task or the probe called so. Raises UserError for an unknown name."""
    known = ENVIRONMENTS | PROBES
    if name not in known:
        raise unknown('environment', name, known)
    return known[name]
