"""The Python API as README and `fql_jax.api` show it, and what an earlier version of it left on disk."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
import tiny

import fql_jax
from core_jax.errors import UserError
from core_jax.mesh import fetch
from fql_jax import api, data

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'fql.zip'
FIELDS = {name: value for name, value in tiny.FIELDS.items() if name != 'env'} | {'steps': 4, 'eval_interval': 0}


@pytest.fixture(autouse=True)
def shared(monkeypatch, tmp_path):
    tiny.share_programs(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """One's own environment and one's own arrays; (result, the driver as it was at the end, its learner)."""
    directory = tmp_path_factory.mktemp('api') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        kept, build = [], api.build
        patch.setattr(api, 'build', lambda *a, **k: kept.append(build(*a, **k)) or kept[0])
        result = fql_jax.train(make_env=tiny.Tiny, dataset=tiny.arrays(), fields=FIELDS, workdir=str(directory))
    (driver, learner) = kept[0]
    return result, driver, learner


def test_own_environment_and_arrays(trained):
    result, _, _ = trained
    assert result.metrics == tiny.summary(result.directory)['metrics']
    assert result.metrics['return']['n'] == FIELDS['eval_episodes']
    assert result.metrics['return']['low'] <= result.metrics['return']['value'] <= result.metrics['return']['high'] <= 0
    config = json.loads((result.directory / 'config.json').read_text())
    assert config['config']['env'] == 'own:Tiny' and config['command'] == 'fql_jax.train(...)'
    picture = (result.directory / 'plots' / 'learning_curve.png').read_bytes()
    assert picture.startswith(b'\x89PNG') and len(picture) > 5000


def test_own_npz_and_a_factory_with_arguments_in_a_new_directory(tmp_path):
    """The same numbers as from arrays; without `workdir` the run directory is a new one under runs/."""
    np.savez(tmp_path / 'mine.npz', **tiny.arrays())
    make_env = functools.partial(tiny.Tiny, render_mode='rgb_array')
    result = fql_jax.train(make_env=make_env, dataset=str(tmp_path / 'mine.npz'), fields=FIELDS)
    assert result.directory.parent == pathlib.Path('runs') and result.directory.name.startswith('fql-own-Tiny-seed0-')
    again = fql_jax.train(make_env=tiny.Tiny, dataset=tiny.arrays(), fields=FIELDS, workdir=str(tmp_path / 'again'))
    tiny.assert_same_run(result.directory, again.directory)


def test_finished_policy_acts_on_one_observation_and_on_many(trained):
    result, _, _ = trained
    many = np.random.default_rng(0).normal(size=(5, 3))
    policy = fql_jax.load_policy(result.directory)
    actions = policy(many)
    assert actions.shape == (5, 2) and np.abs(actions).max() <= 1
    np.testing.assert_array_equal(fql_jax.load_policy(result.directory / 'policy.npz')(many), actions)
    one = policy(many[0])
    assert one.shape == (2,)
    assert not np.array_equal(policy(many[0]), one)  # FQL's policy is stochastic: new noise at every call
    assert not np.array_equal(fql_jax.load_policy(result.directory, seed=1)(many), actions)


def test_exported_policy_acts_as_the_learner_does(trained):
    import jax

    result, driver, learner = trained
    policy = fql_jax.load_policy(result.directory, seed=3)
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    state = jax.tree.map(lambda x: x[0], driver.carry.state)
    key = jax.random.fold_in(jax.random.key(3), 1)
    _, wanted = jax.jit(learner.act)(learner.policy(state), (), observations, key)
    np.testing.assert_array_equal(policy(observations), fetch(wanted))


def test_what_cannot_be_loaded_or_trained_is_said(trained, tmp_path):
    result, _, _ = trained
    with pytest.raises(UserError, match='no policy at'):
        fql_jax.load_policy(tmp_path)
    damaged = tmp_path / 'policy.npz'
    damaged.write_bytes((result.directory / 'policy.npz').read_bytes()[:-100])
    with pytest.raises(UserError, match='is damaged, or not an exported policy'):
        fql_jax.load_policy(damaged)
    with pytest.raises(UserError, match='own:Tiny has no data of its own'):
        fql_jax.train(make_env=tiny.Tiny, fields=FIELDS)
    with pytest.raises(UserError, match=r'the data have actions of shape \(2,\), the environment \(1,\)'):
        fql_jax.train(make_env=Narrow, dataset=tiny.arrays(), fields=FIELDS)
    with pytest.raises(UserError, match='cannot send the environment factory'):
        fql_jax.train(make_env=lambda: tiny.Tiny(), dataset=tiny.arrays(), fields=FIELDS, workdir=str(tmp_path / 'x'))


class Narrow(tiny.Tiny):
    action_space = tiny.gymnasium.spaces.Box(-1, 1, (1,), np.float32)


def test_order_of_the_data_is_a_function_of_seed_and_step_alone():
    """R8 on the device: the rows of every update, on every mesh and with any number of updates a dispatch."""
    import jax

    from core_jax import replay, sources
    from core_jax.mesh import make_mesh

    rows = data.from_arrays(tiny.arrays())
    seen = []
    for mesh in ('data:1', 'data:8', 'data:2,tensor:2'):
        dataset = replay.place_dataset(api.layout(rows), make_mesh(mesh))
        sample = jax.jit(sources.offline(dataset, 16).sample)
        keys = [jax.random.fold_in(jax.random.key(5), step) for step in (9, 0, 4)]
        seen.append([fetch(sample(dataset, (), None, key)[1]['observations']) for key in keys])
    for other in seen[1:]:
        np.testing.assert_array_equal(other, seen[0])


# R12


@pytest.fixture
def golden(tmp_path):
    """A run of 12 updates that `make_golden` made when this test was written."""
    shutil.unpack_archive(GOLDEN, tmp_path / 'golden')
    return tmp_path / 'golden'


def test_policy_exported_by_an_earlier_version_still_acts(golden):
    policy = fql_jax.load_policy(golden)
    with np.load(golden / 'actions.npz') as known:
        np.testing.assert_allclose(policy(known['observations']), known['actions'], rtol=1e-4, atol=1e-6)


def test_run_of_an_earlier_version_resumes(golden, capsys):
    saved, before = tiny.leaves(golden), tiny.rows(golden)
    with np.load(golden / 'policy.npz') as policy:
        names = [name for name in policy.files if name.startswith('onestep/')]
        for name in names:
            np.testing.assert_array_equal(saved[f'state/nets/params/{name}'][0], policy[name])
    assert len(names) == 4
    (golden / 'actions.npz').unlink()
    assert tiny.train(golden, resume=True, steps=14) == 0
    assert 'resumed at step 12' in capsys.readouterr().out
    after = tiny.rows(golden)
    assert after[: len(before)] == before and after[-1]['step'] == 14


def make_golden(folder: pathlib.Path) -> None:
    """cd tests/fql; PYTHONPATH=.. python -c 'import conftest, test_api; test_api.make_golden("golden")'"""
    run = pathlib.Path(folder)
    assert tiny.train(run, save_interval=0) == 0
    observations = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.savez(run / 'actions.npz', observations=observations, actions=fql_jax.load_policy(run)(observations))
    shutil.rmtree(run / 'plots')
    for name in ('.lock', 'summary.json', 'eval.csv'):
        (run / name).unlink()
    config = json.loads((run / 'config.json').read_text())
    (run / 'config.json').write_text(json.dumps(config | {'host': {}}))
    shutil.make_archive(str(GOLDEN.with_suffix('')), 'zip', run)
