"""IQL on OGBench cube-single-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/iql_cube_single.py

Paper: 85 +- 8 % success (8 seeds; quoted by a third party from the paper's table); 83 +- 3 % over the five tasks (from
memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'iql',
            'env': 'cube-single-play-singletask-v0',
            'alpha': 1.0,  # inverse temperature; from memory, unverified
        }
    )
