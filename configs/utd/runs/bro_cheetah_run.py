"""BRO-fast at the smallest published critic (width 256, about 0.6M parameters) on dm_control's cheetah-run, UTD 1.

    python -m scaling.utd.main --config=configs/utd/runs/bro_cheetah_run.py --seeds=3

Published (value-scaling.github.io, BRO's ablations, 10 seeds, evaluations): 3 at 25,000 steps, 68 at 50,000, 106 at
75,000, 176 at 100,000; at UTD 2 (`--utd=2`) 17, 155, 227, 365. Here: docs/utd.md; the recorded run took two hours
on one to two shared cores.
"""

from scaling.utd.bro import PRESETS, RESETS, updates_before


def get_config() -> dict:
    return PRESETS['bro_fast'] | {
        'agent': 'bro',
        'env': 'cheetah-run',
        'utd': 1.0,
        'reset_steps': updates_before(RESETS[:1], 1, 2_500),  # BRO-fast's one reset, at its environment step
        'critic_width': 256,
        'steps': 50_000,
        'capacity': 50_000,
        'log_interval': 1_000,  # one episode
        'eval_interval': 25_000,
        'eval_episodes': 10,
        'save_interval': 10_000,
    }
