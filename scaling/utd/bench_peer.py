"""A peer's SAC in its own Python, for `scaling.utd.bench`: answers JSON lines on stdin with JSON lines on stdout.

    python bench_peer.py stable_baselines3 HalfCheetah-v4

    {"do": "update", "sigma": 4, "count": 100}   100 calls of `train(gradient_steps=4, batch_size=256)`, with sampling
    {"do": "step", "count": 100}                 100 environment steps with an update each, by `learn`

It runs without any package of this project, and is told when its turn is, so that all that are measured see the same
load.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import warnings
from importlib import metadata

BATCH_SIZE, CAPACITY, WARMUP = 256, 100_000, 1_000
WIDTHS = [256, 256]
PACKAGES = {'stable_baselines3': ('stable_baselines3', 'torch'), 'sbx': ('sbx-rl', 'jax')}


def make(package: str, env_id: str):
    """Their SAC as it comes, but for the size of the buffer."""
    extra = {'device': 'cpu'} if package == 'stable_baselines3' else {}
    return importlib.import_module(package).SAC(
        'MlpPolicy',
        env_id,
        batch_size=BATCH_SIZE,
        buffer_size=CAPACITY,
        learning_starts=WARMUP,
        policy_kwargs={'net_arch': WIDTHS},
        seed=0,
        **extra,
    )


class Worker:
    """One model for updates alone, with random transitions in its replay, and one that collects its own."""

    def __init__(self, package: str, env_id: str):
        self.package, self.env_id = package, env_id
        self._filled = self._learning = None

    def update(self, sigma: int, count: int) -> None:
        """`count` rounds of `sigma` updates."""
        if self._filled is None:
            self._filled = self._fill()
        for _ in range(count):
            self._filled.train(gradient_steps=sigma, batch_size=BATCH_SIZE)

    def step(self, count: int) -> None:
        """`count` environment steps with one update each, once the warm-up is over."""
        if self._learning is None:
            self._learning = make(self.package, self.env_id)
            self._learning.learn(WARMUP + 100)
        self._learning.learn(count, reset_num_timesteps=False)

    def _fill(self):
        import numpy as np
        from stable_baselines3.common.logger import Logger

        model = make(self.package, self.env_id)
        model.set_logger(Logger(None, []))
        buffer, rng = model.replay_buffer, np.random.default_rng(0)
        for name in ('observations', 'next_observations', 'rewards'):
            array = getattr(buffer, name)
            array[:] = rng.normal(size=array.shape)
        buffer.actions[:] = rng.uniform(-1, 1, buffer.actions.shape)
        buffer.full = True
        return model


def main(package: str, env_id: str) -> None:
    """Serves until stdin ends."""
    answers = sys.stdout
    warnings.simplefilter('ignore')
    with contextlib.redirect_stdout(sys.stderr):  # what the packages print is no answer
        worker = Worker(package, env_id)
        importlib.import_module(package)
        versions = {name: metadata.version(name) for name in PACKAGES[package]}
        print(json.dumps({'versions': versions}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            getattr(worker, request.pop('do'))(**request)
            print(json.dumps({'done': True}), file=answers, flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
