"""Random crops against a naive NumPy crop."""

import jax
import numpy as np
import pytest

from core_jax import augment
from core_jax.errors import UserError

crop = jax.jit(augment.random_crop, static_argnames='padding')


def images(count=64, seed=0):
    """Bytes that are all different within an image, so that a crop shows where it was cut."""
    rng = np.random.default_rng(seed)
    pixels = [rng.permutation(6 * 5 * 2).reshape(6, 5, 2) for _ in range(count)]
    return np.stack(pixels).astype(np.uint8)


def naive(image, down, right, padding):
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)], mode='edge')
    return padded[down : down + image.shape[0], right : right + image.shape[1]]


@pytest.mark.parametrize('padding', [1, 3])
def test_every_image_moves_on_its_own_and_with_its_successor(padding, key):
    batch = {'observations': images(200), 'next_observations': images(200, seed=1), 'rewards': np.arange(200)}
    out = jax.device_get(crop(key, batch, 1.0, padding=padding))
    np.testing.assert_array_equal(out['rewards'], batch['rewards'])
    places = [(i, j) for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    seen = []
    for i in range(200):
        fits = [
            at for at in places if np.array_equal(out['observations'][i], naive(batch['observations'][i], *at, padding))
        ]
        assert len(fits) == 1
        np.testing.assert_array_equal(
            out['next_observations'][i], naive(batch['next_observations'][i], *fits[0], padding)
        )
        seen += fits
    assert out['observations'].dtype == np.uint8
    # 200 draws of 9 or 49 places.
    assert {i for i, _ in seen} == {j for _, j in seen} == set(range(2 * padding + 1))
    assert len(set(seen)) > 0.9 * len(places)


def test_one_coin_decides_for_the_batch():
    batch = {'observations': images(), 'next_observations': images()}
    keys = jax.random.split(jax.random.key(0), 200)
    out = jax.device_get(jax.jit(jax.vmap(lambda key: augment.random_crop(key, batch, 0.5)))(keys))
    moved = (out['observations'] != batch['observations']).any(axis=(2, 3, 4)).mean(axis=1)
    assert set(moved > 0.8) == {True, False} and set(moved[moved <= 0.8]) == {0.0}
    assert 75 < np.sum(moved > 0) < 125  # 100, standard deviation 7
    never = jax.device_get(crop(keys[0], batch, 0.0))
    jax.tree.map(np.testing.assert_array_equal, never, batch)


def test_states_are_refused(key):
    with pytest.raises(UserError, match=r'need images .* shape \(3, 2\)'):
        augment.random_crop(key, {'observations': np.zeros((3, 2))}, 1.0)
