"""IFQL on OGBench puzzle-4x4-play, task 4.

    python -m fql_jax.main --config=configs/fql/baselines/ifql_puzzle_4x4.py

Paper: 25 +- 5 % over the five tasks (from memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'ifql',
            'env': 'puzzle-4x4-play-singletask-v0',
            'num_samples': 32,  # from memory, unverified
        }
    )
