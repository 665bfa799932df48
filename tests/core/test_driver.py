"""The driver with a learner that has everything: what must hold bit for bit, and what within a tolerance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich_learner import (
    ACT,
    BATCH,
    OBS,
    RICH,
    STEP,
    assert_near,
    assert_same,
    device_driver,
    first_member,
    member,
    rows,
)

from core_jax import sources
from core_jax.driver import DeviceDriver, Numerics
from core_jax.errors import UserError
from core_jax.mesh import fetch, make_mesh

# One member on one device


RATES, POISON = [1e-2, 2e-2, 3e-2], [-1, -1, 11]


@pytest.fixture(scope='module')
def solo():
    """Seed 1 with the second rate, 20 updates in chunks of many sizes. `begun` is where it began."""
    driver = device_driver(seeds=[1], hparams={'learning_rate': 2e-2}, chunk=7)
    driver.begun = first_member(driver.carry)
    for updates in (1, 2, 12, 4, 1):
        driver.advance(updates)
    return driver


def test_one_trace_and_one_update_after_another(solo):
    assert solo.traces == 1 and solo.updates == 20
    state = solo.state()
    assert state.step == 20 and state.statistics['count'] == 20 * BATCH
    assert member(solo)['.count'] == 20


def test_driver_makes_the_learner_s_own_updates(solo):
    """Against a Python loop of the jitted update, batches taken by hand: state, stale copy and means."""
    data, state, history, metrics = rows(), solo.begun.state, [], []
    starts = np.flatnonzero((np.arange(96) + 1) % 24)  # all rows but the last of each trajectory
    hparams = {'learning_rate': jnp.float32(2e-2), 'tau': jnp.float32(0.1), 'poison': jnp.float32(-1)}
    draw = jax.jit(lambda key, i: jax.random.randint(jax.random.fold_in(key, i), (BATCH,), 0, len(starts)))
    for i in range(20):
        at = starts[draw(solo.begun.key, i)]
        state, one = STEP(state, {'observations': data['observations'][at], 'actions': data['actions'][at]}, hparams)
        history.append(state.model.params)
        metrics.append(float(one['loss']))
    found = solo.state()
    for ours, theirs in zip(
        *map(jax.tree.leaves, ((found.model, found.target, found.stale), (state.model, state.target, history[17]))),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(member(solo)[".sums['loss']"], np.sum(metrics), rtol=1e-5)
    assert not np.array_equal(found.stale['w'], found.model.params['w'])


def test_scan_equals_loop_bit_for_bit(solo):
    loop = device_driver(seeds=[1], hparams={'learning_rate': 2e-2}, numerics=Numerics(updates='loop'))
    loop.advance(20)
    assert loop.traces == 1
    assert_same(member(solo), member(loop))


def test_report_gives_means_and_starts_again():
    driver = device_driver()
    driver.advance(3)
    first = driver.report()
    driver.advance(1)
    second = driver.report()
    driver.start(device_driver().carry)
    losses = []
    for _ in range(4):
        driver.advance(1)
        losses.append(driver.report().metrics['loss'][0])
    assert first.count[0] == 3 and second.count[0] == 1
    assert first.metrics['loss'][0] == pytest.approx(np.mean(losses[:3]), rel=1e-6)
    assert second.metrics['loss'][0] == losses[3]
    assert driver.traces == 1


def test_no_fetch_inside_advance_and_each_one_counted(solo, monkeypatch):
    from jax._src.array import ArrayImpl

    value, reads = ArrayImpl._value, []
    monkeypatch.setattr(ArrayImpl, '_value', property(lambda array: reads.append(array.shape) or value.fget(array)))
    driver = device_driver()
    assert float(jnp.ones(())) == 1.0 and reads  # the spy sees what leaves the device
    reads.clear()
    before = fetch.count
    driver.advance(5)
    driver.advance(8)
    assert fetch.count == before and not reads
    for i, ask in enumerate((driver.report, driver.state, driver.policies), start=1):
        ask()
        assert fetch.count == before + i
    assert reads


def test_transfer_guard_is_up_in_advance(solo, monkeypatch):
    """A program that takes an array from the host in passing is stopped."""
    monkeypatch.setattr(solo, '_chunk', lambda *arguments: jnp.sin(np.ones(3, np.float32)))
    with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to-device transfer'):
        solo.advance(1)


# Populations


@pytest.fixture(scope='module')
def population():
    """Three rates; the last member's loss is nan in the update that starts at step 11."""
    driver = device_driver(seeds=[0, 1, 2], hparams={'learning_rate': RATES, 'poison': POISON})
    driver.advance(20)
    driver.after = [member(driver, i) for i in range(3)]  # before any report
    return driver


def test_mapped_member_equals_its_solo_run_bit_for_bit(population, solo):
    assert_same(population.after[1], member(solo))


def test_hparams_are_each_member_s_own(population):
    """The same seed with another rate is another run, with the same rate the same."""
    driver = device_driver(seeds=[1, 1, 1], hparams={'learning_rate': [1e-2, 2e-2, 2e-2]})
    driver.advance(20)
    assert_same(member(driver, 1), population.after[1])
    assert_same(member(driver, 2), population.after[1])
    assert not np.array_equal(driver.state(0).model.params['w'], driver.state(1).model.params['w'])


def test_non_finite_member_is_frozen_at_its_last_good_state_and_named(population):
    report = population.report()
    np.testing.assert_array_equal(report.bad_step, [-1, -1, 12])
    np.testing.assert_array_equal(report.count, [20, 20, 11])
    assert np.isfinite(report.metrics['loss']).all() and np.isnan(report.bad_metrics['loss'][2])

    same = device_driver(seeds=[2], hparams={'learning_rate': RATES[2]})
    same.advance(11)
    frozen, good = population.after[2], member(same)
    differ = {name for name in frozen if not np.array_equal(frozen[name], good[name])}
    assert all(name.startswith(('.bad_step', '.bad_metrics')) for name in differ) and differ

    named = population.diagnose(2)
    assert {'metrics/loss', 'metrics/grad_norm', 'state after/model/params/w'} <= set(named)
    assert not any(name.startswith(('batch', 'state before')) for name in named)


def test_vectorised_members_are_near_their_solo_runs(population):
    driver = device_driver(
        seeds=[0, 1, 2], hparams={'learning_rate': RATES, 'poison': POISON}, numerics=Numerics(population='vmap')
    )
    driver.advance(20)
    for i in range(3):
        assert_near(member(driver, i), population.after[i])


@pytest.mark.parametrize('shape', ['population:2', 'population:2,data:4'])
def test_members_are_laid_over_the_mesh(shape, population):
    driver = device_driver(shape, seeds=[0, 1, 2, 1], hparams={'learning_rate': [*RATES, 2e-2], 'poison': [*POISON, 5]})
    weights = driver.carry.state.model.params['w']
    assert {shard.data.shape for shard in weights.addressable_shards} == {(2, OBS, ACT)}
    assert weights.sharding.spec[0] == 'population'
    driver.advance(20)
    for i in range(3):
        assert_near(member(driver, i), population.after[i])
    np.testing.assert_array_equal(driver.report().bad_step, [-1, -1, 12, 6])
    assert driver.traces == 1


def test_members_must_divide_over_the_mesh():
    with pytest.raises(UserError, match='3 members do not divide .* population:2'):
        device_driver('population:2', seeds=[0, 1, 2])


# Meshes


@pytest.fixture(scope='module')
def on_one_device():
    return run_on('data:1')


def run_on(shape):
    driver = device_driver(shape, seeds=[3])
    start, losses = member(driver), []
    for _ in range(20):
        driver.advance(1)
        losses.append(float(driver.report().metrics['loss'][0]))
    return driver, start, losses


@pytest.mark.parametrize('shape', ['data:2', 'data:8', 'data:4,tensor:2'])
def test_init_is_identical_and_losses_agree_on_every_mesh(shape, on_one_device):
    _, start, losses = on_one_device
    driver, other_start, other_losses = run_on(shape)
    assert_same(start, other_start)
    np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-5)
    assert losses[0] > 1.5 * losses[-1]
    observations = driver.source.constants['observations']
    assert len(observations.sharding.device_set) == driver.mesh.size
    assert observations.addressable_shards[0].data.shape == (96 // driver.mesh.shape['data'], OBS)
    weights = driver.carry.state.model.params['w']
    assert weights.addressable_shards[0].data.shape == (1, OBS, ACT // driver.mesh.shape['tensor'])
    check_bytes(driver)


def check_bytes(driver):
    """What was announced from shapes alone is what lies on the first device."""

    def allocated(tree):
        leaves = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in tree]
        first = [s.data.nbytes for x in leaves for s in x.addressable_shards if s.device == driver.mesh.devices.flat[0]]
        return sum(first)

    announced = driver.bytes_per_device()
    data = allocated(jax.tree.leaves((driver.carry.data, driver.source.constants)))
    assert announced == {'state': allocated(jax.tree.leaves(driver.carry.replace(data=()))), 'data': data}


def test_bytes_per_device_of_a_population_and_of_one_member(population, on_one_device):
    check_bytes(population)
    check_bytes(on_one_device[0])


# The numerics policy


def test_numerics_policy_is_resolved_once_and_refuses_what_it_does_not_know():
    assert Numerics.resolve(population='auto') == Numerics(population='map')  # on a CPU
    assert Numerics.resolve(updates='loop', population='vmap') == Numerics('loop', 'vmap')
    with pytest.raises(UserError, match="unknown numerics field 'update'; did you mean 'updates'"):
        Numerics.resolve(update='scan')
    with pytest.raises(UserError, match="unknown value of numerics.population 'vamp'; did you mean 'vmap'"):
        Numerics.resolve(population='vamp')
    try:
        Numerics.resolve(matmul_precision='highest')
        assert jax.config.jax_default_matmul_precision == 'highest'
    finally:
        Numerics.resolve()
    assert jax.config.jax_default_matmul_precision == 'default'


# Sources that act by themselves


def counting_source():
    """Batches of a counter that the source moves by itself: by the number of the update, which it is told."""

    def advance(constants, data, state, key, update):
        return {'moved': data['moved'] + update, 'noise': jax.random.uniform(key)}

    def sample(constants, data, state, key):
        return data, {'observations': jnp.full((BATCH, OBS), data['moved']), 'actions': jnp.zeros((BATCH, ACT))}

    def report(constants, data, state, key, hparams):
        return data | {'moved': jnp.zeros(())}, {'moved': data['moved'], 'rate': hparams['learning_rate']}

    example = jax.eval_shape(lambda: sample((), {'moved': jnp.zeros(())}, None, None)[1])
    data = {'moved': jnp.zeros(()), 'noise': jnp.zeros(())}
    return sources.Source((), example, sample, lambda key: dict(data), advance=advance, report=report)


@pytest.mark.parametrize('numerics', [Numerics(), Numerics(population='vmap'), Numerics(updates='loop')])
def test_a_source_moves_by_the_number_of_updates_and_reports(numerics):
    driver = DeviceDriver(
        RICH, counting_source(), mesh=make_mesh('data:1'), seeds=[0, 1], hparams={'learning_rate': [1e-3, 1e-2]},
        numerics=numerics,
    )  # fmt: skip
    driver.initialize()
    driver.advance(4)
    driver.advance(2)
    report = driver.report()
    np.testing.assert_array_equal(report.metrics['moved'], [0 + 1 + 2 + 3 + 4 + 5] * 2)
    np.testing.assert_allclose(report.metrics['rate'], [1e-3, 1e-2])
    driver.advance(1)
    np.testing.assert_array_equal(driver.report().metrics['moved'], [6, 6])
    noise = fetch(driver.carry.data['noise'])
    assert noise[0] != noise[1]
    # Another run on the same program.
    traces = driver.traces
    driver.assign([7, 8])
    driver.initialize()
    driver.advance(3)
    np.testing.assert_array_equal(driver.report().metrics['moved'], [3, 3])
    assert driver.traces == traces and driver.updates == 3
