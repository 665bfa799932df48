"""IQL on OGBench puzzle-3x3-play, task 4.

    python -m fql_jax.main --config=configs/fql/baselines/iql_puzzle_3x3.py

Paper: 2 +- 1 % success (8 seeds; quoted by a third party from the paper's table); 9 +- 1 % over the five tasks (from
memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'iql',
            'env': 'puzzle-3x3-play-singletask-v0',
            'alpha': 10.0,  # inverse temperature; from memory, unverified
        }
    )
