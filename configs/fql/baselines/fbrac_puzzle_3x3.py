"""FBRAC on OGBench puzzle-3x3-play, task 4.

    python -m fql_jax.main --config=configs/fql/baselines/fbrac_puzzle_3x3.py

Paper: 14 +- 4 % over the five tasks (from memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fbrac',
            'env': 'puzzle-3x3-play-singletask-v0',
            'alpha': 100.0,  # weight of the cloning loss; from memory, unverified
        }
    )
