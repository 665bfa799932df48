"""The peptides' task on a small stand-in for the data, designs that end early, and the oracles on the real data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax import api
from diffusion_jax.domains import composition, constraint, peptides, proteins, sequences
from diffusion_jax.models import oracle
from diffusion_jax.process import sample

LETTERS, END, MASK = sequences.PROTEIN, 20, 21


def peptide_of(rng, antimicrobial):
    """K in every third place where it is antimicrobial, no K elsewhere."""
    text = ''.join(rng.choice(list('ACDEFGHILNPQRSTVWY'), rng.integers(8, 40)))
    return ''.join('K' if antimicrobial and i % 3 == 0 else letter for i, letter in enumerate(text))


@pytest.fixture(scope='module')
def rows():
    """(sequence, label), different ones."""
    rng = np.random.default_rng(0)
    return [(peptide_of(rng, label), label) for label in (0, 1) for _ in range(150)]


@pytest.fixture(scope='module')
def files(tmp_path_factory, rows):
    """Also a repeated line, one with both labels, a methionine in front, and one that is too long."""
    home = tmp_path_factory.mktemp('data')
    (home / 'diffusion').mkdir()
    lines = [*rows, rows[0], ('GIGKFLHSAK', 1), ('MGIGKFLHSAK', 0), ('M' + rows[1][0], rows[1][1]), (51 * 'A', 1)]
    text = 'sequence,antimicrobial\n' + ''.join(f'{sequence},{label}\n' for sequence, label in lines)
    (home / 'diffusion' / 'peptides.csv').write_text(text)
    return home


@pytest.fixture(scope='module')
def task(files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TENFOLD_DATA', str(files))
        config = proteins.get_config('peptides')
        config.model.update({'batch_size': 16, 'warmup': 5, 'ema': 0.9, 'network': {'kind': 'cnn', 'hidden': 16}})
        config.oracle.update({'batch_size': 16, 'hidden': 4, 'width': 3, 'dropout': 0.0, 'learning_rate': 0.01})
        config.oracle.ema = 0.9
        config.update({'model_steps': 100, 'oracle_steps': 200})
        return proteins.make('peptides', config)


@pytest.fixture(scope='module')
def designs(task):
    return np.asarray(jax.jit(sample)(task.process, jax.random.split(jax.random.key(0), 16)))


def worth(task, name, designs):
    reward = task.rewards[name]
    return np.asarray(jax.jit(reward.on_device)(reward.params, jnp.asarray(designs)))


def test_what_is_learned(files, rows, monkeypatch):
    monkeypatch.setenv('TENFOLD_DATA', str(files))
    tokens, antimicrobial = peptides.load()
    assert tokens.shape == (len(rows), 50) and tokens.dtype == np.int8 and antimicrobial.dtype == np.float32
    assert list(zip(peptides.decode(tokens), antimicrobial, strict=True)) == [
        (sequence.removeprefix('M'), label) for sequence, label in rows
    ]


def test_designs_are_peptides(task, designs, tmp_path):
    assert task.process.steps == 50 and designs.shape == (16, 50) and 0 <= designs.min() and designs.max() < MASK
    texts = task.decode(designs)
    assert len({len(text) for text in texts}) > 1 and max(map(len, texts)) <= 50
    again = task.encode(texts := [text for text in texts if text])
    assert task.decode(again) == texts
    paths = task.write(tmp_path, np.concatenate([designs, np.full((1, 50), END, np.int8)]), {'amp': np.zeros(17)})
    fasta = paths[1].read_text().splitlines()
    assert fasta[1::2] == texts and fasta[0] == '>design_0 amp=0.0'
    assert len(paths[0].read_text().splitlines()) == 18
    with pytest.raises(ValueError, match='tokens outside'):
        task.decode(np.where(designs == designs[0, 0], MASK, designs))


def test_what_follows_the_end_is_nothing(task):
    design = task.encode(['GIGKFLHSAKK'])
    other = design.copy()
    other[:, 20:] = 8
    assert task.decode(other) == ['GIGKFLHSAKK'] and task.distances(np.concatenate([design, other])).max() == 0
    far = task.distances(np.concatenate([other, task.encode(['GIGKFLHSAK'])]))
    assert far[0, 1] == 1 / 50
    for name in task.rewards:
        np.testing.assert_array_equal(worth(task, name, design), worth(task, name, other))


@pytest.mark.parametrize(
    'text,complaint',
    [
        ('ACD-EF', "'ACD-EF' has '-'"),
        ('ACX', "'ACX' has 'X'"),
        (51 * 'A', '51 letters, designs have at most 50'),
        ('', 'there are no sequences'),
    ],
)
def test_what_cannot_be_read_is_named(text, complaint):
    with pytest.raises(UserError, match=complaint):
        peptides.encode(['ACD', text])


def test_charge_and_moment_end_with_the_peptide():
    texts = ['LKKLLKLLKKLLKLAHDE', 'KLLKAWH', 'GKRIVLLKKAW', 'K']
    tokens = peptides.encode(texts)
    value = {'K': 1, 'R': 1, 'D': -1, 'E': -1, 'H': 0.1}
    scale = dict(zip(LETTERS, composition.HYDROPHOBICITY, strict=True))
    charges, moments = [], []
    for text in texts:
        charges.append(sum(value.get(letter, 0) for letter in text))
        waves, window = [scale[letter] * np.exp(1j * np.radians(100) * i) for i, letter in enumerate(text)], 11
        starts = range(max(len(text) - window, 0) + 1)
        moments.append(max(abs(sum(waves[i : i + window])) for i in starts) / min(window, len(text)))
    for rows in (tokens, jax.nn.one_hot(tokens, 21)):
        np.testing.assert_allclose(jax.jit(composition.charge)(None, rows), charges, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(composition.moment)(None, rows), moments, rtol=1e-4)
    nothing = np.full((1, 50), END, np.int8)
    assert float(composition.charge(None, nothing)[0]) == 0 and float(composition.moment(None, nothing)[0]) < 1e-5


def test_relaxed_residues_are_chances():
    """Against all designs of three places, weighed by their probabilities."""
    rows = np.random.default_rng(0).dirichlet(np.ones(21), 3)
    few = np.zeros((3, 21))
    few[:, [0, 8, END]] = rows[:, :3] / rows[:, :3].sum(1, keepdims=True)  # A, K or END
    expected = np.zeros((3, 20))
    for design in itertools.product([0, 8, END], repeat=3):
        chance = np.prod([few[i, token] for i, token in enumerate(design)])
        for i, token in enumerate(itertools.takewhile(lambda token: token != END, design)):
            expected[i, token] += chance
    np.testing.assert_allclose(composition.residues(jnp.asarray(few)[None])[0], expected, rtol=1e-5, atol=1e-7)


def test_oracles_learn_from_their_halves(task):
    rng = np.random.default_rng(1)
    fresh = peptides.encode([peptide_of(rng, label) for label in (0, 1) for _ in range(50)])
    found = [worth(task, name, fresh) for name in ('amp', 'amp-held-out')]
    for values in found:
        assert np.mean((values > 0) == (np.arange(100) >= 50)) > 0.9
    assert np.abs(found[0] - found[1]).max() > 0.05
    assert proteins.reward_names('peptides', proteins.get_config('peptides')) == list(task.rewards)
    assert task.rewards['amp'].held_out == 'amp-held-out' and task.rewards['amp-held-out'].held_out is None
    reward, rows = task.rewards['amp'], jnp.full((1, 50, 21), 1 / 21)
    slope = jax.grad(lambda rows: reward.on_relaxed(reward.params, rows).sum())(rows)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_a_design_without_residues_has_no_odds(task):
    nothing = np.full((1, 50), END, np.int8)
    for name in ('amp', 'amp-held-out', 'amp-low-charge'):
        assert np.isnan(worth(task, name, nothing)).all() and task.rewards[name].floor == -20


def test_charge_is_limited_to_the_usual(task, files, rows, monkeypatch):
    value = {'K': 1, 'R': 1, 'D': -1, 'E': -1, 'H': 0.1}
    usual = np.median([sum(value.get(letter, 0) for letter in text) for text, label in rows if label == 1])
    texts = ['A' * 10 + 'K' * count for count in range(12)]
    designs = task.encode(texts)
    gaps = usual - np.arange(12.0)
    barriers = [np.log(min(1, 5 * gap)) if gap > 0 else constraint.LEAST for gap in gaps]
    assert min(barriers) < 0 and max(barriers) == 0
    for suffix in ('', '-held-out'):
        found = worth(task, f'amp-low-charge{suffix}', designs) - worth(task, f'amp{suffix}', designs)
        np.testing.assert_allclose(found, barriers, rtol=1e-4, atol=1e-4)
    assert task.rewards['amp-low-charge'].held_out == 'amp-low-charge-held-out'


def test_what_is_said_of_designs(task, rows):
    known = rows[0][0]
    designs = task.encode([known, 'GIGKFLHSAK', 'GIGKFLHSAK', 'GIGKFLH'])
    lengths = [len(known), 10, 10, 7]
    assert task.measures(designs) == pytest.approx({'length': np.mean(lengths), 'novelty': 2 / 3})


@pytest.mark.slow
def test_peptides_are_refined(task):
    start = ['GIGFLHSADDE', 'DEDEWWVVAACC']
    found = api.design(task, method='rerd', reward='amp', nfe=150, designs=2, start=start, fields={'keep': True})
    assert list(found.rewards) == ['amp', 'amp-held-out'] and found.designs.max() < MASK
    assert (found.rewards['amp'] > worth(task, 'amp', task.encode(start)) + 1).all()


def test_peptides_that_were_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    with pytest.raises(UserError, match='python -m diffusion_jax.fetch'):
        proteins.make('peptides')
    with pytest.raises(UserError, match="unknown task 'peptide'; did you mean 'peptides'"):
        proteins.get_config('peptide')


@pytest.mark.slow
def test_each_oracle_knows_the_half_it_has_not_seen():
    from sklearn.metrics import roc_auc_score

    config = proteins.get_config('peptides')
    tokens, antimicrobial = peptides.load()
    halves, odds = oracle.halves(len(tokens)), jax.jit(peptides.odds_of(config.oracle))
    for params, rows in zip(peptides.oracles(tokens, antimicrobial, config), halves[::-1], strict=True):
        found = np.asarray(odds(params, tokens[rows]))
        assert roc_auc_score(antimicrobial[rows], found) > 0.92
        assert np.mean((found > 0) == (antimicrobial[rows] > 0)) > 0.84
