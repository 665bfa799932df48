"""Log-probabilities of a reference model, which no training changes: computed once and kept under a hash.

    reference-HASH.npz    {'scores': [N], or [N, M] of branches}

HASH stands for the parameters, the architecture, the rows and the reduction; tokenizer, template and truncation are
in the rows, which hold ids. A file that cannot be read is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from core_jax import sharding
from core_jax.datasets import fingerprint
from core_jax.files import make_directory, write_atomic
from core_jax.transformer import learner
from core_jax.transformer.config import Config

PyTree = Any


def scores(
    home: pathlib.Path,
    arch: Config,
    params: PyTree,
    rows: dict[str, np.ndarray],
    config: ml_collections.ConfigDict,
    batch: int = 64,
) -> np.ndarray:
    """`learner.scores` of N rows or stems with branches, `batch` rows at a time, kept in the directory `home`."""
    named = dict(zip(sharding.names(params), map(np.asarray, jax.tree.leaves(params)), strict=True))
    identity = {
        'params': fingerprint(named),
        'arch': {name: str(value) for name, value in dataclasses.asdict(arch).items()},
        'rows': fingerprint(rows),
        'reduction': [config.reduction, config.turns],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = home / f'reference-{digest[:16]}.npz'
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            return kept['scores']
    except Exception:  # a damaged file may raise anything
        pass
    score = jax.jit(lambda params, rows: learner.scores(arch, params, rows, config)[0])
    count, found = len(rows['tokens']), []
    batch = max(1, batch // int(np.prod(rows['tokens'].shape[1:-1])))  # a branch is a row
    for first in range(0, count, batch):
        index = np.minimum(np.arange(first, first + batch), count - 1)  # one shape, whatever is left
        part = score(params, {name: value[index] for name, value in rows.items()})
        found.append(np.asarray(part)[: count - first])
    made = np.concatenate(found)
    make_directory(home)
    content = io.BytesIO()
    np.savez(content, scores=made)
    write_atomic(path, content.getvalue())
    return made
