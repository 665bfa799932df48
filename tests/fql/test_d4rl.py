"""D4RL's rules against a loop that follows the released code row by row, and the three forms that a set may have."""

import sys

import ml_collections
import numpy as np
import pytest

from core_jax.datasets import save_npz
from core_jax.errors import UserError
from fql_jax import d4rl, data, tasks

ANTMAZE = tasks.resolve('antmaze-large-play-v2')
PEN = tasks.resolve('pen-human-v1')


def shipped(seed: int = 0, lengths=(5, 4, 6, 3)) -> dict[str, np.ndarray]:
    """Four trajectories as D4RL ships them: two cut by the time limit, one that reaches the goal, one unended."""
    rng = np.random.default_rng(seed)
    n, ends = sum(lengths), np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros(n, bool), np.zeros(n, bool)
    timeouts[ends[[0, 2]]] = True
    terminals[ends[1]] = True
    terminals[ends[2] - 2] = True  # on the way, as antmaze has them
    return {
        'observations': rng.normal(size=(n, 3)).astype(np.float32),
        'actions': rng.uniform(-1.2, 1.2, (n, 2)).astype(np.float32),
        'rewards': (rng.uniform(size=n) < 0.3).astype(np.float32),
        'terminals': terminals,
        'timeouts': timeouts,
    }


def released(raw: dict, antmaze: bool) -> list[tuple]:
    """(s, a, r, mask, s', last of its trajectory) of each transition, by the rules of the released code."""
    rows = []
    for i in range(len(raw['rewards']) - 1):
        if raw['timeouts'][i]:
            continue
        reward = float(raw['rewards'][i]) - (1.0 if antmaze else 0.0)
        action = np.clip(raw['actions'][i], -1 + 1e-5, 1 - 1e-5)
        reached = bool(raw['terminals'][i])
        rows.append([raw['observations'][i], action, reward, 1.0 - reached, raw['observations'][i + 1], reached])
    for row, following in zip(rows, rows[1:], strict=False):
        jump = np.linalg.norm(following[0] - row[4]) > 1e-6
        row[5] = jump if antmaze else jump or row[5]
    rows[-1][5] = True
    return [tuple(row) for row in rows]


def transitions(rows: dict) -> list[tuple]:
    """The same of our layout, where the next observation is the next row."""
    o, terminals = rows['observations'], rows['terminals']
    return [
        (o[i], rows['actions'][i], rows['rewards'][i], rows['masks'][i], o[i + 1], terminals[i + 1])
        for i in rows['starts']
    ]


def assert_same(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for ours_part, their_part in zip(one[:4], other[:4], strict=True):
            np.testing.assert_allclose(ours_part, their_part, rtol=1e-6)
        if other[3]:  # else nothing reads the next observation
            np.testing.assert_array_equal(one[4], other[4])
        assert one[5] == other[5]


@pytest.mark.parametrize('task', [ANTMAZE, PEN], ids=lambda task: task.family)
def test_the_transitions_are_those_of_the_released_code(task, tmp_path):
    save_npz(tmp_path / 'a.npz', shipped())
    theirs = released(shipped(), task is ANTMAZE)
    assert_same(transitions(data.read(tmp_path / 'a.npz', task)), theirs)
    assert sum(row[5] for row in theirs) == (3 if task is ANTMAZE else 5)  # real ends count in Adroit alone
    assert {row[2] for row in theirs} == ({-1, 0} if task is ANTMAZE else {0, 1})


def test_next_observations_are_rows_of_their_own():
    raw = shipped()
    del raw['timeouts']
    raw['next_observations'] = raw['observations'] + 100
    raw['next_observations'][:-1] = raw['observations'][1:]
    jumps = [4, 8, 14]  # the last rows of the first three trajectories
    raw['next_observations'][jumps] += 1e-5
    rows = data.from_arrays(d4rl.transitions(raw, ANTMAZE, 'it'))
    assert len(rows['starts']) == 18 and rows['terminals'].sum() == 4
    given = transitions(rows)
    for i in (*jumps, 17):
        np.testing.assert_array_equal(given[i][4], raw['next_observations'][i])
    raw['next_observations'][jumps] = raw['observations'][np.add(jumps, 1)] + np.float32(3e-7)
    assert data.from_arrays(d4rl.transitions(raw, ANTMAZE, 'it'))['terminals'].sum() == 1  # too small a step for a jump


def test_the_goal_reached_in_the_step_of_the_time_limit_is_kept():
    raw = shipped()
    raw['terminals'][4] = raw['terminals'][-1] = True
    for task in (ANTMAZE, PEN):
        rows = data.from_arrays(d4rl.transitions(raw, task, 'it'))
        kept = [i for i in rows['starts'] if rows['masks'][i] == 0]
        assert len(rows['starts']) == 17 and len(kept) == 4
        assert rows['terminals'][kept[0] + 1] and rows['terminals'][kept[-1] + 1]


def test_columns_of_width_one_are_flat():
    raw = shipped()
    flat = d4rl.transitions(raw, PEN, 'it')
    for key in ('rewards', 'terminals', 'timeouts'):
        raw[key] = raw[key][:, None]
    for key, array in d4rl.transitions(raw, PEN, 'it').items():
        np.testing.assert_array_equal(array, flat[key])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'timeouts': None}, "neither 'timeouts' nor 'next_observations' say where its trajectories end"),
        ({'rewards': None}, "there is no 'rewards'"),
        ({'rewards': np.full(18, np.nan)}, 'NaN'),
        ({'actions': np.zeros(18)}, "'actions' has shape"),
        ({'next_observations': np.zeros((18, 2))}, 'next_observations have shape'),
        ({'timeouts': np.ones(18), 'terminals': np.zeros(18)}, 'there is no transition in it'),
    ],
)
def test_wrong_arrays(change, message):
    raw = {key: array for key, array in (shipped() | change).items() if array is not None}
    with pytest.raises(UserError, match=f'^it: .*{message}'):
        d4rl.transitions(raw, PEN, 'it')


# Where they come from


def config(home, dataset=''):
    fields = {
        'dataset': str(dataset),
        'data_kind': 'noisy',
        'data_episodes': 6,
        'data_length': 9,
        'data_dir': str(home),
    }
    return ml_collections.ConfigDict(fields)


def episodes(raw: dict) -> list[list[dict]]:
    """RLDS steps, as TFDS makes them of D4RL's files: after a real end comes one made-up step."""
    result, current = [], []
    for i in range(len(raw['rewards'])):
        end = bool(raw['terminals'][i] or raw['timeouts'][i] or i == len(raw['rewards']) - 1)
        step = {'observation': raw['observations'][i], 'action': raw['actions'][i], 'reward': raw['rewards'][i]}
        reached = bool(raw['terminals'][i])
        current.append(
            step
            | {'is_first': not current, 'is_last': end and not reached, 'is_terminal': False, 'discount': 1 - reached}
        )
        if reached:
            blank = {key: np.zeros_like(value) for key, value in step.items()}
            current.append(blank | {'is_first': False, 'is_last': True, 'is_terminal': True, 'discount': 0})
        if end:
            result.append(current)
            current = []
    return result


@pytest.mark.parametrize('task', [ANTMAZE, PEN], ids=lambda task: task.family)
def test_rlds_gives_back_what_d4rl_shipped(task):
    raw = shipped()
    back = d4rl.from_episodes(iter(episodes(raw)), 'it')
    raw['timeouts'][-1] = True  # RLDS has no episode without an end
    for key, array in raw.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    assert_same(transitions(data.from_arrays(d4rl.transitions(back, task, 'it'))), released(shipped(), task is ANTMAZE))
    with pytest.raises(UserError, match='it: an episode does not end with a step that is_last'):
        d4rl.from_episodes([episodes(raw)[0][:-1]], 'it')
    with pytest.raises(UserError, match='it: it has no steps'):
        d4rl.from_episodes([], 'it')


def prepare(home, raw: dict) -> None:
    """A TFDS data set as `d4rl_adroit_pen/v1-human` is, with the builder's own features, without its download."""
    import tensorflow_datasets as tfds

    step = {
        'observation': tfds.features.Tensor(shape=(3,), dtype=np.float32),
        'action': tfds.features.Tensor(shape=(2,), dtype=np.float32),
        'reward': np.float32,
        'discount': np.float32,
        'is_first': np.bool_,
        'is_last': np.bool_,
        'is_terminal': np.bool_,
    }

    class D4rlAdroitPen(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version('1.1.0')
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='v1-human')]

        def _info(self):
            features = tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, downloads):
            return {'train': ((i, {'steps': steps}) for i, steps in enumerate(episodes(raw)))}

        def _generate_examples(self):  # TFDS wants the method; the split above brings its examples itself
            raise AssertionError('not called')

    D4rlAdroitPen(data_dir=home, config='v1-human', file_format='array_record').download_and_prepare()


def test_sources_in_their_order(tmp_path):
    h5py = pytest.importorskip('h5py', reason="HDF5 is read by h5py, of the extra 'd4rl'")
    with pytest.raises(UserError, match=r"no pen-human-v1 data in .*: put D4RL's pen-human-v1.hdf5 there"):
        data.load_dataset(PEN, config(tmp_path))
    said, loaded = [], []

    def load():
        loaded.append(data.load_dataset(PEN, config(tmp_path), said.append))

    prepare(tmp_path, shipped())
    load()
    save_npz(tmp_path / 'pen-human-v1.npz', shipped())
    load()
    with h5py.File(tmp_path / 'pen-human-v1.hdf5', 'w') as file:
        for key, array in shipped().items():
            file[key] = array
        file['infos/qpos'] = np.zeros((18, 5))
        file['metadata/algorithm'] = 'demonstrations'
    load()
    names = ['d4rl_adroit_pen/v1-human/1.1.0', 'pen-human-v1.npz', 'pen-human-v1.hdf5']
    assert [line.split(': ')[1] for line in said] == [str(tmp_path / name) for name in names]
    # Array records come in an order of their own: the same transitions, whatever it is.
    sums = [sorted(float(part) for part in rows['observations'][rows['starts']].sum(1)) for rows in loaded]
    np.testing.assert_allclose(sums[0], sums[1])
    for key, array in loaded[1].items():
        np.testing.assert_array_equal(loaded[2][key], array, err_msg=key)
    (tmp_path / 'mine.h5').write_bytes((tmp_path / 'pen-human-v1.hdf5').read_bytes()[:500])
    with pytest.raises(UserError, match='is no HDF5 file, or a damaged one'):
        data.load_dataset(PEN, config(tmp_path, tmp_path / 'mine.h5'))
    with pytest.raises(UserError, match='there is no dataset'):
        data.load_dataset(PEN, config(tmp_path, tmp_path / 'none.hdf5'))


def test_antmaze_has_the_name_that_d4rl_ships_it_under(tmp_path):
    names = [path.name for path in d4rl.candidates(ANTMAZE, tmp_path)]
    assert names[1] == 'Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5'
    (tmp_path / 'd4rl_antmaze' / 'large-play-v2' / '1.2.0').mkdir(parents=True)
    (tmp_path / 'd4rl_antmaze' / 'large-play-v2' / '1.2.0' / 'dataset_info.json').touch()
    assert d4rl.find(ANTMAZE, tmp_path).name == '1.2.0'


def test_without_h5py_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(UserError, match=r"reading HDF5 needs h5py: pip install 'tenfold\[d4rl\]'"):
        d4rl.read(tmp_path / 'pen-human-v1.hdf5', PEN)


def test_scores():
    """Three rows of the benchmark's own table of random (0) and expert (100) returns."""
    assert d4rl.normalized_score('pen-cloned-v1', 96.262799) == 0
    assert d4rl.normalized_score('door-human-v1', 2880.5693087298737) == 100
    assert d4rl.normalized_score('hammer-expert-v1', 0.0) == pytest.approx(100 * 274.856578 / 13068.991403156867)
    np.testing.assert_array_equal(d4rl.normalized_score('antmaze-umaze-v2', np.array([0, 1])), [0, 100])
