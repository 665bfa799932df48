"""IQL on OGBench antmaze-large-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/iql_antmaze_large.py

Paper: 48 +- 9 % success (8 seeds; quoted by a third party from the paper's table); 53 +- 3 % over the five tasks (from
memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'iql',
            'env': 'antmaze-large-navigate-singletask-v0',
            'alpha': 10.0,  # inverse temperature; from memory, unverified
        }
    )
