"""A process that owns environments: started clean of jax, at the other end of one pipe, never outliving its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import select
import signal
import sys
import types
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler, send_handle
from typing import Any

from core_jax.env_worker import Failure
from core_jax.errors import UserError

_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')


class WorkerError(RuntimeError):
    """An environment raised: the message has its traceback."""


class WorkerDied(WorkerError):
    """The process is gone without a word: the message says which signal or exit status."""


class WorkerProcess:
    """Runs `target(connection, payload, *args)` in a new interpreter, where `payload` is the packed `make_env`.

    SIGINT and SIGTERM are blocked there, since a terminal and a batch system send them to the whole process group and
    it is the parent that decides; the worker leaves when its pipe closes. Every environment steps on one thread.
    `kind` is what messages call the payload, which may be another function than a `make_env`.

    Raises UserError where `make_env` cannot be sent to another process.
    """

    def __init__(self, target: Callable, make_env: Callable, *args: Any, kind: str = 'environment factory'):
        try:
            payload = bytes(ForkingPickler.dumps(make_env))
        except Exception as error:  # pickling runs the user's own code, which may raise anything
            raise UserError(
                f'cannot send the {kind} {make_env!r} to a worker process ({error}); '
                'use a function at the top level of a module, or functools.partial of one'
            ) from error
        self._kind = kind
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, payload, *args))
        with _clean_start(needs_main=b'__main__' in payload):
            self._process.start()
        theirs.close()
        self._poller = select.poll()
        self._poller.register(self._connection.fileno(), select.POLLIN)
        # Runs at garbage collection and, thanks to the priority, before multiprocessing joins its children at exit.
        self._end = multiprocessing.util.Finalize(self, _end, (self._connection, self._process), exitpriority=10)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        """Sends any object, for the worker's connection.recv()."""
        with contextlib.suppress(ConnectionError):  # what it said last, or how it died, is for receive() to tell
            self._connection.send(message)

    def signal(self, message: bytes) -> None:
        """Sends bare bytes, for the worker's connection.recv_bytes()."""
        with contextlib.suppress(ConnectionError):
            self._connection.send_bytes(message)

    def lend(self, handle: int) -> None:
        """Sends an open file, for the worker's recv_handle(connection)."""
        with contextlib.suppress(ConnectionError):
            send_handle(self._connection, handle, self.pid)

    def wait(self, seconds: float) -> bool:
        """Whether `receive` has something to give, or to raise, within `seconds`."""
        return bool(self._poller.poll(1000 * seconds))

    def receive(self) -> Any:
        """The next message, None where it is empty. Raises WorkerError or UserError where the worker failed or died."""
        try:
            message = self._connection.recv_bytes()
        except (EOFError, ConnectionError):
            self._process.join(5)
            raise WorkerDied(f'the worker of the {self._kind} died: {_describe(self._process.exitcode)}') from None
        if not message:
            return None
        message = ForkingPickler.loads(message)
        if isinstance(message, Failure):
            raise UserError(message.text) if message.user else WorkerError(f'in a worker:\n{message.text}')
        return message

    def hang_up(self) -> None:
        """Closes the pipe: the worker closes its environments and leaves. `close` waits for it."""
        self._connection.close()

    def close(self) -> None:
        """Ends the process, by force where it is busy for longer than 2 seconds."""
        self._end()


def _describe(status: int | None) -> str:
    if status is not None and status < 0:
        return f'killed by {signal.Signals(-status).name}'
    return f'exit status {status}; its own words are above'


def _end(connection: Any, process: Any) -> None:
    connection.close()
    process.join(2)
    if process.exitcode is None:
        process.kill()
    process.join()


@contextlib.contextmanager
def _clean_start(needs_main: bool) -> Iterator[None]:
    """What a child inherits when it is started here: one thread, blocked signals, and no main module.

    A spawned child imports the main module again, and with it jax; it needs to only if the factory is defined there.
    """
    resource_tracker.ensure_running()  # starting this helper would unblock the signals
    environment = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules['__main__']
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        os.environ.update(_ONE_THREAD)
        if not needs_main:
            sys.modules['__main__'] = types.ModuleType('__main__')
        yield
    finally:
        sys.modules['__main__'] = main
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
