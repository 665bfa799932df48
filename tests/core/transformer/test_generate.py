"""Drawing tokens with a cache is drawing them without one."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.transformer import model
from core_jax.transformer.config import preset
from core_jax.transformer.generate import Sampling, bucket, draw, generate, padded, prefill, room, unstack
from core_jax.transformer.speaker import Speaker

CONFIG = preset('tiny', qk_norm=True)
KEY = jax.random.key(0)
PROMPTS = [[5, 9, 200, 31], [7] * 11, [250]]


@pytest.fixture(scope='module')
def params():
    """Sharp enough that draws differ."""
    return jax.jit(lambda key: jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim > 1 else leaf, model.init(CONFIG, key)))(
        KEY
    )


@functools.cache
def _logits():
    return jax.jit(functools.partial(model.logits, CONFIG))


def whole(params, ids):
    """Log-probabilities [T, V] of a sequence without any cache; one shape for all lengths."""
    row = np.zeros((1, 32), np.int32)
    row[0, : len(ids)] = ids
    return jax.nn.log_softmax(_logits()(params, row)[0, : len(ids)])


@functools.cache
def compiled(**options):
    return jax.jit(functools.partial(generate, CONFIG, **options))


def run(params, prompts=PROMPTS, key=KEY, **options):
    tokens, lengths = padded(prompts)
    return compiled(**options)(params, tokens, lengths, key)


def test_a_cache_changes_nothing(params):
    """Log-probabilities of what was drawn, with many samples of prompts of many lengths, against whole sequences."""
    found = run(params, samples=3, max_tokens=10)
    assert not (found.tokens[0, 0] == found.tokens[0, 1]).all()
    for b, prompt in enumerate(PROMPTS):
        for n in range(3):
            drawn = np.asarray(found.tokens[b, n])
            logps = whole(params, [*prompt, *drawn])[len(prompt) - 1 : -1]
            np.testing.assert_allclose(found.logps[b, n], logps[np.arange(10), drawn], atol=2e-5)


def test_greedy_tokens_are_the_likeliest(params):
    found = run(params, max_tokens=8, sampling=Sampling(temperature=0.0))
    for b, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(whole(params, ids)[-1].argmax()))
        np.testing.assert_array_equal(found.tokens[b, 0], ids[-8:])


def test_rows_do_not_know_of_each_other(params):
    """Nor of how far their neighbours are padded: the first prompt draws what it draws alone."""
    alone = run(params, PROMPTS[:1], samples=3, max_tokens=10)
    far = run(params, [PROMPTS[0], [3] * 50], samples=3, max_tokens=10)
    for others in (run(params, samples=3, max_tokens=10), far):
        np.testing.assert_array_equal(others.tokens[0], alone.tokens[0])


def test_rows_end_at_a_stop(params):
    free = run(params, samples=3, max_tokens=10)
    stop = int(free.tokens[0, 0, 3])
    found = run(params, samples=3, max_tokens=10, stops=(stop, 999))
    for b in range(len(PROMPTS)):
        for n in range(3):
            row = np.asarray(free.tokens[b, n])
            ends = np.flatnonzero(row == stop)
            length = ends[0] + 1 if ends.size else 10
            assert found.lengths[b, n] == length and found.stopped[b, n] == bool(ends.size)
            np.testing.assert_array_equal(found.tokens[b, n], np.where(np.arange(10) < length, row, 0))
            assert not found.logps[b, n, length:].any()


def test_layers_apart_are_layers_stacked(params):
    tokens, lengths = padded(PROMPTS)
    read = jax.jit(functools.partial(prefill, CONFIG))
    (stacked, last), (apart, same) = read(params, tokens, lengths), read(unstack(params), tokens, lengths)
    np.testing.assert_allclose(last, same, atol=1e-5)
    for part in (0, 1):
        np.testing.assert_allclose(stacked.kv[part], jnp.stack(apart.kv[part]), atol=1e-5)
    assert unstack(unstack(params))['layers'][1]['mlp'] is not None


def test_candidates_of_one_prompt_share_its_prefix(params):
    """Scored behind a prefix or as whole sequences."""
    tokens, lengths = padded(PROMPTS)
    prefix, _ = jax.jit(functools.partial(prefill, CONFIG))(params, tokens, lengths)
    candidates = jax.random.randint(KEY, (len(PROMPTS) * 4, 5), 0, 256)
    starts = jnp.repeat(lengths, 4)[:, None] + jnp.arange(5)[None]
    net = model.Decoder(CONFIG)

    @jax.jit
    def scored(params, prefix):
        hidden, _ = net.apply({'params': params}, candidates, starts, jnp.ones_like(candidates), prefix)
        return jax.nn.log_softmax(net.apply({'params': params}, hidden, method='logits'))

    for row, (candidate, found) in enumerate(zip(candidates, scored(params, prefix), strict=True)):
        prompt = PROMPTS[row // 4]
        np.testing.assert_allclose(found, whole(params, [*prompt, *np.asarray(candidate)])[len(prompt) :], atol=1e-4)


def test_draws_follow_their_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(KEY, 20_000)
    many = jnp.broadcast_to(logits, (20_000, 4))

    def shares(**options):
        return np.bincount(draw(many, keys, Sampling(**options))[0], minlength=4) / 20_000

    np.testing.assert_allclose(shares(), [0.5, 0.3, 0.15, 0.05], atol=0.012)
    np.testing.assert_allclose(shares(top_k=2), [0.625, 0.375, 0, 0], atol=0.012)
    np.testing.assert_allclose(shares(top_p=0.9), np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.012)
    np.testing.assert_allclose(shares(top_p=0.5), [1, 0, 0, 0])
    hot = np.array([0.5, 0.3, 0.15, 0.05]) ** 0.5
    np.testing.assert_allclose(shares(temperature=2.0), hot / hot.sum(), atol=0.012)
    token, logp = draw(many[:1], keys[:1], Sampling(temperature=0.1, top_k=1))
    assert token[0] == 0 and float(logp[0]) == pytest.approx(np.log(0.5))


def test_shapes_are_few():
    assert [bucket(n) for n in (1, 32, 33, 1000)] == [32, 32, 64, 1024]


def test_what_cannot_be():
    for options in ({'temperature': -1.0}, {'top_p': 0.0}, {'top_k': -1}, {'temperature': float('nan')}):
        with pytest.raises(UserError, match='top_p'):
            Sampling(**options)
    with pytest.raises(UserError, match='at least one token'):
        padded([[1], []])
    with pytest.raises(UserError, match='prompt 1 has 40 tokens, there is room for 32'):
        padded([[1], [2] * 40], limit=32)


def test_a_prompt_within_the_context_and_one_beyond_it(params):
    """Padding takes no part of it: a prompt and what is drawn may fill the context to the last place."""
    arch = dataclasses.replace(CONFIG, max_positions=40)
    assert room(arch, 4) == 36
    tokens, lengths = padded([[7] * 36, [5]], limit=36)
    assert tokens.shape == (2, 36) and padded([[5]], limit=36)[0].shape == (1, 32)
    drawn = jax.eval_shape(functools.partial(generate, arch, max_tokens=4), params, tokens, lengths, KEY)
    assert drawn.tokens.shape == (2, 1, 4)
    for width, count, complaint in (
        (37, 4, "prompts of 37 places, .* 4 tokens .* the model's 40 positions"),
        (1, 0, 'max_tokens must be at least 1, got 0'),
        (1, 40, 'leaves no room for a prompt: the model has 40'),
    ):
        with pytest.raises(UserError, match=complaint):
            generate(arch, params, np.ones((1, width), np.int32), np.array([1]), KEY, max_tokens=count)


def test_a_speaker_says_which_prompt_is_too_long(params):
    words = types.SimpleNamespace(stops=(1,))
    arch = dataclasses.replace(CONFIG, max_positions=40)
    speaker = Speaker(arch, params, words, max_tokens=4, batch=2)
    with pytest.raises(UserError, match='prompt 3 has 37 tokens, there is room for 36'):
        speaker.draw([[5], [6], [7], [8] * 37], KEY)
    assert speaker.draw([], KEY) == []
    with pytest.raises(UserError, match='max_tokens 40 leaves no room'):
        Speaker(arch, params, words, max_tokens=40)
