"""The process that answers run in children of: started by pool.py, warm, forked once for every job.

Jobs come on stdin and what came of them goes to stdout, each as 4 bytes of length and JSON, until a length of 0
dismisses it. A job: {"programs": [source, ...], "calls": ["f(1)", ...], "screen": bool, "compat": bool, "limits": {}}.
What comes back: {"rows": text}, where the text is what the child wrote, which may be forged, and {"end": how it ended}.

This process never runs an answer, and never reads a job or what came of one: for each it forks a supervisor, which
reads the job, forks the child that runs it, answers and ends. So the memory that a child inherits holds its own job and
no trace of any other, the reference's outputs among them; and it has one pipe, no files, no rights, no network.
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
SERVED, DISMISSED, GONE = 0, 3, 4  # how a supervisor ends: after a job, told to end, the other side is no more
MOST_BYTES = 400_000  # of what a child may say about one call
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

    Each call has a namespace of its own, so that none sees what another left.
    """
    seconds = job['limits']['call_seconds']
    calls = [_compiled(call, job['screen']) for call in job['calls']]
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


def _compiled(call: str, screened: bool):
    try:
        return None if screened and screen.refusal(call) else compile(call, '<call>', 'eval')
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


def child(job: dict, pipe: int, empty: str, uid) -> None:
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


def serve(requests: int, replies: int, empty: str, uid) -> int:
    """In the supervisor: one job, and the answer to it but for its last byte, which says that all has ended."""
    walls.die_with_parent()
    walls.reap_orphans()
    head = _read(requests, 4)
    length = int.from_bytes(head or b'', 'big')
    body = _read(requests, length) if length else None
    if not body:
        return DISMISSED if head and not length else GONE
    try:
        _send(replies, supervise(json.loads(body), empty, uid))
    except BrokenPipeError:
        return GONE
    return SERVED


def supervise(job: dict, empty: str, uid) -> dict:
    """Forks the child, reads what it says until it ends, the deadline passes or it says too much; then kills it."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        child(job, write, empty, uid)
    os.close(write)
    said, end, deadline = bytearray(), 'ended', time.monotonic() + job['limits']['deadline']
    most = MOST_BYTES * max(1, len(job['programs']) * len(job['calls']))
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
        if len(said) > most:
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
    return {'rows': said[:most].decode('utf-8', 'replace'), 'end': end}


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
    gc.freeze()  # the collector of a child leaves the shared pages alone
    _send(replies, {'walls': built, 'uid': uid, 'hash': hash('colbench')})
    waiting, status = select.poll(), SERVED
    waiting.register(requests, select.POLLIN)
    with contextlib.suppress(BrokenPipeError):
        while status == SERVED:
            os.write(replies, b'\n')
            waiting.poll()
            pid = os.fork()
            if not pid:
                status = GONE
                try:
                    status = serve(requests, replies, empty, uid)
                finally:
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != DISMISSED:  # the parent was killed and could not tidy up
        with contextlib.suppress(OSError):
            os.rmdir(empty)


def _send(descriptor: int, message: dict) -> None:
    """All of a message but for its last byte, a line end."""
    text = json.dumps(message).encode()
    text = (len(text) + 1).to_bytes(4, 'big') + text
    while text:
        text = text[os.write(descriptor, text) :]


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
