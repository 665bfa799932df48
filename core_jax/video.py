"""One episode as an mp4 file. The policy acts here; another process renders, where GL may crash as it likes."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from core_jax.errors import UserError
from core_jax.evaluate import Act, episode_seed
from core_jax.film_worker import film
from core_jax.worker_process import WorkerDied, WorkerProcess


class NoRenderer(Exception):
    """No picture or no encoder on this machine: one line that names what to install."""


def record_video(
    make_render_env: Callable[[], Any],
    act: Act,
    path: str | os.PathLike,
    *,
    memory: Any,
    seed: int,
    key: jax.Array,
    max_steps: int = 1000,
    every: int = 2,
    fps: float = 20,
) -> pathlib.Path:
    """Films the environment's first episode for `seed`, the one that `Evaluator.run` begins with.

    make_render_env: as for `Evaluator`; its environment's render() gives uint8 [height, width, 3].
    act, memory, key: as for `Evaluator.run`, with B = 1.
    every: one frame every so many steps (rendering without a GPU takes longer than stepping), and the last one.
    fps: steps that a second of the film shows.

    Raises NoRenderer where that is not possible on this machine, and WorkerError where the environment raises.
    """
    path = pathlib.Path(path)
    if importlib.util.find_spec('imageio_ffmpeg') is None:
        raise NoRenderer("no encoder for video: pip install 'tenfold[video]'")
    path.parent.mkdir(parents=True, exist_ok=True)
    fold_in = jax.jit(jax.random.fold_in)
    with tempfile.TemporaryDirectory(prefix='.film-', dir=path.parent) as folder:
        unfinished = pathlib.Path(folder) / path.name
        worker = WorkerProcess(film, make_render_env, str(unfinished), every, fps)
        try:
            spaces = worker.receive()
            worker.send(episode_seed(seed, 0))
            observation = worker.receive()
            for step in range(max_steps):
                memory, actions = act(memory, observation[None], fold_in(key, np.uint32(step)))
                worker.send(np.clip(actions[0], spaces.low, spaces.high))
                observation, done = worker.receive()
                if done:
                    break
            worker.send(None)
            worker.receive()
            os.replace(unfinished, path)
        except (UserError, WorkerDied) as error:
            raise NoRenderer(str(error)) from error
        finally:
            worker.close()
    return path
