"""The rows that FQL trains on: found, downloaded or collected, relabelled for the task, in one layout.

    observations [N, ...]   actions [N, A]   rewards [N]   masks [N]   terminals [N]   starts [M]

Every state is kept once. The next observation of row i is row i + 1, for the rows in `starts`; `terminals` is true on
the last row of each trajectory, where it was cut, and `masks` is 0 where the value must not be bootstrapped. Rewards
and masks belong to the state of their row, as OGBench's environments count them since 1.2.
"""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from core_jax.datasets import check_arrays, directory, load_npz
from core_jax.errors import UserError
from fql_jax import collect, d4rl, oracles, tasks

BOUND = 1 - 1e-5  # actions are clipped to it before training, the flow's targets included
PATIENCE = 5.0  # seconds without a byte from the host of the official files
# Episodes and transitions an episode of the official files that can be collected here; others are 1000 of 1000.
OFFICIAL_SIZE = {
    'cube-triple': (3000, 1000),
    'cube-quadruple': (5000, 1000),
    'puzzle-4x5': (3000, 1000),
    'puzzle-4x6': (5000, 1000),
    'pointmaze-giant': (500, 2000),
}


def load_dataset(
    task: tasks.Task,
    config,
    say: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, np.ndarray]:
    """The rows for `task`, in the layout above, from the first source that has them; `say` is told which.

    config.dataset: path of an npz file (OGBench's format, or one's own with rewards), or '' (D4RL: see `fql_jax.d4rl`).
    config.data_kind: 'play', 'noisy', 'navigate', ... ('': the task's own); config.data_dir: see `directory`.
    config.data_length: transitions an episode that is collected here; 0 for the evaluation's time limit.
    config.data_episodes: 0 for the official size. Then the official file is used if it is in the data directory or can
    be downloaded; otherwise that many episodes are collected here, once. `should_stop` is asked while collecting; once
    it is true, collect.Interrupted is raised, and what was collected is kept for the next time.
    """
    path = Path(config.dataset).expanduser() if config.dataset else _find(task, config, say, should_stop)
    rows = read(path, task)
    say(f'data: {path}: {describe(rows)}')
    return rows


def _find(task: tasks.Task, config, say: Callable[[str], None], should_stop: Callable[[], bool]) -> Path:
    """The local, official or collected file of the wanted kind and size."""
    kind, home = config.data_kind or task.kind, directory(config.data_dir)
    if task.of_d4rl:
        return d4rl.find(task, home)
    if task.family == 'gymnasium':
        raise UserError(f'{task.gym_id} has no data of its own; give --dataset=FILE.npz')
    if kind not in task.kinds:
        raise UserError(f'{task.environment} has no {kind!r} data; it has {", ".join(task.kinds)}')
    episodes, length = config.data_episodes, config.data_length or collect.default_length(task)
    if not episodes:
        official = home / f'{task.environment}-{kind}-v0.npz'
        if official.exists():
            return official
        episodes, length = OFFICIAL_SIZE.get(task.environment, (1000, 1000))
    collected = home / collect.default_name(task, kind, episodes, length, 0)
    if collected.exists():
        return collected
    if not config.data_episodes and _download(official, say):
        return official
    if kind not in oracles.collectable(task):
        raise UserError(
            f'no {task.environment} {kind} data in {home}, and it cannot be collected here; give --dataset=FILE.npz'
        )
    say(f'data: collecting {episodes} episodes of {length} steps here, once, into {collected}')
    return collect.collect(task, kind, episodes, out=collected, val_episodes=0, length=length, should_stop=should_stop)


def _download(official: Path, say: Callable[[str], None]) -> bool:
    """Whether the official file could be fetched to `official`, whole."""
    import ogbench.utils

    url = f'{ogbench.utils.DATASET_URL}/{official.name}'
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # OGBench's own download has none
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method='HEAD')) as answer:
            size = int(answer.headers['Content-Length'])
        say(f'data: downloading {url} ({size / 1e6:.0f} MB)')
        ogbench.download_datasets([official.stem], str(official.parent))
    except OSError as error:  # URLError and timeouts are
        say(f'data: the official file cannot be downloaded ({error})')
        return False
    finally:
        socket.setdefaulttimeout(patience)
    if official.stat().st_size != size:
        official.unlink()
        say('data: the official file came incomplete')
        return False
    return True


def read(path: str | os.PathLike, task: tasks.Task) -> dict[str, np.ndarray]:
    """The rows of one npz file, in the layout above.

    Data for a task of D4RL are read by D4RL's rules, see `fql_jax.d4rl`. Else a file with `rewards` is somebody's own,
    see `from_arrays`. Any other must be in OGBench's format and is relabelled for `task` by OGBench itself. Raises
    UserError for a file that is none of these, or is damaged.
    """
    if task.of_d4rl:
        return from_arrays(d4rl.read(path, task), path)
    arrays = load_npz(path, {'observations': None, 'actions': 2, 'terminals': 1})
    if 'rewards' in arrays:
        return from_arrays(arrays, path)
    return _rows(_relabelled(path, arrays, task), path)


def from_arrays(arrays: Mapping[str, np.ndarray], name: str | os.PathLike = 'the dataset') -> dict[str, np.ndarray]:
    """Somebody's own transitions, in the order of time, in the layout above.

    Keys: observations [N, ...], actions [N, A] in [-1, 1], rewards [N], terminals [N], and perhaps masks [N] and
    next_observations [N, ...]. Row i is a transition; `terminals` marks the last one of each trajectory. `masks` is 0
    where the task really ended there and 1 where a time limit cut it; without it every end is taken for real. The state
    after the last row of a trajectory is taken from `next_observations`; without those, a last row with mask 1 can only
    be a final state, and begins no transition.

    Raises UserError, beginning with `name`, for arrays that are not so.
    """
    arrays = {key: np.asarray(array) for key, array in arrays.items()}
    ranks = {'observations': None, 'actions': 2, 'rewards': 1, 'terminals': 1}
    check_arrays(arrays, name, ranks | ({'masks': 1} if 'masks' in arrays else {}))
    observations, ends = arrays['observations'], arrays['terminals'] > 0
    masks = arrays.get('masks', 1.0 - ends)
    ends[-1] = True
    following = arrays.get('next_observations')
    if following is not None and following.shape != observations.shape:
        raise UserError(f'{name}: next_observations have shape {following.shape}, observations {observations.shape}')
    # The state that follows a last row becomes a row of its own. After a real end any state does: its value counts 0.
    extra = np.flatnonzero(ends if following is not None else ends & (masks == 0))
    final = (observations if following is None else following)[extra]
    cut = ends.copy()
    cut[extra] = False
    rows = {
        'observations': np.insert(observations, extra + 1, final, axis=0),
        'actions': np.insert(arrays['actions'], extra + 1, 0, axis=0),
        'rewards': np.insert(arrays['rewards'], extra + 1, 0),
        'masks': np.insert(masks, extra + 1, 0),
        'terminals': np.insert(cut, extra + 1, True),
    }
    return _rows(rows, name)


def _relabelled(path: str | os.PathLike, arrays: dict, task: tasks.Task) -> dict:
    """OGBench's rows with the rewards and masks of `task`, computed by OGBench from the state of each row."""
    from ogbench.relabel_utils import relabel_dataset

    arrays['terminals'] = arrays['terminals'] > 0
    if not arrays['terminals'][-1]:
        raise UserError(f'{path}: the last row is not terminal; the file was cut, or is not in the format of OGBench')
    if task.family == 'gymnasium':
        raise UserError(f'{path}: it has no rewards, and there is no way to compute those of {task.environment}')
    for key in ('qpos', 'button_states') if task.family in ('scene', 'puzzle') else ('qpos',):
        if key not in arrays:
            raise UserError(f'{path}: it has no rewards, and no {key!r} to compute them from')
    # The goals of a task with pictures are those of its twin without.
    env = tasks.make_env(task.gym_id.removeprefix('visual-'))
    seen = (64, 64, 3) if task.environment.startswith('visual-') else env.observation_space.shape
    for key, shape in (('observations', seen), ('actions', env.action_space.shape)):
        if arrays[key].shape[1:] != shape:
            raise UserError(f'{path}: {key} have shape {arrays[key].shape[1:]}, those of {task.environment} {shape}')
    relabel_dataset(task.gym_id, env, arrays)
    env.close()
    return arrays


def _rows(arrays: Mapping[str, np.ndarray], name: str | os.PathLike) -> dict[str, np.ndarray]:
    """The layout above, in its types, from whole trajectories with rewards and masks."""
    reach = np.abs(arrays['actions']).max()
    if reach > 1 + 1e-6:
        raise UserError(f'{name}: actions reach {reach:g}; scale them, as the environment is, to [-1, 1]')
    starts = np.flatnonzero(~arrays['terminals']).astype(np.int32)
    if not len(starts):
        raise UserError(f'{name}: there is no transition in it')
    pixels = arrays['observations'].dtype == np.uint8
    with np.errstate(over='ignore'):  # what is too large for float32 is found below
        rows = {
            'observations': arrays['observations'].astype(np.uint8 if pixels else np.float32, copy=False),
            'actions': np.clip(arrays['actions'].astype(np.float32, copy=False), -BOUND, BOUND),
            'rewards': arrays['rewards'].astype(np.float32, copy=False),
            'masks': arrays['masks'].astype(np.float32, copy=False),
            'terminals': arrays['terminals'],
        }
    check_arrays(rows, f'{name}, in float32')
    return rows | {'starts': starts}


def describe(rows: dict[str, np.ndarray]) -> str:
    """One line about the transitions: how many, their rewards and masks, and how many actions are at their bound."""
    starts = rows['starts']
    rewards, masks, actions = rows['rewards'][starts], rows['masks'][starts], rows['actions'][starts]
    saturated = 100 * np.mean(np.abs(actions) >= BOUND, axis=0)
    return (
        f'{len(starts)} transitions in {int(rows["terminals"].sum())} trajectories; '
        f'reward {rewards.mean():.4f} on average ({rewards.min():g} to {rewards.max():g}), '
        f'{100 * np.mean(masks == 0):.2f} % of them have reached the goal (mask 0); '
        f'actions at the bound: {" ".join(f"{share:.1f}" for share in saturated)} %'
    )
