"""Simulators as environments: the adapter on a stand-in of their interface; slow, on the packages themselves."""

import importlib.util

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.driver import DeviceDriver, Numerics
from core_jax.errors import UserError
from core_jax.learners import sac
from core_jax.mesh import fetch, make_mesh, place, replicated
from core_jax.state import Learner
from scaling.utd import environments, mjx, rollout, settings


@flax.struct.dataclass
class State:
    data: dict
    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    metrics: dict
    info: dict


class Counter:
    """Counts on by 1 from 0, 1 or 2; done at 5, diverges at 8; writes into what it is given, as the real ones do."""

    action_size = 1

    def reset(self, rng):
        assert not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
        rng, key = jax.random.split(rng)
        number = jnp.float32(jax.random.randint(key, (), 0, 3))
        return State({'number': number}, number[None], jnp.zeros(()), jnp.zeros(()), {'force': 0.0}, {'rng': rng})

    def step(self, state, action):
        number = state.data['number'] + 1
        state.metrics['force'] = action[0]
        obs = jnp.where(number == 8, jnp.nan, number)[None]
        done = 1.0 * (number == 5)
        return State({'number': number}, obs, jnp.float32(action[0]), done, state.metrics, state.info)


def driver(environment, seeds=(0,), population='map', slots=2, mesh='data:1'):
    """SAC that has 8 transitions, then one update a vector step."""
    config = sac.get_config()
    config.update({'hidden_dims': (4,), 'batch_size': 4})
    learner = sac.make(config, environment.action_dim)
    data = {'slots': slots, 'capacity': 100, 'batch_size': 4, 'ratio': 1 / slots, 'warmup': 4 * slots}
    made = DeviceDriver(
        learner,
        rollout.source(environment, learner, **data),
        mesh=make_mesh(mesh),
        seeds=seeds,
        numerics=Numerics(population=population),
    )
    clock = rollout.clock(1 / slots)
    made.bind(place(clock, {name: replicated(made.mesh) for name in clock}))
    made.initialize()
    return made


def test_the_adapter():
    environment = mjx.adapt('counter', Counter(), low=np.float32([0.0]), high=np.float32([4.0]), limit=6)
    assert (environment.observation_dim, environment.action_dim, environment.max_steps) == (1, 1, 6)
    state = environment.reset(jax.random.key(0))
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    before = jax.tree.map(float, (state.data, state.metrics))
    for action, force in ((0.0, 2.0), (1.0, 4.0), (-3.0, 0.0)):
        after, outcome = environment.step(state, jnp.array([action]))
        assert float(outcome.reward) == float(after.metrics['force']) == force
    assert before == jax.tree.map(float, (state.data, state.metrics))
    assert kinds == jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after)
    numbers, ends = [], []
    for _ in range(8 - int(state.data['number'])):
        state, outcome = environment.step(state, jnp.array([0.0]))
        numbers.append(float(environment.observe(state)[0]))
        ends.append(bool(outcome.terminated))
    assert numbers[-4:] == [5, 6, 7, 0] and ends[-4:] == [True, False, False, True]  # NaN is an end, and not seen


def test_images_are_refused():
    class Images(Counter):
        def reset(self, rng):
            return super().reset(rng).replace(obs={'pixels': jnp.zeros((8, 8))})

    with pytest.raises(UserError, match='one vector'):
        mjx.adapt('images', Images())


def test_resets_only_where_an_episode_ended():
    """The same bits as with a reset of every environment at every step; under vmap too it is a branch not taken."""

    def act(policy, memory, observations, key):
        return memory, jax.random.normal(key, (len(observations), 1))

    learner = Learner(init=None, update=None, act=act, policy=lambda state: state, hparams={}, explore=lambda p: p)
    found, branches = [], []
    for costly in (True, False):
        environment = mjx.adapt('counter', Counter(), limit=4)._replace(costly_reset=costly)
        source = rollout.source(environment, learner, slots=2, capacity=100, batch_size=4, ratio=1 / 24, warmup=0)

        def run(keys, source=source):  # two members, 12 steps of two environments
            data = jax.vmap(source.init)(keys)
            return jax.vmap(lambda data, key: source.advance(source.constants, data, (), key, jnp.int32(0)))(data, keys)

        keys = jax.random.split(jax.random.key(0))
        found.append(fetch(jax.jit(run)(keys)))
        branches.append(str(jax.make_jaxpr(run)(keys)).count(' cond['))
    for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    ends = found[0].training.ring.rows['ends'][:, :24]
    assert int(found[0].steps[0]) == 24 and 0 < ends.mean() < 0.5
    # One of the training environments, one of the held-out ones.
    assert branches[0] == branches[1] + 2


def test_names():
    assert settings.resolve({'env': 'playground:CheetahRun'}, {}).env == 'playground:CheetahRun'
    assert settings.resolve({'env': 'brax:ant'}, {}).env == 'brax:ant'
    with pytest.raises(UserError, match="unknown playground environment 'CheetaRun'; did you mean 'CheetahRun'"):
        settings.resolve({'env': 'playground:CheetaRun'}, {})
    with pytest.raises(UserError, match="unknown brax environment 'cheetah'; did you mean 'halfcheetah'"):
        settings.resolve({'env': 'brax:cheetah'}, {})


def test_robots_need_the_menagerie(monkeypatch):
    monkeypatch.setattr(mjx, '_robots', lambda: ('Go1JoystickFlatTerrain',))
    with pytest.raises(UserError, match='Menagerie') as error:
        settings.resolve({'env': 'playground:Go1JoystickFlatTerrain'}, {})
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['playground:FingerSpin', 'brax:humanoid'])
def test_the_extra_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    mjx.check(name)  # a sweep can be planned without
    with pytest.raises(UserError, match=r"pip install 'tenfold\[playground\]'"):
        environments.resolve(name)


# On the packages themselves


@pytest.fixture
def playground():
    reason = 'tenfold[playground] is not installed'
    with jax.numpy_rank_promotion('allow'), pytest.MonkeyPatch.context() as patch:
        patch.setattr('warnings.warn', lambda *_, **__: None)  # their own, at import and while tracing
        pytest.importorskip('brax.envs', reason=reason)
        yield pytest.importorskip('mujoco_playground', reason=reason)


@pytest.mark.slow
def test_lists_of_names(playground):
    from brax import envs

    suite = playground.dm_control_suite
    assert sorted(suite.ALL_ENVS) == sorted(mjx.PLAYGROUND)
    assert set(mjx.BRAX) <= set(envs._envs)
    with pytest.raises(UserError, match='Menagerie'):
        mjx.check(f'playground:{playground.locomotion.ALL_ENVS[0]}')
    for name in mjx.PLAYGROUND:
        assert suite.get_default_config(name).episode_length == mjx.LIMIT


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('name', [f'playground:{n}' for n in mjx.PLAYGROUND] + [f'brax:{n}' for n in mjx.BRAX])
def test_every_name_can_be_traced(playground, name):
    environment = mjx.make(name)
    state = jax.eval_shape(environment.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((environment.action_dim,), jnp.float32)
    after, outcome = jax.eval_shape(environment.step, state, action)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
    assert (outcome.reward.shape, outcome.terminated.dtype) == ((), bool)
    assert jax.eval_shape(environment.observe, state).shape == (environment.observation_dim,)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('population', ['map', 'vmap'])
@pytest.mark.parametrize('name', ['playground:CartpoleBalance', 'brax:halfcheetah'])
def test_a_rollout_against_their_own_step(playground, name, population):
    """Episodes of 4 steps: the last observation is the one that was reached, and another episode begins after it."""
    limit, slots, steps = 4, 2, 10
    made = driver(mjx.make(name)._replace(max_steps=limit), seeds=[0, 1], population=population, slots=slots)
    states = jax.tree.map(jnp.copy, made.carry.data.training.states)  # of the beginning, [members, slots, ...]
    made.advance(steps - 4)
    rows = fetch(made.carry.data.training.ring.rows)
    rows = {key: value[:, : steps * slots].reshape(2, steps, slots, *value.shape[2:]) for key, value in rows.items()}

    if name.startswith('brax'):
        from brax import envs

        env = envs.get_environment('halfcheetah', backend='spring')
    else:
        env = playground.dm_control_suite.load('CartpoleBalance', config_overrides={'impl': 'jax'})
    step = jax.jit(jax.vmap(jax.vmap(env.step)))
    for t in range(limit):
        np.testing.assert_allclose(rows['observations'][:, t], states.obs, rtol=1e-4, atol=1e-4)
        states = step(states, rows['actions'][:, t])
        np.testing.assert_allclose(rows['next_observations'][:, t], states.obs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(rows['rewards'][:, t], states.reward, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        rows['ends'], (np.arange(1, steps + 1) % limit == 0)[None, :, None] | False & rows['ends']
    )
    np.testing.assert_array_equal(rows['masks'], 1.0)
    for t in range(1, steps):
        same = rows['observations'][:, t] == rows['next_observations'][:, t - 1]
        assert same.all() if t % limit else not same.all(axis=-1).any()
    begun = rows['observations'][:, ::limit].reshape(-1, rows['observations'].shape[-1])
    assert len(np.unique(begun, axis=0)) == len(begun)  # all episodes begin differently
