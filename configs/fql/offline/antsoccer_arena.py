"""FQL at the paper's size on OGBench antsoccer-arena-navigate, task 4.

    python -m fql_jax.main --config=configs/fql/offline/antsoccer_arena.py

Paper: 39 +- 6 % success (8 seeds; quoted by a third party from the paper's table); 60 +- 2 % over the five tasks (from
memory, unverified).

Others: 39.75 +- 7.45 % (8 seeds) with the released flags, in the report of a university course.

Settings from the README of the released code, the same for all five tasks (--env=...-task3-v0). The data are OGBench's
official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'antsoccer-arena-navigate-singletask-v0',
            'alpha': 10.0,  # weight of the distillation loss
            'discount': 0.995,
        }
    )
