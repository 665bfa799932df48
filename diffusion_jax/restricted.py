"""Weights out of pickles, without unpickling anything but arrays of numbers.

A pickle is a program; read by Python's own reader it may call any function. Here it may only build dicts, lists,
tuples, texts, numbers and numpy arrays: any other name stops the reading. joblib's files are pickles in which each
array stands for itself: a description of it is followed by its bytes, in the middle of the stream.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

from core_jax.errors import UserError

try:  # numpy 2.3 and later
    from numpy._core.multiarray import _reconstruct, scalar
except ImportError:
    from numpy.core.multiarray import _reconstruct, scalar


class _JoblibArray:
    """joblib's description of an array: its attributes are set by the pickle's BUILD."""

    def read(self, stream: Any) -> np.ndarray:
        dtype, shape = np.dtype(self.dtype), tuple(int(size) for size in self.shape)
        if dtype.hasobject or self.subclass is not np.ndarray:
            raise pickle.UnpicklingError(f'an array of {dtype}, not of numbers')
        if getattr(self, 'numpy_array_alignment_bytes', None) is not None:
            stream.read(stream.read(1)[0])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        content = stream.read(size)
        if len(content) != size:
            raise EOFError('an array ends too early')
        return np.frombuffer(content, dtype).reshape(shape, order=self.order).copy()


_ALLOWED = {
    ('joblib.numpy_pickle', 'NumpyArrayWrapper'): _JoblibArray,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('collections', 'OrderedDict'): OrderedDict,
}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    _ALLOWED |= {(_module, '_reconstruct'): _reconstruct, (_module, 'scalar'): scalar}


class _Unpickler(pickle._Unpickler):  # the one in Python, whose steps can be replaced
    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._stream = stream

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack.append(self.stack.pop().read(self._stream))

    dispatch[pickle.BUILD[0]] = load_build


def load_arrays(content: bytes, name: str) -> Any:
    """What a pickle, or an uncompressed file of joblib, holds: dicts, lists, numbers, texts and arrays of numbers.

    Raises UserError, beginning with `name`, where it holds or calls anything else, or is damaged.
    """
    try:
        found = _Unpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{name}: not a pickle of plain arrays: {error}') from error
    return found


def flattened(tree: Any, prefix: str = '') -> dict[str, np.ndarray]:
    """Nested dicts of arrays as one dict; levels of a name are joined by '|'."""
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        flat |= flattened(value, f'{prefix}{key}|') if isinstance(value, dict) else {prefix + key: np.asarray(value)}
    return flat
