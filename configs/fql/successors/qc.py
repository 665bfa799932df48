"""QC (best of 32 flow samples on chunks of five actions, arXiv 2507.07969) on OGBench cube-double-play, task 2.

    python -m fql_jax.main --config=configs/fql/successors/qc.py

Released data: 66 % [63, 70] over the five tasks, where FQL has 32 [29, 36] (QC's runs; re-run with released per-seed
data).

cube-double keeps its reward in those runs; scene and the puzzles had sparse_rewards=True.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'cube-double-play-singletask-v0',
            'horizon': 5,  # actions a decision, executed open loop
            'policy': 'flow',  # no one-step policy
            'act_samples': 32,  # the one with the highest Q acts
            'target_samples': 32,  # and gives the target's next action
        }
    )
