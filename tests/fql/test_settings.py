"""How presets, flags and a saved run make one config."""

import pathlib

import pytest

from core_jax.cli import load_preset
from core_jax.errors import UserError
from fql_jax import settings

PRESETS = sorted((pathlib.Path(__file__).parents[2] / 'configs' / 'fql').glob('*.py'))


def test_published_settings_are_those_of_the_paper():
    """Table of hyperparameters in the paper; alpha is given per task."""
    config = settings.get_config()
    published = {
        'learning_rate': 3e-4,
        'batch_size': 256,
        'hidden_dims': (512, 512, 512, 512),
        'discount': 0.99,
        'tau': 0.005,
        'flow_steps': 10,
        'q_agg': 'mean',
        'num_critics': 2,
        'steps': 1_000_000,
        'eval_episodes': 50,
    }
    assert {name: config[name] for name in published} == published


def test_later_layers_win():
    assert settings.resolve({}).hidden_dims == (256, 256)  # the small default
    assert settings.resolve({}, preset={}).hidden_dims == (512, 512, 512, 512)
    assert settings.resolve({}, preset={'alpha': 3}).alpha == 3.0
    assert settings.resolve({'alpha': '5'}, preset={'alpha': 3}).alpha == 5.0
    assert settings.resolve({}, preset={'steps': 10**6}, debug=True).steps == settings.DEBUG['steps']
    assert settings.resolve({'steps': 7}, debug=True).steps == 7
    assert settings.resolve({'numerics.population': 'vmap'}).numerics.population == 'vmap'


def test_small_and_debug_settings_suit_environments_without_noisy_data():
    for debug in (False, True):
        assert settings.resolve({'env': 'ogbench-cube'}, debug=debug).data_kind == 'noisy'
        assert settings.resolve({'env': 'ogbench-pointmaze'}, debug=debug).data_kind == ''
    with pytest.raises(UserError, match="has no 'noisy' data"):
        from fql_jax import data, tasks

        wanted = settings.resolve({'env': 'ogbench-pointmaze', 'data_kind': 'noisy'})
        data.load_dataset(tasks.resolve(wanted.env), wanted)


@pytest.mark.parametrize('path', PRESETS, ids=lambda path: path.stem)
def test_presets_load_and_say_their_command(path):
    settings.resolve({}, preset=load_preset(str(path)))
    assert f'--config=configs/fql/{path.name}' in path.read_text().split('"""')[1]


def test_members_are_all_seeds_for_each_value():
    config = settings.resolve({'seed': 3, 'seeds': 2, 'vary': 'alpha:1,10'})
    assert settings.members(config) == ([3, 4, 3, 4], {'alpha': [1.0, 1.0, 10.0, 10.0]})
    assert settings.members(settings.resolve({'seed': 3})) == ([3], {})


@pytest.mark.parametrize('env', ['ogbench-cube', 'ogbench-pointmaze'])
def test_the_same_command_resumes_and_another_is_refused(env):
    fields = {'env': env, 'seed': 3, 'alpha': '7'}
    saved = settings.resolve(fields, debug=True)
    document = saved.to_dict() | {'hidden_dims': list(saved.hidden_dims)}  # as JSON has it
    assert settings.for_resume(document, fields, debug=True) == saved
    assert settings.for_resume(document, {}) == saved
    assert settings.for_resume(document, {'steps': 900, 'workers': 3, 'mesh': 'data:2'}).steps == 900
    with pytest.raises(UserError, match='alpha: saved 7.0, wanted 8.0$'):
        settings.for_resume(document, {'alpha': 8.0})
    with pytest.raises(UserError, match='alpha: saved 7.0, wanted 2.0'):
        settings.for_resume(document, {}, preset={'alpha': 2.0})
    with pytest.raises(UserError, match="unknown config field 'alhpa'; did you mean 'alpha'"):
        settings.for_resume(document, {'alhpa': 8.0})


def test_a_run_that_an_earlier_version_saved_gets_the_new_fields_defaults():
    document = settings.resolve({'alpha': 7.0}).to_dict()
    del document['normalize_q_loss']
    assert settings.for_resume(document, {}).normalize_q_loss is False


@pytest.mark.parametrize(
    ('env', 'kind'),
    [
        ('ogbench-cube', 'noisy'),  # the small settings' own
        ('cube-single-play-singletask-v0', 'play'),  # named
        ('ogbench-pointmaze', ''),  # what the task has
    ],
)
def test_a_kind_of_data_in_the_name_wins(env, kind):
    assert settings.resolve({'env': env}).data_kind == kind


def test_varied_values_are_checked_like_fields():
    with pytest.raises(UserError, match='tau lies in 0..1'):
        settings.resolve({'vary': 'tau:0.1,5'})


def test_a_block_is_no_field():
    with pytest.raises(UserError, match='numerics.updates'):
        settings.resolve({'numerics': 'loop'})


def test_preset_of_another_agent_is_refused():
    with pytest.raises(UserError, match='this preset is for fql, not iql; --list=presets shows those for iql'):
        settings.resolve({'agent': 'iql'}, {'alpha': 300.0})
    with pytest.raises(UserError, match='this preset is for iql, not fql'):
        settings.resolve({'agent': 'fql'}, {'agent': 'iql', 'alpha': 1.0})
    assert settings.resolve({'agent': 'iql'}, {'env': 'ogbench-scene'}).alpha == 10.0


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'q_agg': 'min', 'pessimism': 0.5}, 'pessimism lowers the mean'),
        ({'q_agg': 'min', 'vary': 'pessimism:0,0.5'}, 'pessimism lowers the mean'),
        ({'utd': float('inf')}, 'utd must be above 0 and finite'),
        ({'horizon': 0}, 'horizon must be at least 1'),
        ({'p_aug': 1.5}, 'p_aug lies in 0..1'),
        ({'policy': 'onestpe'}, "unknown policy 'onestpe'; did you mean 'onestep'"),
        ({'agent': 'iql', 'actor_loss': 'awac'}, "unknown actor_loss 'awac'; did you mean 'awr'"),
        ({'agent': 'rebrac', 'horizon': 5}, "unknown config field 'horizon'"),
    ],
)
def test_options_that_cannot_be(fields, message):
    with pytest.raises(UserError, match=message):
        settings.resolve(fields)
