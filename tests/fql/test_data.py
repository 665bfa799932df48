"""Where the rows come from, and what is made of somebody's own."""

import urllib.error
import urllib.request

import ml_collections
import numpy as np
import pytest

from core_jax.datasets import save_npz
from core_jax.errors import UserError
from fql_jax import collect, data, tasks

POINT = tasks.resolve('ogbench-pointmaze')
N = 6
OWN = {
    'observations': np.arange(2 * N, dtype=np.float32).reshape(N, 2),
    'actions': np.linspace(-1, 1, N, dtype=np.float32)[:, None],
    'rewards': np.arange(N, dtype=np.float32),
    'terminals': np.array([0, 0, 1, 0, 0, 1], bool),
}


def config(**fields) -> ml_collections.ConfigDict:
    defaults = {'dataset': '', 'data_kind': '', 'data_episodes': 2, 'data_length': 0, 'data_dir': ''}
    return ml_collections.ConfigDict(
        defaults | {key: str(value) if key == 'data_dir' else value for key, value in fields.items()}
    )


def maze_file(path, x=0.0):
    """Two trajectories of three transitions in the pointmaze, in OGBench's format; task 1 ends at (20, 20)."""
    qpos = np.full((8, 2), x, np.float32)
    terminals = np.array([0, 0, 0, 1, 0, 0, 0, 1], bool)
    actions = np.ones((8, 2), np.float32)
    save_npz(path, {'observations': qpos, 'actions': actions, 'terminals': terminals, 'qpos': qpos, 'qvel': qpos})
    return path


@pytest.fixture
def offline(monkeypatch):
    """No network, whatever the machine has."""

    def refuse(*_, **__):
        raise urllib.error.URLError('no network in tests')

    monkeypatch.setattr(urllib.request, 'urlopen', refuse)


def test_the_directory(monkeypatch, tmp_path):
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    assert data.directory() == tmp_path
    assert data.directory('/elsewhere').as_posix() == '/elsewhere'
    monkeypatch.delenv('TENFOLD_DATA')
    monkeypatch.setenv('HOME', '/somebody')
    assert data.directory().as_posix() == '/somebody/.cache/tenfold/data'


def test_a_file_that_is_named_comes_first(tmp_path):
    said = []
    rows = data.load_dataset(POINT, config(dataset=str(maze_file(tmp_path / 'mine.npz', x=19.5))), said.append)
    assert said == [f'data: {tmp_path / "mine.npz"}: ' + data.describe(rows)]
    np.testing.assert_array_equal(rows['starts'], [0, 1, 2, 4, 5, 6])
    # 0.7 from the goal (20, 20): in it, for a point. Rewards, masks: by OGBench; actions: clipped.
    np.testing.assert_array_equal(rows['rewards'], np.zeros(8))
    np.testing.assert_array_equal(rows['masks'], np.zeros(8))
    np.testing.assert_array_equal(rows['actions'], np.full((8, 2), np.float32(1 - 1e-5)))
    with pytest.raises(UserError, match='there is no dataset'):
        data.load_dataset(POINT, config(dataset=str(tmp_path / 'none.npz')))


def test_the_official_file_before_a_collected_one(tmp_path, offline):
    official = maze_file(tmp_path / 'pointmaze-medium-navigate-v0.npz')
    maze_file(tmp_path / 'pointmaze-medium-navigate-1000x1000-seed0.npz', x=19.5)
    said = []
    rows = data.load_dataset(POINT, config(data_episodes=0, data_dir=tmp_path), said.append)
    assert str(official) in said[0]
    assert rows['rewards'].max() == -1
    official.unlink()
    rows = data.load_dataset(POINT, config(data_episodes=0, data_dir=tmp_path), said.append)
    assert '1000x1000-seed0.npz' in said[1]
    assert rows['rewards'].max() == 0


def test_else_it_is_collected_and_kept(tmp_path, offline, monkeypatch):
    said, asked = [], []

    def pretend(task, kind, episodes, *, out, val_episodes, length, should_stop):
        asked.append((task.environment, kind, episodes, val_episodes, length))
        return maze_file(out)

    monkeypatch.setattr(collect, 'collect', pretend)
    for _ in range(2):
        data.load_dataset(POINT, config(data_episodes=3, data_dir=tmp_path), said.append)
    assert asked == [('pointmaze-medium', 'navigate', 3, 0, 1000)]
    assert said[0].startswith('data: collecting 3 episodes of 1000 steps here, once, into ')
    assert said[1] == said[2]
    # The official size: first the network is tried.
    data.load_dataset(POINT, config(data_episodes=0, data_dir=tmp_path), said.append)
    assert said[3] == 'data: the official file cannot be downloaded (<urlopen error no network in tests>)'
    assert asked[1] == ('pointmaze-medium', 'navigate', 1000, 0, 1000)


def test_a_download(tmp_path, monkeypatch):
    import ogbench

    source = maze_file(tmp_path / 'source.npz').read_bytes()

    class Answer:
        headers = {'Content-Length': str(len(source))}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def download(names, directory):
        assert names == ['pointmaze-medium-navigate-v0']
        (tmp_path / f'{names[0]}.npz').write_bytes(source[: len(source) - cut])

    monkeypatch.setattr(urllib.request, 'urlopen', lambda request: Answer())
    monkeypatch.setattr(ogbench, 'download_datasets', download)
    official, said, cut = tmp_path / 'pointmaze-medium-navigate-v0.npz', [], 10
    assert not data._download(official, said.append)
    assert said[-1] == 'data: the official file came incomplete'
    assert not official.exists()
    cut = 0
    rows = data.load_dataset(POINT, config(data_episodes=0, data_dir=tmp_path), said.append)
    assert 'data: downloading https://' in said[-2]
    assert len(rows['starts']) == 6


@pytest.mark.parametrize(
    ('name', 'fields', 'message'),
    [
        ('ogbench-humanoidmaze', {}, 'cannot be collected here; give --dataset=FILE.npz'),
        ('ogbench-cube', {'data_kind': 'navigate'}, "cube-single has no 'navigate' data; it has play, noisy"),
        ('Pendulum-v1', {}, 'has no data of its own; give --dataset=FILE.npz'),
    ],
)
def test_nowhere(tmp_path, name, fields, message):
    with pytest.raises(UserError, match=message):
        data.load_dataset(tasks.resolve(name), config(data_dir=tmp_path, **fields))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'qpos': None}, "no 'qpos' to compute them from"),
        ({'observations': np.zeros((8, 3))}, r'observations have shape \(3,\), those of pointmaze-medium \(2,\)'),
        ({'actions': np.zeros((8, 1))}, r'actions have shape \(1,\)'),
        ({'actions': np.full((8, 2), 3.0)}, 'actions reach 3'),
        ({'terminals': np.zeros(8, bool)}, 'the last row is not terminal'),
        ({'observations': np.full((8, 2), np.nan)}, 'NaN'),
    ],
)
def test_wrong_files(tmp_path, change, message):
    with np.load(maze_file(tmp_path / 'a.npz')) as file:
        arrays = {key: array for key, array in (dict(file) | change).items() if array is not None}
    save_npz(tmp_path / 'a.npz', arrays)
    with pytest.raises(UserError, match=message):
        data.read(tmp_path / 'a.npz', POINT)


def transitions(rows: dict) -> list[tuple]:
    """(first number of the state, reward, mask, first number of the next state) of each transition."""
    columns = [rows['observations'][:, 0], rows['rewards'], rows['masks']]
    return [(*(float(c[i]) for c in columns), float(rows['observations'][i + 1, 0])) for i in rows['starts']]


def test_own_rows_where_every_end_is_real():
    rows = data.from_arrays(OWN)
    assert [row[:3] for row in transitions(rows)] == [
        (0, 0, 1),
        (2, 1, 1),
        (4, 2, 0),
        (6, 3, 1),
        (8, 4, 1),
        (10, 5, 0),
    ]
    assert [row[3] for row in transitions(rows) if row[2]] == [2, 4, 8, 10]  # those that the target reads
    assert len(rows['observations']) == 8
    assert {array.dtype.name for array in rows.values()} == {'float32', 'bool', 'int32'}


def test_own_rows_cut_by_a_time_limit():
    masks = np.array([1, 1, 1, 1, 1, 0], np.float32)
    # Without next observations row 2 has nowhere to bootstrap from; with them it has.
    assert [row[0] for row in transitions(data.from_arrays(OWN | {'masks': masks}))] == [0, 2, 6, 8, 10]
    following = OWN['observations'] + 100
    rows = data.from_arrays(OWN | {'masks': masks, 'next_observations': following})
    assert [row[0] for row in transitions(rows)] == [0, 2, 4, 6, 8, 10]
    assert transitions(rows)[2] == (4, 2, 1, 104)
    assert transitions(rows)[5] == (10, 5, 0, 110)


def test_own_rows_without_a_last_end():
    terminals = np.array([0, 0, 1, 0, 0, 0], bool)
    rows = data.from_arrays(OWN | {'terminals': terminals})
    assert [row[0] for row in transitions(rows)] == [0, 2, 4, 6, 8]  # row 5 is only the state after row 4
    assert rows['terminals'][-1]


def test_own_files_need_no_ogbench(tmp_path):
    save_npz(tmp_path / 'own.npz', OWN)
    task = tasks.resolve('Pendulum-v1')
    rows = data.load_dataset(task, config(dataset=str(tmp_path / 'own.npz')), lambda text: None)
    np.testing.assert_array_equal(rows['observations'], data.from_arrays(OWN)['observations'])
    save_npz(tmp_path / 'none.npz', {key: array for key, array in OWN.items() if key != 'rewards'})
    with pytest.raises(UserError, match='no rewards, and there is no way to compute those of Pendulum-v1'):
        data.read(tmp_path / 'none.npz', task)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'rewards': np.zeros((N, 1))}, "'rewards' has shape"),
        ({'masks': np.zeros(N - 1)}, 'lengths differ'),
        ({'actions': 2 * OWN['actions']}, 'actions reach 2; scale them'),
        ({'next_observations': np.zeros((N, 3))}, 'next_observations have shape'),
        ({'terminals': np.ones(N), 'masks': np.ones(N)}, 'there is no transition in it'),
        ({'rewards': np.full(N, np.inf)}, 'NaN or infinite'),
    ],
)
def test_wrong_own_rows(change, message):
    with pytest.raises(UserError, match=f'^the dataset: .*{message}'):
        data.from_arrays(OWN | change)
