"""ReBRAC on OGBench antmaze-giant-navigate, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/rebrac_antmaze_giant.py

Paper: 26 +- 8 % over the five tasks (from memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'rebrac',
            'env': 'antmaze-giant-navigate-singletask-v0',
            'alpha_actor': 0.003,  # cloning in the loss of the policy; from memory, unverified
            'alpha_critic': 0.01,  # cloning in the target of the critics; from memory, unverified
            'discount': 0.995,
        }
    )
