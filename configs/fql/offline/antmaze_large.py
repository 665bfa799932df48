"""FQL at the paper's size on OGBench antmaze-large-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/offline/antmaze_large.py

Paper: 80 +- 8 % success (8 seeds; quoted by a third party from the paper's table); 79 +- 3 % over the five tasks (from
memory, unverified).

Settings from the README of the released code, the same for all five tasks (--env=...-task3-v0). The data are OGBench's
official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'antmaze-large-navigate-singletask-v0',
            'alpha': 10.0,  # weight of the distillation loss
            'q_agg': 'min',
        }
    )
