"""The sweep: what is run and what is not, whatever is stopped, fails or is asked for again; and what it makes of it.

Nearly all of it with a trainer that writes the curves of a known law at once.
"""

import json
import os
import signal
import subprocess

import pytest
import tiny
import tiny_utd
from utd_trainer import PROFILE, Trainer, grid

from core_jax import loop
from core_jax.errors import UserError, exit_on_user_error
from scaling.utd import api, cells, example, fleet, stages, sweep

# Who runs what


def test_a_finished_cell_is_never_run_again(trainer, program, tmp_path, capsys):
    narrow = '--envs=pendulum', '--sigmas=0.5'
    assert program('grid', *narrow) == 0
    assert len(trainer.calls) == 2
    before = tiny.content(tmp_path / 'sweep' / 'cells')
    assert len(before) == 8
    assert program('grid', *narrow) == 0 and len(trainer.calls) == 2
    assert program('grid', *narrow, '--seeds=3') == 0
    assert len(trainer.calls) == 4 and len(set(trainer.calls)) == 4
    after = tiny.content(tmp_path / 'sweep' / 'cells')
    assert len(after) == 12 and before.items() <= after.items()
    assert '2 packs of 4 cells to run' in capsys.readouterr().out


def test_a_pack_that_raises_is_named_and_the_others_go_on(trainer, program, tmp_path, capsys):
    trainer.accidents['utd2-batch64'] = RuntimeError('an accident')
    trainer.accidents['utd8-batch64'] = UserError('a mistake')
    narrow = 'grid', '--envs=pendulum'
    assert program(*narrow) == 1
    assert len(trainer.calls) == 6
    printed = capsys.readouterr().out.splitlines()
    named = [line for line in printed if line.startswith('failed: ')]
    assert len(set(named)) == 2
    assert any('utd2-batch64' in line and 'RuntimeError: an accident' in line for line in named)
    assert any('utd8-batch64' in line and line.endswith(': a mistake') for line in named)
    assert len(list((tmp_path / 'sweep' / 'cells').iterdir())) == 16
    trainer.accidents.clear()
    trainer.calls.clear()
    assert program(*narrow) == 0
    assert len(trainer.calls) == 2 and all('batch64' in name for name in trainer.calls)


def preempted(trainer):
    trainer.accidents['batch'] = loop.Preempted(signal.SIGTERM)


def signal_between_packs(trainer):
    class Ending(Trainer):
        def __call__(self, **words):
            trainer.calls.append('')
            super().__call__(**words)
            os.kill(os.getpid(), signal.SIGTERM)

    return Ending()


@pytest.mark.parametrize('stop', [preempted, signal_between_packs])
def test_a_signal_stops_the_sweep_and_says_how_to_go_on(stop, trainer, program, monkeypatch, capsys):
    monkeypatch.setattr(api, 'train', stop(trainer) or trainer)
    assert program() == 143
    assert len(trainer.calls) == 1  # no other pack was begun, and no other stage
    printed = capsys.readouterr().out
    assert 'what was under way is saved. Go on with: python -m scaling.utd.sweep' in printed and 'failed' not in printed


def as_host(monkeypatch, number, hosts=2, names=fleet.SHARES[0]):
    for name, value in zip(names, (number, hosts), strict=True):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize('names', fleet.SHARES, ids=str)
def test_hosts_split_the_packs_and_a_lost_ones_are_run_by_the_next_start(names, trainer, tmp_path, monkeypatch):
    everything = {pack.name for pack in cells.packs(grid())}
    shares = []
    for number in range(3):
        with monkeypatch.context() as patch:
            as_host(patch, number, 3, names)
            patch.setattr(fleet, '_wait_for_others', lambda *_: None)
            trainer.calls.clear()
            assert fleet.train(tmp_path / 'split', grid(), 1) == []
            shares.append(set(trainer.calls))
            if number == 0:  # alone: the others are lost
                fleet.train(tmp_path / 'lost', grid(), 1)
    assert set.union(*shares) == everything and sum(map(len, shares)) == 12 and all(shares)
    assert cells.unfinished(tmp_path / 'split', grid()) == []
    trainer.calls.clear()
    fleet.train(tmp_path / 'lost', grid(), 1)
    assert set(trainer.calls) == shares[1] | shares[2]
    assert tiny.content(tmp_path / 'lost' / 'cells') == tiny.content(tmp_path / 'split' / 'cells')


def test_two_hosts_make_the_sweep_of_one(trainer, program, tmp_path, monkeypatch):
    """Host 1 in this process; host 0 does its next stage each time that host 1 waits for it."""
    narrow = '--envs=pendulum', '--sigmas=0.5,2,8'
    assert program(*narrow) == 0
    alone, todo = tmp_path / 'sweep', iter(['grid', 'hyperparameters', 'fitted'])

    def host_0(seconds):
        with pytest.MonkeyPatch.context() as patch:
            as_host(patch, 0)
            assert program(next(todo), *narrow, root=tmp_path / 'two') == 0

    monkeypatch.setattr(fleet.time, 'sleep', host_0)
    as_host(monkeypatch, 1)
    assert program(*narrow, root=tmp_path / 'two') == 0
    assert next(todo, None) is None
    two = tiny.content(tmp_path / 'two')
    assert two['hyperparameters.json'] == (alone / 'hyperparameters.json').read_bytes()
    assert tiny.content(tmp_path / 'two' / 'cells') == tiny.content(alone / 'cells')
    assert 'fits.json' not in two and 'plan.json' not in two  # those are host 0's


def test_hyperparameters_of_other_cells_are_not_taken_for_those_of_host_0(trainer, program, monkeypatch):
    assert program('grid', '--seeds=1') == program('hyperparameters', '--seeds=1') == program('grid') == 0
    monkeypatch.setattr(fleet, 'PATIENCE', -1.0)
    as_host(monkeypatch, 1)
    with pytest.raises(UserError, match='host 0 has not made hyperparameters.json; start the same command again'):
        program('hyperparameters')
    assert program('hyperparameters', '--seeds=1') == 0


def test_silence_of_other_hosts_is_an_error(trainer, program, monkeypatch):
    as_host(monkeypatch, 0)
    monkeypatch.setattr(fleet, 'PATIENCE', -1.0)
    with pytest.raises(UserError, match='cells of other hosts are missing; start the same command again on all hosts'):
        program('grid')
    assert trainer.calls  # its own packs are done


@pytest.mark.parametrize('number, hosts', [(2, 2), (-1, 2), (0, 0), ('a', 2)])
def test_numbers_that_no_launcher_gives(number, hosts, monkeypatch):
    as_host(monkeypatch, number, hosts)
    with pytest.raises(UserError, match='JAX_PROCESS_ID'):
        fleet.share()


# Stages


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """A finished sweep of PROFILE: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp('sweep')
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, 'train', Trainer())
        patch.setattr('builtins.print', lambda *words, **_: said.append(' '.join(map(str, words))))
        assert stages.run(PROFILE, folder / 'root', sweep.STAGES, 1, ['python', '-m', 'scaling.utd.sweep', 'plan']) == 0
    return folder / 'root', said


def load(path):
    return json.loads(path.read_text())


def test_what_a_sweep_leaves(done):
    root, said = done
    names = {path.name for path in root.iterdir()}
    assert {'plan.json', 'grid.csv', 'hyperparameters.json', 'fitted.csv', 'fits.json', 'report.md', 'plots'} <= names
    assert len(list((root / 'cells').iterdir())) == 48 + 30
    pictures = list((root / 'plots').glob('*.png'))
    assert pictures and all(path.read_bytes().startswith(b'\x89PNG') for path in pictures)
    text = (root / 'report.md').read_text()
    assert 'pendulum' in text and 'point_mass' in text
    assert all((root / line.split('](')[1].rstrip(')')).exists() for line in text.splitlines() if line.startswith('!['))


def test_a_law_of_the_curves_is_found(done):
    """Their alpha is 0.8, D_J / 30 = u(J) (667 + 1333 sigma^-0.8)."""
    root, said = done
    fits = load(root / 'fits.json')
    assert fits['paper'] == 'utd' and set(fits['tasks']) == {'pendulum', 'point_mass'}
    for name, task in fits['tasks'].items():
        assert task['identifiable'], task['verdict']
        assert task['law']['alpha']['value'] == pytest.approx(example.ALPHA, abs=0.25)
        assert fits['held_out_sigma'][name]['sigma'] == 8.0 and fits['held_out_sigma'][name]['relative_error'] < 0.15
    assert any('sigma 8, held out, is predicted with a relative error of' in line for line in said)


def test_proposals_lie_in_the_grid(done):
    root, _ = done
    choice = load(root / 'hyperparameters.json')
    assert len(choice['proposals']) == 10
    for row in choice['proposals']:
        assert 64 <= row['batch_size'] <= 128 and 3e-4 <= row['learning_rate'] <= 1.2e-3
        assert row['utd'] in PROFILE['fitted']['utd']


def test_the_stages_again_give_the_same_and_train_nothing(done, monkeypatch):
    root, _ = done
    monkeypatch.setattr(api, 'train', lambda **_: pytest.fail('trained again'))
    before = {name: content for name, content in tiny.content(root).items() if not name.startswith('packs')}
    again = ('plan', 'grid', 'hyperparameters', 'fitted')  # that fits repeat is in test_fit.py
    assert stages.run(PROFILE, root, again, 1, ['python', '-m', 'scaling.utd.sweep', 'plan']) == 0
    assert {name: content for name, content in tiny.content(root).items() if not name.startswith('packs')} == before


def test_the_plan_has_every_cell_and_launchers_for_all_stages(done):
    root, said = done
    plan = load(root / 'plan.json')
    assert [row['id'] for row in plan['cells']] == [one.id for one in grid()]
    assert sum(row['updates'] for row in plan['cells']) == 8 * 8_000 * (0.5 + 2 + 8) * 2
    for path in (root / 'launch').iterdir():
        assert subprocess.run(['bash', '-n', path], capture_output=True).returncode == 0
        assert f'python -m scaling.utd.sweep --workdir={root}' in path.read_text()  # not the stage that planned


def test_dry_prints_the_plan_and_writes_nothing(trainer, program, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert program('--dry', '--sigmas=0.5,2') == 0
    printed = capsys.readouterr().out
    assert '32 cells, 32 to do, 320,000 updates of one member' in printed and '4 to do' in printed
    assert sorted(tmp_path.iterdir()) == before and not trainer.calls
    assert program('grid', '--sigmas=0.5') == 0
    capsys.readouterr()
    assert program('--dry', '--sigmas=0.5,2') == 0
    assert '32 cells, 16 to do, 256,000 updates' in capsys.readouterr().out


def test_flat_curves_are_no_law(trainer, program, tmp_path, capsys):
    trainer.flat = True
    assert program('--envs=pendulum') == 0
    fits = load(tmp_path / 'sweep' / 'fits.json')
    assert not fits['tasks']['pendulum']['identifiable'] and not fits['tasks']['pendulum']['budget']
    laws = load(tmp_path / 'sweep' / 'hyperparameters.json')['laws']
    assert laws and not any(law['identifiable'] for law in laws.values())
    assert 'no law' in (tmp_path / 'sweep' / 'report.md').read_text()


def test_thresholds_that_are_never_reached_are_said_to_be(trainer, program, tmp_path):
    trainer.poor = True
    with pytest.raises(
        UserError, match='pendulum: no cell of the grid reaches the highest threshold, .* lower the thr'
    ):
        program()
    assert not (tmp_path / 'sweep' / 'fits.json').exists()


def test_a_failed_cell_is_left_out_of_the_fits_and_noted(trainer, program, tmp_path):
    trainer.frozen = 1
    assert program('--envs=pendulum', '--sigmas=0.5,2,8') == 1
    choice, fits = (load(tmp_path / 'sweep' / f'{name}.json') for name in ('hyperparameters', 'fits'))
    assert 'pendulum utd 0.5 seed 1: went non-finite: left out' in choice['notes']
    assert any('seed 101: went non-finite: left out' in note for note in fits['notes'])


# What is refused


@pytest.fixture
def refused(program, capsys, monkeypatch):
    """refused(words) -> the one line of a program that ends with exit status 2."""

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            exit_on_user_error(lambda: program(*words))
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('error: ')
        return line

    return run


@pytest.mark.parametrize(
    'word, message',
    [
        ('--profile=lap', "unknown profile 'lap'; did you mean 'laptop'?"),
        ('--profile=nowhere/at_all.py', 'no preset at nowhere/at_all.py'),
        ('--envs=pendulun', "unknown environment of this profile 'pendulun'; did you mean 'pendulum'?"),
        ('gird', "unknown stage 'gird'; did you mean 'grid'?"),
        ('--sigmas=one', 'cannot read --sigmas=one'),
        ('--sigmas=1,', 'cannot read --sigmas=1,'),
        ('--sigmas=0', 'UTD ratios must be above 0 and finite, got 0'),
        ('--sigmas=-1', 'UTD ratios must be above 0 and finite, got -1'),
        ('--sigmas=nan', 'UTD ratios must be above 0 and finite, got nan'),
        ('--sigmas=0.333', 'steps are 33.3 updates at utd=0.333: make it whole'),
        ('--seeds=0', '--seeds must be at least 1, got 0'),
        ('--seeds=two', "argument --seeds: invalid int value: 'two'"),
        ('--workers=0', '--workers must be at least 1, got 0'),
        ('--config.utd=3', 'a sweep has no --config.FIELD; copy the profile and change it'),
        ('--env=pendulum', "unknown flag '--env'; did you mean '--envs'?"),
    ],
)
def test_wrong_words(word, message, refused, trainer, tmp_path):
    assert message in refused(word)
    assert not trainer.calls and not (tmp_path / 'sweep' / 'cells').exists()


@pytest.mark.parametrize('missing', ['grid', 'thresholds', 'name'])
def test_a_profile_that_is_not_whole(missing, refused, tmp_path):
    path = tmp_path / 'half.py'
    path.write_text(f'def get_config():\n    return { ({k: v for k, v in PROFILE.items() if k != missing})!r}\n')
    assert f'profile {path} has no {missing}' in refused(f'--profile={path}')
    path.write_text(f'def get_config():\n    return {(PROFILE | {"fitted": {"seeds": (1,)}})!r}\n')
    assert f'profile {path} has no fitted.utd' in refused(f'--profile={path}')
    wrong = PROFILE | {'common': {'agnet': 'sac'}}
    path.write_text(f'def get_config():\n    return {wrong!r}\n')
    assert "unknown config field 'agnet'; did you mean 'agent'?" in refused(f'--profile={path}')


@pytest.mark.parametrize(
    'stage, message',
    [
        ('hyperparameters', 'no cell of pendulum is finished; run the stage grid first'),
        ('fitted', 'hyperparameters.json is not there yet; run the stage hyperparameters first'),
        ('laws', 'hyperparameters.json is not there yet; run the stage hyperparameters first'),
        ('report', 'fits.json is not there yet; run the stage laws first'),
    ],
)
def test_a_stage_before_its_time(stage, message, refused, trainer):
    assert message in refused(stage)


def test_damaged_files_are_named(refused, trainer, program, tmp_path):
    root = tmp_path / 'sweep'
    assert program('grid') == program('hyperparameters') == 0
    assert 'no cell of stage two is finished; run the stage fitted first' in refused('laws')
    path = cells.path(root, grid()[3])
    whole = path.read_bytes()
    for damaged in (whole[:100], b'', b'[]', b'{"env_step": [1]}'):
        path.write_bytes(damaged)
        assert f'{path} is damaged' in refused('hyperparameters')
    path.unlink()
    count = len(trainer.calls)
    assert program('grid') == 0 and len(trainer.calls) == count + 1  # that cell alone is run again
    assert path.read_bytes() == whole
    (root / 'hyperparameters.json').write_text('{"proposals": [')
    assert 'hyperparameters.json is damaged' in refused('fitted')


# Real training


REAL = {
    'name': 'real',
    'common': tiny_utd.DEVICE | {'eval_interval': 0, 'save_interval': 200, 'agent': 'sac'},
    'environments': {'pendulum': {}},
    'grid': {'utd': (0.1, 0.2), 'batch_size': (8,), 'learning_rate': (1e-3,), 'seeds': (0, 1)},
    'fitted': {'utd': (0.1, 0.2), 'seeds': (10, 11)},
    'thresholds': {'lowest': 1.0, 'highest': 3.0, 'count': 2},
}
for name in ('env', 'utd', 'batch_size', 'learning_rate'):
    del REAL['common'][name]


@pytest.mark.slow
def test_packs_train_in_this_process(tmp_path, monkeypatch):
    """The cells of a pack are what the same settings give as a run alone."""
    tiny_utd.share_programs(monkeypatch)
    assert fleet.train(tmp_path / 'sweep', grid(REAL), 1) == []
    assert tiny_utd.train(tmp_path / 'alone', seeds=2, utd=0.2, eval_interval=0) == 0
    rows = [row for row in tiny.rows(tmp_path / 'alone') if row['kind'] == 'train' and row['member'] == 1]
    ((_, result),) = cells.read(tmp_path / 'sweep', [c for c in grid(REAL) if c.seed == 1 and c.config.utd == 0.2])
    assert result['return'] == [row['online/return'] for row in rows] and len(rows) == 5
    assert result['td_error/held_out'] == [row['td_error/held_out'] for row in rows]
    assert result['env_step'] == [300, 500, 700, 900, 1_000] and result['model_size'] == 98


@pytest.mark.slow
@pytest.mark.parametrize('env', ['pendulum', tiny.ENV])
def test_a_sweep_that_is_killed_and_started_again_ends_with_the_same_numbers(env, tmp_path):
    """SIGKILL of the program while its workers train; they save and leave. Host environments are processes too."""
    # A row of the log is an episode of four pendulums, or more than ten of Tiny.
    intervals = {'log_interval': 800, 'save_interval': 200, 'steps': 1_700}
    profile = REAL | {'environments': {env: intervals}}
    if env == tiny.ENV:
        profile['environments'] = {env: {'steps': 500}}
        profile['thresholds'] = {'lowest': -50.0, 'highest': -20.0, 'count': 2}
    (tmp_path / 'real.py').write_text(f'def get_config():\n    return {profile!r}\n')

    def start(root):
        return tiny.program(
            'scaling.utd.sweep', f'--profile={tmp_path / "real.py"}', f'--workdir={root}', '--workers=2'
        )

    def ended(program):
        out, err = program.communicate()
        assert program.returncode == 0, out + err

    ended(start(tmp_path / 'whole'))
    killed = start(tmp_path / 'run')
    metrics = tmp_path / 'run' / 'packs'
    while not list(metrics.glob('*/checkpoints/0*')):
        assert killed.poll() is None, killed.communicate()
    killed.kill()
    killed.communicate()
    assert not (tmp_path / 'run' / 'fits.json').exists()
    ended(start(tmp_path / 'run'))
    assert tiny.content(tmp_path / 'run' / 'cells') == tiny.content(tmp_path / 'whole' / 'cells')
    for name in ('hyperparameters.json', 'fits.json'):
        one, other = (load(tmp_path / root / name) for root in ('run', 'whole'))
        assert one == other


@pytest.mark.slow
def test_a_terminal_ends_workers_and_all(tmp_path):
    """Ctrl-C goes to the program alone, which passes it on: 130, and no process is left."""
    (tmp_path / 'real.py').write_text(f'def get_config():\n    return {REAL!r}\n')
    words = f'--profile={tmp_path / "real.py"}', f'--workdir={tmp_path / "run"}', '--workers=2', 'grid'
    program = tiny.program('scaling.utd.sweep', *words)
    while not list((tmp_path / 'run').glob('packs/*/metrics.jsonl')):
        assert program.poll() is None, program.communicate()
    listed = subprocess.run(['pgrep', '-P', str(program.pid), '-f', 'spawn_main'], capture_output=True, text=True)
    workers = listed.stdout.split()
    program.send_signal(signal.SIGINT)
    out, err = program.communicate()
    assert program.returncode == 130 and 'Traceback' not in err, err
    assert 'Go on with: python -m scaling.utd.sweep' in out
    assert len(workers) == 2 and not any(os.path.exists(f'/proc/{worker}') for worker in workers)
