"""Oracles, motifs, constraints, and the promoters' task on a small stand-in for the data."""

import itertools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from numpy_nets import gelu

from core_jax import datasets
from core_jax.errors import UserError
from core_jax.networks import parameter_count
from diffusion_jax.domains import constraint, dna, motif
from diffusion_jax.domains.constraint import Limit, constrained
from diffusion_jax.domains.task import Reward
from diffusion_jax.models import oracle
from diffusion_jax.process import sample

COUNTS = np.array([[8, 0, 1, 1], [0, 10, 0, 0], [2, 2, 3, 3]])


def one_hot(tokens, size=4):
    return np.eye(size)[tokens]


# Motifs


def test_binding_sums_over_places_and_strands():
    """Against sequences and their reverse complements, written out."""
    tokens = np.random.default_rng(0).integers(0, 4, (5, 9))
    weights = np.log((COUNTS + 0.2) / 10.8 / 0.25)
    expected = []
    for row in tokens:
        total = 0.0
        for strand in (row, 3 - row[::-1]):
            for start in range(9 - 3 + 1):
                total += math.exp(sum(weights[k, strand[start + k]] for k in range(3)))
        expected.append(math.log(total))
    found = jax.jit(motif.binding)(motif.log_odds(COUNTS), jnp.asarray(tokens, jnp.int8))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    relaxed = motif.binding(motif.log_odds(COUNTS), jnp.asarray(one_hot(tokens), jnp.float32))
    np.testing.assert_allclose(relaxed, expected, rtol=1e-5)


def test_the_best_site_scores_best():
    designs = np.array(list(itertools.product(range(4), repeat=3)), np.int8)
    scores = motif.binding(motif.log_odds(COUNTS), designs)
    assert tuple(designs[int(np.argmax(scores))]) in ((0, 1, 2), (0, 1, 3), (1, 2, 3), (0, 2, 3))
    with pytest.raises(ValueError, match='2 bases have no place for a matrix of 3'):
        motif.binding(motif.log_odds(COUNTS), designs[:, :2])


JASPAR = """>MA1.2\tHNF4A
A [ 8 0 2 ]
C [ 0 10 2 ]
G [ 1 0 3 ]
T [ 1 0 3 ]
>MA2.1\tFOXA1
A [ 1 ]
C [ 1 ]
G [ 1 ]
T [ 2 ]
"""


def test_matrices_are_read_and_found():
    found = motif.read_jaspar(JASPAR, 'x')
    identifier, counts = motif.select(found, 'hnf4a')
    assert identifier == 'MA1.2'
    np.testing.assert_array_equal(counts, COUNTS)
    assert motif.select(found, 'ma2.1')[1].shape == (1, 4)
    with pytest.raises(UserError, match="unknown factor 'HNF4'; did you mean 'hnf4a'"):
        motif.select(found, 'HNF4')


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'x: there is no matrix'),
        ('>MA1.2\tHNF4A\nA [ 8 ]\nC [ 0 ]\nG [ 1 ]\n', 'is no matrix in the format'),
        ('>MA1.2\tHNF4A\nA [ 8 1 ]\nC [ 0 ]\nG [ 1 ]\nT [ 1 ]\n', 'is no matrix in the format'),
        ('>MA1.2\tHNF4A\nA [ 0 ]\nC [ 0 ]\nG [ 0 ]\nT [ 0 ]\n', 'is damaged'),
    ],
)
def test_matrices_that_cannot_be_read(text, message):
    with pytest.raises(UserError, match=message):
        motif.read_jaspar(text, 'x')


# Constraints


def test_barrier_by_its_formula():
    gaps = np.array([-1.0, 0.0, 1e-3, 0.05, 0.2, 3.0])
    expected = [math.log(max(1e-40, min(1.0, 5 * gap))) for gap in gaps]
    np.testing.assert_allclose(jax.jit(constraint.barrier)(gaps), expected, rtol=1e-4, atol=1e-6)
    slope = jax.grad(lambda gap: constraint.barrier(gap))
    np.testing.assert_allclose([slope(0.05), slope(3.0), slope(-1.0)], [20.0, 0.0, 0.0], rtol=1e-5)


def count_of(token):
    return Reward(f'tokens {token}', lambda params, designs: params * (designs == token).sum(1), jnp.float32(1))


def test_constrained_adds_one_barrier_a_limit():
    designs = np.array([[0, 0, 1, 2], [0, 1, 1, 2], [3, 3, 3, 3]], np.int8)
    made = constrained(count_of(0), Limit(count_of(1), 1.1), Limit(count_of(2), 0.9, above=True), held_out='judge')
    assert made.held_out == 'judge' and 'tokens 1 below 1.1' in made.about and 'tokens 2 above 0.9' in made.about
    expected = [2 + 2 * math.log(0.5), 1 - 92.1 + math.log(0.5), -92.1]
    np.testing.assert_allclose(jax.jit(made.on_device)(made.params, designs), expected, rtol=1e-4)
    with pytest.raises(UserError, match='rewards on the device'):
        constrained(count_of(0), Limit(Reward('a program', on_host=len), 1.0))


# Oracles


def oracle_config(**fields):
    config = oracle.get_config()
    config.update({'hidden': 4, 'width': 3, 'pool': 2, 'dropout': 0.0, 'batch_size': 8} | fields)
    return config


def naive(params, rows, width, pool):
    """The network on one sequence [L, V], position by position."""
    params = jax.tree.map(np.float64, params)['params']
    length, size = rows.shape
    hidden = []
    for i in range(length):
        window = [rows[j] if 0 <= j < length else np.zeros(size) for j in range(i - width // 2, i + width // 2 + 1)]
        hidden.append(gelu(np.concatenate(window) @ params['convolution']['kernel'] + params['convolution']['bias']))
    pooled = np.concatenate([np.mean(hidden[i : i + pool], 0) for i in range(0, length - pool + 1, pool)])
    x = gelu(pooled @ params['dense']['kernel'] + params['dense']['bias'])
    return (x @ params['output']['kernel'] + params['output']['bias'])[0]


@pytest.mark.parametrize('loss', ['squared', 'logistic'])
def test_oracle_and_its_loss(loss):
    config, rng = oracle_config(loss=loss), np.random.default_rng(0)
    tokens = rng.integers(0, 4, (8, 9)).astype(np.int8)
    target = np.append(rng.integers(0, 2, 6), [0.25, 0.6]).astype(np.float32)
    learner = oracle.make(config)
    batch = {'tokens': jnp.asarray(tokens), 'target': jnp.asarray(target)}
    state = learner.init(jax.random.key(0), batch)
    outputs = np.array([naive(state.net.params, one_hot(row), 3, 2) for row in tokens])
    found = oracle.network_of(config).apply(state.net.params, jnp.asarray(one_hot(tokens), jnp.float32))
    np.testing.assert_allclose(found, outputs, rtol=1e-4, atol=1e-5)
    chance = 1 / (1 + np.exp(-outputs))
    errors = {
        'squared': (outputs - target) ** 2,
        'logistic': -target * np.log(chance) - (1 - target) * np.log(1 - chance),
    }
    new, metrics = jax.jit(learner.update)(state, batch, learner.hparams)
    np.testing.assert_allclose(metrics['loss'], errors[loss].mean(), rtol=1e-4)
    assert new.step == 1 and parameter_count(learner.policy(new)) == (12 + 1) * 4 + (16 + 1) * 8 + 9
    with pytest.raises(UserError, match="unknown loss 'square'; did you mean 'squared'"):
        oracle.make(oracle_config(loss='square'))


def test_dropout_acts_in_training_alone():
    network = oracle.network_of(oracle_config(dropout=0.5))
    rows = jnp.asarray(one_hot(np.random.default_rng(0).integers(0, 4, (1, 9))), jnp.float32)
    params = network.init(jax.random.key(0), rows)
    calm = float(network.apply(params, rows)[0])
    noisy = jax.vmap(lambda key: network.apply(params, rows, key)[0])(jax.random.split(jax.random.key(1), 64))
    assert np.std(noisy) > 0 and calm not in np.asarray(noisy)


def test_halves_are_disjoint_and_whole():
    a, b = oracle.halves(101)
    assert sorted([*a, *b]) == list(range(101)) and len(a) == 50
    assert not np.array_equal(a, np.arange(50)) and np.array_equal(oracle.halves(101)[0], a)


# The task


def tiny():
    config = dna.get_config()
    config.model.update({'batch_size': 16, 'warmup': 10, 'network': {'kind': 'cnn', 'hidden': 8, 'stacks': 1}})
    config.oracle.update({'batch_size': 16, 'hidden': 4, 'dropout': 0.0, 'learning_rate': 0.01, 'ema': 0.9})
    config.update({'model_steps': 5, 'oracle_steps': 200, 'steps': 4, 'motifs': ('HNF4A', 'FOXA1')})
    return config


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Variants whose expression is high where the first base is T."""
    home = tmp_path_factory.mktemp('data')
    folder = home / 'diffusion'
    folder.mkdir()
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4, (400, 15)).astype(np.int8)
    counts = np.zeros((400, 10), np.int16)
    counts[np.arange(400), np.where(tokens[:, 0] == 3, 8, 2)] = 3
    counts[:, 0] += 1
    datasets.save_npz(folder / 'sortseq.npz', {'tokens': tokens, 'counts': counts})
    (folder / 'jaspar_vertebrates.txt').write_text(JASPAR)
    return home


@pytest.fixture(scope='module')
def task(files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TENFOLD_DATA', str(files))
        tokens, bins = dna.load()
        np.testing.assert_allclose(bins, np.where(tokens[:, 0] == 3, 6.0, 1.5))
        return dna.make('promoters', tiny())


def test_promoters_end_to_end(task, files, monkeypatch):
    process = task.process
    assert process.steps == 4
    designs = np.asarray(jax.jit(sample)(process, jax.random.split(jax.random.key(0), 5)))
    assert designs.shape == (5, 15) and designs.max() < 4
    np.testing.assert_array_equal(task.encode(task.decode(designs)), designs)
    named = dna.reward_names('promoters', ml_collections.ConfigDict({'motifs': ('HNF4A', 'FOXA1')}))
    assert named == list(task.rewards) == ['expression', 'expression-held-out', 'hnf4a', 'foxa1', 'hnf4a-only']
    for reward in task.rewards.values():
        values = jax.jit(reward.on_device)(reward.params, designs)
        assert values.shape == (5,) and np.isfinite(values).all()
    assert task.rewards[task.rewards['expression'].held_out]
    monkeypatch.setenv('TENFOLD_DATA', str(files))
    natural = dna.load()[0]
    assert task.measures(natural) == {'kmer_correlation': pytest.approx(1)}
    assert task.measures(designs) == {'kmer_correlation': dna.kmer_correlation(designs, natural)}


def test_both_oracles_learn_what_the_data_say(task):
    tokens = np.random.default_rng(5).integers(0, 4, (200, 15)).astype(np.int8)
    found = []
    for name in ('expression', 'expression-held-out'):
        reward = task.rewards[name]
        found.append(np.asarray(reward.on_device(reward.params, tokens)))
        high = tokens[:, 0] == 3
        assert found[-1][high].mean() > found[-1][~high].mean() + 1
    assert np.abs(found[0] - found[1]).max() > 0.05  # two halves, two oracles


def test_gradients_reach_the_relaxed_design(task):
    reward = task.rewards['expression']
    rows = jnp.full((1, 15, 4), 0.25)
    slope = jax.grad(lambda rows: reward.on_device(reward.params, rows).sum())(rows)
    assert slope.shape == rows.shape and np.asarray(slope)[0, 0, 3] > np.asarray(slope)[0, 0, :3].max()


def test_unknown_tasks_and_missing_data(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown task 'promoter'; did you mean 'promoters'"):
        dna.make('promoter')
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    with pytest.raises(UserError, match='python -m diffusion_jax.fetch'):
        dna.make('promoters')


def test_kmer_correlation_by_counting():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (3, 10)), rng.integers(0, 4, (4, 8))
    words = list(itertools.product(range(4), repeat=2))

    def count(rows):
        seen = [tuple(row[i : i + 2]) for row in rows for i in range(len(row) - 1)]
        return [seen.count(word) for word in words]

    assert dna.kmer_correlation(a, b, k=2) == pytest.approx(np.corrcoef(count(a), count(b))[0, 1])
