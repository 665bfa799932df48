"""Spoofs and bombs: each scores 0 with the list of what is allowed, and without it, and leaves no process behind."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from colbench_jax.grader.compare import same
from colbench_jax.grader.inside import screen
from colbench_jax.grader.pool import Job, Limits, Pool

# What every call of f gives in the reference; no answer below computes it.
SECRET = 'def f(x):\n    return [x * 7919 % 1009, "pin"]'
CALLS = tuple(f'f({x})' for x in (1, 5))
LIMITS = Limits(call_seconds=0.1, cpu_seconds=1, memory=128 * 2**20, deadline=3.0)

TEXT = (pathlib.Path(__file__).parent / 'spoofs.txt').read_text()
SPOOFS = dict(part.split('\n', 1) for part in TEXT.split('=== ')[1:]) | {
    'deep source': 'def f(x):\n    return ' + '(' * 5000 + '1' + ')' * 5000,
    'deep sum': 'def f(x):\n    return ' + '+'.join(['1'] * 20000),
}


@pytest.fixture(scope='module')
def wanted(pool):
    return pool.run(Job((SECRET,), CALLS)).values[0]


# They need nothing that the list forbids: with it they run as without.
BOMBS = ('memory bomb', 'one huge integer', 'output flood', 'large value', 'endless loop', 'deep recursion') + (
    'endless loop that swallows alarms',
)


def jobs_of(source, screened=False):
    return Job((source,), CALLS, screen=screened, limits=LIMITS)


def passed(wanted, outcome) -> int:
    return sum(v is not None and same(w, v) for w, v in zip(wanted, outcome.values[0], strict=True))


def lives_of(pool) -> list[int]:
    """Processes of a jail's user or session, or whose parent a zygote is, apart from the zygotes."""
    zygotes = {jail.process.pid for jail in pool.jails}
    users = {jail.hello['uid'] for jail in pool.jails} - {None}
    found = []
    for folder in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            user = folder.stat().st_uid
            fields = (folder / 'stat').read_text().rsplit(') ', 1)[1].split()
        except OSError:
            continue
        parent, session = int(fields[1]), int(fields[3])
        if int(folder.name) not in zygotes and (user in users or session in zygotes or parent in zygotes):
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize('name', SPOOFS)
def test_within_the_walls_spoofs_score_nothing_and_leave_nothing(pool, wanted, name):
    """Without the list of what is allowed, so that the walls stand alone."""
    zygotes = [jail.process.pid for jail in pool.jails]
    assert passed(wanted, pool.run(jobs_of(SPOOFS[name]))) == 0
    assert [jail.process.pid for jail in pool.jails] == zygotes  # the jails outlive it
    assert not lives_of(pool)


def test_with_the_list_spoofs_score_nothing_and_leave_nothing(pool, wanted):
    quick = {name: source for name, source in SPOOFS.items() if name not in BOMBS}
    outcomes = pool.map([jobs_of(source, screened=True) for source in quick.values()])
    assert not [name for name, outcome in zip(quick, outcomes, strict=True) if passed(wanted, outcome)]
    refused = sum('refused' in str(outcome.errors[0][0]) for outcome in outcomes)
    assert refused > 25 and not lives_of(pool)
    assert passed(wanted, pool.run(jobs_of(SECRET, screened=True))) == len(CALLS)  # who answers right is not harmed


WITHOUT_ROOT = """
import ctypes, json, sys
libc = ctypes.CDLL(None)
for capability in range(41):
    libc.prctl(24, capability, 0, 0, 0)
libc.capset((ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)())
from colbench_jax.grader.pool import Job, Limits, Pool
with Pool(1) as pool:
    assert set(pool.missing_walls) == {'network', 'other_user', 'empty_root'}, pool.missing_walls
    for source in json.load(sys.stdin):
        job = Job((source,), ('f(1)',), screen=False, limits=Limits(0.2, 1, 2**28, 3.0))
        print(json.dumps(pool.run(job).values[0][0]))
"""


def test_without_root_the_other_walls_stand():
    """The powers of root are given up, as an ordinary user has none."""
    names = ('reads files', 'lists the disk', 'fork bomb', 'threads', 'network by _socket', 'escapes the root')
    sources = [SPOOFS[name] for name in names] + ['def f(x):\n    return x']
    root = pathlib.Path(__file__).parent.parent.parent
    command = [sys.executable, '-c', WITHOUT_ROOT]
    done = subprocess.run(command, input=json.dumps(sources), capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [None] * len(names) + [['i', '1']]


def test_a_parent_that_is_killed_leaves_no_jail():
    code = (
        'import time\nfrom colbench_jax.grader.pool import Job, Pool\npool = Pool(1)\n'
        'print(pool.jails[0].process.pid, pool._empty, flush=True)\n'
        'pool.run(Job(("def f():\\n    while True:\\n        pass",), ("f()",)))\ntime.sleep(60)'
    )
    root = pathlib.Path(__file__).parent.parent.parent
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, cwd=root)
    zygote, empty = parent.stdout.readline().decode().split()
    zygote = int(zygote)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while alive(zygote) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(zygote) and not pathlib.Path(empty).exists()


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(') ', 1)[1][0] != 'Z'
    except FileNotFoundError:
        return False


def test_the_check_for_left_processes_sees_one(pool):
    zygotes = {jail.process.pid for jail in pool.jails}
    left = subprocess.Popen(['/bin/sleep', '60'], start_new_session=True, user=pool.hello[0]['uid'])
    try:
        for _ in range(1000):  # ten seconds, on a busy machine
            if lives_of(pool):
                break
            time.sleep(0.01)
        assert lives_of(pool) == [left.pid] or os.geteuid() != 0
        assert zygotes
    finally:
        left.kill()
        left.wait()


def test_the_walls_stand_where_we_are_root(pool):
    if os.geteuid() == 0:
        assert not pool.missing_walls
        assert all(hello['uid'] != 0 for hello in pool.hello) and len({h['uid'] for h in pool.hello}) == len(pool.jails)


@pytest.mark.parametrize(
    'source,reason',
    [
        ('import os', 'import of os'),
        ('from os import path', 'import of os'),
        ('import collections.abc, socket', 'import of socket'),
        ('from . import x', 'import of a relative name'),
        ('from statistics import sys', 'import of sys'),
        ('import datetime\ndatetime.sys.exit()', 'attribute sys'),
        ('import collections\ncollections._sys', 'attribute _sys'),
        ('().__class__', 'attribute __class__'),
        ('f.gi_frame', 'attribute gi_frame'),
        ('eval("1")', 'name eval'),
        ('a = open', 'name open'),
        ('__import__("os")', 'name __import__'),
        ('getattr(x, "_" * 2)', 'getattr of a computed name'),
        ('getattr(x, "__class__")', 'attribute __class__'),
        ('class A:\n    def __eq__(self, o):\n        return True', None),
        ('class A:\n    def __getattribute__(self, o):\n        return 1', 'definition of __getattribute__'),
        ('async def f():\n    pass', 'async code'),
        ('x = (', 'syntax error'),
        ('x = "' + 'a' * 60_000 + '"', 'longer than'),
        ('import math, re\nclass A:\n    def __init__(self):\n        self._x = 1', None),
        ('g = getattr', 'name getattr without a call'),
        ('getattr(*x, "a")', 'getattr of a computed name'),
        ('import re\nre.enum', 'attribute enum'),
        ('x.bltns', 'attribute bltns'),
        ('x.eval("1")', 'attribute eval'),
        ('import re\nre.compile("a")', None),
        ('match x:\n    case object(__class__=c):\n        pass', 'attribute __class__'),
        ('match x:\n    case object(y=c) | int(c):\n        pass', None),
        ('def g(self):\n    return self._x', 'attribute _x'),
        ('class A:\n    def g(self):\n        self._sys = 1', 'attribute _sys'),
        ('try:\n    pass\nexcept E as __builtins__:\n    pass', 'name __builtins__'),
        # What honest answers hold.
        ('def f(input):\n    return input * 2', None),
        ('def f(bars):\n    return sum(open for open, close in bars)', None),
        (
            'class A:\n    def __init__(self):\n        self.numbers, self.types, self.open, self.__x = [], {}, 1, 2',
            None,
        ),
        ('class A:\n    def __init__(self):\n        self._left = None\ndef f(node):\n    return node._left', None),
        ('def f(d):\n    return max(d, key=d.__getitem__), d.__len__()', None),
        ('class A(dict):\n    def __missing__(self, k):\n        return 0', None),
        ('class A:\n    def __ne__(a, b):\n        return 1\n    def __rtruediv__(a, b):\n        return 1', None),
        ('from __future__ import annotations\ndef f(x: int):\n    return hasattr(x, "real")', None),
        ('from collections import abc, namedtuple\nBar = namedtuple("Bar", "open close")\nBar(1, 2).open', None),
    ],
)
def test_what_is_allowed(source, reason):
    found = screen.refusal(source)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    'name', ('kills all', 'fork and go on', 'reads files', 'network', 'endless loop', 'result flood')
)
def test_the_walls_stand_in_compat_too(pool, name):
    source = SPOOFS[name].replace('import os', 'import  os')  # past the released blacklist
    calls = ('f(1)',) * 3
    limits = Limits(call_seconds=0.1, deadline=2.0)
    outcome = pool.run(Job((SECRET, source), calls, screen=False, compat=True, limits=limits))
    assert outcome.passed == [False] * 3 and not lives_of(pool)
    outcome = pool.run(Job((SECRET, SECRET), calls, screen=False, compat=True, limits=limits))
    assert outcome.passed == [True] * 3


def test_a_job_leaves_nothing_in_the_process_that_runs_the_next():
    """Neither a reference nor what it gave, in jails that ran it over and over, the same kind as the answer's."""
    marker = 'def f(x):\n    return ["a" * 300 + str(x * 7919), "pin" * 100]'
    calls = tuple(f'f({x})' for x in range(20))
    with Pool(1) as pool:
        for _ in range(5):
            assert all(pool.run(Job((marker,), calls)).values[0])
        memory = _memory_of(pool.jails[0].process.pid)
        assert b'x * 7919' not in memory and b'pinpinpin' not in memory and len(memory) > 2**20
        source = (
            'import sys\ndef f(x):\n    return [name for name in ("ctypes", "_ctypes", "walls") if name in sys.modules]'
        )
        assert pool.run(Job((source,), CALLS, screen=False)).values[0] == [['l', []]] * 2


def _memory_of(pid: int) -> bytes:
    """What a process may read and write."""
    found = bytearray()
    with open(f'/proc/{pid}/mem', 'rb') as memory:
        for line in pathlib.Path(f'/proc/{pid}/maps').read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith('rw') and '[v' not in line:
                begin, end = (int(part, 16) for part in span.split('-'))
                memory.seek(begin)
                found += memory.read(end - begin)
    return bytes(found)


def test_modules_are_copies_of_public_names(pool):
    source = (
        'import collections.abc, json, re, functools\nfrom collections import abc, Counter\nfrom math import *\n'
        'import collections.abc as more, datetime\n'
        '@functools.wraps(len)\ndef g(x):\n    return floor(x)\n'
        'def f(x):\n    try:\n        json.loads("{")\n    except json.decoder.JSONDecodeError:\n        pass\n'
        '    day = datetime.datetime.strptime("2024-01-02", "%Y-%m-%d").day\n'
        '    found = [isinstance([], kind) for kind in (abc.Sequence, more.Sequence, collections.abc.Sized)]\n'
        '    return [g(x + 0.5), day, re.compile("a").pattern, found, Counter("aa")]'
    )
    outcome = pool.run(Job((source,), ('f(1)',)))
    true = ['b', 1]
    assert outcome.values[0] == [
        ['l', [['i', '1'], ['i', '2'], ['s', 'a'], ['l', [true] * 3], ['d', [[['s', 'a'], ['i', '2']]]]]]
    ], outcome.errors
