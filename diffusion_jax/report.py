"""What a search leaves on disk and says: designs in the domain's files, the trace, its picture, summary.json."""

from __future__ import annotations

import pathlib
import shlex
import time
from typing import Any

import jax
import numpy as np

from core_jax.files import write_json_atomic
from core_jax.mesh import make_mesh
from core_jax.runs import Run
from diffusion_jax import api, methods
from diffusion_jax.domains.task import Task

PAPER = 'diffusion'
TASKS = {'dna': ('lab', 'promoters'), 'molecules': ('moses',), 'proteins': ('mpnn',), 'images': ('digits', 'fashion')}


def listing() -> None:
    """Prints tasks and methods. Rewards of a task are printed by an unknown --reward, since models load with them."""
    print('domains and their tasks (the first is the default):')
    for domain, tasks in TASKS.items():
        print(f'  {domain:11} {", ".join(tasks) or "one task"}')
    print('\nmethods, with the settings that --config.NAME=VALUE changes:')
    for name, method in methods.METHODS.items():
        print(f'  {name:11} {method.about}')
        if method.settings:
            print(f'  {"":11}   {", ".join(f"{k}={v}" for k, v in method.settings.items())}')
    print('\nrewards of the default task:')
    for name, reward in api.task('dna').rewards.items():
        print(f'  {name:15} {reward.about}{f"; reported by {reward.held_out}" if reward.held_out else ""}')


def single(flags: Any, overrides: dict[str, str], command: list[str]) -> int:
    """`main`: one search."""
    mesh = make_mesh(flags.mesh) if flags.mesh else make_mesh()
    if flags.workdir:
        Run.check(flags.workdir, resume=False, overwrite=flags.overwrite)
    task = api.task(flags.domain, flags.task)
    reward, name = api.choose(task, flags.reward)
    directory = pathlib.Path(
        flags.workdir or f'runs/{PAPER}-{task.name}-{flags.method}-{time.strftime("%Y%m%d-%H%M%S")}'
    )
    print(f'{task.name}: {task.about}')
    print(f'{flags.method} for {name} ({reward.about}), {flags.nfe} calls a design, {jax.device_count()} device(s)')
    found = api.design(
        task,
        method=flags.method,
        reward=name,
        nfe=flags.nfe,
        designs=flags.designs,
        seed=flags.seed,
        fields=overrides,
        samples=flags.samples,
        lookahead=flags.lookahead,
        mesh=mesh,
        workers=flags.workers,
    )
    asked = {'domain': flags.domain, 'task': task.name, 'method': flags.method, 'reward': name, 'nfe': flags.nfe}
    asked |= {'designs': flags.designs, 'seed': flags.seed, 'samples': flags.samples, 'lookahead': flags.lookahead}
    config = asked | found.config.to_dict()
    run = Run.open(directory, config, paper=PAPER, command=shlex.join(command), overwrite=flags.overwrite)
    try:
        write(run, task, found, name, flags.seed)
    finally:
        run.close()
    return 0


def write(run: Run, task: Task, found: api.Found, name: str, seed: int) -> None:
    """Files of one search into its run directory, and a few lines for the eye."""
    paths = task.write(run.directory, found.designs, found.rewards)
    write_json_atomic(run.directory / 'trace.json', {k: v.tolist() for k, v in found.result.trace.items()})
    metrics = measures(task, found, seed)
    steps = len(found.result.trace['calls'])
    (run.directory / 'plots').mkdir(exist_ok=True)
    picture = draw_trace(found, run.directory / 'plots' / 'trace.png')
    run.finish(metrics, seed=seed, steps=steps, wall_seconds=found.seconds)
    best = np.argsort(-found.rewards[name])[:5]
    for i in best:
        print(f'  {found.texts[i][:60]:60}  ' + '  '.join(f'{k} {v[i]:.4g}' for k, v in found.rewards.items()))
    for key, figure in metrics.items():
        interval = '' if figure['low'] is None else f' [{figure["low"]:.4g}, {figure["high"]:.4g}]'
        print(f'{key}: {figure["value"]:.4g}{interval}')
    failed = int(found.result.failed.sum())
    if failed:
        print(f'{failed} of {int(found.result.reward_calls.sum())} rewards were not finite and counted as the floor')
    print(f'run: {run.directory} ({", ".join(p.name for p in map(pathlib.Path, paths))}, trace.json, summary.json)')
    print(f'picture: {picture}')
    print('next: --method=svdd, --nfe=256, --reward=..., --list; python -m diffusion_jax.compare')


def measures(task: Task, found: api.Found, seed: int) -> dict[str, dict[str, float]]:
    """Of a set of designs: rewards (the median with a bootstrap interval), diversity, likelihood, costs."""
    rng = np.random.default_rng(0)
    told = {}
    for name, values in found.rewards.items():
        finite = values[np.isfinite(values)]
        medians = np.median(rng.choice(finite, (2000, len(finite))), axis=1) if len(finite) else np.array([np.nan])
        low, high = np.quantile(medians, [0.025, 0.975])
        told[name] = stats_row(np.median(finite) if len(finite) else np.nan, low, high, len(finite))
        told[f'{name}/q90'] = stats_row(np.quantile(finite, 0.9) if len(finite) else np.nan, None, None, len(finite))
    pairs = len(found.designs) * (len(found.designs) - 1)
    distances = task.distances(found.designs)
    told['diversity'] = stats_row(distances.sum() / pairs if pairs else 0.0, None, None, len(found.designs))
    told['unique'] = stats_row(
        len(np.unique(found.designs.reshape(len(found.designs), -1), axis=0)) / len(found.designs)
    )
    if task.process.log_likelihood is not None:
        likelihood = jax.jit(task.process.log_likelihood)(task.process.params, jax.random.key(0), found.designs)
        told['log_likelihood'] = stats_row(np.median(np.asarray(likelihood)), None, None, len(found.designs))
    told['denoiser_calls'] = stats_row(found.calls)
    told['reward_calls'] = stats_row(found.reward_calls)
    return told


def stats_row(value: float, low: float | None = None, high: float | None = None, n: int = 1) -> dict[str, Any]:
    """One metric of a summary."""
    return {
        'value': float(value),
        'low': None if low is None else float(low),
        'high': None if high is None else float(high),
        'n': n,
    }


def draw_trace(found: api.Found, path: pathlib.Path) -> pathlib.Path:
    """Value of the beams against denoiser calls: the mean over groups of the best and of the mean."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(5, 3.4), layout='constrained')
    axes = figure.subplots()
    trace, share = found.result.trace, found.plan.designs
    for name in ('best', 'mean'):
        axes.plot(trace['calls'].mean(1) / share, trace[name].mean(1), label=f'{name} of a group', linewidth=1.6)
    axes.set_xlabel('denoiser calls a design')
    axes.set_ylabel('value')
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
