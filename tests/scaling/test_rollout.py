"""Environments in the compiled loop against a plain loop: the clock, the ends of episodes, what is measured."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.driver import DeviceDriver, Numerics
from core_jax.host_driver import updates_due
from core_jax.learners import sac
from core_jax.mesh import fetch, make_mesh, place, replicated
from scaling.utd import analytic, rollout

LIMIT = 4  # steps of an episode at most


def reset(key):
    return {'number': jnp.float32(jax.random.randint(key, (), 0, 3)), 'steps': jnp.int32(0)}


def step(state, action):
    """Counts on by 10; terminates after the third step where the episode began with 2."""
    after = {'number': state['number'] + 10, 'steps': state['steps'] + 1}
    terminated = (after['number'] % 10 == 2) & (after['steps'] == 3)
    return after, analytic.Outcome(state['number'] + action[0], terminated)


COUNTER = analytic.Environment('counter', 1, 1, LIMIT, reset, step, lambda state: state['number'][None])


def small():
    config = sac.get_config()
    config.update({'hidden_dims': (8,), 'batch_size': 8})
    return config


def driver(ratio, *, slots=1, warmup=6, seeds=(0,), environment=COUNTER, capacity=1000, numerics=None, mesh='data:1'):
    learner = sac.make(small(), environment.action_dim)
    source = rollout.source(
        environment, learner, slots=slots, capacity=capacity, batch_size=8, ratio=ratio, warmup=warmup
    )
    made = DeviceDriver(learner, source, mesh=make_mesh(mesh), seeds=seeds, numerics=numerics)
    return begin(made, ratio, seeds)


def begin(made, ratio, seeds=(0,)):
    """Another run of the same program, from the start."""
    made.assign(seeds)
    clock = rollout.clock(ratio)
    made.bind(place(clock, {name: replicated(made.mesh) for name in clock}))
    made.initialize()
    return made


@pytest.fixture(scope='module')
def shared():
    """One driver for each number of environments: the ratio is an argument of its program."""
    return {slots: driver(1, slots=slots) for slots in (1, 3)}


@pytest.mark.parametrize('slots', [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    'ratio', ['1/4', '3/2', *(pytest.param(r, marks=pytest.mark.slow) for r in ('1/16', '1/3', '1', '3', '16'))]
)
def test_updates_are_exactly_those_that_are_due(shared, slots, ratio):
    ratio = Fraction(ratio)
    made = begin(shared[slots], ratio)
    for update in range(1, 8):
        made.advance(1)
        steps = int(made.report().metrics['environment_steps'][0])
        due, before = updates_due(steps, ratio, 6), updates_due(steps - slots, ratio, 6)
        assert before < update <= due, (update, steps)  # no vector step too early, none too late
    assert made.traces == 1


def test_the_clock_does_not_overflow():
    most = 2_000_000_000
    clock = {name: jnp.int32(value) for name, value in rollout.clock(Fraction(1, 1)).items()}
    assert int(rollout.vector_steps(jnp.int32(most), clock, 1000, 1)) == most + 1000
    clock = rollout.clock(Fraction(1, 16))
    assert int(rollout.vector_steps(jnp.int32(100_000_000), clock, 0, 8)) == 200_000_000
    assert rollout.clock(1 / 3) == {'updates': 1, 'steps': 3}


def test_transitions_against_a_loop(shared):
    """Row by row: true last observations, bootstrap through time limits, none at the end by itself."""
    made = begin(shared[3], 1, [5])
    made.advance(30)
    report = made.report().metrics
    data = jax.tree.map(lambda x: x[0], fetch(made.carry.data))
    rows, count = data.training.ring.rows, int(data.training.ring.added)
    assert count == int(report['environment_steps'][0]) == 36
    returns, lengths, finished, kinds = np.zeros(3), np.zeros(3, int), [], set()
    expected = [None] * 3
    for i in range(count):
        slot = i % 3
        number, after = rows['observations'][i, 0], rows['next_observations'][i, 0]
        if expected[slot] is None:
            assert number in (0, 1, 2)
        else:
            assert number == expected[slot]
        assert after == number + 10  # the observation that was reached, not that after the reset
        assert rows['rewards'][i] == pytest.approx(number + rows['actions'][i, 0], abs=1e-5)
        returns[slot] += rows['rewards'][i]
        lengths[slot] += 1
        terminated = after % 10 == 2 and lengths[slot] == 3
        ended = terminated or lengths[slot] == LIMIT
        assert rows['masks'][i] == 1 - terminated and rows['ends'][i] == ended
        expected[slot] = None if ended else after
        if ended:
            finished.append((returns[slot], lengths[slot]))
            kinds.add(bool(terminated))
            returns[slot] = lengths[slot] = 0
    assert kinds == {True, False}
    np.testing.assert_allclose(report['online/return'][0], np.mean(finished, axis=0)[0], rtol=1e-5)
    np.testing.assert_allclose(report['online/length'][0], np.mean(finished, axis=0)[1], rtol=1e-5)
    # Nothing ended since.
    assert np.isnan(made.report().metrics['online/return'][0])
    # Held-out environments took every tenth vector step, and are other episodes.
    assert int(data.held_out.ring.added) == -(-12 // rollout.HELD_OUT_EVERY)


def test_measures_are_the_critics_loss_on_those_rows(shared):
    made = begin(shared[1], 1, [1])
    made.advance(20)
    carry = jax.tree.map(lambda x: x[0], made.carry)
    report = made.report().metrics
    rows = fetch(carry.data.training.ring.rows)
    newest = {name: value[[25, 24, 23, 22, 21, 20, 19, 18]] for name, value in rows.items() if name != 'ends'}
    key = jax.random.fold_in(jax.random.fold_in(carry.key, carry.state.step), 0x02E9)
    loss_key = jax.random.split(key)[1]
    hparams = {name: float(value[0]) for name, value in made.hparams.items()}
    expected = made.learner.td_error(carry.state, newest, loss_key, hparams)
    np.testing.assert_allclose(report['td_error/fresh'][0], expected, rtol=1e-4)
    difference = report['td_error/fresh'] - report['td_error/replayed']
    np.testing.assert_allclose(report['td_error/overfitting'], difference, rtol=1e-4, atol=1e-4)
    leaves = jax.tree.leaves(fetch(carry.state.critic.params))
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in leaves))
    np.testing.assert_allclose(report['norm/critic'][0], norm, rtol=1e-5)


@pytest.mark.parametrize('population', ['map', pytest.param('vmap', marks=pytest.mark.slow)])
def test_members_equal_their_own_runs(population):
    """Mapped bit for bit, vectorised within 1e-4 after 40 updates."""
    made = driver(2, seeds=[3, 4], numerics=Numerics(population=population))
    made.advance(40)
    together = fetch(made.carry)
    for member, seed in enumerate([3, 4]):
        alone = driver(2, seeds=[seed])
        alone.advance(40)
        own = fetch(alone.carry)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(own), strict=True):
            if population == 'map':
                np.testing.assert_array_equal(a[member], b[0])
            else:
                np.testing.assert_allclose(np.float64(a[member]), np.float64(b[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_population_over_eight_devices_equals_one():
    one = driver(1, seeds=range(8), numerics=Numerics(population='map'))
    eight = driver(1, seeds=range(8), numerics=Numerics(population='map'), mesh='population:8')
    for made in (one, eight):
        made.advance(12)
    a, b = one.report(), eight.report()
    for name in a.metrics:
        np.testing.assert_allclose(a.metrics[name], b.metrics[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_sac_learns_a_probe_in_the_compiled_loop():
    """o, then 1 with reward 1: Q(0) = discount, Q(1) = 1, less what the entropy bonus adds, which is switched off."""
    probe = analytic.make('discounting')
    config = sac.get_config()
    fields = {'hidden_dims': (16,), 'batch_size': 32, 'initial_alpha': 1e-6, 'backup_entropy': False}
    config.update(fields | {'critic_learning_rate': 1e-2, 'tau': 0.05, 'discount': 0.9})
    learner = sac.make(config, 1)
    source = rollout.source(probe, learner, slots=4, capacity=2000, batch_size=32, ratio=1, warmup=32)
    made = DeviceDriver(learner, source, mesh=make_mesh('data:1'))
    begin(made, 1).advance(1200)
    batch = {
        'observations': jnp.array([[0.0], [1.0]]),
        'actions': jnp.zeros((2, 1)),
        'rewards': jnp.array([0.9, 1.0]),  # the closed form as a target that ends
        'masks': jnp.zeros(2),
        'next_observations': jnp.zeros((2, 1)),
    }
    state = made.state()
    hparams = {name: float(value[0]) for name, value in made.hparams.items()}
    assert float(learner.td_error(state, batch, jax.random.key(0), hparams)) < 0.05**2
