"""The walls of the jail, built by the process that will be inside, by system calls: Linux, standard library alone.

What could be had is said in a list of names, so that a machine without root is known to have fewer walls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Callable

CLONE_NEWNET, CLONE_NEWIPC = 0x40000000, 0x08000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 38, 22, 1, 36
NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)

# System calls of a program that only computes: memory, signals and timers, randomness, the clock, its one pipe.
_ALLOWED = {
    'x86_64': (
        0xC000003E,
        'write 1, close 3, mmap 9, mprotect 10, munmap 11, brk 12, rt_sigaction 13, rt_sigprocmask 14, '
        'rt_sigreturn 15, sched_yield 24, mremap 25, madvise 28, setitimer 38, exit 60, '
        'gettimeofday 96, sigaltstack 131, time 201, '
        'futex 202, clock_gettime 228, exit_group 231, getrandom 318',
    ),
    'aarch64': (
        0xC00000B7,
        'write 64, close 57, mmap 222, mprotect 226, munmap 215, brk 214, rt_sigaction 134, rt_sigprocmask 135, '
        'rt_sigreturn 139, sched_yield 124, mremap 216, madvise 233, setitimer 103, exit 93, gettimeofday 169, '
        'sigaltstack 132, futex 98, clock_gettime 113, exit_group 94, getrandom 278',
    ),
}


def no_new_rights() -> bool:
    """No program started from here gains rights by being set-uid."""
    return _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def no_network() -> bool:
    """An empty network namespace from here on; needs root."""
    return _libc.unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0


def die_with_parent() -> None:
    """SIGKILL for this process when the one that started it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)


def reap_orphans() -> None:
    """Descendants whose parent ended become children of this process, where they can be found and killed."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def limits(cpu: int, memory: int, files: int) -> None:
    """cpu: seconds. memory: bytes of address space. files: open ones. No process, no thread, no file to write."""
    for what, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, files),
    ):
        resource.setrlimit(what, (most, most))


def other_user(uid: int, root: str) -> None:
    """Inside the empty directory `root`, as a user who owns nothing; needs root."""
    os.chroot(root)
    os.chdir('/')
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def usable_uid(number: int, root: str) -> int | None:
    """A uid for `other_user` that nobody on the machine has: `number` above 10^9, or nobody's where the container maps
    fewer; None where we may not become another user."""
    for uid in (1_000_000_000 + number, NOBODY):
        if succeeds(lambda uid=uid: other_user(uid, root) is None):
            return uid
    return None


def succeeds(step: Callable[[], bool]) -> bool:
    """Whether `step` is true in a child, which then ends."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = 0 if step() else 1
        except OSError:
            pass
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def keeps_to_computing() -> bool:
    """Whether `only_computing` works: another system call than those on the list fails after it."""
    if not only_computing():
        return False
    try:
        os.getcwd()
    except PermissionError:
        return True
    return False


def only_computing() -> bool:
    """All other system calls fail with EPERM from here on (seccomp); False where that cannot be had."""
    if platform.machine() not in _ALLOWED or not PROGRAM:
        return False
    buffer = ctypes.create_string_buffer(PROGRAM, len(PROGRAM))
    filter_ = _Filter(len(PROGRAM) // 8, ctypes.addressof(buffer))
    return _libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(filter_), 0, 0) == 0


class _Filter(ctypes.Structure):
    _fields_ = (('length', ctypes.c_ushort), ('code', ctypes.c_void_p))


def _program() -> bytes:
    """The filter in the kernel's bytecode: right architecture, then a number on the list, else EPERM."""
    if platform.machine() not in _ALLOWED:
        return b''
    architecture, calls = _ALLOWED[platform.machine()]
    numbers = [int(call.split()[1]) for call in calls.split(',')]
    load, equal, give = 0x20, 0x15, 0x06
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000
    rows = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    rows += [(equal, len(numbers) - k, 0, number) for k, number in enumerate(numbers)]
    rows += [(give, 0, 0, refuse), (give, 0, 0, allow)]
    return b''.join(struct.pack('<HBBI', *row) for row in rows)


PROGRAM = _program()
