"""One run, one directory, one writer.

    config.json     resolved config, numerics policy, versions, commit, command, host
    metrics.jsonl   one JSON object a line: {"kind": "train" | "eval", "step": ..., ...}; population rows have "member"
    eval.csv        the evaluation rows again, as a table
    checkpoints/  plots/  videos/
    summary.json    written last: where it stands, the run is finished

A lock on the directory is held for the life of the process; nothing is deleted or written before it is taken.
"""

from __future__ import annotations

import csv
import fcntl
import fnmatch
import io
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from core_jax import provenance, trackers
from core_jax.errors import UserError
from core_jax.files import (
    cannot_write,
    differences,
    is_temporary,
    plain,
    read_metrics,
    reason,
    write_atomic,
    write_json_atomic,
)
from core_jax.screen import Screen

# The fields of a row that differ between two otherwise identical runs.
WALL_CLOCK = (
    'wall_seconds',
    'updates_per_second',
    'env_steps_per_second',
    'train_seconds',
    'eval_seconds',
    'checkpoint_seconds',
)
# The names that --overwrite removes, and nothing else: a stranger's file in a run directory is left alone. config.json
# is not here because it is replaced, in one step, after the rest is gone: until then the directory is known as a run.
CONTENTS = (
    'summary.json',
    'metrics.jsonl',
    'eval.csv',
    'checkpoints',
    'plots',
    'videos',
    'policy.npz',
    'policy_*.npz',
    'profile',
    'tensorboard',
)
LOCK = '.lock'


class Run:
    """The directory of one run, open for writing. Made by `Run.open`."""

    def __init__(self, directory: pathlib.Path, config: dict, paper: str, command: str, resumed: bool):
        self.directory = directory
        self.config = config
        self.paper = paper
        self.command = command
        self.resumed = resumed

    @staticmethod
    def open(
        directory: str | os.PathLike,
        config: dict,
        *,
        paper: str,
        command: str,
        numerics: dict | None = None,
        resume: bool = False,
        overwrite: bool = False,
        writer: bool = True,
        tensorboard: bool = False,
        wandb: bool = False,
        **extra: Any,
    ) -> Run:
        """Opens `directory` for this process alone.

        config, numerics: JSON-able dicts, written to config.json of a new run. A resumed run keeps its config.json
            until `cut`, so that a refused resume changes nothing.
        resume: continues the run found there; where there is none, a new one starts (`run.resumed` says which).
        overwrite: removes what an earlier run wrote there (`CONTENTS`) and starts anew.
        extra: further fields of config.json that are known before the run begins.
        writer: False on all hosts but one; such a run has the same methods and touches nothing.

        Raises UserError where a run exists and neither flag is given, where the directory holds something that is no
        run, where another process writes it, and where it cannot be written.
        """
        directory = pathlib.Path(directory)
        _refuse_both(resume, overwrite)
        if not writer:
            return _SilentRun(directory, config, paper, command, resume and Run.saved_config(directory) is not None)
        chosen = trackers.choose(tensorboard=tensorboard, wandb=wandb)
        lock = _lock(directory)
        try:
            Run.check(directory, resume=resume, overwrite=overwrite)  # now that nobody else writes here
            found = Run.saved_config(directory)
            # W&B may refuse to start: before anything is removed.
            resumed = found is not None and resume
            started = [make(directory, paper, config, resumed) for make in chosen]
            head = _head(config, numerics or {}, paper, command) | plain(extra)
            if not resumed:
                _remove_contents(directory)
                write_json_atomic(directory / 'config.json', head)
            return _WritingRun(directory, config, paper, command, resumed, lock, head, started)
        except BaseException:
            lock.close()  # the traceback would keep the lock alive
            raise

    @staticmethod
    def check(directory: str | os.PathLike, *, resume: bool, overwrite: bool) -> None:
        """Raises UserError where the flags do not suit what is in `directory`; touches nothing."""
        _refuse_both(resume, overwrite)
        if not (resume or overwrite) and Run.saved_config(directory) is not None:
            raise UserError(f'{directory} holds a run; continue it with --resume or start over with --overwrite')

    @staticmethod
    def saved_config(directory: str | os.PathLike) -> dict | None:
        """config.json of the run in `directory`, whole ('config', 'numerics', ...); None if there is no run."""
        try:
            document = json.loads((pathlib.Path(directory) / 'config.json').read_text())
        except (OSError, ValueError):
            return None
        ours = isinstance(document, dict) and {'config', 'numerics', 'command'} <= document.keys()
        return document if ours and 'tenfold' in document.get('versions', ()) else None

    def write(self, kind: str, step: int, row: Mapping[str, Any]) -> None:
        """Appends one row of `kind` 'train' or 'eval' to metrics.jsonl; evaluation rows renew eval.csv too.

        Values are scalars or lists, numpy's included, and are not rounded; non-finite ones become 'nan', 'inf', '-inf'.
        A line stands on disk whole or not at all. Raises UserError where it cannot be written.
        """

    def position(self) -> int:
        """Bytes of metrics.jsonl, all of them on disk: what a checkpoint stores for `cut`."""
        return 0

    def cut(self, position: int) -> None:
        """Takes the run back to `position`: the rows after it go, eval.csv follows, config.json takes the new config.

        To be called on resume, after the checkpoint was restored; with 0 where there was none.
        """

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Shows how far the run is: a bar on a terminal, otherwise one line a call."""

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""

    def plot_curves(self) -> pathlib.Path:
        """Draws plots/learning_curve.png from metrics.jsonl; see `core_jax.plots`."""
        return self.directory / 'plots' / 'learning_curve.png'

    def finish(
        self, metrics: dict[str, dict], seed: int | list[int], steps: int, wall_seconds: float, **extra: Any
    ) -> None:
        """Writes summary.json. metrics: {name: {'value', 'low', 'high', 'n'}}; `extra` is added as further fields."""

    def close(self) -> None:
        """Closes the files and lets go of the directory. May be called twice."""


class _SilentRun(Run):
    """The run as the hosts that do not write see it."""


class _WritingRun(Run):
    def __init__(self, directory, config, paper, command, resumed, lock, head, started):
        super().__init__(directory, config, paper, command, resumed)
        self._lock = lock
        self._head = head
        self._path = directory / 'metrics.jsonl'
        self._evaluations = self._saved_evaluations()
        self._trackers = started
        self._screen = Screen(None if resumed else 0)
        self._file = _open(self._path)

    def _saved_evaluations(self) -> list[dict]:
        rows = read_metrics(self._path) if self._path.exists() else []
        return [row for row in rows if row['kind'] == 'eval']

    def write(self, kind, step, row):
        if kind not in ('train', 'eval'):
            raise ValueError(f'a row is of kind train or eval, not {kind!r}')
        row = plain(dict(kind=kind, step=int(step), **row))  # refuses a row that names its own kind or step
        self._append(json.dumps(row, allow_nan=False).encode() + b'\n')
        if kind == 'eval':
            self._evaluations.append(row)
            self._write_table()
        for tracker in self._trackers:
            tracker.log(row)

    def _append(self, line: bytes) -> None:
        size = self._size()
        try:
            # A run that writes is not finished (any more).
            (self.directory / 'summary.json').unlink(missing_ok=True)
            # A full disk may take a part of the line before it refuses the rest.
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(size)
            cannot_write(self._path, error)

    def _size(self) -> int:
        found = os.fstat(self._file.fileno())
        if found.st_nlink == 0:
            raise UserError(f'{self._path} vanished while the run was writing it')
        return found.st_size

    def _write_table(self) -> None:
        columns = list(dict.fromkeys(name for row in self._evaluations for name in row if name != 'kind'))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, extrasaction='ignore', lineterminator='\n')
        table.writeheader()
        table.writerows(self._evaluations)
        write_atomic(self.directory / 'eval.csv', text.getvalue().encode())

    def position(self):
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            cannot_write(self._path, error)
        return self._size()

    def cut(self, position):
        content = self._path.read_bytes()
        if len(content) < position:
            print(
                f'warning: {self._path} has {len(content)} bytes, the checkpoint knew {position}: rows are missing',
                file=sys.stderr,
            )
        self._file.truncate(content[:position].rfind(b'\n') + 1)
        rows = read_metrics(self._path)
        self._evaluations = [row for row in rows if row['kind'] == 'eval']
        if self._evaluations:
            self._write_table()
        else:
            (self.directory / 'eval.csv').unlink(missing_ok=True)
        for tracker in self._trackers:
            tracker.cut(rows[-1]['step'] if rows else -1)
        if self.resumed:
            self._renew_config()

    def _renew_config(self) -> None:
        """The new config becomes the config; what changed is kept in the list 'resumes'."""
        saved = Run.saved_config(self.directory) or {}
        resumes = saved.pop('resumes', [])
        changed = {name: [old, new] for name, old, new in differences(saved, self._head)}
        resumes.append({'command': self.command, 'changed': changed})
        write_json_atomic(self.directory / 'config.json', self._head | {'resumes': resumes})

    def progress(self, step, total, values):
        self._screen.progress(step, total, values)

    def say(self, text):
        self._screen.say(text)

    def plot_curves(self):
        from core_jax import plots

        title = ' on '.join(str(part) for part in (self.paper, self.config.get('env')) if part)
        return plots.learning_curve(read_metrics(self._path), super().plot_curves(), title=title)

    def finish(self, metrics, seed, steps, wall_seconds, **extra):
        import jax

        device = jax.devices()[0]
        summary = {
            'paper': self.paper,
            'command': self.command,
            'device': f'{jax.device_count()} x {device.device_kind}',
            'seed': seed,
            'steps': steps,
            'wall_seconds': wall_seconds,
            'metrics': metrics,
        }
        self.position()
        write_json_atomic(self.directory / 'summary.json', summary | extra)

    def close(self):
        self._screen.close()
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []
        self._file.close()
        self._lock.close()


def _refuse_both(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UserError('--resume continues a run and --overwrite starts over: give one of them, not both')


def _lock(directory: pathlib.Path) -> io.TextIOWrapper:
    """Creates `directory` where it is missing and locks it. Raises UserError where it is no place for a run."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f'{directory} is a file; name a directory for the run')
    _refuse_strangers(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / LOCK, 'a+')
    except OSError as error:
        raise UserError(f'cannot write in {directory}: {reason(error)}') from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _refuse_strangers(directory)  # again: it may have been filled before we held the lock
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise UserError(
            f'another process is writing {directory}' + (f' (process {holder})' if holder else '')
        ) from error
    except OSError as error:
        lock.close()
        raise UserError(f'cannot lock {directory}: {reason(error)}') from error
    except UserError:
        lock.close()
        raise
    return lock


def _refuse_strangers(directory: pathlib.Path) -> None:
    if not directory.is_dir() or Run.saved_config(directory) is not None:
        return
    # A process killed while it made the directory leaves these two behind.
    strangers = sorted(
        p.name for p in directory.iterdir() if p.name != LOCK and not is_temporary(p.name, r'config\.json')
    )
    if strangers:
        raise UserError(
            f'{directory} is not a run directory (it holds {strangers[0]}, but no config.json of a run); choose another'
        )


def _remove_contents(directory: pathlib.Path) -> None:
    try:
        for pattern in CONTENTS:
            for path in (p for p in directory.iterdir() if fnmatch.fnmatch(p.name, pattern)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    except OSError as error:
        raise UserError(f'cannot remove the earlier run in {directory}: {reason(error)}') from error


def _head(config: dict, numerics: dict, paper: str, command: str) -> dict:
    """What config.json says of a run that starts now."""
    return plain(
        {
            'paper': paper,
            'config': config,
            'numerics': numerics,
            'versions': provenance.versions(),
            'git_commit': provenance.git_commit(),
            'command': command,
            'host': provenance.host(),
        }
    )


def _open(path: pathlib.Path) -> io.FileIO:
    try:
        return open(path, 'ab', buffering=0)
    except OSError as error:
        cannot_write(path, error)
