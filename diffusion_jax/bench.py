"""Measures searches on this machine, with a PyTorch loop in the same run, and appends rows to results/bench.jsonl.

    make bench                       everything, some minutes
    python -m diffusion_jax.bench --only=steps

    steps       milliseconds a denoising step of SVDD with the small dilated CNN (length 75, 64 channels, 5
                convolutions), 8 designs of 10 children, beside a plain PyTorch loop in the manner of the released code
                (one thread each, all threads each), and seconds to compile
    candidates  the same for 1 to 64 children a design
    host        share of the time in which the device has work, where a reward on the host takes 5 ms
    gradient    of the small network's loss inside a compiled loop: convolutions with our gradient, and with jax's

The peer is PyTorch in an environment of its own; --peers names its Python. Without it:

    python -m venv .venv-torch && .venv-torch/bin/pip install torch numpy
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from core_jax import bench
from core_jax.errors import exit_on_user_error

PARTS = ('steps', 'candidates', 'host', 'gradient')
LENGTH, CHANNELS, STACKS, DESIGNS, CHILDREN, STEPS = 75, 64, 1, 8, 10, 128
DEFAULT_PEERS = '.venv-torch/bin/python'
INSTALL = 'python -m venv .venv-torch && .venv-torch/bin/pip install torch numpy'
REWARD_SECONDS = 0.005


def main() -> int:
    parser = bench.parser('python -m diffusion_jax.bench', __doc__, PARTS)
    parser.add_argument('--peers', default=DEFAULT_PEERS, metavar='PYTHON', help="of the peer's environment")
    flags, parts, measure = bench.parse(parser, PARTS)
    show = bench.Rows()
    if 'steps' in parts:
        for threads in (1, len(os.sched_getaffinity(0))):
            bench_steps(show, measure, flags.peers, threads)
    if 'candidates' in parts:
        bench_candidates(show, measure)
    if 'host' in parts:
        bench_host(show)
    if 'gradient' in parts:
        bench_gradient(show, measure)
    show.append_to(flags.out)
    return 0


def small_process():
    """The denoiser on random weights: what a step costs does not depend on them."""
    import jax
    import jax.numpy as jnp

    from diffusion_jax.models import masked_learner, networks

    network = networks.DilatedCNN(4, CHANNELS, STACKS)
    params = network.init(jax.random.key(0), jnp.zeros((1, LENGTH, 5)))
    return masked_learner.process(network, params, length=LENGTH, tokens=4, steps=STEPS)


def small_reward(params: Any, designs: Any) -> Any:
    """One convolution of width 9, 16 channels: [N] of designs [N, L]."""
    import jax
    import jax.numpy as jnp

    shown = jax.nn.one_hot(designs, 4)
    y = jax.lax.conv_general_dilated(shown, params, (1,), [(4, 4)], dimension_numbers=('NWC', 'WIO', 'NWC'))
    return jnp.maximum(y, 0).mean((1, 2))


def network_flops(length: int, channels: int, stacks: int) -> float:
    """FLOPs of the dilated CNN's convolutions and dense layers for one design, two a multiply-add."""
    from diffusion_jax.models import networks

    inner = sum(taps(length, dilation) for dilation in networks.DILATIONS) * stacks * channels**2
    return 2.0 * (taps(length, 1) * 5 * channels + inner + length * (channels**2 + 4 * channels))


def taps(length: int, dilation: int, width: int = 9) -> int:
    """How many products of a tap and a position a convolution makes; those beyond the ends are zeros, not made."""
    return sum(max(length - abs(offset) * dilation, 0) for offset in range(-(width // 2), width // 2 + 1))


def whole_search(children: int) -> tuple[Callable[[int], None], float]:
    """(a function that makes `count` whole searches, seconds to compile one)."""
    import jax

    from diffusion_jax.search import svdd, tree
    from diffusion_jax.search.run import group_keys
    from diffusion_jax.value import Value

    process = small_process()
    value = Value(params=jax.random.normal(jax.random.key(1), (9, 4, 16)), reward=small_reward)
    plan = svdd.plan(process, value, children=children)
    run = jax.jit(lambda process, value, keys: tuple(tree.search(process, value, plan, keys)[:2]))
    began = time.perf_counter()
    compiled = run.lower(process, value, group_keys(jax.random.key(0), DESIGNS)).compile()
    seconds = time.perf_counter() - began

    def search(count: int) -> None:
        for i in range(count):
            jax.block_until_ready(compiled(process, value, group_keys(jax.random.key(i), DESIGNS)))

    return search, seconds


def bench_steps(show: Callable, measure: Callable, python: str, threads: int) -> None:
    """A step of ours beside a step of the peer's, with as many threads each."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_limited(threads))
        functions: dict[str, Callable[[int], Any]] = {'ours': lambda count: ours.ask(do='search', count=count)}
        row: dict[str, Any] = {'bench': 'diffusion step', 'designs': DESIGNS, 'children': CHILDREN, 'threads': threads}
        if 'torch' in bench.installed(python, ['torch']):
            script = str(pathlib.Path(__file__).with_name('bench_peer.py'))
            sizes = [str(size) for size in (LENGTH, CHANNELS, STACKS, DESIGNS, CHILDREN)]
            limits = {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
            peer = stack.enter_context(bench.Peer([python, script, *sizes], os.environ | limits))
            functions['peer'] = lambda count: peer.ask(do='step', count=count)
            row['peer'] = f'torch {peer.versions["torch"]}, {peer.versions["threads"]} threads'
        else:
            row |= {'peer': 'not installed', 'install': INSTALL}
        rates = measure(functions)
    steps = [STEPS * rate for rate in rates['ours']]
    middle = sorted(steps)[len(steps) // 2]
    row |= {'milliseconds': 1000 / middle, 'low': 1000 / max(steps), 'high': 1000 / min(steps)}
    gflop = DESIGNS * CHILDREN * network_flops(LENGTH, CHANNELS, STACKS) / 1e9
    row |= {
        'gflops': gflop * middle,
        'candidates_per_second': DESIGNS * CHILDREN * middle,
        'compile_seconds': ours.versions['compile_seconds'],
    }
    if 'peer' in rates:
        theirs = rates['peer']
        row |= {'peer_milliseconds': 1000 / bench.medians(rates)['peer'], 'ratio': bench.ratio(steps, theirs)}
        row |= {'peer_low': 1000 / max(theirs), 'peer_high': 1000 / min(theirs)}
    show(row)


def _limited(threads: int) -> bench.Peer:
    """Our own search in a process that owns as many cores: XLA takes its threads from them."""
    import sys

    cores = sorted(os.sched_getaffinity(0))[:threads]
    return bench.Peer([sys.executable, '-m', 'diffusion_jax.bench_serve', ','.join(map(str, cores))])


def bench_candidates(show: Callable, measure: Callable) -> None:
    """How a step grows with the children of a design."""
    searches = {children: whole_search(children) for children in (1, 4, 16, 64)}
    rates = measure({str(children): search for children, (search, _) in searches.items()})
    for children, (_, seconds) in searches.items():
        rate = STEPS * bench.medians(rates)[str(children)]
        show(
            {
                'bench': 'diffusion candidates',
                'designs': DESIGNS,
                'children': children,
                'milliseconds': 1000 / rate,
                'candidates_per_second': DESIGNS * children * rate,
                'compile_seconds': seconds,
            }
        )


def bench_host(show: Callable) -> None:
    """A reward that sleeps, in as many processes as keep up with the device."""
    import jax

    from diffusion_jax.domains import sequences
    from diffusion_jax.rewards import Scorer
    from diffusion_jax.search import on_host, svdd
    from diffusion_jax.search.run import group_keys
    from diffusion_jax.value import Value

    process, decode = small_process(), sequences.decoder(sequences.DNA)
    for workers in (4, 16, 48):
        plan = svdd.plan(process, Value(), children=CHILDREN)
        keys = group_keys(jax.random.key(0), 2 * DESIGNS)
        with Scorer(functools.partial(slow_reward, seconds=REWARD_SECONDS), workers=workers) as scorer:
            _, pace = on_host.search(process, Value(), plan, keys, decode, scorer)
            asked = scorer.calls
        show(
            {
                'bench': 'diffusion host reward',
                'reward_milliseconds': 1000 * REWARD_SECONDS,
                'workers': workers,
                'device_busy': pace.busy,
                'seconds': pace.seconds,
                'designs_scored': asked,
            }
        )


def slow_reward(texts: list[str], seconds: float) -> list[float]:
    """The share of G and C, `seconds` later for each."""
    time.sleep(seconds * len(texts))
    return [(text.count('G') + text.count('C')) / len(text) for text in texts]


def bench_gradient(show: Callable, measure: Callable) -> None:
    """Why `models.convolution` writes its gradient by hand: XLA on a CPU makes jax's slowly inside a loop."""
    import jax
    import jax.numpy as jnp

    from diffusion_jax.models import convolution

    x = jax.random.normal(jax.random.key(0), (64, LENGTH, CHANNELS))
    kernel = jax.random.normal(jax.random.key(1), (9, CHANNELS, CHANNELS)) / 24
    plain = convolution.convolved.__wrapped__
    functions = {}
    for name, convolved in (('ours', convolution.convolved), ('jax', plain)):

        @jax.jit
        def run(count, kernel, convolved=convolved):
            slope = jax.grad(lambda kernel, x: jnp.square(convolved(x, kernel, 1)).mean(), (0, 1))
            return jax.lax.fori_loop(0, count, lambda _, k: k - 1e-3 * slope(k, x + k[0, 0, 0])[0], kernel)

        functions[name] = lambda count, run=run: run(jnp.int32(count), kernel).block_until_ready()
    rates = measure(functions)
    mid = bench.medians(rates)
    times = {f'{name}_milliseconds': 1000 / mid[name] for name in functions}
    shape = f'64 x {LENGTH} x {CHANNELS}, width 9'
    show({'bench': 'diffusion gradient', 'size': shape, **times, 'ratio': bench.ratio(rates['ours'], rates['jax'])})


if __name__ == '__main__':
    exit_on_user_error(main)
