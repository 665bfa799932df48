"""FQL offline, then online, on OGBench scene-play, task 2.

    python -m fql_jax.main --config=configs/fql/online/scene.py

Paper: 82 +- 11 % success offline, 100 +- 1 % after 1M steps online (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'scene-play-singletask-v0',
            'alpha': 300.0,  # weight of the distillation loss
            'online_steps': 1_000_000,  # environment steps after 1M offline updates, an update each
        }
    )
