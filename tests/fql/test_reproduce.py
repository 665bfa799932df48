"""The comparison: what a grid asks for is what was run, or it is refused; a failing run stops no other."""

import json

import pytest
import tiny

from core_jax import stats
from core_jax.errors import UserError
from fql_jax import api, reproduce

GRID = {
    'name': 'tiny',
    'title': 'Tiny',
    'scale': 'tiny',
    'note': 'A note.',
    'out': 'results.json',
    'common': {name: value for name, value in tiny.FIELDS.items() if name not in ('alpha', 'flow_steps', 'env')}
    | {'env': tiny.ENV, 'seeds': 2, 'steps': 4},
    'environments': {'one': {}, 'two': {'eval_episodes': 3}},
    'methods': {'FQL': {'agent': 'fql', 'alpha': 3.0, 'flow_steps': 1}, 'BC': {'agent': 'bc', 'hidden_dims': (8,)}},
    'tuned': {'two': {'FQL': {'alpha': 5.0}}},
    'published': {'one': {'FQL': (0.5, 0.1, 'paper', 'invented')}},
}
# Behaviour cloning has no discount and no target.
GRID['methods'] = {
    name: fields | {'tau': 0.01} if name == 'FQL' else fields for name, fields in GRID['methods'].items()
}
GRID['common'] = {name: value for name, value in GRID['common'].items() if name not in ('tau', 'discount')}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The grid, run with a trainer that writes what a run leaves; BC on two fails the first time."""
    calls = []

    def train(fields, preset, workdir, resume):
        from core_jax.runs import Run
        from fql_jax import settings

        calls.append((workdir, resume))
        if workdir.endswith('two/BC') and len(calls) < 5:
            raise RuntimeError('an accident')
        config = settings.resolve(fields, preset)
        run = Run.open(workdir, config.to_dict(), paper='fql', command='-', resume=resume)
        success = {'value': 0.5, 'low': 0.1, 'high': 0.9, 'n': config.eval_episodes}
        members = {f'member_{i}/success': success | {'value': float(i)} for i in range(2)}
        run.finish(members, seed=[0, 1], steps=4, wall_seconds=1.0, frozen_members=[], members=[{}, {}])
        run.close()

    monkeypatch.setattr(api, 'train', train)
    return tmp_path, calls


def test_a_failure_stops_no_other_run_and_is_made_again(trained, capsys):
    directory, calls = trained
    cells = reproduce.plan(GRID, directory)
    assert [(cell.environment, cell.method) for cell in cells] == [
        (e, m) for e in ('one', 'two') for m in ('FQL', 'BC')
    ]
    assert cells[2].fields['alpha'] == 5.0 and cells[0].fields['alpha'] == 3.0
    assert [cell.method for cell in reproduce.run_all(cells)] == ['BC']
    assert 'failed: BC on two: an accident' in capsys.readouterr().err
    assert reproduce.run_all(cells) == [] and len(calls) == 5  # only what was missing

    reproduce.report(GRID, cells, directory / 'results.json', 'the command')
    result = json.loads((directory / 'results.json').read_text())
    assert result['metrics']['one/FQL']['value'] == 0.5 and result['metrics']['two/FQL']['n'] == 6
    assert result['metrics']['one/FQL']['per_seed'] == [0.0, 1.0]
    assert result['published'] == {'one/FQL': {'value': 0.5, 'spread': 0.1, 'source': 'paper', 'verified': 'invented'}}
    assert '| Tiny | one/FQL | 0.5 |' in stats.markdown(stats.read_results(directory))  # `make table` reads it
    text = (directory / 'results.md').read_text()
    assert '| one | 50 [15, 85] | 50 [15, 85] |' in text and '| (paper) | 50 | - |' in text
    assert (directory / 'results.png').stat().st_size > 5000


def test_a_grid_may_be_run_in_pieces_on_several_machines(trained):
    directory, calls = trained
    out = directory / 'results.json'
    calls += [()] * 4  # no accident
    first = reproduce.plan(GRID, directory / 'here', environments='one')
    reproduce.run_all(first)
    reproduce.report(GRID, reproduce.plan(GRID, directory / 'here'), out, 'the command')
    reproduce.run_all(reproduce.plan(GRID, directory / 'there', environments='two'))
    reproduce.report(GRID, reproduce.plan(GRID, directory / 'there'), out, 'the command')
    result = json.loads(out.read_text())
    assert list(result['metrics']) == list(result['runs']) == ['one/FQL', 'one/BC', 'two/FQL', 'two/BC']
    assert result['metrics']['one/FQL']['per_seed'] == [0.0, 1.0]

    # Runs of other fields are not taken over, and a damaged file is not written over.
    changed = GRID | {'tuned': {'one': {'FQL': {'alpha': 7.0}}, 'two': {'FQL': {'alpha': 5.0}}}}
    assert ('one', 'FQL') not in reproduce.earlier(reproduce.plan(changed, directory / 'there'), out)
    out.write_text('{')
    with pytest.raises(UserError, match='results.json is no JSON file'):
        reproduce.report(GRID, first, out, 'the command')
    assert out.read_text() == '{'


def test_runs_of_another_grid_are_refused(trained):
    directory, _ = trained
    reproduce.run_all(reproduce.plan(GRID, directory))
    with pytest.raises(UserError, match=r'one/FQL holds another run \(steps: 4 there, 5 wanted\)'):
        reproduce.run_all(reproduce.plan(GRID, directory, extra={'steps': 5}))
    with pytest.raises(UserError, match="unknown method 'FGL'; did you mean 'FQL'"):
        reproduce.plan(GRID, directory, methods='FGL')
    with pytest.raises(UserError, match='no run of this grid is finished yet'):
        reproduce.report(GRID, reproduce.plan(GRID, directory / 'empty'), directory / 'none.json', '-')


@pytest.mark.parametrize('grid', ['cpu', 'wide', 'paper'])
def test_the_grids_are_runs_that_could_be_made(grid):
    from core_jax.cli import load_preset
    from fql_jax import settings

    fields = load_preset(f'configs/reproduce_fql/{grid}.py')
    cells = reproduce.plan(fields, reproduce.pathlib.Path('runs'))
    assert len(cells) == (6 if grid == 'wide' else 30)
    for cell in cells:
        settings.resolve(cell.fields, {})
    for environment, figures in fields['published'].items():
        assert environment in fields['environments'] and set(figures) <= set(fields['methods'])
