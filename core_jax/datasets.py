"""Data sets on disk: npz files that are checked when they are read, TFDS array records, and batches from Grain."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core_jax.errors import UserError, unknown


def directory(configured: str = '') -> Path:
    """Where data sets are kept: the configured place, else $TENFOLD_DATA, else ~/.cache/tenfold/data."""
    return Path(configured or os.environ.get('TENFOLD_DATA') or '~/.cache/tenfold/data').expanduser()


def load_npz(path: str | os.PathLike, ranks: Mapping[str, int | None] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file whose first axis is the row, all of the same length N.

    `ranks` names the keys that must be there, each with its number of axes (None: any, at least one).
    Raises UserError, naming file and key, where the file is missing, truncated or corrupt, where a key is missing or
    has the wrong rank, where lengths differ or are 0, and where something is not a finite number. Objects are never
    unpickled.
    """
    arrays = read_npz(path)
    check_arrays(arrays, path, ranks)
    return arrays


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an npz file, whatever their shapes. Raises UserError where it is missing or damaged."""
    path = Path(path)
    try:
        with open(path, 'rb') as stream, zipfile.ZipFile(stream) as archive:
            arrays = {}
            for member in archive.namelist():
                key = member.removesuffix('.npy')
                with archive.open(member) as content:
                    try:
                        arrays[key] = np.lib.format.read_array(content, allow_pickle=False)
                    except ValueError as error:  # numpy's way of refusing objects and what is no array
                        raise UserError(f'{path}: cannot read {key!r}: {error}') from error
                    content.read(1)  # only at the end is the checksum compared
    except FileNotFoundError as error:
        raise UserError(f'there is no dataset {path}') from error
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f'{path} is no npz file, or a damaged one ({error})') from error
    return arrays


def check_arrays(
    arrays: Mapping[str, np.ndarray], name: str | os.PathLike, ranks: Mapping[str, int | None] | None = None
) -> None:
    """Raises UserError, beginning with `name`, unless `arrays` are what `load_npz` promises."""
    for key, rank in (ranks or {}).items():
        if key not in arrays:
            raise UserError(f'{name}: there is no {key!r} (it has {", ".join(arrays) or "nothing"})')
        if rank is not None and arrays[key].ndim != rank:
            raise UserError(f'{name}: {key!r} has shape {arrays[key].shape}; it should have {rank} axes')
    if not arrays:
        raise UserError(f'{name}: it is empty')
    for key, array in arrays.items():
        if array.dtype.kind not in 'biuf':
            raise UserError(f'{name}: {key!r} is of type {array.dtype}, not numbers')
        if not array.ndim or not len(array):
            raise UserError(f'{name}: {key!r} has no rows')
        if array.dtype.kind == 'f' and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UserError(f'{name}: {key!r} has a NaN or infinite number in row {row}')
    if len({len(array) for array in arrays.values()}) > 1:
        shown = ', '.join(f'{key} {len(array)}' for key, array in arrays.items())
        raise UserError(f'{name}: lengths differ: {shown}')


def save_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], *, compress: bool = True) -> None:
    """Writes an npz file whole or not at all, with the same bytes for the same arrays.

    Raises OSError where it cannot be written; nothing is then left behind, and what was at `path` stays.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')  # two processes may be writing the same file
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    try:
        with open(temporary, 'wb') as file:
            with zipfile.ZipFile(file, 'w', method) as archive:
                for key, array in arrays.items():
                    # A ZipInfo made by hand has the date 1980-01-01; `archive.write` would take the clock.
                    member = zipfile.ZipInfo(f'{key}.npy')
                    member.compress_type = method
                    with archive.open(member, 'w', force_zip64=True) as stream:
                        np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the arrays: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        digest.update(array)
    return digest.hexdigest()


def tfds_source(directory: str | os.PathLike, split: str = 'train') -> Sequence[Any]:
    """A random-access source of decoded examples (nested dicts of numpy arrays) of a prepared TFDS data set.

    `directory` is the one with dataset_info.json, in the format array_record; TensorFlow is not needed. `split` is in
    TFDS's own language ('train', 'train[:10%]', ...). Raises UserError where there is no such data set or split.
    """
    directory = Path(directory).expanduser()
    if not (directory / 'dataset_info.json').exists():
        raise UserError(f'{directory} holds no TFDS data set (no dataset_info.json)')
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(directory))
    if split.split('[')[0] not in builder.info.splits:
        raise unknown('split', split, builder.info.splits)
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise UserError(f'{directory} is not in the format array_record; prepare it again with that format') from error


class Batches:
    """An endless stream of shuffled batches from any random-access source, through Grain.

    The stream is one sequence of examples: each epoch a new permutation, a function of (seed, epoch), one epoch after
    the other without a gap. Batch k is examples kB to kB + B - 1 of it, whatever the number of processes; process p of
    P reads the p-th of P equal slices of it. The state is the number of batches taken, so it can be restored anywhere,
    also with another number of processes.
    """

    def __init__(self, source: Sequence[Any], batch_size: int, seed: int, process: int = 0, processes: int = 1):
        """`batch_size` is the global one. Each example is a pytree of arrays; a batch stacks them, [B / P, ...].

        Raises UserError where the processes do not divide the batch, or the source is empty.
        """
        import grain

        if batch_size < 1 or batch_size % processes:
            raise UserError(f'{processes} processes cannot share a batch of {batch_size}')
        if not len(source):
            raise UserError('the data source is empty')
        stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
        share = _Share(stream, batch_size // processes, process, processes)
        self._batches = grain.MapDataset.source(share).batch(batch_size // processes)
        self._identity = {'seed': seed, 'batch_size': batch_size, 'examples': len(source)}
        self._taken = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        batch = self._batches[self._taken]
        self._taken += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """JSON-able; the next batch is the one after those taken."""
        return {**self._identity, 'batches_taken': self._taken}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes to where `get_state` was called. Raises UserError for the state of another stream."""
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise UserError(f'the saved data position is of another stream: {name} {state.get(name)}, here {value}')
        self._taken = state['batches_taken']


class _Share:
    """What one process reads of a stream: from each global batch its own slice of `size` examples."""

    def __init__(self, stream: Sequence[Any], size: int, process: int, processes: int):
        self._stream, self._size, self._process, self._processes = stream, size, process, processes

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        batch, within = divmod(index, self._size)
        return self._stream[(batch * self._processes + self._process) * self._size + within]
