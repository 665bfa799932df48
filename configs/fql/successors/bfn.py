"""BFN (best of four flow samples, no chunks) on OGBench cube-double-play, task 2.

    python -m fql_jax.main --config=configs/fql/successors/bfn.py

Released data: 67 % over the five tasks, where FQL has 32 [29, 36] (QC's runs; re-run with released per-seed data).

cube-double keeps its reward in those runs; scene and the puzzles had sparse_rewards=True.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'cube-double-play-singletask-v0',
            'policy': 'flow',  # no one-step policy
            'act_samples': 4,  # the one with the highest Q acts
            'target_samples': 4,  # and gives the target's next action
        }
    )
