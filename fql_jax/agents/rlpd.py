"""SAC with data of before (RLPD), Ball et al. 2023, arXiv 2302.02948: `core_jax.learners.sac` with its settings.

Half of each batch comes from the dataset, half from what the policy collects (`balanced_sampling`), with LayerNorm in
the critics. The settings are those of the SAC agent in the released FQL: two critics, one update a step.
"""

from __future__ import annotations

import ml_collections

from core_jax.learners import sac
from core_jax.learners.sac import HPARAMS, Policy, make

__all__ = ['HPARAMS', 'RUN', 'Policy', 'get_config', 'make']

# There is nothing to learn before the first online step.
RUN = {'steps': 0, 'online_steps': 1_000_000, 'balanced_sampling': True}


def get_config() -> ml_collections.ConfigDict:
    """The settings of the SAC agent in the released FQL."""
    config = sac.get_config()
    config.update(
        {
            'hidden_dims': (512, 512, 512, 512),
            'activation': 'gelu',
            'critic_layer_norm': True,
            'target_entropy': 'half',
            'actor_agg': 'mean',
            'backup_entropy': False,
        }
    )
    return config
