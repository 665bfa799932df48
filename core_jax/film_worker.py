"""What runs in the process that films: it owns one environment, renders and encodes it, and never imports jax."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from core_jax.env_worker import Slot, last_words, load_factory
from core_jax.errors import UserError


def film(connection: Any, payload: bytes, path: str, every: int, fps: float) -> None:
    """Writes `path`. It is sent a seed, actions, then None; it answers with spaces, then observations."""
    import imageio_ffmpeg

    with last_words(connection):
        make_env = load_factory(payload)
        with _rendering():
            slot = Slot(make_env)
        with contextlib.closing(slot.env):
            spaces = slot.spaces()
            connection.send(spaces)
            connection.send(np.asarray(slot.reset(connection.recv()), spaces.observation_dtype))
            frame = _frame(slot.env)
            size = frame.shape[1::-1]
            encoder = imageio_ffmpeg.write_frames(path, size, fps=fps / every, macro_block_size=2)
            with contextlib.closing(encoder):
                encoder.send(None)  # a generator's first step
                encoder.send(frame)
                step = 0
                while (action := connection.recv()) is not None:
                    _, _, done, _, observation = slot.step(action)
                    step += 1
                    if done or step % every == 0:
                        encoder.send(_frame(slot.env))
                    connection.send((np.asarray(observation, spaces.observation_dtype), bool(done)))
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
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = ''
        if 'mujoco' in sys.modules or 'OpenGL' in sys.modules:
            # Debian's mesa-utils draws in EGL, GL and the software renderer.
            package = 'libosmesa6' if os.environ.get('MUJOCO_GL') == 'osmesa' else 'mesa-utils'
            hint = f'; on Debian or Ubuntu: apt-get install {package}'
        raise UserError(f'no renderer ({reason}){hint}') from error
