"""The process that answers run in children of: started as `python -I -S zygote.py`, warm, forked once for every job.

It reads jobs from stdin and writes what came of them to stdout, each as 4 bytes of length and JSON, until a length of
0 dismisses it. It never runs an answer itself. A job:
{"programs": [source, ...], "calls": ["f(1)", ...], "screen": bool, "compat": bool, "limits": {}}.
What comes back: {"rows": text}, where the text is what the child wrote, which may be forged, and {"end": how it ended}.
The child holds nothing worth stealing: no reference output, one pipe, no files, no rights, no network.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import json
import os
import select
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import screen  # noqa: E402
import tagged  # noqa: E402
import walls  # noqa: E402

del sys.path[0]

# Everything that an answer may import, and what these import late: there are no files where it runs.
import _strptime  # noqa: E402, F401
import encodings.idna  # noqa: E402, F401

for _name in (*sorted(screen.MODULES), 'collections.abc', 'random', 'dataclasses', 'enum', 'copy', 'operator', 'time'):
    __import__(_name)

MOST_BYTES = 400_000  # of what a child may say
LANGUAGE = frozenset(  # built-ins that an answer sees
    name for name in dir(builtins) if not name.startswith('_') and name not in screen._NAMES and name != 'license'
)
BLACKLIST = (  # of the released grader, where a text that holds one of these scores 0
    'import os',
    'from os',
    'import sys',
    'from sys',
    'sudo',
    'transformers',
    'exit(',
    'quit(',
    'argparse',
)


class OutOfTime(BaseException):
    """Not an Exception, so that `except Exception` in an answer does not swallow it."""


def _alarm(number, frame):
    raise OutOfTime


class Nowhere:
    """Where an answer's prints go."""

    encoding = 'utf-8'

    def write(self, text):
        return len(text)

    def flush(self):
        pass


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    if level or name.partition('.')[0] not in screen.MODULES:
        raise ImportError(f'{name} may not be imported')
    return __import__(name, {}, {}, fromlist, 0)


def _namespace() -> dict:
    safe = {name: getattr(builtins, name) for name in LANGUAGE}
    safe |= {'__import__': _import, '__build_class__': builtins.__build_class__, '__name__': 'builtins'}
    return {'__name__': 'answer', '__builtins__': safe}


def _timed(seconds: float, code, *spaces):
    """The value of compiled `code`. Raises OutOfTime after `seconds` of CPU (not of wall: the machine may be busy)."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return eval(code, *spaces)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _say(row) -> None:
    text = (json.dumps(row) + '\n').encode()
    while text:
        text = text[os.write(0, text) :]


def run(job: dict) -> None:
    """In the child: every call of every program, a row for each: [program, call, tagged value] or [.., null, why]."""
    seconds = job['limits']['call_seconds']
    calls = [_compiled(call, job['screen']) for call in job['calls']]
    for place, source in enumerate(job['programs']):
        why = screen.refusal(source) if job['screen'] else None
        if why:
            _say([place, -1, None, f'refused: {why}'])
            continue
        space = _namespace() if job['screen'] else {'__name__': 'answer'}
        try:
            _timed(seconds, compile(source, '<answer>', 'exec'), space)
        except BaseException as error:
            _say([place, -1, None, type(error).__name__[:60]])
            continue
        for number, call in enumerate(calls):
            try:
                if call is None:
                    raise SyntaxError
                row = [place, number, tagged.encode(_timed(seconds, call, space)), None]
            except tagged.CannotLeave as error:
                row = [place, number, None, str(error)[:100]]
            except BaseException as error:
                row = [place, number, None, type(error).__name__[:60]]
            _say(row)


def _compiled(call: str, screened: bool):
    try:
        return None if screened and screen.refusal(call) else compile(call, '<call>', 'eval')
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def run_compat(job: dict) -> None:
    """In the child, with the released grader's semantics: reference and answer in one process, `==` between them.

    Definitions go to a local namespace that is not the functions' global one, which is why imports, helpers and
    recursion fail; the reference is within reach of the answer; a reference value of None never counts.
    """
    reference, answer = job['programs']
    passed = [False] * len(job['calls'])
    outer = {'__name__': 'grader'}
    if not any(word in answer for word in BLACKLIST):
        for number, call in enumerate(job['calls']):
            try:
                space: dict = {}
                exec(reference, outer, space)
                wanted = eval(call, outer, space)
                space = {}
                signal.setitimer(signal.ITIMER_REAL, job['limits']['call_seconds'])
                exec(answer, outer, space)
                found = eval(call, outer, space)
                signal.setitimer(signal.ITIMER_REAL, 0)
                passed[number] = bool(wanted is not None and wanted == found)
            except BaseException:
                signal.setitimer(signal.ITIMER_REAL, 0)
    _say(passed)


def child(job: dict, pipe: int, empty: str, uid: int | None) -> None:
    """Builds the walls around itself, then runs the job. Never returns."""
    status = 1
    try:
        os.setsid()
        walls.die_with_parent()
        os.dup2(pipe, 0)
        os.closerange(1, 1024)  # the zygote opens no more than a dozen
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, _alarm)
        sys.stdin, sys.stdout, sys.stderr = None, Nowhere(), Nowhere()
        limits = job['limits']
        walls.limits(limits['cpu_seconds'], limits['memory'], files=1)
        if uid is not None:
            walls.other_user(uid, empty)
            walls.die_with_parent()  # a change of user clears it
        walls.only_computing()  # where it cannot be, the other walls stand
        sys.path.clear()
        (run_compat if job['compat'] else run)(job)
        status = 0
    except BaseException as error:
        try:
            _say([0, -1, None, f'jail: {type(error).__name__}'])
        except BaseException:
            pass
    finally:
        os._exit(status)


def supervise(job: dict, empty: str, uid: int | None) -> dict:
    """Forks the child, reads what it says until it ends, the deadline passes or it says too much; then kills it."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        child(job, write, empty, uid)
    os.close(write)
    said, end, deadline = bytearray(), 'ended', time.monotonic() + job['limits']['deadline']
    poll = select.poll()
    poll.register(read, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            end = 'out of time'
            break
        block = os.read(read, 65536)
        said += block
        if not block:
            break
        if len(said) > MOST_BYTES:
            end = 'said too much'
            break
    os.close(read)
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        os.kill(pid, signal.SIGKILL)  # it may not have come to setsid
    except ProcessLookupError:
        pass
    _, status = os.waitpid(pid, 0)
    if end == 'ended' and status:
        end = f'killed by signal {os.WTERMSIG(status)}' if os.WIFSIGNALED(status) else 'failed'
    while _leftovers():
        pass
    return {'rows': said[:MOST_BYTES].decode('utf-8', 'replace'), 'end': end}


def _leftovers() -> bool:
    """Kills and reaps one descendant that outlived the job; there is none as long as the walls hold."""
    try:
        if os.waitpid(-1, os.WNOHANG)[0]:  # raises where there is no child at all, as nearly always
            return True
        with open(f'/proc/self/task/{os.getpid()}/children') as file:
            for pid in file.read().split():
                os.kill(int(pid), signal.SIGKILL)
        return os.waitpid(-1, 0)[0] > 0
    except ChildProcessError:
        return False


def main() -> None:
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open('/dev/null', os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    walls.reap_orphans()
    empty = sys.argv[1]
    uid = walls.usable_uid(os.getpid(), empty)
    built = {
        'no_new_privs': walls.no_new_rights(),
        'network': walls.no_network(),
        'other_user': uid is not None,
        'empty_root': uid is not None,
    }
    built['system_calls'] = walls.succeeds(walls.keeps_to_computing)
    gc.freeze()  # the collector of a child leaves the shared pages alone
    _send(replies, {'walls': built, 'uid': uid, 'hash': hash('colbench')})
    dismissed = False
    try:
        while not dismissed and (head := _read(requests, 4)):
            length = int.from_bytes(head, 'big')
            dismissed = length == 0
            if length and (body := _read(requests, length)):
                _send(replies, supervise(json.loads(body), empty, uid))
    finally:
        if not dismissed:  # the parent was killed and could not tidy up
            with contextlib.suppress(OSError):
                os.rmdir(empty)


def _send(descriptor: int, message: dict) -> None:
    text = json.dumps(message).encode()
    text = len(text).to_bytes(4, 'big') + text
    while text:
        text = text[os.write(descriptor, text) :]


def _read(descriptor: int, count: int) -> bytes | None:
    """`count` bytes, or None where the other side is gone."""
    found = bytearray()
    while len(found) < count:
        block = os.read(descriptor, count - len(found))
        if not block:
            return None
        found += block
    return bytes(found)


if __name__ == '__main__':
    main()
