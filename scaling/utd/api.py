"""What the command does, as functions: train an algorithm at a UTD ratio, read its curve, load a finished policy.

result = train(env='pendulum', fields={'utd': 2.0, 'seeds': 3})
result.metrics['return']                       {'value', 'low', 'high', 'n'}
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core_jax import checkpoint, loaded, loop, session
from core_jax.driver import DeviceDriver, Numerics
from core_jax.env_feed import Transitions
from core_jax.errors import UserError
from core_jax.evaluate import Evaluator
from core_jax.files import read_metrics
from core_jax.host_driver import HostDriver
from core_jax.mesh import fetch, initialize_distributed, make_mesh, place, replicated
from core_jax.networks import parameter_count
from core_jax.state import Learner
from scaling.utd import analytic, environments, rollout, settings

PAPER = 'utd'


class Result(NamedTuple):
    """A finished run. metrics: {name: {'value', 'low', 'high', 'n'}}, as in its summary.json."""

    directory: pathlib.Path
    metrics: dict[str, dict[str, float]]


def build(config, *, mesh: jax.sharding.Mesh, numerics: Numerics, seeds: list[int], hparams: dict) -> DeviceDriver:
    """The learner in its environment, as a driver. `driver.bind` still has to place the ratio on the mesh, and an
    environment on the host still needs `driver.feed`.
    """
    task = environments.resolve(config.env)
    learner = settings.agent_module(config.agent).make(config, task.action_dim)
    data = {
        'slots': config.envs,
        'capacity': min(config.capacity, config.steps),
        'batch_size': config.batch_size,
        'horizon': config.get('horizon'),
    }
    run = {'mesh': mesh, 'numerics': numerics, 'seeds': seeds, 'hparams': hparams}
    clock = {'ratio': settings.ratio(config), 'warmup': config.warmup}
    if task.on_device:
        return DeviceDriver(learner, rollout.source(task.on_device, learner, **data, **clock), **run)
    source = rollout.host_source(task.observation_dim, task.action_dim, learner, **data)
    return HostDriver(learner, source, feed=None, apart=True, **clock, **run)


def model_size(driver: DeviceDriver) -> int:
    """Parameters of the critics of one member, both heads and no targets: the N of the laws."""
    return parameter_count(driver.abstract.state.critic.params) // driver.members


def train(
    env: str | None = None,
    *,
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
    builder: Callable[..., DeviceDriver] = build,
    devices: list | None = None,
) -> Result:
    """Trains, evaluates, and leaves a run directory.

    env: a name that `settings.get_config` explains. fields: config fields to set; preset: those of a preset file,
    instead of the small defaults. builder, devices: what makes the driver and where it may run (the sweep's).

    Raises UserError for what the caller can mend, loop.Preempted after a signal, loop.NonFinite for bad numbers.
    """
    fields = dict(fields or {}) | ({'env': env} if env else {})
    request = session.Request(workdir, resume, overwrite, tensorboard, wandb, profile, command)
    saved = session.saved_run(request, PAPER)
    config = (
        settings.for_resume(saved['config'], fields, preset, debug)
        if saved
        else settings.resolve(fields, preset, debug)
    )
    if devices is None:
        initialize_distributed()
    numerics = Numerics.resolve(**(saved['numerics'] if saved else config.numerics.to_dict()))
    seeds, hparams = settings.members(config)
    mesh = make_mesh(config.mesh or session.default_mesh(len(seeds), devices), devices)
    driver = builder(config, mesh=mesh, numerics=numerics, seeds=seeds, hparams=hparams)
    driver.bind(place(driver.source.constants, jax.tree.map(lambda _: replicated(mesh), driver.source.constants)))
    size = model_size(driver)
    directory = pathlib.Path(workdir or _new_directory(config))

    with contextlib.ExitStack() as stack:
        run, resume_command = session.open_run(
            request,
            directory,
            config.to_dict(),
            paper=PAPER,
            numerics=numerics,
            python='scaling.utd.train',
            model_size=size,
        )
        stack.callback(run.close)
        signals = stack.enter_context(loop.Signals())
        run.say(f'{config.agent} on {config.env}, seed {config.seed}, utd {config.utd:g}; run directory: {directory}')
        work = f'{settings.total_updates(config):,} updates of {config.batch_size} on {config.steps:,} steps'
        session.announce(run, driver, work)
        task = environments.resolve(config.env)
        if not task.on_device:
            workers = config.workers or None
            driver.feed = stack.enter_context(
                Transitions(task.make_env, members=len(seeds), slots=config.envs, seed=config.seed, workers=workers)
            )
            driver.feed.get_state()  # an environment that cannot be saved is found now
        progress = loop.train(
            driver,
            run,
            checkpoint.Checkpoints(directory / 'checkpoints', metadata=identity(config, numerics)),
            _schedule(config),
            resume=resume,
            evaluate=stack.enter_context(Evaluation(driver.learner, task, config, seeds)),
            resume_command=resume_command,
            signals=signals,
            profile=directory / 'profile' if profile else None,
        )
        return _finish(run, driver, config, progress, size)


def identity(config, numerics: Numerics) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that goes on from it."""
    static = {name: value for name, value in config.to_dict().items() if name not in settings.FREE_ON_RESUME}
    return {'config': static, 'numerics': vars(numerics)}


def _schedule(config) -> loop.Schedule:
    intervals = ('log_interval', 'eval_interval', 'save_interval')
    return loop.Schedule(
        settings.total_updates(config), *(settings.updates_in(config, config[name], name) for name in intervals)
    )


class Evaluation:
    """Whole episodes with each member's policy as it is evaluated, for `loop.train` to call; a context manager."""

    def __init__(self, learner: Learner, task: environments.Task, config, seeds: list[int]):
        self.learner, self.seeds, self.episodes, self.evaluator = learner, seeds, config.eval_episodes, None
        self._act = jax.jit(learner.act)
        if task.on_device:
            self._run = jax.jit(functools.partial(evaluate, task.on_device, learner, episodes=self.episodes))
        else:
            self.evaluator = Evaluator(task.make_env, workers=config.workers or None, envs=min(8, self.episodes))

    def __call__(self, step: int, policies: dict[int, Any], stop: Callable[[], bool]) -> dict[int, dict[str, float]]:
        rows = {}
        for member, policy in policies.items():
            if stop():
                raise loop.Interrupted
            key = jax.random.fold_in(jax.random.key(self.seeds[member]), step)
            if self.evaluator is None:
                rows[member] = session.summarize(*fetch(self._run(policy, key)))
                continue
            episodes = self.evaluator.run(
                session.host_act(self._act, policy),
                episodes=self.episodes,
                seed=self.seeds[member] * 1_000_003 + step + 1,  # others than those of training
                key=key,
                memory=self.learner.memory(self.evaluator.batch_size),
                should_stop=stop,
            )
            rows[member] = session.summarize(episodes.returns, episodes.lengths)
        return rows

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.evaluator is not None:
            self.evaluator.close()


def evaluate(
    environment: analytic.Environment, learner: Learner, policy: Any, key: jax.Array, *, episodes: int
) -> tuple[jax.Array, jax.Array]:
    """(returns [n], lengths [n]) of n episodes, each from a fresh start, with the policy as it is evaluated."""
    reset_key, act_key = jax.random.split(key)
    states = jax.vmap(environment.reset)(jax.random.split(reset_key, episodes))

    def step(carry, number):
        states, memory, running, returns, lengths = carry
        observations = jax.vmap(environment.observe)(states)
        memory, actions = learner.act(policy, memory, observations, jax.random.fold_in(act_key, number))
        states, outcome = jax.vmap(environment.step)(states, jnp.clip(actions, -1.0, 1.0))
        returns = returns + running * outcome.reward
        return (states, memory, running * (1.0 - outcome.terminated), returns, lengths + running), None

    zeros = jnp.zeros(episodes)
    carry = states, learner.memory(episodes), jnp.ones(episodes), zeros, zeros
    carry, _ = jax.lax.scan(step, carry, jnp.arange(environment.max_steps))
    return carry[3], carry[4]


def _finish(run, driver: DeviceDriver, config, progress: loop.Progress, size: int) -> Result:
    """Plot, exported policies, summary.json, and what to try next."""
    # From the file: a run that was killed after its last evaluation does not make it again.
    rows = [row for row in read_metrics(run.directory / 'metrics.jsonl') if row['kind'] == 'eval']
    latest = {row.get('member', 0): row for row in rows if row['step'] == driver.updates}
    metrics = {}
    for member, row in sorted(latest.items()):
        prefix = '' if driver.members == 1 else f'member_{member}/'
        metrics[f'{prefix}return'] = _metric(row['return'], row['return_low'], row['return_high'], row['episodes'])
    if driver.members > 1 and latest:
        returns = np.array([row['return'] for row in latest.values()])
        metrics['return'] = _metric(returns.mean(), *session.mean_interval(returns), len(returns))
    document = config.to_dict() | {'action_dim': environments.resolve(config.env).action_dim}
    for member, policy in enumerate(driver.policies()):
        name = 'policy.npz' if driver.members == 1 else f'policy_{member}.npz'
        checkpoint.export_policy(run.directory / name, policy, document)
    curve = run.plot_curves()
    run.finish(
        metrics,
        seed=config.seed if driver.members == 1 else [int(seed) for seed in driver.seeds],
        steps=driver.updates,
        wall_seconds=progress.wall_seconds,
        environment_steps=config.steps,
        model_size=size,
        frozen_members=sorted(progress.frozen),
        members=session.members(driver, progress),
    )
    if 'return' in metrics:
        m = metrics['return']
        over = f'{m["n"]} members' if driver.members > 1 else f'{m["n"]} episodes'
        run.say(f'return: {m["value"]:.0f} (95 % interval {m["low"]:.0f} to {m["high"]:.0f}, {over})')
    run.say(f'learning curve: {curve}')
    run.say(f'run: {run.directory} (summary.json, metrics.jsonl, eval.csv)')
    run.say('next: --config.utd=4, --env=cartpole, --seeds=3, --agent=bro; make sweep-utd')
    return Result(run.directory, metrics)


def _metric(value: float, low: float, high: float, n: int) -> dict[str, float]:
    return {'value': float(value), 'low': float(low), 'high': float(high), 'n': n}


def _new_directory(config) -> pathlib.Path:
    env = config.env.replace(':', '-').replace('/', '-')
    return pathlib.Path('runs') / f'{config.agent}-{env}-seed{config.seed}-{time.strftime("%Y%m%d-%H%M%S")}'


def load_policy(path: str | pathlib.Path, seed: int = 0) -> loaded.LoadedPolicy:
    """The policy of a finished run's directory, or of an exported .npz file.

    Raises UserError where there is none, or the file is damaged, or another program wrote it.
    """
    params, config = loaded.read(path)
    if config.get('agent') not in settings.AGENTS:
        raise UserError('this policy was exported by another program than scaling.utd.main')
    return loaded.LoadedPolicy(params, config, settings.agent_module(config['agent']), seed)
