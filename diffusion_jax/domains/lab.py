"""The exact laboratory: 8-mers of DNA, whose binding to a protein was measured, all 65,536 of them.

The reward is the E-score of a protein-binding microarray (Barrera et al., Science 351:1450, 2016), rescaled to [0, 1].
The prior is a Markov chain of order 1, whose rows are drawn from Dirichlet(2), and it is a table too: the denoiser, the
soft values of all 5^8 partly masked states and the target p exp(r / alpha) / Z are exact, and what a search returns can
be compared with them. SIX6 was measured twice; the second array is the held-out judge of designs made for the first.
"""

from __future__ import annotations

import functools
import pathlib

import jax
import numpy as np

from core_jax import datasets
from core_jax.errors import unknown
from diffusion_jax.domains import sequences
from diffusion_jax.domains.task import Reward, Task
from diffusion_jax.models import table
from diffusion_jax.process import Process
from diffusion_jax.value import Value

LENGTH = 8
DATA = pathlib.Path(__file__).parent / 'data' / 'pbm_8mers.npz'
EXPERIMENTS = {'six6': 'SIX6_REF_R1', 'six6-replicate': 'SIX6_REF_R2', 'egr2': 'EGR2_REF_R1'}
HELD_OUT = {'six6': 'six6-replicate'}
LEVELS = 65535  # of a stored score


def pack(scores: np.ndarray) -> np.ndarray:
    """E-scores [4^8] as uint16 [32896]: one of each word and its reverse complement, from 0 to LEVELS."""
    scaled = (scores - scores.min()) / (scores.max() - scores.min())
    return np.round(scaled[np.unique(_canonical())] * LEVELS).astype(np.uint16)


def unpack(packed: np.ndarray) -> np.ndarray:
    """Rewards in [0, 1], float64 [4, 4, 4, 4, 4, 4, 4, 4], of what `pack` gave."""
    _, place = np.unique(_canonical(), return_inverse=True)
    return (packed[place] / LEVELS).reshape((4,) * LENGTH)


def _canonical() -> np.ndarray:
    """Of each 8-mer, as a number in base 4, the lesser of itself and its reverse complement [4^8]."""
    words = np.arange(4**LENGTH)
    digits = words[:, None] // 4 ** np.arange(LENGTH)[::-1] % 4
    return np.minimum(words, (3 - digits) @ 4 ** np.arange(LENGTH))


@functools.cache
def rewards(name: str = 'six6') -> np.ndarray:
    """The reward of every 8-mer, float64 [4, ..., 4], largest 1 and least 0. Raises UserError for an unknown one."""
    if name not in EXPERIMENTS:
        raise unknown('reward', name, EXPERIMENTS)
    return unpack(datasets.load_npz(DATA)[EXPERIMENTS[name]])


@functools.cache
def prior() -> np.ndarray:
    """Probabilities of every 8-mer, float64 [4, ..., 4]: the first base is uniform, the others follow the chain."""
    step = np.random.default_rng(0).dirichlet([2.0] * 4, size=4)
    chances = np.full(4, 0.25)
    for _ in range(LENGTH - 1):
        chances = chances[..., None] * step
    return chances


def target(name: str = 'six6', alpha: float = 0.1) -> np.ndarray:
    """p exp(r / alpha) / Z of every 8-mer, float64 [4, ..., 4]: what a search at temperature alpha should draw from."""
    weights = prior() * np.exp((rewards(name) - rewards(name).max()) / alpha)
    return weights / weights.sum()


def process() -> Process:
    """The exact process, which reveals one base a step, in a random order."""
    return table.make(prior())


def value(name: str = 'six6', alpha: float = 0.1, *, exact: bool = True) -> Value:
    """A value whose reward is looked up. exact: on the way, too, by the soft values; else by what states point to."""
    whole = table.value(rewards(name))
    if not exact:
        return Value(params=whole, reward=table.lookup)
    soft = table.value(table.soft_values(prior(), rewards(name), alpha))
    params = {'whole': whole, 'soft': soft}
    return Value(params=params, reward=_whole, of_state=_soft, alpha=alpha)


def _whole(params: dict, designs: jax.Array) -> jax.Array:
    return table.lookup(params['whole'], designs)


def _soft(params: dict, x: jax.Array, level: jax.Array) -> jax.Array:
    return table.lookup(params['soft'], x)


def make() -> Task:
    """The task of the laboratory; needs no network and no training."""
    found = {
        name: Reward(
            f'E-score of {experiment} on a protein-binding microarray, 0 (least of all 8-mers) to 1',
            on_device=table.lookup,
            params=table.value(rewards(name)),
            floor=0.0,
            held_out=HELD_OUT.get(name),
        )
        for name, experiment in EXPERIMENTS.items()
    }
    return Task(
        name='lab',
        about='all 8-mers of DNA with their measured binding, and an exact model',
        process=process(),
        rewards=found,
        decode=sequences.decoder(sequences.DNA),
        encode=sequences.encoder(sequences.DNA, LENGTH),
        distances=sequences.hamming,
        write=sequences.writer(sequences.DNA),
        alpha=0.1,
    )
