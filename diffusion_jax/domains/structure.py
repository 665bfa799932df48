"""Protein structures: backbones out of PDB text, and rewards of coordinates (RERD, arXiv 2502.14944, section 2.2 of our
sheet). NumPy alone: worker processes import it without jax. Coordinates are in angstrom; larger rewards are better.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from core_jax.errors import UserError

ATOMS = ('N', 'CA', 'C', 'O')
# Van der Waals radii of heavy atoms (Bondi, J. Phys. Chem. 68:441, 1964); hydrogens are left out.
RADII = {'C': 1.70, 'N': 1.55, 'O': 1.52, 'S': 1.80, 'SE': 1.90}
THREE = 'ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR'.split()
ONE = dict(zip(THREE, 'ACDEFGHIKLMNPQRSTVWY', strict=True)) | {'MSE': 'M'}  # selenomethionine stands for methionine


class Backbone(NamedTuple):
    """L residues, in the order of the file. confidence: the column of B factors, where folding programs write pLDDT."""

    coordinates: np.ndarray  # [L, 4, 3] float32 of N, CA, C, O
    residues: np.ndarray  # [L] int32, numbers along the chain
    chains: np.ndarray  # [L] int32, 0, 1, ...
    sequence: str
    confidence: np.ndarray  # [L] float32, of the CA
    heavy: tuple[np.ndarray, ...]  # L of [A, 4] float32: places and radii of all heavy atoms of a residue


def read_pdb(text: str, name: str, chain: str = '') -> Backbone:
    """The first model of a PDB text, or one chain of it.

    Residues without all four atoms, water and what is no amino acid are left out; of alternative positions the first
    counts. Raises UserError, beginning with `name`, where a line is damaged or nothing is left.
    """
    residues: dict[tuple, dict[str, tuple]] = {}
    letters: dict[tuple, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith('ENDMDL'):
            break
        kind, atom, residue = line[17:20], line[12:16].strip(), (line[21:22], line[22:27])
        element = (line[76:78].strip() or line[12:14].strip(' 0123456789')).upper()
        if not line.startswith(('ATOM  ', 'HETATM')) or kind not in ONE or element not in RADII:
            continue
        if chain and line[21:22] != chain:
            continue
        try:
            place = tuple(float(line[start : start + 8]) for start in (30, 38, 46))
            confidence = float(line[60:66] or 0)
            int(line[22:26])
        except ValueError:
            raise UserError(f'{name}, line {number}: not an atom in the format of the PDB') from None
        letters.setdefault(residue, ONE[kind])
        residues.setdefault(residue, {}).setdefault(atom, (*place, RADII[element], confidence))
    whole = {key: atoms for key, atoms in residues.items() if all(atom in atoms for atom in ATOMS)}
    if not whole:
        raise UserError(f'{name}: there is no residue with N, CA, C and O' + (f' in chain {chain}' if chain else ''))
    chains = list(dict.fromkeys(key[0] for key in whole))
    values = np.array([[atoms[atom] for atom in ATOMS] for atoms in whole.values()], np.float32)
    return Backbone(
        coordinates=values[..., :3],
        residues=np.array([int(key[1][:4]) for key in whole], np.int32),
        chains=np.array([chains.index(key[0]) for key in whole], np.int32),
        sequence=''.join(letters[key] for key in whole),
        confidence=values[:, 1, 4],
        heavy=tuple(np.array(list(atoms.values()), np.float32)[:, :4] for atoms in whole.values()),
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


def superposed(mobile: np.ndarray, fixed: np.ndarray, chosen: Any = slice(None)) -> np.ndarray:
    """`mobile` [N, 3], turned and moved so that its squared distance to `fixed` [N, 3] is least (Kabsch 1976).

    chosen: the points that are to be near; the others move with them.
    """
    centre, goal = mobile[chosen].mean(0), fixed[chosen].mean(0)
    u, _, v = np.linalg.svd((mobile[chosen] - centre).T @ (fixed[chosen] - goal))
    handed = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])  # a rotation, never a reflection
    return (mobile - centre) @ (u @ handed @ v) + goal


def crmsd(coordinates: np.ndarray, target: np.ndarray) -> float:
    """Minus the root mean square distance of backbone atoms [L, A, 3] to those of the target, once superposed."""
    _check_lengths(coordinates, target)
    mobile, fixed = coordinates.reshape(-1, 3).astype(float), target.reshape(-1, 3).astype(float)
    return -float(np.sqrt(((superposed(mobile, fixed) - fixed) ** 2).sum(-1).mean()))


def drmsd(coordinates: np.ndarray, target: np.ndarray) -> float:
    """Minus the root mean square difference of distances between C-alphas of [L, A, 3] and of the target."""
    _check_lengths(coordinates, target)
    pairs = np.triu_indices(len(target), 1)
    return -float(np.sqrt(((_between(coordinates)[pairs] - _between(target)[pairs]) ** 2).mean()))


def lddt(coordinates: np.ndarray, target: np.ndarray) -> float:
    """lDDT of C-alphas (Mariani et al., Bioinformatics 29:2722, 2013): 0 to 1, nothing is superposed.

    Of the distances between different residues that are below 15 angstrom in the target, the share that is within 0.5,
    1, 2 and 4 angstrom of it; the mean of these four.
    """
    _check_lengths(coordinates, target)
    pairs = np.triu_indices(len(target), 1)
    wanted = _between(target)[pairs]
    difference = np.abs(_between(coordinates)[pairs] - wanted)[wanted < 15]
    return float(np.mean([(difference < limit).mean() for limit in (0.5, 1, 2, 4)]))


def tm(coordinates: np.ndarray, target: np.ndarray) -> float:
    """TM-score of C-alphas, 0 to 1 (Zhang and Skolnick, Proteins 57:702, 2004), residue i compared with residue i:

        max over superpositions (1 / L) sum_i 1 / (1 + (d_i / d0)^2),  d0 = 1.24 (L - 15)^(1/3) - 1.8, at least 0.5

    It is not TM-align, which also looks for the residues that correspond. As in the authors' program, the superposition
    is sought from fragments of L, L / 2, L / 4, ... down to 4 residues, everywhere: each is superposed, then again and
    again all residues that have come near, until these are the same.
    """
    _check_lengths(coordinates, target)
    mobile, fixed = coordinates[:, 1].astype(float), target[:, 1].astype(float)
    length = len(fixed)
    d0 = max(0.5, 1.24 * np.cbrt(length - 15) - 1.8)
    best = 0.0
    size = length
    while size >= min(4, length):
        for start in range(length - size + 1):
            chosen = np.arange(start, start + size)
            for _ in range(20):
                distance = np.linalg.norm(superposed(mobile, fixed, chosen) - fixed, axis=1)
                best = max(best, float((1 / (1 + (distance / d0) ** 2)).mean()))
                # At least three residues are superposed, the nearest ones.
                limit = max(np.clip(d0, 4.5, 8.0), np.sort(distance)[min(3, length) - 1])
                before, chosen = chosen, np.flatnonzero(distance <= limit)
                if np.array_equal(before, chosen):
                    break
        size //= 2
    return best


def _check_lengths(coordinates: np.ndarray, target: np.ndarray) -> None:
    if coordinates.shape != target.shape:
        raise UserError(f'structures of {coordinates.shape[0]} and {target.shape[0]} residues cannot be compared')


def _between(coordinates: np.ndarray) -> np.ndarray:
    """Distances [L, L] of the C-alphas of [L, A, 3]."""
    ca = coordinates[:, 1].astype(float)
    return np.linalg.norm(ca[:, None] - ca[None], axis=-1)


PROBE = 1.4  # radius of a molecule of water
POINTS = 960  # on the sphere around an atom
HYDROPHOBIC = 'VILFMW'


def hydrophobic(backbone: Backbone) -> float:
    """Minus the share of the heavy atoms of V, I, L, F, M and W that water can touch; 0 where there are none."""
    atoms = np.concatenate(backbone.heavy).astype(float)
    chosen = np.repeat([letter in HYDROPHOBIC for letter in backbone.sequence], [len(own) for own in backbone.heavy])
    return -float((surface(atoms[:, :3], atoms[:, 3])[chosen] > 0).mean()) if chosen.any() else 0.0


def surface(places: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Solvent-accessible surface [A], square angstrom, of atoms [A, 3] with these radii [A].

    (Shrake and Rupley, J. Mol. Biol. 79:351, 1973): the share of points on a sphere, wider than the atom by the radius
    of water, that lie in no other such sphere. The points are a spiral with the golden angle.
    """
    number = np.arange(POINTS) + 0.5
    height, angle = 1 - 2 * number / POINTS, np.pi * (3 - np.sqrt(5)) * number
    across = np.sqrt(1 - height**2)
    sphere = np.stack([across * np.cos(angle), across * np.sin(angle), height], 1)
    reach = radii + PROBE
    free = np.empty(len(places))
    for i, place in enumerate(places):
        apart = places - place
        square = (apart**2).sum(1)
        near = np.flatnonzero((square < (reach + reach[i]) ** 2) & (np.arange(len(places)) != i))
        # |place + reach s - other| >= reach of the other, solved for s . (other - place)
        limit = (reach[i] ** 2 + square[near] - reach[near] ** 2) / (2 * reach[i])
        free[i] = (sphere @ apart[near].T <= limit[None]).all(1).mean()
    return 4 * np.pi * reach**2 * free


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
