"""ReBRAC on OGBench cube-single-play, task 2, with the released code's two quirks.

    python -m fql_jax.main --config=configs/fql/baselines/rebrac_released.py

Paper: 91 +- 2 % over the five tasks (from memory, unverified).

released=True keeps what our default corrects: the next action at a trajectory's end is another trajectory's first, and
Adam's momentum moves the policy in updates of the critics alone. The alphas are verified for visual-cube-single, and
from memory for this one. The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'rebrac',
            'env': 'cube-single-play-singletask-v0',
            'alpha_actor': 1.0,
            'alpha_critic': 0.0,
            'released': True,
        }
    )
