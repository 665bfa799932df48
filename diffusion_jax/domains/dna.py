"""DNA: the exact laboratory (8-mers, see `lab`), and promoters of 75 bases whose expression was measured.

The promoters are 50,518 variants of the lac promoter, sorted by expression into ten bins (sort-seq; Kinney et al.,
PNAS 107:9158, 2010). A masked model learns their distribution; two oracles learn the expression from disjoint halves:
log-odds of the mean bin as a share of the top one, which have no end that designs could reach and are not to be read as
measurements far from those of real promoters. One guides, the other judges. Motifs of JASPAR are rewards, too. The data
come by `python -m diffusion_jax.fetch dna`; model and oracles are trained here, once (`training`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax import datasets
from core_jax.errors import unknown
from diffusion_jax import fetch, training
from diffusion_jax.domains import lab, motif, sequences
from diffusion_jax.domains.constraint import Limit, constrained
from diffusion_jax.domains.task import Reward, Task
from diffusion_jax.models import masked_learner, oracle
from diffusion_jax.process import PyTree

MOTIFS = ('HNF4A', 'HNF1A', 'CEBPA', 'FOXA1')  # of the liver, as the HepG2 cells of the enhancer task
BINS = 10
TASKS = ('lab', 'promoters')


def get_config(name: str = 'promoters') -> ml_collections.ConfigDict:
    """Settings of the promoters' model and oracles: minutes on a core. The laboratory has none. Raises UserError."""
    if name not in TASKS:
        raise unknown('task', name, TASKS)
    if name == 'lab':
        return ml_collections.ConfigDict()
    model, judge = masked_learner.get_config(), oracle.get_config()
    judge.loss = 'logistic'
    model.update({'batch_size': 64, 'warmup': 100, 'learning_rate': 1e-3, 'ema': 0.998})
    model.network = {'kind': 'cnn', 'hidden': 32, 'stacks': 1}
    return ml_collections.ConfigDict(
        {
            'model': model,
            'model_steps': 1500,  # updates
            'oracle': judge,
            'oracle_steps': 3000,  # updates
            'steps': 25,  # of the process, MDLM's grid; 0: one base a step
            'motifs': MOTIFS,
        }
    )


def reward_names(name: str, config: ml_collections.ConfigDict) -> list[str]:
    """Of a task with these settings, before anything is trained."""
    if name == 'lab':
        return list(lab.EXPERIMENTS)
    motifs = [factor.lower() for factor in config.motifs]
    return ['expression', 'expression-held-out', *motifs, *(f'{first}-only' for first in motifs[:1] if len(motifs) > 1)]


def make(name: str = 'lab', config: ml_collections.ConfigDict | None = None) -> Task:
    """The task of this name, 'lab' or 'promoters'. Raises UserError for another one, and where data are missing."""
    if name == 'lab':
        return lab.make()
    if name == 'promoters':
        return promoters(config or get_config(name))
    raise unknown('task', name, TASKS)


# Promoters


def load() -> tuple[np.ndarray, np.ndarray]:
    """(tokens [50518, 75] int8, mean expression bin [50518] float32, 0 to 9) of the variants.

    Raises UserError where they were not fetched.
    """
    rows = datasets.load_npz(fetch.path('sortseq.npz'), {'tokens': 2, 'counts': 2})
    counts = rows['counts'].astype(np.float32)
    return rows['tokens'], counts @ np.arange(BINS, dtype=np.float32) / counts.sum(1)


def promoters(config: ml_collections.ConfigDict) -> Task:
    """The task; trains what is missing. Rewards are in nats, log-odds of expression or of motifs."""
    tokens, bins = load()
    length = tokens.shape[1]
    learner = masked_learner.make(config.model)
    params = training.trained('promoters', learner, {'tokens': tokens}, config.model, steps=config.model_steps)
    network = masked_learner.network_of(config.model)
    process = masked_learner.process(
        network, params, length=length, tokens=len(sequences.DNA), steps=config.steps, samples=32
    )
    guide, judge = oracles(tokens, bins, config)
    expression = expression_of(config.oracle)
    rewards = {
        'expression': Reward(
            'log-odds of expression by oracle A',
            expression,
            guide,
            on_relaxed=expression,
            held_out='expression-held-out',
        ),
        'expression-held-out': Reward(
            'log-odds of expression by oracle B, of the other half',
            expression,
            judge,
            on_relaxed=expression,
        ),
    }
    matrices = motif.read_jaspar(fetch.path('jaspar_vertebrates.txt').read_text(), 'jaspar_vertebrates.txt')
    for factor in config.motifs:
        identifier, counts = motif.select(matrices, factor)
        about = f'sites of {factor} ({identifier}), log sum of odds over places and strands'
        weights = jnp.asarray(motif.log_odds(counts))
        rewards[factor.lower()] = Reward(about, motif.binding, weights, on_relaxed=motif.binding)
    # High in one respect, no more than usual in another: as enhancers that must be silent in other cells.
    names = [factor.lower() for factor in config.motifs]
    if len(names) > 1:
        rewards[f'{names[0]}-only'] = constrained(
            rewards[names[0]], *(Limit(rewards[name], usual(rewards[name], tokens)) for name in names[1:])
        )
    return Task(
        name='promoters',
        about='75 bases of a promoter of E. coli: expression by a trained oracle, binding sites by JASPAR',
        process=process,
        rewards=rewards,
        decode=sequences.decoder(sequences.DNA),
        encode=sequences.encoder(sequences.DNA, length),
        distances=sequences.hamming,
        write=sequences.writer(sequences.DNA),
        alpha=0.5,
        measures=lambda designs: {'kmer_correlation': kmer_correlation(designs, tokens)},
    )


def oracles(tokens: np.ndarray, bins: np.ndarray, config: ml_collections.ConfigDict) -> tuple[PyTree, PyTree]:
    """(A, B): what `expression_of` takes, fitted on two disjoint halves."""
    learner, found = oracle.make(config.oracle), []
    for letter, rows in zip('ab', oracle.halves(len(tokens)), strict=True):
        data = {'tokens': tokens[rows], 'target': bins[rows] / (BINS - 1)}
        found.append(training.trained(f'promoters-{letter}', learner, data, config.oracle, steps=config.oracle_steps))
    return found[0], found[1]


def expression_of(config: ml_collections.ConfigDict):
    """(params, designs [N, L] or relaxed [N, L, 4]) -> log-odds [N] of an oracle."""
    network = oracle.network_of(config)

    def expression(params: PyTree, designs: jax.Array) -> jax.Array:
        return network.apply(params, oracle.one_hot(designs, config.tokens))

    return expression


def usual(reward: Reward, tokens: np.ndarray, rows: int = 2000) -> float:
    """The median of a reward over the first `rows` real sequences."""
    return float(np.median(jax.jit(reward.on_device)(reward.params, jnp.asarray(tokens[:rows]))))


def kmer_correlation(designs: np.ndarray, natural: np.ndarray, k: int = 3) -> float:
    """Pearson's correlation of k-mer counts between two sets of sequences [N, L], [M, L] (DRAKES, section 6.1)."""
    weights = 4 ** np.arange(k)

    def counts(tokens: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), k, axis=1)
        return np.bincount((windows @ weights).ravel(), minlength=4**k)

    return float(np.corrcoef(counts(designs), counts(natural))[0, 1])
