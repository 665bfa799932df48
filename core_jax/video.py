"""One episode as an mp4 file, rendered and encoded in a process of its own: a GL crash must not take a trainer down."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from core_jax.env_worker import Slot, last_words, load_factory
from core_jax.errors import UserError
from core_jax.evaluate import Act, episode_seed
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
    worker = WorkerProcess(film, make_render_env, str(path), every, fps)
    try:
        spaces = worker.receive()
        worker.send(episode_seed(seed, 0))
        observation, done = worker.receive(), False
        for step in range(max_steps):
            memory, actions = act(memory, observation[None], fold_in(key, np.uint32(step)))
            worker.send(np.clip(actions[0], spaces.low, spaces.high))
            observation, done = worker.receive()
            if done:
                break
        worker.send(None)
        worker.receive()
    except (UserError, WorkerDied) as error:
        raise NoRenderer(str(error)) from error
    finally:
        worker.close()
    return path


def film(connection: Any, payload: bytes, path: str, every: int, fps: float) -> None:
    """The other process: is sent a seed, then actions, then None; answers with observations."""
    import imageio_ffmpeg

    unfinished = pathlib.Path(path).with_suffix('.part.mp4')
    with last_words(connection):
        make_env = load_factory(payload)
        with _rendering():
            slot = Slot(make_env)
        try:
            connection.send(slot.spaces())
            connection.send(np.asarray(slot.reset(connection.recv()), np.float32))
            frame = _frame(slot.env)
            size = frame.shape[1::-1]
            encoder = imageio_ffmpeg.write_frames(str(unfinished), size, fps=fps / every, macro_block_size=2)
            encoder.send(None)
            encoder.send(frame)
            step = 0
            while (action := connection.recv()) is not None:
                _, _, done, observation = slot.step(action)
                step += 1
                if done or step % every == 0:
                    encoder.send(_frame(slot.env))
                connection.send((np.asarray(observation, np.float32), bool(done)))
            encoder.close()
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
            slot.env.close()
        connection.send(None)


def _frame(env: Any) -> np.ndarray:
    """uint8 [height, width, 3], contiguous."""
    with _rendering():
        frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(f"render() of {env} gives no uint8 picture; make it with render_mode='rgb_array'")
    return np.ascontiguousarray(frame)


@contextlib.contextmanager
def _rendering() -> Iterator[None]:
    """Turns what a missing renderer raises, which may be anything, into one line that names what to install."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        # Debian's mesa-utils draws in EGL, GL and the software renderer.
        hint = '; on Debian or Ubuntu: apt-get install mesa-utils' if 'mujoco' in sys.modules else ''
        raise UserError(f'no renderer ({reason[0]}){hint}') from error
