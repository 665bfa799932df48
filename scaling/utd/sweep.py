"""The sweep over UTD ratios and the laws fitted from it: `make sweep-utd`.

    plan          what would be run, with its cost, and launchers for machines that are there
    grid          trains the grid of batch sizes and learning rates
    hyperparameters   fits B*(sigma) and eta*(sigma), and proposes both for every ratio
    fitted        trains the proposals
    laws          fits D_J(sigma), budgets and optimal ratios
    report        plots and one page

With no stage all of them, in this order. Each may be stopped (kill -9 included) and started again: what is finished is
not run again, what was under way goes on from its checkpoint, and the numbers are the same.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from core_jax.cli import Parser, load_preset
from core_jax.errors import UserError, exit_on_user_error, unknown
from scaling.utd import cells as grid_cells
from scaling.utd.cells import Cell

STAGES = ('plan', 'grid', 'hyperparameters', 'fitted', 'laws', 'report')
PROFILES = pathlib.Path(__file__).parents[2] / 'configs' / 'utd'
# What a profile has: fields, and what these have.
FIELDS = {
    'name': (),
    'common': (),
    'environments': (),
    'grid': ('utd', 'batch_size', 'learning_rate', 'seeds'),
    'fitted': ('utd', 'seeds'),
    'thresholds': ('lowest', 'highest', 'count'),
}


def main() -> int:
    parser = Parser(prog='python -m scaling.utd.sweep', description=__doc__)
    parser.add_argument('stage', nargs='?', help=f'one of {", ".join(STAGES)}; default: all')
    parser.add_argument('--profile', default='laptop', help='a file in configs/utd, or a path (default: laptop)')
    parser.add_argument('--envs', help='some of the environments, separated by commas')
    parser.add_argument('--sigmas', help='some of the UTD ratios, or others, separated by commas')
    parser.add_argument('--seeds', type=int, help='seeds of every cell, instead of what the profile says')
    parser.add_argument('--workdir', help='where everything goes (default: runs/utd-PROFILE)')
    parser.add_argument('--workers', type=int, help='packs at once, a core each (default: one a core on a CPU, else 1)')
    parser.add_argument('--dry', action='store_true', help='print the plan with its cost, and run nothing')
    flags, overrides = parser.parse()
    if overrides:
        raise UserError('a sweep has no --config.FIELD; copy the profile and change it')
    if flags.stage and flags.stage not in STAGES:
        raise unknown('stage', flags.stage, STAGES)
    profile = narrowed(load_profile(flags.profile), flags.envs, flags.sigmas, flags.seeds)
    root = pathlib.Path(flags.workdir or f'runs/utd-{profile["name"]}')
    if flags.dry:
        print(show_plan(profile, root))
        return 0
    if flags.workers is not None and flags.workers < 1:
        raise UserError(f'--workers must be at least 1, got {flags.workers}')

    from scaling.utd import stages  # imports jax, which the flags do without

    chosen = STAGES if flags.stage is None else (flags.stage,)
    command = ['python', '-m', 'scaling.utd.sweep', *sys.argv[1:]]
    return stages.run(profile, root, chosen, flags.workers, command)


def load_profile(name: str) -> dict[str, Any]:
    """A profile by its name or path. UserError with the nearest name where there is none, or where it is not whole."""
    path = name
    if not name.endswith('.py'):
        known = sorted(path.stem for path in PROFILES.glob('*.py'))
        if name.replace('-', '_') not in known:
            raise unknown('profile', name, known)
        path = str(PROFILES / f'{name.replace("-", "_")}.py')
    profile = load_preset(path)
    for field, parts in FIELDS.items():
        missing = [field] if field not in profile else [f'{field}.{p}' for p in parts if p not in profile[field]]
        if missing:
            raise UserError(f'profile {path} has no {missing[0]}')
    return profile


def narrowed(profile: dict[str, Any], envs: str | None, sigmas: str | None, seeds: int | None) -> dict[str, Any]:
    """The profile with some environments, ratios and seeds only. UserError for what cannot be."""
    profile = dict(profile)
    if envs:
        for env in envs.split(','):
            if env not in profile['environments']:
                raise unknown('environment of this profile', env, profile['environments'])
        profile['environments'] = {env: profile['environments'][env] for env in envs.split(',')}
    if sigmas:
        try:
            ratios = tuple(float(text) for text in sigmas.split(','))
        except ValueError:
            raise UserError(f'cannot read --sigmas={sigmas}; write them like 1,2,4') from None
        if not all(0 < ratio < float('inf') for ratio in ratios):
            raise UserError(f'UTD ratios must be above 0 and finite, got {sigmas}')
        for stage in ('grid', 'fitted'):
            profile[stage] = profile[stage] | {'utd': ratios}
    if seeds is not None:
        if seeds < 1:
            raise UserError(f'--seeds must be at least 1, got {seeds}')
        for stage in ('grid', 'fitted'):
            first = profile[stage]['seeds'][0]
            profile[stage] = profile[stage] | {'seeds': tuple(range(first, first + seeds))}
    return profile


def grid_of(profile: dict[str, Any]) -> list[Cell]:
    """Stage one: every batch size with every learning rate, or (`crossed`: False) each with the middle of the other."""
    wanted = profile['grid']
    environments, common = profile['environments'], profile['common']
    sizes, rates = wanted['batch_size'], wanted['learning_rate']
    parts = [(sizes, rates)]
    if not wanted.get('crossed', True):
        parts = [(sizes, rates[len(rates) // 2 :][:1]), (sizes[len(sizes) // 2 :][:1], rates)]
    found = [
        cell
        for size, rate in parts
        for cell in grid_cells.grid(common, environments, wanted['utd'], size, rate, wanted['seeds'])
    ]
    return list({cell.id: cell for cell in found}.values())


def fitted_of(profile: dict[str, Any], proposals: list[dict[str, Any]]) -> list[Cell]:
    """Stage two: the proposed batch size and learning rate of every environment and ratio."""
    found = []
    for row in proposals:
        if row['env'] in profile['environments'] and row['utd'] in profile['fitted']['utd']:
            environments = {row['env']: profile['environments'][row['env']]}
            one = [row['utd']], [row['batch_size']], [row['learning_rate']]
            found += grid_cells.grid(profile['common'], environments, *one, profile['fitted']['seeds'])
    return found


def show_plan(profile: dict[str, Any], root: pathlib.Path) -> str:
    """A line a pack of stage one with what is left of it; stage two as far as it is known before the fits."""
    cells = grid_of(profile)
    left = grid_cells.unfinished(root, cells)
    lines = [f'profile {profile["name"]}, in {root}', '', 'stage one: batch sizes and learning rates']
    for pack in grid_cells.packs(cells):
        todo = len(grid_cells.unfinished(root, list(pack.cells)))
        state = f'{todo} to do' if todo else 'finished'
        lines.append(
            f'  {pack.name:50} {len(pack.cells):4} cells  {sum(c.updates for c in pack.cells):12,} updates  {state}'
        )
    updates = sum(cell.updates for cell in left)
    lines += [f'  {len(cells)} cells, {len(left)} to do, {updates:,} updates of one member']
    wanted = profile['fitted']
    proposed = [
        {'env': env, 'utd': utd, 'batch_size': profile['grid']['batch_size'][0], 'learning_rate': 1e-3}
        for env in profile['environments']
        for utd in wanted['utd']
    ]
    second = fitted_of(profile, proposed)
    lines += [
        '',
        'stage two: the fitted batch size and learning rate of each',
        f'  {len(second)} cells, {sum(cell.updates for cell in second):,} updates of one member',
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    exit_on_user_error(main)
