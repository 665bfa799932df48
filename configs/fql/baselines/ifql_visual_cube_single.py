"""IFQL from pixels on OGBench visual-cube-single-play, task 1.

    python -m fql_jax.main --config=configs/fql/baselines/ifql_visual_cube_single.py

Paper: 50 +- 5 % over the five visual environments (from memory, unverified); of this one alone nothing is known here.

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'ifql',
            'env': 'visual-cube-single-play-singletask-task1-v0',
            'num_samples': 32,  # from the README of the released code
            'steps': 500_000,
            'encoder': 'impala_small',
            'frame_stack': 3,
            'p_aug': 0.5,  # of a batch to be cropped at random
        }
    )
