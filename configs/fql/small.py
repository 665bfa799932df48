"""The settings that run without a preset, as a file to copy and change: cube-single, noisy data, a CPU.

    python -m fql_jax.main --config=configs/fql/small.py

Expected: see results/fql_demo.json (three seeds of these settings).
"""

import ml_collections

from fql_jax.settings import SMALL


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({'env': 'ogbench-cube', **SMALL})
