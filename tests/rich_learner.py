"""A learner that has everything (two optimizers, a target, statistics, a stale copy), for tests of the drivers."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from core_jax import replay, sources
from core_jax.driver import DeviceDriver
from core_jax.mesh import fetch, make_mesh
from core_jax.state import Learner, Trainable, copy, descend, global_norm, polyak, step_key, trainable

OBS, ACT, BATCH, REFRESH = 8, 4, 16, 3
ADAM, MOMENTUM = optax.scale_by_adam(), optax.trace(0.9)
RULES = ((r'model/params/w$', PartitionSpec(None, 'tensor')), (r'.*', PartitionSpec()))


# A learner that has everything


@flax.struct.dataclass
class State:
    key: jax.Array
    step: jax.Array
    model: Trainable  # Adam
    temperature: Trainable  # momentum
    target: Any  # follows the model slowly
    stale: Any  # the model as it was at the last multiple of REFRESH updates
    statistics: dict  # running mean and variance of the observations


def predict(params, statistics, observations):
    scale = jnp.sqrt(statistics['variance'] + 1e-3)
    return (observations - statistics['mean'][None]) / scale[None] @ params['w'] + params['b'][None]


def init(key, batch):
    key, w_key = jax.random.split(key)
    params = {'w': 0.2 * jax.random.uniform(w_key, (OBS, ACT), minval=-1.0), 'b': jnp.zeros(ACT)}
    statistics = {'mean': jnp.zeros(OBS), 'variance': jnp.ones(OBS), 'count': jnp.zeros(())}
    temperature = trainable(jnp.zeros(()), MOMENTUM)
    step = jnp.zeros((), jnp.int32)
    return State(key, step, trainable(params, ADAM), temperature, copy(params), copy(params), statistics)


def update(state, batch, hparams):
    observations = batch['observations']
    count = state.statistics['count'] + BATCH
    delta = observations.mean(0) - state.statistics['mean']
    mean = state.statistics['mean'] + delta * BATCH / count
    variance = state.statistics['variance'] + (observations.var(0) - state.statistics['variance']) * BATCH / count
    statistics = {'mean': mean, 'variance': variance, 'count': count}
    noise = jax.random.uniform(step_key(state), (1, ACT), minval=-1.0)

    def loss(params, log_temperature):
        error = predict(params, statistics, observations) - batch['actions'] - 0.01 * noise
        old = predict(state.stale, statistics, observations) + predict(state.target, statistics, observations)
        pull = jnp.mean((predict(params, statistics, observations) - old / 2) ** 2)
        total = jnp.mean(error**2) + jnp.exp(log_temperature) * pull + log_temperature**2
        return total * jnp.where(state.step == hparams['poison'], jnp.nan, 1.0)

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(state.model.params, state.temperature.params)
    model = descend(state.model, gradients[0], ADAM, hparams['learning_rate'])
    temperature = descend(state.temperature, gradients[1], MOMENTUM, 0.1 * hparams['learning_rate'])
    refresh = (state.step + 1) % REFRESH == 0
    new = State(
        key=state.key,
        step=state.step + 1,
        model=model,
        temperature=temperature,
        target=polyak(model.params, state.target, hparams['tau']),
        stale=jax.tree.map(lambda now, old: jnp.where(refresh, now, old), model.params, state.stale),
        statistics=statistics,
    )
    return new, {'loss': value, 'temperature': temperature.params, 'grad_norm': global_norm(gradients)}


def act(policy, memory, observations, key):
    params, statistics = policy
    actions = predict(params, statistics, observations)
    return memory + 1, actions + 0.1 * jax.random.normal(key, actions.shape)


RICH = Learner(
    init,
    update,
    act,
    policy=lambda state: (state.model.params, state.statistics),
    hparams={'learning_rate': 1e-2, 'tau': 0.1, 'poison': -1.0},
    memory=lambda batch_size: jnp.zeros((batch_size, 1)),
)


def rows(count=96, seed=0):
    rng = np.random.default_rng(seed)
    observations = np.float32(rng.normal(size=(count, OBS)) * 2 + 1)
    actions = np.tanh(observations @ np.float32(rng.normal(size=(OBS, ACT))) / 3)
    ends = (np.arange(count) + 1) % 24 == 0
    return replay.dataset(observations, actions, np.zeros(count), np.ones(count), ends)


def device_driver(mesh='data:1', seeds=(0,), hparams=None, numerics=None, chunk=1000):
    mesh = make_mesh(mesh)
    source = sources.offline(replay.place_dataset(rows(), mesh), BATCH)
    driver = DeviceDriver(
        RICH, source, mesh=mesh, seeds=seeds, hparams=hparams, numerics=numerics, rules=RULES, chunk=chunk
    )
    driver.initialize()
    return driver


STEP = jax.jit(update)
first_member = jax.jit(lambda carry: jax.tree.map(lambda x: x[0], carry))


def member(driver, i=0):
    """One member's whole carry as a flat dict of numpy."""
    flat = jax.tree_util.tree_flatten_with_path(fetch(driver.carry))[0]
    return {jax.tree_util.keystr(path): leaf[i] for path, leaf in flat}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_near(a, b, tolerance=1e-5):
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)
