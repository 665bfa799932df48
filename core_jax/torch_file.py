"""PyTorch's checkpoint files without PyTorch, and without running anything that they say.

A .pt, .ckpt or .tar file since PyTorch 1.6 is a zip: `data.pkl`, a pickle of the whole object in which each tensor
names a storage, and `data/KEY`, the raw numbers of a storage. A pickle is a program. Here it can only build dicts,
lists, tuples, numbers, texts and tensors: every other name that it mentions becomes an `Unread`, which holds nothing
and does nothing. Nothing is imported and no function of the file's choosing is called, so that a Lightning checkpoint,
full of configuration objects, can be read for its weights.
"""

from __future__ import annotations

import io
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import ml_dtypes
import numpy as np

from core_jax.errors import UserError
from core_jax.files import reason

STORAGES = {
    'DoubleStorage': '<f8',
    'FloatStorage': '<f4',
    'HalfStorage': '<f2',
    'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': '<i8',
    'IntStorage': '<i4',
    'ShortStorage': '<i2',
    'CharStorage': 'i1',
    'ByteStorage': 'u1',
    'BoolStorage': '?',
}


class Unread:
    """What a file mentions beside tensors and plain data. Whatever is done to it leaves it as it is."""

    def __init__(self, *arguments: Any, **keywords: Any):
        pass

    def __call__(self, *arguments: Any, **keywords: Any) -> Unread:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Nothing is kept; nor by the next two."""

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


def read(path: str | os.PathLike) -> Any:
    """What the file holds: dicts, lists, numbers, texts, and tensors as numpy arrays (bfloat16 as float32).

    Raises UserError where it is missing, damaged, or no such file; older ones must be saved again.
    """
    path = pathlib.Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith('/data.pkl')]
            if len(names) != 1:
                raise UserError(f'{path} is a zip, but none that PyTorch wrote')
            folder = names[0].removesuffix('data.pkl')
            if f'{folder}byteorder' in archive.namelist() and archive.read(f'{folder}byteorder') != b'little':
                raise UserError(f'{path} was written on a machine of the other byte order')
            return _Unpickler(archive, folder).load()
    except FileNotFoundError as error:
        raise UserError(f'there is no checkpoint {path}') from error
    except zipfile.BadZipFile as error:
        raise UserError(
            f'{path} is damaged, or older than PyTorch 1.6: load it there and torch.save it again'
        ) from error
    except Exception as error:  # a damaged pickle may ask for anything of the values that it has built
        if isinstance(error, UserError):
            raise
        raise UserError(f'{path} is damaged: {reason(error)}') from error


class _Unpickler(pickle._Unpickler):  # the one in Python, whose steps can be replaced
    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f'{folder}data.pkl')))
        self._archive, self._folder, self._storages = archive, folder, {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ('collections', 'OrderedDict'):
            return OrderedDict
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return _tensor
        if (module, name) == ('torch._utils', '_rebuild_parameter'):
            return _parameter
        if module == 'torch' and name in STORAGES:
            return np.dtype(STORAGES[name])
        return Unread

    def load_build(self) -> None:
        """The state that an object is to take on is dropped: none of ours needs one."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage: ('storage', type, key, location, count)."""
        _, dtype, key, _, count = pid
        if not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f'storage {key} is of an unknown type')
        if key not in self._storages:
            content = self._archive.read(f'{self._folder}data/{key}')
            if len(content) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f'storage {key} has {len(content)} bytes in place of {count} numbers')
            self._storages[key] = np.frombuffer(content, dtype)
        return self._storages[key]


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *rest: Any) -> np.ndarray:
    """A copy of a view of a storage, which must lie within it."""
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    empty = 0 in shape
    if offset < 0 or min((*shape, *strides, 0)) < 0 or (not empty and last >= len(storage)):
        raise pickle.UnpicklingError(f'a tensor {shape} reaches beyond its storage')
    if storage.dtype == ml_dtypes.bfloat16:
        storage = storage.astype(np.float32)
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False).copy()


def _parameter(tensor: np.ndarray, *rest: Any) -> np.ndarray:
    return tensor
