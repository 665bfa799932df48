"""What learner states are made of: the learner's protocol, parameters with their optimizer, targets that never alias.

A learner is a module of pure functions over pytrees. Its state is any `flax.struct.dataclass` that has at least

    key    a typed PRNG key, never advanced: the randomness of an update is `fold_in(state.key, state.step)`
    step   int32 scalar, the number of updates made

so the step number alone reproduces the noise of that step, and nothing but the state needs to be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

PyTree = Any


class Learner(NamedTuple):
    """The pure functions of one algorithm, made by `make(config)`; the config is closed over and never traced.

    init(key, example_batch) -> state
    update(state, batch, hparams) -> (state, metrics)               metrics: dict of scalars, means over the batch
    act(policy, memory, observations, key) -> (memory, actions)     leading axis B on memory, observations, actions;
                                                                    None for a model that does not act
    policy(state) -> policy                                         the smallest pytree that `act` reads; it is exported
    hparams: dict of float scalars, what a population may vary
    memory(batch_size) -> memory                                    queue of actions, ...; () for most
    explore(policy) -> policy                                       the one that collects data online, where it differs
    td_error(state, batch, key, hparams) -> scalar                  critic loss on any batch, no gradient; may be None
    """

    init: Callable[..., PyTree]
    update: Callable[..., tuple[PyTree, dict[str, jax.Array]]]
    act: Callable[..., tuple[PyTree, jax.Array]] | None
    policy: Callable[[PyTree], PyTree]
    hparams: dict[str, float]
    memory: Callable[[int], PyTree] = lambda batch_size: ()
    explore: Callable[[PyTree], PyTree] = lambda policy: policy
    td_error: Callable[..., jax.Array] | None = None


@flax.struct.dataclass
class Trainable:
    """Parameters and the state of the optimizer that moves them."""

    params: PyTree
    opt_state: PyTree


def trainable(params: PyTree, optimizer: optax.GradientTransformation) -> Trainable:
    """Pairs `params` with a fresh optimizer state."""
    return Trainable(params, optimizer.init(params))


def descend(
    bundle: Trainable, gradients: PyTree, optimizer: optax.GradientTransformation, learning_rate: jax.Array | float
) -> Trainable:
    """One optimizer step: params - learning_rate * direction.

    `optimizer` gives directions (`optax.scale_by_adam()`, not `optax.adam(lr)`): the rate stays a traced scalar, so
    that the members of a population may differ in it without another compilation.
    """
    directions, opt_state = optimizer.update(gradients, bundle.opt_state, bundle.params)
    params = jax.tree.map(lambda p, d: p - (learning_rate * d).astype(p.dtype), bundle.params, directions)
    return Trainable(params, opt_state)


def copy(tree: PyTree) -> PyTree:
    """A copy whose buffers are its own. A target that aliases its source cannot be donated together with it."""
    return jax.tree.map(jnp.copy, tree)


def polyak(online: PyTree, target: PyTree, tau: jax.Array | float) -> PyTree:
    """Target update by exponential moving average: tau * online + (1 - tau) * target."""
    return jax.tree.map(lambda o, t: tau * o + (1.0 - tau) * t, online, target)


def step_key(state: PyTree) -> jax.Array:
    """The key of this update, a pure function of the state's key and step."""
    return jax.random.fold_in(state.key, state.step)


def global_norm(tree: PyTree) -> jax.Array:
    """The 2-norm of all leaves taken as one vector (the released FQL code logs the sum of leaf norms instead)."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def parameters(state: PyTree) -> list[jax.Array]:
    """Every array that an optimizer of this state moves."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Trainable))
    return [leaf for node in nodes if isinstance(node, Trainable) for leaf in jax.tree.leaves(node.params)]


@jax.custom_batching.custom_vmap
def any_member(flag: jax.Array) -> jax.Array:
    """The flag; under vmap, whether any member's is set, one for all: so a `cond` on it remains a branch."""
    return flag


@any_member.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple[jax.Array, bool]:
    return any_member(flag.any()), False
