"""BRO at its published size (critics of 512, replay ratio 10, resets in environment steps); --env chooses the task.

    python -m scaling.utd.main --config=configs/utd/runs/bro.py --env=cheetah-run

Published (BRO's training data, 10 seeds, 1M steps): cheetah-run 825 +- 54, walker-run 823 +- 5, humanoid-stand 937 +-
18. Not run here: an update takes 55 ms on a CPU core, and a run is 10M of them.
"""

from scaling.utd.bro import PRESETS


def get_config() -> dict:
    return PRESETS['bro'] | {'agent': 'bro', 'env': 'cheetah-run'}
