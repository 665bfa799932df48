"""Proteins: sequences for a backbone by ProteinMPNN, and peptides by a model of their own (see `peptides`).

ProteinMPNN looks at the backbone of 3MSI (an antifreeze protein of 66 residues, all of them kept). Rewards:

    two-state     log p(s | 66 residues of 3MX7), nats a residue: the sequence should fit another fold as well
    stability     log p(s | 3MSI) - log p(s) of residues drawn by their frequency in proteins, nats a residue
    charge        net charge at pH 7
    moment        hydrophobic moment, the largest of all windows of 11 residues (Eisenberg et al., PNAS 81:140, 1984)

Likelihoods that guide are of the checkpoint trained at 0.1 angstrom of noise; the ones that judge of the one at 0.02.
The prior's is 0.2. Structural rewards need a program that folds (`folding`). The weights and structures come by
`python -m diffusion_jax.fetch proteins`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax import datasets
from core_jax.errors import UserError, unknown
from diffusion_jax import fetch
from diffusion_jax.domains import composition, folding, peptides, sequences, structure
from diffusion_jax.domains.task import Reward, Task
from diffusion_jax.models import mpnn
from diffusion_jax.models.networks import one_hot

TASKS = ('mpnn', 'peptides')
CHECKPOINTS = ('v_48_002', 'v_48_010', 'v_48_020', 'v_48_030')
# Share of each amino acid in the proteins of Swiss-Prot, in the order ACDEFGHIKLMNPQRSTVWY (release statistics).
FREQUENCIES = np.array(
    [
        *[0.0825, 0.0138, 0.0546, 0.0672, 0.0386, 0.0707, 0.0227, 0.0591, 0.0580, 0.0965],
        *[0.0241, 0.0406, 0.0474, 0.0393, 0.0553, 0.0665, 0.0536, 0.0686, 0.0110, 0.0292],
    ]
)


def get_config(name: str = 'mpnn') -> ml_collections.ConfigDict:
    """Settings of the task of this name. Raises UserError for an unknown one."""
    if name not in TASKS:
        raise unknown('task', name, TASKS)
    if name == 'peptides':
        return peptides.get_config()
    return ml_collections.ConfigDict(
        {
            'backbone': '',  # a PDB file to design for; '' for 3MSI
            'second': '',  # of the second state, the middle of which is used; '' for 3MX7
            'checkpoint': 'v_48_020',  # of the prior
            'guide': 'v_48_010',  # of rewards
            'judge': 'v_48_002',  # of the rewards that designs are reported by
            'orders': 4,  # decoding orders that a likelihood as a reward is the mean over
            'steps': 22,  # of the process, MDLM's grid; 0: one residue a step
            'micro': 0,  # rows of a call of the network; 0: all
            'fold': '',  # a command that reads FASTA and prints PDB, for the reward 'structure'
            'structure': 'crmsd:1,plddt:1',  # terms of that reward, with weights
            'target': '',  # PDB file that structures are compared with; '' for the backbone
            'copies': 1,  # how often a sequence is repeated before it is folded, for symmetry
        }
    )


def reward_names(name: str, config: ml_collections.ConfigDict) -> list[str]:
    """Of a task with these settings, before anything is trained."""
    if name == 'peptides':
        judged = ['amp', 'amp-low-charge']
        return [*judged, *(f'{each}-held-out' for each in judged), *composition.REWARDS]
    judged = [part for each in ('two-state', 'stability') for part in (each, f'{each}-held-out')]
    return [*judged, *composition.REWARDS, *(['structure'] if config.fold else [])]


def make(name: str = 'mpnn', config: ml_collections.ConfigDict | None = None) -> Task:
    """The task of this name, 'mpnn' or 'peptides'.

    Raises UserError for another one, and where data, weights or structures are missing or do not fit.
    """
    if name not in TASKS:
        raise unknown('task', name, TASKS)
    config = config or get_config(name)
    return peptides.make(config) if name == 'peptides' else inverse_folding(config)


# Inverse folding


def inverse_folding(config: ml_collections.ConfigDict) -> Task:
    """The task 'mpnn'."""
    backbone = _backbone(config.backbone, 'backbones/3msi.pdb')
    length = len(backbone.sequence)
    second = _backbone(config.second, 'backbones/3mx7.pdb')
    second = structure.window(second, (len(second.sequence) - length) // 2, length)
    process = mpnn.make(on(config.checkpoint, backbone), steps=config.steps, micro=config.micro)
    rewards = {
        'two-state': likelihood('log-likelihood of a second backbone', on(config.guide, second), config.orders),
        'two-state-held-out': likelihood('the same by another checkpoint', on(config.judge, second), config.orders),
        'stability': likelihood('log-odds of the backbone', on(config.guide, backbone), config.orders, FREQUENCIES),
        'stability-held-out': likelihood(
            'the same by another checkpoint', on(config.judge, backbone), config.orders, FREQUENCIES
        ),
        **composition.REWARDS,
    }
    for name in ('two-state', 'stability'):
        rewards[name] = rewards[name]._replace(held_out=f'{name}-held-out')
    if config.fold:
        rewards['structure'] = structural(config)
    return Task(
        name='mpnn',
        about=f'sequences of {length} residues for a backbone, by ProteinMPNN',
        process=process,
        rewards=rewards,
        decode=sequences.decoder(sequences.PROTEIN),
        encode=sequences.encoder(sequences.PROTEIN, length),
        distances=sequences.hamming,
        write=sequences.writer(sequences.PROTEIN),
        alpha=0.05,
    )


def _backbone(path: str, packaged: str) -> structure.Backbone:
    return folding.read(path or str(fetch.path(packaged)))


@functools.cache
def weights(checkpoint: str) -> Any:
    """Parameters of a checkpoint of ProteinMPNN. Raises UserError for an unknown one, and where it was not fetched."""
    if checkpoint not in CHECKPOINTS:
        raise unknown('checkpoint', checkpoint, CHECKPOINTS)
    loaded = mpnn.from_haiku(datasets.read_npz(fetch.path(f'proteinmpnn/{checkpoint}.npz')))
    return jax.tree.map(jnp.asarray, loaded)


def on(checkpoint: str, backbone: structure.Backbone) -> mpnn.Conditioned:
    """A checkpoint that has looked at a backbone."""
    return mpnn.conditioned(weights(checkpoint), backbone.coordinates, backbone.residues, backbone.chains)


# Rewards


def likelihood(about: str, model: mpnn.Conditioned, orders: int, background: np.ndarray | None = None) -> Reward:
    """Nats a residue, the mean over `orders` fixed orders; less those of residues drawn from `background` [20]."""
    length = model.conditions.nodes.shape[0]
    odds = np.zeros(20) if background is None else np.log(background / background.sum())
    params = {
        'model': model,
        'ranks': mpnn.random_ranks(jax.random.key(0), orders, length),
        'background': jnp.asarray(odds, jnp.float32),
    }
    return Reward(f'{about}, nats a residue', _likelihood, params, on_relaxed=_likelihood)


def _likelihood(params: dict, designs: jax.Array) -> jax.Array:
    found = mpnn.log_likelihoods(params['model'], designs, params['ranks']).mean(1) / designs.shape[1]
    return found - (one_hot(designs, 20) @ params['background']).mean(1)


def structural(config: ml_collections.ConfigDict) -> Reward:
    """The reward of structures that `config.fold` makes. Raises UserError for terms that cannot be read."""
    terms = {}
    for part in config.structure.split(','):
        name, _, weight = part.partition(':')
        try:
            terms[name.strip()] = float(weight or 1)
        except ValueError:
            raise UserError(f'cannot read {part!r}; terms are written as crmsd:1,plddt:0.5') from None
    target = config.target or config.backbone or str(fetch.path('backbones/3msi.pdb'))
    made: Callable = folding.reward(config.fold, terms, target, config.copies)
    about = ' + '.join(f'{weight:g} {name}' for name, weight in terms.items())
    return Reward(f'{about} of the structure that {config.fold.split()[0]} folds', on_host=made)
