"""SAC with SimBa's residual critics (2 blocks of 512) and nothing else of SimBa; --env chooses the task.

    python -m scaling.utd.main --config=configs/utd/runs/sac_simba.py --env=walker-walk

Not run here at this size. SimBa also normalises observations and decays weights, which this preset leaves out.
"""

from scaling.utd.sac import PRESETS


def get_config() -> dict:
    return PRESETS['sac_simba'] | {'agent': 'sac', 'env': 'walker-walk', 'utd': 2.0}
