"""The smallest whole runs of scaling.utd, on the device and on the host, with one compiled program for each shape."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import tiny

DEVICE = {
    'env': 'pendulum',
    'hidden_dims': (8,),
    'learning_rate': 1e-3,
    'batch_size': 8,
    'envs': 4,
    'utd': 0.1,
    'steps': 1_000,  # 90 updates; episodes end at 800
    'warmup': 100,
    'log_interval': 200,
    'eval_interval': 400,
    'save_interval': 300,
    'eval_episodes': 2,
    'mesh': 'data:1',
}
# Episodes of 6 steps in two environments; three updates in two steps.
HOST = DEVICE | {
    'env': tiny.ENV,
    'envs': 2,
    'utd': 1.5,
    'steps': 30,
    'warmup': 8,
    'log_interval': 8,
    'eval_interval': 16,
    'save_interval': 12,
    'workers': 1,
}


def share_programs(monkeypatch, programs: list = []) -> None:  # noqa: B006  (shared is what it is for)
    """Runs of one shape use one driver, as in a sweep, whoever starts them; plots are not drawn."""
    from core_jax import plots
    from scaling.utd import api, fleet

    if not programs:
        programs.append(fleet.Programs(most=20))
    monkeypatch.setitem(api.train.__kwdefaults__, 'builder', programs[0].build)
    monkeypatch.setattr(fleet, 'Programs', lambda: programs[0])
    monkeypatch.setattr(plots, 'learning_curve', lambda rows, path, title: path)


def train(directory: pathlib.Path, fields: dict | None = None, resume: bool = False, **changes) -> int:
    """The exit status of a run in this process. Without `fields` it is one on the device."""
    from core_jax import session
    from scaling.utd import api

    asked = changes if resume else (fields or DEVICE) | changes
    return session.as_program(
        lambda: api.train(fields=asked, preset=None if resume else {}, workdir=str(directory), resume=resume)
    )


def stop_in_evaluation(monkeypatch, step: int, number: int) -> None:
    """Sends this process the signal `number` when the evaluation at `step` asks for the second time whether to stop."""
    from scaling.utd import api

    evaluate = api.Evaluation.__call__

    def evaluation(self, now: int, policies: dict, stop: Callable[[], bool]):
        calls = iter(range(1_000_000))

        def asked():
            if now == step and next(calls) == 1:
                os.kill(os.getpid(), number)
            return stop()

        return evaluate(self, now, policies, asked)

    monkeypatch.setattr(api.Evaluation, '__call__', evaluation)


def words(fields: dict) -> list[str]:
    """Fields as the words of a command line that has no preset."""
    from scaling.utd import settings

    plain = {name: ','.join(map(str, v)) if isinstance(v, tuple) else v for name, v in fields.items()}
    over_small = {name: value for name, value in settings.get_config().items() if name in settings.SMALL}
    named = ('env', 'utd', 'steps', 'mesh', 'seeds', 'vary')
    plain = over_small | plain
    return [f'--{name}={plain.pop(name)}' for name in named if name in plain] + tiny.flags(plain)
