"""Where the numbers of a decoder lie on a mesh: `data` and `fsdp` share the batch, `fsdp` and `tensor` the matrices.

Heads, the width of the MLP and the vocabulary are divided by `tensor`, the other side of each matrix by `fsdp`. What an
axis does not divide falls back to a copy on every device (SmolLM2's nine heads on two, eight heads of keys on sixteen).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from core_jax import sharding

PARAMS = (
    (r'embed_tokens/embedding', P('tensor', 'fsdp')),
    (r'lm_head/kernel', P('fsdp', 'tensor')),
    (r'[qkv]_proj/kernel', P('fsdp', 'tensor', None)),
    (r'[qkv]_proj/bias', P('tensor', None)),
    (r'o_proj/kernel', P('tensor', None, 'fsdp')),
    (r'(gate|up)_proj/kernel', P('fsdp', 'tensor')),
    (r'down_proj/kernel', P('tensor', 'fsdp')),
    (r'norm', P()),
    (r'_proj/[ab]$', P()),  # adapters are small
)
BATCH = ('data', 'fsdp')


def params(tree: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each parameter, stacked or not."""
    return sharding.infer(tree, mesh, PARAMS)


def batch(tree: Any, mesh: Mesh) -> Any:
    """Rows of a batch over `data` and `fsdp`, where these divide them."""
    ways = mesh.shape['data'] * mesh.shape['fsdp']
    return jax.tree.map(lambda x: NamedSharding(mesh, P(BATCH) if x.ndim and x.shape[0] % ways == 0 else P()), tree)


def gathered(name: str, leaf: jax.Array) -> jax.Array:
    """A parameter made whole along `fsdp` where it is used, under `jax.set_mesh`; elsewhere as it is.

    Left alone, the compiler multiplies by the parts and adds up activations, which are larger. The gradient goes the
    way back: each device is given the sum of its own part.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return leaf
    divided = sharding.fit(leaf.shape, sharding.named(name, PARAMS), mesh)
    return _between(divided, P(*(None if axis == 'fsdp' else axis for axis in divided)), leaf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _between(before: P, after: P, leaf: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, after)


_between.defvjp(
    lambda before, after, leaf: (_between(before, after, leaf), None),
    lambda before, after, _, gradient: (jax.lax.with_sharding_constraint(gradient, before),),
)


def laid(x: jax.Array, *axes: str | None) -> jax.Array:
    """Activations [B, ...] as rows of a batch, under `jax.set_mesh`; elsewhere as they are.

    axes: along which the other dimensions lie. What does not divide is a copy on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    axes = axes or (None,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, sharding.fit(x.shape, P(BATCH, *axes), mesh))
