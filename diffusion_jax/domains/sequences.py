"""Sequences of letters, DNA and proteins alike: read, written, compared.

Those of one length fill their designs. Others have END as the last letter of their alphabet, which fills designs up:
a sequence is what stands before the first one.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core_jax.errors import UserError
from core_jax.files import write_atomic
from diffusion_jax.domains.table import designs_csv

DNA = 'ACGT'
PROTEIN = 'ACDEFGHIKLMNPQRSTVWY'  # in the order of ProteinMPNN's tokens
END = '-'


def tokens(texts: Sequence[str], alphabet: str) -> np.ndarray:
    """Texts of one length as their letters' places in `alphabet`, int8 [N, L]; small letters count as capital ones.

    Raises UserError, naming the text, for another letter or another length than the first one's.
    """
    places = np.full(256, -1, np.int8)
    for letters in (alphabet, alphabet.lower()):
        places[np.frombuffer(letters.encode(), np.uint8)] = np.arange(len(alphabet))
    if not texts or not texts[0]:
        raise UserError('there are no sequences')
    for text in texts:
        if len(text) != len(texts[0]):
            raise UserError(f'{text!r} has {len(text)} letters, the one before it {len(texts[0])}')
    rows = places[np.frombuffer(''.join(texts).encode('ascii', 'replace'), np.uint8)].reshape(len(texts), -1)
    if rows.min() < 0:
        row, column = (int(found[0]) for found in np.nonzero(rows < 0))
        raise UserError(f'{texts[row]!r} has {texts[row][column]!r}, which is none of {alphabet}')
    return rows


def encoder(alphabet: str, length: int) -> Callable[[Sequence[str]], np.ndarray]:
    """`Task.encode` of sequences of this length; of at most this length where the alphabet has END."""
    letters = alphabet.removesuffix(END)

    def encode(texts: Sequence[str]) -> np.ndarray:
        found = tokens(texts, alphabet)
        if found.shape[1] != length:
            raise UserError(f'{texts[0]!r} has {found.shape[1]} letters, designs have {length}')
        return found

    def encode_filled(texts: Sequence[str]) -> np.ndarray:
        designs = np.full((len(texts), length), len(letters), np.int8)
        for design, text in zip(designs, texts, strict=True):
            found = tokens([text], letters)[0]
            if len(found) > length:
                raise UserError(f'{text!r} has {len(found)} letters, designs have at most {length}')
            design[: len(found)] = found
        return designs

    return encode if letters == alphabet else encode_filled


def decoder(alphabet: str) -> Callable[[np.ndarray], list[str]]:
    """`Task.decode`: designs [N, L] as texts, up to END. Raises ValueError for a token that is no letter: the mask."""
    codes = np.frombuffer(alphabet.encode(), np.uint8)

    def decode(designs: np.ndarray) -> list[str]:
        designs = np.asarray(designs)
        if designs.size and not 0 <= designs.min() <= designs.max() < len(alphabet):
            raise ValueError(f'designs have tokens outside 0 to {len(alphabet) - 1}')
        return [codes[design].tobytes().decode().partition(END)[0] for design in designs]

    return decode


def ended(designs: np.ndarray, end: int) -> np.ndarray:
    """Designs [N, L] with the token `end` from the first one on."""
    return np.where(np.logical_or.accumulate(designs == end, axis=1), np.asarray(end, designs.dtype), designs)


def hamming(designs: np.ndarray) -> np.ndarray:
    """Fractions of positions in which two designs differ, float64 [N, N], of designs [N, L]."""
    designs = np.asarray(designs)
    return np.stack([(designs != design).mean(1) for design in designs])


def writer(alphabet: str) -> Callable[..., list[pathlib.Path]]:
    """`Task.write`: designs.csv and designs.fasta, with `columns` [N] each beside the sequences.

    Empty designs are rows of the CSV alone.
    """
    decode = decoder(alphabet)

    def write(directory: pathlib.Path, designs: np.ndarray, columns: Mapping[str, Sequence[float]]):
        texts, fasta = decode(designs), ''
        for i, text in enumerate(texts):
            about = ''.join(f' {name}={values[i]}' for name, values in columns.items())
            fasta += f'>design_{i}{about}\n{text}\n' if text else ''
        paths = [pathlib.Path(directory) / name for name in ('designs.csv', 'designs.fasta')]
        for path, content in zip(paths, (designs_csv(texts, columns), fasta.encode()), strict=True):
            write_atomic(path, content)
        return paths

    return write
