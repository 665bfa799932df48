"""The residual networks of BRO and SimBa: [..., D] -> [..., features], as `core_jax.networks.MLP`.

Both go where an MLP goes, `ensemble(BroNet, 2)(512, 2, 100)` for instance; with one feature they are critics for SAC.
LayerNorm has flax's epsilon, 1e-6, and biases start at zero, as in both releases.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax

orthogonal = nn.initializers.orthogonal


class BroNet(nn.Module):
    """Nauman et al. 2024, arXiv 2405.16158, section 3: LayerNorm after each Dense, within and before the blocks.

    Dense, LayerNorm, relu; `depth` blocks x + (Dense, LayerNorm, relu, Dense, LayerNorm)(x); Dense. All kernels are
    orthogonal with gain sqrt(2), the last one too unless `final_scale` says otherwise.
    """

    width: int
    depth: int
    features: int = 1
    final_scale: float = math.sqrt(2.0)
    final_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def dense_norm(inputs: jax.Array) -> jax.Array:
            return nn.LayerNorm()(nn.Dense(self.width, kernel_init=orthogonal(math.sqrt(2.0)))(inputs))

        x = nn.relu(dense_norm(x))
        for _ in range(self.depth):
            x = x + dense_norm(nn.relu(dense_norm(x)))
        return nn.Dense(self.features, self.final_bias, kernel_init=orthogonal(self.final_scale))(x)


class SimbaNet(nn.Module):
    """Lee et al. 2024, arXiv 2410.09754, section 4: a linear path from the input to the last LayerNorm.

    Dense; `depth` blocks x + (LayerNorm, Dense to 4 * width, relu, Dense)(x); LayerNorm; Dense. The kernels of the
    blocks are He's normal initialisation, the first and the last orthogonal with gain 1. SimBa also normalises
    observations by running statistics: that is the data's part, not the network's.
    """

    width: int
    depth: int
    features: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        he = nn.initializers.he_normal()
        x = nn.Dense(self.width, kernel_init=orthogonal())(x)
        for _ in range(self.depth):
            hidden = nn.relu(nn.Dense(4 * self.width, kernel_init=he)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width, kernel_init=he)(hidden)
        return nn.Dense(self.features, kernel_init=orthogonal())(nn.LayerNorm()(x))
