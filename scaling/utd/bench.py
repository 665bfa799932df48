"""Measures the speed of SAC on this machine, with peers in the same run, and appends rows to results/bench.jsonl.

    make bench                       everything, some minutes
    python -m scaling.utd.bench --only=updates,rollout

Each row is a median over repetitions with the smallest and largest; a ratio is the median of those within each turn.

    updates     updates a second at batch 256 with 256x256 networks, sigma of them a dispatch, the replay on the device;
                beside `train(gradient_steps=sigma)` of the peers, one long compiled loop, and the same mix of matrix
                products run alone (the floor)
    rollout     environment steps a second on HalfCheetah-v4 with an update each, beside `learn` of the peers
    population  cost of 4 and 16 members over that of one, one after the other (map) and vectorised (vmap)
    masking     three batch sizes: all in one pack at the largest, which is what masks cost at least, beside a pack each

Peers are Stable-Baselines3 and SBX, each in an environment of its own; --peers names their Pythons. Without them:

    python -m venv .venv-sb3 && .venv-sb3/bin/pip install stable-baselines3 'gymnasium[mujoco]' 'mujoco<3.9'
    python -m venv .venv-sbx && .venv-sbx/bin/pip install sbx-rl 'gymnasium[mujoco]' 'mujoco<3.9'
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from core_jax import bench
from core_jax.errors import exit_on_user_error

PARTS = ('updates', 'rollout', 'population', 'masking')
ENV, OBSERVATIONS, ACTIONS = 'HalfCheetah-v4', 17, 6
SIGMAS = (1, 4, 16)
MEMBERS = (1, 4, 16)
BATCH_SIZES = (64, 128, 256)
CAPACITY = 100_000  # transitions, here and in the peers' buffers
SIZES = {'256x256, batch 256': ((256, 256), 256), '64x64, batch 64': ((64, 64), 64)}
MAIN = '256x256, batch 256'
DEFAULT_PEERS = '.venv-sb3/bin/python,.venv-sbx/bin/python'
INSTALL = "python -m venv {venv} && {venv}/bin/pip install {package} 'gymnasium[mujoco]' 'mujoco<3.9'"
PEERS = {  # name: (what is imported, what is installed, threads; None leaves it to the package)
    'sb3': ('stable_baselines3', 'stable-baselines3', None),
    'sb3, 1 thread': ('stable_baselines3', 'stable-baselines3', 1),
    'sbx': ('sbx', 'sbx-rl', None),
}


def main() -> int:
    parser = bench.parser('python -m scaling.utd.bench', __doc__, PARTS)
    parser.add_argument('--peers', default=DEFAULT_PEERS, metavar='PYTHON,...', help="of the peers' environments")
    flags, parts, measure = bench.parse(parser, PARTS)
    show = bench.Rows()
    if 'updates' in parts or 'rollout' in parts:
        with contextlib.ExitStack() as stack:
            peers = {name: stack.enter_context(peer) for name, peer in open_peers(flags.peers.split(',')).items()}
            if 'updates' in parts:
                for sigma in SIGMAS:
                    bench_updates(show, sigma, measure, peers)
            if 'rollout' in parts:
                bench_rollout(show, measure, peers)
            for name, (module, package, _) in PEERS.items():
                if name not in peers:
                    show(missing(name, module, package))
    if 'population' in parts:
        for size in SIZES:
            bench_population(show, size, measure)
    if 'masking' in parts:
        for size in SIZES:
            bench_masking(show, size, measure)
    show.append_to(flags.out)
    return 0


# Peers


def open_peers(pythons: Sequence[str]) -> dict[str, bench.Peer]:
    """The peers that one of these Pythons has, by the names of `PEERS`; none of them is entered yet."""
    wanted = sorted({module for module, _, _ in PEERS.values()})
    found = {python: bench.installed(python, wanted) for python in pythons if python}
    script = str(pathlib.Path(__file__).with_name('bench_peer.py'))
    peers = {}
    for name, (module, _, threads) in PEERS.items():
        # The Python with the fewest of them is that module's own: SBX brings Stable-Baselines3 with it.
        having = sorted((len(modules), python) for python, modules in found.items() if module in modules)
        if having:
            limits = {} if threads is None else {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
            environ = os.environ | {'JAX_PLATFORMS': 'cpu'} | limits
            peers[name] = bench.Peer([having[0][1], script, module, ENV], environ)
    return peers


def missing(name: str, module: str, package: str) -> dict[str, str]:
    """The row of a peer that is not there."""
    venv = '.venv-' + {'stable_baselines3': 'sb3'}.get(module, module)
    hint = INSTALL.format(venv=venv, package=package)
    return {'bench': 'utd peer', 'peer': name, 'result': 'peer not installed', 'install': hint}


# Ours


def make_config(widths: Sequence[int], batch_size: int):
    from scaling.utd import sac

    config = sac.get_config()
    config.hidden_dims, config.batch_size = tuple(widths), batch_size
    return config


def make_driver(widths: Sequence[int], batch_size: int, members: int = 1, population: str = 'map'):
    """A driver whose replay is full of random transitions."""
    import jax
    import jax.numpy as jnp

    from core_jax.driver import DeviceDriver, Numerics
    from core_jax.mesh import make_mesh
    from scaling.utd import rollout, sac

    learner = sac.make(make_config(widths, batch_size), ACTIONS)
    source = rollout.host_source(
        OBSERVATIONS, ACTIONS, learner, slots=1, capacity=CAPACITY // members, batch_size=batch_size
    )
    numerics = Numerics.resolve(population=population)
    mesh = make_mesh('data:1')
    driver = DeviceDriver(learner, source, mesh=mesh, numerics=numerics, seeds=list(range(members)))
    driver.initialize()

    def fill(data):
        keys = iter(jax.random.split(jax.random.key(1), len(data.rows)))
        rows = {name: jax.random.normal(next(keys), rows.shape).astype(rows.dtype) for name, rows in data.rows.items()}
        rows |= {'actions': jnp.tanh(rows['actions']), 'masks': jnp.ones_like(rows['masks'])}
        return data.replace(rows=rows, added=jnp.full_like(data.added, rows['rewards'].shape[1]))

    data = jax.jit(fill, donate_argnums=0, out_shardings=driver.shardings.data)(driver.carry.data)
    driver.start(driver.carry.replace(data=data))
    return driver


def bench_updates(show: Callable, sigma: int, measure: Callable, peers: dict[str, bench.Peer]) -> None:
    """sigma updates between two environment steps: ours, the peers', the long loop, the floor."""
    from scaling.utd import cost

    widths, batch_size = SIZES[MAIN]
    config = make_config(widths, batch_size)
    driver, loop = make_driver(widths, batch_size), make_driver(widths, batch_size)
    products = cost.sac(config, OBSERVATIONS, ACTIONS)
    floor = bench.floor(products)

    def dispatch(count: int) -> None:
        for _ in range(count):
            driver.advance(sigma)
        driver.wait()

    functions = {
        'ours': dispatch,
        'loop': lambda count: bench.advance(loop)(sigma * count),
        'floor': lambda count: floor(sigma * count),
    }
    functions |= {
        name: lambda count, peer=peer: peer.ask(do='update', sigma=sigma, count=count) for name, peer in peers.items()
    }
    rates = {name: [sigma * rate for rate in values] for name, values in measure(functions).items()}
    gflop = cost.flops(products) / 1e9
    show(
        {
            'bench': 'utd updates',
            'size': MAIN,
            'sigma': sigma,
            **_beside(rates, peers, 'updates_per_second'),
            'loop_per_second': bench.medians(rates)['loop'],
            'floor_per_second': bench.medians(rates)['floor'],
            'share_of_floor': bench.ratio(rates['ours'], rates['floor']),
            'loop_share_of_floor': bench.ratio(rates['loop'], rates['floor']),
            'gflop_per_update': gflop,
            'gflops': gflop * bench.medians(rates)['ours'],
        }
    )


def _beside(rates: bench.Rates, peers: dict[str, bench.Peer], what: str) -> dict[str, Any]:
    """Columns of ours and of each peer."""
    mid = bench.medians(rates)
    columns: dict[str, Any] = {what: mid['ours'], 'low': min(rates['ours']), 'high': max(rates['ours'])}
    for name, peer in peers.items():
        columns |= {
            name: mid[name],
            f'{name}: low': min(rates[name]),
            f'{name}: high': max(rates[name]),
            f'ratio to {name}': bench.ratio(rates['ours'], rates[name]),
            f'{name}: versions': ' '.join(f'{package} {version}' for package, version in peer.versions.items()),
        }
    return columns


def bench_rollout(show: Callable, measure: Callable, peers: dict[str, bench.Peer]) -> None:
    """One environment in a process beside us, a step and an update in turn."""
    with host_driver() as driver:
        functions = {'ours': bench.advance(driver)}
        functions |= {name: lambda count, peer=peer: peer.ask(do='step', count=count) for name, peer in peers.items()}
        rates = measure(functions)
    show({'bench': 'utd rollout', 'env': ENV, 'size': MAIN, 'sigma': 1, **_beside(rates, peers, 'steps_per_second')})


@contextlib.contextmanager
def host_driver() -> Iterator[Any]:
    """SAC at UTD 1 on the environment, its warm-up over."""
    import warnings

    from core_jax.driver import Numerics
    from core_jax.env_feed import Transitions
    from core_jax.mesh import make_mesh
    from scaling.utd import api, environments, settings

    warnings.filterwarnings('ignore', '.*is out of date.*')
    widths, batch_size = SIZES[MAIN]
    fields = {'env': ENV, 'hidden_dims': widths, 'batch_size': batch_size, 'capacity': CAPACITY, 'warmup': 1_000}
    config = settings.resolve(fields, {})
    seeds, hparams = settings.members(config)
    run = {'mesh': make_mesh('data:1'), 'numerics': Numerics.resolve(), 'seeds': seeds, 'hparams': hparams}
    driver = api.build(config, **run)
    task = environments.resolve(ENV)
    with Transitions(task.make_env, members=1, slots=1, seed=0, workers=1) as driver.feed:
        driver.initialize()
        bench.advance(driver)(100)
        yield driver


def bench_population(show: Callable, size: str, measure: Callable) -> None:
    """What an update of all members costs, over what one member's costs."""
    widths, batch_size = SIZES[size]
    many = 8  # updates a call
    functions = {}
    for members in MEMBERS:
        for population in ('map', 'vmap') if members > 1 else ('map',):
            driver = make_driver(widths, batch_size, members, population)
            functions[members, population] = lambda n, driver=driver: bench.advance(driver)(many * n)
    rates = measure(functions)
    mid = bench.medians(rates)
    solo = rates[1, 'map']
    row = {'bench': 'utd population', 'size': size, 'solo_updates_per_second': many * mid[1, 'map']}
    for (members, population), values in rates.items():
        if members > 1:
            row[f'cost of {members}, {population}'] = bench.ratio(solo, values)
    show(row)


def bench_masking(show: Callable, size: str, measure: Callable) -> None:
    """Members of several batch sizes: all in one program at the largest, or a program for each size.

    A mask leaves the matrix products at the largest batch, and adds a little arithmetic of [B]: what is measured is its
    least cost. Compilation is told too: masks compile one program, packs one for each size.
    """
    widths, _ = SIZES[size]
    members, many = 2, 8  # members of each batch size; updates a call
    row: dict[str, Any] = {'bench': 'utd masking', 'networks': size.split(',')[0], 'batch_sizes': list(BATCH_SIZES)}
    for population in ('map', 'vmap'):
        masked = make_driver(widths, max(BATCH_SIZES), members * len(BATCH_SIZES), population)
        packs = [make_driver(widths, batch_size, members, population) for batch_size in BATCH_SIZES]
        compiling = {}
        for name, drivers in (('masked', [masked]), ('packs', packs)):
            began = time.perf_counter()
            for driver in drivers:
                bench.advance(driver)(1)
            compiling[name] = time.perf_counter() - began

        def separate(count: int, packs=packs) -> None:
            for driver in packs:
                bench.advance(driver)(many * count)

        rates = measure({'masked': lambda n, d=masked: bench.advance(d)(many * n), 'packs': separate})
        row |= {
            f'masked, {population}': many * bench.medians(rates)['masked'],
            f'packs, {population}': many * bench.medians(rates)['packs'],
            f'cost of masking over packs, {population}': bench.ratio(rates['packs'], rates['masked']),
            f'compile seconds masked, {population}': compiling['masked'],
            f'compile seconds packs, {population}': compiling['packs'],
        }
    show(row)


if __name__ == '__main__':
    exit_on_user_error(main)
