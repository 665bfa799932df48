"""Cells of a sweep: what names them, which are one pack, and what a pack leaves on disk."""

import numpy as np
import pytest
import tiny
from utd_trainer import COMMON, PROFILE, grid

from core_jax import loop
from core_jax.runs import Run
from scaling.utd import cells, fleet, settings, sweep
from scaling.utd.cells import MEASURES, Cell

# Cells


def cell(**fields):
    own = {name: fields.pop(name, value) for name, value in (('learning_rate', 1e-3), ('seed', 0))}
    return Cell(COMMON | fields, **own)


@pytest.mark.parametrize(
    'fields',
    [
        {'workers': 3},
        {'mesh': 'data:1'},
        {'eval_interval': 500},
        {'save_interval': 500},
        {'eval_episodes': 3},
        {'utd': 1},
        {'discount': 0.99, 'tau': 0.005, 'num_critics': 2},  # defaults, in so many words
    ],
    ids=str,
)
def test_an_id_depends_on_nothing_incidental(fields):
    assert cell(**fields).id == cell().id


def test_an_id_does_not_depend_on_the_order_of_fields_or_the_pack():
    backwards = Cell(dict(reversed(COMMON.items())), 1e-3, 0)
    assert backwards.id == cell().id
    alone, among = cells.packs([cell()])[0], cells.packs([cell(), cell(seed=1)])[0]
    assert alone.members[0].id == among.members[0].id and alone.name != among.name


@pytest.mark.parametrize(
    'fields',
    [
        {'seed': 1},
        {'learning_rate': 2e-3},
        {'utd': 2.0},
        {'batch_size': 8},
        {'env': 'cartpole'},
        {'steps': 1_200},
        {'warmup': 200},
        {'log_interval': 50},
        {'hidden_dims': (8, 8)},
        {'agent': 'pql'},
        {'numerics.population': 'map'},
    ],
    ids=str,
)
def test_an_id_depends_on_all_that_decides(fields):
    assert cell(**fields).id != cell().id


def test_grid_is_every_combination_and_an_environment_wins():
    environments = {'pendulum': {}, 'cartpole': {'steps': 2_100}}
    found = cells.grid(COMMON, environments, [1.0, 2.0], [8, 16], [1e-3], [0, 1, 2])
    assert len(found) == len({one.id for one in found}) == 24
    assert {(one.config.env, one.config.steps) for one in found} == {('pendulum', 1_100), ('cartpole', 2_100)}
    assert found[0].updates == 1_000 and found[-1].updates == 4_000


def test_a_grid_may_be_a_cross():
    wanted = PROFILE['grid'] | {'batch_size': (32, 64, 128), 'learning_rate': (1e-4, 1e-3, 1e-2), 'crossed': False}
    found = grid(PROFILE | {'grid': wanted})
    assert len(found) == 2 * 3 * 5 * 2 == len({one.id for one in found})
    pairs = {(one.config.batch_size, one.learning_rate) for one in found}
    assert pairs == {(32, 1e-3), (64, 1e-3), (128, 1e-3), (64, 1e-4), (64, 1e-2)}


# Packs


def test_packs_hold_what_differs_in_learning_rate_and_seed_alone():
    found = cells.packs(grid())
    assert len(found) == 12 and all(len(pack.cells) == 4 for pack in found)
    assert [pack.cost for pack in found] == sorted((pack.cost for pack in found), reverse=True)
    assert len({pack.name for pack in found}) == 12
    assert sorted(c.id for pack in found for c in pack.cells) == sorted(c.id for c in grid())
    assert [pack.name for pack in cells.packs(grid()[::-1])] == [pack.name for pack in found]
    assert cells.packs(grid() + grid()) == found


@pytest.mark.parametrize('rates, seeds', [((3e-3, 3e-4, 1e-3), (4, 5)), ((1e-3,), (7,)), ((1e-4, 0.1), (2, 0, 1))])
def test_members_of_a_pack_are_those_of_its_run_in_order(rates, seeds):
    (pack,) = cells.packs([cell(learning_rate=rate, seed=seed) for seed in seeds for rate in rates])
    config = settings.resolve(pack.fields, {})
    run_seeds, hparams = settings.members(config)
    assert [one.seed for one in pack.members] == run_seeds
    assert [one.learning_rate for one in pack.members] == hparams['critic_learning_rate']
    assert len(pack.members) == len(rates) * len(seeds)


def test_seeds_that_do_not_follow_each_other_are_packs_of_their_own():
    found = cells.packs([cell(seed=seed) for seed in (0, 1, 5)])
    assert sorted([one.seed for one in pack.members] for pack in found) == [[0, 1], [5]]
    # What is left after some of it was run: each rate has other seeds.
    left = [cell(seed=2), cell(seed=1, learning_rate=3e-3), cell(seed=2, learning_rate=3e-3)]
    found = cells.packs(left)
    assert sorted([(c.learning_rate, c.seed) for c in pack.members] for pack in found) == [
        [(1e-3, 2)],
        [(3e-3, 1), (3e-3, 2)],
    ]
    for pack in found:
        assert settings.members(settings.resolve(pack.fields, {}))[0] == [one.seed for one in pack.members]


def test_narrowing():
    one = sweep.narrowed(PROFILE, 'point_mass', '2,16', 3)
    found = grid(one)
    assert {c.config.env for c in found} == {'point_mass'} and {c.config.utd for c in found} == {2.0, 16.0}
    assert {c.seed for c in found} == {0, 1, 2} and one['fitted']['seeds'] == (100, 101, 102)
    assert sweep.narrowed(PROFILE, None, None, None) == PROFILE
    assert {c.id for c in grid(sweep.narrowed(PROFILE, None, '2', 1))} < {c.id for c in grid()}
    proposals = [
        {'env': env, 'utd': utd, 'batch_size': 64, 'learning_rate': 1e-3}
        for env in PROFILE['environments']
        for utd in PROFILE['fitted']['utd']
    ]
    second = sweep.fitted_of(one, proposals)
    assert [(c.config.env, c.config.utd) for c in second] == [('point_mass', 2.0)] * 3


# Results on disk


def test_harvest_marks_a_frozen_member_and_names_it(trainer, tmp_path):
    (pack,) = cells.packs([cell(seed=seed, utd=0.5, batch_size=64) for seed in (0, 1)])
    trainer.frozen = 1
    failed = fleet.run_pack(tmp_path, pack, fleet.Programs(), None)
    assert failed == [f'{pack.name}: seed 1, learning rate 0.001 went non-finite at update 60']
    (_, good), (_, bad) = cells.read(tmp_path, pack.members)
    assert good['failed_at'] is None and bad['failed_at'] == 60
    assert len(good['env_step']) == 10 and good['env_step'][-1] == 1_100 and bad['env_step'] == [200]
    assert good['model_size'] == 1_000 and good['fields']['seed'] == 0 and good['td_error/held_out'] == [1.0] * 10
    assert cells.unfinished(tmp_path, pack.members) == []  # the failed one would fail again


def test_harvest_of_environments_on_the_host_has_no_held_out_error(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr('scaling.utd.cells.MEASURES', (*MEASURES, 'td_error/never_there'))
    (pack,) = cells.packs([cell()])
    assert fleet.run_pack(tmp_path, pack, fleet.Programs(), None) == []
    ((_, result),) = cells.read(tmp_path, pack.members)
    assert result['td_error/never_there'] == ['nan'] * 10 and result['td_error/fresh'] == [1.0] * 10


def test_a_run_that_nobody_survives_gives_cells_too(trainer, tmp_path):
    (pack,) = cells.packs([cell(utd=0.5)])
    directory = tmp_path / 'packs' / pack.name
    run = Run.open(directory, settings.resolve(pack.fields, {}).to_dict(), paper='utd', command='-', model_size=5)
    run.write('train', 7, {'nonfinite': True, 'critic/loss': np.nan})
    run.close()
    trainer.accidents[pack.name] = loop.NonFinite('non-finite at step 7')
    assert (
        'seed 0, learning rate 0.001 went non-finite at update 7'
        in fleet.run_pack(tmp_path, pack, fleet.Programs(), None)[0]
    )
    assert cells.read(tmp_path, pack.members)[0][1]['failed_at'] == 7


def test_a_pack_that_finished_before_its_cells_were_written_is_not_run_again(trainer, tmp_path):
    (pack,) = cells.packs([cell()])
    assert fleet.run_pack(tmp_path, pack, fleet.Programs(), None) == []
    before = tiny.content(tmp_path / 'cells')
    cells.path(tmp_path, pack.members[0]).unlink()
    assert fleet.run_pack(tmp_path, pack, fleet.Programs(), None) == [] and len(trainer.calls) == 1
    assert tiny.content(tmp_path / 'cells') == before
