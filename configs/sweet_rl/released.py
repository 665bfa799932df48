"""SWEET-RL as its code does it where that differs from the paper's formulas, at the scale of two cores.

    python -m colbench_jax.sweet_rl --config=configs/sweet_rl/released.py --workdir=runs/sweet_rl_released

Source: facebookresearch/sweet_rl at 38daf2a and the OpenRLHF fork that it trains with. What the release only does by
mistake (a mask that is right for batches of one pair, scripts that do not start) is not here.
"""


def get_config() -> dict:
    return {
        'critic.reduction': 'token_mean',  # one mean over all tokens of a trajectory, not a sum of means over turns
        'told': 'text',  # ahead of the chat template
        'reference_informed': False,  # the reference's log-probabilities are the sampler's, which is not told
        'same_span': False,  # the critic's mean: a turn's header and text; the reference's: text and stop
        'share': 0.1,  # of the trajectories, whose turns are states
        'candidates': 16,
        'turn_pairs': 4,  # of a state, of the better half against of the worse half
        'policy.likelihood': 0.01,  # of the chosen turn, beside the preference
        'policy.beta': 0.1,
        'mt_dpo.likelihood': 0.0,
        'critic.beta': 0.1,
        'critic.likelihood': 0.0,
    }
