"""A finished policy without its trainer: exported parameters and the config that they were trained with."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import typing
from typing import Any

import jax
import numpy as np

from core_jax import checkpoint
from core_jax.mesh import fetch


class LoadedPolicy:
    """A trained policy: `policy(observations)` gives actions in [-1, 1]. Built from parameters and config alone.

    module: the algorithm's: make(config, action_dim), get_config(), Policy.
    """

    def __init__(self, params: dict[str, Any], config: dict[str, Any], module: Any, seed: int = 0):
        self.config = module.get_config()  # of fields that came after the policy was exported, the defaults
        with self.config.unlocked():
            self.config.update({name: tuple(v) if isinstance(v, list) else v for name, v in config.items()})
        self.learner = module.make(self.config, config['action_dim'])
        self._policy = _build(module.Policy, params)
        self._act = jax.jit(self.learner.act)
        self._key, self._calls, self._memory = jax.random.key(seed), 0, None

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Actions [A] for an observation ([D], or an image [H, W, C] of bytes), or [B, A] for [B, ...]."""
        observations = np.asarray(observations)
        if observations.dtype != np.uint8:
            observations = observations.astype(np.float32)
        single = observations.ndim == (3 if self.config.get('encoder') else 1)
        batch = observations[None] if single else observations
        if self._memory is None:
            self.reset(len(batch))
        self._calls += 1
        key = jax.random.fold_in(self._key, self._calls)
        self._memory, actions = self._act(self._policy, self._memory, batch, key)
        actions = fetch(actions)
        return actions[0] if single else actions

    def reset(self, batch_size: int = 1) -> None:
        """Forgets the episode so far (needed for policies with a memory)."""
        self._memory = self.learner.memory(batch_size)


def _build(kind: type, tree: dict[str, Any]) -> Any:
    """The dataclass `kind` from nested dicts; what was None has no entry, and dataclasses in it are built too."""
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        value = tree.get(field.name)
        nested = dataclasses.is_dataclass(hints[field.name]) and isinstance(value, dict)
        fields[field.name] = _build(hints[field.name], value) if nested else value
    return kind(**fields)


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, config) of a finished run's directory, or of an exported .npz file.

    Raises UserError where there is none, or the file is damaged.
    """
    path = pathlib.Path(path)
    return checkpoint.load_policy(path / 'policy.npz' if path.is_dir() else path)
