"""IQL on OGBench puzzle-4x4-play, task 4.

    python -m fql_jax.main --config=configs/fql/baselines/iql_puzzle_4x4.py

Paper: 5 +- 2 % success (8 seeds; quoted by a third party from the paper's table); 7 +- 1 % over the five tasks (from
memory, unverified).

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'iql',
            'env': 'puzzle-4x4-play-singletask-v0',
            'alpha': 3.0,  # inverse temperature; from memory, unverified
        }
    )
