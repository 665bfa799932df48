"""FQL offline, then online, on OGBench antsoccer-arena-navigate, task 4.

    python -m fql_jax.main --config=configs/fql/online/antsoccer_arena.py

Paper: 28 +- 8 % success offline, 86 +- 5 % after 1M steps online (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are OGBench's official file: in the data directory, or
downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'antsoccer-arena-navigate-singletask-v0',
            'alpha': 30.0,  # weight of the distillation loss; 10 offline
            'discount': 0.995,
            'online_steps': 1_000_000,  # environment steps after 1M offline updates, an update each
        }
    )
