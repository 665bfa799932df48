"""The two drivers with a learner that has everything: what must hold bit for bit, and what within a tolerance."""

from fractions import Fraction
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from core_jax import replay, sources
from core_jax.driver import DeviceDriver, HostDriver, Numerics, updates_due
from core_jax.errors import UserError
from core_jax.mesh import fetch, make_mesh, place
from core_jax.state import Learner, Trainable, copy, descend, global_norm, polyak, step_key, trainable

OBS, ACT, BATCH, REFRESH = 8, 4, 16, 3
ADAM, MOMENTUM = optax.scale_by_adam(), optax.trace(0.9)
RULES = ((r'model/params/w$', PartitionSpec(None, 'tensor')), (r'.*', PartitionSpec()))


# A learner that has everything


@flax.struct.dataclass
class State:
    key: jax.Array
    step: jax.Array
    model: Trainable  # Adam
    temperature: Trainable  # momentum
    target: Any  # follows the model slowly
    stale: Any  # the model as it was at the last multiple of REFRESH updates
    statistics: dict  # running mean and variance of the observations


def predict(params, statistics, observations):
    scale = jnp.sqrt(statistics['variance'] + 1e-3)
    return (observations - statistics['mean'][None]) / scale[None] @ params['w'] + params['b'][None]


def init(key, batch):
    key, w_key = jax.random.split(key)
    params = {'w': 0.2 * jax.random.uniform(w_key, (OBS, ACT), minval=-1.0), 'b': jnp.zeros(ACT)}
    statistics = {'mean': jnp.zeros(OBS), 'variance': jnp.ones(OBS), 'count': jnp.zeros(())}
    temperature = trainable(jnp.zeros(()), MOMENTUM)
    step = jnp.zeros((), jnp.int32)
    return State(key, step, trainable(params, ADAM), temperature, copy(params), copy(params), statistics)


def update(state, batch, hparams):
    observations = batch['observations']
    count = state.statistics['count'] + BATCH
    delta = observations.mean(0) - state.statistics['mean']
    mean = state.statistics['mean'] + delta * BATCH / count
    variance = state.statistics['variance'] + (observations.var(0) - state.statistics['variance']) * BATCH / count
    statistics = {'mean': mean, 'variance': variance, 'count': count}
    noise = jax.random.uniform(step_key(state), (1, ACT), minval=-1.0)

    def loss(params, log_temperature):
        error = predict(params, statistics, observations) - batch['actions'] - 0.01 * noise
        old = predict(state.stale, statistics, observations) + predict(state.target, statistics, observations)
        pull = jnp.mean((predict(params, statistics, observations) - old / 2) ** 2)
        total = jnp.mean(error**2) + jnp.exp(log_temperature) * pull + log_temperature**2
        return total * jnp.where(state.step == hparams['poison'], jnp.nan, 1.0)

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(state.model.params, state.temperature.params)
    model = descend(state.model, gradients[0], ADAM, hparams['learning_rate'])
    temperature = descend(state.temperature, gradients[1], MOMENTUM, 0.1 * hparams['learning_rate'])
    refresh = (state.step + 1) % REFRESH == 0
    new = State(
        key=state.key,
        step=state.step + 1,
        model=model,
        temperature=temperature,
        target=polyak(model.params, state.target, hparams['tau']),
        stale=jax.tree.map(lambda now, old: jnp.where(refresh, now, old), model.params, state.stale),
        statistics=statistics,
    )
    return new, {'loss': value, 'temperature': temperature.params, 'grad_norm': global_norm(gradients)}


def act(policy, memory, observations, key):
    params, statistics = policy
    actions = predict(params, statistics, observations)
    return memory + 1, actions + 0.1 * jax.random.normal(key, actions.shape)


RICH = Learner(
    init,
    update,
    act,
    policy=lambda state: (state.model.params, state.statistics),
    hparams={'learning_rate': 1e-2, 'tau': 0.1, 'poison': -1.0},
    memory=lambda batch_size: jnp.zeros((batch_size, 1)),
)


def rows(count=96, seed=0):
    rng = np.random.default_rng(seed)
    observations = np.float32(rng.normal(size=(count, OBS)) * 2 + 1)
    actions = np.tanh(observations @ np.float32(rng.normal(size=(OBS, ACT))) / 3)
    ends = (np.arange(count) + 1) % 24 == 0
    return replay.dataset(observations, actions, np.zeros(count), np.ones(count), ends)


def device_driver(mesh='data:1', seeds=(0,), hparams=None, numerics=None, chunk=1000):
    mesh = make_mesh(mesh)
    source = sources.offline(replay.place_dataset(rows(), mesh), BATCH)
    driver = DeviceDriver(
        RICH, source, mesh=mesh, seeds=seeds, hparams=hparams, numerics=numerics, rules=RULES, chunk=chunk
    )
    driver.initialize()
    return driver


STEP = jax.jit(update)
first_member = jax.jit(lambda carry: jax.tree.map(lambda x: x[0], carry))


def member(driver, i=0):
    """One member's whole carry as a flat dict of numpy."""
    flat = jax.tree_util.tree_flatten_with_path(fetch(driver.carry))[0]
    return {jax.tree_util.keystr(path): leaf[i] for path, leaf in flat}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_near(a, b, tolerance=1e-5):
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


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


# Fed by the host


class Batches:
    """Batch after batch of a fixed series; notes the clocks at which it is asked."""

    def __init__(self, steps=1, asks=False, bad=None):
        self.steps, self.asks, self.bad, self.position, self.seen = steps, asks, bad, 0, []

    def next(self, act):
        self.seen.append((self.driver.environment_steps, self.driver.updates))
        batch = batch_of(self.position)
        if self.asks:
            batch['actions'] = np.clip(act(batch['observations'], np.zeros(BATCH, bool)), -1, 1)
        if self.position == self.bad:
            batch['observations'][0, 0] = np.nan
        self.position += 1
        return batch, self.steps

    def get_state(self):
        return {'position': self.position}

    def set_state(self, state):
        self.position = state['position']


def batch_of(position):
    rng = np.random.default_rng(position)
    observations = np.float32(rng.normal(size=(BATCH, OBS)))
    return {'observations': observations, 'actions': np.tanh(observations[:, :ACT])}


def host_driver(feed, **keywords):
    source = sources.stream(batch_of(0))
    return HostDriver(RICH, source, mesh=make_mesh('data:1'), seeds=[1], feed=feed, chunk=8, **keywords)


@pytest.fixture(scope='module')
def compiled():
    """One program for all of the tests below."""
    driver = host_driver(Batches())
    driver.initialize()
    driver.fresh = driver.carry
    return driver


@pytest.fixture
def fed(compiled):
    """Begins again, with `feed` and clocks at 0."""

    def begin(feed, ratio=1, warmup=0):
        feed.driver, compiled.feed, compiled.ratio, compiled.warmup = compiled, feed, Fraction(ratio), warmup
        compiled.set_host_state({'environment_steps': 0, 'calls': 0, 'memory': [], 'feed': {'position': 0}})
        compiled.start(jax.tree.map(jnp.copy, compiled.fresh))
        return compiled

    yield begin
    assert compiled.traces <= 1


def test_host_driver_makes_the_learner_s_own_updates(fed):
    driver = fed(Batches())
    state = first_member(driver.carry).state
    driver.advance(20)
    hparams = {name: jnp.float32(value) for name, value in RICH.hparams.items()}
    for i in range(20):
        state, _ = STEP(state, batch_of(i), hparams)
    for ours, theirs in zip(*map(jax.tree.leaves, (fetch(driver.carry.state), fetch(state))), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-5, atol=1e-6)
    assert driver.feed.position == 20


@pytest.mark.parametrize('warmup', [0, 5])
@pytest.mark.parametrize('ratio', [1 / 16, 1 / 3, 1, 2, 16])
def test_updates_to_data_ratio_is_exact_at_every_environment_step(fed, ratio, warmup):
    exact = {1 / 16: Fraction(1, 16), 1 / 3: Fraction(1, 3)}.get(ratio, Fraction(ratio))
    assert host_driver(Batches(), ratio=ratio).ratio == exact
    driver = fed(Batches(), exact, warmup)
    wanted = int(exact * 48)  # 48 steps after the warm-up
    for part in (1, wanted - 2, 1):
        driver.advance(part)
    assert driver.updates == wanted == driver.state().step
    assert driver.environment_steps == warmup + 48
    assert driver.feed.seen == [(s, max(0, int(exact * (s - warmup) // 1))) for s in range(warmup + 48)]


def test_several_steps_a_call_are_caught_up_after_each(fed):
    driver = fed(Batches(steps=5), Fraction(2, 3), warmup=7)
    driver.advance(12)
    assert driver.feed.seen == [(0, 0), (5, 0), (10, 2), (15, 5), (20, 8)]


def test_one_bad_batch_freezes_for_good(fed):
    """What comes after it is finite again, but the run is at its last good state and stays there."""
    driver = fed(Batches(bad=3))
    driver.advance(3)
    good = driver.state()
    driver.advance(5)
    jax.tree.map(np.testing.assert_array_equal, driver.state(), good)
    report = driver.report()
    assert report.bad_step[0] == 4 and report.count[0] == 3 and np.isnan(report.bad_metrics['loss'][0])


def test_host_driver_asks_the_policy_with_fresh_noise_and_one_fetch(fed):
    driver = fed(Batches(asks=True), ratio=2)
    before = fetch.count
    driver.advance(20)
    assert fetch.count == before + 10
    observations = batch_of(0)['observations']
    fresh = np.zeros(len(observations), bool)
    first, second = driver.act(observations, fresh), driver.act(observations, fresh)
    mean = predict(*RICH.policy(first_member(driver.carry).state), observations)
    for actions in (first, second):
        assert 0.05 < np.std(actions - mean) < 0.2
    assert np.corrcoef((first - mean).ravel(), (second - mean).ravel())[0, 1] < 0.5


def test_host_driver_goes_on_exactly(fed):
    driver = fed(Batches(asks=True), ratio=2)
    driver.advance(20)
    whole = member(driver)

    driver = fed(Batches(asks=True), ratio=2)
    driver.advance(9)
    saved, carry = driver.host_state(), jax.tree.map(jnp.copy, driver.carry)
    driver.advance(5)  # lost
    driver = fed(Batches(asks=True), ratio=2)
    driver.set_host_state(saved)
    driver.start(carry, 9)
    driver.advance(11)
    assert_same(whole, member(driver))


def test_updates_due_is_the_floor_of_an_exact_product():
    for ratio in (Fraction(1, 16), Fraction(1, 3), Fraction(1), Fraction(16)):
        for steps in (0, 6, 7, 8, 10**9, 10**9 + 1):
            assert updates_due(steps, ratio, warmup=7) == max(0, (ratio * (steps - 7)).__floor__())
    with pytest.raises(UserError, match='ratio must be positive'):
        host_driver(Batches(), ratio=0)


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


# Sources that act by themselves, and feeds for every member


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


class EchoFeed:
    """Shows every slot its own number; the transitions are what was done there."""

    def __init__(self, slots):
        self.slots, self.calls, self.actions = slots, 0, []

    def next(self, act):
        observations = np.tile(np.arange(self.slots, dtype=np.float32)[:, None] + self.calls, (1, OBS))
        actions = act(observations, np.full(self.slots, self.calls == 0))
        self.calls += 1
        self.actions.append(actions)
        return {'observations': observations, 'actions': actions}, self.slots

    def get_state(self):
        return self.calls

    def set_state(self, state):
        self.calls = state


def apart_driver(seeds, mesh='data:1'):
    row = {'observations': np.zeros(OBS, np.float32), 'actions': np.zeros(ACT, np.float32)}
    source = sources.online(row, 64, BATCH)
    driver = HostDriver(
        RICH, source, feed=EchoFeed(2 * len(seeds)), ratio=Fraction(1, 2), warmup=4, apart=True, seeds=seeds,
        mesh=make_mesh(mesh),
    )  # fmt: skip
    driver.initialize()
    return driver


def test_members_apart_act_and_learn_for_themselves():
    both = apart_driver([3, 4])
    both.advance(6)
    assert both.environment_steps == 4 + 6 * 2 and both.feed.calls == 8  # of each member, two slots a call
    for member, seed in enumerate([3, 4]):
        alone = apart_driver([seed])
        # The environments of a member show the numbers of its own slots.
        shift = 2 * member
        inner = alone.feed.next

        def shifted(act, inner=inner, shift=shift):
            return inner(lambda observations, fresh: act(observations + shift, fresh))

        def feed_next(act, shifted=shifted, shift=shift):
            batch, steps = shifted(act)
            return batch | {'observations': batch['observations'] + shift}, steps

        alone.feed.next = feed_next
        alone.advance(6)
        own = jax.tree.map(lambda x, m=member: x[m], fetch(both.carry))
        jax.tree.map(np.testing.assert_array_equal, own, jax.tree.map(lambda x: x[0], fetch(alone.carry)))

    # A stop and a start, with what the policies remember.
    saved, carry = both.host_state(), fetch(both.carry)
    both.advance(4)
    again = apart_driver([3, 4])
    again.start(place(carry, jax.tree.map(lambda x: x.sharding, again.carry)), 6)
    again.set_host_state(saved)
    again.advance(4)
    jax.tree.map(np.testing.assert_array_equal, fetch(again.carry), fetch(both.carry))
    np.testing.assert_array_equal(again.feed.actions[-1], both.feed.actions[-1])
