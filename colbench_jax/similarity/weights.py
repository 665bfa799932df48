"""Weights of a network, from files of safetensors."""

from __future__ import annotations

import pathlib

import numpy as np

from core_jax.errors import UserError
from core_jax.files import reason


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file, as float32 where they are floats. Raises UserError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise UserError(f'there is no {path}')
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read: {reason(error)}') from error
    return {
        name: array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)
        for name, array in arrays.items()
    }
