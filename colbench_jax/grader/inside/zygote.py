"""The process that answers run in children of: started by pool.py, warm, forked once for every job.

On stdin come jobs, each as a byte of 0, 4 of its length, 4 of its deadline in milliseconds, and JSON, until a length
of 0 dismisses this process. A job: {"programs": [source, ...], "calls": ["f(1)", ...], "screen": bool, "compat": bool,
"limits": {}}. On stderr goes what the child writes, a row of JSON for each call, which may be forged; on stdout, when
nothing of the job runs any more, a line that says how it ended. SIGUSR1: the child said too much.

This process never runs an answer, and never reads a job or what came of one: the child reads its job itself, and
answers itself. So the memory that it inherits holds no trace of any other job, the reference's outputs among them; and
it has one pipe, no files, no rights, no network.
"""

# No `from __future__` in this file: compile and exec would hand it on to what they are given.
import builtins
import contextlib
import functools
import gc
import json
import os
import select
import signal
import sys
import time
import types
import typing

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

MORE = (  # that references import
    'abc array base64 binascii calendar cmath contextlib '
    'csv difflib hashlib html inspect io ipaddress locale logging numbers pathlib pprint secrets shlex struct textwrap '
    'traceback types unicodedata urllib.parse uuid warnings zlib zoneinfo'
).split()
AWAITED = {signal.SIGCHLD, signal.SIGUSR1}
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


# What reads an attribute, or evaluates a text, whose name an answer may compute.
_WITHHELD = {'string': ('Formatter',), 'typing': ('get_type_hints', 'evaluate_forward_ref', 'ForwardRef')}


def _copy(name: str, **more) -> types.SimpleNamespace:
    """A module as answers see it: its public names, and no module among them. It has no name by which Python would
    look for a module that is not in it."""
    module = sys.modules[name]
    names = getattr(module, '__all__', None) or [name for name in vars(module) if not name.startswith('_')]
    found = {each: getattr(module, each) for each in names if each not in _WITHHELD.get(name, ())}
    return types.SimpleNamespace(
        **{each: value for each, value in found.items() if not isinstance(value, types.ModuleType)} | more
    )


def _update_wrapper(wrapper, wrapped):
    return functools.update_wrapper(wrapper, wrapped)


def _wraps(wrapped):
    return functools.wraps(wrapped)


COPIES = {name: _copy(name) for name in screen.MODULES} | {
    'collections': _copy('collections', abc=_copy('collections.abc')),
    'json': _copy('json', decoder=_copy('json.decoder')),
    # Theirs copy attributes of any name, such as __globals__.
    'functools': _copy('functools', update_wrapper=_update_wrapper, wraps=_wraps),
}


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    if name == '_strptime':  # datetime asks for it, and takes it from elsewhere
        return None
    if level or name not in (*COPIES, 'collections.abc'):
        raise ImportError(f'{name} may not be imported')
    top = COPIES[name.partition('.')[0]]
    return top.abc if '.' in name and fromlist else top


SAFE = {name: getattr(builtins, name) for name in LANGUAGE}
SAFE |= {'__import__': _import, '__build_class__': builtins.__build_class__, '__name__': 'builtins'}


def _value(seconds: float, program, call, screened: bool):
    """What compiled `call` gives in a namespace that compiled `program` has filled.

    Raises OutOfTime after `seconds` of CPU (not of wall: the machine may be busy).
    """
    space = {'__name__': 'answer'}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        for code in (program, call):
            if screened:
                space['__builtins__'] = SAFE
            found = eval(code, space)
        return found
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _say(row) -> None:
    text = (json.dumps(row) + '\n').encode()
    while text:
        text = text[os.write(0, text) :]


def run(job: dict) -> None:
    """In the child: every call of every program, a row for each: [program, call, tagged value] or [.., null, why].

    Each call has a namespace of its own, so that none sees what another left. Calls are the task's, as the reference
    is, and are held against no list.
    """
    seconds = job['limits']['call_seconds']
    calls = [_compiled(call) for call in job['calls']]
    if job['screen']:
        typing.get_type_hints = None  # evaluates texts; functools asks for it
    for place, source in enumerate(job['programs']):
        why = screen.refusal(source) if job['screen'] else None
        if why:
            _say([place, -1, None, f'refused: {why}'])
            continue
        try:
            program = compile(source, '<answer>', 'exec')
        except BaseException as error:
            _say([place, -1, None, type(error).__name__[:60]])
            continue
        for number, call in enumerate(calls):
            try:
                if call is None:
                    raise SyntaxError
                row = [place, number, tagged.encode(_value(seconds, program, call, job['screen'])), None]
            except tagged.CannotLeave as error:
                row = [place, number, None, str(error)[:100]]
            except BaseException as error:
                row = [place, number, None, type(error).__name__[:60]]
            _say(row)


def _compiled(call: str):
    try:
        return compile(call, '<call>', 'eval')
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def run_compat(job: dict) -> None:
    """In the child, with the released grader's semantics: reference and answer in one process, `==` between them.

    A row for each call as it falls: [call, passed, why the reference has no value there or null]. Definitions go to a
    local namespace that is not the functions' global one, which is why imports, helpers and recursion fail; the
    reference is within reach of the answer; a reference value of None never counts.
    """
    reference, answer = job['programs']
    outer = {'__name__': 'grader'}
    if any(word in answer for word in BLACKLIST):
        return
    for number, call in enumerate(job['calls']):
        space: dict = {}
        try:
            exec(reference, outer, space)
            wanted = eval(call, outer, space)
        except BaseException as error:
            _say([number, False, type(error).__name__[:60]])
            continue
        passed = False
        try:
            space = {}
            signal.setitimer(signal.ITIMER_REAL, job['limits']['call_seconds'])
            exec(answer, outer, space)
            found = eval(call, outer, space)
            signal.setitimer(signal.ITIMER_REAL, 0)
            passed = bool(wanted is not None and wanted == found)
        except BaseException:
            signal.setitimer(signal.ITIMER_REAL, 0)
        _say([number, passed, None])


def child(zygote: int, requests: int, length: int, rows: int, empty: str, uid) -> None:
    """Reads its job, builds the walls around itself, then runs the job. Never returns."""
    status = 1
    try:
        os.setsid()
        walls.die_with_parent()
        if os.getppid() != zygote:
            os._exit(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        job = json.loads(_read(requests, length))
        os.dup2(rows, 0)
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
        # What reads memory, and what the jail is made of.
        for name in ('ctypes', '_ctypes', 'walls', 'screen', 'tagged'):
            sys.modules.pop(name, None)
        (run_compat if job['compat'] else run)(job)
        status = 0
    except BaseException as error:
        try:
            _say([0, -1, None, f'jail: {type(error).__name__}'])
        except BaseException:
            pass
    finally:
        os._exit(status)


def wait(pid: int, seconds: float) -> str:
    """How the child ended, at the latest after `seconds`; nothing of its job runs any more then."""
    end, deadline = 'ended', time.monotonic() + seconds
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        left = deadline - time.monotonic()
        if left <= 0:
            end = 'out of time'
            break
        came = signal.sigtimedwait(AWAITED, left)
        if came and came.si_signo == signal.SIGUSR1:
            end = 'said too much'
            break
    for kill in (os.killpg, os.kill):  # both: it may not have come to setsid
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if end == 'ended' and status:
        end = f'killed by signal {os.WTERMSIG(status)}' if os.WIFSIGNALED(status) else 'failed'
    while _leftovers():
        pass
    return end


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
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    requests, ends, rows = map(os.dup, (0, 1, 2))
    nothing = os.open('/dev/null', os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    empty, kind, *folders = sys.argv[1:]  # folders: of numpy
    sys.path[:0] = folders
    for name in (*(MORE if kind in ('references', 'compat') else ()), *(['numpy'] if folders else [])):
        with contextlib.suppress(ImportError):
            __import__(name)
    del sys.path[: len(folders)]
    os.environ.clear()
    uid = walls.usable_uid(os.getpid(), empty)
    built = {
        'no_new_privs': walls.no_new_rights(),
        'network': walls.no_network(),
        'other_user': uid is not None,
        'empty_root': uid is not None,
    }
    built['system_calls'] = walls.succeeds(walls.keeps_to_computing)
    walls.reap_orphans()
    gc.freeze()  # the collector of a child leaves the shared pages alone
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    zygote = os.getpid()
    try:
        _tell(ends, json.dumps({'walls': built, 'uid': uid, 'hash': hash('colbench')}))
        while head := _read(requests, 9):
            length, milliseconds = (int.from_bytes(head[at : at + 4], 'big') for at in (1, 5))
            if not length or head[0]:  # dismissed, or the last child died while it read its job
                return
            signal.sigtimedwait({signal.SIGUSR1}, 0)  # of the last job, which had ended
            os.set_blocking(rows, True)
            pid = os.fork()
            if not pid:
                child(zygote, requests, length, rows, empty, uid)
            end = wait(pid, milliseconds / 1000)
            if any(event & select.POLLIN for _, event in waiting.poll(0)):
                return  # it died before it had read its job
            _tell(ends, end)
    except BrokenPipeError:
        pass
    with contextlib.suppress(OSError):  # the parent was killed and could not tidy up
        os.rmdir(empty)


def _tell(descriptor: int, line: str) -> None:
    """A line, which is short enough to be written at once."""
    os.write(descriptor, line.encode() + b'\n')


def _read(descriptor: int, count: int):
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
