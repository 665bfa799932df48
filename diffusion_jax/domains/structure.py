"""Protein structures: backbones out of PDB text, and rewards of coordinates (RERD, arXiv 2502.14944, section 2.2 of our
sheet). NumPy alone: worker processes import it without jax. Coordinates are in angstrom; larger rewards are better.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from core_jax.errors import UserError

ATOMS = ('N', 'CA', 'C', 'O')
THREE = 'ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR'.split()
ONE = dict(zip(THREE, 'ACDEFGHIKLMNPQRSTVWY', strict=True)) | {'MSE': 'M'}  # selenomethionine stands for methionine


class Backbone(NamedTuple):
    """L residues, in the order of the file. confidence: the column of B factors, where folding programs write pLDDT."""

    coordinates: np.ndarray  # [L, 4, 3] float32 of N, CA, C, O
    residues: np.ndarray  # [L] int32, numbers along the chain
    chains: np.ndarray  # [L] int32, 0, 1, ...
    sequence: str
    confidence: np.ndarray  # [L] float32, of the CA


def read_pdb(text: str, name: str, chain: str = '') -> Backbone:
    """The first model of a PDB text, or one chain of it.

    Residues without all four atoms, water and what is no amino acid are left out; of alternative positions the first
    counts. Raises UserError, beginning with `name`, where a line is damaged or nothing is left.
    """
    residues: dict[tuple, dict[str, tuple]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith('ENDMDL'):
            break
        kind, atom, residue = line[17:20], line[12:16].strip(), (line[21:22], line[22:27])
        if not line.startswith(('ATOM  ', 'HETATM')) or kind not in ONE or atom not in ATOMS:
            continue
        if chain and line[21:22] != chain:
            continue
        try:
            place = tuple(float(line[start : start + 8]) for start in (30, 38, 46))
            confidence = float(line[60:66] or 0)
            int(line[22:26])
        except ValueError:
            raise UserError(f'{name}, line {number}: not an atom in the format of the PDB') from None
        residues.setdefault(residue, {'letter': ONE[kind]}).setdefault(atom, (*place, confidence))
    whole = {key: atoms for key, atoms in residues.items() if all(atom in atoms for atom in ATOMS)}
    if not whole:
        raise UserError(f'{name}: there is no residue with N, CA, C and O' + (f' in chain {chain}' if chain else ''))
    chains = list(dict.fromkeys(key[0] for key in whole))
    values = np.array([[atoms[atom] for atom in ATOMS] for atoms in whole.values()], np.float32)
    return Backbone(
        coordinates=values[..., :3],
        residues=np.array([int(key[1][:4]) for key in whole], np.int32),
        chains=np.array([chains.index(key[0]) for key in whole], np.int32),
        sequence=''.join(atoms['letter'] for atoms in whole.values()),
        confidence=values[:, 1, 3],
    )


def read_models(text: str, name: str) -> list[Backbone]:
    """The structures of a text that holds one PDB after the other, each ended by END or ENDMDL."""
    models, lines, atoms = [], [], False
    for line in [*text.splitlines(), 'END']:
        if line.startswith('END') and atoms:
            models.append(read_pdb('\n'.join(lines), f'{name}, structure {len(models) + 1}'))
            lines, atoms = [], False
        elif not line.startswith('END'):
            lines.append(line)
            atoms |= line.startswith('ATOM')
    return models


def window(backbone: Backbone, start: int, length: int) -> Backbone:
    """`length` residues from number `start` (from 0) on. Raises UserError where there are not so many."""
    if start < 0 or start + length > len(backbone.sequence):
        raise UserError(f'a backbone of {len(backbone.sequence)} residues has no window of {length} at {start}')
    return Backbone(*(field[start : start + length] for field in backbone))


# Rewards


def superposed(mobile: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """`mobile` [N, 3], turned and moved so that its squared distance to `fixed` [N, 3] is least (Kabsch 1976)."""
    a, b = mobile - mobile.mean(0), fixed - fixed.mean(0)
    u, _, v = np.linalg.svd(a.T @ b)
    handed = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])  # a rotation, never a reflection
    return a @ (u @ handed @ v) + fixed.mean(0)


def crmsd(coordinates: np.ndarray, target: np.ndarray) -> float:
    """Minus the root mean square distance of backbone atoms [L, A, 3] to those of the target, once superposed."""
    if coordinates.shape != target.shape:
        raise UserError(f'backbones of {coordinates.shape[0]} and {target.shape[0]} residues cannot be superposed')
    mobile, fixed = coordinates.reshape(-1, 3).astype(float), target.reshape(-1, 3).astype(float)
    return -float(np.sqrt(((superposed(mobile, fixed) - fixed) ** 2).sum(-1).mean()))


def globularity(coordinates: np.ndarray) -> float:
    """Minus the standard deviation of the distances of N, CA and C to their centre: 0 on a sphere."""
    atoms = coordinates[:, :3].reshape(-1, 3).astype(float)
    return -float(np.linalg.norm(atoms - atoms.mean(0), axis=1).std())


def symmetry(coordinates: np.ndarray, copies: int, *, all_pairs: bool = False) -> float:
    """Minus the standard deviation of distances between centres of the `copies` equal parts of a chain.

    Of parts that follow each other, the last followed by the first; with `all_pairs` of any two. 0 on a regular ring.

    Raises UserError where the chain does not divide into so many.
    """
    if copies < 2 or len(coordinates) % copies:
        raise UserError(f'a chain of {len(coordinates)} residues does not divide into {copies} parts')
    centres = coordinates[:, :3].astype(float).reshape(copies, -1, 3).mean(1)
    pairs = np.triu_indices(copies, 1) if all_pairs else (np.arange(copies), (np.arange(copies) + 1) % copies)
    return -float(np.linalg.norm(centres[pairs[0]] - centres[pairs[1]], axis=1).std())


def match_ss(coordinates: np.ndarray, target: str) -> float:
    """The fraction of residues whose secondary structure, by `secondary`, is the target's."""
    found = secondary(coordinates[:, 1])
    if len(found) != len(target):
        raise UserError(f'{len(found)} residues cannot match a secondary structure of {len(target)}')
    return float(np.mean([a == b for a, b in zip(found, target, strict=True)]))


# Ranges of P-SEA (Labesse et al., CABIOS 13:291, 1997), of distances d2, d3, d4 in angstrom, and angles in degrees.
HELIX = {'d3': (4.8, 5.8), 'd4': (5.8, 7.0), 'bend': (77, 101), 'twist': (30, 70)}
STRAND = {'d2': (6.1, 7.3), 'd3': (9.0, 10.8), 'd4': (11.3, 13.5), 'bend': (110, 138), 'twist': (145, 235)}
BONDED = (4.2, 5.2)  # distance of C-alphas in neighbouring strands


def secondary(ca: np.ndarray) -> str:
    """Secondary structure of C-alphas [L, 3] by the rules of P-SEA: 'a' helix, 'b' strand, 'c' neither.

    A residue may be in a helix where its d3 and d4, or its bend and twist, are in the helix's ranges; 5 such in a row
    are one. In a strand where d2, d3 and d4, or bend and twist, are in the strand's; 4 in a row are one, or 3 that have
    5 C-alphas at the distance of neighbouring strands among them all. Both grow by a residue at each end whose d3 (for
    helices also: whose bend) is in range; nothing is measured at the very ends. Strands overwrite helices.
    """
    ca = np.asarray(ca, float)
    length = len(ca)
    measured = _geometry(ca)

    def within(ranges: dict, *names: str) -> np.ndarray:
        inside = np.ones(length, bool)
        for name in names:
            value, (low, high) = measured[name], ranges[name]
            if name == 'twist':
                value = np.where(value < 0, value + 360, value)  # a strand's range goes through 180 degrees
            inside &= (value >= low) & (value <= high)  # false where it is not defined
        return inside

    found = np.full(length, 'c')
    helix = within(HELIX, 'd3', 'd4') | within(HELIX, 'bend', 'twist')
    for first, last in _runs(helix):
        if last - first >= 5:
            _mark(found, 'a', first, last, within(HELIX, 'd3') | within(HELIX, 'bend'))
    strand = within(STRAND, 'd2', 'd3', 'd4') | within(STRAND, 'bend', 'twist')
    between = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
    contacts = ((between >= BONDED[0]) & (between <= BONDED[1])).sum(1)
    for first, last in _runs(strand):
        if last - first >= 4 or (last - first == 3 and contacts[first:last].sum() >= 5):
            _mark(found, 'b', first, last, within(STRAND, 'd3'))
    return ''.join(found)


def _geometry(ca: np.ndarray) -> dict[str, np.ndarray]:
    """Of residue i, NaN near the ends: d_k from i - 1 to i - 1 + k, the angle at i, the dihedral of i - 1 to i + 2."""
    length = len(ca)
    values = {name: np.full(length, np.nan) for name in ('d2', 'd3', 'd4', 'bend', 'twist')}
    for k in (2, 3, 4):
        if length > k:
            values[f'd{k}'][1 : length - k + 1] = np.linalg.norm(ca[k:] - ca[:-k], axis=1)
    bonds = np.diff(ca, axis=0)
    if length > 2:
        cosine = (
            -(bonds[:-1] * bonds[1:]).sum(1) / np.linalg.norm(bonds[:-1], axis=1) / np.linalg.norm(bonds[1:], axis=1)
        )
        values['bend'][1:-1] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    if length > 3:
        first, second = np.cross(bonds[:-2], bonds[1:-1]), np.cross(bonds[1:-1], bonds[2:])
        across = (np.cross(first, second) * bonds[1:-1]).sum(1) / np.linalg.norm(bonds[1:-1], axis=1)
        values['twist'][1:-2] = np.degrees(np.arctan2(across, (first * second).sum(1)))
    return values


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first, one after the last) of each run of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _mark(found: np.ndarray, letter: str, first: int, last: int, grows: np.ndarray) -> None:
    """Marks a run, and the residue before and after it where `grows`."""
    first -= first > 0 and bool(grows[first - 1])
    last += last < len(found) and bool(grows[min(last, len(found) - 1)])
    found[first:last] = letter
