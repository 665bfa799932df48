"""D4RL's data sets (arXiv 2004.07219): antmaze v2 and Adroit v1, read as the released FQL reads them.

A set is looked for in the data directory: the HDF5 file that D4RL ships, under its id or its own name; an npz file with
the same keys (observations, actions, rewards, terminals, timeouts); or what TFDS prepared of it, in array_record.

What is made of it (seohongpark/fql, envs/d4rl_utils.py, on top of D4RL's qlearning_dataset):
    transitions   row i and row i + 1 of the file; a row that a time limit cut begins none
    rewards       antmaze: minus 1, so that they are -1 and 0; Adroit: as they are
    terminals     where the next observation is not the next row's (by more than 1e-6); in Adroit also a real end
    masks         1 - the file's terminals
Nothing is normalised. OGBench's antmaze is another data set, with rewards that are -1 and 0 already.

The one difference: a row that has reached the goal and was cut by the time limit in the same step is kept. D4RL drops
it, but the TFDS form of the same data does not have the limit there, and its value is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core_jax.datasets import check_arrays, load_npz, tfds_source
from core_jax.errors import UserError
from fql_jax.tasks import Task

JUMP = 1e-6  # an observation that moves further than this between two transitions began another trajectory
RANKS = {'observations': 2, 'actions': 2, 'rewards': 1, 'terminals': 1}
KEYS = (*RANKS, 'timeouts', 'next_observations')  # the files also have infos/..., which nothing here reads

# Returns of a random and of an expert policy (Farama-Foundation/D4RL, d4rl/infos.py).
_SCORES = {
    'antmaze': (0.0, 1.0),
    'pen': (96.262799, 3076.8331017826877),
    'door': (-56.512833, 2880.5693087298737),
    'hammer': (-274.856578, 12794.134825156867),
    'relocate': (-6.425911, 4233.877797728884),
}
# Under which names D4RL ships antmaze (the same file; Adroit's are called as their ids).
_SHIPPED = {
    'antmaze-umaze-v2': 'u-maze_noisy_multistart_False_multigoal_False',
    'antmaze-umaze-diverse-v2': 'u-maze_noisy_multistart_True_multigoal_True',
    'antmaze-medium-play-v2': 'big-maze_noisy_multistart_True_multigoal_False',
    'antmaze-medium-diverse-v2': 'big-maze_noisy_multistart_True_multigoal_True',
    'antmaze-large-play-v2': 'hardest-maze_noisy_multistart_True_multigoal_False',
    'antmaze-large-diverse-v2': 'hardest-maze_noisy_multistart_True_multigoal_True',
}


def normalized_score(environment: str, returns: np.ndarray | float) -> np.ndarray | float:
    """100 for an expert's return, 0 for a random policy's: D4RL's score, x 100, of an environment by its id.

    `returns` are sums of the environment's own rewards, in antmaze of 0 and 1, not of the shifted ones.
    """
    low, high = _SCORES[environment.split('-')[0]]
    return 100 * (returns - low) / (high - low)


def candidates(task: Task, home: Path) -> list[Path]:
    """Where the data of `task` may lie below the data directory `home`, best first."""
    name, version = task.environment.rsplit('-', 1)
    files = [f'{task.environment}.hdf5', f'{task.environment}.npz']
    if task.environment in _SHIPPED:
        files.insert(1, f'Ant_maze_{_SHIPPED[task.environment]}_sparse_fixed.hdf5')
        prepared = home / 'd4rl_antmaze' / f'{name.removeprefix("antmaze-")}-{version}'
    else:
        hand, kind = name.split('-')
        prepared = home / f'd4rl_adroit_{hand}' / f'{version}-{kind}'
    newest_first = sorted(prepared.glob('*/dataset_info.json'), reverse=True)
    return [home / file for file in files] + [info.parent for info in newest_first]


def find(task: Task, home: Path) -> Path:
    """The first of `candidates` that is there. Raises UserError where none is."""
    places = candidates(task, home)
    for path in places:
        if path.exists():
            return path
    raise UserError(
        f"no {task.environment} data in {home}: put D4RL's {places[0].name} there, prepare it with TFDS "
        '(data_dir there, file_format array_record), or give --dataset=FILE'
    )


def read(path: str | os.PathLike, task: Task) -> dict[str, np.ndarray]:
    """The arrays of a set in the keys of `fql_jax.data.from_arrays`.

    path: an .hdf5 or .npz file, or the directory that TFDS prepared. Raises UserError for one that is none of these,
    is damaged, or does not say where its trajectories end.
    """
    path = Path(path)
    if path.is_dir():
        arrays = from_episodes((episode['steps'] for episode in tfds_source(path)), path)
    elif path.suffix in ('.hdf5', '.h5'):
        arrays = _load_hdf5(path)
    else:
        arrays = load_npz(path)
    return transitions(arrays, task, path)


def transitions(arrays: Mapping[str, np.ndarray], task: Task, name: str | os.PathLike) -> dict[str, np.ndarray]:
    """D4RL's arrays, a row a step in order of time, as the keys of `fql_jax.data.from_arrays`; see the rules above.

    Keys: observations [N, D], actions [N, A], rewards and terminals [N] or [N, 1], and timeouts [N] or, where each row
    has its own, next_observations [N, D]. Raises UserError, beginning with `name`, for arrays that are not so.
    """
    arrays = {key: np.asarray(arrays[key]) for key in KEYS if key in arrays}
    for key in ('rewards', 'terminals', 'timeouts'):
        if key in arrays and arrays[key].shape[1:] == (1,):
            arrays[key] = arrays[key][:, 0]
    check_arrays(arrays, name, RANKS)
    observations = arrays['observations'].astype(np.float32)
    reached = arrays['terminals'] > 0
    cut = arrays['timeouts'] > 0 if 'timeouts' in arrays else np.zeros(len(reached), bool)
    if 'next_observations' in arrays:
        following = arrays['next_observations'].astype(np.float32)
        keep = np.ones(len(reached), bool)
    elif 'timeouts' in arrays:
        following = np.concatenate([observations[1:], observations[-1:]])
        keep = reached | ~cut
        keep[-1] = reached[-1]  # no row follows it
    else:
        raise UserError(f"{name}: neither 'timeouts' nor 'next_observations' say where its trajectories end")
    if following.shape != observations.shape:
        raise UserError(f'{name}: next_observations have shape {following.shape}, observations {observations.shape}')
    if not keep.any():
        raise UserError(f'{name}: there is no transition in it')
    observations, following = observations[keep], following[keep]
    ends = np.ones(len(observations), bool)
    ends[:-1] = np.linalg.norm(observations[1:] - following[:-1], axis=1) > JUMP
    ends |= cut[keep]
    antmaze = task.family == 'd4rl-antmaze'
    return {
        'observations': observations,
        'actions': np.clip(arrays['actions'][keep], -1, 1),
        'rewards': arrays['rewards'][keep].astype(np.float32) - (1 if antmaze else 0),
        'terminals': ends if antmaze else ends | reached[keep],
        'masks': 1.0 - reached[keep],
        'next_observations': following,
    }


def from_episodes(episodes: Iterable[Iterable[Mapping[str, Any]]], name: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays that D4RL shipped, from episodes of RLDS steps; the inverse of what TFDS did.

    A step: observation, action, reward, is_last, is_terminal (and discount, 0 on the step before a terminal one). RLDS
    marks the state that was reached as the terminal one, D4RL the step that reached it: a terminal last step, whose
    observation TFDS made up, is left out, and the step before it becomes the terminal one. Any other last step was cut
    by a time limit.
    """
    columns: dict[str, list] = {key: [] for key in ('observations', 'actions', 'rewards', 'terminals', 'timeouts')}
    for episode in episodes:
        steps = list(episode)
        if not steps or not steps[-1]['is_last']:
            raise UserError(f'{name}: an episode does not end with a step that is_last')
        reached = bool(steps[-1]['is_terminal'])
        steps = steps[:-1] if reached else steps
        for i, step in enumerate(steps, 1):
            last = i == len(steps)
            row = (step['observation'], step['action'], step['reward'], last and reached, last and not reached)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    if not columns['rewards']:
        raise UserError(f'{name}: it has no steps')
    return {key: np.stack(column) for key, column in columns.items()}


def _load_hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: reading HDF5 needs h5py: pip install 'tenfold[d4rl]'") from error
    if not path.exists():
        raise UserError(f'there is no dataset {path}')
    try:
        with h5py.File(path, 'r') as file:
            return {key: file[key][:] for key in KEYS if key in file}
    except OSError as error:
        raise UserError(f'{path} is no HDF5 file, or a damaged one ({error})') from error
