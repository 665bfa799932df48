"""BRO-fast at the smallest published critic (width 256, about 0.6M parameters) on dm_control's cheetah-run, UTD 2.

    python -m scaling.utd.main --config=configs/utd/runs/bro_cheetah_run.py --seeds=3

Published (value-scaling.github.io, BRO's ablations, 10 seeds, evaluations): 17 at 25,000 steps, 155 at 50,000, 227 at
75,000, 365 at 100,000. Here: docs/utd.md. An update takes some 15 ms on one core.
"""

from scaling.utd.bro import PRESETS


def get_config() -> dict:
    return PRESETS['bro_fast'] | {
        'agent': 'bro',
        'env': 'cheetah-run',
        'critic_width': 256,
        'steps': 50_000,
        'capacity': 50_000,
        'log_interval': 1_000,  # one episode
        'eval_interval': 25_000,
        'eval_episodes': 10,
        'save_interval': 10_000,
    }
