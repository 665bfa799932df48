"""FQL at the paper's size on OGBench scene-play, task 2.

    python -m fql_jax.main --config=configs/fql/offline/scene.py

Paper: 76 +- 9 % success (8 seeds; quoted by a third party from the paper's table); 56 +- 2 % over the five tasks (from
memory, unverified).

Settings from the README of the released code, the same for all five tasks (--env=...-task3-v0). The data are OGBench's
official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'scene-play-singletask-v0',
            'alpha': 300.0,  # weight of the distillation loss
        }
    )
