"""Value-based RL that scales predictably (arXiv 2502.04327, 2508.14881): algorithms, sweep, laws.

from scaling import utd
result = utd.train(env='pendulum', fields={'utd': 4.0, 'seeds': 3})
policy = utd.load_policy(result.directory / 'policy_0.npz')
actions = policy(observations)
"""

from __future__ import annotations

from typing import Any

__all__ = ['load_policy', 'train']


def __getattr__(name: str) -> Any:
    # jax is imported on first use, not with the package: `--help`, the fits and the environment workers do without it.
    if name in __all__:
        from scaling.utd import api

        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
