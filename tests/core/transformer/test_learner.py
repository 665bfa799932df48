"""Learners of language models: what is learned has a closed form, and how a batch is cut changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.transformer import learner, lora, model
from core_jax.transformer.config import preset

ARCH = dataclasses.replace(preset('tiny'), vocab_size=16, hidden_size=32, intermediate_size=48, num_layers=1)
KEY = jax.random.key(0)


def settings(**fields):
    config = learner.get_config()
    config.update(fields)
    return config


def rows(tokens, first=1):
    """Whole rows, of which tokens from `first` on count."""
    tokens = jnp.asarray(tokens)
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = (places >= first).astype(jnp.int32)
    return {'tokens': tokens, 'positions': places, 'segments': jnp.ones_like(tokens), 'mask': mask}


@jax.jit
def score(params, rows):
    return learner.scores(ARCH, params, rows, settings())[0]


def pairs(key, count=6, width=7):
    """Pairs and the reference's scores, those of random parameters."""
    chosen, rejected = (rows(jax.random.randint(k, (count, width), 0, 16), 3) for k in jax.random.split(key))
    reference = jax.jit(lambda key: model.init(ARCH, key))(KEY)
    found = {'chosen': chosen, 'rejected': rejected}
    for name in ('chosen', 'rejected'):
        found[f'reference_{name}'] = score(reference, found[name])
    return reference, found


def trained(made, batch, steps, state=None):
    state = jax.jit(made.init)(KEY, batch) if state is None else state
    update = jax.jit(lambda state: made.update(state, batch, made.hparams))
    for _ in range(steps):
        state, metrics = update(state)
    return state, metrics


def test_likelihood_learns_frequencies():
    """After token 1 comes 5 three times in four and 9 once: nothing is lower than their entropy."""
    made = learner.make(ARCH, settings(learning_rate=0.02, updates=300))
    batch = rows([[1, 5], [1, 5], [1, 9], [1, 5]])
    state, metrics = trained(made, batch, 300)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert float(metrics['loss']) == pytest.approx(entropy, abs=2e-3)
    chances = jax.nn.softmax(model.logits(ARCH, state.net.params, batch['tokens'])[0, 0])
    np.testing.assert_allclose(chances[jnp.array([5, 9])], [0.75, 0.25], atol=0.02)


def test_preferences_begin_at_log_two_and_widen():
    reference, batch = pairs(KEY)
    made = learner.make(ARCH, settings(objective='dpo', learning_rate=3e-3, beta=0.5, updates=60, warmup=0.0))
    state = jax.jit(made.init)(KEY, batch)
    state = state.replace(net=state.net.replace(params=reference))
    state, first = trained(made, batch, 1, state)
    assert float(first['loss']) == pytest.approx(np.log(2), abs=1e-6) and float(first['accuracy']) == 0.5
    _, metrics = trained(made, batch, 60, state)
    assert float(metrics['accuracy']) == 1.0 and float(metrics['margin']) > 1


def test_simpo_reads_no_reference():
    """Neither of pairs of rows nor of pairs among branches: shapes say so."""
    made = learner.make(ARCH, settings(objective='simpo', reduction='token_mean', beta=2.0, gamma=0.5))
    sides = {side: rows(jnp.zeros((2, 7), jnp.int32)) for side in ('chosen', 'rejected')}
    branches = {name: jnp.ones((2, 2, 7), jnp.int32) for name in ('tokens', 'mask', 'segments')}
    branches |= {'after': jnp.zeros((2, 2), jnp.int32), 'stem': jnp.ones((2, 1), jnp.int32)}
    index = jnp.zeros((2, 1), jnp.int32)
    among = {'branches': branches | {'length': index[:, 0] + 1}, 'chosen': index, 'rejected': index + 1}
    for batch in (sides, among | {'weight': jnp.ones((2, 1))}):
        state = jax.eval_shape(made.init, KEY, batch)
        assert jax.eval_shape(made.update, state, batch, made.hparams)[1]['margin'].shape == ()


@pytest.mark.parametrize('objective', ['likelihood', 'dpo'])
def test_how_a_batch_is_cut_changes_nothing(objective):
    """Rows of different weight, an update of parts against one of the whole."""
    batch = rows(jax.random.randint(KEY, (6, 7), 0, 16)) if objective == 'likelihood' else pairs(KEY)[1]
    if objective == 'likelihood':
        batch['mask'] = batch['mask'].at[0, 2:].set(0)
    whole, parts = (learner.make(ARCH, settings(objective=objective, micro=m, batch_size=6)) for m in (0, 2))
    (one, told), (other, same) = trained(whole, batch, 2), trained(parts, batch, 2)
    for name in told:
        assert float(told[name]) == pytest.approx(float(same[name]), rel=1e-4, abs=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one.net.params, other.net.params)


def test_an_adapter_learns_and_its_base_does_not():
    reference, batch = pairs(KEY)
    made = learner.make(ARCH, settings(objective='dpo', learning_rate=0.02, beta=0.5, updates=80, lora_rank=4))
    state, metrics = trained(made, batch | {'base': reference}, 80)
    assert float(metrics['accuracy']) == 1.0
    assert jax.tree.structure(state.net.params) == jax.tree.structure(lora.init(reference, KEY, rank=4))
    merged = lora.merge(ARCH, reference, state.net.params)
    chosen = score(merged, batch['chosen'])
    assert (chosen > batch['reference_chosen'] - 5).all()
    untouched = score(reference, batch['chosen'])
    np.testing.assert_allclose(untouched, batch['reference_chosen'], atol=1e-5)


def test_masters_keep_updates_that_bfloat16_would_lose():
    arch = dataclasses.replace(ARCH, dtype='bfloat16')
    made = learner.make(arch, settings(learning_rate=2e-7, updates=100, warmup=0.0, end=1.0))
    batch = rows(jax.random.randint(KEY, (4, 7), 0, 16))
    before = jax.jit(made.init)(KEY, batch)
    after, _ = trained(made, batch, 3, before)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.net.params, before.net.params)
    assert all(0 < value < 1e-6 for value in jax.tree.leaves(moved))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after.net.params))


def test_the_schedule_of_the_learning_rate():
    config = settings(updates=100, warmup=0.1, end=0.1)
    found = [float(learner.schedule(jnp.int32(step), config)) for step in (0, 4, 9, 10, 55, 100, 500)]
    np.testing.assert_allclose(found, [0.1, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1], atol=1e-6)


def test_what_cannot_be():
    for fields, complaint in (
        ({'objective': 'dpoo'}, "did you mean 'dpo'"),
        ({'reduction': 'summ'}, "did you mean 'sum'"),
        ({'batch_size': 6, 'micro': 4}, 'not cut into parts of 4'),
        ({'objective': 'simpo'}, 'its reduction is token_mean, got sum'),
        ({'objective': 'dpo', 'beta': 0.0}, 'beta of a preference lies above 0'),
        ({'objective': 'cdpo', 'smoothing': 0.5}, 'smoothing is at least 0 and below 0.5'),
        ({'objective': 'cdpo', 'smoothing': -0.1}, 'smoothing is at least 0 and below 0.5'),
        ({'objective': 'dpo', 'smoothing': 0.1}, 'smoothing belongs to cdpo; with dpo it must be 0'),
        ({'objective': 'dpo', 'gamma': 0.5}, 'gamma belongs to simpo; with dpo it must be 0'),
        ({'objective': 'dpo', 'reduction': 'turn_mean_sum'}, 'turn_mean_sum needs the number of turns'),
    ):
        with pytest.raises(UserError, match=complaint):
            learner.make(ARCH, settings(**fields))
