"""Molecules on the host: SMILES, SELFIES, rewards by RDKit, docking by AutoDock Vina. It never imports jax.

Rewards are functions of SMILES, as `rewards.Scorer` calls them; larger is better. NaN stands for what is no molecule,
or could not be docked.
"""

from __future__ import annotations

import functools
import importlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core_jax.errors import UserError

Molecule = Any  # rdkit.Chem.Mol
FINGERPRINT_BITS = 2048


def library(name: str) -> Any:
    """A module of an optional package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"molecules need {name.split('.')[0]}: pip install 'tenfold[mol]'") from error


@functools.cache
def chem() -> Any:
    """rdkit.Chem, which no longer comments on every molecule that it cannot read."""
    library('rdkit.RDLogger').DisableLog('rdApp.*')
    return library('rdkit.Chem')


def molecule(smiles: str) -> Molecule | None:
    """None where it is empty or no molecule."""
    return (chem().MolFromSmiles(smiles) if smiles else None) or None


def canonical(smiles: str) -> str:
    """RDKit's canonical SMILES; '' where it is no molecule."""
    found = molecule(smiles)
    return chem().MolToSmiles(found) if found else ''


def from_selfies(symbols: Sequence[str]) -> str:
    """The canonical SMILES of SELFIES symbols (Krenn et al., arXiv 1905.13741): always a molecule, or none."""
    return canonical(library('selfies').decoder(''.join(symbols)))


def to_selfies(smiles: str) -> list[str]:
    """SELFIES symbols. Raises UserError, naming the SMILES, where it is no molecule that SELFIES can write."""
    selfies = library('selfies')
    try:
        return list(selfies.split_selfies(selfies.encoder(smiles)))
    except selfies.EncoderError as error:
        raise UserError(f'{smiles!r} cannot be read: {" ".join(str(error).split())[:200]}') from error


# Properties


def _each(score: Callable[[Molecule], float], texts: Sequence[str]) -> list[float]:
    found = [molecule(text) for text in texts]
    return [math.nan if one is None else float(score(one)) for one in found]


def qed(texts: Sequence[str]) -> list[float]:
    """Quantitative estimate of drug-likeness, 0 to 1 (Bickerton et al., Nature Chemistry 4:90, 2012)."""
    return _each(library('rdkit.Chem.QED').qed, texts)


def ease(texts: Sequence[str]) -> list[float]:
    """(10 - SA) / 9, 0 to 1, of the synthetic accessibility score SA (Ertl and Schuffenhauer, 2009): 1 is easiest."""
    return _each(_ease, texts)


def _ease(molecule: Molecule) -> float:
    return (10 - library('rdkit.Contrib.SA_Score.sascorer').calculateScore(molecule)) / 9


def logp(texts: Sequence[str]) -> list[float]:
    """Octanol-water partition coefficient, log10, by Crippen's atoms."""
    return _each(library('rdkit.Chem.Crippen').MolLogP, texts)


def penalised_logp(texts: Sequence[str]) -> list[float]:
    """logP - SA - atoms by which the largest ring exceeds six (Gomez-Bombarelli et al., arXiv 1610.02415)."""

    def score(molecule: Molecule) -> float:
        rings = [len(ring) for ring in molecule.GetRingInfo().AtomRings()]
        accessibility = 10 - 9 * _ease(molecule)
        return library('rdkit.Chem.Crippen').MolLogP(molecule) - accessibility - max(0, max(rings, default=0) - 6)

    return _each(score, texts)


def drug(texts: Sequence[str]) -> list[float]:
    """qed * ease, 0 to 1: drug-like and easy to make."""
    return [a * b for a, b in zip(qed(texts), ease(texts), strict=True)]


ZALEPLON = 'O=C(C)N(CC)C1=CC=CC(C2=CC=NC3=C(C=NN23)C#N)=C1'
ZALEPLON_ATOMS = {'C': 19, 'H': 17, 'N': 3, 'O': 2}
TADALAFIL = 'O=C1N(CC(N2C1CC3=C(C2C4=CC5=C(OCO5)C=C4)NC6=C3C=CC=C6)=O)C'
SILDENAFIL = 'CCCC1=NN(C)C2=C1NC(=NC2=O)C1=C(OCC)C=CC(=C1)S(=O)(=O)N1CCN(C)CC1'


def zaleplon(texts: Sequence[str]) -> list[float]:
    """Geometric mean of likeness to zaleplon and to the formula C19H17N3O2, which zaleplon does not have; 0 to 1.

    (After Zaleplon MPO of GuacaMol, Brown et al., arXiv 1811.09621, from memory and not compared with its code: the
    formula's likeness is the geometric mean of exp(-(n - n*)^2 / 2) of each element's count and of
    exp(-(n - n*)^2 / 8) of all atoms.)
    """

    def score(molecule: Molecule) -> float:
        return math.sqrt(_likeness(molecule, ZALEPLON, 2) * _formula(molecule, ZALEPLON_ATOMS))

    return _each(score, texts)


def median(texts: Sequence[str]) -> list[float]:
    """Geometric mean of likeness to tadalafil and to sildenafil, 0 to 1 (after GuacaMol's Median 2, unverified)."""

    def score(molecule: Molecule) -> float:
        return math.sqrt(_likeness(molecule, TADALAFIL, 3) * _likeness(molecule, SILDENAFIL, 3))

    return _each(score, texts)


def _formula(molecule: Molecule, wanted: dict[str, int]) -> float:
    atoms = [atom.GetSymbol() for atom in chem().AddHs(molecule).GetAtoms()]
    terms = [math.exp(-((atoms.count(symbol) - count) ** 2) / 2) for symbol, count in wanted.items()]
    terms.append(math.exp(-((len(atoms) - sum(wanted.values())) ** 2) / 8))
    return math.prod(terms) ** (1 / len(terms))


def _likeness(molecule: Molecule, reference: str, radius: int) -> float:
    """Tanimoto similarity of counted Morgan environments."""
    data = library('rdkit.DataStructs')
    return data.TanimotoSimilarity(_environments(radius).GetSparseCountFingerprint(molecule), _known(reference, radius))


@functools.cache
def _environments(radius: int) -> Any:
    return library('rdkit.Chem.rdFingerprintGenerator').GetMorganGenerator(radius=radius, fpSize=FINGERPRINT_BITS)


@functools.cache
def _known(smiles: str, radius: int) -> Any:
    return _environments(radius).GetSparseCountFingerprint(molecule(smiles))


def distances(texts: Sequence[str]) -> np.ndarray:
    """1 - Tanimoto similarity of Morgan fingerprints (radius 2, 2048 bits), float64 [N, N].

    What is no molecule is at distance 1 from all others.
    """
    found = [molecule(text) for text in texts]
    prints = [None if one is None else _environments(2).GetFingerprint(one) for one in found]
    valid = [i for i, one in enumerate(prints) if one is not None]
    far = 1.0 - np.eye(len(texts))
    bulk = library('rdkit.DataStructs').BulkTanimotoSimilarity
    for i in valid:
        far[i, valid] = 1 - np.asarray(bulk(prints[i], [prints[j] for j in valid]))
    return far


# Docking


def docking(texts: Sequence[str], receptor: str, exhaustiveness: int = 1, seed: int = 1) -> list[float]:
    """max(0, -E) of the best pose by AutoDock Vina 1.2 (Eberhardt et al., 2021), E in kcal/mol.

    receptor: path of a prepared NAME_target.pdbqt, beside NAME_conf.txt with the box (dockstring's files). The energy
    maps take a second or two, once a process; a molecule a few seconds, more the more often it turns. The same seed
    gives the same energy: it decides the conformer that begins, and the search. NaN where no conformer was found.
    """
    return [_dock(text, receptor, exhaustiveness, seed) for text in texts]


def docking_drug(texts: Sequence[str], receptor: str, exhaustiveness: int = 1, seed: int = 1) -> list[float]:
    """docking / 20, at most 1, times qed times ease: binds, is drug-like, can be made (MOOD, arXiv 2206.07632)."""
    energies = docking(texts, receptor, exhaustiveness, seed)
    return [min(e / 20, 1.0) * rest for e, rest in zip(energies, drug(texts), strict=True)]


def _dock(smiles: str, receptor: str, exhaustiveness: int, seed: int) -> float:
    ligand = _ligand(smiles, seed)
    if ligand is None:
        return math.nan
    vina = _receptor(receptor, seed)
    vina.set_ligand_from_string(ligand)
    vina.dock(exhaustiveness=exhaustiveness, n_poses=1)
    return max(0.0, -float(vina.energies(n_poses=1)[0][0]))


@functools.lru_cache(maxsize=2)
def _receptor(path: str, seed: int) -> Any:
    """A docking engine with the maps of a receptor, on one thread."""
    target = pathlib.Path(path)
    box = read_box(target.with_name(target.name.replace('_target.pdbqt', '_conf.txt')))
    engine = library('vina').Vina(sf_name='vina', cpu=1, seed=seed, verbosity=0)
    engine.set_receptor(str(target))
    engine.compute_vina_maps(center=box[:3], box_size=box[3:])
    return engine


def read_box(path: pathlib.Path) -> list[float]:
    """center_x, y, z and size_x, y, z, in Angstrom. Raises UserError where a line is missing."""
    try:
        lines = dict(line.split('=', 1) for line in path.read_text().splitlines() if '=' in line)
        found = {name.strip(): float(value) for name, value in lines.items()}
        return [found[f'{what}_{axis}'] for what in ('center', 'size') for axis in 'xyz']
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f'{path} is no description of a docking box: {error}') from error


def _ligand(smiles: str, seed: int) -> str | None:
    """A conformer in PDBQT; None where there is none."""
    flat = molecule(smiles)
    if flat is None:
        return None
    all_chem, meeko = library('rdkit.Chem.AllChem'), library('meeko')
    solid = chem().AddHs(flat)
    if all_chem.EmbedMolecule(solid, randomSeed=seed) != 0:
        return None
    all_chem.MMFFOptimizeMolecule(solid)  # leaves it as it is where the force field does not know an atom
    text, done, _ = meeko.PDBQTWriterLegacy.write_string(meeko.MoleculePreparation().prepare(solid)[0])
    return text if done else None


# Pictures


def grid(texts: Sequence[str], legends: Sequence[str], columns: int = 5) -> bytes:
    """A PNG of the structures; what is no molecule is left blank."""
    blank = chem().Mol()
    found = [molecule(text) or blank for text in texts]
    draw = library('rdkit.Chem.Draw')
    return draw.MolsToGridImage(found, molsPerRow=columns, subImgSize=(260, 220), legends=list(legends), returnPNG=True)
