"""FQL as QAM ran it (ten pessimistic critics, chunks of five actions) on OGBench cube-double-play, task 2.

    python -m fql_jax.main --config=configs/fql/successors/fql_ensemble.py

Released data: 46 +- 4.8 % over the five tasks (12 seeds; QAM's run of FQL; re-run with released per-seed data).

cube-double keeps its reward in those runs; scene and the puzzles had sparse_rewards=True.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'env': 'cube-double-play-singletask-v0',
            'alpha': 300.0,  # weight of the distillation loss
            'horizon': 5,  # actions a decision, executed open loop; 1 in the mazes
            'num_critics': 10,
            'pessimism': 0.5,  # the target is their mean - 0.5 of their deviation; 0 in humanoidmaze
        }
    )
