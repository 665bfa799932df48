"""The grid of a sweep: cells, and the packs that are run.

A cell is one seed of one setting. Cells that differ in the learning rate and the seed alone are one pack: one ordinary
run (`scaling.utd.main`) with a population. What a cell gave is a file of its own, named after its settings, so that a
finished cell is never run again, whatever pack it was in and whatever is asked for later.

    runs/NAME/cells/ID.json     the curve of a finished cell; `failed_at` where its loss went non-finite
    runs/NAME/packs/...         run directories: checkpoints, metrics, plots
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import pathlib
from typing import Any

from core_jax.errors import UserError
from core_jax.files import plain, read_metrics, write_json_atomic
from scaling.utd import settings

# What does not change the numbers of a run.
INCIDENTAL = ('seeds', 'vary', 'workers', 'mesh', 'eval_interval', 'save_interval', 'eval_episodes')
# What is kept of a cell beside its curve, from its log rows: the paper's measures of overfitting and plasticity.
MEASURES = ('td_error/fresh', 'td_error/replayed', 'td_error/held_out', 'td_error/overfitting', 'norm/critic')

# The fields of a cell's file.
RESULT = {'fields', 'model_size', 'failed_at', 'env_step', 'return', *MEASURES}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One seed of one setting. fields: config fields of `scaling.utd.main`, without `seed` and `learning_rate`."""

    fields: dict[str, Any]
    learning_rate: float
    seed: int

    @functools.cached_property
    def config(self) -> Any:
        """The resolved config. Raises UserError where it cannot be."""
        own = {'learning_rate': self.learning_rate, 'seed': self.seed}
        return settings.resolve(self.fields | own, {})

    @functools.cached_property
    def id(self) -> str:
        """A hash of all that decides the numbers, defaults included."""
        decisive = {name: value for name, value in self.config.to_dict().items() if name not in INCIDENTAL}
        return hashlib.sha1(json.dumps(plain(decisive), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def updates(self) -> int:
        return settings.total_updates(self.config)


@dataclasses.dataclass(frozen=True)
class Pack:
    """Cells that one compiled program runs as its population."""

    cells: tuple[Cell, ...]

    @property
    def fields(self) -> dict[str, Any]:
        """The config fields of the run, for `api.train`."""
        members = self.members
        rates = list(dict.fromkeys(cell.learning_rate for cell in members))
        vary = 'learning_rate:' + ','.join(f'{rate!r}' for rate in rates)
        return self.cells[0].fields | {'seed': members[0].seed, 'seeds': len(members) // len(rates), 'vary': vary}

    @property
    def members(self) -> list[Cell]:
        """The cells in the order of the run's members."""
        return sorted(self.cells, key=lambda cell: (cell.learning_rate, cell.seed))

    @property
    def name(self) -> str:
        config = self.cells[0].config
        env = config.env.replace(':', '-').replace('/', '-')
        digest = hashlib.sha1('\n'.join(sorted(cell.id for cell in self.cells)).encode()).hexdigest()[:8]
        return f'{env}-{config.agent}-utd{config.utd:g}-batch{config.batch_size}-{digest}'

    @property
    def cost(self) -> int:
        """Samples that pass through the networks: proportional to FLOPs among packs of one model."""
        return sum(cell.updates * cell.config.batch_size for cell in self.cells)


def grid(
    common: dict[str, Any],
    environments: dict[str, dict[str, Any]],
    utds: list[float],
    batch_sizes: list[int],
    learning_rates: list[float],
    seeds: list[int],
) -> list[Cell]:
    """Every combination; an environment's fields win over the common ones."""
    return [
        Cell(common | environments[env] | {'env': env, 'utd': utd, 'batch_size': batch_size}, rate, seed)
        for env, utd, batch_size, rate, seed in itertools.product(
            environments, utds, batch_sizes, learning_rates, seeds
        )
    ]


def packs(cells: list[Cell]) -> list[Pack]:
    """Packs of the cells, the most expensive first. The seeds of a pack follow each other, as a population's do."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(plain(cell.fields), sort_keys=True), []).append(cell)
    found = []
    for group in groups.values():
        by_range: dict[tuple[int, ...], list[Cell]] = {}
        for rate in dict.fromkeys(cell.learning_rate for cell in group):
            own = sorted({cell.seed: cell for cell in group if cell.learning_rate == rate}.items())
            for _, run in itertools.groupby(enumerate(own), lambda item: item[1][0] - item[0]):
                members = [cell for _, (_, cell) in run]
                by_range.setdefault(tuple(cell.seed for cell in members), []).extend(members)
        found += [Pack(tuple(members)) for members in by_range.values()]
    return sorted(found, key=lambda pack: (-pack.cost, pack.name))


# On disk


def path(root: pathlib.Path, cell: Cell) -> pathlib.Path:
    return root / 'cells' / f'{cell.id}.json'


def unfinished(root: pathlib.Path, cells: list[Cell]) -> list[Cell]:
    """The cells that have no result yet."""
    return [cell for cell in cells if not path(root, cell).exists()]


def harvest(root: pathlib.Path, pack: Pack, directory: pathlib.Path) -> list[str]:
    """Writes what the run in `directory` gave, a file a cell; returns what to say of cells that failed."""
    rows: dict[int, list[dict]] = {}
    frozen: dict[int, int] = {}
    for row in read_metrics(directory / 'metrics.jsonl'):
        if row.get('nonfinite'):
            frozen[row.get('member', 0)] = row['step']
        elif row['kind'] == 'train':
            rows.setdefault(row.get('member', 0), []).append(row)
    size = json.loads((directory / 'config.json').read_text())['model_size']
    (root / 'cells').mkdir(parents=True, exist_ok=True)
    failed = []
    for number, cell in enumerate(pack.members):
        own = rows.get(number, [])
        result = {
            'fields': cell.fields | {'learning_rate': cell.learning_rate, 'seed': cell.seed},
            'model_size': size,
            'failed_at': frozen.get(number),
            'env_step': [int(row['environment_steps']) for row in own],
            'return': [row['online/return'] for row in own],
            # Environments on the host have no held-out transitions.
            **{name: [row.get(name, math.nan) for row in own] for name in MEASURES},
        }
        write_json_atomic(path(root, cell), result)
        if number in frozen:
            at = f'went non-finite at update {frozen[number]}'
            failed.append(f'{pack.name}: seed {cell.seed}, learning rate {cell.learning_rate:g} {at}')
    return failed


def read(root: pathlib.Path, cells: list[Cell]) -> list[tuple[Cell, dict[str, Any]]]:
    """The results of the finished cells. Raises UserError, naming the file, where one is damaged."""
    found = []
    for cell in cells:
        try:
            result = json.loads(path(root, cell).read_text())
            if not isinstance(result, dict) or not RESULT <= result.keys():
                raise ValueError('not the result of a cell')
            found.append((cell, result))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise UserError(f'{path(root, cell)} is damaged ({error}); remove it and the cell is run again') from None
    return found
