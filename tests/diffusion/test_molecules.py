"""Molecules: SELFIES and SMILES, properties by hand, metrics, files; docking and the trained model where data are."""

import csv
import functools
import math
import subprocess
import sys

import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax import fetch
from diffusion_jax.rewards import Scorer

pytest.importorskip('rdkit')
pytest.importorskip('selfies')

from diffusion_jax.domains import chemistry, molecules  # noqa: E402

ASPIRIN, CAFFEINE = 'CC(=O)Oc1ccccc1C(=O)O', 'Cn1c(=O)c2c(ncn2C)n(C)c1=O'
KNOWN = [ASPIRIN, CAFFEINE, 'CCO', 'c1ccccc1', 'CC(C)Cc1ccc(cc1)C(C)C(=O)O', 'NS(=O)(=O)c1ccc(Cl)cc1', 'N#CC1CCCCCCC1']


def test_designs_are_read_and_written():
    designs = molecules.encode(KNOWN)
    assert designs.shape == (len(KNOWN), molecules.LENGTH) and designs.dtype == np.int8
    assert molecules.decode(designs) == [chemistry.canonical(text) for text in KNOWN]
    # What stands for nothing may stand anywhere; a design of nothing is no molecule.
    spread = np.zeros_like(designs[:1])
    spread[0, 4 : 4 + 2 * 3 : 2] = designs[2, :3]
    assert molecules.decode(spread) == ['CCO'] and molecules.decode(0 * spread) == ['']
    assert molecules.decode(designs[:0]) == []


def test_every_design_is_a_molecule_or_empty(key):
    designs = np.random.default_rng(0).integers(0, len(molecules.SYMBOLS), (200, molecules.LENGTH))
    texts = molecules.decode(designs)
    assert all(text and chemistry.molecule(text) for text in texts)
    # What was decoded can be encoded again, unless it grew (rings may close differently) or has atoms of its own.
    again = [text for text in texts if len(chemistry.to_selfies(text)) <= molecules.LENGTH and '+' not in text]
    readable = [text for text in again if set(chemistry.to_selfies(text)) <= set(molecules.SYMBOLS)]
    assert len(readable) > 20
    assert molecules.decode(molecules.encode(readable)) == readable


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('C1CC', "'C1CC' cannot be read"),
        ('', "'' cannot be read"),
        ('C[Si](C)C', r'has \[Si.*not in MOSES'),
        ('C' * 60, 'takes 60 SELFIES symbols; designs have 52'),
    ],
)
def test_what_cannot_be_read_is_named(text, words):
    with pytest.raises(UserError, match=words):
        molecules.encode(['CCO', text])


def test_a_mask_is_never_decoded():
    with pytest.raises(ValueError, match='tokens outside 0 to'):
        molecules.decode(np.full((1, molecules.LENGTH), len(molecules.SYMBOLS)))


def test_properties():
    from rdkit.Chem import Crippen, MolFromSmiles

    # Published: QED of aspirin 0.55, SA of aspirin 1.58.
    assert chemistry.qed([ASPIRIN]) == [pytest.approx(0.55, abs=0.005)]
    assert chemistry.ease([ASPIRIN]) == [pytest.approx((10 - 1.58) / 9, abs=0.002)]
    assert chemistry.logp([CAFFEINE]) == [Crippen.MolLogP(MolFromSmiles(CAFFEINE))]
    assert chemistry.drug([ASPIRIN])[0] == chemistry.qed([ASPIRIN])[0] * chemistry.ease([ASPIRIN])[0]
    ring = 'N#CC1CCCCCCC1'  # eight atoms: two too many
    accessibility = 10 - 9 * chemistry.ease([ring])[0]
    assert chemistry.penalised_logp([ring]) == [pytest.approx(chemistry.logp([ring])[0] - accessibility - 2)]
    for reward in (chemistry.qed, chemistry.ease, chemistry.logp, chemistry.penalised_logp, chemistry.drug):
        values = reward(['CCO', '', 'no molecule'])
        assert math.isfinite(values[0]) and math.isnan(values[1]) and math.isnan(values[2])


def test_likeness():
    # Zaleplon is C17H15N5O: like itself, but not of the other formula (differences 2, 2, 2, 1; 38 atoms instead of 41).
    formula = math.exp(-(4 + 4 + 4 + 1) / 2 - 9 / 8) ** (1 / 5)
    assert chemistry.zaleplon([chemistry.ZALEPLON]) == [pytest.approx(math.sqrt(formula))]
    both = chemistry.median([chemistry.TADALAFIL, chemistry.SILDENAFIL])
    assert both[0] == pytest.approx(both[1]) and 0 < both[0] < 1
    assert chemistry.median(['CCO'])[0] < both[0]


def test_distances():
    far = chemistry.distances([ASPIRIN, ASPIRIN, CAFFEINE, ''])
    assert far[0, 1] == 0 and 0.5 < far[0, 2] < 1 and (far[3, :3] == 1).all()
    np.testing.assert_array_equal(far, far.T)
    np.testing.assert_array_equal(np.diag(far), 0)


def test_measures():
    designs = molecules.encode([ASPIRIN, ASPIRIN, CAFFEINE, 'CCO'])
    designs[3] = 0
    known = molecules.identity([chemistry.canonical(CAFFEINE), 'C'])
    expected = {'validity': 0.75, 'uniqueness': 2 / 3, 'novelty': 0.5}
    assert molecules.measures(designs, known) == pytest.approx(expected)
    assert molecules.measures(0 * designs, known) == {name: 0.0 for name in expected}


def test_files(tmp_path):
    designs = molecules.encode([ASPIRIN, 'CCO', CAFFEINE])
    designs[1] = 0
    paths = molecules.write(tmp_path / 'new', designs, {'qed': [0.5, 0.0, 0.25], 'failed': [0, 1, 0]})
    assert [path.name for path in paths] == ['designs.csv', 'designs.smi', 'designs.png']
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert [row['qed'] for row in rows] == ['0.5', '0.0', '0.25'] and rows[1]['design'] == ''
    lines = [line.split() for line in paths[1].read_text().splitlines()]
    assert lines == [[chemistry.canonical(ASPIRIN), '0'], [chemistry.canonical(CAFFEINE), '2']]
    assert paths[2].read_bytes().startswith(b'\x89PNG')


def test_rewards_run_in_processes():
    """Each can be sent to one, and none needs jax there."""
    offered = molecules.rewards(molecules.get_config())
    with Scorer(offered['drug'].on_host, workers=1) as scorer:
        assert scorer.submit([ASPIRIN]).result() == chemistry.drug([ASPIRIN])
    code = 'import sys, diffusion_jax.domains.chemistry as c; c.qed(["C"]); sys.exit("jax" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
    assert all(one.held_out in (None, *offered) for one in offered.values())


def test_boxes_are_read(tmp_path):
    box = tmp_path / 'X_conf.txt'
    box.write_text('center_x = 1\ncenter_y = 2.5\ncenter_z = -3\n\nsize_x = 20\nsize_y = 21\nsize_z = 22.0\n')
    assert chemistry.read_box(box) == [1, 2.5, -3, 20, 21, 22]
    box.write_text('center_x = 1\n')
    with pytest.raises(UserError, match='X_conf.txt is no description of a docking box'):
        chemistry.read_box(box)


@pytest.mark.slow
def test_docking():
    pytest.importorskip('vina')
    pytest.importorskip('meeko')
    receptor = str(fetch.path('receptors/PARP1_target.pdbqt'))
    guide = functools.partial(chemistry.docking, receptor=receptor)
    with Scorer(guide, workers=1) as scorer:
        rewards = scorer.submit([ASPIRIN, 'C', '']).result()
        assert 4 < rewards[0] < 9 and 0 < rewards[1] < 2 and np.isnan(rewards[2])
        np.testing.assert_array_equal(rewards[:2], guide([ASPIRIN, 'C']))
        both = chemistry.docking_drug([ASPIRIN], receptor)[0]
        assert both == pytest.approx(rewards[0] / 20 * chemistry.drug([ASPIRIN])[0])


@pytest.mark.slow
def test_moses():
    data = molecules.load(1000)
    assert data['tokens'].shape == (1000, molecules.LENGTH) and len(np.unique(data['identity'])) == 1000
    texts = molecules.decode(data['tokens'])
    np.testing.assert_array_equal(molecules.identity(texts), data['identity'])
    assert molecules.measures(data['tokens'][:50], data['identity'])['novelty'] == 0
    assert np.mean(chemistry.qed(texts)) == pytest.approx(0.807, abs=0.01)  # MOSES' own mean
