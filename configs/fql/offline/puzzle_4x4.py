"""FQL at the paper's size on OGBench puzzle-4x4-play, task 4.

    python -m fql_jax.main --config=configs/fql/offline/puzzle_4x4.py

Paper: 11 +- 3 % success (8 seeds; quoted by a third party from the paper's table); 17 +- 2 % over the five tasks (from
memory, unverified).

Settings from the README of the released code, the same for all five tasks (--env=...-task3-v0). The data are OGBench's
official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'puzzle-4x4-play-singletask-v0',
            'alpha': 1_000.0,  # weight of the distillation loss
        }
    )
