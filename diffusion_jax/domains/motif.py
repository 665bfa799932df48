"""Binding sites of transcription factors: JASPAR's count matrices, and how well a sequence holds a site of one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.errors import UserError, unknown
from diffusion_jax.models.networks import one_hot

PSEUDOCOUNT = 0.8  # of a column, spread over the four bases


def read_jaspar(text: str, name: str) -> dict[str, tuple[str, np.ndarray]]:
    """{identifier: (factor, counts [W, 4] float64)} of a text in JASPAR's format, bases in the order A, C, G, T.

    Raises UserError, beginning with `name`, where it is not.
    """
    found: dict[str, tuple[str, np.ndarray]] = {}
    blocks = [block for block in text.split('>') if block.strip()]
    for block in blocks:
        head, *rows = block.strip().splitlines()
        identifier, _, factor = head.partition('\t')
        try:
            cells = {row.split()[0]: [float(cell) for cell in row.strip(' ]').split('[')[1].split()] for row in rows}
            counts = np.array([cells[base] for base in 'ACGT']).T
        except (IndexError, KeyError, ValueError):
            raise UserError(f'{name}: {head!r} is no matrix in the format of JASPAR') from None
        if counts.ndim != 2 or not len(counts) or counts.min() < 0 or not (counts.sum(1) > 0).all():
            raise UserError(f'{name}: the matrix of {head!r} is damaged')
        found[identifier] = (factor, counts)
    if not found:
        raise UserError(f'{name}: there is no matrix in it')
    return found


def select(matrices: dict[str, tuple[str, np.ndarray]], factor: str) -> tuple[str, np.ndarray]:
    """(identifier, counts) of the first matrix of a factor, or of the one with this identifier. Raises UserError."""
    for identifier, (name, counts) in matrices.items():
        if factor.lower() in (name.lower(), identifier.lower()):
            return identifier, counts
    raise unknown('factor', factor, {name.lower() for name, _ in matrices.values()})


def log_odds(counts: np.ndarray) -> np.ndarray:
    """Natural log-odds [W, 4] float32 of a count matrix against equal bases."""
    share = (counts + PSEUDOCOUNT / 4) / (counts.sum(1, keepdims=True) + PSEUDOCOUNT)
    return np.log(share / 0.25).astype(np.float32)


def binding(weights: jax.Array, designs: jax.Array) -> jax.Array:
    """log sum exp of the log-odds [N] over all places in both strands, of tokens [N, L] or relaxed ones [N, L, 4].

    Raises ValueError for designs that are shorter than the matrix.
    """
    width = weights.shape[0]
    rows = one_hot(designs, 4)
    if rows.shape[1] < width:
        raise ValueError(f'designs of {rows.shape[1]} bases have no place for a matrix of {width}')
    strands = jnp.stack([weights, weights[::-1, ::-1]], -1)  # [W, 4, 2]; the complement of A C G T is T G C A
    scores = jax.lax.conv_general_dilated(rows, strands, (1,), 'VALID', dimension_numbers=('NWC', 'WIO', 'NWC'))
    return jax.nn.logsumexp(scores, (1, 2))
