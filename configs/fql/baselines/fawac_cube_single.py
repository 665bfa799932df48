"""FAWAC on OGBench cube-single-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/fawac_cube_single.py

Paper: 81 +- 4 % over the five tasks (from memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fawac',
            'env': 'cube-single-play-singletask-v0',
            'inv_temp': 0.8,  # of the weights; QAM's for most environments; this one is not among them
        }
    )
