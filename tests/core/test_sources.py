"""Where batches come from: what a source hands to the learner, offline and online, and a stream that is read ahead."""

import json
import threading
import time

import jax
import numpy as np
import pytest
import scipy.stats

from core_jax import replay, sources
from core_jax.mesh import make_mesh


def rows():
    observations = np.arange(12, dtype=np.float32)[:, None]
    ends = np.isin(np.arange(12), (4, 11))
    return replay.dataset(observations, -observations, np.arange(12), np.ones(12), ends)


def test_offline_source_from_arrays_and_from_shapes(key):
    mesh = make_mesh('data:1')
    source = sources.offline(replay.place_dataset(rows(), mesh), 64)
    assert source.init(key) == ()
    data, batch = source.sample(source.constants, (), None, key)
    assert data == () and batch['next_observations'].shape == (64, 1)
    np.testing.assert_array_equal(batch['next_observations'], batch['observations'] + 1)
    assert set(np.unique(batch['observations'])) == set(range(12)) - {4, 11}

    shapes = sources.offline(replay.dataset_spec(rows(), mesh), 64)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes.example) == jax.tree.map(
        lambda x: (x.shape, x.dtype), batch
    )


def test_offline_source_of_windows_and_stacks_that_are_augmented(key):
    data = replay.place_dataset(rows(), make_mesh('data:1'))
    flip = lambda key, batch: batch | {'rewards': -batch['rewards'], 'key': jax.random.key_data(key)}  # noqa: E731
    source = sources.offline(data, 32, horizon=4, frame_stack=3, augment=flip)
    _, batch = source.sample(data, (), None, key)
    assert {name: x.shape for name, x in source.example.items()} == {name: x.shape for name, x in batch.items()}
    plain = replay.sample_chunks(data, key, 32, 4, 3)
    np.testing.assert_array_equal(batch['rewards'], -plain['rewards'])
    assert not np.array_equal(batch.pop('key'), jax.random.key_data(key))  # the one that drew the batch
    for name in set(batch) - {'rewards'}:
        np.testing.assert_array_equal(batch[name], plain[name])
    assert batch['actions'].shape == (32, 4, 1) and batch['observations'].shape == (32, 3)


def test_stream_uses_what_it_receives_as_it_is(key):
    batch = {'x': np.arange(3, dtype=np.float32)}
    source = sources.stream(batch)
    data = source.init(key)
    assert data['x'].shape == (3,) and not data['x'].any()
    data = source.receive(data, batch)
    after, used = source.sample((), data, None, key)
    assert used is data and after is data
    np.testing.assert_array_equal(used['x'], batch['x'])


def test_online_source_samples_what_it_received(key):
    source = sources.online({'observations': np.zeros(2, np.float32), 'rewards': np.float32(0)}, 8, 256)
    assert source.example['observations'].shape == (256, 2) and source.example['rewards'].shape == (256,)
    data = jax.jit(source.init)(key)
    receive, sample = jax.jit(source.receive), jax.jit(source.sample)
    for start in (1, 4):
        new = np.arange(start, start + 3, dtype=np.float32)
        data = receive(data, {'observations': np.stack([new, -new], axis=1), 'rewards': 10 * new})
    _, batch = sample((), data, None, key)
    assert set(np.unique(batch['rewards'])) == {10, 20, 30, 40, 50, 60}
    np.testing.assert_array_equal(10 * batch['observations'], np.stack([batch['rewards'], -batch['rewards']], axis=1))


ROW = {
    'observations': np.zeros(1, np.float32),
    'actions': np.zeros(1, np.float32),
    'rewards': np.zeros((), np.float32),
    'masks': np.zeros((), np.float32),
    'valid': np.zeros((), bool),
}


def call(number, valid=True, width=1):
    """Rows of two environments that observe 100 + number and 200 + number, their last `width` frames."""
    frames = np.float32([[base + max(0, number - j) for j in reversed(range(width))] for base in (100, 200)])
    return {
        'observations': frames,
        'actions': -frames[:, -1:],
        'rewards': frames[:, -1],
        'masks': np.ones(2, np.float32),
        'valid': np.array([valid, valid]),
    }


def fill(source, calls, key, width=1):
    data, receive = source.init(key), jax.jit(source.receive)
    for number in range(calls):
        data = receive(data, call(number, width=width))
    return data


def online_rows(batch_size, dataset, **options):
    return sources.online_rows(ROW, slots=2, capacity=8, batch_size=batch_size, dataset=dataset, **options)


OFFLINE, ONLINE = set(range(12)) - {4, 11}, {100, 101, 200, 201}  # what begins a transition, after three calls


def test_online_rows_are_uniform_over_both_parts(key):
    dataset = rows()
    source = online_rows(2800, dataset)
    data = fill(source, 3, key)
    sample = jax.jit(source.sample)
    _, batch = sample(dataset, data, None, key)
    values, counts = np.unique(batch['observations'], return_counts=True)
    assert set(values) == OFFLINE | ONLINE
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(batch['next_observations'], batch['observations'] + 1)
    np.testing.assert_array_equal(batch['actions'], -batch['observations'])
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), source.example)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), sources.offline(dataset, 2800).example)


def test_balanced_online_rows_are_half_and_half(key):
    dataset = rows()
    source = online_rows(2001, dataset, balanced=True)
    batch = jax.jit(source.sample)(dataset, fill(source, 3, key), None, key)[1]
    observations = np.asarray(batch['observations'])[:, 0]
    for part, held in ((observations[:1000], OFFLINE), (observations[1000:], ONLINE)):
        values, counts = np.unique(part, return_counts=True)
        assert set(values) == held and scipy.stats.chisquare(counts).pvalue > 1e-4
    with pytest.raises(ValueError, match='need a dataset'):
        online_rows(4, None, balanced=True)


@pytest.mark.parametrize('balanced', [False, True])
@pytest.mark.parametrize('calls', [0, 1])
def test_online_rows_without_a_transition_are_all_offline(balanced, calls, key):
    source = online_rows(200, rows(), balanced=balanced)
    batch = jax.jit(source.sample)(source.constants, fill(source, calls, key), None, key)[1]
    assert set(np.unique(batch['observations'])) == OFFLINE


def test_online_rows_without_a_dataset(key):
    source = online_rows(200, None, horizon=3, frame_stack=2)
    assert source.constants == ()
    sample = jax.jit(source.sample)
    assert not sample((), source.init(key), None, key)[1]['observations'].any()
    # Rows that bring stacks fill the ring as single frames do.
    single, stacked = fill(source, 6, key), fill(source, 6, key, width=2)
    jax.tree.map(np.testing.assert_array_equal, single, stacked)
    batch = sample((), stacked, None, key)[1]
    assert set(np.unique(batch['observations'][:, 1])) == {102, 103, 104, 202, 203, 204}
    first = np.asarray(batch['observations'][:, 1]) % 100 == 2  # the oldest of four rows
    np.testing.assert_array_equal(batch['observations'][:, 0], batch['observations'][:, 1] - ~first)
    assert batch['actions'].shape == (200, 3, 1)


@pytest.mark.parametrize('options', [{}, {'balanced': True, 'horizon': 2}], ids=['uniform', 'balanced windows'])
def test_online_rows_of_a_population_are_those_of_its_members(options, key):
    """Members whose rings hold different rows: mapped, vectorised and alone."""
    dataset = replay.place_dataset(rows(), make_mesh('data:1'))
    source = online_rows(16, dataset, **options)
    rings, keys = [fill(source, n, key) for n in (1, 3, 6)], jax.random.split(key, 3)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rings)

    def step(ring, key):
        return source.sample(dataset, source.receive(ring, call(9)), None, key)

    alone = [jax.jit(step)(ring, key) for ring, key in zip(rings, keys, strict=True)]
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    mapped = jax.jit(lambda ring, keys: jax.lax.map(lambda one: step(*one), (ring, keys)))(stacked, keys)
    vectorised = jax.jit(jax.vmap(step))(stacked, keys)
    for other in (mapped, vectorised):
        jax.tree.map(np.testing.assert_array_equal, alone, other)


class Count:
    """1, 2, 3, ...; can fail at a number, and counts how far it was read."""

    def __init__(self, fail_at=None):
        self.position, self.fail_at = 0, fail_at

    def next(self, act):
        self.position += 1
        if self.position == self.fail_at:
            raise ValueError('the disk is gone')
        return np.full(2, self.position), 2

    def get_state(self):
        return {'position': self.position}

    def set_state(self, state):
        self.position = state['position']


@pytest.fixture
def closing():
    """Ends the threads, whatever the test does."""
    opened = []
    yield lambda feed: opened.append(feed) or feed
    for feed in opened:
        feed.close()


def take(feed, count):
    return [int(feed.next(None)[0][0]) for _ in range(count)]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_prefetch_reads_ahead_and_keeps_the_order(closing):
    inner = Count()
    feed = closing(sources.Prefetch(inner, depth=3))
    wait_for(lambda: inner.position == 4)  # three wait in the queue, one in the hand
    assert take(feed, 100) == list(range(1, 101))
    assert feed.next(None)[1] == 2


@pytest.mark.parametrize('depth', [1, 4])
def test_prefetch_goes_on_after_the_last_batch_handed_out(depth, closing):
    inner = Count()
    feed = closing(sources.Prefetch(inner, depth))
    assert feed.get_state() == {'position': 0}
    assert take(feed, 5) == [1, 2, 3, 4, 5]
    wait_for(lambda: inner.position > 5)  # it is ahead, its position is not what is saved
    saved = json.loads(json.dumps(feed.get_state()))
    assert saved == {'position': 5}

    other = closing(sources.Prefetch(Count(), depth))
    take(other, 2)
    other.set_state(saved)
    assert take(other, 3) == [6, 7, 8]
    feed.set_state({'position': 1})  # and back, on the one that ran
    assert take(feed, 2) == [2, 3]


def test_prefetch_raises_the_stream_s_error_where_the_batch_would_have_come(closing):
    feed = closing(sources.Prefetch(Count(fail_at=4), depth=2))
    assert take(feed, 3) == [1, 2, 3]
    with pytest.raises(ValueError, match='the disk is gone'):
        feed.next(None)
    assert feed.get_state() == {'position': 3}


def test_prefetch_refuses_a_stream_that_asks_the_policy(closing):
    class Asks(Count):
        def next(self, act):
            return act(np.zeros(1), np.ones(1, bool)), 1

    with pytest.raises(TypeError, match='asks the policy'):
        closing(sources.Prefetch(Asks())).next(None)


def test_prefetch_ends_its_thread():
    before = threading.active_count()
    feed = sources.Prefetch(Count())
    assert threading.active_count() == before + 1
    feed.close()
    assert threading.active_count() == before
