"""What a domain gives to `main` and `compare`: a model, rewards, and what is said of designs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.process import Process


class Reward(NamedTuple):
    """Larger is better. Either jitted into the search, or made by processes on the host.

    on_device(params, designs [N, ...]) -> [N], pure jax
    on_host(texts) -> floats, one a design as `Task.decode` writes it; NaN where it has none. At the top level of a
        module that does not import jax: worker processes import it.
    """

    about: str  # one line: what it measures, its unit
    on_device: Callable[[Any, Any], Any] | None = None
    params: Any = None
    on_relaxed: Callable[[Any, Any], Any] | None = None  # the same of relaxed designs, for guidance
    on_host: Callable[[Sequence[str]], Sequence[float]] | None = None
    floor: float = -1e6  # what a reward that is not finite counts for
    held_out: str | None = None  # the reward that designs of this one are reported by


class Task(NamedTuple):
    """A pre-trained model with its rewards.

    decode(designs [N, ...]) -> texts, what a person reads: a sequence, a SMILES; empty where a design is none
    encode(texts) -> designs [N, ...]     raises UserError naming what cannot be read
    distances(designs [N, ...]) -> [N, N] in 0..1, of which diversity is the mean over pairs
    write(directory, designs, columns) -> paths     the files of the domain: CSV, FASTA, a PNG grid, ...
    measures(designs [N, ...]) -> {name: number}    what else is said of a set of designs, such as their novelty
    """

    name: str
    about: str
    process: Process
    rewards: dict[str, Reward]
    decode: Callable[[np.ndarray], list[str]]
    encode: Callable[[Sequence[str]], np.ndarray]
    distances: Callable[[np.ndarray], np.ndarray]
    write: Callable[..., list[Any]]
    alpha: float = 0.1  # temperature in the units of the default reward
    measures: Callable[[np.ndarray], dict[str, float]] | None = None
