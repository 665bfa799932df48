"""TensorBoard and Weights & Biases, by flag. Both take the rows that metrics.jsonl takes, after it."""

from __future__ import annotations

import importlib.util
import pathlib
import time
from collections.abc import Callable

from core_jax.errors import UserError


def choose(*, tensorboard: bool, wandb: bool) -> list[Callable]:
    """The trackers that the flags ask for, as functions of (directory, paper, config, resumed) that start them.

    Raises UserError where a package is missing, before a run has touched anything.
    """
    chosen = []
    if tensorboard:
        _require('tensorboardX', 'tensorboard')
        chosen.append(TensorBoard)
    if wandb:
        _require('wandb', 'wandb')
        chosen.append(WandB)
    return chosen


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--{extra} needs the package {package}: pip install 'tenfold[{extra}]'")


def _scalars(row: dict) -> dict[str, float]:
    """{'train/loss': ...}, with '/member_3' where the row has a member. Non-finite values are strings and left out."""
    suffix = f'/member_{row["member"]}' if 'member' in row else ''
    return {
        f'{row["kind"]}/{name}{suffix}': value
        for name, value in row.items()
        if name not in ('kind', 'step', 'member') and isinstance(value, int | float)
    }


class TensorBoard:
    """Event files in tensorboard/."""

    def __init__(self, directory: pathlib.Path, paper: str, config: dict, resumed: bool):
        self._folder = str(directory / 'tensorboard')
        self._writer = None
        self._purge_step = None

    def log(self, row: dict) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # Its own names count in seconds, and a second file of the same name would replace the first.
            suffix = f'.{time.time_ns()}'
            self._writer = SummaryWriter(self._folder, purge_step=self._purge_step, filename_suffix=suffix)
        for name, value in _scalars(row).items():
            self._writer.add_scalar(name, value, row['step'])

    def cut(self, last_step: int) -> None:
        """Later events are hidden by the event file that is opened next."""
        self._purge_step = last_step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB:
    """One W&B run for one run directory, over all its resumes. The step is a metric of its own: W&B drops rows that go
    back in its built-in step, which they do after a resume."""

    def __init__(self, directory: pathlib.Path, paper: str, config: dict, resumed: bool):
        import wandb

        saved = directory / 'wandb' / 'run_id.txt'
        name = saved.read_text() if resumed and saved.exists() else wandb.util.generate_id()
        try:
            self._run = wandb.init(
                project='tenfold',
                group=paper,
                name=directory.resolve().name,
                dir=str(directory),
                id=name,
                resume='allow',
                config=config,
            )
        except wandb.errors.Error as error:
            raise UserError(f'W&B cannot start: {" ".join(str(error).split())}') from error
        saved.parent.mkdir(exist_ok=True)
        saved.write_text(name)
        self._run.define_metric('step')
        self._run.define_metric('*', step_metric='step')

    def log(self, row: dict) -> None:
        self._run.log(_scalars(row) | {'step': row['step']})

    def cut(self, last_step: int) -> None:
        """Nothing to do: rows written again replace the old ones in the plots over 'step'."""

    def close(self) -> None:
        self._run.finish()
