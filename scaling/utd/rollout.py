"""An environment inside the compiled loop: between two updates it is stepped as often as the UTD ratio asks.

The UTD ratio sigma counts updates per environment step (sheet of the paper: "gradient steps per new transition"). S
environments are stepped together; after s steps in all, exactly floor(sigma * (s - warmup)) updates have been made.
How often to step before an update is therefore a function of its number alone, the same for all members of a
population: under vmap it stays a real branch, and no member waits for another.

Each step stores one transition with the true next observation: an episode that ends, by itself or at the time limit, is
reset only after that, and only an end by itself stops the bootstrap (mask 0).

What a log row says beside the learner's metrics:

    environment_steps       of the training environments, all S together; frames are the same (no action is repeated)
    online/return, length   means over the episodes that ended since the last row, actions as collected
    td_error/replayed       the critic's loss on a uniform batch of the replay
    td_error/fresh          on the newest transitions
    td_error/overfitting    fresh - replayed (the paper's measure)
    td_error/held_out       on transitions of an environment that acts in the same way and is never trained on
    norm/critic, norm/actor 2-norm of all parameters (the paper's measure of plasticity)
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from core_jax import replay
from core_jax.driver import Source
from core_jax.state import Learner, any_member, global_norm
from scaling.utd.analytic import Environment

HELD_OUT_EVERY = 10  # vector steps between two of the held-out environments (Compute-Optimal Scaling, section 3)


@flax.struct.dataclass
class Actors:
    """S environments in the middle of their episodes, and the replay that they fill."""

    states: Any  # of the environments, leaves [S, ...]
    observations: jax.Array  # [S, D]
    age: jax.Array  # [S] int32, steps since the reset
    returns: jax.Array  # [S], of the episodes under way
    memory: Any  # of the policy
    ring: replay.Ring


@flax.struct.dataclass
class Rollout:
    """Training and held-out environments, and sums over the episodes that ended since the last report."""

    training: Actors
    held_out: Actors
    steps: jax.Array  # int32, of the training environments
    ended: jax.Array  # float32 scalars
    ended_returns: jax.Array
    ended_lengths: jax.Array


def clock(ratio: float | Fraction) -> dict[str, np.int32]:
    """The UTD ratio as whole numbers. They are an argument of the compiled program, so that one serves all ratios."""
    ratio = Fraction(ratio).limit_denominator(1 << 10)
    return {'updates': np.int32(ratio.numerator), 'steps': np.int32(ratio.denominator)}


def vector_steps(update: jax.Array, clock: dict[str, jax.Array], warmup: int, slots: int) -> jax.Array:
    """How often S environments have been stepped when update number `update` (from 1 on) is made; 0 for 0.

    The smallest v with floor(ratio * (v * slots - warmup)) >= update. All numbers stay below 2^31.
    """
    whole, rest = update // clock['updates'], update % clock['updates']
    steps = warmup + whole * clock['steps'] - (-rest * clock['steps'] // clock['updates'])
    return jnp.where(update > 0, -(-steps // slots), 0)


def source(
    environment: Environment,
    learner: Learner,
    *,
    slots: int,
    capacity: int,
    batch_size: int,
    ratio: float | Fraction,
    warmup: int,
    horizon: int | None = None,
) -> Source:
    """Uniform batches of what `learner` collects in S = `slots` copies of `environment`.

    capacity: transitions kept, rounded up to a multiple of S. ratio: updates an environment step. warmup: steps with
    uniform actions and no update. horizon: windows for n-step targets, as `replay.sample_ring` gives them.
    """
    reset, step = jax.vmap(environment.reset), jax.vmap(environment.step)
    observe = jax.vmap(environment.observe)

    def begin(key: jax.Array, slots: int, capacity: int) -> Actors:
        states = reset(jax.random.split(key, slots))
        observations = observe(states)
        one = {
            'observations': observations[0],
            'actions': jnp.zeros(environment.action_dim),
            'rewards': jnp.zeros(()),
            'masks': jnp.zeros(()),
            'ends': jnp.zeros((), bool),
            'next_observations': observations[0],
        }
        ring = replay.ring(one, -(-capacity // slots) * slots)
        zeros = jnp.zeros(slots)
        return Actors(states, observations, zeros.astype(jnp.int32), zeros, learner.memory(slots), ring)

    def begun(states: Any, ends: jax.Array, keys: jax.Array) -> Any:
        """New episodes, for the environments whose last one ended: of the others what is returned is not read."""
        if not environment.costly_reset:
            return reset(keys)
        return jax.lax.cond(any_member(ends.any()), lambda: reset(keys), lambda: states)

    def act_and_step(actors: Actors, policy: Any, key: jax.Array, warming: jax.Array) -> tuple[Actors, dict]:
        """One step of every environment; also says which episodes ended, with their returns and lengths [S]."""
        count = actors.age.shape[0]
        act_key, uniform_key, reset_key = jax.random.split(key, 3)
        memory, actions = learner.act(policy, actors.memory, actors.observations, act_key)
        uniform = jax.random.uniform(uniform_key, actions.shape, actions.dtype, -1.0, 1.0)
        actions = jnp.where(warming, uniform, jnp.clip(actions, -1.0, 1.0))
        states, outcome = step(actors.states, actions)
        reached = observe(states)
        age, returns = actors.age + 1, actors.returns + outcome.reward
        ends = outcome.terminated | (age >= environment.max_steps)
        rows = {
            'observations': actors.observations,
            'actions': actions,
            'rewards': outcome.reward,
            'masks': 1.0 - outcome.terminated,
            'ends': ends,
            'next_observations': reached,
        }
        fresh = begun(states, ends, jax.random.split(reset_key, count))
        first = learner.memory(count)

        def where_ended(new, old):
            return jnp.where(ends.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

        states = jax.tree.map(where_ended, fresh, states)
        actors = Actors(
            states,
            where_ended(observe(states), reached),
            jnp.where(ends, 0, age),
            jnp.where(ends, 0.0, returns),
            jax.tree.map(where_ended, first, memory),
            replay.add(actors.ring, rows),
        )
        return actors, {'ends': ends, 'returns': returns, 'lengths': age}

    def init(key: jax.Array) -> Rollout:
        training_key, held_out_key = jax.random.split(key)
        zeros = (jnp.zeros(()) for _ in range(3))
        return Rollout(
            begin(training_key, slots, capacity),
            begin(held_out_key, 1, max(capacity // HELD_OUT_EVERY // slots, batch_size)),
            jnp.zeros((), jnp.int32),
            *zeros,
        )

    def advance(constants: Any, data: Rollout, state: Any, key: jax.Array, update: jax.Array) -> Rollout:
        policy = learner.explore(learner.policy(state))
        first = vector_steps(update, constants, warmup, slots)
        last = vector_steps(update + 1, constants, warmup, slots)

        def one(number: jax.Array, data: Rollout) -> Rollout:
            training_key, held_out_key = jax.random.split(jax.random.fold_in(key, number - first))
            warming = number * slots < warmup
            training, told = act_and_step(data.training, policy, training_key, warming)
            held_out = jax.lax.cond(
                number % HELD_OUT_EVERY == 0,
                lambda actors: act_and_step(actors, policy, held_out_key, warming)[0],
                lambda actors: actors,
                data.held_out,
            )
            ends = told['ends'].astype(jnp.float32)
            return Rollout(
                training,
                held_out,
                data.steps + slots,
                data.ended + ends.sum(),
                data.ended_returns + (ends * told['returns']).sum(),
                data.ended_lengths + (ends * told['lengths']).sum(),
            )

        return jax.lax.fori_loop(first, last, one, data)

    def uniform(ring: replay.Ring, key: jax.Array, own_slots: int) -> dict:
        return _without_ends(replay.sample_ring(ring, key, batch_size, horizon, own_slots))

    def sample(constants: Any, data: Rollout, state: Any, key: jax.Array) -> tuple[Rollout, dict]:
        return data, uniform(data.training.ring, key, slots)

    def report(constants: Any, data: Rollout, state: Any, key: jax.Array, hparams: dict) -> tuple[Rollout, dict]:
        held_out_key, loss_key = jax.random.split(key)
        held_out = uniform(data.held_out.ring, held_out_key, 1)
        ended = jnp.where(data.ended > 0, data.ended, jnp.nan)
        told = {
            'environment_steps': data.steps,
            'online/return': data.ended_returns / ended,
            'online/length': data.ended_lengths / ended,
            **measure(learner, state, data.training.ring, key, hparams, batch_size, horizon, slots),
            'td_error/held_out': learner.td_error(state, held_out, loss_key, hparams),
        }
        zeros = (jnp.zeros(()) for _ in range(3))
        ended, returns, lengths = zeros
        return data.replace(ended=ended, ended_returns=returns, ended_lengths=lengths), told

    shapes = jax.eval_shape(init, jax.random.key(0))
    example = jax.eval_shape(lambda data, key: sample((), data, None, key)[1], shapes, jax.random.key(0))
    return Source(clock(ratio), example, sample, init, advance=advance, report=report)


def measure(
    learner: Learner,
    state: Any,
    ring: replay.Ring,
    key: jax.Array,
    hparams: dict,
    batch_size: int,
    horizon: int | None,
    slots: int,
) -> dict[str, jax.Array]:
    """The paper's measures of overfitting and plasticity, as far as they can be read off replay and parameters."""
    sample_key, loss_key = jax.random.split(key)
    replayed = _without_ends(replay.sample_ring(ring, sample_key, batch_size, horizon, slots))
    fresh = _without_ends(replay.newest_ring(ring, batch_size, horizon, slots))
    errors = [learner.td_error(state, batch, loss_key, hparams) for batch in (replayed, fresh)]
    return {
        'td_error/replayed': errors[0],
        'td_error/fresh': errors[1],
        'td_error/overfitting': errors[1] - errors[0],
        'norm/critic': global_norm(state.critic.params),
        'norm/actor': global_norm(state.actor.params),
    }


def host_source(
    observation_dim: int,
    action_dim: int,
    learner: Learner,
    *,
    slots: int,
    capacity: int,
    batch_size: int,
    horizon: int | None = None,
) -> Source:
    """Uniform batches of what a feed of whole transitions (`core_jax.env_feed.Transitions`) brings.

    Reports all but the held-out error: environments on the host are too slow to have some for that alone.
    """
    one = {
        'observations': jnp.zeros(observation_dim),
        'actions': jnp.zeros(action_dim),
        'rewards': jnp.zeros(()),
        'masks': jnp.zeros(()),
        'ends': jnp.zeros((), bool),
        'next_observations': jnp.zeros(observation_dim),
    }

    def init(key: jax.Array) -> replay.Ring:
        return replay.ring(one, -(-capacity // slots) * slots)

    def sample(constants: Any, ring: replay.Ring, state: Any, key: jax.Array) -> tuple[replay.Ring, dict]:
        return ring, _without_ends(replay.sample_ring(ring, key, batch_size, horizon, slots))

    def report(constants: Any, ring: replay.Ring, state: Any, key: jax.Array, hparams: dict):
        return ring, measure(learner, state, ring, key, hparams, batch_size, horizon, slots)

    shapes = jax.eval_shape(init, jax.random.key(0))
    example = jax.eval_shape(lambda data, key: sample((), data, None, key)[1], shapes, jax.random.key(0))
    return Source((), example, sample, init, replay.add, report=report)


def _without_ends(batch: dict) -> dict:
    return {name: rows for name, rows in batch.items() if name != 'ends'}
