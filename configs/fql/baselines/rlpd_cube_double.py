"""RLPD on OGBench cube-double-play, task 2: online from the first step, half of each batch from the data.

    python -m fql_jax.main --config=configs/fql/baselines/rlpd_cube_double.py

Paper: its figure for this task is not known here.

Released data: 67 % over QC's 25 tasks after 1M steps online (QC's own RLPD; re-run with released per-seed data).

As in the released code: SAC with two critics, one update a step. The data are OGBench's official file, or as much
collected here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'agent': 'rlpd',
            'env': 'cube-double-play-singletask-v0',
            'steps': 0,  # no offline updates
            'online_steps': 1_000_000,  # environment steps, an update each
            'balanced_sampling': True,  # 128 transitions of the data, 128 of the replay
        }
    )
