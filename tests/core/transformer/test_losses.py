"""Losses of language models, in numbers from loops and closed forms; on one device and on eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.mesh import make_mesh
from core_jax.transformer import losses, model, rules
from core_jax.transformer.config import preset

CONFIG = preset('tiny', tie_embeddings=False, qkv_bias=True)
KEY = jax.random.key(1)


@pytest.fixture(scope='module')
def params():
    return jax.jit(lambda key: jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim > 1 else leaf, model.init(CONFIG, key)))(
        KEY
    )


@jax.jit
def logps(params, *rows):
    return losses.token_logps(CONFIG, params, *rows)


def rows(*lengths, width=None):
    """(tokens, positions, segments) of sequences, each a row, padded on the right."""
    width = width or max(lengths)
    tokens = jax.random.randint(KEY, (len(lengths), width), 0, 256)
    places = jnp.broadcast_to(jnp.arange(width), tokens.shape)
    return tokens, places, (places < jnp.array(lengths)[:, None]).astype(jnp.int32)


def test_log_probabilities_of_tokens(params):
    tokens, places, segments = rows(9, 6)
    whole = jax.jit(lambda params, tokens: model.logits(CONFIG, params, tokens))
    found = logps(params, tokens, places, segments)
    for row, length in enumerate((9, 6)):
        logits = np.asarray(whole(params, tokens[row : row + 1])[0, :length], np.float64)
        wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        label = np.asarray(tokens[row, 1:length])
        np.testing.assert_allclose(found[row, 1:length], wanted[np.arange(length - 1), label], atol=2e-5)
        assert found[row, 0] == 0 and not found[row, length:].any()


def test_neither_padding_nor_packing_changes_a_score(params):
    """On the left, on the right, and two sequences in one row."""
    tokens, places, segments = rows(7, 5)
    alone = logps(params, tokens, places, segments)
    wide = [jnp.pad(part, ((0, 0), (3, 6))) for part in (tokens, places, segments)]
    np.testing.assert_allclose(logps(params, *wide)[:, 3:10], alone, atol=2e-5)
    packed = [jnp.concatenate([part[0, :7], part[1, :5]])[None] for part in (tokens, places, segments)]
    packed[2] = packed[2].at[0, 7:].set(2)
    both = logps(params, *packed)[0]
    np.testing.assert_allclose(both[:7], alone[0, :7], atol=2e-5)
    np.testing.assert_allclose(both[7:], alone[1, :5], atol=2e-5)


@pytest.mark.parametrize('width,remats', [(16, ('none', 'dots', 'full')), (13, ('none',))])
def test_logits_in_chunks_and_queries_in_blocks(params, monkeypatch, width, remats):
    """Of a length that they divide, and of one that they do not."""
    tokens, places, segments = rows(13, 9, width=width)

    def loss(config, params):
        found = losses.token_logps(config, params, tokens, places, segments)
        return losses.likelihood_loss(found, segments)

    whole, gradient = jax.jit(jax.value_and_grad(lambda p: loss(CONFIG, p)))(params)
    monkeypatch.setattr(losses, 'CHUNK', 4)
    for remat in remats:
        config = dataclasses.replace(CONFIG, query_block=4, remat=remat)
        parts, same = jax.jit(jax.value_and_grad(lambda p, config=config: loss(config, p)))(params)
        assert float(parts) == pytest.approx(float(whole), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), same, gradient)


def test_memory_of_a_length_that_no_chunk_divides():
    """Neither all logits nor all scores exist at once: 4,128 tokens ask for no more than 4,096 and a chunk do."""

    def heads(q, keys, segments):
        return model.attend(CONFIG, q, (keys, keys), segments, None, None)

    def temporary(function, *shapes):
        given = [jax.ShapeDtypeStruct(shape, kind) for *shape, kind in shapes]
        return jax.jit(function).lower(*given).compile().memory_analysis().temp_size_in_bytes

    def both(width):
        row = 1, width, jnp.int32
        logits = temporary(losses.label_logps, (1, width, 8, jnp.float32), (8, 4096, jnp.float32), row)
        return logits, temporary(heads, (1, width, 4, 8, jnp.float32), (1, 2, width, 8, jnp.float32), row)

    for part, most, whole in zip(both(4128), both(4096 + 512), (4128 * 4096, 4 * 4128**2), strict=True):
        assert part <= most and part < 0.6 * 4 * whole


@pytest.mark.parametrize('shape', ['data:2,fsdp:2,tensor:2', 'tensor:8', 'fsdp:8'])
def test_eight_devices_are_one(params, shape):
    """Loss and gradients, the vocabulary in parts; heads of keys do not divide by eight and fall back to copies."""
    batch = rows(16, 13, 9, 16, 11, 7, 16, 5)

    def loss(params, batch):
        found = losses.token_logps(CONFIG, params, *batch)
        return losses.likelihood_loss(found, batch[2])

    wanted, gradient = jax.jit(jax.value_and_grad(loss))(params, batch)
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        spread = jax.device_put(params, rules.params(params, mesh))
        laid = jax.device_put(batch, rules.batch(batch, mesh))
        found, same = jax.jit(jax.value_and_grad(loss))(spread, laid)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), same, gradient)


@pytest.mark.parametrize('shape', ['data:2,fsdp:2,tensor:2', 'fsdp:8'])
def test_branches_on_eight_devices_are_those_of_one(params, shape):
    """Of eight stems, three branches each behind different numbers of their tokens; the gradient of the stems, too."""
    stems, _, segments = rows(16, 13, 9, 16, 11, 7, 16, 5)
    ends, _, real = rows(*[6, 2, 4] * 8)
    after = jnp.array([[0, 3, length - 1] for length in segments.sum(1).tolist()])
    branches = {'stem': stems, 'length': segments.sum(1), 'after': after}
    branches |= {'tokens': ends.reshape(8, 3, -1), 'segments': real.reshape(8, 3, -1)}

    def loss(params, branches):
        return losses.likelihood_loss(losses.branch_logps(CONFIG, params, branches), branches['segments'])

    wanted, gradient = jax.jit(jax.value_and_grad(loss))(params, branches)
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        spread = jax.device_put(params, rules.params(params, mesh))
        laid = jax.device_put(branches, rules.batch(branches, mesh))
        found, same = jax.jit(jax.value_and_grad(loss))(spread, laid)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), same, gradient)


def test_reductions():
    logps = jnp.array([[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]])
    mask = jnp.array([[0, 1, 1, 0, 1, 0]])
    turns = jnp.array([[-1, 0, 0, -1, 1, 1]])
    wanted = {'sum': -10, 'token_mean': -10 / 3, 'turn_mean_sum': -2.5 - 5, 'turn_mean_mean': -7.5 / 2}
    for how, value in wanted.items():
        assert float(losses.reduce(logps, mask, turns, how, 4)[0]) == pytest.approx(value), how
    with pytest.raises(UserError, match="did you mean 'token_mean'"):
        losses.reduce(logps, mask, turns, 'token_means', 2)
    with pytest.raises(UserError, match='number of turns'):
        losses.reduce(logps, mask, turns, 'turn_mean_sum')


def test_preference_losses_at_numbers_by_hand():
    pair = [jnp.array([value]) for value in (-3.0, -4.0, -3.5, -3.8)]  # margin 0.1 * (0.5 + 0.2) = 0.07
    loss, margin = losses.preference_loss(*pair, beta=0.1)
    assert float(margin[0]) == pytest.approx(0.07) and float(loss[0]) == pytest.approx(0.6587594, abs=1e-6)
    assert float(losses.preference_loss(*pair, beta=0.1, kind='ipo')[0][0]) == pytest.approx((0.7 - 5.0) ** 2)
    smooth = losses.preference_loss(*pair, beta=0.1, kind='cdpo', smoothing=0.2)[0]
    assert float(smooth[0]) == pytest.approx(0.8 * 0.6587594 + 0.2 * 0.7287594, abs=1e-6)
    simpo = losses.preference_loss(*pair, beta=2.0, kind='simpo', gamma=0.5)[0]
    assert float(simpo[0]) == pytest.approx(np.log1p(np.exp(-1.5)), abs=1e-6)
    with pytest.raises(UserError, match="did you mean 'dpo'"):
        losses.preference_loss(*pair, beta=0.1, kind='dpoo')


def test_a_policy_that_is_its_reference(params):
    """log 2 whatever the pair; swapping a pair turns the margin; prompts cancel."""
    same = [jnp.array([-3.0]), jnp.array([-9.0])]
    loss, margin = losses.preference_loss(*same, *same, beta=0.3)
    assert float(loss[0]) == pytest.approx(np.log(2)) and float(margin[0]) == 0
    pair = [jnp.array([value]) for value in (-3.0, -4.0, -3.5, -3.8)]
    swapped = [pair[i] for i in (1, 0, 3, 2)]
    assert float(losses.preference_loss(*swapped, beta=0.1)[1][0]) == pytest.approx(-0.07)
    shifted = [pair[0] - 7, pair[1] - 7, pair[2] - 7, pair[3] - 7]  # what a prompt both share would add to a sum
    assert float(losses.preference_loss(*shifted, beta=0.1)[1][0]) == pytest.approx(0.07, abs=1e-6)


def test_identical_answers_have_no_gradient(params):
    tokens, places, segments = rows(8)

    def loss(params):
        score = losses.token_logps(CONFIG, params, tokens, places, segments).sum(1)
        return losses.preference_loss(score, score, jnp.zeros(1), jnp.zeros(1), beta=0.1)[0].mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(np.log(2))
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))
