"""Stand-ins for protein structures and for ProteinMPNN's weights."""

import itertools
import json
import pathlib
import shlex
import sys

import numpy as np

from diffusion_jax.domains import structure

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def helix(length, rise=1.5, turn=100.0, radius=2.3):
    angle = np.radians(turn) * np.arange(length)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), rise * np.arange(length)], 1)


def backbone(ca):
    """Four atoms a residue, around each C-alpha."""
    offsets = np.array([[-1.2, 0.3, -0.6], [0, 0, 0], [1.1, -0.5, 0.7], [1.4, -1.6, 0.9]])
    return (np.asarray(ca)[:, None] + offsets[None]).astype(np.float32)


def pdb(coordinates, sequence, chains=None, first=1, confidence=80.0):
    lines, number = [], itertools.count(1)
    three = {one: code for code, one in structure.ONE.items() if code != 'MSE'}
    for i, (atoms, letter) in enumerate(zip(coordinates, sequence, strict=True)):
        chain = chains[i] if chains else 'A'
        for atom, (x, y, z) in zip(structure.ATOMS, atoms, strict=True):
            lines.append(
                f'ATOM  {next(number):5d}  {atom:<3} {three[letter]} {chain}{first + i:4d}    '
                f'{x:8.3f}{y:8.3f}{z:8.3f}  1.00{confidence:6.2f}           {atom[0]}'
            )
    return '\n'.join([*lines, 'END']) + '\n'


FOLDER = """
import sys
sys.path[:0] = {paths!r}
from protein_tools import backbone, helix, pdb
for line in sys.stdin:
    if not line.startswith('>'):
        sequence = line.strip()
        if {refused!r} in sequence:
            sys.exit('no tryptophan, please')
        print(pdb(backbone(helix(len(sequence))), sequence.replace('Y', {wrong!r})), end='')
"""


def folding_command(directory, refused='W', wrong='Y'):
    """A command that makes a helix of any sequence, fails for one with `refused`, and reads Y as `wrong`."""
    here = pathlib.Path(__file__).parent
    script = directory / 'fold.py'
    script.write_text(FOLDER.format(paths=[str(here), str(here.parent.parent)], refused=refused, wrong=wrong))
    return shlex.join([sys.executable, str(script)])


def random_weights():
    """Of the published names and shapes, the same in every environment: the golden numbers are made with them."""
    weights = {}
    shapes = json.loads((GOLDEN / 'proteinmpnn.json').read_text())
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        noise = np.random.default_rng(number).normal(size=shape)
        kind = name.split('|')[1]
        scaled = noise * {'w': shape[0] ** -0.5, 'W_s': 1.0}.get(kind, 0.1)
        weights[name] = (1 + scaled if kind == 'scale' else scaled).astype(np.float32)
    return weights
