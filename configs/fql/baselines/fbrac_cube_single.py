"""FBRAC on OGBench cube-single-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/fbrac_cube_single.py

Paper: 79 +- 7 % over the five tasks (from memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fbrac',
            'env': 'cube-single-play-singletask-v0',
            'alpha': 100.0,  # weight of the cloning loss; from memory, unverified
        }
    )
