"""Rewards of structures that a folding program makes: any command that reads FASTA and prints PDB.

The command gets the sequences on its standard input and prints one structure each, in their order, ended by END or
ENDMDL (confidence, pLDDT, in the column of B factors): ESMFold, or whatever is at hand, behind ten lines of script. No
folding model comes with this package. Of RERD's terms pTM is left out: the format of the PDB has no place for it.
NumPy alone: worker processes import it without jax.
"""

from __future__ import annotations

import functools
import pathlib
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core_jax.errors import UserError, unknown
from diffusion_jax.domains import structure
from diffusion_jax.domains.structure import Backbone

# (folded, target, copies) -> reward; by the names of RERD's code
TERMS: dict[str, Callable[[Backbone, Backbone | None, int], float]] = {
    'crmsd': lambda folded, target, copies: structure.crmsd(folded.coordinates, target.coordinates),
    'drmsd': lambda folded, target, copies: structure.drmsd(folded.coordinates, target.coordinates),
    'tm': lambda folded, target, copies: structure.tm(folded.coordinates, target.coordinates),
    'lddt': lambda folded, target, copies: structure.lddt(folded.coordinates, target.coordinates),
    'match_ss': lambda folded, target, copies: structure.match_ss(
        folded.coordinates, structure.secondary(target.coordinates[:, 1])
    ),
    'globularity': lambda folded, target, copies: structure.globularity(folded.coordinates),
    'symmetry': lambda folded, target, copies: structure.symmetry(folded.coordinates, copies),
    'hydrophobic': lambda folded, target, copies: structure.hydrophobic(folded),
    'plddt': lambda folded, target, copies: float(folded.confidence.mean()) / 100,
}
NEED_TARGET = ('crmsd', 'drmsd', 'tm', 'lddt', 'match_ss')


def reward(command: str, terms: Mapping[str, float], target: str = '', copies: int = 1) -> Callable:
    """texts -> rewards, for worker processes: the sum of `terms` {name: weight} of what the command folds.

    target: a PDB file, for those of `NEED_TARGET`. copies: how often a sequence is repeated before it is folded, for
    symmetry; designs are one protomer.

    Raises UserError for unknown terms, and where target or copies are missing.
    """
    for name in terms:
        if name not in TERMS:
            raise unknown('structural reward', name, TERMS)
        if name in NEED_TARGET and not target:
            raise UserError(f'{name} needs a target structure, a PDB file')
    if not terms or not shlex.split(command):
        raise UserError('structural rewards need a command that folds and at least one of ' + ', '.join(TERMS))
    if copies < 1 or ('symmetry' in terms and copies < 2):
        raise UserError('symmetry needs at least 2 copies of a sequence')
    if target:
        read(target)
    return functools.partial(score, command=command, terms=dict(terms), target=target, copies=copies)


def read(path: str) -> Backbone:
    """The backbone in a PDB file. Raises UserError."""
    try:
        return structure.read_pdb(pathlib.Path(path).read_text(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the structure {path}: {error}') from error


def score(texts: Sequence[str], *, command: str, terms: Mapping[str, float], target: str, copies: int) -> list[float]:
    """What `reward` promises. Raises RuntimeError where the command fails for these sequences."""
    wanted = read(target) if target else None
    folded = fold(command, [text * copies for text in texts])
    return [sum(weight * TERMS[name](one, wanted, copies) for name, weight in terms.items()) for one in folded]


def fold(command: str, sequences: Sequence[str]) -> list[Backbone]:
    """Structures of the sequences, by the command.

    Raises UserError where there is no such command; RuntimeError, with its last words, where it fails, prints another
    number of structures, or one of another sequence.
    """
    fasta = ''.join(f'>{i}\n{sequence}\n' for i, sequence in enumerate(sequences))
    words = shlex.split(command)
    try:
        done = subprocess.run(words, input=fasta, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f'cannot run the folding command {words[0]!r}: {error.strerror}') from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ['nothing'])[-1]
        raise RuntimeError(f'{words[0]} ended with status {done.returncode}; it said: {said}')
    try:
        folded = structure.read_models(done.stdout, f'the output of {words[0]}')
    except UserError as error:
        raise RuntimeError(str(error)) from error
    if len(folded) != len(sequences):
        raise RuntimeError(f'{words[0]} printed {len(folded)} structures for {len(sequences)} sequences')
    for one, sequence in zip(folded, sequences, strict=True):
        if one.sequence != sequence:
            raise RuntimeError(f'{words[0]} printed the structure of {one.sequence}, not of {sequence}')
        if not np.isfinite(one.coordinates).all():
            raise RuntimeError(f'{words[0]} printed coordinates that are not finite')
    return folded
