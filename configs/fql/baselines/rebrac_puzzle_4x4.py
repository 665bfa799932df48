"""ReBRAC on OGBench puzzle-4x4-play, task 4.

    python -m fql_jax.main --config=configs/fql/baselines/rebrac_puzzle_4x4.py

Paper: 14 +- 1 % over the five tasks (from memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'rebrac',
            'env': 'puzzle-4x4-play-singletask-v0',
            'alpha_actor': 0.3,  # cloning in the loss of the policy; from memory, unverified
            'alpha_critic': 0.01,  # cloning in the target of the critics; from memory, unverified
        }
    )
