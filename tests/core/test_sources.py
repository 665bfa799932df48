"""Where batches come from: what a source hands to the learner, and a stream that is read ahead."""

import json
import threading
import time

import jax
import numpy as np
import pytest

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
            return act(np.zeros(1)), 1

    with pytest.raises(TypeError, match='asks the policy'):
        closing(sources.Prefetch(Asks())).next(None)


def test_prefetch_ends_its_thread():
    before = threading.active_count()
    feed = sources.Prefetch(Count())
    assert threading.active_count() == before + 1
    feed.close()
    assert threading.active_count() == before
