"""What the tests of the sweep and of its cells share."""

import sys

import pytest
from utd_trainer import PROFILE, Trainer

from scaling.utd import api, fleet, sweep


@pytest.fixture
def trainer(monkeypatch):
    found = Trainer()
    monkeypatch.setattr(api, 'train', found)
    for name in (name for pair in fleet.SHARES for name in pair):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def program(monkeypatch, tmp_path):
    """program(words) -> exit status, of a sweep of PROFILE in tmp_path / 'sweep' in this process."""
    (tmp_path / 'micro.py').write_text(f'def get_config():\n    return {PROFILE!r}\n')

    def run(*words, root=tmp_path / 'sweep'):
        given = f'--profile={tmp_path / "micro.py"}', f'--workdir={root}', '--workers=1'
        words = [*(w for w in given if not any(word.startswith(w[:8]) for word in words)), *words]
        monkeypatch.setattr(sys, 'argv', ['sweep', *map(str, words)])
        return sweep.main()

    return run
