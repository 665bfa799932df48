"""Sharding as data: ordered (path regex, PartitionSpec) rules, the first match wins.

    rules = [
        (r'Dense_\\d+/kernel', P('fsdp', 'tensor')),
        (r'.*', P()),
    ]

A dimension that its mesh axis does not divide falls back to replication, and a rule for a matrix serves the stacked
matrices of an ensemble too: specs are aligned to the last dimensions. Every decision for a large leaf is logged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from core_jax.errors import UserError

Rules = Sequence[tuple[str, PartitionSpec]]
LARGE = 1 << 20  # elements; above this a leaf must be named by a rule, and what became of it is logged
log = logging.getLogger(__name__)


def path_name(path: tuple) -> str:
    """'params/critic/Dense_0/kernel' for a key path of `jax.tree_util`."""
    return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)


def names(tree: Any) -> list[str]:
    """The path names of all leaves, in `jax.tree.leaves` order."""
    return [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def infer(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """The NamedSharding of each leaf of `tree` (arrays or ShapeDtypeStructs).

    Raises UserError for a large leaf that no rule names.
    """

    def one(path, leaf):
        name = path_name(path)
        spec = named(name, rules)
        large = int(np.prod(leaf.shape)) >= LARGE
        if spec is None:
            if large:
                raise UserError(f'no sharding rule names {name} {leaf.shape}; add one (P() replicates)')
            spec = PartitionSpec()
        fitted = fit(leaf.shape, spec, mesh)
        if large:
            log.info('sharding %s %s: %s', name, leaf.shape, fitted)
        return NamedSharding(mesh, fitted)

    return jax.tree_util.tree_map_with_path(one, tree)


def named(name: str, rules: Rules) -> PartitionSpec | None:
    """What the first rule says that matches a path name."""
    return next((spec for pattern, spec in rules if re.search(pattern, name)), None)


def fit(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The spec for a leaf of this shape: aligned to the last dimensions, without axes that do not divide theirs."""
    entries = tuple(spec)[-len(shape) :] if shape else ()
    entries = (None,) * (len(shape) - len(entries)) + entries

    def keep(size, entry):
        if entry is None:
            return None
        ways = int(np.prod([mesh.shape[axis] for axis in ((entry,) if isinstance(entry, str) else entry)]))
        if size % ways:
            log.info('dimension of size %d is not divisible by %s (%d): replicated', size, entry, ways)
            return None
        return entry if ways > 1 else None

    return PartitionSpec(*(keep(size, entry) for size, entry in zip(shape, entries, strict=True)))


def batch_spec(tree: Any, mesh: Mesh, axis: str = 'data') -> Any:
    """The leading dimension of every leaf along `axis` where it divides, otherwise replicated."""
    return jax.tree.map(lambda x: NamedSharding(mesh, _leading(x.shape, mesh, axis)), tree)


def _leading(shape: tuple[int, ...], mesh: Mesh, axis: str) -> PartitionSpec:
    if not shape or shape[0] % mesh.shape[axis]:
        return PartitionSpec()
    return PartitionSpec(axis)
