"""Weights of a network, from a directory as Hugging Face's."""

from __future__ import annotations

import pathlib

import numpy as np

from core_jax import torch_file
from core_jax.errors import UserError
from core_jax.files import reason

SAFE, PICKLED = 'model.safetensors', 'pytorch_model.bin'


def read(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of model.safetensors, else of pytorch_model.bin (by core_jax.torch_file); floats as float32.

    Raises UserError where neither is there, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = directory / SAFE
    if not path.is_file() and (directory / PICKLED).is_file():
        found = torch_file.read(directory / PICKLED)
        arrays = {str(name): array for name, array in found.items() if isinstance(array, np.ndarray)}
    else:
        try:
            arrays = load_file(path)
        except FileNotFoundError as error:
            raise UserError(f'there is no {path}') from error
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f'{path} cannot be read: {reason(error)}') from error
    return {name: array if array.dtype.kind in 'iu' else array.astype(np.float32) for name, array in arrays.items()}
