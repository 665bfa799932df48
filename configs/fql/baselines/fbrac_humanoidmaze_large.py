"""FBRAC on OGBench humanoidmaze-large-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/fbrac_humanoidmaze_large.py

Paper: 2 +- 0 % over the five tasks (from memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fbrac',
            'env': 'humanoidmaze-large-navigate-singletask-v0',
            'alpha': 30.0,  # weight of the cloning loss; from memory, unverified
            'discount': 0.995,
        }
    )
