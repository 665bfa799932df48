"""Flow Q-learning and its field (arXiv 2502.02538).

import fql_jax
result = fql_jax.train(env='ogbench-cube')                # or your own make_env and arrays, see `fql_jax.api`
policy = fql_jax.load_policy(result.directory)            # parameters and config alone, no trainer
actions = policy(observations)
"""

from __future__ import annotations

from typing import Any

__all__ = ['load_policy', 'train']


def __getattr__(name: str) -> Any:
    # jax is imported on first use, not with the package: `--help` and the environment workers do without it.
    if name in __all__:
        from fql_jax import api

        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
