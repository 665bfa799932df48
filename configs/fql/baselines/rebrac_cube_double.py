"""ReBRAC on OGBench cube-double-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/rebrac_cube_double.py

Paper: 12 +- 1 % over the five tasks (from memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'rebrac',
            'env': 'cube-double-play-singletask-v0',
            'alpha_actor': 0.1,  # cloning in the loss of the policy; from memory, unverified
            'alpha_critic': 0.0,  # cloning in the target of the critics; from memory, unverified
        }
    )
