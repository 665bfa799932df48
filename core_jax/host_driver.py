"""The driver that is fed by the host (environment workers, Grain), on two clocks with an exact ratio between them.

It runs the compiled program of `driver`, and between two dispatches asks a feed for data and the policy for actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.driver import DeviceDriver, PyTree
from core_jax.errors import UserError
from core_jax.files import decode_array, encode_array
from core_jax.mesh import fetch, place, replicated


class Feed(Protocol):
    """A stream on the host: environment workers, a file reader.

    next(act) -> (host_batch, environment_steps): numpy trees of fixed shapes
        act(observations [S, ...], fresh [S] bool) -> actions [S, A] asks the policy; fresh rows begin an episode
    get_state() / set_state(state): JSON-able; from it the stream goes on exactly where it stood

    A feed may also have metrics() -> dict of floats, about what it brought since the last call, for the log.
    """

    def next(self, act: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[PyTree, int]: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


def updates_due(environment_steps: int, ratio: Fraction, warmup: int) -> int:
    """floor(ratio * (steps - warmup)), exactly, and 0 before the warm-up ends."""
    return max(0, (ratio.numerator * (environment_steps - warmup)) // ratio.denominator)


class HostDriver(DeviceDriver):
    """Runs a learner on what a feed brings.

    lead: updates made before the feed is first asked, on data that are there (offline to online).
    warmup: environment steps without an update, with actions that are uniform in [-1, 1].
    apart: the feed has environments for every member, which acts in its own and learns from them (`feed.next` brings
        leading axes [members * S]); otherwise all learn from what the first running member does.

    Updates after s environment steps (of a member): lead + floor(ratio * (s - warmup)), exactly.
    """

    def __init__(
        self,
        *arguments,
        feed: Feed,
        ratio: float | Fraction = 1,
        warmup: int = 0,
        lead: int = 0,
        apart: bool = False,
        **keywords,
    ):
        super().__init__(*arguments, **keywords)
        self.feed, self.warmup, self.lead, self.apart = feed, warmup, lead, apart
        self.ratio = Fraction(ratio).limit_denominator(1 << 20)
        if self.ratio <= 0:
            raise UserError('the update-to-data ratio must be positive')
        self._receive = jax.jit(self._receive_all, donate_argnums=0, out_shardings=self.shardings.data)
        act = self._act_of_all if apart else self._act_of_first
        self._act = jax.jit(act, out_shardings=self._per_member if apart else replicated(self.mesh))
        self.should_stop: Callable[[], bool] = lambda: False  # asked after each call of the feed

    def assign(self, seeds: Sequence[int], hparams: dict[str, Any] | None = None) -> None:
        super().assign(seeds, hparams)
        self.environment_steps = self.calls = 0
        self._memory: PyTree | None = None  # what the policy remembers of the episodes that it is in

    def _receive_all(self, data: PyTree, bad_step: jax.Array, batch: PyTree) -> PyTree:
        def member(data, bad_step, batch):
            received = self.source.receive(data, batch)
            # A frozen member keeps the data that broke it, for `diagnose`.
            return jax.tree.map(lambda new, old: jnp.where(bad_step < 0, new, old), received, data)

        return jax.vmap(member, in_axes=(0, 0, 0 if self.apart else None))(data, bad_step, batch)

    def _act_of_first(self, carry, memory, observations, fresh, calls, warming) -> tuple[PyTree, jax.Array]:
        running = jnp.argmax(carry.bad_step < 0)
        state, key = jax.tree.map(lambda x: x[running], (carry.state, carry.key))
        return self._act_of(state, key, memory, observations, fresh, calls, warming)

    def _act_of_all(self, carry, memory, observations, fresh, calls, warming) -> tuple[PyTree, jax.Array]:
        def member(own, shared):
            return self._act_of(*own, *shared)

        own = carry.state, carry.key, memory, observations, fresh
        return self._over_members(member, own, (calls, warming))

    def _act_of(self, state, key, memory, observations, fresh, calls, warming) -> tuple[PyTree, jax.Array]:
        acting = jax.random.fold_in(jax.random.fold_in(key, 0x0AC7), calls)
        initial = self.learner.memory(observations.shape[0])
        memory = jax.tree.map(lambda m, i: jnp.where(fresh.reshape(-1, *(1,) * (m.ndim - 1)), i, m), memory, initial)
        policy = self.learner.explore(self.learner.policy(state))
        memory, actions = self.learner.act(policy, memory, observations, acting)
        uniform = jax.random.uniform(jax.random.fold_in(acting, 1), actions.shape, actions.dtype, -1.0, 1.0)
        return memory, jnp.where(warming, uniform, actions)

    def _by_member(self, tree: PyTree) -> tuple[PyTree, PyTree]:
        """(what concerns all slots [members * S, ...], split by member where they are apart; its shardings)."""
        if not self.apart:
            return tree, jax.tree.map(lambda _: replicated(self.mesh), tree)
        split = jax.tree.map(lambda x: x.reshape(self.members, -1, *x.shape[1:]), tree)
        return split, jax.tree.map(lambda _: self._per_member, split)

    def _initial_memory(self, slots: int) -> PyTree:
        own = self.learner.memory(slots // self.members if self.apart else slots)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.members, *x.shape)), own) if self.apart else own

    def act(self, observations: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Actions [S, A] of the first running member's current policy (apart: of each one's) for observations [S, ...].

        fresh [S]: rows whose episode has just begun; of the others the policy remembers what it did.
        """
        self.calls += 1
        (shown, begun), where = self._by_member((observations, fresh))
        if self._memory is None:
            sharding = self._per_member if self.apart else replicated(self.mesh)
            self._memory = jax.jit(lambda: self._initial_memory(len(observations)), out_shardings=sharding)()
        shown, begun = place((shown, begun), where)
        shared = np.int32(self.calls), np.bool_(self.environment_steps < self.warmup)
        self._memory, actions = self._act(
            self.carry, self._memory, shown, begun, *place(shared, (replicated(self.mesh),) * 2)
        )
        actions = fetch(actions)
        return actions.reshape(-1, *actions.shape[2:]) if self.apart else actions

    def advance(self, updates: int) -> None:
        end = self.updates + updates
        while self.updates < end:
            due = self.lead + updates_due(self.environment_steps, self.ratio, self.warmup)
            if due > self.updates:
                super().advance(min(due, end) - self.updates)
                continue
            batch, steps = self.feed.next(self.act)
            self.environment_steps += steps // self.members if self.apart else steps
            batch = place(*self._by_member(batch))
            with jax.transfer_guard('disallow'):
                data = self._receive(self.carry.data, self.carry.bad_step, batch)
            self.carry = self.carry.replace(data=data)
            if self.should_stop():  # a warm-up is long, and the update after it far
                return

    def host_state(self) -> dict:
        """The clocks, the policy's memory and the position of the stream, for a checkpoint."""
        memory = [encode_array(fetch(leaf)) for leaf in jax.tree.leaves(self._memory)]
        clocks = {'environment_steps': self.environment_steps, 'calls': self.calls}
        return clocks | {'memory': memory, 'feed': self.feed.get_state()}

    def set_host_state(self, saved: dict) -> None:
        """Goes on from what `host_state` returned."""
        self.environment_steps, self.calls = saved['environment_steps'], saved['calls']
        leaves = [decode_array(leaf) for leaf in saved['memory']]
        self._memory = None
        if leaves:
            structure = jax.tree.structure(jax.eval_shape(lambda: self.learner.memory(1)))
            memory = jax.tree.unflatten(structure, leaves)
            sharding = self._per_member if self.apart else replicated(self.mesh)
            self._memory = place(memory, jax.tree.map(lambda _: sharding, memory))
        self.feed.set_state(saved['feed'])
