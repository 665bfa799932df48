"""FAWAC on OGBench antmaze-large-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/fawac_antmaze_large.py

Paper: 6 +- 1 % over the five tasks (from memory, unverified).

Released data: 17 +- 3.6 % over the five tasks (QAM's run of FAWAC, ten critics, re-run with released per-seed data).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fawac',
            'env': 'antmaze-large-navigate-singletask-v0',
            'inv_temp': 6.4,  # of the weights; from QAM's release
        }
    )
