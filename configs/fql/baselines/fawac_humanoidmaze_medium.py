"""FAWAC on OGBench humanoidmaze-medium-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/fawac_humanoidmaze_medium.py

Paper: 19 +- 1 % over the five tasks (from memory, unverified).

Released data: 24 +- 2.8 % over the five tasks (QAM's run of FAWAC, ten critics, re-run with released per-seed data).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fawac',
            'env': 'humanoidmaze-medium-navigate-singletask-v0',
            'inv_temp': 6.4,  # of the weights; from QAM's release
            'discount': 0.995,
        }
    )
