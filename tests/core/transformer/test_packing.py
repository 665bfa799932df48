"""Sequences behind one another in a row, and what a reference says of rows, kept."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.transformer import learner, model, packing, reference
from core_jax.transformer.config import preset
from core_jax.transformer.losses import token_logps

ARCH = preset('tiny')


def sequences(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {'tokens': list(map(int, rng.integers(1, 60, n))), 'mask': [0] + [1] * (n - 1), 'turns': [-1] + [0] * (n - 1)}
        for n in lengths
    ]


def test_every_sequence_is_in_a_row_once_in_the_first_that_has_room():
    """By hand: 5 and 3 fill the first row of 8, 6 opens the second, 7 the third, and 2 goes into the second."""
    found = sequences([5, 6, 3, 7, 2])
    packed = packing.pack(found, 8)
    np.testing.assert_array_equal(
        packed['segments'], [[1, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1, 1, 0]]
    )
    np.testing.assert_array_equal(packed['positions'][1], [0, 1, 2, 3, 4, 5, 0, 1])
    assert list(packed['tokens'][0]) == found[0]['tokens'] + found[2]['tokens']
    assert list(packed['tokens'][1]) == found[1]['tokens'] + found[4]['tokens']
    assert packed['mask'].sum() == sum(sum(one['mask']) for one in found)
    assert packed['turns'][2, 7] == -1 and packed['mask'][2, 7] == 0


def test_packed_rows_score_what_single_rows_score():
    found = sequences([9, 4, 12, 7, 3])
    params = model.init(ARCH, jax.random.key(0))

    def total(rows):
        rows = jax.tree.map(jnp.asarray, rows)
        logps = token_logps(ARCH, params, *(rows[name] for name in ('tokens', 'positions', 'segments')))
        return float((logps * rows['mask']).sum())

    assert total(packing.pack(found, 16)) == pytest.approx(total(packing.rows(found, 12)), rel=1e-5)


def test_widths_and_sequences_that_do_not_fit():
    assert packing.width_of(sequences([5, 33])) == 64
    for lay in (packing.rows, packing.pack):
        with pytest.raises(UserError, match='a sequence has 9 tokens, there is room for 8'):
            lay(sequences([3, 9]), 8)


def test_a_reference_is_asked_once(tmp_path, monkeypatch):
    """Its word is what `learner.scores` says, read again afterwards, and made anew for other rows or parameters."""
    params, config = model.init(ARCH, jax.random.key(0)), learner.get_config()
    rows = packing.rows(sequences([5, 8, 3]), 8)
    found = reference.scores(tmp_path, ARCH, params, rows, config, batch=2)
    np.testing.assert_allclose(
        found, learner.scores(ARCH, params, jax.tree.map(jnp.asarray, rows), config)[0], rtol=1e-5
    )
    asked = []
    score = learner.scores
    monkeypatch.setattr(learner, 'scores', lambda *arguments: asked.append(1) or score(*arguments))
    np.testing.assert_array_equal(reference.scores(tmp_path, ARCH, params, rows, config), found)
    assert not asked
    config.reduction = 'token_mean'
    means = reference.scores(tmp_path, ARCH, params, rows, config)
    np.testing.assert_allclose(means, found / rows['mask'].sum(1), rtol=1e-5)
    reference.scores(tmp_path, ARCH, model.init(ARCH, jax.random.key(1)), rows, config)
    assert asked and len(list(tmp_path.glob('reference-*.npz'))) == 3
    for path in tmp_path.glob('*.npz'):
        path.write_bytes(b'torn')
    np.testing.assert_allclose(reference.scores(tmp_path, ARCH, params, rows, config), means, rtol=1e-5)


def test_what_cannot_be_read_is_asked_again(tmp_path, monkeypatch):
    rows, config = packing.rows(sequences([5, 8, 3]), 8), learner.get_config()
    monkeypatch.setattr(learner, 'scores', lambda arch, params, rows, config: (rows['tokens'].sum(1), None))
    found = reference.scores(tmp_path, ARCH, {}, rows, config)
    (path,) = tmp_path.iterdir()
    packed = io.BytesIO()
    np.savez_compressed(packed, scores=np.zeros(300))
    squeezed = bytearray(packed.getvalue())
    squeezed[60:70] = b'\xff' * 10
    single = io.BytesIO()
    np.save(single, found)
    for content in (b'', path.read_bytes()[:90], bytes(squeezed), single.getvalue()):
        path.write_bytes(content)
        np.testing.assert_array_equal(reference.scores(tmp_path, ARCH, {}, rows, config), found)
