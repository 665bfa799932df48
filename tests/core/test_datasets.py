"""Files that are wrong in every way we know, array records, and the order of batches."""

import io
import json
import zipfile

import numpy as np
import pytest

from core_jax.datasets import Batches, load_npz, save_npz, tfds_source
from core_jax.errors import UserError

GOOD = {
    'observations': np.arange(12, dtype=np.float32).reshape(6, 2),
    'actions': np.zeros((6, 1), np.float32),
    'terminals': np.array([0, 0, 1, 0, 0, 1], bool),
}
RANKS = {'observations': None, 'actions': 2, 'terminals': 1}


def test_what_is_saved_is_loaded(tmp_path):
    save_npz(tmp_path / 'a.npz', GOOD)
    loaded = load_npz(tmp_path / 'a.npz', RANKS)
    assert loaded.keys() == GOOD.keys()
    for key, array in GOOD.items():
        assert loaded[key].dtype == array.dtype
        np.testing.assert_array_equal(loaded[key], array)


def test_the_same_arrays_give_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    save_npz(tmp_path / 'a.npz', GOOD)
    monkeypatch.setattr('time.time', lambda: 2e9)
    save_npz(tmp_path / 'b.npz', GOOD)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
    assert {member.date_time[0] for member in zipfile.ZipFile(tmp_path / 'a.npz').infolist()} == {1980}


def test_a_failed_save_leaves_what_was_there(tmp_path):
    save_npz(tmp_path / 'a.npz', GOOD)
    before = (tmp_path / 'a.npz').read_bytes()
    with pytest.raises(ValueError, match='Object arrays'):
        save_npz(tmp_path / 'a.npz', {'x': np.zeros(3), 'y': np.array([{}, 1, 2], object)})
    assert (tmp_path / 'a.npz').read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['a.npz']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'actions': None}, "no 'actions'"),
        ({'actions': np.zeros(6)}, "'actions' has shape \\(6,\\); it should have 2 axes"),
        ({'actions': np.zeros((5, 1))}, 'lengths differ: observations 6, actions 5'),
        ({'observations': np.full((6, 2), np.nan)}, "'observations' has a NaN or infinite number in row 0"),
        ({'rewards': np.array([0, 0, 0, np.inf, 0, 0])}, "'rewards' has a NaN or infinite number in row 3"),
        ({key: array[:0] for key, array in GOOD.items()}, "'observations' has no rows"),
        ({'extra': np.float32(3)}, "'extra' has no rows"),
        ({'names': np.array(list('abcdef'))}, "'names' is of type <U1, not numbers"),
    ],
)
def test_wrong_contents_are_named(tmp_path, change, message):
    arrays = {key: array for key, array in (GOOD | change).items() if array is not None}
    np.savez(tmp_path / 'a.npz', **arrays)
    with pytest.raises(UserError, match=message) as caught:
        load_npz(tmp_path / 'a.npz', RANKS)
    assert 'a.npz' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / 'a.npz', observations=np.array([{}, 1], object))
    with pytest.raises(UserError, match="'observations'"):
        load_npz(tmp_path / 'a.npz')


@pytest.mark.parametrize('compress', [True, False])
def test_one_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path, compress):
    path, arrays = tmp_path / 'a.npz', {'observations': np.random.default_rng(0).normal(size=(10, 4))}
    save_npz(path, arrays, compress=compress)
    whole, refused = path.read_bytes(), 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        try:
            loaded = load_npz(path, {'observations': 2})
        except UserError:
            refused += 1
        else:  # in a date, say
            assert loaded.keys() == arrays.keys()
            np.testing.assert_array_equal(loaded['observations'], arrays['observations'])
    assert refused > len(whole) // 2


@pytest.mark.parametrize('place', [0.0, 0.2, 0.5, 0.8, 0.99])
def test_a_file_that_was_cut_is_refused(tmp_path, place):
    path = tmp_path / 'a.npz'
    save_npz(path, GOOD)
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])
    with pytest.raises(UserError, match='a.npz is no npz file, or a damaged one'):
        load_npz(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match='there is no dataset'):
        load_npz(tmp_path / 'none.npz')
    (tmp_path / 'text.npz').write_text('not a zip')
    with pytest.raises(UserError, match='no npz file'):
        load_npz(tmp_path / 'text.npz')
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    (tmp_path / 'single.npz').write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match='no npz file'):
        load_npz(tmp_path / 'single.npz')
    with pytest.raises(UserError, match='is a directory|Is a directory'):
        load_npz(tmp_path)


def take(stream: Batches, count: int) -> np.ndarray:
    return np.array([next(stream) for _ in range(count)])


def test_every_epoch_is_another_permutation():
    order = take(Batches(range(12), 4, seed=5), 9).reshape(3, 12)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in order.tolist()}) == 3
    np.testing.assert_array_equal(order.ravel(), take(Batches(range(12), 4, seed=5), 9).ravel())
    assert not np.array_equal(order.ravel(), take(Batches(range(12), 4, seed=6), 9).ravel())


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_the_global_batches_do_not_depend_on_the_number_of_processes(processes):
    alone = take(Batches(range(10), 8, seed=0), 6)  # 48 examples of 10: across epoch boundaries
    shares = [take(Batches(range(10), 8, 0, process, processes), 6) for process in range(processes)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), alone)


def test_resume_across_an_epoch_boundary_and_on_another_number_of_processes():
    whole = take(Batches(range(10), 4, seed=1), 8)
    first = Batches(range(10), 4, seed=1)
    take(first, 2)  # 8 of 10: the next batch spans two epochs
    state = json.loads(json.dumps(first.get_state()))
    again = Batches(range(10), 4, seed=1)
    again.set_state(state)
    np.testing.assert_array_equal(take(again, 6), whole[2:])
    halves = [Batches(range(10), 4, 1, process, 2) for process in range(2)]
    for half in halves:
        half.set_state(state)
    np.testing.assert_array_equal(np.concatenate([take(half, 6) for half in halves], axis=1), whole[2:])


def test_another_streams_state_is_refused():
    state = Batches(range(10), 4, seed=1).get_state()
    with pytest.raises(UserError, match='seed 1, here 2'):
        Batches(range(10), 4, seed=2).set_state(state)
    with pytest.raises(UserError, match='examples 10, here 11'):
        Batches(range(11), 4, seed=1).set_state(state)
    with pytest.raises(UserError, match='3 processes cannot share a batch of 4'):
        Batches(range(10), 4, 0, 0, 3)
    with pytest.raises(UserError, match='empty'):
        Batches([], 4, 0)


def test_array_records_without_tensorflow(tmp_path):
    import sys

    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = {'x': tfds.features.Tensor(shape=(3,), dtype=np.float32), 'i': tfds.features.Scalar(np.int64)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, downloads):
            return {'train': ((i, {'x': np.full(3, i / 2, np.float32), 'i': i}) for i in range(10))}

        def _generate_examples(self):  # TFDS wants the method; the split above brings its examples itself
            raise AssertionError('not called')

    builder = Toy(data_dir=tmp_path, file_format='array_record')
    builder.download_and_prepare()
    source = tfds_source(builder.data_dir)
    assert sorted(int(example['i']) for example in source) == list(range(10))
    batch = next(Batches(source, 4, seed=0))
    assert batch['x'].shape == (4, 3)
    np.testing.assert_array_equal(batch['x'][:, 0], batch['i'] / 2)
    assert len(tfds_source(builder.data_dir, 'train[:30%]')) == 3
    assert 'tensorflow' not in sys.modules
    with pytest.raises(UserError, match="unknown split 'tain'; did you mean 'train'"):
        tfds_source(builder.data_dir, 'tain')
    with pytest.raises(UserError, match='no TFDS data set'):
        tfds_source(tmp_path / 'nothing')
