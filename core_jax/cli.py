"""The command line that every entry point has: flags, presets, `--config.field=value`, one-line errors.

Importing this is cheap, so that `--help` is: packages import jax only after the flags are read.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import importlib.util
import os
import pathlib
import shlex
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import ml_collections

from core_jax.errors import UserError, unknown


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors with the nearest right flag."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message} (see --help)')

    def parse(self, arguments: Sequence[str] | None = None, blocks: Sequence[str] = ('config',)) -> tuple[Any, ...]:
        """Flags, and for each block a dict of the texts of `--block.field=value` (or `--block.field value`)."""
        flags, rest = self.parse_known_args(arguments)
        overrides: dict[str, dict[str, str]] = {block: {} for block in blocks}
        rest = list(rest)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition('=')
            block, dot, field = name.removeprefix('--').partition('.')
            if not (name.startswith('--') and dot and block in overrides):
                if name.startswith('--'):
                    raise unknown('flag', name, [o for action in self._actions for o in action.option_strings])
                raise UserError(f'unexpected argument {word!r}')
            if not equals:
                if not rest:
                    raise UserError(f'{name} needs a value')
                value = rest.pop(0)
            overrides[block][field] = value
        return flags, *overrides.values()


def command_of(
    prog: str, about: str, names: Collection[str], default: str, arguments: Sequence[str] | None = None
) -> tuple[str, list[str]]:
    """(command, the words after it) of a program that has several; without one it is `default`.

    --help in front of any command prints all of them and ends. Raises UserError with the nearest right name.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ('-h', '--help'):
        print(f'usage: {prog} [{"|".join(names)}] [--help]\n\n{about}')
        raise SystemExit(0)
    name = words.pop(0) if words and not words[0].startswith('-') else default
    if name not in names:
        raise unknown('command', name, names)
    return name, words


def quoted(command: Sequence[str]) -> str:
    """A command line as a result quotes it: without --workdir, which says where it was put on one machine."""
    words = list(command)
    while '--workdir' in words:
        at = words.index('--workdir')
        del words[at : at + 2]
    return shlex.join(word for word in words if not word.startswith('--workdir='))


def keep_compiled() -> None:
    """Programs that XLA compiles are kept on disk from now on, so that a command started again has them.

    In ~/.cache/tenfold/xla, where JAX_COMPILATION_CACHE_DIR says nothing else. Call it before jax is imported.
    """
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path.home() / '.cache' / 'tenfold' / 'xla'))


def keep_memory() -> None:
    """Memory that is freed stays with the process from now on, where the C library is glibc. Call it before jax.

    XLA's CPU backend asks for the temporaries of a program anew at each call. Large ones go back to the system when
    they are freed, which clears every page before it hands it out again: a training step of SmolLM2-135M has 1.4 GB of
    them. The price is peak memory, where blocks of other sizes leave gaps.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is not None:
        for option, value in ((_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(option, value)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # of malloc.h


def add_run_flags(parser: Parser) -> None:
    """The flags that all trainers share."""
    parser.add_argument('--config', metavar='FILE', help='a preset, such as configs/fql/offline/cube_single.py')
    parser.add_argument('--config.FIELD=VALUE', dest='_', action='store_const', const=None, help='set one field')
    parser.add_argument('--seed', type=int, help='of everything random (default 0)')
    parser.add_argument('--seeds', type=int, metavar='N', help='train N seeds, from --seed on, as one population')
    parser.add_argument('--vary', metavar='NAME:V,V', help='a population over a hyperparameter, such as alpha:3,10,30')
    parser.add_argument('--steps', type=int, help='updates')
    parser.add_argument('--workdir', help='the run directory (default: a new one under runs/)')
    parser.add_argument('--resume', action='store_true', help='go on with the run in --workdir')
    parser.add_argument('--overwrite', action='store_true', help='start over in --workdir')
    parser.add_argument('--debug', action='store_true', help='a tiny run that ends in under a minute')
    parser.add_argument('--mesh', help='such as data:4,tensor:2 (default: all devices along data, or population)')
    parser.add_argument('--tensorboard', action='store_true', help='also write TensorBoard events')
    parser.add_argument('--wandb', action='store_true', help='also log to Weights & Biases')
    parser.add_argument('--profile', action='store_true', help='write a profiler trace into the run directory')


def load_preset(path: str) -> dict[str, Any]:
    """The fields that a preset file sets: a Python file with `get_config()`, which is run (it is your own file)."""
    file = pathlib.Path(path)
    if not file.is_file():
        options = [str(p) for p in sorted(file.parent.glob('*.py'))] if file.parent.is_dir() else []
        raise unknown('preset', path, options) if options else UserError(f'no preset at {path}')
    spec = importlib.util.spec_from_file_location('preset', file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return dict(module.get_config())
    except Exception as error:
        raise UserError(f'preset {path} does not load: {type(error).__name__}: {error}') from error


def apply(config: ml_collections.ConfigDict, fields: dict[str, Any]) -> None:
    """Sets fields (dotted names reach into blocks); texts are read as the type that the field has.

    Raises UserError for an unknown field, with the nearest name, and for a value of the wrong type.
    """
    for name, value in fields.items():
        *blocks, leaf = name.split('.')
        block = config
        for part in [*blocks, leaf]:
            if not isinstance(block, ml_collections.ConfigDict) or part not in block:
                raise unknown('config field', name, field_names(config))
            holder, block = block, block[part]
        if isinstance(block, ml_collections.ConfigDict):
            raise UserError(f'config field {name} is a block; set {", ".join(f"{name}.{part}" for part in block)}')
        holder[leaf] = _read(name, value, holder[leaf])


def field_names(config: ml_collections.ConfigDict, prefix: str = '') -> list[str]:
    """All fields, dotted."""
    names: list[str] = []
    for name, value in config.items():
        nested = isinstance(value, ml_collections.ConfigDict)
        names += field_names(value, f'{prefix}{name}.') if nested else [prefix + name]
    return names


def _read(name: str, value: Any, current: Any) -> Any:
    wanted = type(current)
    item = type(current[0]) if wanted is tuple and current else int  # of a tuple
    if isinstance(value, str) and wanted is not str:
        if wanted is bool and value.lower() in ('true', 'false'):
            return value.lower() == 'true'
        if wanted is tuple and item is str:
            return tuple(part for part in value.split(',') if part)
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise UserError(f'config field {name} is {_kind(wanted, item)}; cannot read {value!r}') from None
    if wanted is tuple and isinstance(value, (int, list, tuple)):
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if all(type(part) is item for part in value):
            return value
    if wanted is float and type(value) in (int, float):
        return float(value)
    if type(value) is wanted and wanted is not tuple:
        return value
    raise UserError(f'config field {name} is {_kind(wanted, item)}, got {value!r}')


def _kind(wanted: type, item: type) -> str:
    if wanted is tuple:
        return 'texts like a,b' if item is str else 'integers like 256,256'
    return {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text'}[wanted]


def require_positive(config: ml_collections.ConfigDict, names: Sequence[str], least: float = 1) -> None:
    """UserError for the first of `names` that lies below `least`."""
    for name in names:
        if not config[name] >= least:
            raise UserError(f'{name} must be at least {least}, got {config[name]}')
