"""One door to all environments: on the device or on the host, by name.

pendulum, cartpole, point_mass        our own, in the compiled loop (analytic.py)
playground:CheetahRun, brax:ant       simulators for accelerators, in the compiled loop (mjx.py)
cheetah-run, HalfCheetah-v5           dm_control and gymnasium, on the host (host_envs.py)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
    """An environment: `on_device` where it is a JAX program, else `make_env` for worker processes."""

    observation_dim: int
    action_dim: int
    on_device: Any | None = None  # analytic.Environment
    make_env: Callable[[], Any] | None = None


@functools.cache
def resolve(name: str) -> Task:
    """The environment called so. Raises UserError, with the nearest name, where there is none."""
    from scaling.utd import analytic, mjx

    simulated = mjx.is_name(name)
    if simulated or name in analytic.ENVIRONMENTS or name in analytic.PROBES:
        environment = (mjx if simulated else analytic).make(name)
        return Task(environment.observation_dim, environment.action_dim, on_device=environment)
    from scaling.utd import host_envs

    make_env = host_envs.factory(name)
    with contextlib.closing(make_env()) as env:
        return Task(env.observation_space.shape[0], env.action_space.shape[0], make_env=make_env)


def check(name: str) -> None:
    """Raises UserError where there is no environment called so; builds none."""
    from scaling.utd import analytic, mjx

    if mjx.is_name(name):
        mjx.check(name)
    elif name not in analytic.ENVIRONMENTS and name not in analytic.PROBES:
        from scaling.utd import host_envs

        host_envs.factory(name)
