"""Laws from learning curves: how much data a return takes, over sigma and model size, with intervals and a verdict.

    python -m scaling.utd.fit                                             an example made in memory from a known law
    python -m scaling.utd.fit --runs=runs/sweep-utd --out=results/utd     our run directories, or a cells.csv in there
    python -m scaling.utd.fit --runs=curves.csv.gz --predict=sigma=3,model_size=4439720,env=h1-crawl

A CSV has the columns env, algo, sigma, batch_size, learning_rate, model_size, seed, env_step, return. Where sigma alone
varies, D_J(sigma) = D_min + (beta / sigma)^alpha is fitted; where the model size does too, the joint law; where several
batch sizes or learning rates were run, the best of them over sigma. Everything goes to OUT/fits.json as well.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error, unknown
from core_jax.files import make_directory, write_json_atomic

RESAMPLES, SEED = 100, 0
PREDICTED = ('env', 'algo', 'sigma', 'model_size', 'threshold')


def main() -> int:
    parser = Parser(prog='python -m scaling.utd.fit', description=__doc__)
    parser.add_argument('--runs', help='a CSV, or a directory of runs (default: an example made in memory)')
    parser.add_argument('--out', help='the directory of fits.json (default: write nothing)')
    parser.add_argument('--predict', action='append', default=[], metavar='NAME=VALUE,...', help=', '.join(PREDICTED))
    parser.add_argument('--delta', type=float, help='cost of an environment step, in the unit of C = 10 N B sigma D')
    parser.add_argument(
        '--thresholds',
        action='append',
        default=[],
        metavar='[ENV=]RETURNS',
        help='LOW:HIGH:COUNT or J,J,...; for all tasks or for one (default: from the curves)',
    )
    flags, overrides = parser.parse()
    if overrides:
        raise UserError('fit has no --config.FIELD')
    if flags.delta is not None and not 0 <= flags.delta < math.inf:
        raise UserError(f'--delta must be at least 0 and finite, got {flags.delta}')
    from scaling.utd import example, runs_table
    from scaling.utd.fit_text import describe, describe_predictions

    ladders = dict(read_ladder(text) for text in flags.thresholds)
    wanted = [read_prediction(text) for text in flags.predict]
    if flags.runs:
        runs = runs_table.read(flags.runs)
    else:
        print(f'no --runs: curves made in memory, not trained, of the known law {example.LAW}\n')
        runs = example.make_runs()
    document, tasks = analyse(runs, ladders, flags.delta)
    document = {
        'paper': 'utd',
        'command': ' '.join([parser.prog, *sys.argv[1:]]),
        'runs': flags.runs or 'example',
        **document,
    }
    print(describe(document))
    single = [name for name, found in document['tasks'].items() if found['one_seed']]
    document['predictions'], refusals = predictions(wanted, tasks)
    print(describe_predictions(document['predictions']), end='')
    if flags.out:
        out = make_directory(flags.out)
        write_json_atomic(out / 'fits.json', document)
        print(f'wrote {out / "fits.json"}')
    if single:
        raise UserError(f'one seed a configuration: no intervals and no law for {", ".join(single)}')
    if refusals:
        raise UserError('; '.join(refusals))
    return 0


def read_ladder(text: str) -> tuple[str, Any]:
    """(env or '', thresholds [J]) of a --thresholds."""
    import numpy as np

    env, _, values = text.rpartition('=')
    try:
        if ':' in values:
            low, high, count = values.split(':')
            ladder = np.linspace(float(low), float(high), int(count))
        else:
            ladder = np.array([float(value) for value in values.split(',')])
    except ValueError:
        raise UserError(f'cannot read --thresholds={text}; write LOW:HIGH:COUNT or J,J,...') from None
    if not len(ladder) or not np.isfinite(ladder).all() or (np.diff(ladder) <= 0).any():
        raise UserError(f'--thresholds={text} must rise')
    return env, ladder


def read_prediction(text: str) -> dict[str, Any]:
    """The fields of a --predict; sigma must be among them."""
    fields: dict[str, Any] = {}
    for part in text.split(','):
        name, equals, value = part.partition('=')
        if name not in PREDICTED:
            raise unknown('field of --predict', name, PREDICTED)
        try:
            fields[name] = value if name in ('env', 'algo') else float(value)
        except ValueError:
            raise UserError(f'--predict={text}: {name} must be a number, not {value!r}') from None
        if not equals or (isinstance(fields[name], float) and not math.isfinite(fields[name])):
            raise UserError(f'--predict={text}: {name} needs a value')
    if not fields.get('sigma', 0) > 0 or not fields.get('model_size', 1) > 0:
        raise UserError(f'--predict={text}: sigma is needed, and sigma and model_size must be above 0')
    return fields


def analyse(runs: Any, ladders: dict[str, Any], delta: float | None) -> tuple[dict[str, Any], dict]:
    """(what fits.json holds, {(env, algo): Task}) of Runs. Raises UserError.

    ladders: {env: thresholds}; those under '' are for all other environments.
    """
    from scaling.utd import analysis, budget, choices
    from scaling.utd.crossings import without_dips

    groups = analysis.tasks_of([without_dips(own) for own in runs.curves])
    envs = [env for env, _ in groups]
    given = {find_env(env, envs) if env else '': ladder for env, ladder in ladders.items()}
    curves, thresholds = {}, {}
    tasks = {}
    for (env, algo), own in groups.items():
        name = env if envs.count(env) == 1 else f'{env} {algo}'
        ladder = given.get(env, given.get(''))
        curves[name] = own
        thresholds[name] = analysis.choose_thresholds(own) if ladder is None else ladder
        tasks[env, algo] = analysis.fit_curves(name, own, thresholds[name], RESAMPLES, SEED)
    hyper = choices.hyperparameters(curves, thresholds, RESAMPLES, SEED)
    told = {task.name: _task(task, key, hyper.get('batch_size'), delta) for key, task in tasks.items()}
    mean = analysis.average(list(tasks.values()))
    document = {
        'settings': {
            'return_column': runs.return_column,
            'resamples': RESAMPLES,
            'seed': SEED,
            'interval': '95 % percentile bootstrap over seeds',
            'sigma_grid': budget.GRID,
            'thresholds': thresholds,
        },
        'notes': runs.notes,
        'tasks': told,
        'average': _task(mean, ('', ''), None, delta) if mean else None,
        'hyperparameters': hyper,
    }
    return jsonable(document), tasks


def find_env(name: str, envs: list[str]) -> str:
    """The one of `envs` that is meant: the same name, or the same without its version. Raises UserError."""
    from scaling.utd.analysis import base_name

    matches = [env for env in dict.fromkeys(envs) if name in (env, base_name(env))]
    if len(matches) != 1:
        raise unknown('env', name, envs)
    return matches[0]


def _task(task: Any, key: tuple[str, str], batch_size: dict | None, delta: float | None) -> dict[str, Any]:
    """What fits.json says of a task; key: (env, algo), empty for the average. batch_size: of `hyperparameters`."""
    import numpy as np

    from scaling.utd import analysis, choices
    from scaling.utd.power_laws import Line

    found: dict[str, Any] = {
        'env': key[0],
        'algo': key[1],
        'kind': 'joint' if task.joint else 'sigma',
        'thresholds': task.thresholds,
        'configurations': [
            dict(zip(('sigma', 'model_size', 'batch_size', 'learning_rate', 'seeds', 'data'), row, strict=True))
            for row in zip(
                task.sigma, task.model_size, task.batch_size, task.learning_rate, task.seeds, task.data, strict=True
            )
        ],
        'notes': task.notes,
        'one_seed': task.resampled is None,
        'identifiable': task.verdict.identifiable,
        'verdict': task.verdict.sentence,
        'slopes': task.verdict.slopes,
        'law': None,
        'budget': None,
    }
    if task.law is None:
        return found
    # The letters of the papers: beta is a scale in the law of sigma alone, an exponent in the joint one.
    quantities = {'alpha': lambda law: law.alpha, 'd_min': lambda law: law.d_min}
    if task.joint:
        quantities |= {'beta': lambda law: law.beta, 'a': lambda law: law.a, 'b': lambda law: law.b}
    else:
        quantities |= {'beta': lambda law: law.a}
    found['law'] = {name: task.spread(quantity) for name, quantity in quantities.items()}
    found['per_threshold'] = analysis.per_threshold(task)
    left_out = task.left_out

    def mean(errors):
        errors = errors[np.isfinite(errors)]
        return errors.mean() if len(errors) else math.nan

    found['relative_error'] = {
        'fitted': mean(task.fitted_errors()),
        'left_out_interpolating': mean(left_out.law[left_out.interior]),
        'left_out_extrapolating': mean(left_out.law[~left_out.interior]),
        'left_out_constant': mean(left_out.constant),
    }
    if task.verdict.identifiable:
        cost, source = choices.step_cost(task, key[0], delta)
        line = None
        if batch_size and batch_size['identifiable'] and task.name in batch_size['at_one']:
            line = Line(batch_size['slope'].value, np.log10(batch_size['at_one'][task.name]))
        try:
            found['budget'] = choices.budget(task, cost, line) | {'delta_source': source}
        except ValueError as error:
            found['notes'] = [*task.notes, f'no budget law: {error}']
    return found


def predictions(
    wanted: list[dict[str, Any]], tasks: dict[tuple[str, str], Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows, refusals) for the fields of each --predict, for every task that they leave open. Raises UserError."""
    rows, refusals = [], []
    for fields in wanted:
        env = find_env(fields['env'], [env for env, _ in tasks]) if 'env' in fields else None
        algos = [algo for own, algo in tasks if env in (None, own)]
        if fields.get('algo', algos[0]) not in algos:
            raise unknown('algo', fields['algo'], algos)
        for (own, algo), task in tasks.items():
            if env not in (None, own) or fields.get('algo', algo) != algo:
                continue
            if not task.verdict.identifiable:
                refusals.append(f'no prediction for {task.name}: {task.verdict.sentence}')
                continue
            rows += _predict(task, fields)
    return jsonable(rows), refusals


def _predict(task: Any, fields: dict[str, Any]) -> list[dict[str, Any]]:
    if task.joint and 'model_size' not in fields:
        raise UserError(f'--predict needs model_size for {task.name}: it varies there')
    size = fields.get('model_size', task.model_size[0])
    if not task.joint and size != task.model_size[0]:
        raise UserError(f'{task.name} was run at the model size {task.model_size[0]:.0f} alone')
    predicted = task.predict(fields['sigma'], size)
    pairs = ((fields['sigma'], task.sigma), (size, task.model_size))
    outside = any(not measured.min() <= value <= measured.max() for value, measured in pairs)
    about = {'task': task.name, 'sigma': fields['sigma'], 'model_size': size, 'extrapolates': outside}
    return [
        about | {'threshold': threshold, 'data': data}
        for threshold, data in at_thresholds(predicted, task.thresholds, fields.get('threshold'), task.name)
    ]


def at_thresholds(predicted: list, thresholds: Any, threshold: float | None, name: str) -> list[tuple[float, Any]]:
    """[(J, Estimate)] at all thresholds or at one between them, there on a line of log D. Raises UserError."""
    import numpy as np

    from scaling.utd.crossings import Estimate

    if threshold is None:
        return list(zip(thresholds, predicted, strict=True))
    if not thresholds[0] <= threshold <= thresholds[-1]:
        raise UserError(
            f'threshold {threshold:g} lies outside those fitted for {name} ({thresholds[0]:g} to {thresholds[-1]:g})'
        )
    columns = np.log(np.array(predicted, float).T)
    return [(threshold, Estimate(*(float(np.exp(np.interp(threshold, thresholds, column))) for column in columns)))]


def jsonable(value: Any) -> Any:
    """JSON's types: named tuples as tables, numbers that are not finite as null."""
    if hasattr(value, '_asdict'):
        value = value._asdict()
    if hasattr(value, 'tolist'):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == '__main__':
    exit_on_user_error(main)
