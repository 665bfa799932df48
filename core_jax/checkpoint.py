"""Orbax behind one door: checksums, fall-back to the last good step, exact restore on any mesh.

    checkpoints/0000001000/state/           what Orbax writes
    checkpoints/0000001000/host.json        what the caller keeps beside the arrays
    checkpoints/0000001000/manifest.json    leaves and metadata; size and SHA-256 of every file, and its own
    checkpoints/0000002000.tmp/             what a killed process left of a save or a removal; never read
    checkpoints/0000002000.damaged/         a step that failed its checksums, set aside by the next save

Orbax finds neither flipped bits (65 of 65 flips in its data files were restored without an error) nor a wrong dtype (it
casts between bfloat16 and float32 without a word), so the manifest records both, and both are compared before it reads.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from core_jax.errors import UserError
from core_jax.files import MISSING, differences, plain, reason, sha256, sync_directory, sync_file, write_atomic
from core_jax.mesh import fetch, place
from core_jax.sharding import path_name

PyTree = Any
FORMAT = 1
STEP = re.compile(r'\d{10}')
MOST_DIFFERENCES = 8  # shown in one error line
SLACK = 1 << 18  # bytes of a checkpoint that are no arrays
NONE, FAILED = -1, -2  # what process 0 tells the others in place of a step


class _Damage(Exception):
    """What is wrong with which file of a checkpoint."""


class Checkpoints:
    """The checkpoints of one run, newest `keep` steps. All processes make the same calls on a directory they share."""

    def __init__(
        self,
        directory: str | os.PathLike,
        keep: int = 2,
        metadata: dict | None = None,
        upgrade: Callable[[dict], dict] = lambda saved: saved,
    ):
        """metadata: JSON-able; a checkpoint with other metadata is refused (paper, agent, static config, numerics).

        upgrade: metadata as an earlier version wrote them -> as this one does.
        """
        # Orbax wants absolute paths.
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep
        self.metadata = json.loads(json.dumps(plain(metadata or {})))
        self._upgrade = upgrade
        self._exists = False  # once seen, a directory that is gone is an error and not made anew
        self._damaged: list[int] = []

    def steps(self) -> list[int]:
        """The complete steps, ascending, without those that `restore` found damaged (nothing else reads the files)."""
        whole = [step for step in self._all_steps() if (self._path(step) / 'manifest.json').exists()]
        return [step for step in whole if step not in self._damaged]

    def save(self, step: int, tree: PyTree, host: dict) -> None:
        """Writes `tree` (arrays, typed keys included) and `host` (JSON-able) as `step`; returns when they are on disk.

        A step becomes visible by one rename. Only then are older steps removed, and a step of the same number replaced.
        Raises UserError where it cannot be written (a full disk, a directory that vanished); earlier steps stay.
        """
        step, leaves, host = int(step), _named_leaves(tree), json.dumps(host)
        final = self._path(step)
        temporary = final.with_name(f'{final.name}.tmp')
        try:
            _on_first_process(lambda: self._begin(temporary, sum(leaf.nbytes for leaf in leaves.values())))
            _together(lambda: _write_leaves(temporary / 'state', leaves))
            _on_first_process(lambda: self._complete(temporary, final, step, leaves, host))
        except Exception as error:
            if jax.process_index() == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            left = self.steps()
            still = f'; the newest on disk is that of step {left[-1]}' if left else ''
            raise UserError(f'could not save checkpoint {final}: {reason(error)}{still}') from error

    def restore(self, target: PyTree) -> tuple[int, PyTree, dict] | None:
        """The newest intact checkpoint as (step, tree, host); None where there is none.

        target: a pytree of `jax.ShapeDtypeStruct` with shardings, on any mesh.

        A damaged step is named on stderr and the one before it is used. Raises UserError where all are damaged, where
        one cannot be read, and where the intact one is not what `target` and the metadata ask for, with the difference.
        """
        step, failure = FAILED, None
        if jax.process_index() == 0:
            try:
                step = self._newest_intact()
            except UserError as error:
                failure = error
        step = _from_first_process(step)
        if failure is not None:
            raise failure
        if step == FAILED:
            raise UserError(f'process 0 found no checkpoint to restore in {self.directory}')
        if step == NONE:
            return None
        path = self._path(step)
        manifest = _read_manifest(path)
        leaves = _named_leaves(target)
        found = self._differences(manifest, leaves)
        if found:
            more = f'; and {len(found) - MOST_DIFFERENCES} more' if len(found) > MOST_DIFFERENCES else ''
            raise UserError(f'checkpoint {path} is of another run: {"; ".join(found[:MOST_DIFFERENCES])}{more}')
        restored = _read_leaves(path / 'state', leaves)
        self._exists = True
        tree = jax.tree.unflatten(jax.tree.structure(target), [restored[name] for name in leaves])
        return step, tree, json.loads((path / 'host.json').read_bytes())

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f'{step:010d}'

    def _all_steps(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if STEP.fullmatch(path.name))

    # Saving, on process 0.

    def _begin(self, temporary: pathlib.Path, size: int) -> None:
        if not self._exists:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._exists = True
        for leftover in self.directory.glob('*.tmp'):
            if STEP.fullmatch(leftover.stem):
                shutil.rmtree(leftover)
        temporary.mkdir()
        # Orbax fails on a full disk too, but its threads print tracebacks while they do.
        free = shutil.disk_usage(temporary).free
        if free < size + SLACK:
            need = f'{size / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free'
            raise OSError(errno.ENOSPC, f'{os.strerror(errno.ENOSPC)} ({need})')

    def _complete(self, temporary: pathlib.Path, final: pathlib.Path, step: int, leaves: dict, host: str) -> None:
        (temporary / 'host.json').write_text(host)
        written = [path for path in sorted(temporary.rglob('*')) if path.is_file()]
        for path in written:
            sync_file(path)
        body = {
            'format': FORMAT,
            'step': step,
            'metadata': self.metadata,
            'leaves': {name: _describe(leaf) for name, leaf in leaves.items()},
            'files': {path.relative_to(temporary).as_posix(): [path.stat().st_size, sha256(path)] for path in written},
        }
        manifest = {'sha256': _body_digest(body)} | body
        with open(temporary / 'manifest.json', 'w') as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        for folder in (temporary, *(path for path in temporary.rglob('*') if path.is_dir())):
            sync_directory(folder)
        for damaged in self._damaged:
            _move(self._path(damaged), 'damaged')
        self._damaged = []
        # A rename cannot replace a folder that is not empty; killed in between, `_newest_intact` moves it back.
        replaced = _move(final, 'replaced') if final.exists() else None
        os.rename(temporary, final)
        sync_directory(self.directory)
        if replaced:
            shutil.rmtree(replaced)
        others = [other for other in self.steps() if other != step]
        for old in others[: max(0, len(others) - self.keep + 1)]:
            shutil.rmtree(_move(self._path(old), 'tmp'))  # renamed first: a step is whole or it is no step

    # Restoring, on process 0.

    def _newest_intact(self) -> int:
        self._damaged = []
        try:
            for replaced in self.directory.glob('*.replaced'):
                if not replaced.with_suffix('').exists():
                    os.rename(replaced, replaced.with_suffix(''))
            for leftover in sorted(self.directory.glob('*tmp*')):
                _warn(f'{leftover} was left by a process that was killed: ignored')
            steps = self._all_steps()
            for step in reversed(steps):
                try:
                    _verify(self._path(step))
                    if self._damaged:
                        _warn(f'going back to the checkpoint of step {step}')
                    return step
                except _Damage as damage:
                    _warn(f'checkpoint {self._path(step)} is damaged: {damage}')
                    self._damaged.append(step)
        except PermissionError as error:
            raise UserError(f'cannot read the checkpoints: {error}') from error
        if steps:
            raise UserError(f'every checkpoint in {self.directory} is damaged; start over with --overwrite')
        return NONE

    def _differences(self, manifest: dict, leaves: dict) -> list[str]:
        """'name: saved ..., wanted ...' for every field of the metadata and every leaf that differs."""
        if manifest['format'] != FORMAT:
            return [f'format: saved {manifest["format"]}, this version reads {FORMAT}']
        pairs = differences(self._upgrade(manifest['metadata']), self.metadata)
        pairs += differences(manifest['leaves'], {name: _describe(leaf) for name, leaf in leaves.items()})
        return [f'{name}: saved {_short(saved)}, wanted {_short(wanted)}' for name, saved, wanted in pairs]


def _warn(text: str) -> None:
    print(f'warning: {text}', file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    text = value if value == MISSING else repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _move(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Renames `path` out of the way, in place of what was moved there before."""
    aside = path.with_name(f'{path.name}.{suffix}')
    if aside.exists():
        shutil.rmtree(aside)
    os.rename(path, aside)
    return aside


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """{'params/Dense_0/kernel': leaf}: saved flat, so that a checkpoint does not depend on the classes of its tree."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise ValueError('two leaves of the tree have the same path name')
    return leaves


def _describe(leaf: Any) -> str:
    """'float32[8,256]', 'key<fry>[]': what must agree for a leaf to be restored unchanged."""
    return f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'


# The two calls of Orbax. It refuses arrays without elements; the manifest alone describes those.


def _write_leaves(path: pathlib.Path, leaves: dict[str, jax.Array]) -> None:
    import orbax.checkpoint as ocp

    # What fails in a thread of Orbax is logged there, with its traceback, and then raised here.
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            full = {name: leaf for name, leaf in leaves.items() if leaf.size}
            checkpointer.save(path, args=ocp.args.StandardSave(full))
    finally:
        logger.setLevel(level)


def _read_leaves(path: pathlib.Path, target: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        full = {name: leaf for name, leaf in target.items() if leaf.size}
        restored = checkpointer.restore(path, args=ocp.args.StandardRestore(full))
    empty = {name: leaf for name, leaf in target.items() if not leaf.size}
    return restored | {name: place(np.empty(leaf.shape, leaf.dtype), leaf.sharding) for name, leaf in empty.items()}


# Checksums.


def _body_digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: pathlib.Path) -> dict:
    """The manifest of the checkpoint `path`. Raises _Damage where it is missing or not what was written."""
    try:
        manifest = json.loads((path / 'manifest.json').read_bytes())
        digest = manifest.pop('sha256')
    except PermissionError:
        raise
    except FileNotFoundError as error:
        raise _Damage('manifest.json is missing') from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damage('manifest.json cannot be read') from error
    if digest != _body_digest(manifest):
        raise _Damage('manifest.json has a wrong checksum')
    if manifest['step'] != int(path.name):
        raise _Damage(f'manifest.json is that of step {manifest["step"]}')
    return manifest


def _verify(path: pathlib.Path) -> None:
    """Reads every file of a checkpoint. Raises _Damage for the first that is not what was written."""
    for name, (size, digest) in _read_manifest(path)['files'].items():
        try:
            found = (path / name).stat().st_size
            if found != size:
                raise _Damage(f'{name} has {found} bytes in place of {size}')
            if sha256(path / name) != digest:
                raise _Damage(f'{name} has a wrong checksum')
        except PermissionError:
            raise
        except FileNotFoundError as error:
            raise _Damage(f'{name} is missing') from error
        except OSError as error:
            raise _Damage(f'{name} cannot be read ({error.strerror})') from error


# Several processes: what fails on one must fail on all, or the others would wait for it for ever.


def _together(work: Any) -> None:
    """Runs `work` on every process; raises on all where it fails on one."""
    failure = None
    try:
        work()
    except Exception as error:
        failure = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        failed = np.asarray(multihost_utils.process_allgather(np.asarray(failure is not None))).nonzero()[0]
        if failure is None and failed.size:
            raise OSError(f'process {failed[0]} failed')
    if failure is not None:
        raise failure


def _on_first_process(work: Any) -> None:
    _together(work if jax.process_index() == 0 else lambda: None)


def _from_first_process(number: int) -> int:
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


# Policies.


def export_policy(path: str | os.PathLike, policy_tree: PyTree, config: dict) -> None:
    """Writes parameters and config into one npz: an array for each leaf, named by its path, and 'config.json'.

    Raises UserError where it cannot be written.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in _named_leaves(fetch(policy_tree)).items()}
    document = {'config': plain(config), 'dtypes': {name: str(array.dtype) for name, array in arrays.items()}}
    # npz knows numpy's own dtypes only: bfloat16 and the like travel as their bytes.
    stored = {name: a if a.dtype.isbuiltin == 1 else a.view(f'u{a.dtype.itemsize}') for name, a in arrays.items()}
    stored['config.json'] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **stored)
    write_atomic(path, content.getvalue())


def load_policy(path: str | os.PathLike) -> tuple[PyTree, dict]:
    """(policy, config) of an exported policy: nested dicts of numpy arrays by path; tuples and fields become dict keys.

    Raises UserError where the file is missing, damaged, or no exported policy.
    """
    try:
        with open(path, 'rb') as content, np.load(content) as file:
            document = json.loads(file['config.json'].tobytes())
            arrays = {name: file[name].view(jax.numpy.dtype(dtype)) for name, dtype in document['dtypes'].items()}
    except FileNotFoundError as error:
        raise UserError(f'no policy at {path}') from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f'{path} is damaged, or not an exported policy: {reason(error)}') from error
    tree: dict = {}
    for name, array in arrays.items():
        *folders, last = name.split('/')
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = array
    return tree, document['config']
