"""Where the numbers of a decoder lie on a mesh: `data` and `fsdp` share the batch, `fsdp` and `tensor` the matrices.

Heads, the width of the MLP and the vocabulary are divided by `tensor`, the other side of each matrix by `fsdp`. What an
axis does not divide falls back to a copy on every device (SmolLM2's nine heads on two, eight heads of keys on sixteen).
"""

from __future__ import annotations

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


def laid(x: jax.Array) -> jax.Array:
    """Activations [B, T, D] as rows of a batch, under `jax.set_mesh`; elsewhere as they are."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % (mesh.shape['data'] * mesh.shape['fsdp']):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH, *[None] * (x.ndim - 1)))
