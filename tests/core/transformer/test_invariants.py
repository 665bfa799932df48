"""What must hold of a preference learner whatever the model: prompts cancel, a pair with itself teaches nothing, ..."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.transformer import learner, model
from core_jax.transformer.config import preset
from core_jax.transformer.losses import token_logps

ARCH = dataclasses.replace(preset('tiny'), num_layers=1)
KEY = jax.random.key(0)
PROMPT, LENGTH = 5, 12


@functools.cache
def made(seed):
    return jax.jit(lambda key: jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, model.init(ARCH, key)))(
        jax.random.key(seed)
    )


def rows(seed, with_prompt=False):
    """Four rows behind one prompt of their own each."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, ARCH.vocab_size, (4, LENGTH)).astype(np.int32)
    tokens[:, :PROMPT] = np.random.default_rng(99).integers(3, ARCH.vocab_size, (4, PROMPT))
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
    mask = np.ones_like(tokens) * (with_prompt | (places >= PROMPT))
    return {'tokens': tokens, 'positions': places, 'segments': np.ones_like(tokens), 'mask': mask}


def config_of(**fields):
    config = learner.get_config()
    config.update({'objective': 'dpo', 'batch_size': 4, 'clip': 1e9} | fields)
    return config


def taught(config, batch, params):
    """(metrics, gradients): Adam's first moment is a tenth of them after one update, unclipped."""
    made_by = learner.make(ARCH, config)
    state = jax.jit(made_by.init)(KEY, batch)
    state = state.replace(net=state.net.replace(params=params))
    state, metrics = jax.jit(lambda s, b: made_by.update(s, b, made_by.hparams))(state, batch)
    (adam,) = (
        one for one in jax.tree.leaves(state.net.opt_state, is_leaf=lambda x: hasattr(x, 'mu')) if hasattr(one, 'mu')
    )
    return metrics, jax.tree.map(lambda mu: mu / (1 - config.beta1), adam.mu)


def pair(chosen, rejected, reference, config):
    score = jax.jit(lambda rows: learner.scores(ARCH, reference, rows, config)[0])
    sides = {'chosen': chosen, 'rejected': rejected}
    return sides | {f'reference_{side}': score(own) for side, own in sides.items()}


def test_gradients_go_through_the_policy_alone_and_scale_with_beta():
    """They are -beta sigmoid(-m) (grad chosen - grad rejected) over pairs, m the margin; by hand."""
    beta = 0.7
    config = config_of(beta=beta)
    batch = jax.tree.map(jnp.asarray, pair(rows(0), rows(1), made(2), config))
    metrics, gradients = taught(config, batch, made(1))

    def sums(params):
        """Of both sides at once, [8]."""
        own = jax.tree.map(lambda *sides: jnp.concatenate(sides), batch['chosen'], batch['rejected'])
        logps = token_logps(ARCH, params, own['tokens'], own['positions'], own['segments'])
        return (logps * own['mask']).sum(1)

    found, back = jax.vjp(jax.jit(sums), made(1))
    ratios = found - jnp.concatenate([batch['reference_chosen'], batch['reference_rejected']])
    margin = beta * (ratios[:4] - ratios[4:])
    assert float(metrics['loss']) == pytest.approx(float(-jax.nn.log_sigmoid(margin).mean()), rel=1e-4)
    weight = -beta * jax.nn.sigmoid(-margin) / 4
    (by_hand,) = back(jnp.concatenate([weight, -weight]))
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


def test_prompts_cancel_and_a_pair_with_itself_teaches_nothing():
    config = config_of(beta=0.5)
    without, with_prompt = (
        taught(config, pair(rows(0, prompt), rows(1, prompt), made(2), config), made(1)) for prompt in (False, True)
    )
    assert float(with_prompt[0]['loss']) == pytest.approx(float(without[0]['loss']), rel=1e-4)
    for a, b in zip(jax.tree.leaves(without[1]), jax.tree.leaves(with_prompt[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    metrics, gradients = taught(config, pair(rows(0), rows(0), made(1), config), made(1))
    assert float(metrics['loss']) == pytest.approx(np.log(2), abs=1e-6)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients)) < 1e-6
    metrics, gradients = taught(
        config, pair(rows(0), rows(1), made(1), config), made(1)
    )  # the policy its own reference
    assert float(metrics['loss']) == pytest.approx(np.log(2), abs=1e-5)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients)) > 1e-3


def test_branches_in_parts_are_the_same_update():
    """Stems with unequal numbers of pairs, one at a time."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, ARCH.vocab_size, (4, 3, 6)).astype(np.int32)
    own = np.ones_like(tokens)
    own[1, 2] = own[3, 0, 4:] = 0
    branches = {'tokens': tokens, 'segments': own, 'mask': own * (np.arange(6) > 0)}
    branches |= {'stem': rng.integers(3, ARCH.vocab_size, (4, 8)).astype(np.int32), 'length': np.array([8, 5, 8, 3])}
    branches['after'] = np.array([[7, 7, 7], [4, 4, 4], [2, 7, 7], [2, 2, 2]])
    batch = {'branches': branches, 'chosen': np.array([[0, 1], [1, 0], [2, 0], [0, 1]])}
    batch |= {
        'rejected': np.array([[1, 2], [0, 1], [0, 1], [1, 2]]),
        'reference_branches': np.zeros((4, 3), np.float32),
    }
    batch['weight'] = np.array([[1, 1], [1, 0], [1, 1], [0, 1]], np.float32)
    found = [taught(config_of(likelihood=0.5, micro=micro), batch, made(1)) for micro in (0, 1)]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
