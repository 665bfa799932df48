"""One episode of each sort: what its rows mean, and that it is a function of (seed, index) alone."""

import numpy as np
import pytest

from core_jax.errors import UserError
from fql_jax import oracles, tasks

LENGTH = 30


@pytest.fixture(scope='module')
def cube():
    return oracles.make(tasks.resolve('ogbench-cube'), 'noisy', LENGTH)


@pytest.fixture(scope='module')
def puzzle():
    return oracles.make(tasks.resolve('ogbench-puzzle'), 'play', LENGTH)


@pytest.fixture(scope='module')
def maze():
    return oracles.make(tasks.resolve('ogbench-pointmaze'), 'navigate', 400)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_rows_are_in_ogbenchs_format(cube, puzzle):
    rows = cube.episode(0, 0)
    assert {key: (array.shape, array.dtype.name) for key, array in rows.items()} == {
        'observations': ((LENGTH + 1, 28), 'float32'),
        'actions': ((LENGTH + 1, 5), 'float32'),
        'terminals': ((LENGTH + 1,), 'bool'),
        'qpos': ((LENGTH + 1, 21), 'float32'),
        'qvel': ((LENGTH + 1, 20), 'float32'),
    }
    np.testing.assert_array_equal(np.flatnonzero(rows['terminals']), [LENGTH])
    buttons = puzzle.episode(0, 0)['button_states']
    assert (buttons.shape, buttons.dtype.name) == ((LENGTH + 1, 9), 'int64')


def test_qpos_is_that_of_the_rows_own_observation(cube, puzzle):
    # Rewards are relabelled from qpos: one row late, and every reward would be. The observation shows the cube at
    # 10 (xyz - center), its quaternion behind, and the arm's joints first.
    rows = cube.episode(0, 1)
    np.testing.assert_allclose(rows['observations'][:, 19:22], 10 * (rows['qpos'][:, 14:17] - [0.425, 0, 0]), atol=1e-5)
    np.testing.assert_allclose(rows['observations'][:, 22:26], rows['qpos'][:, 17:21], atol=1e-6)
    np.testing.assert_allclose(rows['observations'][:, :6], rows['qpos'][:, :6], atol=1e-6)
    assert np.ptp(rows['qpos'][:, :6], axis=0).max() > 0.05  # the arm moved
    buttons = puzzle.episode(0, 1)
    shown = buttons['observations'][:, 19:].reshape(LENGTH + 1, 9, 4)  # one-hot state, position, velocity
    np.testing.assert_array_equal(shown[..., 1], buttons['button_states'])


@pytest.mark.parametrize('name', ['cube', 'puzzle', 'maze'])
def test_an_episode_depends_on_its_seed_and_index_only(request, name):
    collector = request.getfixturevalue(name)
    np.random.seed(1)
    first = collector.episode(7, 2)
    collector.episode(7, 3)
    assert same(collector.episode(7, 2), first)
    assert not same(collector.episode(7, 3), first)
    assert not same(collector.episode(8, 2), first)


def test_describing_a_state_once_changes_no_number(puzzle, monkeypatch):
    monkeypatch.setattr(oracles, '_describe_once', lambda env: None)
    as_it_is = oracles.make(tasks.resolve('ogbench-puzzle'), 'play', LENGTH)
    assert same(as_it_is.episode(0, 5), puzzle.episode(0, 5))


def test_noise_of_the_closed_loop_experts(cube):
    # About one action in ten is uniform, and the level of the others' noise is drawn anew for each episode; both bound
    # how often the gripper's action, +-1 without noise, is at its bound: 45 % were in OGBench's own generator.
    actions = np.concatenate([cube.episode(0, index)['actions'] for index in range(8)])
    assert np.abs(actions).max() <= 1
    assert 0.25 < np.mean(np.abs(actions[:, 4]) == 1) < 0.65


def test_the_point_walks_to_its_goals_through_free_cells(maze):
    rows = maze.episode(0, 0)
    steps = np.linalg.norm(np.diff(rows['qpos'], axis=0), axis=1)
    assert steps.max() < 0.5
    np.testing.assert_array_equal(rows['observations'], rows['qpos'])
    free = maze._env.unwrapped.maze_map == 0
    ij = np.floor((rows['qpos'][:, ::-1] + 4 + 2) / 4).astype(int)  # cells are 4 wide, the first is centred at -4
    assert free[ij[:, 0], ij[:, 1]].all()
    assert len(np.unique(ij, axis=0)) > 8  # in 400 steps it comes around


def test_hallways_are_no_goals():
    maze = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]])
    hallways = [tuple(cell) for cell in np.argwhere(maze == 0).tolist() if oracles._is_hallway(maze, *cell)]
    assert hallways == [(1, 2), (2, 3)]  # the corner (1, 3) and the two ends are goals


@pytest.mark.parametrize(
    ('y', 'z', 'kept'),
    [
        (0.0, 0.02, True),
        (0.29, 0.02, False),
        (-0.29, 0.02, True),
        (-0.3, 0.02, False),
        (-0.35, 0.07, True),  # in the drawer
        (-0.35, 0.09, False),
        (0.3, 0.07, False),
    ],
)
def test_scenes_that_lose_the_cube_are_thrown_away(y, z, kept):
    path = np.array([[0.4, 0.0, 0.02], [0.4, y, z], [0.4, 0.0, 0.02]])
    assert oracles._cube_in_sight(path) is kept


class Still:
    """An expert that stands still, and notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, state, direction):
        self.asked.append((state, direction))
        return np.zeros(8, np.float32)


def ant(kind, length=100, expert=None, name='ogbench-antmaze-medium'):
    return oracles.make(tasks.resolve(name), kind, length, expert or Still())


@pytest.mark.parametrize(('kind', 'noise'), [('navigate', 0.2), ('stitch', 0.2), ('explore', 1.0)])
def test_the_ant_does_what_its_expert_wants_but_for_noise(kind, noise):
    expert = Still()
    maze = ant(kind, expert=expert)
    rows = maze.episode(0, 0)
    assert {key: (array.shape, array.dtype.name) for key, array in rows.items()} == {
        'observations': ((101, 29), 'float32'),
        'actions': ((101, 8), 'float32'),
        'terminals': ((101,), 'bool'),
        'qpos': ((101, 15), 'float32'),
        'qvel': ((101, 14), 'float32'),
    }
    np.testing.assert_array_equal(rows['observations'], np.concatenate([rows['qpos'], rows['qvel']], axis=1))
    np.testing.assert_array_equal(np.flatnonzero(rows['terminals']), [100])
    states, directions = map(np.array, zip(*expert.asked, strict=True))
    np.testing.assert_array_equal(states, rows['observations'][:, 2:])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-4)
    inside = np.abs(rows['actions']) < 1  # a quarter of N(0, 1) lies within 0.32
    assert abs(np.mean(np.abs(rows['actions']) < 0.3186 * noise) - 0.25) < 0.05
    assert inside.all() if noise < 0.5 else 0.63 < inside.mean() < 0.73

    turns = np.flatnonzero(np.abs(np.diff(directions, axis=0)).max(axis=1) > 1e-6) + 1
    if kind == 'explore':
        np.testing.assert_array_equal(turns, np.arange(10, 101, 10))
    expert.asked.clear()
    assert same(maze.episode(0, 0), rows)


def test_the_ant_is_sent_through_free_cells_and_to_another_goal_at_each_arrival(monkeypatch):
    """The ant is carried to wherever it is sent; the goals that it is given are noted."""
    expert = Still()
    maze = ant('navigate', 60, expert)
    inner, goals = maze._env.unwrapped, []
    free, set_goal, unit = inner.maze_map == 0, inner.set_goal, oracles._unit
    inner._add_noise_to_goal = False  # one is sent to the middle of the last cell, and the goal is there now

    def carried(way):
        here = inner.get_xy()
        inner.set_xy(here + way * min(1, 1 / np.linalg.norm(way)))
        i, j = np.floor((inner.get_xy()[::-1] + 4 + 2) / 4).astype(int)  # cells are 4 wide, the first is centred at -4
        assert free[i, j]
        return unit(way)

    monkeypatch.setattr(oracles, '_unit', carried)
    monkeypatch.setattr(inner, 'set_goal', lambda *args, **kwargs: (goals.append(args), set_goal(*args, **kwargs)))
    maze.episode(0, 1)
    arrivals = [cell for args in goals for cell in args]  # at a reset the goal is a keyword
    assert len(arrivals) >= 2
    assert set(arrivals) <= set(maze._goals)


@pytest.mark.parametrize('name', ['ogbench-antmaze-medium', 'ogbench-pointmaze'])
def test_stitching_goes_to_a_goal_four_cells_away_and_stays(name, monkeypatch):
    maze = oracles.make(tasks.resolve(name), 'stitch', 5, Still() if 'ant' in name else None)
    inner, ends = maze._env.unwrapped, []
    reset = maze._env.reset

    def noted(*, seed, options):
        ends.append(options['task_info'])
        return reset(seed=seed, options=options)

    monkeypatch.setattr(maze._env, 'reset', noted)
    monkeypatch.setattr(inner, 'compute_success', lambda: True)
    for index in range(8):
        maze.episode(0, index)
        x, y = inner.cur_goal_xy
        goal = ends[-1]['goal_ij']
        assert np.abs(np.array(inner.ij_to_xy(goal)) - (x, y)).max() <= 1  # the noise of a goal
        reached = {ends[-1]['init_ij']}  # the cells that a walk of n steps can end in
        seen = set(reached)
        for _ in range(4):
            steps = {(i + di, j + dj) for i, j in reached for di, dj in ((0, 1), (0, -1), (1, 0), (-1, 0))}
            reached = {cell for cell in steps if inner.maze_map[cell] == 0} - seen
            seen |= reached
        assert goal in reached


def test_an_ant_without_an_expert():
    with pytest.raises(ValueError, match='antmaze-medium takes an expert'):
        oracles.make(tasks.resolve('ogbench-antmaze-medium'), 'navigate', 10)


@pytest.mark.parametrize(('name', 'kind'), [('ogbench-humanoidmaze', 'navigate'), ('ogbench-visual-scene', 'play')])
def test_what_cannot_be_collected(name, kind):
    assert oracles.collectable(tasks.resolve(name)) == ()
    with pytest.raises(UserError, match='cannot be collected here'):
        oracles.make(tasks.resolve(name), kind, 10)


def test_what_can_be_collected():
    wanted = {
        'scene': ('play', 'noisy'),
        'puzzle': ('play', 'noisy'),
        'pointmaze': ('navigate', 'stitch'),
        'antmaze': ('navigate', 'stitch', 'explore'),
        'antmaze-giant': ('navigate', 'stitch'),
        'visual-antmaze-large': (),
        'antsoccer': (),
    }
    assert {name: oracles.collectable(tasks.resolve(f'ogbench-{name}')) for name in wanted} == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('ogbench-scene', 'noisy'),
        ('ogbench-scene', 'play'),
        ('ogbench-puzzle', 'noisy'),
        ('ogbench-cube-triple', 'play'),
    ],
)
def test_the_other_experts(name, kind):
    collector = oracles.make(tasks.resolve(name), kind, 100)
    rows = collector.episode(0, 0)
    assert same(rows, collector.episode(0, 0))
    assert np.isfinite(rows['observations']).all()
    assert np.ptp(rows['observations'][:, :6], axis=0).max() > 0.5
