"""Molecules of the size of drugs: masked diffusion over SELFIES, trained on MOSES (arXiv 1811.12823).

Any sequence of SELFIES symbols is a molecule, so designs are valid by construction. The data come by
`python -m diffusion_jax.fetch molecules`; the model is trained here, once (`training`). Rewards are made on the host
(`chemistry`): properties by RDKit, docking into packaged receptors by AutoDock Vina.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from core_jax import datasets
from core_jax.errors import UserError, unknown
from core_jax.files import cannot_write, write_atomic
from diffusion_jax import fetch, training
from diffusion_jax.domains import chemistry
from diffusion_jax.domains.table import designs_csv
from diffusion_jax.domains.task import Reward, Task
from diffusion_jax.models import masked_learner

# What MOSES is written in, after the symbol that stands for nothing and fills up a design.
SYMBOLS = (
    '[nop] [C] [=C] [#C] [N] [=N] [#N] [NH1] [O] [=O] [S] [=S] [P] [F] [Cl] [Br] [H] [Ring1] [=Ring1] [Ring2] [=Ring2] '
    '[Branch1] [=Branch1] [#Branch1] [Branch2] [=Branch2] [#Branch2]'
).split()
TASKS = ('moses',)
LENGTH = 52  # the longest of MOSES has 50 symbols
RECEPTORS = ('PARP1', 'JAK2')  # of dockstring's 58: those of the papers that it has
DRAWN = 50  # structures in the picture


def get_config(name: str = 'moses') -> ml_collections.ConfigDict:
    """Settings of the task 'moses', the only one: of the model and of what it is trained on. Raises UserError."""
    if name not in TASKS:
        raise unknown('task', name, TASKS)
    model = masked_learner.get_config()
    model.update({'tokens': len(SYMBOLS), 'batch_size': 64, 'warmup': 100, 'learning_rate': 1e-3, 'ema': 0.998})
    model.network = {'kind': 'cnn', 'hidden': 96, 'stacks': 1}
    return ml_collections.ConfigDict(
        {
            'molecules': 100_000,  # of MOSES' 1,584,663, drawn at random
            'model': model,
            'model_steps': 10_000,  # updates
            'steps': 26,  # of the process, MDLM's grid; 0: one symbol a step
            'receptors': RECEPTORS,
            'exhaustiveness': 1,  # of the docking that guides; the one that judges searches four times as much
        }
    )


def reward_names(name: str, config: ml_collections.ConfigDict) -> list[str]:
    """Of the task with these settings, before anything is trained."""
    return list(rewards(config))


def make(name: str = 'moses', config: ml_collections.ConfigDict | None = None) -> Task:
    """The task 'moses'; trains its model where it is missing.

    Raises UserError for another name, where data were not fetched, and where packages are missing.
    """
    if name not in TASKS:
        raise unknown('task', name, TASKS)
    config = config or get_config(name)
    data = load(config.molecules)
    learner = masked_learner.make(config.model)
    params = training.trained('moses', learner, {'tokens': data['tokens']}, config.model, steps=config.model_steps)
    network = masked_learner.network_of(config.model)
    about = {'length': LENGTH, 'tokens': len(SYMBOLS), 'steps': config.steps, 'samples': 26}
    return Task(
        name='moses',
        about='molecules as SELFIES of up to 52 symbols, by a model of MOSES: properties, docking',
        process=masked_learner.process(network, params, **about),
        rewards=rewards(config),
        decode=decode,
        encode=encode,
        distances=lambda designs: chemistry.distances(decode(designs)),
        write=write,
        alpha=0.05,
        measures=lambda designs: measures(designs, data['identity']),
    )


# Data


def load(count: int) -> dict[str, np.ndarray]:
    """`count` molecules of MOSES' training set: tokens [N, 52] int8, identity [N] uint64 (see `identity`).

    They are drawn at random, always the same ones, and kept as an npz file. Raises UserError where MOSES was not
    fetched or is too small.
    """
    kept = fetch.home() / f'moses_{count}.npz'
    if not kept.exists():
        lines = gzip.decompress(fetch.path('moses_train.csv.gz').read_bytes()).decode().split()[1:]
        if count > len(lines):
            raise UserError(f'MOSES has {len(lines)} molecules, not {count}')
        smiles = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:count]]
        arrays = {'tokens': encode(smiles), 'identity': identity([chemistry.canonical(one) for one in smiles])}
        try:
            datasets.save_npz(kept, arrays)
        except OSError as error:
            cannot_write(kept, error)
    return datasets.load_npz(kept, {'tokens': 2, 'identity': 1})


def identity(texts: Sequence[str]) -> np.ndarray:
    """64-bit hashes [N] of canonical SMILES: two of 100,000 molecules agree by chance once in three billion sets."""
    hashes = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b''.join(hashes), np.uint64)


def encode(texts: Sequence[str]) -> np.ndarray:
    """SMILES as designs [N, 52], filled up with [nop].

    Raises UserError, naming the molecule, where it is none, is too long, or has atoms that MOSES does not have.
    """
    places = {symbol: i for i, symbol in enumerate(SYMBOLS)}
    designs = np.zeros((len(texts), LENGTH), np.int8)
    for design, text in zip(designs, texts, strict=True):
        symbols = chemistry.to_selfies(text)
        if len(symbols) > LENGTH:
            raise UserError(f'{text!r} takes {len(symbols)} SELFIES symbols; designs have {LENGTH}')
        for i, symbol in enumerate(symbols):
            if symbol not in places:
                raise UserError(f'{text!r} has {symbol}, which is not in MOSES')
            design[i] = places[symbol]
    return designs


def decode(designs: np.ndarray) -> list[str]:
    """Canonical SMILES; '' for a design without an atom. Raises ValueError for a token that is no symbol: the mask."""
    designs = np.asarray(designs, np.int8)
    if designs.size and not 0 <= designs.min() <= designs.max() < len(SYMBOLS):
        raise ValueError(f'designs have tokens outside 0 to {len(SYMBOLS) - 1}')
    return [_smiles(design.tobytes()) for design in designs]


@functools.lru_cache(maxsize=1 << 18)  # late in a search the same designs come again and again
def _smiles(design: bytes) -> str:
    return chemistry.from_selfies([SYMBOLS[token] for token in design if token])


# Rewards


def rewards(config: ml_collections.ConfigDict) -> dict[str, Reward]:
    """By name. Those of docking need the receptors when they are asked, not before."""
    found = {
        'qed': Reward('drug-likeness QED, 0 to 1', on_host=chemistry.qed, floor=0.0),
        'ease': Reward('ease of synthesis (10 - SA) / 9, 0 to 1', on_host=chemistry.ease, floor=0.0),
        'drug': Reward('QED times ease of synthesis, 0 to 1', on_host=chemistry.drug, floor=0.0),
        'logp': Reward('octanol-water log10 P (Crippen)', on_host=chemistry.logp, floor=-10.0),
        'plogp': Reward('logP less SA and large rings', on_host=chemistry.penalised_logp, floor=-20.0),
        'zaleplon': Reward('likeness to zaleplon with another formula, 0 to 1', on_host=chemistry.zaleplon, floor=0.0),
        'median': Reward('likeness to tadalafil and sildenafil, 0 to 1', on_host=chemistry.median, floor=0.0),
    }
    for receptor in config.receptors:
        path = str(fetch.home() / 'receptors' / f'{receptor}_target.pdbqt')
        guide = {'receptor': path, 'exhaustiveness': config.exhaustiveness, 'seed': 1}
        judge = {'receptor': path, 'exhaustiveness': 4 * config.exhaustiveness, 'seed': 2}
        for name, function, about in (
            (f'dock-{receptor.lower()}', chemistry.docking, f'docking to {receptor}, -kcal/mol by Vina'),
            (f'drug-{receptor.lower()}', chemistry.docking_drug, f'docking to {receptor} / 20 * QED * ease'),
        ):
            guided, judged = functools.partial(function, **guide), functools.partial(function, **judge)
            found[name] = Reward(about, on_host=guided, floor=0.0, held_out=f'{name}-held-out')
            found[f'{name}-held-out'] = Reward(f'{about}, another seed, longer search', on_host=judged, floor=0.0)
    return found


# What is said of designs


def measures(designs: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """Of designs [N, 52], `known` the identities of the training set (MOSES, section 3):

    validity     share that is a molecule;   uniqueness    different ones among these
    novelty      share of the different ones that the model was not trained on
    """
    texts = [text for text in decode(designs) if text]
    different = sorted(set(texts))
    count = len(texts)
    return {
        'validity': count / len(designs),
        'uniqueness': len(different) / max(count, 1),
        'novelty': float(1 - np.isin(identity(different), known).mean()) if different else 0.0,
    }


def write(directory: pathlib.Path, designs: np.ndarray, columns: Mapping[str, Sequence[float]]) -> list[pathlib.Path]:
    """designs.csv with `columns` [N] each, designs.smi (a SMILES a line, numbered), and designs.png, the first 50.

    Empty designs are rows of the CSV alone. Under a structure stands its number and its first column.
    """
    texts = decode(designs)
    valid = [i for i, text in enumerate(texts) if text]
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        'designs.csv': designs_csv(texts, columns),
        'designs.smi': ''.join(f'{texts[i]} {i}\n' for i in valid).encode(),
    }
    if valid:
        first = next(iter(columns.values()), None)
        legends = [f'{i}' if first is None else f'{i}: {first[i]:.3f}' for i in valid[:DRAWN]]
        files['designs.png'] = chemistry.grid([texts[i] for i in valid[:DRAWN]], legends)
    for name, content in files.items():
        write_atomic(directory / name, content)
    return [directory / name for name in files]
