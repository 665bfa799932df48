"""Collects a data set with OGBench's experts, in OGBench's file format.

    python -m fql_jax.collect --env=ogbench-cube --kind=noisy --episodes=500 --workers=2
    python -m fql_jax.collect --env=ogbench-antmaze-medium --kind=navigate --expert=RUN_OF_FQL_JAX_ANT_EXPERT

An episode is a function of (seed, index), so the files are the same for any number of workers. Finished episodes lie in
OUT.parts/ until all are there: after an interruption of any sort the same command goes on, and no episode is lost or
taken twice. OUT holds the first `episodes`, OUT with '-val' before '.npz' the `val_episodes` that follow them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error
from core_jax.files import differences, write_atomic, write_json_atomic
from fql_jax import tasks

FORMAT = 1  # of the parts; raised when an episode's content changes
EXPERT = 'expert.npz'  # the trained expert's file, beside the parts
SERVE = 'from fql_jax.collect import serve; serve()'


class Interrupted(UserError):
    """Collecting was stopped; what is there is kept."""

    def __init__(self):
        super().__init__('interrupted; the same command goes on from here')


def default_name(task: tasks.Task, kind: str, episodes: int, length: int, seed: int) -> str:
    """A file name that cannot be taken for an official one: 'cube-single-noisy-500x200-seed0.npz'."""
    return f'{task.environment}-{kind}-{episodes}x{length}-seed{seed}.npz'


def default_length(task: tasks.Task) -> int:
    """Transitions an episode: as long as an evaluation, at most the official 1000."""
    return min(task.max_steps, 1000)


def collect(
    task: tasks.Task | str,
    kind: str,
    episodes: int,
    *,
    out: str | os.PathLike,
    val_episodes: int | None = None,
    length: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    expert: str | os.PathLike | None = None,
    progress: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Collects `episodes` of `length` transitions into the npz file `out`, and `val_episodes` into its '-val' file.

    `val_episodes`: a tenth more by default; 0 writes no validation file (OGBench's own loader wants one).
    `length`: by default the evaluation's time limit. `workers`: by default one a core. `expert`: for antmaze, the run
    directory or the policy.npz of `fql_jax.ant_expert`. Returns the path of `out`.

    Raises UserError for what cannot be collected, for an `out` that exists, is being written by another process, has
    parts of other settings beside it, or cannot be written; Interrupted on Ctrl-C or once `should_stop` is true.
    """
    from fql_jax import ant_oracle, oracles

    task = tasks.resolve(task) if isinstance(task, str) else task
    length = default_length(task) if length is None else length
    val_episodes = episodes // 10 if val_episodes is None else val_episodes
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    for name, value, least in (
        ('episodes', episodes, 1),
        ('val_episodes', val_episodes, 0),
        ('length', length, 1),
        ('workers', workers, 1),
        ('seed', seed, 0),
    ):
        if value < least:
            raise UserError(f'{name} must be at least {least}, not {value}')
    oracles.check(task, kind)
    out = Path(out).expanduser().absolute()
    if out.suffix != '.npz':
        raise UserError(f'--out must end in .npz, not {str(out)!r}')
    if expert is None and oracles.takes_expert(task):
        raise UserError(
            f'{task.environment} data take a trained ant: python -m fql_jax.ant_expert --workdir=runs/ant, then '
            f'python -m fql_jax.collect --env=ogbench-{task.environment} --kind={kind} --episodes={episodes} '
            f'--length={length} --expert=runs/ant --out={out}'
        )
    if expert is not None and not oracles.takes_expert(task):
        raise UserError(f'the expert for {task.environment} is a script; leave --expert away')
    policy = None if expert is None else ant_oracle.read(expert)

    settings = {
        'environment': task.environment,
        'kind': kind,
        'seed': seed,
        'length': length,
        'format': FORMAT,
        'versions': {name: importlib.metadata.version(name) for name in ('ogbench', 'mujoco', 'numpy', 'gymnasium')},
    }
    if policy is not None:
        settings['expert'] = hashlib.sha256(policy).hexdigest()
    with _disk_errors(out), _claim(out, settings) as parts:
        if out.exists():  # the process that made it was killed before it could remove the parts
            if _rows(out) != episodes * (length + 1):
                raise UserError(f'{out} exists, with another number of episodes; remove it or choose another --out')
            return out
        missing = [index for index in range(episodes + val_episodes) if not _is_whole(parts, index)]
        if policy is not None:
            write_atomic(parts / EXPERT, policy)
        with contextlib.closing(_Progress(episodes + val_episodes, len(missing), length + 1, progress)) as bar:
            _collect_missing(settings, parts, missing, workers, bar, should_stop)
        if val_episodes:
            _merge(parts, range(episodes, episodes + val_episodes), validation_path(out))
        _merge(parts, range(episodes), out)
    return out


def validation_path(out: Path) -> Path:
    """Where OGBench's loader looks for the validation file of `out`."""
    return out.with_name(out.name.removesuffix('.npz') + '-val.npz')


@contextlib.contextmanager
def _disk_errors(out: Path):
    try:
        yield
    except OSError as error:
        hint = '; make room and run the same command again' if error.errno == errno.ENOSPC else ''
        raise UserError(f'cannot write {out}: {error.strerror or error}{hint}') from error


@contextlib.contextmanager
def _claim(out: Path, settings: dict):
    """The parts directory of `out`, held by this process alone; removed at the end if nothing failed."""
    parts = out.with_name(out.name + '.parts')
    record = parts / 'settings.json'
    if not record.exists() and (out.exists() or validation_path(out).exists()):
        raise UserError(f'{out} or its -val file exists; remove it or choose another --out')
    parts.mkdir(parents=True, exist_ok=True)
    lock = os.open(parts, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'another process is collecting {out}') from error
        if record.exists():
            differ = differences(json.loads(record.read_text()), settings)
            if differ:
                shown = ', '.join(f'{name} {there} there, {here} here' for name, there, here in differ)
                raise UserError(f'{parts} holds episodes of other settings ({shown}); remove it to start anew')
        else:
            write_json_atomic(record, settings)
        yield parts
        # Renamed first, so that a kill during the removal leaves nothing that looks like parts to go on from.
        rubbish = parts.with_name(parts.name + '.old')
        shutil.rmtree(rubbish, ignore_errors=True)
        os.replace(parts, rubbish)
        shutil.rmtree(rubbish)
    finally:
        os.close(lock)


def _part(parts: Path, index: int) -> Path:
    return parts / f'{index:06d}.npz'


def _is_whole(parts: Path, index: int) -> bool:
    """Whether an episode is there and can be read: one damaged by a power cut is collected again."""
    from core_jax.datasets import load_npz

    if not _part(parts, index).exists():
        return False
    try:
        load_npz(_part(parts, index))
    except UserError as error:
        print(f'collecting it again: {error}', file=sys.stderr)
        return False
    return True


def _rows(path: Path) -> int:
    from core_jax.datasets import load_npz

    return len(load_npz(path, {'terminals': 1})['terminals'])


def _merge(parts: Path, indices: range, out: Path) -> None:
    import numpy as np

    from core_jax.datasets import load_npz, save_npz

    episodes = [load_npz(_part(parts, index)) for index in indices]
    merged = parts / 'merged.npz'  # what a kill leaves half written goes with the parts
    save_npz(merged, {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]})
    os.replace(merged, out)


def _collect_missing(
    settings: dict, parts: Path, missing: list[int], workers: int, bar: _Progress, should_stop: Callable[[], bool]
) -> None:
    """Hands the missing episodes one by one to worker processes, each driven by a thread here."""
    pending, lock, stop = iter(missing), threading.Lock(), threading.Event()

    def take():
        with lock:
            return None if stop.is_set() or should_stop() else next(pending, None)

    def drive():
        try:
            _drive(settings, parts, take, bar)
        finally:
            stop.set()  # no episode is left, or one failed and the others need not go on

    if not missing:
        return
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for future in [pool.submit(drive) for _ in range(min(workers, len(missing)))]:
                future.result()
        except KeyboardInterrupt:
            stop.set()
            raise Interrupted from None
    if next(pending, None) is not None:
        raise Interrupted


def _drive(settings: dict, parts: Path, take, bar: _Progress) -> None:
    """One worker process, fed until nothing is left."""
    environment = os.environ | dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
    environment['PYTHONPATH'] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    command = [sys.executable, '-c', SERVE, json.dumps(settings), str(parts)]
    # Plain processes, not multiprocessing: those import the caller's main module again, and jax with it.
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'bufsize': 0}
    with subprocess.Popen(command, env=environment, **pipes) as worker:
        while (index := take()) is not None:
            try:
                worker.stdin.write(b'%d\n' % index)
                answer = worker.stdout.readline()
            except BrokenPipeError:
                answer = b''
            if not answer:
                raise UserError(f'a collecting process ended (status {worker.wait()}); the same command goes on')
            code = int(answer)
            if code:
                raise OSError(code, os.strerror(code))
            bar.add()


def serve() -> None:
    """A worker: reads an episode's index a line, writes that part, answers 0 or the number of the system's error.

    Ends with its input, which closes also when the parent is killed.
    """
    from core_jax.datasets import save_npz
    from fql_jax import ant_oracle, oracles

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to the whole group; the parent decides
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    settings, parts = json.loads(sys.argv[1]), Path(sys.argv[2])
    task = tasks.resolve('ogbench-' + settings['environment'])
    expert = ant_oracle.Expert((parts / EXPERT).read_bytes()) if 'expert' in settings else None
    collector = oracles.make(task, settings['kind'], settings['length'], expert)
    for line in sys.stdin:
        index, code = int(line), 0
        try:
            save_npz(_part(parts, index), collector.episode(settings['seed'], index), compress=False)
        except OSError as error:
            code = error.errno or errno.EIO
        try:
            print(code, file=answers, flush=True)
        except BrokenPipeError:
            return


class _Progress:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int, missing: int, rows: int, shown: bool):
        self._total, self._done, self._rows, self._shown = total, total - missing, rows, shown
        self._lock, self._bar = threading.Lock(), None
        self._first = None  # (clock, episodes done) at the first one: the workers' start says nothing of their speed
        self._printed = 0.0
        if shown and self._done:
            print(f'{self._done} of {total} episodes are there already', file=sys.stderr)
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=self._done, unit='episode', dynamic_ncols=True)

    def add(self) -> None:
        with self._lock:
            self._done += 1
            now = time.monotonic()
            if self._bar is not None:
                self._bar.update()
            elif self._first is None:
                self._first, self._printed = (now, self._done), now
            elif self._shown and now - self._printed >= 10:
                self._printed = now
                rate = (self._done - self._first[1]) / (now - self._first[0])
                print(
                    f'collected {self._done}/{self._total} episodes, {rate * self._rows:.0f} steps/s, '
                    f'{(self._total - self._done) / rate:.0f} s left',
                    file=sys.stderr,
                )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def main() -> int:
    parser = Parser(prog='python -m fql_jax.collect', description=__doc__.split('\n')[0])
    parser.add_argument('--env', default='ogbench-cube', help='environment, as in --env of fql_jax.main (%(default)s)')
    parser.add_argument('--kind', help='play, noisy, navigate, ...; by default what the environment has first')
    parser.add_argument('--episodes', type=int, default=20, help='episodes to train on (%(default)s)')
    parser.add_argument('--val-episodes', type=int, help='episodes of the validation file (a tenth more; 0: no file)')
    parser.add_argument('--length', type=int, help="transitions an episode (the evaluation's time limit, 1000 at most)")
    parser.add_argument('--workers', type=int, help='processes (one a core)')
    parser.add_argument('--expert', help='for antmaze: a run of fql_jax.ant_expert, or its policy.npz')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', help='npz file; by default in the data directory, under a name that says what it is')
    flags, overrides = parser.parse()
    if overrides:
        raise UserError('collecting has flags, and no config')
    from fql_jax import data

    task = tasks.resolve(flags.env)
    kind = flags.kind or task.kind
    length = default_length(task) if flags.length is None else flags.length
    out = flags.out or data.directory() / default_name(task, kind, flags.episodes, length, flags.seed)
    began = time.monotonic()
    path = collect(
        task,
        kind,
        flags.episodes,
        out=out,
        val_episodes=flags.val_episodes,
        length=length,
        seed=flags.seed,
        workers=flags.workers,
        expert=flags.expert,
    )
    took = time.monotonic() - began
    print(data.describe(data.read(path, task)))
    print(f'{path} ({took:.0f} s)')
    return 0


if __name__ == '__main__':
    exit_on_user_error(main)
