"""FQL at the paper's size on OGBench humanoidmaze-large-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/offline/humanoidmaze_large.py

Paper: 7 +- 6 % success (8 seeds; quoted by a third party from the paper's table); 4 +- 2 % over the five tasks (from
memory, unverified).

Settings from the README of the released code, the same for all five tasks (--env=...-task3-v0). The data are OGBench's
official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'humanoidmaze-large-navigate-singletask-v0',
            'alpha': 30.0,  # weight of the distillation loss
            'discount': 0.995,
        }
    )
