"""IFQL on OGBench puzzle-3x3-play, task 4.

    python -m fql_jax.main --config=configs/fql/baselines/ifql_puzzle_3x3.py

Paper: 0 +- 0 % success (8 seeds; quoted by a third party from the paper's table); 19 +- 1 % over the five tasks (from
memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'ifql',
            'env': 'puzzle-3x3-play-singletask-v0',
            'num_samples': 32,  # from memory, unverified
        }
    )
