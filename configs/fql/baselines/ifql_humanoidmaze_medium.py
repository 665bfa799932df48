"""IFQL on OGBench humanoidmaze-medium-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/ifql_humanoidmaze_medium.py

Paper: 69 +- 19 % success (8 seeds; quoted by a third party from the paper's table); 60 +- 14 % over the five tasks
(from memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'ifql',
            'env': 'humanoidmaze-medium-navigate-singletask-v0',
            'num_samples': 32,  # from the README of the released code
            'discount': 0.995,
        }
    )
