"""FQL at the paper's size on D4RL door-human-v1.

    python -m fql_jax.main --config=configs/fql/d4rl/door_human.py

Paper: 0 normalised score (8 seeds; from memory, unverified).

Settings from the README of the released code. The data are D4RL's file in the data directory (see fql_jax/d4rl.py);
without its environment the policy is trained and exported, not evaluated.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'door-human-v1',
            'alpha': 30_000.0,  # weight of the distillation loss
            'q_agg': 'min',
            'steps': 500_000,
        }
    )
