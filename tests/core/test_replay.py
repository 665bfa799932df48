"""Replay against loops in NumPy: uniform transitions, windows over trajectory ends, rings that wrap, shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

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


STARTS = np.array([row for rows in trajectories() for row in rows[:-1]])


def row_of(batch):
    """Row numbers, written in the observations."""
    return np.asarray(batch['observations'])[:, 0].astype(int)


def test_layout_counts_every_transition_once():
    data = replay.dataset(**arrays())
    np.testing.assert_array_equal(data['before'], np.cumsum([0, *(len(rows) - 1 for rows in trajectories())]))
    assert replay.count(data) == len(STARTS)
    np.testing.assert_array_equal(row_of(replay.read(data, np.arange(len(STARTS)))), STARTS)
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
        goes_on = row + 1 in STARTS
        assert batch['next_valid'][i] == goes_on
        following = row + 1 if goes_on else min(row + 2, ROWS - 1)  # over the final state, to the next trajectory
        np.testing.assert_array_equal(batch['next_actions'][i], source['actions'][following])
    assert set(np.unique(batch['next_valid'])) == {0, 1}
    # Uniform over the 15 transitions: 4000/15 = 267 each, standard deviation 16.
    counts = np.bincount(rows, minlength=ROWS)
    assert not counts[np.cumsum(LENGTHS) - 1].any()
    assert np.abs(counts[STARTS] - 4000 / 15).max() < 70


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
    for name in set(windows) & set(transitions):
        np.testing.assert_array_equal(windows[name].reshape(transitions[name].shape), transitions[name])
    returns, bootstrap = replay.n_step(windows['rewards'], windows['masks'], windows['valid'], 0.9)
    np.testing.assert_array_equal(returns, transitions['rewards'])
    np.testing.assert_allclose(bootstrap, 0.9 * transitions['masks'])


@pytest.mark.parametrize('horizon', [None, 3])
@pytest.mark.parametrize('size', [1, 3])
def test_frames_of_a_dataset_are_stacked_by_index(size, horizon, key):
    """Images whose two channels are the row and its double."""
    frames = (np.arange(ROWS, dtype=np.uint8)[:, None] * np.uint8([1, 2])).reshape(ROWS, 1, 1, 2)
    frames = np.broadcast_to(frames, (ROWS, 4, 3, 2))
    data = replay.dataset(**{**arrays(), 'observations': frames})
    index = np.arange(len(STARTS))
    batch = fetch(jax.jit(replay.read, static_argnums=(2, 3))(data, index, horizon, size))
    assert batch['observations'].dtype == np.uint8 and batch['observations'].shape == (15, 4, 3, 2 * size)

    def stack(row):
        first = next(rows[0] for rows in trajectories() if row in rows)
        return np.concatenate([frames[max(row - j, first)] for j in reversed(range(size))], axis=-1)

    for i, row in enumerate(STARTS):
        after = min(row + (horizon or 1), next(rows[-1] for rows in trajectories() if row in rows))
        np.testing.assert_array_equal(batch['observations'][i], stack(row))
        np.testing.assert_array_equal(batch['next_observations'][i], stack(after))
    if size == 3:  # the trajectory of rows 6, 7, 8: repeated at first, then not; the next has two frames in common
        np.testing.assert_array_equal(batch['observations'][4, 0, 0], [6, 12, 6, 12, 6, 12])
        np.testing.assert_array_equal(batch['observations'][5, 0, 0], [6, 12, 6, 12, 7, 14])
        np.testing.assert_array_equal(batch['next_observations'][5, 0, 0], [6, 12, 7, 14, 8, 16])


def test_dataset_over_eight_devices_equals_one(key):
    data = replay.dataset(**arrays())
    both = jax.jit(lambda data, key: (replay.sample(data, key, 64, 2), replay.sample_chunks(data, key, 64, 3)))
    batches = []
    for shape in ('data:1', 'data:8'):
        placed = replay.place_dataset(data, make_mesh(shape))
        batches.append(fetch(both(placed, key)))
    jax.tree.map(np.testing.assert_array_equal, *batches)
    assert placed['observations'].addressable_shards[0].data.shape == (3, 2)  # 20 rows, padded to 24
    assert placed['before'].is_fully_replicated
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


# The compact ring

ROW = {
    'observations': np.zeros(2, np.float32),
    'actions': np.zeros(1, np.float32),
    'rewards': np.zeros((), np.float32),
    'masks': np.zeros((), np.float32),
    'valid': np.zeros((), bool),
}
add_rows = jax.jit(replay.add_rows, donate_argnums=0)  # as the driver calls it
sample_rows = jax.jit(replay.sample_rows, static_argnums=(2, 3, 4))


class Naive:
    """Everything that S environments ever brought, one dict of rows [S, ...] a call. A row's number is in it."""

    def __init__(self, slots, blocks, seed=0):
        self.slots, self.blocks, self.calls = slots, blocks, []
        self.rng = np.random.default_rng(seed)
        self.left = np.zeros(slots, int)  # transitions until the episode ends

    def call(self):
        """Episodes of 1 to 6 transitions, of which half terminate and half are cut."""
        valid = self.left > 0
        number = len(self.calls) * self.slots + np.arange(self.slots)
        last = self.left == 1
        masks = valid & ~(last & (self.rng.uniform(size=self.slots) < 0.5))
        rows = {
            'observations': np.stack([number, -number], axis=1).astype(np.float32),
            'actions': np.where(valid, self.rng.uniform(-1, 1, self.slots), 0)[:, None].astype(np.float32),
            'rewards': (valid * self.rng.normal(size=self.slots)).astype(np.float32),
            'masks': masks.astype(np.float32),
            'valid': valid,
        }
        self.left = np.where(valid, self.left - 1, self.rng.integers(1, 7, self.slots))
        self.calls.append(rows)
        return rows

    def transitions(self):
        """(call, slot) of those whose row and next row are still there."""
        oldest = max(0, len(self.calls) - self.blocks)
        times = range(oldest, len(self.calls) - 1)
        return [(t, s) for t in times for s in range(self.slots) if self.calls[t]['valid'][s]]

    def item(self, t, s, horizon, size):
        """What a batch must hold of that transition."""
        oldest, newest = max(0, len(self.calls) - self.blocks), len(self.calls) - 1

        def get(name, t):
            return self.calls[t][name][s]

        begin = t
        while begin > oldest and get('valid', begin - 1):
            begin -= 1

        def stack(t):
            return np.concatenate([get('observations', max(t - j, begin)) for j in reversed(range(size))])

        names = ('actions', 'rewards', 'masks')
        if not horizon:
            step = {name: get(name, t) for name in names}
            following = {'next_actions': get('actions', t + 1), 'next_valid': np.float32(get('valid', t + 1))}
            return {'observations': stack(t), **step, 'next_observations': stack(t + 1), **following}
        steps = 1
        while steps < horizon and t + steps < newest and get('valid', t + steps):
            steps += 1
        times = [t + min(j, steps - 1) for j in range(horizon)]
        return {
            'observations': stack(t),
            **{name: np.stack([get(name, t) for t in times]) for name in names},
            'valid': (np.arange(horizon) < steps).astype(np.float32),
            'next_observations': stack(t + steps),
        }


@pytest.mark.parametrize('slots, capacity, blocks', [(1, 12, 12), (3, 31, 11), (4, 1, 2)])
@pytest.mark.parametrize('horizon, size', [(None, 1), (None, 3), (4, 3)])
def test_compact_ring_against_whole_episodes(slots, capacity, blocks, horizon, size):
    naive, ring = Naive(slots, blocks), replay.rows_ring(ROW, capacity, slots)
    assert ring.rows['valid'].shape == (blocks, slots)
    looks, key, cut = {2, blocks - 1, blocks, blocks + 1, 3 * blocks + 2, 60}, jax.random.key(1), 0
    for call in range(1, 61):
        ring = add_rows(ring, naive.call())
        known = {int(naive.calls[t]['observations'][s, 0]): (t, s) for t, s in naive.transitions()}
        assert int(replay.rows_count(ring)) == len(known)
        assert max(int(leaf) for leaf in (ring.head, ring.count, ring.oldest)) <= blocks * slots
        if call not in looks or not known:
            continue
        batch = fetch(sample_rows(ring, jax.random.fold_in(key, call), 1000, horizon, size))
        numbers, first, counts = np.unique(batch['observations'][:, -2], return_index=True, return_counts=True)
        assert set(numbers) == set(known)  # all of them, and nothing else
        if len(known) > 1:
            assert scipy.stats.chisquare(counts).pvalue > 1e-4
        for number, i in zip(numbers, first, strict=True):
            item = naive.item(*known[int(number)], horizon, size)
            assert set(item) == set(batch)
            for name in item:
                np.testing.assert_array_equal(batch[name][i], item[name], err_msg=name)
            cut += horizon is not None and not item['valid'].all()
    assert cut > 0 or horizon != 4


def test_compact_ring_repeats_the_oldest_frame_left_where_older_ones_were_overwritten():
    """One endless episode 0, 1, 2, ... in four rows; its age does not grow beyond what matters."""
    ring = replay.rows_ring(ROW, 4, 1)
    for number in range(7):
        row = jax.tree.map(lambda x: x[None], ROW)
        ring = add_rows(ring, row | {'observations': np.float32([[number, 0]]), 'valid': np.array([True])})
    batch = jax.jit(replay.read_rows, static_argnums=(2, 3))(ring, np.arange(3), None, 3)
    np.testing.assert_array_equal(batch['observations'][:, ::2], [[3, 3, 3], [3, 3, 4], [3, 4, 5]])
    np.testing.assert_array_equal(batch['next_observations'][:, ::2], [[3, 3, 4], [3, 4, 5], [4, 5, 6]])
    assert int(ring.rows['age'].max()) <= 4


def test_compact_ring_keeps_dtypes_and_gives_row_0_while_empty(key):
    ring = replay.rows_ring(ROW | {'observations': np.zeros((4, 4, 3), np.uint8)}, 6, 2)
    assert ring.rows['observations'].shape == (3, 2, 4, 4, 3) and ring.rows['observations'].dtype == jnp.uint8
    batch = sample_rows(ring, key, 5, 2, 3)
    assert batch['observations'].shape == (5, 4, 4, 9) and not batch['valid'].any()


def test_compact_ring_over_eight_devices_equals_one(key):
    results = []
    for shape in ('data:1', 'data:8'):
        naive, empty = Naive(2, 16), replay.rows_ring(ROW, 32, 2)
        shardings = replay.ring_spec(empty, make_mesh(shape))
        ring = place(fetch(empty), shardings)
        write = jax.jit(replay.add_rows, out_shardings=shardings)
        for _ in range(40):
            ring = write(ring, naive.call())
        results.append(fetch((ring, sample_rows(ring, key, 64, 3, 2))))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert ring.rows['observations'].addressable_shards[0].data.shape == (2, 2, 2)
    assert results[0][1]['valid'].sum() > 64


# Windows of a ring


def episodes_ring(capacity, slots, calls, lengths):
    """(ring, rows written in order): observations are numbered, slot s ends its episodes after lengths[s] steps."""
    example = {
        'observations': np.zeros(1, np.float32),
        'actions': np.zeros(1, np.float32),
        'rewards': np.float32(0),
        'masks': np.float32(0),
        'ends': np.bool_(False),
        'next_observations': np.zeros(1, np.float32),
    }
    buffer, written, write = replay.ring(example, capacity), [], jax.jit(replay.add)
    for call in range(calls):
        number = np.arange(slots) + 100.0 * call
        ends = np.array([(call + 1) % length == 0 for length in lengths])
        rows = {
            'observations': number[:, None],
            'actions': -number[:, None],
            'rewards': np.sin(number),
            'masks': 1.0 - (ends & (call % 2 == 0)),  # some ends terminate
            'ends': ends,
            'next_observations': number[:, None] + 50,  # the true one, also at an end
        }
        rows = {name: np.asarray(value, example[name].dtype) for name, value in rows.items()}
        buffer = write(buffer, rows)
        written += [{name: value[slot] for name, value in rows.items()} for slot in range(slots)]
    return buffer, written[-capacity:]


@pytest.mark.parametrize('calls', [3, 6, 11])
@pytest.mark.parametrize('horizon', [1, 3])
def test_windows_of_a_ring_against_a_loop(calls, horizon, key):
    slots, capacity = 2, 12
    buffer, written = episodes_ring(capacity, slots, calls, lengths=(3, 4))
    sample = jax.jit(replay.sample_ring, static_argnums=(2, 3, 4))
    batch = fetch(sample(buffer, key, 400, horizon, slots))
    by_number = {float(row['observations'][0]): i for i, row in enumerate(written)}
    starts = [by_number[float(o)] for o in batch['observations'][:, 0]]
    assert set(starts) == set(range(len(written)))  # all that is there, nothing else
    for i, start in enumerate(starts):
        steps = [start]
        while len(steps) < horizon and not written[steps[-1]]['ends'] and steps[-1] + slots < len(written):
            steps.append(steps[-1] + slots)
        np.testing.assert_array_equal(batch['valid'][i], np.arange(horizon) < len(steps))
        padded = steps + steps[-1:] * (horizon - len(steps))
        for name in ('actions', 'rewards', 'masks'):
            np.testing.assert_array_equal(batch[name][i], [written[step][name] for step in padded])
        np.testing.assert_array_equal(batch['next_observations'][i], written[steps[-1]]['next_observations'])


def test_the_newest_of_a_ring():
    buffer, written = episodes_ring(12, 2, 9, lengths=(3, 4))
    newest = jax.jit(replay.newest_ring, static_argnums=(1, 2, 3))
    batch = newest(buffer, 5)
    np.testing.assert_array_equal(batch['observations'], [row['observations'] for row in written[::-1][:5]])
    windows = newest(buffer, 4, 3, 2)  # whole ones: the last two steps of each environment begin none
    np.testing.assert_array_equal(windows['observations'], [row['observations'] for row in written[::-1][4:8]])
    few, written = episodes_ring(12, 2, 1, lengths=(3, 4))
    batch = newest(few, 4)
    expected = [written[1], written[0], written[0], written[0]]  # the oldest stands for what is missing
    np.testing.assert_array_equal(batch['observations'], [row['observations'] for row in expected])
