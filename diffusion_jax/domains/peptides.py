"""Peptides of up to 50 residues, half of them antimicrobial, by an order-agnostic model that is trained here.

The data are modlamp's AMPvsUniProt: antimicrobial peptides, and peptides of UniProt that are not known to be. They
come by `python -m diffusion_jax.fetch proteins`. The model is order-agnostic, as EvoDiff's (OA-ARDM): one position a
step, in a random order. A design is 50 tokens: a peptide, and END after it. Where residues follow an END, the peptide
ends there all the same. Rewards:

    amp               log-odds of being antimicrobial, nats, by an oracle fitted on half A of the peptides
    amp-low-charge    the same, while the net charge stays below the median of antimicrobial peptides
    charge, moment    see `composition`

Oracle B, fitted on the other half, judges both of the first. The halves share no peptide, but families of similar ones
are in both, so that the judge is not as independent as one of another experiment.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from diffusion_jax import fetch, training
from diffusion_jax.domains import composition, sequences
from diffusion_jax.domains.constraint import Limit, constrained
from diffusion_jax.domains.task import Reward, Task
from diffusion_jax.models import masked_learner, oracle
from diffusion_jax.process import PyTree

LENGTH = 50  # the longest that is not antimicrobial: longer ones would be known by their length
LETTERS = sequences.PROTEIN + sequences.END
FLOOR = -20.0  # nats, of a design without residues


def get_config() -> ml_collections.ConfigDict:
    """Settings of the model and the oracles: minutes on a core."""
    model, judge = masked_learner.get_config(), oracle.get_config()
    model.update({'tokens': len(LETTERS), 'masking': 'oaardm', 'batch_size': 64, 'warmup': 100})
    model.update({'learning_rate': 1e-3, 'ema': 0.998})
    model.network = {'kind': 'cnn', 'hidden': 64, 'stacks': 1}
    judge.update({'tokens': len(LETTERS), 'loss': 'logistic', 'pool': 10, 'dropout': 0.5, 'weight_decay': 0.1})
    return ml_collections.ConfigDict(
        {
            'model': model,
            'model_steps': 1500,  # updates
            'oracle': judge,
            'oracle_steps': 1000,  # updates
            'steps': 0,  # of the process, MDLM's grid; 0: one residue a step
        }
    )


def make(config: ml_collections.ConfigDict) -> Task:
    """The task; trains what is missing. Raises UserError where the peptides were not fetched."""
    tokens, antimicrobial = load()
    learner = masked_learner.make(config.model)
    params = training.trained('peptides', learner, {'tokens': tokens}, config.model, steps=config.model_steps)
    network = masked_learner.network_of(config.model)
    known = set(decode(tokens))
    return Task(
        name='peptides',
        about=f'peptides of up to {LENGTH} residues, by an order-agnostic model: antimicrobial by a trained oracle',
        process=masked_learner.process(network, params, length=LENGTH, tokens=len(LETTERS), steps=config.steps),
        rewards=rewards(tokens, antimicrobial, config),
        decode=decode,
        encode=encode,
        distances=lambda designs: sequences.hamming(sequences.ended(designs, len(LETTERS) - 1)),
        write=sequences.writer(LETTERS),
        alpha=0.5,
        measures=lambda designs: measures(designs, known),
    )


decode = sequences.decoder(LETTERS)
encode = sequences.encoder(LETTERS, LENGTH)


# Data


def load() -> tuple[np.ndarray, np.ndarray]:
    """(tokens [N, 50] int8, antimicrobial [N] float32, 1 or 0) of the different peptides of up to 50 residues.

    A methionine in front is left out: most peptides out of UniProt have it as their gene begins, antimicrobial ones
    have lost it. Peptides that are in the file with both labels are left out, too. Raises UserError where it was not
    fetched.
    """
    labels: dict[str, set[str]] = {}
    for line in fetch.path('peptides.csv').read_text().split()[1:]:
        sequence, label = line.split(',')
        labels.setdefault(sequence.removeprefix('M'), set()).add(label)
    kept = [text for text, found in labels.items() if len(found) == 1 and 0 < len(text) <= LENGTH]
    return encode(kept), np.array(['1' in labels[text] for text in kept], np.float32)


# Rewards


def rewards(tokens: np.ndarray, antimicrobial: np.ndarray, config: ml_collections.ConfigDict) -> dict[str, Reward]:
    """By name; trains the oracles where they are missing."""
    odds, guide_and_judge = odds_of(config.oracle), oracles(tokens, antimicrobial, config)
    charge = composition.REWARDS['charge']
    usual = float(np.median(charge.on_device(None, tokens[antimicrobial == 1])))
    found = {}
    for suffix, params, half in zip(('', '-held-out'), guide_and_judge, ('A', 'B, of the other half'), strict=True):
        about = f'log-odds of being antimicrobial, nats, by oracle {half}'
        amp = Reward(about, odds, params, on_relaxed=odds, floor=FLOOR)
        found |= {f'amp{suffix}': amp, f'amp-low-charge{suffix}': constrained(amp, Limit(charge, usual))}
    for name in ('amp', 'amp-low-charge'):
        found[name] = found[name]._replace(held_out=f'{name}-held-out')
    return found | composition.REWARDS


def oracles(tokens: np.ndarray, antimicrobial: np.ndarray, config: ml_collections.ConfigDict) -> tuple[PyTree, PyTree]:
    """(A, B): parameters, trained on the two `oracle.halves`."""
    learner, found = oracle.make(config.oracle), []
    for letter, rows in zip('ab', oracle.halves(len(tokens)), strict=True):
        data = {'tokens': tokens[rows], 'target': antimicrobial[rows]}
        found.append(training.trained(f'peptides-{letter}', learner, data, config.oracle, steps=config.oracle_steps))
    return found[0], found[1]


def odds_of(config: ml_collections.ConfigDict) -> Callable[[PyTree, jax.Array], jax.Array]:
    """(params, designs [N, L] or relaxed [N, L, 21]) -> log-odds [N] of an oracle, NaN where there is no residue."""
    network = oracle.network_of(config)

    def odds(params: PyTree, designs: jax.Array) -> jax.Array:
        residues = composition.residues(designs)
        end = 1 - residues.sum(-1, keepdims=True)  # as the oracle has learned it, to the last place
        return jnp.where(end[:, 0, 0] < 1, network.apply(params, jnp.concatenate([residues, end], -1)), jnp.nan)

    return odds


# What is said of designs


def measures(designs: np.ndarray, known: set[str]) -> dict[str, float]:
    """length: residues, the mean; novelty: share of the different peptides that are none of `known`."""
    texts = decode(designs)
    different = set(texts)
    return {
        'length': float(np.mean([len(text) for text in texts])),
        'novelty': len(different - known) / len(different),
    }
