"""Flow behaviour cloning on OGBench cube-single-play, task 2.

    python -m fql_jax.main --config=configs/fql/baselines/flow_bc_cube_single.py

Paper: it has no such row.

The data are OGBench's official file, or as much collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'flow_bc',
            'env': 'cube-single-play-singletask-v0',
        }
    )
