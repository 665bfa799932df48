"""FQL offline, then online, on OGBench puzzle-4x4-play, task 4.

    python -m fql_jax.main --config=configs/fql/online/puzzle_4x4.py

Paper: 8 +- 3 % success offline, 38 +- 52 % after 1M steps online (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'puzzle-4x4-play-singletask-v0',
            'alpha': 1_000.0,  # weight of the distillation loss
            'online_steps': 1_000_000,  # environment steps after 1M offline updates, an update each
        }
    )
