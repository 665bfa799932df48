"""FAWAC on OGBench cube-double-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/fawac_cube_double.py

Paper: 5 +- 2 % over the five tasks (from memory, unverified).

Released data: 2 +- 0.6 % over the five tasks (QAM's run of FAWAC, ten critics, re-run with released per-seed data).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fawac',
            'env': 'cube-double-play-singletask-v0',
            'inv_temp': 0.8,  # of the weights; from QAM's release
        }
    )
