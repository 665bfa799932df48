"""Rewards on the host: designs, as texts, scored by a pool of processes while the device goes on.

The processes never import jax. A design is scored once: results are cached by the hash of its text. A design without a
reward (the reward raised, gave a number that is not finite, took too long or killed its process) gets NaN and is
counted; it costs no other design its reward. What the user must mend, such as a reward that gives the wrong number of
values, ends everything with a UserError.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from core_jax.env_worker import last_words, load_factory
from core_jax.errors import UserError
from core_jax.worker_process import WorkerDied, WorkerProcess

HostReward = Callable[[Sequence[str]], Sequence[float]]
MOST = 32  # designs a call of the reward
HOPELESS = 16  # a reward that has raised for each of the first so many designs is broken
KIND = 'reward'  # what messages call it
_STARTING = threading.Lock()  # what a new process inherits is set for the whole of this one while it starts


class Scores:
    """Rewards of designs that are being scored, in the order they were submitted in."""

    def __init__(self, scorer: Scorer, count: int):
        self._scorer, self._values, self._left = scorer, np.full(count, np.nan), 0
        self._callbacks: list[Callable[[], Any]] = []

    def result(self) -> np.ndarray:
        """float64 [N], NaN for designs that have no reward; waits for them. Raises UserError, see `Scorer`."""
        with self._scorer._changed:
            self._scorer._changed.wait_for(self._ended)
            if self._left:
                self._scorer._raise_failure()
        return self._values

    def when_done(self, callback: Callable[[], Any]) -> None:
        """Calls it, in any thread, once `result` does not wait; at once where that is so already."""
        with self._scorer._changed:
            if not self._ended():
                self._callbacks.append(callback)
                return
        callback()

    def _ended(self) -> bool:
        return self._left == 0 or self._scorer._failure is not None


class Scorer:
    """A pool of processes for one reward; use it as a context manager or close it.

    reward(texts) -> floats, one a text: a function at the top level of a module that does not import jax, or a partial
        of one. It may be called with 1 to MOST texts, in any grouping.
    workers: processes, by default one a core. timeout: seconds a design; a process that takes longer is ended.

    An empty text is no design: NaN, without asking the reward. Counts, of different designs: `calls`, those that the
    reward was asked for; `failed`, those without a finite reward, of which `errors` raised or were ended; `first_error`
    says why the first of these was. `hits`: how often a known one was asked for again.

    Raises UserError where the reward cannot be sent to a process. So does `Scores.result` where the reward cannot be
    imported there, raises UserError itself, gives the wrong number of values, or raises for each of the first designs.
    """

    def __init__(self, reward: HostReward, *, workers: int | None = None, timeout: float = 120.0):
        if workers is not None and workers < 1:
            raise UserError(f'workers must be at least 1, got {workers}')
        self._reward, self._timeout = reward, timeout
        self._changed = threading.Condition()
        self._known: dict[bytes, float] = {}
        self._waiting: dict[bytes, list[tuple[Scores, int]]] = {}
        self._failure: Exception | None = None
        self._jobs: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self.calls = self.hits = self.failed = self.errors = 0
        self.first_error = ''
        self._threads = []
        for _ in range(workers or len(os.sched_getaffinity(0))):
            # Daemons: a program that ends without closing the pool must not wait for them.
            thread = threading.Thread(target=self._attend, args=(self._start(),), daemon=True)
            thread.start()
            self._threads.append(thread)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def submit(self, texts: Sequence[str]) -> Scores:
        """Begins to score designs. Raises UserError where scoring has failed, see `Scorer`, or the pool is closed."""
        scores = Scores(self, len(texts))
        new: list[str] = []
        with self._changed:
            self._raise_failure()
            for i, text in enumerate(texts):
                if not text:
                    continue
                key = _key(text)
                if key in self._known:
                    scores._values[i] = self._known[key]
                    self.hits += 1
                    continue
                if key in self._waiting:
                    self.hits += 1
                else:
                    self._waiting[key] = []
                    new.append(text)
                self._waiting[key].append((scores, i))
                scores._left += 1
        size = max(1, min(MOST, len(new) // (2 * len(self._threads))))  # small enough to keep all of them busy
        for i in range(0, len(new), size):
            self._jobs.put(new[i : i + size])
        return scores

    def close(self) -> None:
        """Ends all processes, by force those that are busy for longer than 2 seconds."""
        self._fail(UserError('the pool of the reward is closed'))
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> WorkerProcess:
        with _STARTING:
            return WorkerProcess(_serve, self._reward, self._timeout, kind=KIND)

    def _attend(self, worker: WorkerProcess) -> None:
        """What a thread does: hands one job after the other to its process, and takes the answers."""
        try:
            while (texts := self._jobs.get()) is not None and self._failure is None:
                worker.send(texts)
                while not worker.wait(0.1):
                    if self._failure is not None:
                        return
                try:
                    self._settle(texts, worker.receive())
                except WorkerDied as error:
                    worker.close()
                    worker = self._start()
                    late = signal.SIGALRM.name in str(error)
                    why = f'it took longer than {self._timeout:g} seconds' if late else str(error)
                    if len(texts) == 1:
                        self._settle(texts, [why])
                    else:
                        for text in texts:
                            self._jobs.put([text])
        except Exception as error:  # also what this thread itself did wrong: nobody else would see it
            self._fail(error)
        finally:
            worker.close()

    def _settle(self, texts: Sequence[str], answers: Sequence[float | str]) -> None:
        """Notes what came of these designs: a reward, or why there is none."""
        callbacks = []
        with self._changed:
            for text, answer in zip(texts, answers, strict=True):
                key = _key(text)
                raised = isinstance(answer, str)
                value = float('nan') if raised else answer
                self._known[key] = value
                self.calls += 1
                self.failed += not np.isfinite(value)
                self.errors += raised
                if raised and not self.first_error:
                    self.first_error = f'{text}: {answer}'
                for scores, i in self._waiting.pop(key, ()):
                    scores._values[i] = value
                    scores._left -= 1
                    if not scores._left:
                        callbacks += scores._callbacks
            hopeless = self.errors == self.calls >= HOPELESS
            self._changed.notify_all()
        for callback in callbacks:
            callback()
        if hopeless:
            raise UserError(f'the reward raised for each of the first {self.calls} designs; {self.first_error}')

    def _fail(self, error: Exception) -> None:
        """Ends the wait of everyone, who will raise this."""
        with self._changed:
            self._failure = self._failure or error
            waiting = {id(scores): scores for entries in self._waiting.values() for scores, _ in entries}
            self._waiting.clear()
            self._changed.notify_all()
        for scores in waiting.values():
            for callback in scores._callbacks:
                callback()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# What runs in the processes


def _serve(connection: Any, payload: bytes, timeout: float) -> None:
    """Scores lists of texts until the parent closes the pipe."""
    with last_words(connection):
        reward = load_factory(payload, KIND)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        while True:
            connection.send(_answers(reward, connection.recv(), timeout))


def _answers(reward: HostReward, texts: Sequence[str], timeout: float) -> list[float | str]:
    """A reward of each, or why there is none. What raises for several is tried one by one."""
    try:
        with _limited(timeout * len(texts)):
            values = np.asarray(reward(texts), np.float64)
    except UserError:
        raise
    except Exception as error:
        if len(texts) == 1:
            return [' '.join(f'{type(error).__name__}: {error}'.split())]
        return [answer for text in texts for answer in _answers(reward, [text], timeout)]
    if values.shape != (len(texts),):
        raise UserError(f'the reward must give one number a design; for {len(texts)} it gave shape {values.shape}')
    return values.tolist()


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """The kernel ends this process if it stays in here for longer, whatever it does, even if its parent is gone."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
