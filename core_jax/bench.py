"""What the benchmarks of all papers share: rates measured in turns, the floor of matrix products, rows in a file.

A rate is a median over repetitions that take turns, so that a slow minute of the machine hits all alike; a ratio is the
median of the ratios within each turn.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from core_jax.cli import Parser
from core_jax.errors import UserError, unknown

Rates = dict[str, list[float]]


def parser(prog: str, description: str, parts: Sequence[str]) -> Parser:
    """A parser with the flags that all benchmarks have."""
    made = Parser(prog=prog, description=description)
    made.add_argument('--only', default=','.join(parts), help=f'parts to run, of {", ".join(parts)}')
    made.add_argument('--seconds', type=float, default=2.0, help='of each repetition')
    made.add_argument('--repetitions', type=int, default=5)
    made.add_argument('--out', default='results/bench.jsonl', help="where rows are appended ('' prints only)")
    return made


def parse(parser: Parser, parts: Sequence[str]) -> tuple[Any, list[str], Callable[..., Rates]]:
    """(flags, the parts that are wanted, `median_rate` as the flags have it). Raises UserError for bad flags."""
    flags, overrides = parser.parse()
    if overrides:
        raise UserError('bench has no config')
    if flags.repetitions < 1 or flags.seconds <= 0:
        raise UserError('repetitions must be at least 1 and seconds above 0')
    wanted = flags.only.split(',')
    for part in wanted:
        if part not in parts:
            raise unknown('part', part, parts)
    return flags, wanted, functools.partial(median_rate, seconds=flags.seconds, repetitions=flags.repetitions)


class Rows:
    """Rows that are printed as they come, and appended to a file in the end. `rows(row)` takes one."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def __call__(self, row: dict[str, Any]) -> None:
        self.all.append(row)
        print('  '.join(f'{name} {short(value)}' for name, value in row.items()), flush=True)

    def append_to(self, out: str) -> None:
        """Appends all rows to the file `out` and says so; '' leaves it at that."""
        if out:
            append(pathlib.Path(out), self.all)
            print(f'{len(self.all)} rows appended to {out}')


def median_rate(functions: dict[str, Callable[[int], Any]], seconds: float, repetitions: int) -> Rates:
    """Calls a second of each function(count), repetitions taking turns so that a slow minute hits all alike."""
    counts = {}
    for name, function in functions.items():
        function(1)  # compiles
        began = time.perf_counter()
        function(3)
        counts[name] = max(1, int(seconds / max((time.perf_counter() - began) / 3, 1e-6)))
    rates: Rates = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            began = time.perf_counter()
            function(counts[name])
            rates[name].append(counts[name] / (time.perf_counter() - began))
    return rates


def medians(rates: Rates) -> dict[str, float]:
    """The middle rate of each function."""
    return {name: statistics.median(values) for name, values in rates.items()}


def spread(values: Sequence[float], each: float = 1.0) -> dict[str, float]:
    """{'per_second', 'low', 'high'} of rates of calls, of which each does `each` of what is counted."""
    return {'per_second': each * statistics.median(values), 'low': each * min(values), 'high': each * max(values)}


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios within each turn: what both lose to the machine's load cancels."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def advance(driver: Any) -> Callable[[int], None]:
    """A function that makes `count` updates in the driver's compiled loop."""

    def run(count: int) -> None:
        driver.advance(count)
        driver.wait()

    return run


def floor(products: Sequence[tuple[int, int, int, int]]) -> Callable[[int], None]:
    """A function that makes the matrix products (`core_jax.cost`) of `count` updates and nothing else, compiled."""
    import jax
    import jax.numpy as jnp

    key = jax.random.key(0)
    pairs = [
        (times, jax.random.normal(key, (m, k)) * 1e-3, jax.random.normal(key, (k, n)) * 1e-3)
        for times, m, k, n in products
    ]

    @jax.jit
    def run(count, total):
        def body(_, total):
            for times, left, right in pairs:
                # The scalar makes each product depend on the last one, so that none is hoisted or left out.
                def again(_, total, left=left, right=right):
                    return total + 1e-9 * ((left + total) @ right)[0, 0]

                total = jax.lax.fori_loop(0, times, again, total, unroll=True)
            return total

        return jax.lax.fori_loop(0, count, body, total)

    def call(count: int) -> None:
        run(jnp.int32(count), jnp.float32(0)).block_until_ready()

    return call


class Peer:
    """A process that runs a peer in its own Python and makes what it is told; a context manager.

    It first says {"versions": {...}}, then answers each line of JSON on stdin with one on stdout when it is done.
    """

    def __init__(self, command: Sequence[str], environ: dict[str, str] | None = None):
        pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
        self._process = subprocess.Popen(command, env=environ, **pipes)
        self.versions: dict[str, str] = {}

    def ask(self, **request: Any) -> None:
        """Returns when it is done. Raises UserError, with the last line of its complaint, where it died."""
        try:
            self._process.stdin.write(json.dumps(request) + '\n')
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; the answer says so
        self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            complaint = self._process.stderr.read().strip().splitlines() or ['it said nothing']
            raise UserError(f'a peer of the benchmark stopped: {complaint[-1]}')
        return json.loads(line)

    def __enter__(self) -> Peer:
        try:
            self.versions = self._answer()['versions']
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


def installed(python: str, modules: Sequence[str]) -> set[str]:
    """Which of these modules this Python finds; none where there is no such Python."""
    look = f'import importlib.util as u, json; print(json.dumps([m for m in {list(modules)!r} if u.find_spec(m)]))'
    try:
        done = subprocess.run([python, '-c', look], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return set()
    return set(json.loads(done.stdout))


def append(path: pathlib.Path, rows: list[dict]) -> None:
    """Adds the rows, each with commit, versions, machine and time."""
    import jax

    from core_jax import provenance

    device = jax.devices()[0]
    about = {
        'date': time.strftime('%Y-%m-%d %H:%M'),
        'commit': provenance.git_commit(),
        'jax': jax.__version__,
        'python': sys.version.split()[0],
        'device': f'{jax.device_count()} x {device.device_kind}',
        'cpu': _cpu(),
        'cores': len(os.sched_getaffinity(0)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        for row in rows:
            file.write(json.dumps(row | about) + '\n')


def _cpu() -> str:
    info = pathlib.Path('/proc/cpuinfo')
    if not info.exists():
        return 'unknown'
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')]
    return names[0] if names else 'unknown'


def short(value: Any) -> str:
    """A value as a table shows it."""
    return f'{value:.4g}' if isinstance(value, float) else str(value)
