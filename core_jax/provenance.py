"""What made a result: versions, commit, command, machine. Read without importing any of the packages."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
from importlib import metadata

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'mujoco', 'ogbench', 'gymnasium', 'numpy', 'tenfold')


def versions() -> dict[str, str | None]:
    """Python's version and those of `PACKAGES`, None where one is not installed."""
    return {'python': platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Short hash of the checkout that this code runs from, '-dirty' where tracked files changed; None elsewhere."""
    root = pathlib.Path(__file__).resolve().parent.parent

    def git(*arguments):
        done = subprocess.run(['git', '-C', root, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if pathlib.Path(git('rev-parse', '--show-toplevel')).resolve() != root:
            return None  # installed in an environment that lies in somebody else's repository
        dirty = git('status', '--porcelain', '--untracked-files=no')
        return git('rev-parse', '--short', 'HEAD') + ('-dirty' if dirty else '')
    except (OSError, subprocess.CalledProcessError):
        return None


def host() -> dict[str, object]:
    """The machine, as far as the operating system names it."""
    return {'cpu_count': os.cpu_count(), 'platform': platform.platform()}
