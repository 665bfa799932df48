"""Models of diffusion that are trained here once and kept, in `diffusion/models` below the data directory."""

from __future__ import annotations

import ml_collections
import numpy as np

from core_jax import training
from core_jax.datasets import directory
from core_jax.state import Learner, PyTree


def trained(
    name: str,
    learner: Learner,
    data: dict[str, np.ndarray],
    config: ml_collections.ConfigDict,
    *,
    steps: int,
    seed: int = 0,
) -> PyTree:
    """The parameters of a model, see `core_jax.training.trained`."""
    home = directory() / 'diffusion' / 'models'
    return training.trained(home, name, learner, data, config, paper='diffusion', steps=steps, seed=seed)
