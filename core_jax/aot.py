"""Compiles any training step for a TPU slice with the real TPU compiler, on a machine that has no TPU.

    devices = topology_devices('v5e:4x4')
    mesh = make_mesh('data:16', devices)
    report = check('fql', jitted, abstract_args, mesh, chip_memory('v5e:4x4'), {'all-reduce'}, analytic_flops)
    print(table([report]))

The report says what one device holds, computes and sends, and whether that is what was meant: it fails where the step
does not fit into the chip's memory, where a collective is not on the list of the intended ones, and where the matrix
FLOPs are more than 2 % from an analytic count. Bytes, FLOPs and collectives all come from the compiled executable, so
the figures are those of the program after partitioning (see hlo.py for how FLOPs are counted).

A paper package lists its programs and hands them to `main`, which `make tpu-check` runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from core_jax import cli, hlo, provenance
from core_jax.errors import UserError, unknown
from core_jax.files import write_json_atomic
from core_jax.mesh import describe

PyTree = Any

# High-bandwidth memory of a chip in bytes (one jax device here). Google Cloud TPU documentation, "System architecture"
# of each version: docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e.
HBM = {'v5e': 16 * 10**9, 'v5p': 95 * 10**9, 'v6e': 32 * 10**9}
_PLANES = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16', '8x16x16', '16x16x16')
TOPOLOGIES = tuple(f'{chip}:{shape}' for chip in HBM for shape in (_CUBES if chip == 'v5p' else _PLANES))
TOLERANCE = 0.02  # of the analytic FLOPs


def topology_devices(name: str) -> list:
    """The devices of a TPU slice such as 'v5e:4x4', for `make_mesh`; programs can be compiled for them, not run.

    Raises UserError for an unknown name and where the TPU compiler is not installed.
    """
    if name not in TOPOLOGIES:
        raise unknown('TPU topology', name, TOPOLOGIES)
    if importlib.util.find_spec('libtpu') is None:
        raise UserError("the TPU compiler is not installed: pip install 'tenfold[tpu-check]'")
    # Read when libtpu is loaded, here: ask no metadata server; there is one host, this one; and no chip is opened, so
    # the lock that keeps a second process from loading libtpu guards nothing.
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform='tpu', topology_name=name).devices)


def chip_memory(name: str) -> int:
    """Bytes of memory of one chip of a slice such as 'v5e:4x4'."""
    chip = name.partition(':')[0]
    if chip not in HBM:
        raise unknown('TPU chip', chip, HBM)
    return HBM[chip]


@dataclasses.dataclass(frozen=True)
class Report:
    """What one device does in one call of a compiled program. Bytes and FLOPs are per device."""

    name: str
    mesh: str
    devices: int
    chip_bytes: int
    analytic_flops: float | None  # this device's share
    argument_bytes: int = 0  # what lies in memory before the call: state, data
    output_bytes: int = 0
    aliased_bytes: int = 0  # outputs that lie where a donated argument lay
    temporary_bytes: int = 0
    code_bytes: int = 0
    flops: int = 0  # of matrix products and convolutions; loop bodies times their trip counts
    collectives: dict[str, hlo.Collective] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0
    problems: tuple[str, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # what else to know of it, by name; under the table

    @property
    def total_bytes(self) -> int:
        """Everything that must be in the chip's memory at once."""
        held = self.argument_bytes + self.output_bytes - self.aliased_bytes
        return held + self.temporary_bytes + self.code_bytes

    @property
    def ok(self) -> bool:
        return not self.problems

    def row(self) -> dict:
        """The report as JSON-able values."""
        row = dataclasses.asdict(self) | {'total_bytes': self.total_bytes, 'ok': self.ok}
        row['collectives'] = {kind: c._asdict() for kind, c in self.collectives.items()}
        return row

    @classmethod
    def from_row(cls, row: dict) -> Report:
        """The report that `row` was made from."""
        fields = {field.name: row[field.name] for field in dataclasses.fields(cls)}
        fields['collectives'] = {kind: hlo.Collective(**c) for kind, c in row['collectives'].items()}
        fields['problems'] = tuple(row['problems'])
        return cls(**fields)


def check(
    name: str,
    jitted_fn: Any,
    abstract_args: tuple,
    mesh: Mesh,
    chip_memory: int,
    allowed_collectives: Collection[str],
    analytic_flops: float | None = None,
    turns: int | None = None,
    facts: dict[str, Any] | None = None,
) -> Report:
    """Compiles `jitted_fn` for the devices of `mesh` and reports on it; allocates nothing.

    jitted_fn: `jitted_fn.lower(*abstract_args)` gives what is compiled: a jitted function, or a driver.
    abstract_args: trees of ShapeDtypeStruct with shardings on `mesh` (for a driver the number of updates).
    chip_memory: bytes that one device may use.
    allowed_collectives: the kinds that are meant to be there (names of hlo.COLLECTIVES).
    analytic_flops: two per multiply-add of all matrix products, over all devices, of one call.
    turns: what a loop counts for whose length only the run decides; see `hlo.count`.
    facts: what else a reader should know of it, by name; printed and written, not looked at.

    What is wrong stands in `Report.problems`; compiler errors other than a full memory are raised.
    """
    for kind in allowed_collectives:
        if kind not in hlo.COLLECTIVES:
            raise unknown('collective', kind, hlo.COLLECTIVES)
    blank = Report(
        name=name,
        mesh=describe(mesh),
        devices=mesh.size,
        chip_bytes=chip_memory,
        analytic_flops=None if analytic_flops is None else analytic_flops / mesh.size,
        facts=facts or {},
    )
    started = time.monotonic()
    try:
        compiled = jitted_fn.lower(*abstract_args).compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        # The compiler knows the chip's memory itself and gives up without any figures but those in its message.
        return dataclasses.replace(
            blank,
            compile_seconds=round(time.monotonic() - started, 1),
            problems=('does not fit: ' + str(error).splitlines()[0],),
        )
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    work = hlo.count(compiled.as_text(), turns)
    report = dataclasses.replace(
        blank,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=work.flops,
        collectives=work.collectives,
        compile_seconds=round(seconds, 1),
    )
    return dataclasses.replace(report, problems=tuple(_problems(report, allowed_collectives)))


def _problems(report: Report, allowed: Collection[str]) -> list[str]:
    problems = []
    if report.total_bytes > report.chip_bytes:
        problems.append(f'does not fit: {_gigabytes(report.total_bytes)} of {_gigabytes(report.chip_bytes)}')
    for kind, found in sorted(report.collectives.items()):
        if kind not in allowed:
            problems.append(f'{kind} is not on the list of intended collectives ({found.ops} of them)')
    if report.analytic_flops is not None:
        excess = report.flops / report.analytic_flops - 1
        if abs(excess) > TOLERANCE:
            problems.append(f'FLOPs are {excess:+.1%} from the analytic count')
    return problems


def table(reports: list[Report]) -> str:
    """The reports as a Markdown table, one line a program, and under it facts and what is wrong."""
    sizes = ('state + data', 'temporary', 'total of chip')
    lines = [('program', 'mesh', *sizes, 'GFLOP', 'of analytic', 'collectives', 'compile')]
    for r in reports:
        sent = ', '.join(f'{k} x{c.executions} ({_gigabytes(c.bytes)})' for k, c in sorted(r.collectives.items()))
        lines.append(
            (
                r.name,
                r.mesh,
                _gigabytes(r.argument_bytes),
                _gigabytes(r.temporary_bytes),
                f'{_gigabytes(r.total_bytes)} of {_gigabytes(r.chip_bytes)}',
                f'{r.flops / 1e9:.4g}',
                f'{r.flops / r.analytic_flops:.2%}' if r.analytic_flops else '',
                sent or 'none',
                f'{r.compile_seconds:.1f} s',
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple('-' * width for width in widths))
    text = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + ' |' for line in lines]
    text += [f'{r.name}: ' + '; '.join(f'{k} {v}' for k, v in r.facts.items()) for r in reports if r.facts]
    return '\n'.join(text + [f'FAILED {r.name}: {problem}' for r in reports for problem in r.problems])


def _gigabytes(size: int) -> str:
    return f'{size / 1e9:.3g} GB'


class Program(NamedTuple):
    """Something to check: the arguments of `check`, made for the devices of one slice."""

    jitted_fn: Any
    abstract_args: tuple
    mesh: Mesh
    allowed_collectives: Collection[str]
    analytic_flops: float | None = None
    turns: int | None = None
    facts: dict[str, Any] | None = None


def main(
    module: str,
    programs: dict[str, Callable[[list], Program]],
    topologies: tuple[str, ...] | dict[str, tuple[str, ...]],
    about: str = '',
    results: str = 'results/tpu_check.json',
) -> int:
    """The command of a paper package: every program on every slice; prints the table, writes it as JSON.

    module: the package's module, which is called again for each compilation, one after the other: libtpu keeps what it
    allocated, and what it refuses can end the process.
    programs: name -> function of the slice's devices.
    topologies: the slices of every program, or name -> those of one.
    about: what one call of them is, for the readers of the table.
    results: where the JSON goes when everything was checked.
    Returns 1 when anything failed, otherwise 0.
    """
    parser = cli.Parser(prog=f'python -m {module}', description='Compile for TPU slices without a TPU.')
    parser.add_argument('--topology', nargs='+', default=(), help='slices, such as v5e:4x4')
    parser.add_argument('--program', nargs='+', default=tuple(programs), help=f'of {", ".join(programs)}')
    parser.add_argument('--output', type=pathlib.Path, help=f'default: {results} when all is checked')
    parser.add_argument('--seconds', type=float, default=900, help='limit for one compilation')
    parser.add_argument('--in-process', action='store_true', help='one compilation here; --output gets its row')
    flags = parser.parse_args()
    for name in flags.program:
        if name not in programs:
            raise unknown('program', name, programs)
    for name in flags.topology:
        if name not in TOPOLOGIES:
            raise unknown('TPU topology', name, TOPOLOGIES)
    if flags.in_process:
        return _compile_one(flags, programs)
    if importlib.util.find_spec('libtpu') is None:
        raise UserError("the TPU compiler is not installed: pip install 'tenfold[tpu-check]'")

    rows, failures = [], []
    for name in flags.program:
        for topology in flags.topology or (topologies[name] if isinstance(topologies, dict) else topologies):
            print(f'compiling {name} for {topology} ...', flush=True)
            row = _compile_elsewhere(module, name, topology, flags.seconds)
            if isinstance(row, str):
                failures.append({'name': f'{name} {topology}', 'error': row})
            else:
                rows.append(row)
    reports = [Report.from_row(row) for row in rows]
    print(f'\nOne device, one call. {about}\n\n{table(reports)}')
    for failure in failures:
        print(f'FAILED {failure["name"]}: {failure["error"]}')
    everything = flags.program == tuple(programs) and not flags.topology
    output = flags.output or (pathlib.Path(results) if everything else None)
    if output is not None:
        _write(output, module, about, rows, failures)
        print(f'wrote {output}')
    return int(bool(failures) or not all(report.ok for report in reports))


def _write(output: pathlib.Path, module: str, about: str, rows: list[dict], failures: list[dict]) -> None:
    result = {
        'title': f'compiled by the TPU compiler, not run; one device, one call. {about}'.strip(),
        'command': f'python -m {module}',
        'date': datetime.date.today().isoformat(),
        'versions': provenance.versions() | {'libtpu': importlib.metadata.version('libtpu')},
        'commit': provenance.git_commit(),
        'host': provenance.host(),
        'rows': rows,
        'failures': failures,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(output, result)


def _compile_one(flags: argparse.Namespace, programs: dict[str, Callable[[list], Program]]) -> int:
    (name,), (topology,) = flags.program, flags.topology
    program = programs[name](topology_devices(topology))
    report = check(
        f'{name} {topology}',
        program.jitted_fn,
        program.abstract_args,
        program.mesh,
        chip_memory(topology),
        program.allowed_collectives,
        program.analytic_flops,
        program.turns,
        program.facts,
    )
    flags.output.write_text(json.dumps(report.row()))
    return 0


def _compile_elsewhere(module: str, name: str, topology: str, seconds: float) -> dict | str:
    """The row of one compilation in a process of its own, or what went wrong."""
    with tempfile.TemporaryDirectory() as directory:
        output = pathlib.Path(directory) / 'row.json'
        command = [sys.executable, '-m', module, '--in-process', '--program', name, '--topology', topology]
        # The CPU is the only backend that jax may start; a persistent cache would falsify the compile time.
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_ENABLE_COMPILATION_CACHE': 'false'}
        try:
            done = subprocess.run(
                [*command, '--output', str(output)], env=environment, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return f'not compiled after {seconds:.0f} s'
        if done.returncode == 0:
            return json.loads(output.read_text())
        # libtpu logs a lot, and jax ends a traceback with a note: what counts is the last line that names an error.
        said = re.findall(r'^(?:[\w.]*(?:Error|Exception)|error): .*', done.stderr, re.MULTILINE)
        return said[-1] if said else f'ended with status {done.returncode}'
