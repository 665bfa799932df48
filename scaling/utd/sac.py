"""SAC as the paper's Gym arm runs it: `core_jax.learners.sac` at a target entropy of -A/2, with critics to choose.

The critics are two MLPs (the paper's: 2 x 256, 1.5e5 parameters at HalfCheetah's shapes), or the residual networks of
BRO and SimBa, which change nothing else: no quantiles, no optimist, no resets, Adam without weight decay. CrossQ does
not compose: its critics have no targets and normalise (s, a) and (s', a') as one batch, which is another loss.
"""

from __future__ import annotations

import ml_collections

from core_jax.learners import sac
from core_jax.learners.sac import HPARAMS, Policy, State
from core_jax.networks import ensemble
from core_jax.state import Learner
from scaling.utd.networks import BroNet, SimbaNet

__all__ = ['HPARAMS', 'PRESETS', 'Policy', 'State', 'get_config', 'make']

RESIDUAL = {'bronet': BroNet, 'simba': SimbaNet}
# By name, what differs from `get_config`.
PRESETS = {
    'sac': {},
    'sac_simba': {'critic': 'simba', 'critic_width': 512, 'critic_depth': 2, 'hidden_dims': (128, 128)},
    'sac_bronet': {'critic': 'bronet', 'critic_width': 512, 'critic_depth': 2},
}


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """SAC for observations [B, D] and actions [B, action_dim] in [-1, 1]."""
    critic = None
    if config.critic in RESIDUAL:
        critic = ensemble(RESIDUAL[config.critic], config.num_critics)(config.critic_width, config.critic_depth)
    return sac.make(config, action_dim, critic)


def get_config() -> ml_collections.ConfigDict:
    """The settings of the paper's Gym arm, at UTD 1."""
    config = sac.get_config()
    config.update(
        {
            'target_entropy': 'half',  # -A/2, as in jaxrl
            'critic': 'mlp',  # mlp (of hidden_dims), bronet or simba
            'critic_width': 512,  # of the residual networks
            'critic_depth': 2,  # their blocks
        }
    )
    return config
