"""The driver that a feed on the host supplies: exact clocks, exact resume, feeds for every member."""

from fractions import Fraction

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
    assert_same,
    first_member,
    member,
    predict,
)

from core_jax import sources
from core_jax.errors import UserError
from core_jax.host_driver import HostDriver, updates_due
from core_jax.mesh import fetch, make_mesh, place


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


# Feeds for every member


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
    for number, seed in enumerate([3, 4]):
        alone = apart_driver([seed])
        # The environments of a member show the numbers of its own slots.
        shift = 2 * number
        inner = alone.feed.next

        def shifted(act, inner=inner, shift=shift):
            return inner(lambda observations, fresh: act(observations + shift, fresh))

        def feed_next(act, shifted=shifted, shift=shift):
            batch, steps = shifted(act)
            return batch | {'observations': batch['observations'] + shift}, steps

        alone.feed.next = feed_next
        alone.advance(6)
        own = jax.tree.map(lambda x, n=number: x[n], fetch(both.carry))
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
