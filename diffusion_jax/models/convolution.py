"""Convolutions whose gradients are given by hand, for sequences and images alike.

Those that jax asks for are computed by naive code where XLA on a CPU meets them inside a loop, such as that of training
and of a guided search: tens of times slower than the ones here, a convolution of the same kind and matrix products.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYOUTS = {1: ('NWC', 'WIO', 'NWC'), 2: ('NHWC', 'HWIO', 'NHWC')}  # by the number of axes


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolved(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """x [N, *size, I] and taps [*window, I, O], windows odd -> [N, *size, O], zeros beyond the ends."""
    window = kernel.shape[:-2]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1,) * len(window),
        padding=[(width // 2 * dilation,) * 2 for width in window],
        rhs_dilation=(dilation,) * len(window),
        dimension_numbers=LAYOUTS[len(window)],
    )


def _forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple]:
    return convolved(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, saved: tuple, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    window, size = kernel.shape[:-2], x.shape[1:-1]
    padded = jnp.pad(x, [(0, 0), *((width // 2 * dilation,) * 2 for width in window), (0, 0)])
    taps = []
    for tap in itertools.product(*map(range, window)):
        seen = tuple(slice(i * dilation, i * dilation + length) for i, length in zip(tap, size, strict=True))
        taps.append(jnp.einsum('n...i,n...o->io', padded[:, *seen], slope))
    flipped = jnp.flip(kernel, range(len(window))).swapaxes(-1, -2)
    return convolved(slope, flipped, dilation), jnp.stack(taps).reshape(kernel.shape)


convolved.defvjp(_forward, _backward)


class Conv(nn.Module):
    """A convolution with odd windows: [N, *size, I] -> [N, *size, features].

    Taps that lie beyond the ends for every position, as those of wide dilations do on short sequences, are left out of
    the sum: they are parameters all the same, for other lengths.
    """

    features: int
    window: Sequence[int]
    dilation: int = 1
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, (*self.window, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        inside = []
        for width, length in zip(self.window, x.shape[1:-1], strict=True):
            reach = min(width // 2, (length - 1) // self.dilation)
            inside.append(slice(width // 2 - reach, width // 2 + reach + 1))
        y = convolved(x, kernel[*inside], self.dilation)
        return y + bias.reshape((1,) * (x.ndim - 1) + (-1,))
