"""Structural rewards on coordinates, PDB text, and the folding command."""

import functools
import os
import pathlib
import pickle
import shlex
import sys

import numpy as np
import pytest
from protein_tools import GOLDEN, backbone, helix, pdb, rotation

from core_jax.datasets import read_npz
from core_jax.errors import UserError
from diffusion_jax.domains import folding, structure

# By `annotate_sse` of biotite 1.6.0.
SECONDARY_3MSI = 'ccbbbbbbccccccccccccccbbbbb' + 39 * 'c'


# PDB text


def test_a_backbone_is_read_back():
    coordinates = backbone(helix(5))
    found = structure.read_pdb(pdb(coordinates, 'ACDEF', chains='AABBB', first=7), 'x')
    np.testing.assert_allclose(found.coordinates, coordinates, atol=6e-4)
    assert found.sequence == 'ACDEF' and found.coordinates.dtype == np.float32
    np.testing.assert_array_equal(found.residues, [7, 8, 9, 10, 11])
    np.testing.assert_array_equal(found.chains, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(found.confidence, 80)
    assert structure.read_pdb(pdb(coordinates, 'ACDEF', chains='AABBB'), 'x', chain='B').sequence == 'DEF'


def test_what_is_left_out():
    lines = pdb(backbone(helix(3)), 'ACD').splitlines()
    second = [line.replace('ATOM  ', 'HETATM').replace('CYS', 'MSE') for line in lines[4:8]]
    alternative = lines[1][:16] + 'B' + lines[1][17:30] + ' 999.000' + lines[1][38:]
    water = lines[0].replace('ATOM  ', 'HETATM').replace('ALA', 'HOH')
    text = [*lines[:4], alternative, *second, *lines[8:11], water, 'ENDMDL', *lines]  # the third residue has no O
    found = structure.read_pdb('\n'.join(text), 'x')
    assert found.sequence == 'AM' and found.coordinates.max() < 100


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'x: there is no residue with N, CA, C and O'),
        (pdb(backbone(helix(1)), 'A').replace('2.300', '  2.x'), 'x, line 2: not an atom'),
    ],
)
def test_text_that_is_no_structure(text, message):
    with pytest.raises(UserError, match=message):
        structure.read_pdb(text, 'x')


def test_several_structures_and_windows():
    one, two = pdb(backbone(helix(4)), 'ACDE'), pdb(backbone(helix(2)), 'WY')
    found = structure.read_models('HEADER\n' + one.replace('END', 'ENDMDL\nEND') + two.removesuffix('END\n'), 'x')
    assert [model.sequence for model in found] == ['ACDE', 'WY']
    part = structure.window(found[0], 1, 2)
    assert part.sequence == 'CD' and part.coordinates.shape == (2, 4, 3) and list(part.residues) == [2, 3]
    with pytest.raises(UserError, match='4 residues has no window of 3 at 2'):
        structure.window(found[0], 2, 3)


# Rewards


def test_crmsd_does_not_see_a_rigid_motion():
    coordinates = backbone(helix(10))
    moved = coordinates @ rotation(0) + np.array([3.0, -20.0, 7.0])
    assert structure.crmsd(moved, coordinates) == pytest.approx(0, abs=1e-4)


def test_crmsd_is_the_least_over_rotations():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 4, 3)) * 5, rng.normal(size=(6, 4, 3)) * 5
    found = -structure.crmsd(a, b)
    x, y = (points.reshape(-1, 3) - points.reshape(-1, 3).mean(0) for points in (a, b))
    tried = [np.sqrt(((x @ rotation(seed) - y) ** 2).sum(1).mean()) for seed in range(3000)]
    assert found <= min(tried) and min(tried) < found * 1.05


def test_crmsd_knows_a_mirror_image_and_the_length():
    coordinates = backbone(helix(12))
    assert structure.crmsd(coordinates * np.array([1, 1, -1]), coordinates) < -1
    with pytest.raises(UserError, match='12 and 11 residues'):
        structure.crmsd(coordinates, coordinates[:11])


def test_globularity():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4, 3, 3))
    atoms = np.concatenate([directions, -directions])  # centred
    sphere = 10 * atoms / np.linalg.norm(atoms, axis=-1, keepdims=True)
    oxygen = np.full((8, 1, 3), 500.0)  # does not count
    assert structure.globularity(np.concatenate([sphere, oxygen], 1)) == pytest.approx(0, abs=1e-6)
    rod = np.zeros((2, 4, 3))
    rod[0, :3, 0], rod[1, :3, 0] = [-3, -2, -1], [1, 2, 3]
    assert structure.globularity(rod) == pytest.approx(-np.std([3, 2, 1, 1, 2, 3]))


def ring(copies, radius=20.0, order=None):
    part = backbone(helix(6))
    part = part - part[:, :3].mean((0, 1))
    angles = 2 * np.pi * np.arange(copies) / copies
    parts = [part + radius * np.array([np.cos(angle), np.sin(angle), 0]) for angle in angles]
    return np.concatenate([parts[i] for i in (order or range(copies))])


def test_symmetry():
    assert structure.symmetry(ring(5), 5) == pytest.approx(0, abs=1e-5)
    side, diagonal = 20 * np.sqrt(2), 40.0
    crossed = ring(4, order=[0, 2, 1, 3])  # two sides and two diagonals
    assert structure.symmetry(crossed, 4) == pytest.approx(-np.std([side, diagonal] * 2), rel=1e-5)
    all_pairs = -np.std([side] * 4 + [diagonal] * 2)
    assert structure.symmetry(ring(4), 4, all_pairs=True) == pytest.approx(all_pairs, rel=1e-5)
    with pytest.raises(UserError, match='30 residues does not divide into 4'):
        structure.symmetry(ring(5), 4)


# Secondary structure


def test_an_ideal_helix_and_strand():
    """Nothing is measured at the ends, where residues have no neighbours on both sides."""
    assert structure.secondary(helix(15)) == 'c' + 'a' * 13 + 'c'
    strand = np.stack([3.3 * np.arange(12), 0.9 * (-1.0) ** np.arange(12), np.zeros(12)], 1)
    assert structure.secondary(strand) == 'c' + 'b' * 9 + 'cc'
    assert structure.secondary(np.cumsum(np.ones((3, 3)), 0)) == 'ccc'


def test_secondary_structure_of_a_crystal():
    found = structure.secondary(read_npz(GOLDEN / 'proteinmpnn.npz')['coordinates'][:, 1])
    assert found == SECONDARY_3MSI


def test_match_ss_is_a_fraction_and_wants_equal_lengths():
    coordinates = backbone(helix(15))
    assert structure.match_ss(coordinates, 'c' + 'a' * 13 + 'c') == 1
    assert structure.match_ss(coordinates, 'a' * 12 + 'ccc') == pytest.approx(12 / 15)
    with pytest.raises(UserError, match='15 residues cannot match'):
        structure.match_ss(coordinates, 'aaa')


def test_angles_and_dihedrals_by_naive_formulas():
    ca = np.random.default_rng(0).normal(size=(7, 3)) * 4
    found = structure._geometry(ca)
    for i in range(7):
        if 1 <= i <= 5:
            a, b = ca[i - 1] - ca[i], ca[i + 1] - ca[i]
            angle = np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
            assert found['bend'][i] == pytest.approx(angle)
        else:
            assert np.isnan(found['bend'][i])
        if 1 <= i <= 4:
            b = [ca[j + 1] - ca[j] for j in range(i - 1, i + 2)]
            n, m = np.cross(b[0], b[1]), np.cross(b[1], b[2])
            angle = np.degrees(np.arccos(n @ m / np.linalg.norm(n) / np.linalg.norm(m))) * np.sign(n @ b[2])
            assert found['twist'][i] == pytest.approx(angle)
        for k in (2, 3, 4):
            j = i - 1 + k
            if i >= 1 and j < 7:
                assert found[f'd{k}'][i] == pytest.approx(np.linalg.norm(ca[j] - ca[i - 1]))
            else:
                assert np.isnan(found[f'd{k}'][i])


# The folding command

FOLDER = """
import sys
sys.path.insert(0, {here!r})
from protein_tools import backbone, helix, pdb
for line in sys.stdin:
    if not line.startswith('>'):
        sequence = line.strip()
        if 'W' in sequence:
            sys.exit('no tryptophan, please')
        print(pdb(backbone(helix(len(sequence))), sequence.replace('Y', {wrong!r})), end='')
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    here = pathlib.Path(__file__).parent
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(here.parent.parent), os.environ.get('PYTHONPATH', '')]))

    def command(wrong='Y'):
        script = tmp_path / 'fold.py'
        script.write_text(FOLDER.format(here=str(here), wrong=wrong))
        return shlex.join([sys.executable, str(script)])

    return command


def test_rewards_of_folded_structures(folder, tmp_path):
    target = tmp_path / 'target.pdb'
    target.write_text(pdb(backbone(helix(6)) @ rotation(1).astype(np.float32), 'AAAAAA'))
    terms = {'crmsd': 1.0, 'plddt': 0.5}
    made = folding.reward(folder(), terms, str(target))
    assert isinstance(made, functools.partial)
    made = pickle.loads(pickle.dumps(made))  # worker processes get it so
    np.testing.assert_allclose(made(['ACDEFG', 'HIKLMN']), [0.4, 0.4], atol=2e-3)
    repeated = folding.reward(folder(), {'symmetry': 1.0}, copies=3)
    centres = np.stack([backbone(helix(12))[4 * i : 4 * i + 4, :3].mean((0, 1)) for i in range(3)])
    gaps = np.linalg.norm(centres - np.roll(centres, -1, 0), axis=1)
    np.testing.assert_allclose(repeated(['ACDE']), [-np.std(gaps)], atol=1e-3)


def test_a_command_that_fails(folder):
    with pytest.raises(RuntimeError, match='status 1; it said: no tryptophan, please'):
        folding.fold(folder(), ['ACW'])
    with pytest.raises(RuntimeError, match='printed the structure of ACA, not of ACY'):
        folding.fold(folder(wrong='A'), ['ACY'])
    with pytest.raises(RuntimeError, match='printed 0 structures for 1'):
        folding.fold('true', ['ACD'])
    with pytest.raises(UserError, match="cannot run the folding command 'no-such-program'"):
        folding.fold('no-such-program --fast', ['ACD'])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('fold', {'crms': 1.0}), "unknown structural reward 'crms'; did you mean 'crmsd'"),
        (('fold', {'crmsd': 1.0}), 'crmsd needs a target structure'),
        (('fold', {'match_ss': 1.0}, '/no/where.pdb'), 'cannot read the structure /no/where.pdb'),
        (('fold', {'symmetry': 1.0}), 'at least 2 copies'),
        (('', {'plddt': 1.0}), 'need a command'),
        (('fold', {}), 'at least one of'),
    ],
)
def test_structural_rewards_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        folding.reward(*arguments)
