"""The convolution with its own gradient, against loops."""

import jax
import numpy as np
import pytest

from diffusion_jax.models.networks import convolved


@pytest.mark.parametrize('width, dilation', [(3, 1), (5, 2), (3, 16)])
def test_convolution_and_its_gradients(width, dilation):
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
