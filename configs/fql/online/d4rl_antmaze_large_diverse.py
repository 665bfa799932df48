"""FQL offline, then online, on D4RL antmaze-large-diverse-v2.

    python -m fql_jax.main --config=configs/fql/online/d4rl_antmaze_large_diverse.py

Paper: 75 % success offline, 94 after 1M steps online (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are D4RL's file in the data directory (see fql_jax/d4rl.py); its
environment must be registered by a package of yours: --env=my_package:antmaze-large-diverse-v2
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'antmaze-large-diverse-v2',
            'alpha': 3.0,  # weight of the distillation loss
            'online_steps': 1_000_000,  # environment steps after 1M offline updates, an update each
        }
    )
