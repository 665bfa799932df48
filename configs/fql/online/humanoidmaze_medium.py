"""FQL offline, then online, on OGBench humanoidmaze-medium-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/online/humanoidmaze_medium.py

Paper: 12 +- 7 % success offline, 22 +- 12 % after 1M steps online (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are OGBench's official file: in the data directory, or
downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'humanoidmaze-medium-navigate-singletask-v0',
            'alpha': 100.0,  # weight of the distillation loss; 30 offline
            'discount': 0.995,
            'online_steps': 1_000_000,  # environment steps after 1M offline updates, an update each
        }
    )
