"""Warm jails: processes that fork a child for every job, and the parent's side of the talk with them.

What an answer may do to this process: make it parse JSON of bounded size, checked part by part. Linux alone.

This is no security boundary against a determined adversary; for a model that you do not trust, run all of it in a
container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from core_jax.errors import UserError

ZYGOTE = pathlib.Path(__file__).parent / 'inside' / 'zygote.py'
PATIENCE = 20.0  # seconds beyond a job's own deadline, after which a jail counts as broken


class Limits(NamedTuple):
    """What a job may use."""

    call_seconds: float = 1.0  # of CPU for one call
    cpu_seconds: int = 4  # in total
    memory: int = 512 * 2**20  # bytes of address space
    deadline: float = 10.0  # seconds of wall in total


class Job(NamedTuple):
    """Programs, each of which answers the same calls in a namespace of its own."""

    programs: tuple[str, ...]
    calls: tuple[str, ...]
    screen: bool = True  # the list of what is allowed (inside/screen.py); off, the walls stand alone
    compat: bool = False  # programs = (reference, answer), compared inside
    limits: Limits = Limits()


class Outcome(NamedTuple):
    """What a job came to: of each program and call, a tagged value or None, and why there is none."""

    values: list[list[list | None]]  # [program][call]
    errors: list[list[str | None]]  # [program][call]
    passed: list[bool]  # [call], of a compat job
    end: str  # 'ended', 'out of time', 'said too much', 'killed by signal 9', ...
    jail: int = 0  # which one ran it


class Pool:
    """Jails that are kept warm, for one thread. `close` it, or use it as a context: its processes end with it."""

    def __init__(self, workers: int | None = None):
        """workers: how many jobs run side by side (default: the CPUs, at most 16). Raises UserError."""
        if not sys.platform.startswith('linux'):
            raise UserError('the grader needs Linux: its jail is made of prctl, namespaces and limits')
        self._empty = tempfile.mkdtemp(prefix='empty-')
        os.chmod(self._empty, 0o555)
        self._jails: list[_Jail] = []
        try:
            for _ in range(workers or min(16, os.cpu_count() or 1)):
                self._jails.append(_Jail(self._empty))
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        return len(self._jails)

    @property
    def hello(self) -> list[dict[str, Any]]:
        """What each jail said when it started: `walls` that could be built, `uid` of its children, its `hash` seed."""
        return [jail.hello for jail in self._jails]

    @functools.cached_property
    def missing_walls(self) -> list[str]:
        return [name for name, built in self._jails[0].hello['walls'].items() if not built]

    def run(self, job: Job, jail: int = 0) -> Outcome:
        """One job, in a jail of your choice."""
        one = self._jails[jail]
        one.start(job)
        while not one.poll():
            pass
        return self._finish(jail)

    def map(
        self, jobs: Sequence[Job], tick: Callable[[], None] = lambda: None, elsewhere: Sequence[int] | None = None
    ) -> list[Outcome]:
        """All jobs, side by side; the results in their order. tick: called after each.

        elsewhere: for each job a jail that must not run it, so that another one, with another hash seed, does.
        """
        waiting, results, busy = list(range(len(jobs))), {}, {}
        while True:
            for jail in [jail for jail in range(self.size) if jail not in busy]:
                number = next((k for k in waiting if elsewhere is None or elsewhere[k] != jail), None)
                if number is not None:
                    waiting.remove(number)
                    self._jails[jail].start(jobs[number])
                    busy[jail] = number
            if not busy:
                return [results[number] for number in range(len(results))]
            _ready([self._jails[jail].descriptor for jail in busy], 1.0)
            for jail in [jail for jail in busy if self._jails[jail].poll(0)]:
                results[busy.pop(jail)] = self._finish(jail)
                tick()

    def _finish(self, jail: int) -> Outcome:
        """The outcome of a jail that answered; one that broke is replaced."""
        one = self._jails[jail]
        if one.reply is None:
            one.close()
            os.makedirs(self._empty, 0o555, exist_ok=True)  # what breaks may have tidied up
            self._jails[jail] = _Jail(self._empty)
        outcome = read_outcome(one.job, one.reply or {'rows': '', 'end': 'the jail broke'})
        return outcome._replace(jail=jail)

    def close(self) -> None:
        for jail in self._jails:
            jail.close()
        self._jails = []
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
    """One zygote and the two pipes to it."""

    def __init__(self, empty: str):
        self.process = subprocess.Popen(
            [sys.executable, '-I', '-S', str(ZYGOTE), empty],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd='/',
            bufsize=0,
            start_new_session=True,
        )
        self.job = Job((), ())
        self.descriptor = self.process.stdout.fileno()
        self._begin()
        while not self.poll():
            pass
        if self.reply is None:
            self.close()
            raise UserError('the jail does not start; try: python -I -S ' + str(ZYGOTE))
        self.hello = self.reply

    def _begin(self, deadline: float = 0.0) -> None:
        self._said, self.reply, self._last = bytearray(), None, time.monotonic() + deadline + PATIENCE

    def start(self, job: Job) -> None:
        self.job = job
        self._begin(job.limits.deadline)
        text = json.dumps(job._asdict() | {'limits': job.limits._asdict()}).encode()
        text = memoryview(len(text).to_bytes(4, 'big') + text)
        try:
            while text:
                text = text[os.write(self.process.stdin.fileno(), text) :]
        except BrokenPipeError:
            self._last = 0.0

    def poll(self, wait: float = 1.0) -> bool:
        """Whether the reply is there, or will never come (`reply` is None then)."""
        if _ready([self.descriptor], wait):
            block = os.read(self.descriptor, 1 << 20)
            self._said += block
            length = int.from_bytes(self._said[:4], 'big') + 4 if len(self._said) >= 4 else 4
            if len(self._said) > 4 and len(self._said) >= length:
                self.reply = json.loads(bytes(self._said[4:length]))
                return True
            return not block
        return time.monotonic() > self._last

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.write(bytes(4))  # dismissed
        self.process.stdin.close()
        try:
            self.process.wait(0.5)  # it ends by itself when its requests end
        except subprocess.TimeoutExpired:
            self.process.kill()  # its child, if any, dies with it
            self.process.wait()
        self.process.stdout.close()


def read_outcome(job: Job, reply: dict[str, str]) -> Outcome:
    """The outcome of a reply, of which 'rows' was written by an answer: nothing in it is taken on trust.

    A row that is no row is passed over; of two rows for one call the first counts.
    """
    places, calls = len(job.programs), len(job.calls)
    values: list[list[list | None]] = [[None] * calls for _ in range(places)]
    errors: list[list[str | None]] = [[None] * calls for _ in range(places)]
    passed = [False] * calls
    for line in reply['rows'].splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if job.compat:
            if isinstance(row, list) and len(row) == calls and all(type(item) is bool for item in row):
                passed = row
            continue
        if not (isinstance(row, list) and len(row) == 4 and type(row[0]) is int and type(row[1]) is int):
            continue
        place, call, value, why = row
        if not (0 <= place < places and -1 <= call < calls):
            continue
        why = why if isinstance(why, str) else None
        for number in range(calls) if call < 0 else (call,):
            if values[place][number] is None and errors[place][number] is None:
                if call >= 0 and well_formed(value):
                    values[place][number] = value
                else:
                    errors[place][number] = why or 'no value'
    for place in range(places):
        for call in range(calls):
            if values[place][call] is None and errors[place][call] is None:
                errors[place][call] = reply['end'] if reply['end'] != 'ended' else 'no value'
    return Outcome(values, errors, passed, reply['end'])


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
    if tag in ('i', 'f', 's', 'y'):
        return isinstance(inner, str) and _number_or_text(tag, inner)
    if tag in ('l', 't', 'S'):
        return isinstance(inner, list) and all(well_formed(item, depth + 1) for item in inner)
    if tag == 'd':
        return isinstance(inner, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(well_formed(part, depth + 1) for part in pair)
            for pair in inner
        )
    return False


def _number_or_text(tag: str, text: str) -> bool:
    try:
        if tag == 'i':
            return len(text) < 1_300 and str(int(text)) == text
        return tag != 'f' or float.fromhex(text) is not None
    except (ValueError, OverflowError):
        return False


def calls_of(task: dict[str, Any]) -> tuple[str, ...]:
    """The calls of a task, in the order of its file."""
    return tuple(task['test_cases'].values())


def program_of(answer: str) -> str:
    """The code of an answer: what stands in its first fence, if there is one."""
    for fence in ('```python', '```'):
        if fence in answer:
            return answer.split(fence, 1)[1].split('```', 1)[0].strip('\n')
    return answer
