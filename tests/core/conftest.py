"""What the tests of checkpoints and of run directories share."""

import shutil

import pytest
from saved import METADATA, make_state
from started import start

from core_jax.checkpoint import Checkpoints


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """Steps 1 and 2 of one run. Saved once; the tests work on copies."""
    directory = tmp_path_factory.mktemp('original') / 'checkpoints'
    checkpoints = Checkpoints(directory, metadata=METADATA)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {'metrics_bytes': 100 * step, 'rng': [1, 2.5, None]})
    return directory


@pytest.fixture
def saved(original, tmp_path):
    return Checkpoints(shutil.copytree(original, tmp_path / 'checkpoints'), metadata=METADATA)


@pytest.fixture
def run(tmp_path):
    run = start(tmp_path / 'run', numerics={'population': 'map'})
    yield run
    run.close()
