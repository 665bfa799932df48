"""IQL on OGBench antmaze-giant-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/iql_antmaze_giant.py

Paper: 4 +- 1 % over the five tasks (from memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'iql',
            'env': 'antmaze-giant-navigate-singletask-v0',
            'alpha': 10.0,  # inverse temperature; from memory, unverified
            'discount': 0.995,
        }
    )
