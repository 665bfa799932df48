"""FQL at the paper's size on D4RL antmaze-medium-play-v2.

    python -m fql_jax.main --config=configs/fql/d4rl/antmaze_medium_play.py

Paper: 78 +- 7 % success (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are D4RL's file in the data directory (see fql_jax/d4rl.py);
without its environment the policy is trained and exported, not evaluated.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'antmaze-medium-play-v2',
            'alpha': 10.0,  # weight of the distillation loss
            'steps': 500_000,
        }
    )
