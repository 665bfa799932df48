"""IDQL on OGBench cube-single-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/idql_cube_single.py

Paper: 95 +- 2 % over the five tasks (from memory, unverified).

No settings of IDQL are known here beyond its paper; these are those of IQL and FQL. The data are OGBench's official
file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'idql',
            'env': 'cube-single-play-singletask-v0',
        }
    )
