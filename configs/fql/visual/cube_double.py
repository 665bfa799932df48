"""FQL from pixels on OGBench visual-cube-double-play, task 1.

    python -m fql_jax.main --config=configs/fql/visual/cube_double.py

Paper: 21 +- 11 % success (4 seeds; from memory, unverified).

Settings from the README of the released code. The data are OGBench's official file: in the data directory, or
downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'visual-cube-double-play-singletask-task1-v0',  # the paper took task 1 of each, not the default
            'alpha': 100.0,  # weight of the distillation loss
            'steps': 500_000,
            'encoder': 'impala_small',
            'frame_stack': 3,
            'p_aug': 0.5,  # of a batch to be cropped at random
        }
    )
