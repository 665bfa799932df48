"""IFQL on OGBench humanoidmaze-large-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/ifql_humanoidmaze_large.py

Paper: 6 +- 2 % success (8 seeds; quoted by a third party from the paper's table); 11 +- 2 % over the five tasks (from
memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'ifql',
            'env': 'humanoidmaze-large-navigate-singletask-v0',
            'num_samples': 32,  # from memory, unverified
            'discount': 0.995,
        }
    )
