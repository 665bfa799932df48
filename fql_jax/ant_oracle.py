"""OGBench's ant that walks in a given direction: where it is trained, and the trained policy, in NumPy.

`fql_jax.ant_expert` trains it with jax; the processes that collect antmaze data have no jax, and need this only.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import zipfile

import numpy as np

from core_jax.errors import UserError
from core_jax.files import reason

RESAMPLE = 100  # steps until the ant in training is given another direction
STATE, ACTION = 27, 8  # numbers in qpos without x and y, and qvel; numbers in an action
ACTIVATIONS = {
    'relu': lambda x: np.maximum(x, 0),
    'gelu': lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi, dtype=x.dtype) * (x + 0.044715 * x**3))),
}


def make_env():
    """The ant in the open, told where to walk: observation [29], action [8].

    OGBench's own `online-ant-v0` in its own wrapper, as its data scripts have them: the observation is (qpos without
    x and y [13], qvel [14], direction [2]); the reward is the distance (m) made good along the direction in a step of
    0.1 s; the direction, of length 1, is drawn uniformly at the beginning and after every `RESAMPLE` steps; an episode
    is cut after 1000 steps. The wrapper draws from numpy's global generator, which each environment of
    `core_jax.env_worker` has for itself.
    """
    import gymnasium
    import ogbench.online_locomotion  # noqa: F401  (registers the ant)
    from ogbench.online_locomotion.wrappers import GymXYWrapper

    return GymXYWrapper(gymnasium.make('online-ant-v0', disable_env_checker=True), resample_interval=RESAMPLE)


def read(path: str | os.PathLike) -> bytes:
    """The content of an expert's file: `path` itself, or policy.npz of the run directory `path`.

    Raises UserError where it cannot be read, or holds no ant.
    """
    path = pathlib.Path(path).expanduser()
    file = path / 'policy.npz' if path.is_dir() else path
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f'there is no expert {file}; python -m fql_jax.ant_expert trains one') from error
    except OSError as error:
        raise UserError(f'cannot read {file}: {reason(error)}') from error
    Expert(content, file)
    return content


class Expert:
    """The mode of a policy that `fql_jax.ant_expert` exported: tanh of the mean of its Gaussian.

    Raises UserError, naming `name`, where `content` is no such file.
    """

    def __init__(self, content: bytes, name: str | os.PathLike = 'the expert'):
        try:
            with np.load(io.BytesIO(content)) as file:
                config = json.loads(file['config.json'].tobytes())['config']
                self._activation = ACTIVATIONS[config['activation']]
                layers = [f'actor/params/Dense_{i}' for i in range(len(config['hidden_dims']) + 1)]
                self._layers = [(file[f'{layer}/kernel'], file[f'{layer}/bias']) for layer in layers]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f'{name} is damaged, or no policy of fql_jax.ant_expert: {reason(error)}') from error
        shapes = self._layers[0][0].shape[0], self._layers[-1][0].shape[1]
        if shapes != (STATE + 2, 2 * ACTION):
            raise UserError(f'{name} is no ant: it takes {shapes[0]} numbers and gives {shapes[1] // 2}')

    def __call__(self, state: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Action [8] in [-1, 1], float32. state [27]: qpos without x and y, and qvel. direction [2]: of length 1."""
        x = np.concatenate([state, direction]).astype(np.float32)
        *hidden, (kernel, bias) = self._layers
        for inner, offset in hidden:
            x = self._activation(x @ inner + offset)
        return np.tanh((x @ kernel + bias)[:ACTION])
