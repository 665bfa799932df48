"""Writes PyTorch's checkpoint format by hand: opcodes of pickle protocol 2, for tests without PyTorch."""

import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

STORAGE = {
    '<f4': 'FloatStorage',
    '<f8': 'DoubleStorage',
    '<f2': 'HalfStorage',
    '<i8': 'LongStorage',
    '|u1': 'ByteStorage',
}


class Name(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Any
    arguments: tuple


class Build(NamedTuple):
    made: Any
    state: Any


class View(NamedTuple):
    """A tensor as a view of a storage."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple
    kind: str = ''  # of the storage, where it is not the array's own


def write(path, value, *, byteorder=b'little', corrupt=None):
    """corrupt(key, content) -> content of a storage."""
    storages = {}

    def pack(value):
        match value:
            case Name(module, name):
                return f'c{module}\n{name}\n'.encode()
            case Call(function, arguments):
                return pack(function) + pack(tuple(arguments)) + b'R'
            case Build(made, state):
                return pack(made) + pack(state) + b'b'
            case View(storage, offset, shape, strides, kind):
                key = next((key for key, kept in storages.items() if kept is storage), str(len(storages)))
                storages[key] = storage
                kind = Name('torch', kind or STORAGE[storage.dtype.str])
                pid = pack(('storage', kind, key, 'cpu', len(storage))) + b'Q'
                rest = [
                    pack(item) for item in (offset, shape, strides, False, Call(Name('collections', 'OrderedDict'), ()))
                ]
                return pack(Name('torch._utils', '_rebuild_tensor_v2')) + b'(' + pid + b''.join(rest) + b'tR'
            case np.ndarray():
                strides = tuple(stride // value.itemsize for stride in value.strides)
                return pack(View(np.ascontiguousarray(value).ravel(), 0, value.shape, strides))
            case dict():
                return b'}' + b''.join(pack(key) + pack(item) + b's' for key, item in value.items())
            case list():
                return b']' + b''.join(pack(item) + b'a' for item in value)
            case tuple():
                return b'(' + b''.join(map(pack, value)) + b't'
            case bool():
                return b'\x88' if value else b'\x89'
            case int():
                return b'J' + struct.pack('<i', value)
            case float():
                return b'G' + struct.pack('>d', value)
            case str():
                return b'X' + struct.pack('<I', len(value.encode())) + value.encode()
            case None:
                return b'N'
        raise TypeError(type(value))

    content = b'\x80\x02' + pack(value) + b'.'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', content)
        archive.writestr('archive/byteorder', byteorder)
        for key, storage in storages.items():
            data = storage.tobytes()
            archive.writestr(f'archive/data/{key}', corrupt(key, data) if corrupt else data)
    return path
