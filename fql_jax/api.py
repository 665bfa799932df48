"""What the command does, as functions: train on an environment and data of one's own, load a finished policy and act.

    result = train(env='ogbench-cube', fields={'steps': 5000})
    result = train(make_env=my_make_env, dataset={'observations': ..., 'actions': ..., ...})
    policy = load_policy(result.directory); actions = policy(observations)

`make_env` is a function without arguments, at the top level of a module (worker processes import it), that returns a
gymnasium.Env with Box observations [D] and Box actions; the data's actions are in [-1, 1], and so are the policy's.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from core_jax import checkpoint, loaded, loop, replay, session, stats
from core_jax.driver import DeviceDriver, Numerics
from core_jax.env_feed import Environments
from core_jax.errors import UserError
from core_jax.evaluate import Evaluator
from core_jax.files import read_metrics
from core_jax.mesh import initialize_distributed, make_mesh
from core_jax.runs import Run
from core_jax.session import host_act, summarize
from core_jax.state import Learner
from core_jax.worker_process import WorkerError
from fql_jax import collect, d4rl, data, settings, tasks
from fql_jax.build import build, identity, layout, upgrade_identity

PAPER = 'fql'


class Result(NamedTuple):
    """A finished run. metrics: {name: {'value', 'low', 'high', 'n'}}, as in its summary.json."""

    directory: pathlib.Path
    metrics: dict[str, dict[str, float]]


# Training


def train(
    env: str | None = None,
    *,
    make_env: Callable[[], Any] | None = None,
    dataset: str | dict[str, np.ndarray] | None = None,
    fields: dict[str, Any] | None = None,
    preset: dict[str, Any] | None = None,
    debug: bool = False,
    workdir: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    wandb: bool = False,
    profile: bool = False,
    command: list[str] | None = None,
) -> Result:
    """Trains, evaluates, films, and leaves a run directory.

    env: a name that `fql_jax.tasks` knows. make_env: one's own environment instead (then give a dataset).
    dataset: path of an npz file, or the arrays: observations [N, D], actions [N, A], rewards [N], terminals [N] and
        perhaps masks [N], in order of time (see `fql_jax.data.from_arrays`).
    fields: config fields to set, e.g. {'alpha': 100.0}; preset: those of a preset file, instead of the small defaults.

    Raises UserError for what the caller can mend, loop.Preempted after a signal, loop.NonFinite for bad numbers.
    """
    fields = dict(fields or {})
    if env is not None:
        fields['env'] = env
    elif make_env is not None:
        fields.setdefault('env', tasks.OWN + _name(make_env))
    if isinstance(dataset, str):
        fields['dataset'] = dataset
    request = session.Request(workdir, resume, overwrite, tensorboard, wandb, profile, command)
    saved = session.saved_run(request, PAPER)
    config = (
        settings.for_resume(saved['config'], fields, preset, debug)
        if saved
        else settings.resolve(fields, preset, debug)
    )
    task = tasks.resolve(config.env)
    initialize_distributed()
    first = jax.process_index() == 0
    say = print if first else _silent
    numerics = Numerics.resolve(**(saved['numerics'] if saved else config.numerics.to_dict()))
    seeds, varied = settings.members(config)
    mesh = make_mesh(config.mesh or session.default_mesh(len(seeds)))
    if make_env is None and task.gym_id:
        make_env = functools.partial(tasks.make_env, task.gym_id, frame_stack=config.frame_stack)
    if make_env is None and config.online_steps:
        raise UserError(f'there is no environment for {config.env} on this machine, and an online run needs one')
    say(f'{config.agent} on {config.env} ({task.gym_id}), seed {config.seed}')
    if make_env is None:
        say(f'no environment for {config.env} on this machine: the run trains and exports, and evaluates nothing')
    if preset is None and not saved and not debug:
        say("settings: small, for a CPU; the paper's are in configs/fql/")

    # Everything that can be wrong with the input is found before the run directory is touched.
    signals = loop.Signals()
    with signals:
        rows = data.from_arrays(dataset) if isinstance(dataset, dict) else _load(task, config, say, signals)
    _check_observations(config, rows)
    if make_env and (config.dataset or isinstance(dataset, dict)):
        _check_spaces(make_env, rows, config.frame_stack)
    if jax.process_count() > 1 and not workdir:
        raise UserError('several processes need --workdir: one directory that they share')
    if config.online_steps and jax.process_count() > 1:
        raise UserError('an online run is one process')
    driver, learner = build(config, rows, mesh=mesh, numerics=numerics, seeds=seeds, hparams=varied)
    directory = pathlib.Path(workdir or _new_directory(config))

    with contextlib.ExitStack() as stack:
        run, resume_command = session.open_run(
            request, directory, config.to_dict(), paper=PAPER, numerics=numerics, python='fql_jax.train'
        )
        stack.callback(run.close)
        run.say(f'run directory: {directory}')
        stack.enter_context(signals)
        evaluator = None
        workers = config.workers or None
        stack.enter_context(_say_how_to_go_on(run, resume_command))
        if first and make_env:
            slots = min(config.eval_envs, config.eval_episodes)
            evaluator = stack.enter_context(Evaluator(make_env, workers=workers, envs=slots))
        if config.online_steps:
            # D4RL's antmaze rewards are 0 and 1, learned from as -1 and 0.
            shifted = functools.partial(tasks.shift_rewards, make_env, -1.0)
            collects = shifted if task.family == 'd4rl-antmaze' else make_env
            # Seeded as an evaluation at step 0 would be, which there is none of: they share no episode.
            feed = Environments(collects, slots=config.online_envs, seed=config.seed * 1_000_003, workers=workers)
            driver.feed = stack.enter_context(feed)
            feed.get_state()  # an environment that cannot be saved is found now
        evaluate = Evaluation(learner, evaluator, config, seeds, task)

        session.announce(run, driver, _work(config))
        driver.bind(replay.place_dataset(layout(rows), mesh))
        progress = loop.train(
            driver,
            run,
            checkpoint.Checkpoints(
                directory / 'checkpoints',
                metadata=identity(config, numerics, rows),
                upgrade=functools.partial(upgrade_identity, rows=rows),
            ),
            loop.Schedule(
                settings.total_updates(config), config.log_interval, config.eval_interval, config.save_interval
            ),
            resume=resume,
            evaluate=evaluate,
            resume_command=resume_command,
            signals=signals,
            profile=directory / 'profile' if profile else None,
        )
        policies = driver.policies()  # all processes together
        if not first:
            return Result(directory, {})
        return _finish(run, driver, learner, config, progress, policies, make_env)


@contextlib.contextmanager
def _say_how_to_go_on(run: Run, resume_command: str):
    """An environment that fails is no reason to begin anew."""
    try:
        yield
    except WorkerError:
        run.say(f'an environment failed; go on from the last checkpoint with: {resume_command}')
        raise


def _load(task: tasks.Task, config, say: Callable[[str], None], signals: loop.Signals) -> dict[str, np.ndarray]:
    """The data set; where several processes share a disk, the first one finds or collects it for all."""
    try:
        if jax.process_index() == 0:
            rows = data.load_dataset(task, config, say, lambda: signals.number > 0)
        if jax.process_count() == 1:
            return rows
    except collect.Interrupted:
        say('stopped while collecting; the same command goes on where this one stopped')
        raise loop.Preempted(signals.number) from None
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices('the data set is there')
    return data.load_dataset(task, config, _silent)


def _silent(text: str) -> None:
    """Where the first process speaks for all."""


def _check_observations(config, rows: dict[str, np.ndarray]) -> None:
    """UserError where the agent's networks do not go with the data: images take an encoder, vectors take none."""
    shape, encoder = rows['observations'].shape[1:], config.get('encoder', '')
    if len(shape) == 3 and not encoder:
        hint = '--config.encoder=impala_small' if 'encoder' in config else 'an agent that has one'
        raise UserError(f'the observations are images of shape {shape}, which need an encoder: {hint}')
    if len(shape) == 1 and (encoder or config.frame_stack > 1 or config.p_aug):
        raise UserError(f'the observations are vectors of shape {shape}: encoder, frame_stack and p_aug are for images')
    if len(shape) not in (1, 3):
        raise UserError(f'{config.agent} takes vectors or images; the observations have shape {shape}')


def _check_spaces(make_env: Callable[[], Any], rows: dict[str, np.ndarray], frame_stack: int) -> None:
    """UserError where somebody's own data do not fit the environment: found now, not at the first evaluation."""
    seen = rows['observations'].shape[1:]
    seen = (*seen[:-1], frame_stack * seen[-1])
    with contextlib.closing(make_env()) as env:
        spaces = (
            ('observations', seen, env.observation_space),
            ('actions', rows['actions'].shape[1:], env.action_space),
        )
        for key, shape, space in spaces:
            if shape != space.shape:
                raise UserError(f'the data have {key} of shape {shape}, the environment {space.shape}')
        bounds = env.action_space
        if not (np.all(bounds.low == -1) and np.all(bounds.high == 1)):
            raise UserError('the environment must take actions in [-1, 1]; wrap it in gymnasium.wrappers.RescaleAction')


class Evaluation:
    """Episodes with each member's policy, for `loop.train` to call."""

    def __init__(self, learner: Learner, evaluator: Evaluator | None, config, seeds: list[int], task: tasks.Task):
        self.learner, self.evaluator, self.config, self.seeds, self.task = learner, evaluator, config, seeds, task
        self.act = jax.jit(learner.act)

    def __call__(self, step: int, policies: dict[int, Any], stop: Callable[[], bool]) -> dict[int, dict[str, float]]:
        if self.evaluator is None:  # another process evaluates, or there is no environment
            return {}
        rows = {}
        for member, policy in policies.items():
            episodes = self.evaluator.run(
                host_act(self.act, policy),
                episodes=self.config.eval_episodes,
                seed=self.seeds[member] * 1_000_003 + step,
                key=jax.random.fold_in(jax.random.key(self.seeds[member]), step),
                memory=self.learner.memory(self.evaluator.batch_size),
                should_stop=stop,
            )
            rows[member] = summarize(episodes.returns, episodes.lengths, episodes.successes)
            if self.task.of_d4rl:
                for end in ('', '_low', '_high'):
                    score = d4rl.normalized_score(self.task.environment, rows[member][f'return{end}'])
                    rows[member][f'normalized_score{end}'] = score
        return rows


def _finish(run, driver, learner, config, progress, policies, make_env) -> Result:
    """Plot, video, exported policies, summary.json, and what to try next."""
    # From the file: a run that was killed after its last evaluation does not make it again.
    rows = [row for row in read_metrics(run.directory / 'metrics.jsonl') if row['kind'] == 'eval']
    latest = {row.get('member', 0): row for row in rows if row['step'] == driver.updates}
    metrics = {}
    for member, row in sorted(latest.items()):
        prefix = '' if driver.members == 1 else f'member_{member}/'
        for name in ('success', 'return', 'normalized_score'):
            if name in row:
                value, low, high = row[name], row[f'{name}_low'], row[f'{name}_high']
                metrics[prefix + name] = {'value': value, 'low': low, 'high': high, 'n': row['episodes']}
    if driver.members > 1 and any('success' in row for row in latest.values()):
        wins = sum(round(row['success'] * row['episodes']) for row in latest.values())
        n = sum(row['episodes'] for row in latest.values())
        low, high = stats.wilson(wins, n)
        metrics['success'] = {'value': wins / n, 'low': low, 'high': high, 'n': n}

    document = config.to_dict() | {'gym_id': tasks.resolve(config.env).gym_id, 'action_dim': _action_dim(driver)}
    for member, policy in enumerate(policies):
        name = 'policy.npz' if driver.members == 1 else f'policy_{member}.npz'
        checkpoint.export_policy(run.directory / name, policy, document)
    lines = [f'learning curve: {run.plot_curves()}']
    if config.video and make_env:
        alive = min(set(range(driver.members)) - set(progress.frozen))
        lines.append(_film(run, learner, config, policies[alive], make_env))
    run.finish(
        metrics,
        seed=config.seed if driver.members == 1 else [int(seed) for seed in driver.seeds],
        steps=driver.updates,
        wall_seconds=progress.wall_seconds,
        frozen_members=sorted(progress.frozen),
        members=session.members(driver, progress),
    )
    for name in ('success', 'return'):
        if name in metrics:
            m = metrics[name]
            shown = (f'{m[k]:.1%}' if name == 'success' else f'{m[k]:.1f}' for k in ('value', 'low', 'high'))
            run.say('{}: {} (95 % interval {} to {}, {} episodes)'.format(name, *shown, m['n']))
    for line in lines:
        run.say(line)
    exported = 'policy.npz' if driver.members == 1 else f'policy_0.npz to policy_{driver.members - 1}.npz'
    run.say(f'run: {run.directory} (summary.json, metrics.jsonl, eval.csv, {exported})')
    run.say(f'next: python -m fql_jax.play --run={run.directory}; --env=ogbench-scene, --agent=iql, --seeds=4; --list')
    return Result(run.directory, metrics)


def _film(run, learner, config, policy, make_env) -> str:
    from core_jax.video import NoRenderer, record_video

    film_env = functools.partial(
        tasks.make_env, tasks.resolve(config.env).gym_id, render=True, frame_stack=config.frame_stack
    )
    if not isinstance(make_env, functools.partial) or make_env.func is not tasks.make_env:
        film_env = make_env
    path = run.directory / 'videos' / f'step_{settings.total_updates(config)}.mp4'
    try:
        record_video(
            film_env,
            host_act(jax.jit(learner.act), policy),
            path,
            memory=learner.memory(1),
            max_steps=tasks.resolve(config.env).max_steps,
            seed=config.seed,
            key=jax.random.key(config.seed),
        )
        return f'video: {path}'
    except (NoRenderer, WorkerError) as error:
        return f'no video: {error}'


# A finished policy


def load_policy(path: str | pathlib.Path, seed: int = 0) -> loaded.LoadedPolicy:
    """The policy of a finished run's directory, or of an exported .npz file.

    Raises UserError where there is none, or the file is damaged, or another program wrote it.
    """
    params, config = loaded.read(path)
    if config.get('agent') not in settings.AGENTS:
        raise UserError('this policy was exported by another program than fql_jax.main')
    return loaded.LoadedPolicy(params, config, settings.agent_module(config['agent']), seed)


# Small things


def run(fields: dict[str, Any], **keywords: Any) -> int:
    """`train` as a program: its exit status."""
    return session.as_program(lambda: train(fields=fields, **keywords))


def _name(make_env: Callable[[], Any]) -> str:
    function = make_env.func if isinstance(make_env, functools.partial) else make_env
    return getattr(function, '__qualname__', type(function).__name__)


def _new_directory(config) -> pathlib.Path:
    name = f'{config.agent}-{config.env.replace(":", "-")}-seed{config.seed}'
    return pathlib.Path('runs') / f'{name}-{time.strftime("%Y%m%d-%H%M%S")}'


def _action_dim(driver: DeviceDriver) -> int:
    return driver.source.example['actions'].shape[-1]


def _work(config) -> str:
    updates = f'{settings.total_updates(config):,} updates of {config.batch_size}'
    if config.online_steps:
        updates += f', {config.steps:,} of them offline, then {config.online_steps:,} environment steps'
    return updates
