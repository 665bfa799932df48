"""A directory whose files are made once and read from there after, with the seconds that each of them took."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from colbench_jax.tasks.files import write_lines
from core_jax.errors import UserError
from core_jax.files import make_directory, write_json_atomic

SECONDS = 'seconds.json'


class Kept:
    """Files of a directory. Every method makes what is missing and returns what is there."""

    def __init__(self, directory: Any, say: Callable = print):
        self.directory, self.say = pathlib.Path(directory), say
        self._read: dict[str, list[dict[str, Any]]] = {}  # files of lines, once each
        self._within = 0.0  # seconds that parts of what is being made have taken

    def lines(self, name: str, made: Callable, read: Callable) -> list[dict[str, Any]]:
        """Of a file of JSON lines, by `read`(path)."""
        if name not in self._read:
            path = make_directory(self.directory) / f'{name}.jsonl'
            if not path.exists():
                self.say(f'{name} ...')
                with self.clocked(name):
                    write_lines(path, made())
            self._read[name] = read(path)
        return self._read[name]

    def table(self, name: str, made: Callable, of: Any) -> Any:
        """What was made `of` other things; made again where they have changed."""
        path, digest = self.directory / f'{name}.json', hashlib.sha256(json.dumps(of).encode()).hexdigest()
        kept = read_json(path)
        if kept.get('of') != digest:
            self.say(f'{name} ...')
            with self.clocked(name):
                kept = {'of': digest, 'made': made()}
            write_json_atomic(path, kept)
        return kept['made']

    def seconds(self) -> dict[str, float]:
        """Of everything that was made here, without its parts that have a name of their own."""
        return read_json(self.directory / SECONDS)

    @contextlib.contextmanager
    def clocked(self, name: str) -> Iterator[None]:
        """Adds the seconds within to those of `name`, less what parts with names of their own took."""
        before, self._within, began = self._within, 0.0, time.monotonic()
        try:
            yield
            known, took = self.seconds(), time.monotonic() - began
            write_json_atomic(self.directory / SECONDS, known | {name: known.get(name, 0.0) + took - self._within})
        finally:
            self._within = before + time.monotonic() - began


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """{} where there is none. Raises UserError for a damaged one."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f'{path} is damaged: {error}; delete it, and it is made again') from None
    if not isinstance(found, dict):
        raise UserError(f'{path} is damaged: no table; delete it, and it is made again')
    return found
