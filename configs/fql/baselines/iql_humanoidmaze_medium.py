"""IQL on OGBench humanoidmaze-medium-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/iql_humanoidmaze_medium.py

Paper: 32 +- 7 % success (8 seeds; quoted by a third party from the paper's table); 33 +- 2 % over the five tasks (from
memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'iql',
            'env': 'humanoidmaze-medium-navigate-singletask-v0',
            'alpha': 10.0,  # inverse temperature; from the README of the released code
            'discount': 0.995,
        }
    )
