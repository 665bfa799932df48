"""`trained`: once, from where it was interrupted, under a name that holds all that decides the parameters."""

import json
import signal

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from core_jax import loop, training
from core_jax.state import Learner, Trainable, descend, step_key, trainable


@flax.struct.dataclass
class State:
    key: jax.Array
    step: jax.Array
    net: Trainable


def learner(config):
    """Least squares by noisy gradients, so that a resume that lost the step would show."""
    optimizer = optax.scale_by_adam()

    def init(key, batch):
        return State(key, jnp.zeros((), jnp.int32), trainable({'w': jnp.zeros(batch['x'].shape[1:])}, optimizer))

    def update(state, batch, hparams):
        def loss(params):
            x = batch['x'] + 0.01 * jax.random.normal(step_key(state), batch['x'].shape)
            return jnp.mean((x @ params['w'] - batch['y']) ** 2)

        value, gradients = jax.value_and_grad(loss)(state.net.params)
        net = descend(state.net, gradients, optimizer, hparams['learning_rate'])
        return state.replace(step=state.step + 1, net=net), {'loss': value}

    return Learner(init, update, None, lambda state: state.net.params, {'learning_rate': config.learning_rate})


def trained(home, *arguments, **more):
    return training.trained(home, *arguments, paper='test', **more)


@pytest.fixture
def task():
    config = ml_collections.ConfigDict({'learning_rate': 0.05, 'batch_size': 32})
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    return learner(config), {'x': x, 'y': x @ np.float32([1.0, -2.0, 0.5])}, config


def test_it_is_trained_once_and_loaded_after(task, tmp_path, capsys):
    made, data, config = task
    first = trained(tmp_path, 'line', made, data, config, steps=300)
    np.testing.assert_allclose(first['w'], [1.0, -2.0, 0.5], atol=0.05)
    assert 'training line' in capsys.readouterr().out
    again = trained(tmp_path, 'line', made, data, config, steps=300)
    assert (again['w'] == first['w']).all() and isinstance(again['w'], jax.Array)
    assert capsys.readouterr().out == ''
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != '.') == [
        'config.json',
        'metrics.jsonl',
        'policy.npz',
        'summary.json',
    ]
    rows = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert rows[-1]['step'] == 300 and rows[-1]['loss'] < rows[0]['loss']


def test_each_thing_that_decides_it_is_in_the_name(task, tmp_path, monkeypatch):
    made, data, config = task
    folders = []
    monkeypatch.setattr(training, '_train', lambda folder, *rest: folders.append(folder))
    monkeypatch.setattr(training, '_load', lambda path, structure: None)
    other = ml_collections.ConfigDict(config)
    other.batch_size = 16
    for _ in range(2):
        trained(tmp_path, 'line', made, data, config, steps=2)
        trained(tmp_path, 'curve', made, data, config, steps=2)
        trained(tmp_path, 'line', made, data, config, steps=3)
        trained(tmp_path, 'line', made, data, config, steps=2, seed=1)
        trained(tmp_path, 'line', made, data, other, steps=2)
        trained(tmp_path, 'line', made, {'x': data['x'][:, :2], 'y': data['y']}, config, steps=2)
        trained(tmp_path, 'line', made, data | {'y': data['y'] + 1}, config, steps=2)
    wider = made._replace(policy=lambda state: {'v': state.net.params['w']})
    trained(tmp_path, 'line', wider, data, config, steps=2)
    trained(tmp_path, 'line', made, data, config, steps=2, start={'w': np.ones(3)}, put=put)
    assert len(set(folders)) == 9 and folders[:7] == folders[7:14]


def put(states, params):
    return states.replace(net=states.net.replace(params={'w': jnp.asarray(params['w'], jnp.float32)[None]}))


def test_a_training_may_begin_with_given_parameters(task, tmp_path):
    made, data, config = task
    still = made._replace(hparams={'learning_rate': 0.0})
    found = trained(tmp_path, 'line', still, data, config, steps=2, start={'w': np.arange(3.0)}, put=put)
    np.testing.assert_array_equal(found['w'], [0, 1, 2])


def test_an_interrupted_training_goes_on_to_the_same_parameters(task, tmp_path, monkeypatch):
    made, data, config = task
    monkeypatch.setattr(training, 'SAVE', 10)
    whole = trained(tmp_path, 'line', made, data, config, steps=40)
    again = tmp_path / 'again'
    asked = []

    def requested(self):
        asked.append(1)
        return signal.SIGTERM if len(asked) > 15 else 0

    with monkeypatch.context() as patch, pytest.raises(loop.Preempted):
        patch.setattr(loop.Signals, 'requested', requested)
        trained(again, 'line', made, data, config, steps=40)
    (folder,) = again.iterdir()
    (saved,) = (folder / 'checkpoints').glob('00*')
    assert 0 < int(saved.name) < 40
    resumed = trained(again, 'line', made, data, config, steps=40)
    assert (resumed['w'] == whole['w']).all()


def test_bad_numbers_stop_it_and_leave_no_model(task, tmp_path):
    made, data, config = task
    with pytest.raises(loop.NonFinite, match='non-finite at step'):
        trained(tmp_path, 'line', made, data | {'y': data['y'] * np.nan}, config, steps=5)
    assert not list(tmp_path.rglob('policy.npz'))
