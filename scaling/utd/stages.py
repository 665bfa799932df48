"""The stages of a sweep, each idempotent: what it needs is on disk, what it makes is on disk."""

from __future__ import annotations

import pathlib
from typing import Any

from scaling.utd import fleet, sweep


def run(profile: dict[str, Any], root: pathlib.Path, chosen, workers, command) -> int:
    failed = fleet.train(root, sweep.grid_of(profile), workers)
    return 1 if failed else 0
