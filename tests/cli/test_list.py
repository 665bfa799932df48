"""`--list`: what is there, at once, without jax."""

import subprocess
import sys

import numpy as np
import pytest

from core_jax.errors import UserError
from fql_jax import catalogue, settings, tasks


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    return tmp_path


def test_the_program_answers_without_jax(home):
    code = (
        "import sys; sys.argv = ['main', '--list']; from fql_jax import main; main.main(); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    *lines, jax = done.stdout.splitlines()
    assert jax == 'False' and not done.stderr
    assert [line.split(' ')[0] for line in lines if line and line[0] != ' '] == [
        'Environments',
        'Agents',
        'Presets',
        'Data',
    ]


def test_environments(home):
    text = catalogue.show('environments')
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith('  ogbench-') or '  d4rl-' in line}
    assert lines.keys() == {f'ogbench-{name}' for name in tasks.ENVIRONMENTS} | {f'd4rl-{n[:-3]}' for n in tasks.D4RL}
    assert lines['ogbench-cube-double'].split() == 'ogbench-cube-double play, noisy 2 500 play, noisy'.split()
    assert (
        lines['ogbench-antmaze-giant'].split()
        == 'ogbench-antmaze-giant navigate, stitch 1 1000 navigate, stitch'.split()
    )
    assert lines['ogbench-visual-scene'].split()[-1] == '-'
    assert lines['d4rl-pen-human'].split() == "d4rl-pen-human D4RL's file - 100 -".split()
    for name in lines:
        tasks.resolve(name)


def test_agents(home):
    text = catalogue.show('agents')
    for name in settings.AGENTS:
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert settings.agent_module(name).__doc__.split('\n')[0] in line


def test_presets(home, monkeypatch, tmp_path):
    by_name = {preset.path.rpartition('configs/fql/')[2]: preset for preset in catalogue.presets()}
    assert len(by_name) > 100
    scene = by_name['offline/scene.py']
    assert scene.what == "FQL at the paper's size on OGBench scene-play, task 2."
    assert scene.figures == (
        "Paper: 76 +- 9 % success (8 seeds; quoted by a third party from the paper's table); 56 +- 2 % over the five "
        'tasks (from memory, unverified).',
    )
    assert all(preset.figures for preset in by_name.values())
    assert scene.path in catalogue.show('presets') and max(map(len, catalogue.show('presets').splitlines())) <= 120
    monkeypatch.setattr(catalogue, 'PRESETS', tmp_path)
    assert catalogue.show('presets').startswith('Presets: none at ')


def test_data_sets(home):
    assert catalogue.show('data') == f'Data sets in {home}\n\n  none'
    for name in ('cube-single-play-v0.npz', 'cube-single-play-v0-val.npz'):
        np.savez(home / name, x=np.zeros(250_000))
    (home / 'pen-human-v1.hdf5').write_bytes(bytes(100_000))
    prepared = home / 'd4rl_antmaze' / 'large-play-v2' / '1.2.0'
    prepared.mkdir(parents=True)
    (prepared / 'dataset_info.json').touch()
    words = [line.split() for line in catalogue.show('data').splitlines()[2:]]
    assert words == [
        ['cube-single-play-v0.npz', '2.0', 'MB'],
        ['pen-human-v1.hdf5', '0.1', 'MB'],
        ['d4rl_antmaze/large-play-v2/1.2.0', 'TFDS'],
    ]


def test_an_unknown_word(home):
    with pytest.raises(UserError, match="unknown list 'agent'; did you mean 'agents'"):
        catalogue.show('agent')
