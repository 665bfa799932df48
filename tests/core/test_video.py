"""A film of the test environment, looked at frame by frame, and what is said where there can be none."""

import importlib.util
import re
import subprocess

import envs
import jax
import numpy as np
import pytest

from core_jax.evaluate import episode_seed
from core_jax.video import NoRenderer, record_video
from core_jax.worker_process import WorkerError

KEY = jax.random.key(0)


def still(memory, observations, key):
    return memory, 0 * observations[:, :1]


def right(memory, observations, key):
    return memory, np.full((1, 1), 9.0)  # beyond the bounds: clipped to half a unit


def positions(path):
    """(frames a second, where the red column stands in every frame, in the environment's unit)."""
    ffmpeg = pytest.importorskip('imageio_ffmpeg').get_ffmpeg_exe()
    decoded = subprocess.run([ffmpeg, '-i', path, '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'], capture_output=True)
    images = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, 64, 64, 3)
    columns = images[..., 1].mean(axis=1).argmin(axis=1)  # green is lowest in red
    fps = re.search(rb'([0-9.]+) fps', decoded.stderr)[1]
    return float(fps), (columns - 32) / 16


def test_shows_the_first_evaluation_episode(tmp_path):
    render = envs.clean_walk
    path = record_video(render, still, tmp_path / 'videos' / 'a.mp4', memory=(), seed=7, key=KEY)
    fps, shown = positions(path)
    start = envs.Walk().reset(seed=episode_seed(7, 0))[0][0]
    assert fps == 10 and len(shown) == 1 + 20 // 2
    np.testing.assert_allclose(shown, start, atol=4 / 16)
    assert [file.name for file in path.parent.iterdir()] == ['a.mp4']

    path = record_video(render, right, path, memory=(), seed=7, key=KEY, max_steps=3, every=1, fps=5)
    fps, shown = positions(path)
    assert fps == 5 and len(shown) == 4
    np.testing.assert_allclose(np.diff(shown), 0.5, atol=2 / 16)


@pytest.mark.parametrize(
    ('environment', 'error', 'says'),
    [
        (envs.BlackBox, NoRenderer, r'^no renderer \(libEGL.so.1: cannot open shared object file\)$'),
        (envs.MuJoCoBox, NoRenderer, 'gladLoadGL.*apt-get install mesa-utils$'),
        (envs.Crashes, NoRenderer, 'killed by SIGSEGV'),
        (envs.NoInfo, NoRenderer, 'rgb_array'),
        (envs.Raises, WorkerError, 'the floor gave way'),
    ],
)
def test_no_film_is_one_line_and_leaves_nothing(tmp_path, environment, error, says):
    pytest.importorskip('imageio_ffmpeg')
    with pytest.raises(error, match=says) as caught:
        record_video(environment, still, tmp_path / 'a.mp4', memory=(), seed=0, key=KEY)
    assert error is WorkerError or '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_an_encoder_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(NoRenderer, match=r"pip install 'tenfold\[video\]'"):
        record_video(envs.Walk, still, tmp_path / 'a.mp4', memory=(), seed=0, key=KEY)
