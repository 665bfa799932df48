"""Collecting: the same files for any number of workers, after any interruption; nothing mixed, nothing half written."""

import fcntl
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time

import heard
import numpy as np
import pytest

from core_jax.datasets import load_npz, save_npz
from core_jax.errors import UserError
from fql_jax import collect, data, oracles, settings, tasks

LENGTH = 50
COMMAND = [sys.executable, '-m', 'fql_jax.collect', '--env=ogbench-pointmaze', f'--length={LENGTH}']


def point(out, episodes=6, **options):
    """A quick collection: the pointmaze needs no meshes and thousands of its steps take a second."""
    options = {'val_episodes': 2, 'length': LENGTH, 'workers': 1, 'progress': False} | options
    return collect.collect('ogbench-pointmaze', 'navigate', episodes, out=out, **options)


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """Six episodes and two for validation, collected without a stop by one worker."""
    return point(tmp_path_factory.mktemp('reference') / 'a.npz')


def files(path):
    return path.read_bytes(), collect.validation_path(path).read_bytes()


def test_the_number_of_workers_changes_no_byte(reference, tmp_path):
    assert files(point(tmp_path / 'b.npz', workers=3)) == files(reference)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['b-val.npz', 'b.npz']
    rows = load_npz(reference)
    assert rows['observations'].shape == (6 * (LENGTH + 1), 2)
    np.testing.assert_array_equal(np.flatnonzero(rows['terminals']), np.arange(1, 7) * (LENGTH + 1) - 1)
    assert len(load_npz(collect.validation_path(reference))['terminals']) == 2 * (LENGTH + 1)


def test_the_file_is_the_episodes_in_order(reference):
    maze = oracles.make(tasks.resolve('ogbench-pointmaze'), 'navigate', LENGTH)
    rows, validation = load_npz(reference), load_npz(collect.validation_path(reference))
    for key, array in maze.episode(0, 4).items():
        np.testing.assert_array_equal(rows[key][4 * (LENGTH + 1) : 5 * (LENGTH + 1)], array)
    np.testing.assert_array_equal(validation['actions'][: LENGTH + 1], maze.episode(0, 6)['actions'])


def test_killed_and_resumed(tmp_path):
    """kill -9 in the middle: what is there is kept, what was torn is collected again, the files are the same."""
    out, parts = tmp_path / 'b.npz', tmp_path / 'b.npz.parts'
    command = [*COMMAND, '--episodes=40', '--length=100', '--workers=2', f'--out={out}']
    quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
    victim = subprocess.Popen(command, start_new_session=True, **quiet)
    while len(list(parts.glob('0*.npz'))) < 4:
        assert victim.poll() is None
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    with pytest.raises(ProcessLookupError):  # the workers end by themselves, after the episodes that they have in hand
        while True:
            os.killpg(victim.pid, 0)
            time.sleep(0.01)
    assert not out.exists()
    kept = sorted(parts.glob('0*.npz'))
    assert 4 <= len(kept) < 40
    torn = kept[1]
    torn.write_bytes(torn.read_bytes()[:-100])

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f'collecting it again: {torn} is no npz file' in again.stderr
    assert f'{len(kept) - 1} of 44 episodes are there already' in again.stderr
    assert again.stdout.startswith('4000 transitions in 40 trajectories; reward -')
    assert str(out) in again.stdout
    assert files(out) == files(point(tmp_path / 'c.npz', 40, val_episodes=4, length=100))
    assert not parts.exists()


def test_asked_to_stop_and_resumed(reference, tmp_path):
    out, parts = tmp_path / 'b.npz', tmp_path / 'b.npz.parts'
    with pytest.raises(collect.Interrupted, match='the same command goes on'):
        point(out, should_stop=lambda: len(list(parts.glob('0*.npz'))) >= 3)
    assert len(list(parts.glob('0*.npz'))) == 3
    assert not out.exists()
    assert files(point(out)) == files(reference)


def test_a_dead_worker_is_an_error_that_a_second_run_mends(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, 'SERVE', 'import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)')
    with pytest.raises(UserError, match=r'a collecting process ended \(status -9\)'):
        point(tmp_path / 'b.npz')
    monkeypatch.undo()
    assert files(point(tmp_path / 'b.npz')) == files(reference)


def test_killed_between_the_file_and_the_removal_of_the_parts(reference, tmp_path):
    out, parts = tmp_path / 'b.npz', tmp_path / 'b.npz.parts'
    with pytest.raises(collect.Interrupted):
        point(out, should_stop=lambda: True)
    out.write_bytes(reference.read_bytes())
    with pytest.raises(UserError, match='another number of episodes'):
        point(out, episodes=5)
    assert point(out) == out
    assert not parts.exists()
    assert out.read_bytes() == reference.read_bytes()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'seed': 1}, 'seed 0 there, 1 here'),
        ({'length': 20}, 'length 50 there, 20 here'),
    ],
)
def test_parts_of_other_settings_are_not_mixed_in(tmp_path, change, message):
    with pytest.raises(collect.Interrupted):
        point(tmp_path / 'b.npz', should_stop=lambda: True)
    with pytest.raises(UserError, match=message):
        point(tmp_path / 'b.npz', **change)
    record = tmp_path / 'b.npz.parts' / 'settings.json'
    old = json.loads(record.read_text())
    old['versions']['mujoco'] = '2.1.0'
    record.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r'versions.mujoco 2\.1\.0 there'):
        point(tmp_path / 'b.npz')


def test_one_collector_at_a_time(tmp_path):
    parts = tmp_path / 'b.npz.parts'
    parts.mkdir()
    lock = os.open(parts, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='another process is collecting'):
        point(tmp_path / 'b.npz')
    os.close(lock)


def test_nothing_is_overwritten(reference, tmp_path):
    before = files(reference)
    with pytest.raises(UserError, match='exists; remove it or choose another --out'):
        point(reference)
    (tmp_path / 'b-val.npz').write_text('mine')
    with pytest.raises(UserError, match='exists; remove it or choose another --out'):
        point(tmp_path / 'b.npz')
    assert files(reference) == before


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'episodes': 0}, 'episodes must be at least 1, not 0'),
        ({'workers': -1}, 'workers must be at least 1, not -1'),
        ({'val_episodes': -1}, 'val_episodes must be at least 0'),
        ({'length': 0}, 'length must be at least 1'),
        ({'seed': -1}, 'seed must be at least 0'),
        ({'out': 'a.zip'}, 'must end in .npz'),
    ],
)
def test_wrong_numbers(tmp_path, change, message):
    out = tmp_path / change.pop('out', 'b.npz')
    with pytest.raises(UserError, match=message):
        point(out, **change)
    assert list(tmp_path.iterdir()) == []


def test_wrong_kinds(tmp_path):
    with pytest.raises(UserError, match="unknown kind of data for cube-single 'nosy'; did you mean 'noisy'"):
        collect.collect('ogbench-cube', 'nosy', 1, out=tmp_path / 'b.npz')
    with pytest.raises(UserError, match='humanoidmaze-medium cannot be collected here'):
        collect.collect('ogbench-humanoidmaze', 'navigate', 1, out=tmp_path / 'b.npz')


def policy(path, seed):
    """An exported ant with random weights, as `fql_jax.ant_expert` leaves it."""
    rng, sizes = np.random.default_rng(seed), [29, 12, 12, 16]
    document = {'config': {'hidden_dims': [12, 12], 'activation': 'relu'}}
    arrays = {'config.json': np.frombuffer(json.dumps(document).encode(), np.uint8)}
    for i in range(3):
        shapes = {'kernel': sizes[i : i + 2], 'bias': sizes[i + 1]}
        for name, shape in shapes.items():
            arrays[f'actor/params/Dense_{i}/{name}'] = rng.normal(0, 0.3, shape).astype(np.float32)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def ants(out, expert, **options):
    options = {'val_episodes': 1, 'length': LENGTH, 'workers': 1, 'progress': False} | options
    return collect.collect('ogbench-antmaze-medium', 'navigate', 3, out=out, expert=expert, **options)


def test_antmaze_with_an_expert_stopped_and_resumed(tmp_path):
    expert = policy(tmp_path / 'run' / 'policy.npz', 0)
    once, out = ants(tmp_path / 'a.npz', expert), tmp_path / 'b.npz'
    parts = tmp_path / 'b.npz.parts'
    with pytest.raises(collect.Interrupted):
        ants(out, expert, should_stop=lambda: len(list(parts.glob('0*.npz'))) >= 2)
    recorded = json.loads((parts / 'settings.json').read_text())
    assert recorded['expert'] == hashlib.sha256(expert.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=r'expert [0-9a-f]{64} there, [0-9a-f]{64} here'):
        ants(out, policy(tmp_path / 'other.npz', 1))
    assert files(ants(out, expert.parent, workers=2)) == files(once)  # the run directory will do
    assert load_npz(once)['observations'].shape == (3 * (LENGTH + 1), 29)


def test_antmaze_without_an_expert_says_how_to_get_one(tmp_path):
    out = tmp_path / 'b.npz'
    wanted = (
        'antmaze-medium data take a trained ant: python -m fql_jax.ant_expert --workdir=runs/ant, then python -m '
        'fql_jax.collect --env=ogbench-antmaze-medium --kind=navigate --episodes=3 --length=50 --expert=runs/ant '
        f'--out={out}'
    )
    with pytest.raises(UserError) as error:
        ants(out, None)
    assert str(error.value) == wanted
    with pytest.raises(UserError, match='no expert .*nowhere; python -m fql_jax.ant_expert trains one'):
        ants(out, tmp_path / 'nowhere')
    with pytest.raises(UserError, match='the expert for pointmaze-medium is a script; leave --expert away'):
        point(out, expert=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_trainer_says_it_too(tmp_path):
    """Without antmaze data, fql_jax.main tells the two commands after which it finds them."""
    config = settings.resolve({'env': 'ogbench-antmaze-medium', 'data_dir': str(tmp_path)})
    task = tasks.resolve(config.env)
    with pytest.raises(UserError, match=r'take a trained ant: .*ant_expert .* --out=') as error:
        data.load_dataset(task, config, lambda line: None)
    out = str(error.value).partition('--out=')[2]
    assert out == str(tmp_path / collect.default_name(task, 'navigate', config.data_episodes, config.data_length, 0))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*precision lowered')
def test_ogbench_loads_the_ants(tmp_path):
    import ogbench

    out = ants(tmp_path / 'a.npz', policy(tmp_path / 'policy.npz', 0))
    name = 'antmaze-medium-navigate-singletask-v0'
    env, train, _ = ogbench.make_env_and_datasets(name, dataset_path=str(out))
    ours = data.read(out, tasks.resolve(name))
    for key in ('observations', 'rewards', 'masks'):
        np.testing.assert_array_equal(ours[key][ours['starts']], train[key])
    env.close()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(UserError, match='cannot write .*: Not a directory'):
        point(tmp_path / 'file' / 'b.npz')


def test_a_write_that_the_system_refuses(tmp_path):
    """A limit on file sizes, which the workers inherit, stands for a full disk where none can be mounted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(UserError, match='cannot write .*: File too large'):
            point(tmp_path / 'b.npz', length=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.rglob('*')] == ['b.npz.parts', 'settings.json']


def test_a_full_disk(reference, tmp_path):
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=24k', 'tmpfs', str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('cannot mount a small file system here')
    try:
        with pytest.raises(UserError, match='No space left on device; make room and run the same command again'):
            point(tmp_path / 'b.npz')
        assert not (tmp_path / 'b.npz').exists()
        assert not list(tmp_path.rglob('*.tmp'))
        subprocess.run(['mount', '-o', 'remount,size=1m', str(tmp_path)], check=True)
        assert files(point(tmp_path / 'b.npz')) == files(reference)
    finally:
        subprocess.run(['umount', str(tmp_path)], check=True)


def test_ogbench_loads_what_was_collected(reference):
    import ogbench

    name = 'pointmaze-medium-navigate-singletask-v0'
    env, train, validation = ogbench.make_env_and_datasets(name, dataset_path=str(reference))
    assert train['observations'].shape == train['next_observations'].shape == (6 * LENGTH, 2)
    assert validation['actions'].shape == (2 * LENGTH, 2)
    ours = data.read(reference, tasks.resolve(name))
    for key in ('observations', 'rewards', 'masks'):
        np.testing.assert_array_equal(ours[key][ours['starts']], train[key])
    assert env.unwrapped.cur_task_id == tasks.resolve(name).number


@pytest.mark.filterwarnings('ignore:.*precision lowered')  # OGBench's own action spaces
def test_ogbench_relabels_it(tmp_path):
    """The file through OGBench's own loader, and the same rewards and masks through ours."""
    import ogbench

    cube = oracles.make(tasks.resolve('ogbench-cube'), 'noisy', 40)
    episodes = [cube.episode(0, index) for index in range(3)]
    merged = {key: np.concatenate([rows[key] for rows in episodes]) for key in episodes[0]}
    merged['qpos'][5:9, 14:17] = [0.5, 0.03, 0.02]  # within 4 cm of task 2's goal
    merged['qpos'][9, 14:17] = [0.5, 0.05, 0.02]
    out = tmp_path / 'cube.npz'
    save_npz(out, merged)
    save_npz(collect.validation_path(out), episodes[0])
    env, train, validation = ogbench.make_env_and_datasets('cube-single-noisy-singletask-v0', dataset_path=str(out))
    assert env.unwrapped._reward_task_id == 2
    assert train['observations'].shape == train['next_observations'].shape == (120, 28)
    assert validation['observations'].shape == (40, 28)
    np.testing.assert_array_equal(np.flatnonzero(train['rewards'] == 0), [5, 6, 7, 8])

    ours = data.read(out, tasks.resolve('ogbench-cube'))
    starts = ours['starts']
    np.testing.assert_array_equal(ours['observations'][starts], train['observations'])
    np.testing.assert_array_equal(ours['observations'][starts + 1], train['next_observations'])
    np.testing.assert_array_equal(ours['rewards'][starts], train['rewards'])
    np.testing.assert_array_equal(ours['masks'][starts], train['masks'])
    np.testing.assert_array_equal(ours['actions'][starts], np.clip(train['actions'], -1 + 1e-5, 1 - 1e-5))
    # The end of a trajectory is not the end of the task: time limits bootstrap.
    np.testing.assert_array_equal(np.flatnonzero(train['terminals']), [39, 79, 119])
    assert (ours['masks'][[39, 80, 121]] == 1).all()
    assert '120 transitions in 3 trajectories; reward -0.9667' in data.describe(ours)
    assert '3.33 % of them have reached the goal' in data.describe(ours)


def test_help_is_quick_and_ctrl_c_is_polite(tmp_path):
    began = time.monotonic()
    shown = subprocess.run([*COMMAND, '--help'], capture_output=True, text=True, check=True).stdout
    assert '--episodes' in shown
    assert time.monotonic() - began < 2
    command = [*COMMAND, '--episodes=5000', '--workers=1', f'--out={tmp_path / "b.npz"}']
    with heard.interrupts():
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.rglob('0*.npz')):
        assert running.poll() is None
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    assert 'error: interrupted; the same command goes on from here' in running.communicate(timeout=20)[1]
    assert running.returncode == 2


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*precision lowered')
@pytest.mark.parametrize(
    'name', ['scene-play', 'scene-noisy', 'puzzle-3x3-play', 'puzzle-3x3-noisy', 'cube-double-play']
)
def test_ogbench_loads_the_others(tmp_path, name):
    import ogbench

    task = tasks.resolve(f'ogbench-{name}')
    out = collect.collect(task, task.kind, 2, out=tmp_path / 'a.npz', val_episodes=1, length=60, workers=2)
    env, train, _ = ogbench.make_env_and_datasets(f'{name}-singletask-v0', dataset_path=str(out))
    ours = data.read(out, task)
    for key in ('observations', 'rewards', 'masks'):
        np.testing.assert_array_equal(ours[key][ours['starts']], train[key])
    goals = {'scene': 5, 'puzzle-3x3': 9, 'cube-double': 2}[task.environment]
    assert -goals <= train['rewards'].min() <= train['rewards'].max() <= 0
