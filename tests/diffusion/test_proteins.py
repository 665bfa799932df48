"""The proteins' task on small backbones and random weights, and rewards of composition against NumPy."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from protein_tools import backbone, folding_command, helix, pdb, random_weights, rotation

from core_jax import datasets
from core_jax.errors import UserError
from diffusion_jax import api, main
from diffusion_jax.domains import composition, folding, proteins, sequences
from diffusion_jax.models import mpnn
from diffusion_jax.process import sample

LETTERS = sequences.PROTEIN


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Two backbones, of 10 and 13 residues, and weights: the judge's differ from the guide's."""
    home = tmp_path_factory.mktemp('data')
    (home / 'diffusion' / 'proteinmpnn').mkdir(parents=True)
    weights = random_weights()
    for name in ('v_48_002', 'v_48_010', 'v_48_020'):
        if name == 'v_48_002':
            weights = {key: -value if key.endswith('W_out|w') else value for key, value in weights.items()}
        datasets.save_npz(home / 'diffusion' / 'proteinmpnn' / f'{name}.npz', weights, compress=False)
        weights = random_weights()
    coordinates = backbone(helix(13))
    (home / 'one.pdb').write_text(pdb(coordinates[:10], 'ACDEFGHIKL'))
    (home / 'two.pdb').write_text(pdb(coordinates @ rotation(0).astype(np.float32) * 1.4, 'A' * 13))
    return home


@pytest.fixture(scope='module')
def task(files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TENFOLD_DATA', str(files))
        proteins.weights.cache_clear()
        config = proteins.get_config()
        config.update({'backbone': str(files / 'one.pdb'), 'second': str(files / 'two.pdb'), 'steps': 3, 'orders': 2})
        config.update({'fold': 'a-folder --quick', 'structure': 'crmsd:1,plddt:0.5'})
        yield proteins.make(config=config)
        proteins.weights.cache_clear()


@pytest.fixture(scope='module')
def designs(task):
    return np.asarray(jax.jit(sample)(task.process, jax.random.split(jax.random.key(0), 3)))


def test_designs_are_whole(task, designs):
    assert task.process.steps == 3 and designs.shape == (3, 10) and 0 <= designs.min() and designs.max() < 20
    np.testing.assert_array_equal(task.encode(task.decode(designs)), designs)
    with pytest.raises(UserError, match="'ACDEFGHIKX' has 'X'"):
        task.encode(['ACDEFGHIKX'])


def test_likelihoods_that_guide_and_judge(task, designs):
    values = {}
    for name in ('two-state', 'two-state-held-out', 'stability'):
        reward = task.rewards[name]
        values[name] = np.asarray(jax.jit(reward.on_device)(reward.params, designs))
        assert values[name].shape == (3,) and np.isfinite(values[name]).all()
    assert task.rewards['two-state'].held_out == 'two-state-held-out'
    config = proteins.get_config('mpnn')
    config.fold = 'a program'  # as the task here has one
    assert proteins.reward_names('mpnn', config) == list(task.rewards)
    assert np.abs(values['two-state'] - values['two-state-held-out']).max() > 0.01
    params = task.rewards['stability'].params
    both = np.asarray(jax.jit(mpnn.log_likelihoods)(params['model'], designs, params['ranks']))
    share = proteins.FREQUENCIES / proteins.FREQUENCIES.sum()
    expected = [row.mean() / 10 - np.mean(np.log(share[design])) for row, design in zip(both, designs, strict=True)]
    np.testing.assert_allclose(values['stability'], expected, rtol=1e-4)


def test_the_second_state_is_the_middle_of_its_backbone(task, files):
    middle = folding.read(str(files / 'two.pdb'))
    model = task.rewards['two-state'].params['model']
    again = mpnn.conditioned(model.params, middle.coordinates[1:11], middle.residues[1:11], middle.chains[1:11])
    np.testing.assert_allclose(again.conditions.nodes, model.conditions.nodes, atol=1e-5)


def test_charge_and_moment_by_hand():
    texts = ['KRKDEHAAAAAAAAA', 'LKKLLKLLKKLLKLA', 'GGGGGGGGGGGGGGG']
    tokens = sequences.tokens(texts, LETTERS)
    expected = [sum({'K': 1, 'R': 1, 'D': -1, 'E': -1, 'H': 0.1}.get(letter, 0) for letter in text) for text in texts]
    np.testing.assert_allclose(composition.charge(None, tokens), expected, rtol=1e-5, atol=1e-6)
    scale = dict(zip(LETTERS, composition.HYDROPHOBICITY, strict=True))
    best = []
    for text in texts:
        waves = [scale[letter] * np.exp(1j * np.radians(100) * i) for i, letter in enumerate(text)]
        best.append(max(abs(sum(waves[i : i + 11])) / 11 for i in range(len(text) - 10)))
    np.testing.assert_allclose(jax.jit(composition.moment)(None, tokens), best, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(composition.moment)(None, jax.nn.one_hot(tokens, 20)), best, rtol=1e-4)
    short = sum(scale[letter] * np.exp(1j * np.radians(100) * i) for i, letter in enumerate('KLL'))
    np.testing.assert_allclose(
        jax.jit(composition.moment)(None, sequences.tokens(['KLL'], LETTERS)), [abs(short) / 3], rtol=1e-4
    )


def test_an_amphipathic_helix_has_a_larger_moment_than_its_shuffle():
    tokens = sequences.tokens(['LKKLLKLLKKLLKLL', 'LLLLLLLLLKKKKKK'], LETTERS)
    first, second = jax.jit(composition.moment)(None, tokens)
    assert first > second + 0.2


def test_rewards_of_relaxed_designs_have_gradients(task):
    reward = task.rewards['two-state']
    rows = jnp.full((1, 10, 20), 0.05)
    slope = jax.jit(jax.grad(lambda rows: reward.on_relaxed(reward.params, rows).sum()))(rows)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_the_structure_reward_is_for_worker_processes(task, files):
    reward = task.rewards['structure']
    assert reward.on_device is None and reward.about == '1 crmsd + 0.5 plddt of the structure that a-folder folds'
    assert reward.on_host.keywords['target'] == str(files / 'one.pdb')
    with pytest.raises(UserError, match="cannot run the folding command 'a-folder'"):
        reward.on_host(['ACDEFGHIKL'])


def test_a_folding_program_as_fields_of_the_task(files, tmp_path):
    """As texts, in the way that the command line gives them."""
    fields = {'fold': folding_command(tmp_path), 'structure': 'crmsd:1,plddt:0.5', 'target': str(files / 'one.pdb')}
    reward = proteins.structural(api.task_config('proteins', fields=fields))
    np.testing.assert_allclose(reward.on_host(['ACDEFGHIKL']), [0.4], atol=2e-3)


@pytest.mark.slow
def test_a_folding_program_on_the_command_line(files, tmp_path, monkeypatch):
    """It makes the helix that is asked for, whatever the sequence: crmsd 0, pLDDT 80."""
    monkeypatch.setenv('TENFOLD_DATA', str(files))
    fields = {'backbone': files / 'one.pdb', 'second': files / 'two.pdb', 'steps': 2, 'orders': 1}
    fields |= {'fold': folding_command(tmp_path, refused='?'), 'structure': 'crmsd:1,plddt:0.5'}
    words = ['--domain=proteins', '--reward=structure', '--method=svdd', '--nfe=4', '--designs=2', '--workers=1']
    words += [f'--task.{name}={value}' for name, value in fields.items()]
    monkeypatch.setattr(sys, 'argv', ['main', *words, f'--workdir={tmp_path / "run"}'])
    assert main.main() == 0
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['metrics']['structure']['value'] == pytest.approx(0.4, abs=2e-3)
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())['config']['task_config']
    assert config['steps'] == 2 and config['fold'] == fields['fold'] and config['guide'] == 'v_48_010'


def test_bad_settings(files, tmp_path, monkeypatch):
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    with pytest.raises(UserError, match="unknown task 'mpn'; did you mean 'mpnn'"):
        proteins.make('mpn')
    with pytest.raises(UserError, match='python -m diffusion_jax.fetch'):
        proteins.make()
    with pytest.raises(UserError, match="unknown checkpoint 'v_48_02'"):
        proteins.weights('v_48_02')
    config = proteins.get_config()
    config.update({'backbone': str(files / 'two.pdb'), 'second': str(files / 'one.pdb')})
    with pytest.raises(UserError, match='10 residues has no window of 13'):
        proteins.make(config=config)
    config.update({'fold': 'x', 'structure': 'crmsd:much', 'target': str(files / 'one.pdb')})
    with pytest.raises(UserError, match="cannot read 'crmsd:much'"):
        proteins.structural(config)
