"""Behaviour cloning with a Gaussian policy: `core_jax.learners.bc`, at the size of the other agents."""

from core_jax.learners.bc import HPARAMS, Policy, get_config, make

__all__ = ['HPARAMS', 'Policy', 'get_config', 'make']
