"""The stages of a sweep, each idempotent: what it needs is on disk, what it makes is on disk.

ROOT/plan.json, ROOT/launch/      plan: the cells of stage one, and launchers
ROOT/cells/, ROOT/packs/          grid, fitted
ROOT/grid.csv                     hyperparameters: the curves of stage one, in the format that `fit` reads
ROOT/hyperparameters.json         hyperparameters: the laws, and what they propose
ROOT/fitted.csv, ROOT/fits.json   laws
ROOT/report.md, ROOT/plots/       report
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from core_jax.cli import quoted
from core_jax.errors import UserError
from core_jax.files import plain, write_atomic, write_json_atomic
from scaling.utd import cells, fleet, runs_table, sweep
from scaling.utd.cells import Cell
from scaling.utd.fit import jsonable

RESAMPLES, SEED = 100, 0


def run(profile: dict[str, Any], root: pathlib.Path, chosen: Sequence[str], workers: int | None, command: list[str]):
    """Carries out the stages; the exit status. A signal ends it with 128 + its number, everything saved."""
    from core_jax import loop

    failed: list[str] = []
    root.mkdir(parents=True, exist_ok=True)
    try:
        for stage in chosen:
            if stage in ('grid', 'fitted'):
                failed += STAGES[stage](profile, root, workers)
            elif fleet.share()[0] == 0:
                STAGES[stage](profile, root, command)
            elif stage == 'hyperparameters':
                wanted = _origin(profile, root)
                fleet.wait_for_host_0(lambda wanted=wanted: _made_from(root) == wanted, 'hyperparameters.json')
    except loop.Preempted as stopped:
        print(f'stopped; what was under way is saved. Go on with: {shlex.join(command)}')
        return stopped.status
    for failure in failed:
        print(f'failed: {failure}')
    return 1 if failed else 0


def plan(profile: dict[str, Any], root: pathlib.Path, command: list[str]) -> None:
    """Writes the plan, and launchers for fleets: a SLURM array and a TPU pod."""
    found = sweep.grid_of(profile)
    rows = [
        {
            'id': cell.id,
            **cell.fields,
            'learning_rate': cell.learning_rate,
            'seed': cell.seed,
            'updates': cell.updates,
        }
        for cell in found
    ]
    write_json_atomic(root / 'plan.json', {'profile': profile, 'cells': rows})
    (root / 'launch').mkdir(exist_ok=True)
    words = shlex.join(word for word in command if word not in STAGES)  # all of them, not the plan again
    if not any(word.startswith('--workdir') for word in command):
        words += f' --workdir={shlex.quote(str(root))}'
    for name, text in launchers(words).items():
        write_atomic(root / 'launch' / name, text.encode())
    print(f'plan: {len(found)} cells of stage one in {root / "plan.json"}; launchers in {root / "launch"}')


def launchers(words: str) -> dict[str, str]:
    """{file name: script}. Hosts share the work folder; each takes its own packs, and host 0 makes the fits."""
    slurm = f"""#!/bin/bash
# sbatch --ntasks=8 slurm.sh: one task a node or a GPU; SLURM_PROCID and SLURM_NTASKS say whose packs are whose.
#SBATCH --job-name=sweep-utd
#SBATCH --requeue
srun env JAX_PLATFORMS= {words}
"""
    pod = f"""#!/bin/bash
# TPU=name ZONE=zone HOSTS=4 ./tpu_pod.sh: every host of the slice is on its own, with its own chips and its own packs.
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="cd $PWD && \\
  TPU_PROCESS_BOUNDS=1,1,1 TPU_VISIBLE_DEVICES=0,1,2,3 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 \\
  JAX_PROCESS_ID=\\$(curl -s -H Metadata-Flavor:Google \\
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number) \\
  JAX_NUM_PROCESSES=$HOSTS JAX_PLATFORMS= {words}"
"""
    return {'slurm.sh': slurm, 'tpu_pod.sh': pod}


def grid(profile: dict[str, Any], root: pathlib.Path, workers: int | None) -> list[str]:
    """Trains stage one; returns what failed."""
    print('stage one: batch sizes and learning rates')
    return fleet.train(root, sweep.grid_of(profile), workers)


def fitted(profile: dict[str, Any], root: pathlib.Path, workers: int | None) -> list[str]:
    """Trains stage two; returns what failed."""
    proposals = _read(root / 'hyperparameters.json', 'hyperparameters')['proposals']
    print('stage two: the fitted batch size and learning rate at every ratio')
    return fleet.train(root, sweep.fitted_of(profile, proposals), workers)


def thresholds(profile: dict[str, Any]) -> np.ndarray:
    """The ladder of returns [J]: the paper's spacing, denser towards 1000 (sheet of its notebooks)."""
    wanted = profile['thresholds']
    return 1000.0 - np.geomspace(1000.0 - wanted['lowest'], 1000.0 - wanted['highest'], wanted['count'])


def hyperparameters(profile: dict[str, Any], root: pathlib.Path, command: list[str]) -> None:
    """Fits the best batch size and learning rate over sigma; proposes both for every ratio of stage two."""
    from scaling.utd import choices

    runs = _table(root, sweep.grid_of(profile), root / 'grid.csv')
    ladder = thresholds(profile)
    curves = {env: [c for c in runs.curves if c.key.env == env] for env in profile['environments']}
    for env, own in curves.items():
        if not own:
            raise UserError(f'no cell of {env} is finished; run the stage grid first')
    laws = choices.hyperparameters(curves, dict.fromkeys(curves, ladder), RESAMPLES, SEED)
    proposals = [
        {'env': env, 'utd': utd, **{field: proposed(laws, profile, field, env, utd) for field in choices.ROUND}}
        for env in profile['environments']
        for utd in profile['fitted']['utd']
    ]
    document = {'laws': laws, 'proposals': proposals, 'notes': runs.notes, 'thresholds': ladder}
    document['origin'] = _origin(profile, root)
    write_json_atomic(root / 'hyperparameters.json', jsonable(document))
    for field, law in laws.items():
        slope = law['slope']
        print(f'best {field} ~ sigma^{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]: {law["verdict"]}')
    print(f'wrote {root / "hyperparameters.json"}')


def _origin(profile: dict[str, Any], root: pathlib.Path) -> str:
    """A hash of what the hyperparameters are fitted on: the profile, and the cells that are finished."""
    finished = sorted(cell.id for cell in sweep.grid_of(profile) if cells.path(root, cell).exists())
    return hashlib.sha1(json.dumps([plain(profile), finished], sort_keys=True).encode()).hexdigest()


def _made_from(root: pathlib.Path) -> str | None:
    try:
        return json.loads((root / 'hyperparameters.json').read_text()).get('origin')
    except (FileNotFoundError, ValueError):
        return None


def proposed(laws: dict[str, Any], profile: dict[str, Any], field: str, env: str, utd: float) -> float:
    """The batch size or learning rate of `env` at `utd`: by the law where it is one, else the geometric mean.

    Never outside of what the grid tried. Raises UserError where no cell of the environment ever got anywhere.
    """
    from scaling.utd import choices

    tried = sorted(profile['grid'][field])
    if len(tried) == 1:
        return tried[0]
    law = laws.get(field)
    best = [point['best'].value for point in (law or {'points': []})['points'] if point['task'] == env]
    if not best:
        raise UserError(
            f'{env}: no cell of the grid reaches the highest threshold, so no {field} can be chosen; lower the '
            'thresholds of the profile or give it more steps'
        )
    value = (
        law['at_one'][env] * utd ** law['slope'].value if law['identifiable'] else float(np.exp(np.mean(np.log(best))))
    )
    return choices.ROUND[field](min(max(value, tried[0]), tried[-1]))


def laws(profile: dict[str, Any], root: pathlib.Path, command: list[str]) -> None:
    """Fits D_J(sigma), budgets and optimal ratios; predicts the largest ratio from the others."""
    from scaling.utd import fit
    from scaling.utd.fit_text import describe

    proposals = _read(root / 'hyperparameters.json', 'hyperparameters')['proposals']
    runs = _table(root, sweep.fitted_of(profile, proposals), root / 'fitted.csv')
    if not runs.curves:
        raise UserError('no cell of stage two is finished; run the stage fitted first')
    document, tasks = fit.analyse(runs, {'': thresholds(profile)}, profile.get('step_cost'))
    document['held_out_sigma'] = {task.name: held_out_sigma(task) for task in tasks.values()}
    write_json_atomic(root / 'fits.json', {'paper': 'utd', 'command': quoted(command), **jsonable(document)})
    print(describe(document))
    for name, found in document['held_out_sigma'].items():
        print(f'{name}: {found["sentence"]}')
    print(f'wrote {root / "fits.json"}')


def held_out_sigma(task: Any) -> dict[str, Any]:
    """How well the law of all ratios but the largest predicts the largest one's data requirements."""
    from scaling.utd.data_law import fit_data_law, relative_errors

    top = task.sigma == task.sigma.max()
    reached = np.isfinite(task.data[~top]).mean(axis=1) >= 0.5
    if reached.sum() < 3:
        return {'sigma': float(task.sigma.max()), 'relative_error': None, 'sentence': 'too few ratios to leave one out'}
    law = fit_data_law(task.data[~top], task.thresholds, task.sigma[~top])
    predicted = law(task.sigma[top])[0]
    error = float(relative_errors(predicted[None], task.data[top])[0])
    return {
        'sigma': float(task.sigma.max()),
        'thresholds': task.thresholds,
        'predicted': predicted,
        'observed': task.data[top][0],
        'relative_error': error,
        'sentence': f'sigma {task.sigma.max():g}, held out, is predicted with a relative error of {error:.1%} in D',
    }


def report(profile: dict[str, Any], root: pathlib.Path, command: list[str]) -> None:
    """Plots and one page, from what the other stages left."""
    from scaling.utd import report as page

    fits = _read(root / 'fits.json', 'laws')
    choice = _read(root / 'hyperparameters.json', 'hyperparameters')
    found = cells.read(root, sweep.grid_of(profile)), cells.read(root, sweep.fitted_of(profile, choice['proposals']))
    page.write(root, profile, choice, fits, *found)


STAGES = {
    'plan': plan,
    'grid': grid,
    'hyperparameters': hyperparameters,
    'fitted': fitted,
    'laws': laws,
    'report': report,
}


def _read(path: pathlib.Path, stage: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f'{path} is not there yet; run the stage {stage} first') from None
    except ValueError as error:
        raise UserError(f'{path} is damaged ({error}); run the stage {stage} again') from None


def _table(root: pathlib.Path, wanted: list[Cell], path: pathlib.Path) -> runs_table.Runs:
    """The finished cells as curves, by way of the CSV that is left for others to read."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(runs_table.COLUMNS)
    notes = []
    for cell, result in cells.read(root, wanted):
        config = cell.config
        if result['failed_at'] is not None:
            notes.append(f'{config.env} utd {config.utd:g} seed {cell.seed}: went non-finite: left out')
            continue
        key = config.env, config.agent, config.utd, config.batch_size, cell.learning_rate, result['model_size']
        latest = None  # where no episode ended since the last row, what was known then still is
        for step, value in zip(result['env_step'], map(float, result['return']), strict=True):
            latest = latest if math.isnan(value) else value
            if latest is not None:
                table.writerow((*key, cell.seed, step, latest))
    write_atomic(path, text.getvalue().encode())
    if len(text.getvalue().splitlines()) == 1:
        return runs_table.Runs([], notes, runs_table.RETURN)
    runs = runs_table.read(str(path))
    return runs._replace(notes=notes + runs.notes, return_column=runs_table.RETURN)
