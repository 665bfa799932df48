"""What a search maximises: a reward of whole designs, and what a state on the way is worth by it.

    v(x_t) ~ r(mode of the denoiser's output)                      posterior mean, Tweedie (samples = 0)
    v(x_t) ~ alpha log mean_m exp(r(x_0^m) / alpha)                 x_0^m drawn from the output (samples = M)
    ... after `lookahead` further steps of the pre-trained process  DSearch's K-step look-ahead, `samples` roll-outs
    v(x_t) by a function of the state                              learned, or exact (`of_state`)

(DSearch, section 2; SVDD, arXiv 2408.08252.) At alpha = 0 the mean stands for the soft maximum over the guesses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

from diffusion_jax.process import Process, PyTree, denoise, spread, static

FLOOR = -1e6  # what a reward that is not finite counts for, unless a task says otherwise


@flax.struct.dataclass
class Value:
    """reward(params, designs [N, ...]) -> [N], larger is better. `params` are those of reward and of_state."""

    params: PyTree = None
    reward: Callable[[Any, jax.Array], jax.Array] = static(default=None)
    of_state: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = static(
        default=None
    )  # (params, x, level) -> [N]
    slope: Callable | None = static(default=None)  # (params, process, x, level) -> d value / d softened x, see `sloped`
    samples: int = static(default=0)
    lookahead: int = static(default=0)
    alpha: float = static(default=0.0)
    floor: float = static(default=FLOOR)

    @property
    def rewards_a_state(self) -> int:
        """Calls of the reward for one state on the way."""
        return 0 if self.of_state else max(self.samples, 1)

    def calls_a_state(self, left: Any, minimum: Callable = min) -> Any:
        """Calls of the denoiser for one state with `left` steps to go, beside the one that gives its output.

        minimum: `jnp.minimum` where `left` is traced.
        """
        return 0 if self.of_state else max(self.samples, 1) * minimum(self.lookahead, left - 1)


def guesses(value: Value, process: Process, keys: jax.Array, x: jax.Array, out: PyTree, level, axis=None) -> jax.Array:
    """Designs [N, m, ...] that rows x [N, ...] at `level` point to; their rewards are what `combined` takes.

    keys: one a row. The look-ahead goes on from each row m times, and holds where the next step would be the last: the
    output before it is a guess already.
    """
    count = max(value.samples, 1)
    rows = x.shape[0]
    each = jax.vmap(lambda key: jax.random.split(key, count))(keys).reshape(rows * count)
    repeat = lambda leaf: jnp.repeat(leaf, count, 0)  # noqa: E731
    x, out = repeat(x), jax.tree.map(repeat, out)
    if value.lookahead:

        def ahead(k, carry):
            def go(carry):
                x, _ = carry
                drawn = jax.vmap(jax.random.fold_in, (0, None))(each, k)
                y = jax.vmap(process.step, (0, 0, 0, None))(drawn, x, carry[1], level + k)
                return y, denoise(process, y, level + k + 1, axis)

            return jax.lax.cond(level + k + 1 < process.steps, go, lambda carry: carry, carry)

        x, out = jax.lax.fori_loop(0, value.lookahead, ahead, (x, out))
    at = jnp.minimum(level + value.lookahead, process.steps - 1)
    if value.samples:
        last = jax.vmap(jax.random.fold_in, (0, None))(each, value.lookahead)
        designs = jax.vmap(process.guess, (0, 0, 0, None))(last, x, out, at)
    else:
        designs = jax.vmap(process.mode, (0, 0, None))(x, out, at)
    return designs.reshape(rows, count, *designs.shape[1:])


def rewards_of(value: Value, designs: jax.Array, axis: str | None = None) -> jax.Array:
    """Rewards [N] of designs [N, ...]; with `axis`, every device of it scores its share."""
    return spread(lambda rows: value.reward(value.params, rows), designs, axis)


def floored(value: Value, rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(rewards with those that are not finite at the floor, which ones were not)."""
    failed = ~jnp.isfinite(rewards)
    return jnp.where(failed, value.floor, rewards), failed


def combined(value: Value, rewards: jax.Array) -> jax.Array:
    """Values [...] of rewards [..., m] of guesses: alpha log mean exp(r / alpha), at alpha = 0 the mean."""
    if value.alpha == 0.0:
        return rewards.mean(-1)
    return value.alpha * (jax.nn.logsumexp(rewards / value.alpha, -1) - jnp.log(rewards.shape[-1]))
