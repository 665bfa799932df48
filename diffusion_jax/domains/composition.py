"""Rewards of what a protein or peptide is made of, whatever its structure: net charge, hydrophobic moment.

Designs are tokens [N, L] in the order of `sequences.PROTEIN`, or relaxed rows [N, L, 20]. Peptides end at their first
END, token 20 (relaxed rows have 21 columns then): what follows counts nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.domains import sequences
from diffusion_jax.domains.task import Reward
from diffusion_jax.models.networks import one_hot

CHARGES = {'K': 1.0, 'R': 1.0, 'D': -1.0, 'E': -1.0, 'H': 0.1}
# Eisenberg's consensus scale of hydrophobicity, in the order ACDEFGHIKLMNPQRSTVWY.
HYDROPHOBICITY = np.array(
    [
        *[0.62, 0.29, -0.90, -0.74, 1.19, 0.48, -0.40, 1.38, -1.50, 1.06],
        *[0.64, -0.78, 0.12, -0.85, -2.53, -0.18, -0.05, 1.08, 0.81, 0.26],
    ],
    np.float32,
)
TURN = np.radians(100.0)  # between neighbouring residues of an alpha helix
WINDOW = 11


def residues(designs: jax.Array) -> jax.Array:
    """[N, L, 20]: 1 for the amino acid that stands at a place, nothing from the first END on.

    Of relaxed rows: the chance that it stands there, and that no END does before it.
    """
    letters = len(sequences.PROTEIN)
    rows = one_hot(designs, letters + 1) if jnp.issubdtype(designs.dtype, jnp.integer) else designs
    goes_on = jnp.cumprod(1 - rows[..., letters:].sum(-1), 1)
    before = jnp.pad(goes_on[:, :-1], ((0, 0), (1, 0)), constant_values=1.0)
    return rows[..., :letters] * before[..., None]


def charge(params: None, designs: jax.Array) -> jax.Array:
    """Net charge [N] at pH 7: K, R +1, D, E -1, H +0.1; ends of the chain are left out."""
    table = jnp.asarray([CHARGES.get(letter, 0.0) for letter in sequences.PROTEIN], jnp.float32)
    return (residues(designs) @ table).sum(1)


def moment(params: None, designs: jax.Array) -> jax.Array:
    """Largest hydrophobic moment [N], a residue, of windows of 11 as a helix; of the whole where it is shorter."""
    found = residues(designs)
    length = found.shape[1]
    window = min(WINDOW, length)

    def windows(values: jax.Array) -> jax.Array:
        total = jnp.cumsum(jnp.pad(values, ((0, 0), (1, 0))), 1)
        return total[:, window:] - total[:, :-window]

    hydrophobicity, angles = found @ jnp.asarray(HYDROPHOBICITY), TURN * np.arange(length)
    across, along = (
        windows(hydrophobicity * jnp.asarray(wave(angles), jnp.float32)[None]) for wave in (np.cos, np.sin)
    )
    inside = windows(found.sum(-1))
    whole = inside > inside[:, :1] - 0.5  # later windows reach beyond the end
    largest = jnp.where(whole, across**2 + along**2, 0.0).max(1)
    return jnp.sqrt(largest + 1e-12) / jnp.maximum(inside[:, 0], 1.0)


REWARDS = {
    'charge': Reward('net charge at pH 7, elementary charges', charge, on_relaxed=charge),
    'moment': Reward('largest hydrophobic moment of 11 residues, as a helix', moment, on_relaxed=moment),
}
