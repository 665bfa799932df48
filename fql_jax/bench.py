"""Measures speed on this machine, with peers in the same run, and appends the rows to results/bench.jsonl.

    make bench                       everything, some minutes
    python -m fql_jax.bench --only=update,startup

Each row is a median over repetitions with the smallest and largest, so that noise of the machine can be seen.

    update      updates a second: one compiled loop of many updates, beside one jitted call an update of the same
                function, and beside the same mix of matrix products run alone (the floor), for several widths
    agents      the same for every agent at the demo's size, without the floor
    population  eight seeds in one program, beside eight times one seed
    replay      bytes that a million transitions take on the device, beside a layout that keeps next observations too
    evaluate    environment steps a second with a policy in the loop, beside one environment with one action call a
                step, and beside the bare environment; the same for collecting
    startup     seconds from the command to the first update, and of --help
"""

from __future__ import annotations

import functools
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from core_jax import bench
from core_jax.errors import exit_on_user_error

PARTS = ('update', 'agents', 'population', 'replay', 'evaluate', 'startup')
DEMO = 'demo (256x2, 5 Euler steps)'
OBSERVATIONS, ACTIONS = 28, 5  # cube-single
SIZES = {  # name: (hidden widths, Euler steps)
    'width 8': ((8,) * 4, 10),
    'width 64': ((64,) * 4, 10),
    'demo (256x2, 5 Euler steps)': ((256,) * 2, 5),
    'width 256': ((256,) * 4, 10),
    'paper (512x4)': ((512,) * 4, 10),
}


def main() -> int:
    parser = bench.parser('python -m fql_jax.bench', __doc__, PARTS)
    parser.add_argument('--sizes', default=','.join(SIZES), help='network sizes, by the beginnings of their names')
    flags, parts, measure = bench.parse(parser, PARTS)
    sizes = [name for name in SIZES if any(name.startswith(wanted) for wanted in flags.sizes.split(','))]
    show = bench.Rows()
    if 'startup' in parts:
        bench_startup(show, flags.repetitions)
    if 'update' in parts:
        for name in sizes:
            bench_update(show, name, measure)
    if 'agents' in parts:
        for agent, fields in agent_variants().items():
            bench_agent(show, agent, fields, measure)
    if 'replay' in parts:
        bench_replay(show)
    if 'population' in parts:
        for name in sizes:
            bench_population(show, name, measure)
    if 'evaluate' in parts:
        bench_evaluate(show)
    show.append_to(flags.out)
    return 0


def _config(name: str, fields: dict | None = None):
    from fql_jax import settings

    widths, euler = SIZES[name]
    fields = {'hidden_dims': widths} | (fields or {})
    config = settings.get_config(fields.get('agent', 'fql'))
    if 'flow_steps' in config:
        config.flow_steps = euler
    config.update(fields)
    return config


def _driver(name: str, seeds: int = 1, fields: dict | None = None):
    import numpy as np

    from core_jax import replay
    from core_jax.driver import Numerics
    from core_jax.mesh import make_mesh
    from fql_jax import build

    config = _config(name, fields)
    rng, n = np.random.default_rng(0), 100_000
    rows = {
        'observations': rng.normal(size=(n, OBSERVATIONS)).astype(np.float32),
        'actions': rng.uniform(-1, 1, (n, ACTIONS)).astype(np.float32),
        'rewards': -np.ones(n, np.float32),
        'masks': np.ones(n, np.float32),
        'terminals': np.arange(n) % 1000 == 999,
    }
    mesh = make_mesh('data:1')
    numerics = Numerics.resolve()
    driver, learner = build.build(config, rows, mesh=mesh, numerics=numerics, seeds=list(range(seeds)))
    driver.bind(replay.place_dataset(build.layout(rows), mesh))
    driver.initialize()
    return driver, learner, config


def _one_call(name: str, fields: dict | None = None) -> Callable[[int], None]:
    """The peer: the same update with its sampling, jitted and donated, called once an update from Python."""
    import jax

    driver, learner, config = _driver(name, fields=fields)
    constants, sample, carry_key = driver.source.constants, driver.source.sample, jax.random.key(0)
    hparams = jax.device_put(learner.hparams)

    def update(state, constants, hparams):
        _, batch = sample(constants, (), state, jax.random.fold_in(carry_key, state.step))
        return learner.update(state, batch, hparams)

    update = jax.jit(update, donate_argnums=0)
    state = jax.tree.map(lambda x: x[0], driver.carry.state)

    def call(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, _ = update(state, constants, hparams)
        jax.block_until_ready(state)

    return call


def bench_update(show: Callable, name: str, measure: Callable) -> None:
    """One seed: the compiled loop, one call an update, and the floor."""
    from fql_jax import cost

    scan, _, _ = _driver(name)
    floor = bench.floor(cost.products(_config(name), OBSERVATIONS, ACTIONS))
    rates = measure({'loop of updates': bench.advance(scan), 'one call an update': _one_call(name), 'floor': floor})
    mid = bench.medians(rates)
    gflop = cost.flops(_config(name), OBSERVATIONS, ACTIONS) / 1e9
    show(
        {
            'bench': 'update',
            'size': name,
            'updates_per_second': mid['loop of updates'],
            'low': min(rates['loop of updates']),
            'high': max(rates['loop of updates']),
            'one_call_per_second': mid['one call an update'],
            'ratio_to_one_call': mid['loop of updates'] / mid['one call an update'],
            'floor_per_second': mid['floor'],
            'share_of_floor': mid['loop of updates'] / mid['floor'],
            'gflop_per_update': gflop,
            'gflops': gflop * mid['loop of updates'],
        }
    )


def agent_variants() -> dict[str, dict]:
    """Every agent, and FQL with its options: {name: fields}."""
    from fql_jax import settings

    # Online steps put the data into a ring as well; the update is the same.
    variants = {agent: {'agent': agent, 'online_steps': 0, 'steps': 1} for agent in settings.AGENTS}
    return variants | {
        'fql, ten critics': {'num_critics': 10, 'pessimism': 0.5},
        'qc-fql (horizon 5)': {'horizon': 5},
        'qc (horizon 5, best of 32)': {'horizon': 5, 'policy': 'flow', 'act_samples': 32, 'target_samples': 32},
        'bfn (best of 4)': {'policy': 'flow', 'act_samples': 4, 'target_samples': 4},
    }


def bench_agent(show: Callable, agent: str, fields: dict, measure: Callable) -> None:
    """One seed of an agent: the compiled loop, and one call an update."""
    scan, _, _ = _driver(DEMO, fields=fields)
    rates = measure({'loop of updates': bench.advance(scan), 'one call an update': _one_call(DEMO, fields)})
    mid = bench.medians(rates)
    show(
        {
            'bench': 'agent',
            'agent': agent,
            'size': DEMO,
            'updates_per_second': mid['loop of updates'],
            'low': min(rates['loop of updates']),
            'high': max(rates['loop of updates']),
            'one_call_per_second': mid['one call an update'],
            'ratio_to_one_call': mid['loop of updates'] / mid['one call an update'],
        }
    )


def bench_replay(show: Callable) -> None:
    """Bytes a million transitions, from the arrays of a small replay: offline, and the ring that online runs fill."""
    import jax
    import numpy as np

    from core_jax import replay
    from fql_jax import build

    for what, shape, dtype, episode in (
        ('cube-single', (OBSERVATIONS,), np.float32, 1000),
        ('visual-cube-single, 3 frames', (64, 64, 3), np.uint8, 1000),
    ):
        rows = 4 * (episode + 1)
        ends = np.arange(rows) % (episode + 1) == episode
        scalars = np.zeros(rows, np.float32)
        frames = np.zeros((rows, *shape), dtype)
        actions = np.zeros((rows, ACTIONS), np.float32)
        size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
        offline = size(replay.dataset(frames, actions, scalars, scalars, ends)) / (rows - 4)
        row = {'observations': frames[0], 'actions': actions[0], 'rewards': scalars[0], 'masks': scalars[0]}
        steps = 1000
        ring = replay.rows_ring(row | {'valid': np.bool_(True)}, build.default_capacity(steps, 1), 1)
        # observations and next observations, stacked where they are images, action, reward, mask, end
        stack = 3 if dtype == np.uint8 else 1
        naive = 2 * stack * frames[0].nbytes + actions[0].nbytes + 3 * 4
        show(
            {
                'bench': 'replay',
                'data': what,
                'megabytes_per_million': offline,
                'ring_megabytes_per_million': size(ring) / steps,
                'naive_megabytes_per_million': float(naive),
                'share_of_naive': offline / naive,
                'ring_share_of_naive': size(ring) / steps / naive,
            }
        )


def bench_population(show: Callable, name: str, measure: Callable) -> None:
    """Eight seeds in one program against eight runs of one."""
    one, _, _ = _driver(name)
    eight, _, _ = _driver(name, seeds=8)
    many = 16  # updates a call
    rates = measure({'one': lambda n: bench.advance(one)(many * n), 'eight': lambda n: bench.advance(eight)(many * n)})
    rates = {which: [many * rate for rate in values] for which, values in rates.items()}
    mid = bench.medians(rates)
    show(
        {
            'bench': 'population',
            'size': name,
            'member_updates_per_second': 8 * mid['eight'],
            'solo_updates_per_second': mid['one'],
            'cost_of_eight_over_eight_runs': mid['one'] / (8 * mid['eight']),
        }
    )


def bench_evaluate(show: Callable) -> None:
    """Evaluation and collection on cube-single."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from core_jax.evaluate import Evaluator
    from fql_jax import api, tasks

    task = tasks.resolve('ogbench-cube')
    make_env = functools.partial(tasks.make_env, task.gym_id)
    driver, learner, _ = _driver(DEMO)
    act = jax.jit(learner.act)
    host = api.host_act(act, driver.policies()[0])
    key, cores = jax.random.key(0), len(os.sched_getaffinity(0))

    env = make_env()
    observation, _ = env.reset(seed=0)
    bare, single = [], []
    with Evaluator(make_env) as evaluator:
        arguments = {'episodes': 2 * evaluator.slots, 'seed': 0, 'key': key, 'memory': ()}
        evaluator.run(host, **arguments)  # environments built, programs compiled
        pooled = []
        for _ in range(3):
            bare.append(_steps_per_second(env, lambda _: env.action_space.sample(), 1000))
            ask = lambda o: np.asarray(host((), jnp.asarray(o[None], jnp.float32), key)[1][0])  # noqa: E731
            single.append(_steps_per_second(env, ask, 600))
            began = time.perf_counter()
            episodes = evaluator.run(host, **arguments)
            pooled.append(int(np.sum(episodes.lengths)) / (time.perf_counter() - began))
    best = statistics.median(bare)
    show(
        {
            'bench': 'evaluate',
            'env': task.gym_id,
            'steps_per_second': statistics.median(pooled),
            'low': min(pooled),
            'high': max(pooled),
            'one_env_one_call_per_second': statistics.median(single),
            'bare_env_per_second': best,
            'cores': cores,
            'share_of_cores_times_bare': statistics.median(pooled) / (cores * best),
            'ratio_to_one_env': statistics.median(pooled) / statistics.median(single),
        }
    )
    bench_collect(show, best, cores)


def bench_collect(show: Callable, bare: float, cores: int) -> None:
    """Steps a second of `fql_jax.collect`, process start included."""
    import tempfile

    from fql_jax import collect, tasks

    episodes, length = 40, 200
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        out = pathlib.Path(folder) / 'noisy.npz'
        task = tasks.resolve('ogbench-cube')
        collect.collect(task, 'noisy', episodes, out=out, val_episodes=0, length=length, progress=False)
        rate = episodes * length / (time.perf_counter() - began)
    show(
        {
            'bench': 'collect',
            'kind': 'noisy',
            'steps_per_second': rate,
            'bare_env_per_second': bare,
            'share_of_cores_times_bare': rate / (cores * bare),
        }
    )


def _steps_per_second(env: Any, act: Callable, steps: int) -> float:
    import numpy as np

    observation, _ = env.reset()
    began = time.perf_counter()
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(np.clip(act(observation), -1, 1))
        if terminated or truncated:
            observation, _ = env.reset()
    return steps / (time.perf_counter() - began)


def bench_startup(show: Callable, repetitions: int) -> None:
    """--help, and the seconds until a process has made its first update (import, build, compile; no data set)."""

    def seconds(*command: str) -> list[float]:
        values = []
        for _ in range(repetitions):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            values.append(time.perf_counter() - began)
        return values

    first = 'from fql_jax import bench; d, _, _ = bench._driver("demo (256x2, 5 Euler steps)"); d.advance(1); d.wait()'
    for what, command in (('--help', ('-m', 'fql_jax.main', '--help')), ('first update', ('-c', first))):
        values = seconds(*command)
        show({'bench': 'startup', 'what': what, 'seconds': statistics.median(values), 'high': max(values)})


if __name__ == '__main__':
    exit_on_user_error(main)
