"""Replay against loops in NumPy: uniform transitions, windows over trajectory ends, a ring that wraps, shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import replay
from core_jax.mesh import fetch, make_mesh, place

LENGTHS = (5, 1, 3, 9, 2)  # rows; a trajectory of one row begins no transition
ROWS = sum(LENGTHS)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        'observations': np.arange(ROWS, dtype=np.float64)[:, None] * [[1, 100]],
        'actions': rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
        'rewards': rng.normal(size=ROWS).astype(np.float32),
        'masks': (rng.uniform(size=ROWS) > 0.2).astype(np.float32),
        'trajectory_ends': np.isin(np.arange(ROWS), np.cumsum(LENGTHS) - 1),
    }


def trajectories():
    return np.split(np.arange(ROWS), np.cumsum(LENGTHS)[:-1])


def row_of(batch):
    """Row numbers, written in the observations."""
    return np.asarray(batch['observations'])[:, 0].astype(int)


def test_layout_counts_every_transition_once():
    data = replay.dataset(**arrays())
    starts = [row for rows in trajectories() for row in rows[:-1]]
    np.testing.assert_array_equal(data['starts'], starts)
    np.testing.assert_array_equal(data['ends'], [rows[-1] for rows in trajectories() for _ in rows])
    assert {data[name].dtype for name in ('observations', 'actions', 'rewards', 'masks')} == {np.dtype(np.float32)}
    images = replay.dataset(**{**arrays(), 'observations': np.zeros((ROWS, 4, 4, 3), np.uint8)})
    assert images['observations'].dtype == np.uint8
    with pytest.raises(ValueError, match='the last row must end a trajectory'):
        replay.dataset(**{**arrays(), 'trajectory_ends': np.zeros(ROWS)})


def test_transitions_against_a_loop(key):
    source, data = arrays(), replay.dataset(**arrays())
    batch = jax.jit(replay.sample, static_argnums=2)(data, key, 4000)
    rows = row_of(batch)
    for i, row in enumerate(rows[:200]):
        for name in ('observations', 'actions', 'rewards', 'masks'):
            np.testing.assert_array_equal(batch[name][i], source[name][row])
        np.testing.assert_array_equal(batch['next_observations'][i], source['observations'][row + 1])
    # Uniform over the 15 transitions: 4000/15 = 267 each, standard deviation 16.
    counts = np.bincount(rows, minlength=ROWS)
    assert not counts[np.cumsum(LENGTHS) - 1].any()
    assert np.abs(counts[data['starts']] - 4000 / 15).max() < 70


def naive_window(source, row, horizon, discount):
    """Steps from `row` to the end of its trajectory; the return until the first mask of 0; the bootstrap."""
    last = next(rows[-1] for rows in trajectories() if row in rows)
    steps = range(row, min(row + horizon, last))
    total, weight = 0.0, 1.0
    for step in steps:
        total += weight * source['rewards'][step]
        weight *= discount * source['masks'][step]
    return steps, total, weight


@pytest.mark.parametrize('horizon', [1, 3, 12])
def test_windows_and_n_step_returns_against_a_loop(horizon, key):
    source, discount = arrays(), 0.9
    data = replay.dataset(**source)
    batch = fetch(jax.jit(replay.sample_chunks, static_argnums=(2, 3))(data, key, 300, horizon))
    returns, bootstrap = fetch(jax.jit(replay.n_step)(batch['rewards'], batch['masks'], batch['valid'], discount))
    kinds = set()
    for i, row in enumerate(row_of(batch)):
        steps, total, weight = naive_window(source, row, horizon, discount)
        n = len(steps)
        np.testing.assert_array_equal(batch['valid'][i], np.arange(horizon) < n)
        for name in ('actions', 'rewards', 'masks'):
            np.testing.assert_array_equal(batch[name][i, :n], source[name][list(steps)])
            np.testing.assert_array_equal(batch[name][i, n:], source[name][[steps[-1]] * (horizon - n)])
        np.testing.assert_array_equal(batch['next_observations'][i], source['observations'][steps[-1] + 1])
        assert returns[i] == pytest.approx(total, abs=1e-5)
        assert bootstrap[i] == pytest.approx(weight, abs=1e-6)
        kinds.add((n < horizon, weight == 0))
    # Whole and cut windows, with and without termination in them.
    assert len(kinds) == {1: 2, 3: 4, 12: 2}[horizon]


def test_one_step_windows_are_the_transitions(key):
    data = replay.dataset(**arrays())
    windows, transitions = replay.sample_chunks(data, key, 32, 1), replay.sample(data, key, 32)
    for name in transitions:
        np.testing.assert_array_equal(windows[name].reshape(transitions[name].shape), transitions[name])
    returns, bootstrap = replay.n_step(windows['rewards'], windows['masks'], windows['valid'], 0.9)
    np.testing.assert_array_equal(returns, transitions['rewards'])
    np.testing.assert_allclose(bootstrap, 0.9 * transitions['masks'])


def test_dataset_over_eight_devices_equals_one(key):
    data = replay.dataset(**arrays())
    both = jax.jit(lambda data, key: (replay.sample(data, key, 64), replay.sample_chunks(data, key, 64, 3)))
    batches = []
    for shape in ('data:1', 'data:8'):
        placed = replay.place_dataset(data, make_mesh(shape))
        batches.append(fetch(both(placed, key)))
    jax.tree.map(np.testing.assert_array_equal, *batches)
    assert placed['observations'].addressable_shards[0].data.shape == (3, 2)  # 20 rows, padded to 24
    assert placed['starts'].is_fully_replicated
    spec = replay.dataset_spec(data, make_mesh('data:8'))
    for name, array in placed.items():
        assert (array.shape, array.dtype, array.sharding) == (spec[name].shape, spec[name].dtype, spec[name].sharding)


# The ring

CAPACITY = 8
EXAMPLE = {'x': np.zeros(2, np.float32), 'n': np.int32(0)}
add = jax.jit(replay.add)


def numbered(numbers):
    numbers = np.asarray(numbers)
    return {'x': np.stack([numbers, -numbers], axis=1).astype(np.float32), 'n': numbers.astype(np.int32)}


def test_ring_against_a_loop():
    """Blocks of all sizes, many times around; the loop writes at the number of what was ever added."""
    buffer, naive, total = replay.ring(EXAMPLE, CAPACITY), np.zeros(CAPACITY, int), 0
    size = jax.jit(replay.ring_size)
    for count in [3, 3, 3, 8, 1, 5] * 4:
        new = np.arange(total + 1, total + count + 1)
        buffer = add(buffer, numbered(new))
        for i, number in enumerate(new):
            naive[(total + i) % CAPACITY] = number
        total += count
        np.testing.assert_array_equal(buffer.rows['n'], naive)
        np.testing.assert_array_equal(buffer.rows['x'], np.stack([naive, -naive], axis=1))
        assert size(buffer) == min(total, CAPACITY)
        assert int(buffer.added) < 2 * CAPACITY  # so it never overflows
    assert buffer.rows['x'].dtype == jnp.float32 and buffer.rows['n'].dtype == jnp.int32


def test_ring_samples_uniformly_what_it_holds(key):
    sample = jax.jit(replay.sample_ring, static_argnums=2)
    buffer = replay.ring(EXAMPLE, CAPACITY)
    assert not sample(buffer, key, 100)['n'].any()  # nothing there yet: row 0
    seen = 0
    for count, held in ((3, {1, 2, 3}), (5, set(range(1, 9))), (3, set(range(4, 12))), (8, set(range(12, 20)))):
        buffer = add(buffer, numbered(np.arange(seen + 1, seen + count + 1)))
        seen += count
        batch = sample(buffer, key, 4000)
        values, counts = np.unique(batch['n'], return_counts=True)
        assert set(values) == held
        expected = 4000 / len(held)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
        np.testing.assert_array_equal(batch['x'], np.stack([batch['n'], -batch['n']], axis=1))


def test_ring_over_eight_devices_equals_one(key):
    sample = jax.jit(replay.sample_ring, static_argnums=2)
    results = []
    for shape in ('data:1', 'data:8'):
        empty = replay.ring(EXAMPLE, 16)
        shardings = replay.ring_spec(empty, make_mesh(shape))
        buffer = place(fetch(empty), shardings)
        write = jax.jit(replay.add, out_shardings=shardings)
        for start in (1, 8, 15):
            buffer = write(buffer, numbered(np.arange(start, start + 7)))
        results.append(fetch((buffer, sample(buffer, key, 64))))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert buffer.rows['x'].addressable_shards[0].data.shape == (2, 2)
    assert buffer.added.is_fully_replicated
    assert set(results[0][0].rows['n']) == set(range(6, 22))
