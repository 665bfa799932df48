"""Warm jails: processes that fork a child for every job, and the parent's side of the talk with them.

What an answer may do to this process: make it parse JSON of bounded size, checked part by part. Linux alone.

This is no security boundary against a determined adversary; for a model that you do not trust, run all of it in a
container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import json
import math
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from colbench_jax.grader.compare import number
from colbench_jax.grader.inside.screen import MODULES
from colbench_jax.grader.inside.tagged import BITS, DECIMAL_BITS
from core_jax.errors import UserError

ZYGOTE = pathlib.Path(__file__).parent / 'inside' / 'zygote.py'
MOST_BYTES = 400_000  # of what a child may say about one call
PIPE_BYTES = 1 << 20  # what a process without rights may ask for
PATIENCE = 20.0  # seconds beyond a job's own deadline, after which a jail counts as broken


class Limits(NamedTuple):
    """What a job may use."""

    call_seconds: float = 1.0  # of CPU for one call
    cpu_seconds: int | None = None  # in total (default: 2, and what all calls may take)
    memory: int = 512 * 2**20  # bytes of address space
    deadline: float | None = None  # seconds of wall in total (default: what a busy machine takes for them)

    def of(self, calls: int) -> Limits:
        """With none left open, for so many calls."""
        cpu = self.cpu_seconds or 2 + math.ceil(calls * self.call_seconds)
        return self._replace(cpu_seconds=cpu, deadline=self.deadline or 2.5 * cpu)


# Kinds of jails, with Python's hash seed. It is the same for a reference and an answer, so that the order of a set is;
# in `again` it is another one, which shows what depends on it. Answers have the jails with the least to copy for a job;
# `references` have more of the standard library, `compat` has numpy too, if it is installed here.
JAILS = {'grades': '0', 'again': '1', 'references': '0', 'compat': '0'}


class Job(NamedTuple):
    """Programs, each of which answers the same calls, every one in a namespace of its own."""

    programs: tuple[str, ...]
    calls: tuple[str, ...]
    screen: bool = True  # the list of what is allowed (inside/screen.py); off, the walls stand alone
    compat: bool = False  # programs = (reference, answer), compared inside
    jail: str = 'grades'  # which of JAILS runs it; of a compat job `compat`
    limits: Limits = Limits()


class Outcome(NamedTuple):
    """What a job came to: of each program and call, a tagged value or None, and why there is none."""

    values: list[list[list | None]]  # [program][call]
    errors: list[list[str | None]]  # [program][call]; of a compat job the reference's alone
    passed: list[bool]  # [call], of a compat job
    end: str  # 'ended', 'out of time', 'said too much', 'killed by signal 9', ...


class Pool:
    """Jails that are kept warm, for one thread. `close` it, or use it as a context: its processes end with it."""

    def __init__(self, workers: int | None = None):
        """workers: how many jobs run side by side (default: the CPUs, at most 16). Raises UserError."""
        if not sys.platform.startswith('linux'):
            raise UserError('the grader needs Linux: its jail is made of prctl, namespaces and limits')
        self._empty = tempfile.mkdtemp(prefix='empty-')
        os.chmod(self._empty, 0o555)
        self.size = workers or min(16, os.cpu_count() or 1)
        self._crews: dict[str, list[_Jail]] = {}
        try:
            self._crew('grades')
        except BaseException:
            self.close()
            raise

    @property
    def jails(self) -> list[_Jail]:
        """All that are warm, those for grades first."""
        return [jail for crew in self._crews.values() for jail in crew]

    @property
    def hello(self) -> list[dict[str, Any]]:
        """What each jail said when it started: `walls` that could be built, `uid` of its children, its `hash` seed."""
        return [jail.hello for jail in self.jails]

    @functools.cached_property
    def missing_walls(self) -> list[str]:
        return [name for name, built in self._crew('grades')[0].hello['walls'].items() if not built]

    def run(self, job: Job) -> Outcome:
        """One job."""
        return self.map([job])[0]

    def map(self, jobs: Sequence[Job], tick: Callable[[], None] = lambda: None) -> list[Outcome]:
        """All jobs, which want one kind of jail, side by side; the results in their order. tick: called after each."""
        if not jobs:
            return []
        kind = 'compat' if jobs[0].compat else jobs[0].jail
        try:
            return self._map(self._crew(kind), jobs, tick)
        except BaseException:
            for jail in self._crews.pop(kind, []):  # what they say now would be taken for the next job's
                jail.close()
            raise

    def _map(self, crew: list[_Jail], jobs: Sequence[Job], tick: Callable[[], None]) -> list[Outcome]:
        waiting, results, busy = list(range(len(jobs)))[::-1], {}, {}
        while True:
            for place in range(self.size):
                if waiting and place not in busy:
                    busy[place] = waiting.pop()
                    crew[place].start(jobs[busy[place]])
            if not busy:
                return [results[number] for number in range(len(results))]
            # Not for rows: what a child says can wait in its pipe, which is emptied now and then.
            _ready([crew[place].ends for place in busy], 0.02)
            for place in [place for place in busy if crew[place].poll()]:
                results[busy.pop(place)] = self._finish(crew, place)
                tick()

    def _crew(self, kind: str) -> list[_Jail]:
        """The jails of a kind, as many as jobs run side by side; started when they are first wanted."""
        if kind not in self._crews:
            self._crews[kind] = [_Jail(self._empty, kind) for _ in range(self.size)]
            for jail in self._crews[kind]:
                jail.greet()
        return self._crews[kind]

    def _finish(self, crew: list[_Jail], place: int) -> Outcome:
        """The outcome of a jail that answered; one that broke is replaced."""
        one = crew[place]
        if one.reply is None:
            one.close()
            os.makedirs(self._empty, 0o555, exist_ok=True)  # what breaks may have tidied up
            crew[place] = _Jail(self._empty, one.kind)
            crew[place].greet()
        return read_outcome(one.job, one.rows if one.reply else b'', one.reply or 'the jail broke')

    def close(self) -> None:
        for jail in self.jails:
            jail.close()
        self._crews = {}
        shutil.rmtree(self._empty, ignore_errors=True)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def _ready(descriptors: Sequence[int], seconds: float) -> bool:
    """Whether one of them can be read within `seconds`; select() would stop at descriptor 1023."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class _Jail:
    """One zygote and the pipes to it; `greet` it before its first job.

    `reply`: the line that says how the job ended. `rows`: what its child wrote, complete as soon as there is a reply.
    """

    def __init__(self, empty: str, kind: str):
        self.kind = kind
        # Alone with its own folder, as by -I, which would also forbid to set the hash seed.
        self.command = [sys.executable, '-P', '-s', '-S', str(ZYGOTE), empty, kind]
        self.process = subprocess.Popen(
            self.command + (_folders_of('numpy') if kind == 'compat' else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={'PYTHONHASHSEED': JAILS[kind], 'OPENBLAS_NUM_THREADS': '1'},
            cwd='/',
            bufsize=0,
            start_new_session=True,
        )
        self.job = Job((), ())
        self.ends = self.process.stdout.fileno()
        for pipe in (self.process.stdout, self.process.stderr):
            os.set_blocking(pipe.fileno(), False)
        for pipe in (self.process.stdin, self.process.stderr):
            with contextlib.suppress(OSError):  # so that a child rarely waits for this process
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._begin()

    def greet(self) -> None:
        """Waits until it is there. Raises UserError where it does not come."""
        while not self.poll():
            _ready([self.ends], 1.0)
        if self.reply is None:
            self.close()
            raise UserError('the jail does not start; try: ' + ' '.join(self.command))
        self.hello = json.loads(self.reply)

    def _begin(self, deadline: float = 0.0) -> None:
        self.rows, self.reply, self._told = bytearray(), None, bytearray()
        self._last = time.monotonic() + deadline + PATIENCE

    def start(self, job: Job) -> None:
        self.job = job
        limits = job.limits.of(len(job.programs) * len(job.calls))
        self._begin(limits.deadline)
        text = json.dumps(job._asdict() | {'limits': limits._asdict()}).encode()
        head = bytes(1) + len(text).to_bytes(4, 'big') + round(limits.deadline * 1000).to_bytes(4, 'big')
        text = memoryview(head + text)
        try:
            while text:
                text = text[os.write(self.process.stdin.fileno(), text) :]
        except BrokenPipeError:
            self._last = 0.0

    def poll(self) -> bool:
        """Whether the reply is there, or will never come (`reply` is None then); takes what was said so far."""
        told = _block(self.ends)
        self._told += told or b''
        if self._told.endswith(b'\n'):
            self.reply = self._told.decode().rstrip()
        while said := _block(self.process.stderr.fileno()):
            if len(self.rows) <= most_said(self.job):
                self.rows += said
            elif self.reply is None:
                self.process.send_signal(signal.SIGUSR1)
                break
        return self.reply is not None or told == b'' or time.monotonic() > self._last

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.write(bytes(9))  # dismissed
        self.process.stdin.close()
        try:
            self.process.wait(0.5)  # it ends by itself when its requests end
        except subprocess.TimeoutExpired:
            self.process.kill()  # its child, if any, dies with it
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def _block(descriptor: int) -> bytes | None:
    """What can be read now: None if nothing can, nothing if nobody writes any more."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return None


def _folders_of(package: str) -> list[str]:
    """The folder of site-packages in which a package lies; none where it is not installed."""
    spec = importlib.util.find_spec(package)
    return [str(pathlib.Path(spec.origin).parent.parent)] if spec and spec.origin else []


def most_said(job: Job) -> int:
    """How many bytes of rows are read of a job."""
    return MOST_BYTES * max(1, len(job.programs) * len(job.calls))


def read_outcome(job: Job, rows: bytes, end: str) -> Outcome:
    """The outcome of a job that came to `end`. Its `rows` were written by an answer: nothing in them is taken on trust.

    A row that is no row is passed over; of two rows for one call the first counts.
    """
    places, calls = len(job.programs), len(job.calls)
    values: list[list[list | None]] = [[None] * calls for _ in range(places)]
    errors: list[list[str | None]] = [[None] * calls for _ in range(places)]
    passed, open_ = [False] * calls, set(range(calls))
    if len(rows) > most_said(job):
        rows, end = rows[: most_said(job)], 'said too much'
    for line in rows.decode('utf-8', 'replace').splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if job.compat:
            if isinstance(row, list) and len(row) == 3 and type(row[0]) is int and row[0] in open_:
                open_.remove(row[0])
                passed[row[0]] = row[1] is True
                errors[0][row[0]] = row[2] if isinstance(row[2], str) else None
            continue
        if not (isinstance(row, list) and len(row) == 4 and type(row[0]) is int and type(row[1]) is int):
            continue
        place, call, value, why = row
        if not (0 <= place < places and -1 <= call < calls):
            continue
        why = why if isinstance(why, str) else None
        for each in range(calls) if call < 0 else (call,):
            if values[place][each] is None and errors[place][each] is None:
                if call >= 0 and well_formed(value):
                    values[place][each] = value
                else:
                    errors[place][each] = why or 'no value'
    for place in range(places):
        for call in range(0 if job.compat else calls):
            if values[place][call] is None and errors[place][call] is None:
                errors[place][call] = end if end != 'ended' else 'no value'
    return Outcome(values, errors, passed, end)


def well_formed(value: Any, depth: int = 0) -> bool:
    """Whether `value` is a tagged value (inside/tagged.py) of bounded depth."""
    if not (isinstance(value, list) and value and isinstance(value[0], str)) or depth > 20:
        return False
    tag, *rest = value
    if tag == 'n':
        return not rest
    if tag == 'o':
        return len(rest) == 2 and all(isinstance(item, str) for item in rest)
    if len(rest) != 1:
        return False
    inner = rest[0]
    if tag == 'b':
        return inner in (0, 1) and type(inner) is int
    if tag in ('s', 'y'):
        return isinstance(inner, str)
    if tag in ('i', 'f', 'D'):
        return isinstance(inner, str) and _is_number(value)
    if tag in ('l', 't', 'S', 'c', 'F', 'r'):
        if not isinstance(inner, list) or not all(well_formed(item, depth + 1) for item in inner):
            return False
        kinds = [item[0] for item in inner]
        if tag == 'r':
            return kinds in (['i'], ['i'] * 3)
        return tag in 'ltS' or (kinds == ['f' if tag == 'c' else 'i'] * 2 and _is_number(value))
    if tag == 'd':
        return isinstance(inner, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(well_formed(part, depth + 1) for part in pair)
            for pair in inner
        )
    return False


def _is_number(value: list) -> bool:
    """Whether a tagged value whose parts are well formed says a number that can be compared."""
    try:
        if value[0] == 'i' and len(value[1]) > BITS // 3:
            return False
        found = number(value)
    except (ArithmeticError, ValueError):
        return False
    if value[0] == 'i':
        return value[1] == (str(found) if found.bit_length() <= DECIMAL_BITS else hex(found))
    return value[0] != 'D' or not found.is_snan()


def calls_of(task: dict[str, Any]) -> tuple[str, ...]:
    """The calls of a task, in the order of its file."""
    return tuple(task['test_cases'].values())


_IMPORT = re.compile(r'^[ \t]*(?:import ([\w.]+)|from ([\w.]+) import .*)$', re.M)


def jail_of(reference: str) -> str:
    """The kind of jail for a reference: that of answers, which is quicker, unless it may import what that lacks."""
    others = _IMPORT.sub(lambda found: '' if (found[1] or found[2]) in MODULES else found[0], reference)
    return 'references' if 'import' in others else 'grades'


# A fence, the language behind it, and the code; the last one may lack its end.
_FENCE = re.compile(r'```[ \t]*(?:(python3?|py)\b[ \t\r]*|([\w+#.-]*)[ \t\r]*(?=\n))?(.*?)(?:```|\Z)', re.I | re.S)


def program_of(answer: str) -> str:
    """The code of an answer: what stands in its first fence that says Python, else in its first, else all of it."""
    fences = [(match[1] is not None, match[3]) for match in _FENCE.finditer(answer)]
    found = [code for python, code in fences if python] or [code for _, code in fences]
    return found[0].strip('\r\n') if found else answer
