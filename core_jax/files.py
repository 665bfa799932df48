"""Files that are whole or not there: JSON and bytes written atomically, rows of metrics, nested dicts compared."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from core_jax.errors import UserError

MISSING = '(nothing)'
LEFT = 3600.0  # seconds after which a temporary file that nobody is writing was left by a killed process


def write_json_atomic(path: str | os.PathLike, obj: Any) -> None:
    """Writes `obj` as JSON so that `path` holds either what it held or all of `obj`. Raises UserError."""
    write_atomic(path, (json.dumps(plain(obj), indent=2, allow_nan=False) + '\n').encode())


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file by way of a temporary one beside it. Raises UserError; `path` is then what it was."""
    path = pathlib.Path(path)
    temporary = path.with_name(temporary_name(path.name))
    try:
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        remove_leftovers(path.parent, re.escape(path.name))
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        cannot_write(path, error)


def make_directory(path: str | os.PathLike) -> pathlib.Path:
    """The directory, made where it is not there. Raises UserError."""
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cannot_write(path, error)
    return path


def temporary_name(name: str) -> str:
    """What this process calls a file until it is whole: another may be writing the same one."""
    return f'.{name}.{os.getpid()}.tmp'


def is_temporary(found: str, pattern: str) -> bool:
    """Whether `found` is what some process calls a file until it is whole, whose name matches a regular expression."""
    return re.fullmatch(rf'\.{pattern}(\.\d+)?\.tmp', found) is not None


def remove_leftovers(directory: pathlib.Path, pattern: str) -> None:
    """Removes temporary files of killed processes.

    A number says nothing of another host that shares the directory, so they must be of some age, too.
    """
    for name in os.listdir(directory):
        if is_temporary(name, pattern) and not _running(name.split('.')[-2]):
            with contextlib.suppress(OSError):  # somebody else may be removing it
                if time.time() - os.stat(directory / name).st_mtime > LEFT:
                    os.unlink(directory / name)


def _running(process: str) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def sha256(path: pathlib.Path) -> str:
    """Of a file's content, in hex."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def sync_file(path: pathlib.Path) -> None:
    """Makes the content of a file that a library wrote survive a power cut."""
    with open(path, 'rb') as file:
        os.fsync(file.fileno())


def sync_directory(path: pathlib.Path) -> None:
    """Makes the names in `path` (a rename, a new file) survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: pathlib.Path, error: OSError) -> NoReturn:
    """Raises the UserError for an OSError met while writing `path`."""
    raise UserError(f'could not write {path}: {reason(error)}') from error


def reason(error: Exception) -> str:
    """The cause in a few words, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    text = ' '.join(str(error).split())
    # Libraries wrap the system's words in many of their own.
    known = (os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
    return next((words[0].lower() + words[1:] for words in known if words in text), text or type(error).__name__)


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The rows of a metrics.jsonl. A last line torn by a kill is left out; any other bad line is a UserError."""
    rows = []
    for number, line in enumerate(pathlib.Path(path).read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b'\n'):
            break
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f'{path}, line {number} is damaged: {error}') from error
    return rows


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy scalars and arrays unpacked, non-finite floats as 'nan', 'inf', '-inf'."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, 'tolist'):
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def differences(saved: Any, wanted: Any, name: str = '') -> list[tuple[str, Any, Any]]:
    """(dotted name, saved, wanted) of every field in which two nested dicts differ; MISSING where one has no such."""
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        found = []
        for key in dict.fromkeys((*saved, *wanted)):
            inner = f'{name}.{key}' if name else str(key)
            found += differences(saved.get(key, MISSING), wanted.get(key, MISSING), inner)
        return found
    same = saved == wanted and isinstance(saved, bool) == isinstance(wanted, bool)
    return [] if same else [(name, saved, wanted)]


def encode_array(array: Any) -> dict[str, Any]:
    """A numpy array as JSON, exactly."""
    import numpy as np

    array = np.asarray(array)
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {'dtype': array.dtype.str, 'shape': list(array.shape), 'base64': content}


def decode_array(saved: Mapping[str, Any]) -> Any:
    """What `encode_array` was given."""
    import numpy as np

    content = np.frombuffer(base64.b64decode(saved['base64']), np.dtype(saved['dtype']))
    return content.reshape(saved['shape']).copy()
