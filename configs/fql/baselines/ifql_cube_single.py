"""IFQL on OGBench cube-single-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/ifql_cube_single.py

Paper: 73 +- 3 % success (8 seeds; quoted by a third party from the paper's table); 79 +- 2 % over the five tasks (from
memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'ifql',
            'env': 'cube-single-play-singletask-v0',
            'num_samples': 32,  # from memory, unverified
        }
    )
