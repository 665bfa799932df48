"""The exact laboratory's data: section 2.4 of the sheet."""

import jax
import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax.domains import dna, lab
from diffusion_jax.models import table


def complement(word):
    return word[::-1].translate(str.maketrans('ACGT', 'TGCA'))


def test_prior_is_a_markov_chain_and_means_are_those_of_the_sheet():
    prior, reward = lab.prior(), lab.rewards()
    assert prior.shape == reward.shape == (4,) * 8
    np.testing.assert_allclose(prior.sum(), 1)
    chain = np.random.default_rng(0).dirichlet([2] * 4, size=4)
    word = (3, 1, 1, 0, 2, 3, 0, 1)
    assert prior[word] == pytest.approx(0.25 * np.prod([chain[a, b] for a, b in zip(word[:-1], word[1:], strict=True)]))
    assert (prior * reward).sum() == pytest.approx(0.554, abs=0.005)
    assert (lab.target() * reward).sum() == pytest.approx(0.856, abs=0.001)


@pytest.mark.parametrize('name', lab.EXPERIMENTS)
def test_rewards_fill_0_to_1_and_do_not_know_the_strand(name):
    reward, rng = lab.rewards(name), np.random.default_rng(1)
    assert reward.min() == 0 and reward.max() == 1
    for word in rng.integers(4, size=(20, 8)):
        text = ''.join('ACGT'[token] for token in word)
        other = tuple('ACGT'.index(letter) for letter in complement(text))
        assert reward[tuple(word)] == reward[other]


def test_known_scores():
    """Rows of the table of SIX6_REF_R1, whose least and largest E-scores are -0.47907 and 0.49105."""
    for word, score in (('AAAAAAAA', 0.03), ('AAAAAAAC', -0.12351), ('CTTTTTTT', -0.04566)):
        place = tuple('ACGT'.index(letter) for letter in word)
        assert lab.rewards()[place] == pytest.approx((score + 0.47907) / 0.97012, abs=2e-5)


def test_packing_keeps_a_table():
    scores = lab.unpack(np.random.default_rng(0).integers(0, 65536, 32896).astype(np.uint16))
    scores[0, 0, 0, 0, 0, 0, 0, 0], scores[3, 3, 3, 3, 3, 3, 3, 3] = 0, 0
    scores[0, 0, 0, 0, 0, 0, 0, 1], scores[2, 3, 3, 3, 3, 3, 3, 3] = 1, 1
    packed = lab.pack(scores.ravel())
    assert packed.shape == (32896,) and packed.dtype == np.uint16
    np.testing.assert_allclose(lab.unpack(packed), scores, atol=1e-5)


def test_the_replicate_judges():
    task = lab.make()
    assert task.rewards['six6'].held_out == 'six6-replicate'
    assert dna.reward_names('lab', dna.get_config('lab')) == list(task.rewards)
    assert 0.9 < np.corrcoef(lab.rewards().ravel(), lab.rewards('six6-replicate').ravel())[0, 1] < 0.99
    with pytest.raises(UserError, match="did you mean 'six6'"):
        lab.rewards('six')


def test_task_reads_writes_and_compares_designs(tmp_path):
    task = lab.make()
    designs = task.encode(['ACGTACGT', 'acgtacga'])
    np.testing.assert_array_equal(designs, [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 0]])
    assert task.decode(designs) == ['ACGTACGT', 'ACGTACGA']
    np.testing.assert_allclose(task.distances(designs), [[0, 1 / 8], [1 / 8, 0]])
    reward = task.rewards['six6']
    found = reward.on_device(reward.params, designs)
    np.testing.assert_allclose(found, [lab.rewards()[tuple(design)] for design in designs], rtol=1e-6)
    csv, fasta = task.write(tmp_path, designs, {'reward': [0.5, 0.25]})
    assert csv.read_text() == 'design,reward\nACGTACGT,0.5\nACGTACGA,0.25\n'
    assert fasta.read_text() == '>design_0 reward=0.5\nACGTACGT\n>design_1 reward=0.25\nACGTACGA\n'


@pytest.mark.parametrize(
    'texts, message',
    [
        (['ACGTACG'], "'ACGTACG' has 7 letters, designs have 8"),
        (['ACGTACGT', 'ACG'], "'ACG' has 3 letters, the one before it 8"),
        (['ACGTACGN'], "'ACGTACGN' has 'N', which is none of ACGT"),
        ([], 'there are no sequences'),
    ],
)
def test_designs_that_cannot_be_read(texts, message):
    with pytest.raises(UserError, match=message):
        lab.make().encode(texts)


def test_no_mask_is_ever_written(tmp_path):
    with pytest.raises(ValueError, match='outside 0 to 3'):
        lab.make().write(tmp_path, np.array([[0, 1, 2, 3, 4, 0, 0, 0]]), {})
    assert not list(tmp_path.iterdir())


def test_exact_value_looks_up_states_and_designs():
    value = lab.value('egr2', 0.2)
    states = np.array([[4] * 8, [0, 4, 2, 4, 4, 4, 1, 3]], np.int8)
    soft = table.soft_values(lab.prior(), lab.rewards('egr2'), 0.2)
    found = jax.jit(value.of_state)(value.params, states, 0)
    np.testing.assert_allclose(found, [soft[tuple(state)] for state in states], rtol=1e-5)
    np.testing.assert_allclose(
        value.reward(value.params, np.zeros((1, 8), np.int8)), lab.rewards('egr2').ravel()[:1], rtol=1e-5
    )
    assert lab.value(exact=False).of_state is None
