"""FQL at the paper's size on OGBench cube-single-play, task 2.

    python -m fql_jax.main --config=configs/fql/cube_single.py

Paper: 97 +- 2 % success (8 seeds; quoted by a third party from the paper's table; the mean of the evaluations at 800K,
900K and 1M steps, from memory, unverified).

Settings from the README of the released code. About 11.9 GFLOP an update: an accelerator's work. The official file is
downloaded where its host can be reached, and collected here otherwise (1M transitions, about half an hour on two
cores).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'cube-single-play-singletask-v0',
            'alpha': 300.0,
            'discount': 0.99,
            'q_agg': 'mean',
        }
    )
