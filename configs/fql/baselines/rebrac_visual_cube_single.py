"""ReBRAC from pixels on OGBench visual-cube-single-play, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/rebrac_visual_cube_single.py

Paper: 60 +- 2 % over the five visual environments (from memory, unverified); of this one alone nothing is known here.

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'rebrac',
            'env': 'visual-cube-single-play-singletask-task1-v0',
            'alpha_actor': 1.0,  # cloning in the loss of the policy; from the README of the released code
            'alpha_critic': 0.0,  # cloning in the target of the critics; from the README of the released code
            'steps': 500_000,
            'encoder': 'impala_small',
            'frame_stack': 3,
            'p_aug': 0.5,  # of a batch to be cropped at random
        }
    )
