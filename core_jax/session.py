"""What the command of every trainer does around `loop.train`: words, defaults, exit status.

Request      which run directory, and how; `saved_run` says what is in it, `open_run` opens it
announce     what a run will take, before anything is allocated
host_act     a policy for environments on the host;  summarize: episodes as a row of eval.csv
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax import loop, stats
from core_jax.driver import DeviceDriver, Numerics
from core_jax.errors import UserError
from core_jax.mesh import describe, fetch
from core_jax.networks import parameter_count
from core_jax.runs import Run
from core_jax.state import parameters
from core_jax.worker_process import WorkerError


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for beside the config. command: the words of the command line; None from Python."""

    workdir: str | None = None
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False
    wandb: bool = False
    profile: bool = False
    command: list[str] | None = None


def saved_run(request: Request, paper: str) -> dict | None:
    """config.json of the run that is to go on, None for a new one. Raises UserError where the flags do not suit it."""
    if request.resume and not request.workdir:
        raise UserError('--resume needs --workdir: the run to go on with')
    if not request.workdir:
        return None
    Run.check(request.workdir, resume=request.resume, overwrite=request.overwrite)
    saved = Run.saved_config(request.workdir) if request.resume else None
    if saved and saved['paper'] != paper:
        raise UserError(f'{request.workdir} holds a run of {saved["paper"]}, which another program makes')
    return saved


def open_run(
    request: Request,
    directory: pathlib.Path,
    config: dict,
    *,
    paper: str,
    numerics: Numerics,
    python: str,
    **extra: Any,
) -> tuple[Run, str]:
    """(the run, open for writing by the first process; the command that goes on with it).

    python: how the same was said from Python, for runs without a command line. extra: more for config.json.
    """
    run = Run.open(
        directory,
        config,
        paper=paper,
        command=shlex.join(request.command) if request.command else f'{python}(...)',
        numerics=vars(numerics),
        resume=request.resume,
        overwrite=request.overwrite,
        writer=jax.process_index() == 0,
        tensorboard=request.tensorboard,
        wandb=request.wandb,
        **extra,
    )
    if request.command is None:
        return run, f'{python}(..., workdir={str(directory)!r}, resume=True)'
    return run, resume_words(request.command, directory)


def resume_words(command: list[str], directory: pathlib.Path) -> str:
    """The command line that goes on with the run in `directory`."""
    words = [word for word in command if word not in ('--overwrite', '--resume')]
    if not any(word.startswith('--workdir') for word in words):
        words.append(f'--workdir={directory}')
    return shlex.join([*words, '--resume'])


def default_mesh(members: int, devices: list | None = None) -> dict[str, int]:
    """All devices along `population` where that divides the members of one, else along `data`."""
    count = jax.device_count() if devices is None else len(devices)
    return {'population': count} if members > 1 and members % count == 0 else {'data': count}


def announce(run: Run, driver: DeviceDriver, work: str) -> None:
    """Says what lies on each device, and the `work` that begins."""
    size = driver.bytes_per_device()
    params = parameter_count(parameters(driver.abstract.state)) // driver.members
    devices = f'{driver.mesh.devices.size} x {driver.mesh.devices.flat[0].device_kind}'
    run.say(
        f'{driver.members} member(s) of {params:,} parameters on {devices}, mesh {describe(driver.mesh)}; each device '
        f'will hold {size["state"] / 1e6:.1f} MB of state and {size["data"] / 1e6:.1f} MB of data'
    )
    run.say(f'training {work}; compiling the first update ...')


def host_act(act: Callable, policy: Any) -> Callable:
    """act(memory, observations, key) on numpy arrays, with the policy on the default device."""
    policy = jax.device_put(policy)

    def on_host(memory, observations, key):
        memory, actions = act(policy, memory, jnp.asarray(observations), key)
        return memory, fetch(actions)

    return on_host


def summarize(returns: np.ndarray, lengths: np.ndarray, successes: np.ndarray | None = None) -> dict[str, float]:
    """Episodes [n] as a row of eval.csv: return with its interval, length, and the success rate where all tell it."""
    n = len(returns)
    low, high = mean_interval(returns)
    row = {
        'return': float(np.mean(returns)),
        'return_low': low,
        'return_high': high,
        'length': float(np.mean(lengths)),
        'episodes': n,
    }
    if successes is None or np.isnan(successes).any():
        return row
    wins = int(np.sum(successes > 0))
    low, high = stats.wilson(wins, n)
    return {'success': wins / n, 'success_low': low, 'success_high': high} | row


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean by the normal approximation over episodes."""
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def members(driver: DeviceDriver, progress: loop.Progress) -> list[dict[str, Any]]:
    """Who is who in a population: seed, hyperparameters, and the update that froze it (or null)."""
    return [
        {
            'seed': int(seed),
            'hparams': {name: float(values[member]) for name, values in driver.hparams.items()},
            'frozen_at': progress.frozen.get(member),
        }
        for member, seed in enumerate(driver.seeds)
    ]


def as_program(train: Callable[[], Any]) -> int:
    """The exit status of `train()`, with one line for what went wrong; signals give 128 + their number."""
    try:
        train()
    except loop.Preempted as stopped:
        return stopped.status
    except (loop.NonFinite, WorkerError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0
