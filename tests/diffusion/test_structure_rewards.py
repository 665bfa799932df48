"""Structural rewards on coordinates, PDB text, and the folding command."""

import functools
import itertools
import pickle

import numpy as np
import pytest
from protein_tools import GOLDEN, backbone, folding_command, helix, pdb, rotation

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


def noisy(length=24, spread=2.0, seed=0):
    """(a structure, the same with noise, turned and moved)"""
    coordinates = backbone(helix(length)).astype(float)
    noise = spread * np.random.default_rng(seed).normal(size=coordinates.shape)
    return coordinates, (coordinates + noise) @ rotation(seed) + 5.0


def test_distances_are_compared_pair_by_pair():
    target, found = noisy()
    differences, kept = [], {0.5: 0, 1: 0, 2: 0, 4: 0}
    near = 0
    for i, j in itertools.combinations(range(len(target)), 2):
        wanted = np.linalg.norm(target[i, 1] - target[j, 1])
        difference = np.linalg.norm(found[i, 1] - found[j, 1]) - wanted
        differences.append(difference)
        if wanted < 15:
            near += 1
            for limit in kept:
                kept[limit] += abs(difference) < limit
    assert structure.drmsd(found, target) == pytest.approx(-np.sqrt(np.mean(np.square(differences))))
    assert near < len(differences) and structure.lddt(found, target) == pytest.approx(sum(kept.values()) / near / 4)
    assert structure.lddt(target, target) == 1 and structure.drmsd(target, target) == 0
    mirrored = target * np.array([1, 1, -1])  # distances do not tell a structure from its mirror image
    assert structure.drmsd(mirrored, target) == pytest.approx(0, abs=1e-9)


def tm_of(mobile, fixed, turn, shift):
    """TM-score of C-alphas in one superposition, written out."""
    length = len(fixed)
    d0 = max(0.5, 1.24 * np.cbrt(length - 15) - 1.8)
    return (
        sum(1 / (1 + ((turn @ a + shift - b) ** 2).sum() / d0**2) for a, b in zip(mobile, fixed, strict=True)) / length
    )


def test_tm_is_the_largest_over_superpositions():
    from scipy.optimize import minimize
    from scipy.spatial.transform import Rotation

    target, found = noisy(length=40, spread=1.0)
    a, b = found[:, 1] - found[:, 1].mean(0), target[:, 1] - target[:, 1].mean(0)

    def lost(at):
        return -tm_of(a, b, Rotation.from_rotvec(at[:3]).as_matrix(), at[3:])

    starts = [np.concatenate([Rotation.align_vectors(b, a)[0].as_rotvec(), np.zeros(3)])]
    starts += [starts[0] + 0.5 * np.random.default_rng(seed).normal(size=6) for seed in range(3)]
    best = max(-minimize(lost, start, method='Powell').fun for start in starts)
    assert 0.2 < best < 0.95 and structure.tm(found, target) == pytest.approx(best, abs=5e-3)


def test_tm_of_known_structures():
    whole, moved = noisy(spread=0.0)
    assert structure.tm(moved, whole) == pytest.approx(1)
    hinged = backbone(helix(60)).astype(float)
    target = hinged.copy()
    hinged[36:] = hinged[36:] @ rotation(3) + 1e4  # 36 residues fit, the others are far away
    assert structure.tm(hinged, target) == pytest.approx(36 / 60, abs=1e-4)
    assert structure.tm(whole[:2], whole[:2]) == pytest.approx(1)
    for reward in (structure.tm, structure.lddt, structure.drmsd):
        with pytest.raises(UserError, match='24 and 23 residues cannot be compared'):
            reward(whole, whole[:23])


def test_surfaces_in_closed_form():
    """Of one atom, two that overlap (a sphere without a cap), and one that is buried."""
    places, radii = np.array([[0.0, 0, 0], [2.5, 0, 0], [50, 0, 0]]), np.array([1.7, 1.52, 1.8])
    reach = radii + 1.4
    height = (2.5**2 + reach[0] ** 2 - reach[1] ** 2) / (2 * 2.5)  # of the plane in which they meet
    expected = [
        2 * np.pi * reach[0] * (reach[0] + height),
        2 * np.pi * reach[1] * (reach[1] + 2.5 - height),
        4 * np.pi * reach[2] ** 2,
    ]
    np.testing.assert_allclose(structure.surface(places, radii), expected, rtol=0.01)
    around = 2.0 * np.concatenate([np.eye(3), -np.eye(3), np.array(list(itertools.product([-1, 1], repeat=3))) / 1.7])
    free = structure.surface(np.concatenate([np.zeros((1, 3)), around]), np.full(15, 1.7))
    assert free[0] == 0 and (free[1:] > 0).all()


def test_hydrophobic_counts_atoms_that_water_touches():
    """By spheres of random points, atom by atom."""
    rng = np.random.default_rng(0)
    text = pdb(rng.normal(size=(12, 4, 3)) * 3.5, 'VAILGFMWKVLI')
    found = structure.read_pdb(text, 'x')
    atoms = np.concatenate(found.heavy).astype(float)
    points = rng.normal(size=(20_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    exposed = []
    for i, (*place, radius) in enumerate(atoms):
        if found.sequence[i // 4] in 'VILFMW':
            on = np.array(place) + (radius + 1.4) * points
            free = np.ones(len(on), bool)
            for j, (*other, size) in enumerate(atoms):
                free &= (j == i) | (np.linalg.norm(on - np.array(other), axis=1) >= size + 1.4)
            exposed.append(free.any())
    share = np.mean(exposed)
    assert 0.2 < share < 0.9 and structure.hydrophobic(found) == pytest.approx(-share, abs=1.5 / len(exposed))
    assert structure.hydrophobic(structure.read_pdb(pdb(backbone(helix(3)), 'AGK'), 'x')) == 0


def test_heavy_atoms_are_all_but_hydrogens():
    lines = pdb(backbone(helix(2)), 'CM').splitlines()
    sulfur = lines[7][:12] + ' SG ' + lines[7][16:17] + 'CYS A   1' + lines[7][26:76] + ' S'
    hydrogen = sulfur[:12] + ' HB2' + sulfur[16:76] + ' H'
    unnamed = sulfur[:12] + ' CB ' + sulfur[16:66]  # no column of elements: its name says it
    found = structure.read_pdb('\n'.join([*lines[:4], sulfur, hydrogen, unnamed, *lines[4:]]), 'x')
    assert [len(atoms) for atoms in found.heavy] == [6, 4]
    np.testing.assert_allclose(found.heavy[0][:, 3], [1.55, 1.7, 1.7, 1.52, 1.8, 1.7])
    np.testing.assert_allclose(found.heavy[1][:, :3], found.coordinates[1])
    assert [len(atoms) for atoms in structure.window(found, 1, 1).heavy] == [4]


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


def test_rewards_of_folded_structures(tmp_path):
    target = tmp_path / 'target.pdb'
    target.write_text(pdb(backbone(helix(6)) @ rotation(1).astype(np.float32), 'AAAAAA'))
    terms = {'crmsd': 1.0, 'plddt': 0.5}
    made = folding.reward(folding_command(tmp_path), terms, str(target))
    assert isinstance(made, functools.partial)
    made = pickle.loads(pickle.dumps(made))  # worker processes get it so
    np.testing.assert_allclose(made(['ACDEFG', 'HIKLMN']), [0.4, 0.4], atol=2e-3)
    exact = folding.reward(folding_command(tmp_path), {'tm': 1.0, 'lddt': 10.0, 'drmsd': 100.0}, str(target))
    np.testing.assert_allclose(exact(['ACDEFG']), [11], atol=0.2)
    exposed = folding.reward(folding_command(tmp_path), {'hydrophobic': 1.0})
    assert exposed(['VVVVVV', 'AAAAAA']) == [pytest.approx(-23 / 24, abs=2 / 24), 0]
    repeated = folding.reward(folding_command(tmp_path), {'symmetry': 1.0}, copies=3)
    centres = np.stack([backbone(helix(12))[4 * i : 4 * i + 4, :3].mean((0, 1)) for i in range(3)])
    gaps = np.linalg.norm(centres - np.roll(centres, -1, 0), axis=1)
    np.testing.assert_allclose(repeated(['ACDE']), [-np.std(gaps)], atol=1e-3)


def test_a_command_that_fails(tmp_path):
    with pytest.raises(RuntimeError, match='status 1; it said: no tryptophan, please'):
        folding.fold(folding_command(tmp_path), ['ACW'])
    with pytest.raises(RuntimeError, match='printed the structure of ACA, not of ACY'):
        folding.fold(folding_command(tmp_path, wrong='A'), ['ACY'])
    with pytest.raises(RuntimeError, match='printed 0 structures for 1'):
        folding.fold('true', ['ACD'])
    with pytest.raises(UserError, match="cannot run the folding command 'no-such-program'"):
        folding.fold('no-such-program --fast', ['ACD'])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('fold', {'crms': 1.0}), "unknown structural reward 'crms'; did you mean 'crmsd'"),
        (('fold', {'crmsd': 1.0}), 'crmsd needs a target structure'),
        (('fold', {'lddt': 1.0}), 'lddt needs a target structure'),
        (('fold', {'match_ss': 1.0}, '/no/where.pdb'), 'cannot read the structure /no/where.pdb'),
        (('fold', {'symmetry': 1.0}), 'at least 2 copies'),
        (('', {'plddt': 1.0}), 'need a command'),
        (('fold', {}), 'at least one of'),
    ],
)
def test_structural_rewards_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        folding.reward(*arguments)
