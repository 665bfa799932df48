"""IQL on OGBench antsoccer-arena-navigate, task 4.

    python -m fql_jax.main --config=configs/fql/baselines/iql_antsoccer_arena.py

Paper: 3 +- 2 % success (8 seeds; quoted by a third party from the paper's table); 8 +- 2 % over the five tasks (from
memory, unverified).

The data are OGBench's official file: in the data directory, or downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'iql',
            'env': 'antsoccer-arena-navigate-singletask-v0',
            'alpha': 1.0,  # inverse temperature; from memory, unverified
            'discount': 0.995,
        }
    )
