"""The convolution with its own gradient, against loops and against jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.convolution import Conv, convolved


@pytest.mark.parametrize('width, dilation', [(3, 1), (5, 2), (3, 16)])
def test_sequences(width, dilation):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 3)), rng.normal(size=(width, 3, 4))
    slope = rng.normal(size=(2, 7, 4))
    y, of_x, of_kernel = np.zeros((2, 7, 4)), np.zeros_like(x), np.zeros_like(kernel)
    for n in range(2):
        for i in range(7):
            for w in range(width):
                j = i + (w - width // 2) * dilation
                if 0 <= j < 7:
                    y[n, i] += x[n, j] @ kernel[w]
                    of_x[n, j] += kernel[w] @ slope[n, i]
                    of_kernel[w] += np.outer(x[n, j], slope[n, i])
    single = [np.float32(array) for array in (x, kernel, slope)]
    found, pull = jax.vjp(lambda x, kernel: convolved(x, kernel, dilation), *single[:2])
    for ours, expected in zip((found, *pull(single[2])), (y, of_x, of_kernel), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_images():
    rng = np.random.default_rng(0)
    x, kernel = (np.float32(rng.normal(size=shape)) for shape in ((2, 5, 6, 3), (3, 3, 3, 4)))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    def both(f):
        return jax.jit(jax.value_and_grad(lambda x, kernel: (f(x, kernel) ** 3).sum(), (0, 1)))(x, kernel)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), both(convolved), both(plain))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.einsum('hwi,hwio->o', padded[1, 2:5, 4:7], kernel)
    np.testing.assert_allclose(convolved(x, kernel)[1, 2, 4], expected, rtol=1e-5)


@pytest.mark.parametrize(('length', 'dilation'), [(11, 1), (11, 16), (40, 16)])
def test_the_layer_leaves_out_taps_beyond_the_ends(key, length, dilation):
    conv = Conv(3, (9,), dilation)
    x = np.asarray(jax.random.normal(key, (2, length, 5)))
    params = conv.init(key, jnp.asarray(x))
    params['params']['bias'] = jnp.arange(3.0)
    kernel = np.asarray(params['params']['kernel'])
    assert kernel.shape == (9, 5, 3)
    expected = np.zeros((2, length, 3)) + np.arange(3.0)
    for i in range(length):
        for tap in range(9):
            j = i + (tap - 4) * dilation
            if 0 <= j < length:
                expected[:, i] += x[:, j] @ kernel[tap]
    np.testing.assert_allclose(jax.jit(conv.apply)(params, x), expected, atol=1e-5)
