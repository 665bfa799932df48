"""IFQL on OGBench antmaze-large-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/ifql_antmaze_large.py

Paper: 24 +- 17 % success (8 seeds; quoted by a third party from the paper's table); 28 +- 5 % over the five tasks (from
memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'ifql',
            'env': 'antmaze-large-navigate-singletask-v0',
            'num_samples': 32,  # from memory, unverified
        }
    )
