"""FQL offline, then online, on D4RL door-cloned-v1.

    python -m fql_jax.main --config=configs/fql/online/d4rl_door_cloned.py

Paper: 0 normalised score offline, 102 after 1M steps online (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are D4RL's file in the data directory (see fql_jax/d4rl.py); its
environment must be registered by a package of yours: --env=my_package:door-cloned-v1
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'door-cloned-v1',
            'alpha': 1_000.0,  # weight of the distillation loss; 30_000 offline
            'q_agg': 'min',
            'online_steps': 1_000_000,  # environment steps after 1M offline updates, an update each
        }
    )
