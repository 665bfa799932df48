"""Settings of a run: what holds by default, which words are refused, and what a resumed run may change."""

from fractions import Fraction

import pytest
import tiny  # noqa: F401  (registers Tiny-v0)

from core_jax.errors import UserError
from scaling.utd import environments, settings


def resolved(debug=False, **fields):
    return settings.resolve(fields, {}, debug)


# Layers


def test_published_settings_hold_under_a_preset():
    sac, bro, pql = (resolved(agent=agent) for agent in settings.AGENTS)
    assert sac.hidden_dims == (256, 256) and sac.batch_size == 256 and sac.target_entropy == 'half'
    assert sac.steps == 1_000_000 and sac.utd == 1.0 and sac.envs == 1 and sac.learning_rate == 0.0
    assert bro.critic_width == 512 and bro.num_quantiles == 100
    assert pql.horizon == 3 and pql.envs == 1


def test_without_a_preset_a_run_is_small():
    config = settings.resolve({})
    assert config.env == 'pendulum' and config.agent == 'sac'
    assert config.hidden_dims == (64, 64) and settings.total_updates(config) == 7_600
    assert settings.resolve({'agent': 'pql'}).envs == 16


@pytest.mark.parametrize('agent', settings.AGENTS)
def test_debug_is_over_the_defaults_and_under_the_flags(agent):
    config = settings.resolve({'agent': agent}, debug=True)
    assert config.steps == 1_000 and config.batch_size == 32
    assert settings.resolve({'agent': agent, 'batch_size': 16}, debug=True).batch_size == 16


def test_a_preset_names_the_agent_and_flags_win():
    preset = {'agent': 'bro', 'steps': 50_000, 'utd': 2.0}
    config = settings.resolve({'utd': '4'}, preset)
    assert config.agent == 'bro' and config.utd == 4.0 and config.steps == 50_000
    assert settings.resolve({'agent': 'sac'}, preset).agent == 'sac'


@pytest.mark.parametrize('agent', settings.AGENTS)
def test_named_presets_of_an_agent_are_fields_of_it(agent):
    for fields in getattr(settings.agent_module(agent), 'PRESETS', {}).values():
        settings.resolve(fields | {'agent': agent}, {})


def test_resets_that_no_run_reaches_are_left_out():
    reached = {'agent': 'bro', 'reset_interval': 1_000, 'steps': 20_000, 'log_interval': 100}
    assert resolved(**reached).reset_interval == 1_000
    unreached = reached | {'steps': 3_500}
    config = resolved(**unreached)
    assert settings.total_updates(config) == 1_000 and config.reset_interval == 0
    assert settings.for_resume(config.to_dict(), unreached).reset_interval == 0  # the same words go on with it


# Names and values


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'agent': 'sak'}, "unknown agent 'sak'; did you mean 'sac'?"),
        ({'batch_sise': 8}, "unknown config field 'batch_sise'; did you mean 'batch_size'?"),
        ({'numerics.populaton': 'map'}, "did you mean 'numerics.population'?"),
        ({'critic_width': 8, 'agent': 'pql'}, "unknown config field 'critic_width'"),
        ({'critic': 'bronett'}, "unknown critic 'bronett'; did you mean 'bronet'?"),
        ({'temperature_loss': 'logalpha'}, "did you mean 'log_alpha'?"),
        ({'env': 'pendulumm'}, "unknown environment 'pendulumm'; did you mean 'pendulum'?"),
        ({'env': 'cheeta-run'}, "did you mean 'cheetah-run'?"),
        ({'env': 'HalfCheetah-v55'}, "did you mean 'HalfCheetah-v5'?"),
        (
            {'env': 'dmc:cheetah-runs'},
            "unknown task of the dm_control suite 'cheetah-runs'; did you mean 'cheetah-run'?",
        ),
        ({'env': 'tiny:Tinny-v0'}, "unknown environment 'tiny:Tinny-v0'"),
        ({'env': 'no_such_module:Tiny-v0'}, "cannot find environment 'no_such_module:Tiny-v0'"),
        ({'utd': 0.0}, 'utd must be above 0 and finite, got 0.0'),
        ({'utd': -1.0}, 'utd must be above 0 and finite'),
        ({'utd': float('inf')}, 'utd must be above 0 and finite'),
        ({'utd': float('nan')}, 'utd must be above 0 and finite'),
        ({'utd': '1/3'}, "config field utd is a number; cannot read '1/3'"),
        ({'utd': 1e-4}, '997500 steps after the warm-up are no update at utd=0.0001'),
        ({'steps': 2_500}, 'the 2500 steps end within the 2500 of warm-up'),
        ({'steps': 0}, 'steps must be at least 1, got 0'),
        ({'batch_size': 0}, 'batch_size must be at least 1, got 0'),
        ({'seeds': 0}, 'seeds must be at least 1, got 0'),
        ({'seed': -1}, 'seed must be at least 0, got -1'),
        ({'seed': 2**32 - 1, 'seeds': 2}, 'seeds lie below 2\\*\\*32'),
        ({'envs': 0}, 'envs must be at least 1, got 0'),
        ({'workers': -1}, 'workers must be at least 0, got -1'),
        ({'warmup': -1}, 'warmup must be at least 0, got -1'),
        ({'discount': 1.5}, 'discount lies in 0..1, got 1.5'),
        ({'tau': -0.1}, 'tau must be at least 0, got -0.1'),
        ({'hidden_dims': (8, 0)}, 'hidden_dims must be widths of at least 1'),
        ({'hidden_dims': ()}, 'hidden_dims must be widths of at least 1'),
        ({'learning_rate': float('nan')}, 'learning_rate must be at least 0, got nan'),
        ({'batch_size': 1.5}, 'config field batch_size is an integer, got 1.5'),
        ({'envs': 3}, 'steps must be a multiple of the 3 environments, got 1000000'),
        ({'envs': 8, 'warmup': 2_504, 'log_interval': 1_001}, 'log_interval must be a multiple of the 8 environments'),
        ({'vary': 'learning_rat:1,2'}, "unknown hyperparameter to vary 'learning_rat'; did you mean 'learning_rate'?"),
        ({'vary': 'learning_rate:1e-3,x'}, "cannot read 'learning_rate:1e-3,x'"),
        ({'vary': 'learning_rate'}, "cannot read 'learning_rate'"),
        ({'vary': 'tau:0.1,-1'}, 'tau must be at least 0 and finite'),
        ({'vary': 'tau:nan'}, 'tau must be at least 0 and finite'),
    ],
    ids=lambda value: ','.join(map(str, value)) if isinstance(value, dict) else '',
)
def test_what_no_run_can_have(fields, message):
    with pytest.raises(UserError, match=message) as refused:
        settings.resolve(fields, {})
    assert '\n' not in str(refused.value)


def test_spaces_that_cannot_be_learned():
    for env, message in (('CartPole-v1', 'only continuous ones'), ('tiny:Seen-v0', 'only vectors')):
        with pytest.raises(UserError, match=message):
            environments.resolve(env)


# The ratio


@pytest.mark.parametrize(
    'utd, ratio',
    [
        (0.0625, '1/16'),
        (0.3333, '1/3'),
        (1 / 3, '1/3'),
        (0.1, '1/10'),
        (1.5, '3/2'),
        (2 / 3, '2/3'),
        (16.0, '16'),
    ],
)
def test_the_ratio_is_a_fraction(utd, ratio):
    config = resolved(utd=utd, log_interval=4_800, eval_interval=0, save_interval=0)
    assert settings.ratio(config) == Fraction(ratio)
    assert settings.updates_in(config, 480, 'log_interval') == 480 * Fraction(ratio)


def test_intervals_are_whole_numbers_of_updates():
    thirds = {'utd': 1 / 3, 'eval_interval': 0, 'save_interval': 0}
    with pytest.raises(UserError, match='log_interval=5000 steps are 1666.67 updates at utd=0.333333: make it whole'):
        resolved(**thirds)
    config = resolved(**thirds, log_interval=4_998)
    assert settings.updates_in(config, config.log_interval, 'log_interval') == 1_666
    with pytest.raises(UserError, match='save_interval=1 steps are 0.5 updates'):
        resolved(utd=0.5, save_interval=1)


@pytest.mark.parametrize(
    'utd, steps, updates',
    [(1.0, 1_000, 900), (0.5, 1_001, 450), (1 / 3, 1_001, 300), (1.5, 1_001, 1_351), (0.1, 109, 0)],
)
def test_updates_are_the_floor(utd, steps, updates):
    fields = {'utd': utd, 'steps': steps, 'warmup': 100, 'log_interval': 60, 'eval_interval': 0, 'save_interval': 0}
    if not updates:
        with pytest.raises(UserError, match='9 steps after the warm-up are no update at utd=0.1'):
            resolved(**fields)
        return
    assert settings.total_updates(resolved(**fields)) == updates


# Members


@pytest.mark.parametrize('agent', settings.AGENTS)
def test_a_learning_rate_is_that_of_every_optimizer(agent):
    rates = settings.rate_names(agent)
    assert {'actor_learning_rate', 'critic_learning_rate'} <= set(rates)
    assert settings.members(resolved(agent=agent)) == ([0], {})  # each optimizer's own
    seeds, hparams = settings.members(resolved(agent=agent, learning_rate=0.01, seed=4, seeds=2))
    assert seeds == [4, 5] and hparams == {name: [0.01, 0.01] for name in rates}


def test_members_are_all_seeds_for_one_value_then_for_the_next():
    seeds, hparams = settings.members(resolved(vary='learning_rate:3e-4,1e-3', seed=7, seeds=3))
    assert seeds == [7, 8, 9, 7, 8, 9]
    for name in settings.rate_names('sac'):
        assert hparams[name] == [3e-4] * 3 + [1e-3] * 3


def test_one_hyperparameter_varies_and_the_others_keep_the_rate():
    seeds, hparams = settings.members(resolved(vary='tau:0.1,0.2', learning_rate=0.01, seeds=2))
    assert seeds == [0, 1, 0, 1] and hparams['tau'] == [0.1, 0.1, 0.2, 0.2]
    assert hparams['critic_learning_rate'] == [0.01] * 4
    _, hparams = settings.members(resolved(vary='actor_learning_rate:1,2', learning_rate=0.01))
    assert hparams['actor_learning_rate'] == [1.0, 2.0] and hparams['critic_learning_rate'] == [0.01] * 2


# Resume


@pytest.fixture
def saved():
    """A config as it stands in config.json: tuples are lists there."""
    config = resolved(hidden_dims=(8, 8), seeds=2, utd=2.0).to_dict()
    return config | {'hidden_dims': list(config['hidden_dims'])}


def test_the_saved_run_goes_on_as_it_was(saved):
    config = settings.for_resume(saved, {})
    assert config.hidden_dims == (8, 8) and config.utd == 2.0 and config.steps == 1_000_000
    assert settings.for_resume(saved, {'utd': '2.0', 'agent': 'sac'}).utd == 2.0


@pytest.mark.parametrize('name, value', [('workers', 3), ('mesh', 'data:2'), ('eval_episodes', 3)])
def test_what_is_free_may_change(saved, name, value):
    assert name in settings.FREE_ON_RESUME
    assert settings.for_resume(saved, {name: value})[name] == value


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'utd': 4.0}, 'utd: saved 2.0, wanted 4.0'),
        ({'seeds': 3}, 'seeds: saved 2, wanted 3'),
        ({'env': 'cartpole'}, "env: saved 'pendulum', wanted 'cartpole'"),
        ({'hidden_dims': '8'}, r'hidden_dims: saved \(8, 8\), wanted \(8,\)'),
        ({'numerics.population': 'vmap'}, "numerics.population: saved 'auto', wanted 'vmap'"),
        ({'seed': 1, 'warmup': 0}, 'seed: saved 0, wanted 1; warmup|warmup: saved 2500, wanted 0; seed'),
        ({'agent': 'bro'}, "agent: saved 'sac', wanted 'bro'"),
    ],
)
def test_another_run_is_refused(saved, fields, message):
    with pytest.raises(UserError, match='this is another run than the saved one: ') as refused:
        settings.for_resume(saved, fields)
    assert refused.match(message)


def test_debug_and_a_preset_are_asked_for_again_on_resume():
    saved = settings.resolve({}, {'batch_size': 32}, debug=True).to_dict()
    assert settings.for_resume(saved, {}, {'batch_size': 32}, debug=True).steps == 1_000
    with pytest.raises(UserError, match='batch_size: saved 32, wanted 64'):
        settings.for_resume(saved, {}, {'batch_size': 64})
