"""FAWAC on OGBench scene-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/fawac_scene.py

Paper: 30 +- 3 % over the five tasks (from memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'fawac',
            'env': 'scene-play-singletask-v0',
            'inv_temp': 6.4,  # of the weights; from QAM's release
        }
    )
