"""What a search leaves on disk and says: designs in the domain's files, the trace, its picture, summary.json."""

from __future__ import annotations

import pathlib
import shlex
import time
from typing import Any

import jax
import numpy as np

from core_jax import cli
from core_jax.errors import UserError
from core_jax.files import reason, write_json_atomic
from core_jax.mesh import make_mesh
from core_jax.runs import Run
from diffusion_jax import api, methods
from diffusion_jax.domains.task import Task

PAPER = 'diffusion'


def listing() -> None:
    """Prints tasks with their rewards, and methods."""
    print('domains, their tasks with their rewards (of each the first is the default), settings that --task.NAME=VALUE')
    print('changes; a reward has NAME-held-out beside it where another judges:')
    for domain in api.DOMAINS:
        for name in api.domain_module(domain).TASKS:
            config = api.task_config(domain, name)
            print(f'  {domain:11} {name}: {_some(api.domain_module(domain).reward_names(name, config))}')
            if config:
                blocks = [f'{key}.*' if hasattr(value, 'items') else key for key, value in config.items()]
                print(f'  {"":11}   {", ".join(blocks)}')
    print('\nmethods, with the settings that --config.NAME=VALUE changes:')
    for name, method in methods.METHODS.items():
        print(f'  {name:11} {method.about}')
        if method.settings:
            print(f'  {"":11}   {", ".join(f"{k}={v}" for k, v in method.settings.items())}')
    print('\nrewards of the default task:')
    for name, reward in api.task('dna').rewards.items():
        print(f'  {name:15} {reward.about}{f"; reported by {reward.held_out}" if reward.held_out else ""}')


def _some(names: list[str]) -> str:
    return ', '.join(name for name in names if not name.endswith('-held-out'))


def single(flags: Any, overrides: dict[str, str], fields: dict[str, str], command: list[str]) -> None:
    """`main`: one search. overrides: fields of the method's config; fields: of the task's."""
    cli.apply(methods.get_config(flags.method), overrides)  # what is wrong with these is said before a model is trained
    api.check_values(flags.values, flags.samples, flags.lookahead)
    task_config = api.task_config(flags.domain, flags.task, fields)
    api.check_reward(flags.domain, flags.task, task_config, flags.reward)
    mesh = make_mesh(flags.mesh)
    if flags.workdir:
        Run.check(flags.workdir, resume=False, overwrite=flags.overwrite)
    task = api.task(flags.domain, flags.task, task_config)
    reward, name = api.choose(task, flags.reward)
    directory = pathlib.Path(
        flags.workdir or f'runs/{PAPER}-{task.name}-{flags.method}-{time.strftime("%Y%m%d-%H%M%S")}'
    )
    print(f'{task.name}: {task.about}')
    print(f'{flags.method} for {name} ({reward.about}), {jax.device_count()} device(s)')
    found = api.design(
        task,
        method=flags.method,
        reward=name,
        nfe=flags.nfe,
        designs=flags.designs,
        seed=flags.seed,
        fields=overrides,
        values=flags.values,
        samples=flags.samples,
        lookahead=flags.lookahead,
        start=_lines(flags.start) if flags.start else None,
        mesh=mesh,
        workers=flags.workers,
    )
    asked = {'domain': flags.domain, 'task': task.name, 'method': flags.method, 'reward': name, 'nfe': flags.nfe}
    asked |= {name: getattr(flags, name) for name in ('designs', 'seed', 'values', 'samples', 'lookahead', 'start')}
    config = asked | found.config.to_dict() | {'task_config': task_config.to_dict()}
    run = Run.open(directory, config, paper=PAPER, command=shlex.join(command), overwrite=flags.overwrite)
    try:
        write(run, task, found, flags.seed)
    finally:
        run.close()


def _lines(path: str) -> list[str]:
    """Designs in a file: a line each, or of a FASTA what stands between two heads. Raises UserError."""
    try:
        lines = [line.strip() for line in pathlib.Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the designs in {path}: {reason(error)}') from error
    if not any(line.startswith('>') for line in lines):
        return [line for line in lines if line]
    parts = '\n'.join(lines).split('>')[1:]  # each begins with the rest of its head
    return [''.join(part.split('\n')[1:]) for part in parts]


def write(run: Run, task: Task, found: api.Found, seed: int) -> None:
    """Files of one search into its run directory, and a few lines for the eye."""
    paths = task.write(run.directory, found.designs, found.rewards)
    write_json_atomic(run.directory / 'trace.json', {k: v.tolist() for k, v in found.result.trace.items()})
    metrics = measures(task, found)
    steps = len(found.result.trace['calls'])
    (run.directory / 'plots').mkdir(exist_ok=True)
    picture = draw_trace(found, run.directory / 'plots' / 'trace.png')
    run.finish(metrics, seed=seed, steps=steps, wall_seconds=found.seconds)
    for i in np.argsort(-next(iter(found.rewards.values())))[:5]:
        print(f'  {found.texts[i][:60]:60}  ' + '  '.join(f'{k} {v[i]:.4g}' for k, v in found.rewards.items()))
    for key, figure in metrics.items():
        interval = '' if figure['low'] is None else f' [{figure["low"]:.4g}, {figure["high"]:.4g}]'
        print(f'{key}: {figure["value"]:.4g}{interval}')
    if found.fit:
        paid = f'{found.fit.denoiser_calls:,} denoiser calls and {found.fit.reward_calls:,} reward calls'
        print(f'the value was learned from {found.fit.trajectories:,} trajectories: {paid} before the search, once')
    failed = int(found.result.failed.sum())
    if failed:
        print(f'{failed} of {int(found.result.reward_calls.sum())} rewards were not finite and counted as the floor')
    print(f'run: {run.directory} ({", ".join(p.name for p in map(pathlib.Path, paths))}, trace.json, summary.json)')
    print(f'picture: {picture}')
    print('next: --method=svdd, --nfe=256, --reward=..., --list; python -m diffusion_jax.compare')


def described(task: Task, found: api.Found) -> dict[str, float]:
    """Of a set of designs: how different and how likely they are, and what one of them cost.

    diversity: mean distance of two; unique: share of different ones; log_likelihood: median, under the prior. And what
    the task itself says of them. Of a learned value: what its training cost, which is in no other number, and how good
    it is (`learned_value.Fit`).
    """
    count, distances = len(found.designs), task.distances(found.designs)
    told = {
        'diversity': float(distances.sum() / max(count * (count - 1), 1)),
        'unique': len(set(found.texts)) / count,
        'denoiser_calls': found.calls,
        'reward_calls': found.reward_calls,
    }
    if task.process.log_likelihood is not None:
        likelihood = jax.jit(task.process.log_likelihood)(task.process.params, jax.random.key(0), found.designs)
        told['log_likelihood'] = float(np.median(np.asarray(likelihood)))
    if found.fit:
        told |= {
            'training_denoiser_calls': found.fit.denoiser_calls,
            'training_reward_calls': found.fit.reward_calls,
            'value_explained': found.fit.explained,
        }
    return told | (task.measures(found.designs) if task.measures else {})


def measures(task: Task, found: api.Found) -> dict[str, dict[str, Any]]:
    """The metrics of summary.json: medians of the rewards with bootstrap intervals, 90 % quantiles, `described`."""
    rng, told = np.random.default_rng(0), {}
    for name, values in found.rewards.items():
        finite = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([np.nan])
        medians = np.median(rng.choice(finite, (2000, len(finite))), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975]).tolist()
        told[name] = {'value': float(np.median(finite)), 'low': low, 'high': high, 'n': len(finite)}
        told[f'{name}/q90'] = {'value': float(np.quantile(finite, 0.9)), 'low': None, 'high': None, 'n': len(finite)}
    single = {'low': None, 'high': None, 'n': len(found.designs)}
    return told | {name: {'value': value} | single for name, value in described(task, found).items()}


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
