"""A reward under constraints: as large as possible while other rewards stay below their limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core_jax.errors import UserError
from diffusion_jax.domains.task import Reward

LEAST = -92.1  # log 1e-40, what a broken constraint costs
SLOPE = 5.0


class Limit(NamedTuple):
    """`reward` must stay below `most` (above it, with `above`); the barrier begins 1 / SLOPE before."""

    reward: Reward
    most: float
    above: bool = False


def barrier(gap: jax.Array) -> jax.Array:
    """log max(1e-40, min(1, SLOPE gap)): 0 far inside the limit, `LEAST` beyond it."""
    inside = SLOPE * gap > 1e-40
    return jnp.where(inside, jnp.log(jnp.clip(SLOPE * jnp.where(inside, gap, 1.0), 1e-37, 1.0)), LEAST)


def constrained(reward: Reward, *limits: Limit, held_out: str | None = None) -> Reward:
    """r + sum_c log max(1e-40, min(1, 5 (most_c - r_c))), the soft log-barrier of SVDD's code for cell specificity.

    Raises UserError where one of the rewards is made on the host.
    """
    parts = (reward, *(limit.reward for limit in limits))
    if any(part.on_device is None for part in parts):
        raise UserError('constraints need rewards on the device')
    about = f'{reward.about}; ' + ', '.join(
        f'{limit.reward.about} {"above" if limit.above else "below"} {limit.most:g}' for limit in limits
    )
    params = {'values': tuple(part.params for part in parts), 'most': tuple(float(limit.most) for limit in limits)}
    signs = tuple(-1.0 if limit.above else 1.0 for limit in limits)

    def combined(functions: tuple[Callable[[Any, Any], Any], ...]) -> Callable[[dict, jax.Array], jax.Array]:
        def call(params: dict, designs: jax.Array) -> jax.Array:
            values = [function(p, designs) for function, p in zip(functions, params['values'], strict=True)]
            gaps = (sign * (most - value) for sign, most, value in zip(signs, params['most'], values[1:], strict=True))
            return values[0] + sum(barrier(gap) for gap in gaps)

        return call

    return Reward(
        about,
        on_device=combined(tuple(part.on_device for part in parts)),
        params=params,
        on_relaxed=combined(tuple(part.on_relaxed for part in parts))
        if all(part.on_relaxed for part in parts)
        else None,
        floor=reward.floor,
        held_out=held_out,
    )
