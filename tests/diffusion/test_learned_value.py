"""Learned values: against exact conditional means, in searches, and what their files are named after."""

import functools
import json
import sys

import host_rewards
import jax
import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax import api, compare, learned_value, main, training
from diffusion_jax.domains import lab
from diffusion_jax.models import gaussian, mixture, table
from diffusion_jax.process import sample, trajectories
from diffusion_jax.value import Value

LEVELS = gaussian.ancestral(np.ones(9), np.append(np.geomspace(8, 0.05, 8), 0.0))
PRIOR = mixture.Prior(np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [1.0, -0.5]]), np.array([[0.04, 0.2], [0.1, 0.05]]))


@pytest.fixture(autouse=True, scope='module')
def data(tmp_path_factory):
    """Where trajectories and networks go: the tests share them."""
    folder = tmp_path_factory.mktemp('data')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TENFOLD_DATA', str(folder))
        yield folder / 'diffusion'


default = learned_value.get_config


def settings(**fields):
    """What is fitted in a few seconds."""
    config = default()
    config.update({'updates': 600, 'learning_rate': 2e-3, 'ema': 0.99} | fields)
    return config


def tiny(**fields):
    return settings(**{'trajectories': 70, 'updates': 2, 'hidden': 8} | fields)


def score_of(reward):
    """A score of designs by a function in NumPy."""
    return lambda designs: np.asarray(reward(np.asarray(designs, np.float64)), np.float64)


SQUARES = score_of(lambda x: (x**2).sum(-1) + x[..., 0])


def looked_up(rewards):
    return score_of(lambda designs: rewards[tuple(designs.astype(int).T)])


def states_of(process, key, count):
    """States [T, N, ...] of new trajectories; the last are designs."""
    return np.asarray(jax.jit(trajectories)(process, jax.random.split(key, count))[1])


def values_of(process, fit, config, states):
    """Values [T - 1, N] of these states, those before the designs."""
    value = learned_value.untrained(Value(), process, config)
    found = jax.jit(value.of_state)
    return np.stack([found(fit.params, states[i], i + 1) for i in range(len(states) - 1)])


# Against exact conditional means


@pytest.fixture(scope='module')
def six6():
    """The laboratory's value by `settings`."""
    return learned_value.fitted(
        lab.process(), 'lab-six6', looked_up(lab.rewards()), settings(), floor=0.0, say=lambda _: None
    )


def test_masked_states(six6, key):
    """Of 8-mers, with E[r(x_0) | x_t] from the table: better than any constant at every level, by far at most."""
    process, prior, reward = lab.process(), lab.prior(), lab.rewards()
    exact = table.extended(prior * reward) / table.extended(prior)
    states = states_of(process, key, 1000)
    wanted = [exact[tuple(level.T.astype(int))] for level in states]  # [T, N]
    for level, found in enumerate(values_of(process, six6, settings(), states)):
        assert np.corrcoef(found, wanted[level])[0, 1] > 0.87, level
        assert np.sqrt(np.mean((found - wanted[level]) ** 2)) < 0.55 * wanted[level].std(), level
    assert (six6.trajectories, six6.denoiser_calls, six6.reward_calls) == (2048, 2048 * 8, 2048)
    best = np.mean([values.var() for values in wanted[:-1]]) / wanted[-1].var()  # what the exact mean explains
    assert 0.5 * best < six6.explained < best + 0.03


def test_numbers_under_noise(key):
    """Of a mixture of Gaussians, whose posterior is known, here in NumPy; the reward is quadratic."""
    process, config = mixture.make(PRIOR, LEVELS), settings(levels=4)
    fit = learned_value.fitted(process, 'mixture', SQUARES, config, floor=-9.0)
    states = states_of(process, key, 500)
    for level, found in enumerate(values_of(process, fit, config, states), 1):
        x, noise = states[level - 1].astype(np.float64)[:, None], LEVELS.sigma[level] ** 2
        total = PRIOR.variances + noise  # [K, D]
        log_weights = np.log(PRIOR.weights) - 0.5 * ((x - PRIOR.means) ** 2 / total + np.log(total)).sum(-1)  # [N, K]
        weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
        means = PRIOR.means + PRIOR.variances / total * (x - PRIOR.means)
        each = (means**2 + PRIOR.variances * noise / total).sum(-1) + means[..., 0]
        wanted = (weights * each).sum(1) / weights.sum(1)
        assert np.abs(found - wanted).mean() < 0.15, level  # the reward's deviation is about 1.1
        if level >= 4:
            assert np.corrcoef(found, wanted)[0, 1] > 0.97, level


# In searches


def test_a_search_by_it_raises_the_reward(six6, monkeypatch, capsys):
    """SVDD whose states cost no reward: one a child at the end, and it finds what unguided sampling does not."""
    monkeypatch.setattr(learned_value, 'get_config', settings)
    found = api.design(lab.make(), method='svdd', nfe=64, designs=48, values='learned')
    assert 'training' not in capsys.readouterr().out  # it is the network of `six6`
    free = np.asarray(jax.jit(sample)(lab.process(), jax.random.split(jax.random.key(1), 2000)))
    unguided = lab.rewards()[tuple(free.T.astype(int))]
    assert np.median(found.rewards['six6']) > np.quantile(unguided, 0.9)
    np.testing.assert_allclose(found.rewards['six6'], lab.rewards()[tuple(found.designs.T.astype(int))], rtol=1e-5)
    assert found.fit._replace(params=None) == six6._replace(params=None)
    assert found.calls <= 64 and found.reward_calls == found.plan.rewards / found.plan.designs
    assert found.reward_calls < found.calls / 7


@pytest.mark.slow
@pytest.mark.parametrize('method', ['smc', 'svdd', 'rerd'])
def test_rewards_on_the_host_give_the_designs_of_the_device(monkeypatch, method):
    """Once the value is learned, only designs are scored, as many as the plan says."""
    monkeypatch.setattr(learned_value, 'get_config', tiny)
    task, asked = lab.make(), {'method': method, 'nfe': 40, 'designs': 4, 'values': 'learned'}
    rounded = np.round(lab.rewards() * 64) / 64
    device = task.rewards['six6']._replace(params=table.value(rounded), held_out=None)
    score = functools.partial(host_rewards.from_table, table=rounded)
    host = device._replace(on_device=None, params=None, on_host=score)
    digits = task._replace(decode=lambda designs: [''.join(map(str, design)) for design in designs])
    one = api.design(digits._replace(rewards={'six6': device}), **asked)
    other = api.design(digits._replace(rewards={'six6': host}), workers=1, **asked)
    assert one.texts == other.texts and len(set(one.texts)) > 1
    for found in (one, other):
        assert (found.result.reward_calls == found.plan.rewards).all()
        assert (found.result.calls == found.plan.calls).all()


# Data


def test_states_are_those_of_trajectories_at_levels_seen_equally_often():
    process = lab.process()
    rows = jax.tree.map(np.asarray, learned_value.rolled_out(process, jax.random.key(3), 3))
    assert rows['x'].shape == (64, 3, 8) and rows['design'].max() < 4
    masks = (rows['x'] == 4).sum(-1)
    np.testing.assert_array_equal(masks, 8 - rows['level'])
    shown = rows['x'] != 4
    assert (rows['x'] == np.where(shown, rows['design'][:, None], 4)).all()
    assert set(rows['level'].ravel()) == set(range(1, 8)) and (np.diff(rows['level'], axis=1) > 0).all()
    assert np.ptp(np.bincount(rows['level'].ravel())[1:]) <= 5  # 192 states of 7 levels
    whole = np.asarray(learned_value.rolled_out(process, jax.random.key(3), 7)['level'])
    assert (whole == np.arange(1, 8)).all()


def test_trajectories_are_made_once_and_named_after_what_decides_them(data):
    asked = []

    def counted(designs):
        asked.append(len(designs))
        return SQUARES(designs)

    def made(score=counted, prior=PRIOR, **fields):
        process = mixture.make(prior, LEVELS)
        rows = learned_value.examples(process, 'named', score, tiny(**fields), -9.0, lambda _: None)
        return rows, len(list((data / 'trajectories').glob('named-*.npz')))

    first, count = made()
    assert count == 1 and sum(asked) == 70
    assert made()[1] == 1 and sum(asked) == 70 + learned_value.PROBE
    assert made(hidden=4, updates=7)[1] == 1  # the network is no part of them
    assert made(score=lambda designs: SQUARES(designs) + 1e-3)[1] == 2
    assert made(prior=PRIOR._replace(weights=np.array([0.5, 0.5])))[1] == 3
    assert made(seed=1)[1] == 4 and made(trajectories=71)[1] == 5 and made(levels=2)[1] == 6
    again, count = made()
    assert count == 6 and all((again[name] == rows).all() for name, rows in first.items())


def test_rewards_that_are_not_finite_count_as_the_floor_or_the_least():
    process, told = mixture.make(PRIOR, LEVELS), []
    some = score_of(lambda x: np.where(x[..., 0] > 1, np.nan, x[..., 0]))

    def rewards(floor, score=some):
        return learned_value.examples(process, 'failing', score, tiny(), floor, told.append)['reward']

    for floor in (-1e6, 0.5):
        reward = rewards(floor)
        failed = int(told[-1].split()[0])
        assert np.isfinite(reward).all() and 'not finite' in told[-1] and 10 < failed < 60
        assert (reward == max(floor, reward.min())).sum() == failed + (floor < -1)  # the least of the others, too
    with pytest.raises(UserError, match='not one of 70 trajectories has a reward'):
        rewards(0.0, score_of(lambda x: np.full(len(x), np.nan)))


def test_what_the_network_is_trained_on(monkeypatch):
    """Standardised: rewards over the trajectories that are not held out, states level by level."""
    seen = []

    def trained(name, learner, data, config, **_):
        seen.append(data)
        return learner.policy(learner.init(jax.random.key(0), data))

    monkeypatch.setattr(training, 'trained', trained)
    learned_value.fitted(mixture.make(PRIOR, LEVELS), 'scaled', SQUARES, tiny(trajectories=640), floor=-9.0)
    (rows,) = seen
    assert rows['x'].shape == (576 * 7, 2) and rows['target'].shape == (576 * 7,)
    assert rows['target'].mean() == pytest.approx(0, abs=1e-5) and rows['target'].std() == pytest.approx(1, abs=1e-5)
    for level in range(1, 8):
        assert np.square(rows['x'][rows['level'] == level]).mean() == pytest.approx(1, abs=0.1)


def test_the_same_seed_gives_the_same_parameters(monkeypatch, tmp_path):
    process, found = mixture.make(PRIOR, LEVELS), []
    for folder in ('one', 'two'):
        monkeypatch.setenv('TENFOLD_DATA', str(tmp_path / folder))
        fit = learned_value.fitted(process, 'seeded', SQUARES, tiny(), floor=-9.0)
        found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(fit.params)]))
        assert len(list((tmp_path / folder / 'diffusion' / 'models').glob('seeded-value-*/policy.npz'))) == 1
    assert (found[0] == found[1]).all() and len(np.unique(found[0])) > 100


def test_one_step_has_no_states_on_the_way():
    levels = gaussian.ancestral(np.ones(2), np.array([1.0, 0.0]))
    with pytest.raises(UserError, match='no states on the way'):
        learned_value.fitted(mixture.make(PRIOR, levels), 'short', SQUARES, tiny(), floor=0.0)


# Commands


def command(monkeypatch, module, *words):
    monkeypatch.setattr(sys, 'argv', ['command', *words])
    return module.main()


def test_a_command_says_what_it_cost(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(learned_value, 'get_config', tiny)
    words = ('--method=svdd', '--values=learned', '--nfe=24', '--designs=4', f'--workdir={tmp_path / "run"}')
    assert command(monkeypatch, main, *words) == 0
    assert 'the value was learned from 70 trajectories: 560 denoiser calls and 70 reward' in capsys.readouterr().out
    metrics = json.loads((tmp_path / 'run' / 'summary.json').read_text())['metrics']
    assert metrics['training_denoiser_calls']['value'] == 560 and metrics['training_reward_calls']['value'] == 70
    assert metrics['reward_calls']['value'] <= 4
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['config']['values'] == 'learned'


@pytest.mark.parametrize(
    'words,complaint',
    [
        (['--values=lerned'], "did you mean 'learned'"),
        (['--values=learned', '--samples=2'], 'takes no samples'),
        (['--values=learned', '--nfe=3'], 'at least'),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_learned(monkeypatch, tmp_path, words, complaint):
    monkeypatch.setattr(learned_value, 'fitted', None)
    with pytest.raises(UserError) as error:
        command(monkeypatch, main, f'--workdir={tmp_path / "run"}', *words)
    assert complaint in str(error.value) and '\n' not in str(error.value)


def test_a_comparison_says_what_its_calls_do_not_hold(monkeypatch, tmp_path):
    monkeypatch.setattr(learned_value, 'get_config', tiny)
    preset = tmp_path / 'preset.py'
    preset.write_text(
        "def get_config():\n    return {'samples': 1, 'methods': {'SVDD': ('svdd', {}), "
        "'SVDD learned': ('svdd', {'values': 'learned'})}}\n"
    )
    words = ('--budgets=24', '--seeds=2', '--designs=4', f'--workdir={tmp_path}', f'--config={preset}')
    assert command(monkeypatch, compare, *words) == 0
    told = (tmp_path / 'report.md').read_text()
    assert 'SVDD learned: its value was learned before, once, from 560 denoiser calls and 70 reward calls' in told
    assert told.count('learned before') == 1 and 'training_' not in told
    rows = {row['method']: row for row in json.loads((tmp_path / 'compare.json').read_text())['rows']}
    assert rows['SVDD learned']['reward_calls']['value'] == 3 and rows['SVDD']['reward_calls']['value'] == 24
    assert rows['SVDD learned']['training_reward_calls']['value'] == 70
    assert 'training_reward_calls' not in rows['SVDD']
    preset.write_text("def get_config():\n    return {'methods': {'SVDD': ('svdd', {'values': 'lerned'})}}\n")
    with pytest.raises(UserError, match="did you mean 'learned'"):
        command(monkeypatch, compare, *words)


def test_the_preset_has_one():
    from core_jax.cli import load_preset

    assert load_preset('configs/diffusion/dsearch.py')['methods']['SVDD learned'] == ('svdd', {'values': 'learned'})
