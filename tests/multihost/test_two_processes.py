"""R9: two processes of four devices train as one of eight does; one of them writes; their checkpoint goes anywhere."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny

pytestmark = pytest.mark.slow  # nothing of it comes out of the compilation cache: a minute on two cores

HERE = pathlib.Path(__file__).parent
ATOL = 1e-5


def train(directory, *stop, mesh='data:8'):
    """Two processes at once; their (status, stdout, stderr)."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    variables = os.environ | {
        'JAX_COORDINATOR_ADDRESS': address,
        'JAX_NUM_PROCESSES': '2',
        'JAX_NUM_CPU_DEVICES': '4',
        'PYTHONPATH': os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)]),
    }
    command = [sys.executable, str(HERE / 'train.py'), str(directory), mesh, *map(str, stop)]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    processes = [subprocess.Popen(command, env=variables | {'JAX_PROCESS_ID': str(i)}, **pipes) for i in range(2)]
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, said, strict=True)]


def assert_near(one, other):
    left, right = tiny.rows(one), tiny.rows(other)
    assert [row.keys() for row in left] == [row.keys() for row in right]
    for a, b in zip(left, right, strict=True):
        if a['kind'] == 'train':
            np.testing.assert_allclose([*a.values()][2:], [*b.values()][2:], rtol=1e-4, atol=ATOL)
    mine, theirs = tiny.leaves(one), tiny.leaves(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=ATOL, err_msg=name)


@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
    directory = tmp_path_factory.mktemp('one') / 'run'
    assert tiny.train(directory, mesh='data:8') == 0
    return directory


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    directory = tmp_path_factory.mktemp('two') / 'run'
    outcome = train(directory)
    assert [status for status, _, _ in outcome] == [0, 0], outcome
    return directory, outcome


def test_two_processes_equal_one_and_the_first_writes_alone(one_process, two_processes):
    directory, outcome = two_processes
    assert_near(one_process, directory)
    assert (directory / 'summary.json').exists() and tiny.summary(directory)['device'].startswith('8 x')
    (_, first, _), (_, second, _) = outcome
    assert 'step 12/12' in first and 'step' not in second and 'run directory' not in second


@pytest.mark.parametrize('mesh', ['data:1', 'data:2,tensor:2'])
def test_their_checkpoint_goes_on_in_one_process_on_another_mesh(one_process, two_processes, mesh, tmp_path):
    import shutil

    runs = []
    for name, run in (('one', one_process), ('two', two_processes[0])):
        runs.append(shutil.copytree(run, tmp_path / name))
        assert tiny.train(runs[-1], resume=True, steps=14, mesh=mesh if name == 'two' else 'data:8') == 0
    assert_near(*runs)


def test_a_signal_to_one_of_them_stops_both_and_they_resume(one_process, tmp_path):
    stopped = train(tmp_path / 'run', 3)
    assert [status for status, _, _ in stopped] == [143, 143], stopped
    assert 'saved at step' in stopped[0][1] and not (tmp_path / 'run' / 'summary.json').exists()
    finished = train(tmp_path / 'run')
    assert [status for status, _, _ in finished] == [0, 0], finished
    assert 'resumed at step' in finished[0][1]
    assert_near(one_process, tmp_path / 'run')
