"""Trains the ant that collects antmaze data: it walks in the direction that its observation says.

    python -m fql_jax.ant_expert --workdir=runs/ant
    python -m fql_jax.collect --env=ogbench-antmaze-medium --episodes=100 --expert=runs/ant

With no flags: 200,000 environment steps, tens of minutes on two cores. OGBench trains for 400,000 (--steps=400000).
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from typing import Any

from core_jax.cli import Parser, apply
from core_jax.errors import UserError, exit_on_user_error
from fql_jax import settings, tasks
from fql_jax.ant_oracle import ACTION, STATE, make_env

PAPER = 'fql-ant'  # so that a run of the ant is not taken for one of an agent
DEBUG = {
    'steps': 600,
    'warmup': 200,
    'online_capacity': 2_000,
    'hidden_dims': (32, 32),
    'batch_size': 32,
    'log_interval': 100,
    'eval_interval': 400,
    'save_interval': 200,
    'eval_episodes': 2,
}
FREE_ON_RESUME = ('steps', 'workers', 'eval_episodes')


def get_config():
    """Settings of soft actor-critic and of the run.

    As in OGBench's main_sac: two layers of 256, discount 0.99, tau 0.005, the smaller of two critics everywhere, a
    target entropy of -A/2, 10,000 steps of warm-up, one update a step. For a shorter run, on a CPU: batches of 128, not
    256; steps of 3e-4 for Adam, not 1e-4; relu, not gelu; and a temperature that begins at 0.01, not 1, since a step
    earns hundredths at first.
    """
    from core_jax.learners import sac

    config = sac.get_config()
    config.update(
        {
            'batch_size': 128,
            'target_entropy': 'half',
            'initial_alpha': 0.01,
            'steps': 200_000,  # environment steps
            'utd': 1.0,  # updates an environment step
            'warmup': 10_000,  # steps with random actions and no update, at the start
            'online_envs': 8,  # environments that collect at once
            'online_capacity': 500_000,  # rows that are kept
            'log_interval': 2_000,  # these three in updates
            'eval_interval': 20_000,
            'save_interval': 20_000,
            'eval_episodes': 10,
            'eval_envs': 8,  # environments at once; part of what an evaluation's noise is a function of
            'workers': 0,  # processes for environments; 0 means one per core
            'seed': 0,
        }
    )
    return config


def resolve(fields: dict[str, Any], debug: bool = False, saved: dict[str, Any] | None = None):
    """The whole config: defaults, then DEBUG or what an earlier run was `saved` with, then `fields`.

    Raises UserError for unknown names, wrong types, values out of range, and for what would make it another run than
    the saved one.
    """
    from core_jax.files import differences

    config = get_config()
    for layer in (saved or (DEBUG if debug else {}), fields):
        apply(config, layer)
    settings.check_values(config)
    if config.steps <= config.warmup:
        raise UserError(f'{config.steps} steps end within the {config.warmup} of warm-up')
    if saved:
        before = get_config()
        apply(before, saved)
        changed = differences(before.to_dict(), config.to_dict())
        named = [f'{name}: saved {old!r}, wanted {new!r}' for name, old, new in changed if name not in FREE_ON_RESUME]
        if named:
            raise UserError('this is another run than the saved one: ' + '; '.join(named))
    return config


def build(config, numerics):
    """(driver, learner): soft actor-critic on what a feed of ants, still to be set, brings."""
    import numpy as np

    from core_jax import sources
    from core_jax.host_driver import HostDriver
    from core_jax.learners import sac
    from core_jax.mesh import make_mesh

    learner = sac.make(config, ACTION)
    row = {'observations': np.zeros(STATE + 2, np.float32), 'actions': np.zeros(ACTION, np.float32)}
    row |= {'rewards': np.float32(0), 'masks': np.float32(0), 'valid': np.bool_(False)}
    source = sources.online_rows(
        row, slots=config.online_envs, capacity=config.online_capacity, batch_size=config.batch_size
    )
    mesh, clocks = make_mesh({'data': 1}), {'ratio': config.utd, 'warmup': config.warmup}
    driver = HostDriver(learner, source, feed=None, mesh=mesh, seeds=[config.seed], numerics=numerics, **clocks)
    return driver, learner


def train(
    fields: dict[str, Any],
    *,
    debug: bool = False,
    workdir: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: list[str] | None = None,
) -> pathlib.Path:
    """Trains, evaluates, exports policy.npz; returns the run directory, like those of `fql_jax.api.train`.

    Raises UserError for what the caller can mend, loop.Preempted after a signal, loop.NonFinite for bad numbers.
    """
    from core_jax import checkpoint, loop, session
    from core_jax.driver import Numerics
    from core_jax.env_feed import Environments
    from core_jax.evaluate import Evaluator
    from core_jax.host_driver import updates_due
    from fql_jax.api import Evaluation

    request = session.Request(workdir, resume, overwrite, command=command)
    saved = session.saved_run(request, PAPER)
    config = resolve(fields, debug, saved['config'] if saved else None)
    numerics = Numerics.resolve(**(saved['numerics'] if saved else {}))
    driver, learner = build(config, numerics)
    directory = pathlib.Path(workdir or f'runs/ant-seed{config.seed}-{time.strftime("%Y%m%d-%H%M%S")}')
    signals = loop.Signals()
    with contextlib.ExitStack() as stack:
        run, resume_command = session.open_run(
            request, directory, config.to_dict(), paper=PAPER, numerics=numerics, python='fql_jax.ant_expert.train'
        )
        stack.callback(run.close)
        stack.enter_context(signals)
        slots = min(config.eval_envs, config.eval_episodes)
        workers = config.workers or None
        evaluator = stack.enter_context(Evaluator(make_env, workers=workers, envs=slots))
        feed = Environments(make_env, slots=config.online_envs, seed=config.seed, workers=workers)
        driver.feed = stack.enter_context(feed)
        updates = updates_due(config.steps, driver.ratio, config.warmup)
        run.say(f'run directory: {directory}')
        session.announce(run, driver, f'{updates:,} updates of {config.batch_size} on {config.steps:,} steps')
        identity = {name: value for name, value in config.to_dict().items() if name not in FREE_ON_RESUME}
        identity = {'config': identity, 'numerics': vars(numerics)}
        progress = loop.train(
            driver,
            run,
            checkpoint.Checkpoints(directory / 'checkpoints', metadata=identity),
            loop.Schedule(updates, config.log_interval, config.eval_interval, config.save_interval),
            resume=resume,
            evaluate=Evaluation(learner, evaluator, config, [config.seed], tasks.resolve(tasks.OWN + 'ant')),
            resume_command=resume_command,
            signals=signals,
        )
        checkpoint.export_policy(directory / 'policy.npz', driver.policies()[0], config.to_dict())
        _finish(run, driver, config, progress)
    return directory


def _finish(run, driver, config, progress) -> None:
    """Plot, summary.json, and what to do next."""
    from core_jax.files import read_metrics

    # From the file: a run that was killed after its last evaluation does not make it again.
    row = [row for row in read_metrics(run.directory / 'metrics.jsonl') if row['kind'] == 'eval'][-1]
    result = {'value': row['return'], 'low': row['return_low'], 'high': row['return_high'], 'n': row['episodes']}
    run.say(f'learning curve: {run.plot_curves()}')
    run.finish({'return': result}, seed=config.seed, steps=driver.updates, wall_seconds=progress.wall_seconds)
    run.say(
        '{:.1f} m an episode along the wanted direction (95 % interval {:.1f} to {:.1f}, {} episodes)'.format(
            *result.values()
        )
    )
    run.say(f'next: python -m fql_jax.collect --env=ogbench-antmaze-medium --episodes=100 --expert={run.directory}')


def main() -> int:
    parser = Parser(prog='python -m fql_jax.ant_expert', description=__doc__)
    parser.add_argument('--steps', type=int, help='environment steps (default 200000)')
    parser.add_argument('--seed', type=int, help='of everything random (default 0)')
    parser.add_argument('--workdir', help='the run directory (default: a new one under runs/)')
    parser.add_argument('--resume', action='store_true', help='go on with the run in --workdir')
    parser.add_argument('--overwrite', action='store_true', help='start over in --workdir')
    parser.add_argument('--debug', action='store_true', help='a tiny run that ends in under a minute')
    parser.add_argument('--config.FIELD=VALUE', dest='_', action='store_const', const=None, help='set one field')
    flags, overrides = parser.parse()
    fields = overrides | {name: getattr(flags, name) for name in ('steps', 'seed') if getattr(flags, name) is not None}

    from core_jax import session  # jax is imported here, after --help and the errors of the flags

    words = ['python', '-m', 'fql_jax.ant_expert', *sys.argv[1:]]
    chosen = {'debug': flags.debug, 'workdir': flags.workdir, 'resume': flags.resume, 'overwrite': flags.overwrite}
    return session.as_program(lambda: train(fields, **chosen, command=words))


if __name__ == '__main__':
    exit_on_user_error(main)
