"""Denoisers of masked diffusion: trained here, and as processes that searches run.

With x_0 of length L and a set M of n masked positions, a network gives log p(x_0,i | the others) for i in M. Each way
to draw M has a bound on -log p(x_0), in nats; but for the cut at t = 1e-3, their expectations are the same:

    mdlm       t ~ U[1e-3, 1], each position masked with probability (1 - 1e-3) t;   (1 / t) sum_M -log p
               (SUBS, log-linear noise in continuous time, eq. 10 of arXiv 2406.07524)
    oaardm     n ~ U{1..L}, n positions masked;                                       (L / n) sum_M -log p
               (eq. 9 of arXiv 2110.02037. EvoDiff's release never draws n = 1, which leaves the last step untrained.)

t and n are spread evenly over the batch (low-discrepancy sampling): u_b = (u + b) / B mod 1, each still uniform.

Metrics: those of `averaged`; loss is the bound per position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from core_jax.errors import UserError, unknown
from core_jax.state import Learner
from diffusion_jax.models import averaged, masked, networks
from diffusion_jax.process import Process, PyTree, denoise

SHORTEST = 1e-3  # the least t that is trained on


# What is masked, and how much a masked position weighs


def even(key: jax.Array, count: int) -> jax.Array:
    """Low-discrepancy uniforms [count] in [0, 1)."""
    return (jax.random.uniform(key, (count,)) / count + jnp.arange(count) / count) % 1.0


def mdlm(key: jax.Array, batch: int, length: int) -> tuple[jax.Array, jax.Array]:
    """(masked [B, L], weight [B])."""
    level, where = jax.random.split(key)
    t = SHORTEST + (1.0 - SHORTEST) * even(level, batch)
    hidden = jax.random.uniform(where, (batch, length)) < ((1.0 - masked.EPSILON) * t)[:, None]
    return hidden, 1.0 / t


def oaardm(key: jax.Array, batch: int, length: int) -> tuple[jax.Array, jax.Array]:
    """(masked [B, L], weight [B])."""
    level, where = jax.random.split(key)
    count = counts(even(level, batch), length)
    return first(where, count, length), length / count


def counts(uniform: jax.Array, length: int) -> jax.Array:
    """1..length from uniforms; rounding may have made a 1 of one."""
    return jnp.minimum(1 + jnp.floor(uniform * length), length)


def first(key: jax.Array, count: jax.Array, length: int) -> jax.Array:
    """Masks [B, L] of `count` [B] positions, each set of that size as likely as any other."""
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, (*count.shape, length)), -1), -1)
    return rank < count[:, None]


MASKINGS = {'mdlm': mdlm, 'oaardm': oaardm}


def cross_entropy(logits: jax.Array, tokens: jax.Array, size: int) -> jax.Array:
    """-log p(tokens) [B, L] in float32. Tokens from `size` on, the mask among them, have probability 0 (SUBS)."""
    log_p = jax.nn.log_softmax(logits[..., :size].astype(jnp.float32))
    return -jnp.take_along_axis(log_p, tokens[..., None].astype(jnp.int32), -1)[..., 0]


# The learner


def make(config: ml_collections.ConfigDict) -> Learner:
    """Trains on batches {'tokens' [B, L]} of 0 to config.tokens - 1; the mask is token config.tokens.

    Its policy, what it is trained for, is the moving average of the parameters, for `process`.
    """
    if config.masking not in MASKINGS:
        raise unknown('masking', config.masking, MASKINGS)
    network, masking, mask = network_of(config), MASKINGS[config.masking], config.tokens

    def loss(params: PyTree, batch: dict, key: jax.Array) -> jax.Array:
        tokens = batch['tokens']
        chex.assert_rank(tokens, 2)
        hidden, weight = masking(key, *tokens.shape)
        x = networks.one_hot(jnp.where(hidden, mask, tokens.astype(jnp.int32)), mask + 1)
        terms = jnp.where(hidden, cross_entropy(network.apply(params, x), tokens, mask), 0.0)
        return jnp.mean(weight[:, None] * terms)

    def initial(key: jax.Array, batch: dict) -> PyTree:
        return network.init(key, networks.one_hot(batch['tokens'][:1].astype(jnp.int32), mask + 1))

    return averaged.make(loss, initial, config)


def network_of(config: ml_collections.ConfigDict) -> nn.Module:
    """The network that `make` trains: its outputs are the tokens, without the mask."""
    return networks.make(config.network, config.tokens)


def get_config() -> ml_collections.ConfigDict:
    """The settings of the enhancer model (DRAKES on Gosai's data), but for its 131,500 updates and bfloat16.

    EvoDiff's: masking oaardm, learning_rate 1e-4, warmup 10000, network {'kind': 'bytenet'}.
    """
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars.
            'learning_rate': 3e-4,  # Adam's step size
            'ema': 0.9999,  # decay of the moving average, at most (1 + step) / (10 + step)
            # Shapes and switches: static.
            'tokens': 4,  # size of the alphabet without the mask
            'masking': 'mdlm',  # mdlm, or oaardm
            'batch_size': 512,  # sequences an update
            'warmup': 2500,  # updates over which the step size grows
            'weight_decay': 0.0,  # decoupled, as AdamW's
            'clip': 1.0,  # most that the norm of the gradients may be
            'network': {'kind': 'cnn', 'hidden': 128, 'stacks': 4},  # see `networks`
        }
    )


# The process


def process(
    network: nn.Module,
    params: PyTree,
    *,
    length: int,
    tokens: int,
    mask: int | None = None,
    inputs: int | None = None,
    steps: int = 0,
    samples: int = 0,
    micro: int = 0,
) -> Process:
    """The reverse process of a network over designs of `length` tokens, each 0 to tokens - 1.

    mask: the token that stands for masked; by default `tokens`. inputs: width of the network's input, by default
    mask + 1. steps: of MDLM's grid; 0 reveals one position a step. samples: of the likelihood's bound, see `bound`; 0
    for one a position. micro: see `Process`.

    Its gradients are taken by one-hot rows [L, mask + 1]; `mode` of such rows gives relaxed designs [L, tokens].
    """
    mask = tokens if mask is None else mask
    inputs = mask + 1 if inputs is None else inputs
    if not 1 <= tokens <= mask < inputs:
        raise UserError(f'a model of {tokens} tokens with mask {mask} and {inputs} inputs: they must not decrease')

    def log_probabilities(params: PyTree, x: jax.Array, level: jax.Array) -> jax.Array:
        logits = network.apply(params, networks.one_hot(x, inputs))
        return jax.nn.log_softmax(logits[..., :tokens].astype(jnp.float32))

    about: dict[str, Any] = {'length': length, 'mask': mask, 'micro': micro} | masked.relaxation(mask)
    if steps:
        made = masked.grid(params, log_probabilities, steps=steps, **about)
    else:
        made = masked.one_position(params, log_probabilities, **about)
    return made.replace(log_likelihood=bound(made, mask, samples or length))


def bound(process: Process, mask: int, samples: int) -> Callable[[PyTree, jax.Array, jax.Array], jax.Array]:
    """`Process.log_likelihood` as a lower bound (ELBO), of a model whose denoiser is not told the level:

        log p(x) >= L E_{n ~ U{1..L}, M of n positions} (1 / n) sum_{i in M} log p(x_i | x without M)

    estimated without bias from `samples` draws of (n, M), n spread evenly: with samples = L, each once. The draws come
    from the key alone, so that designs are compared on the same masks, and a design's bound does not depend on the
    others in the call. With the exact denoiser it is an equality.
    """

    def log_likelihood(params: PyTree, key: jax.Array, designs: jax.Array) -> jax.Array:
        model, length = process.replace(params=params), designs.shape[1]
        level_key, where = jax.random.split(key)
        count = counts(even(level_key, samples), length)  # [S]
        hidden = first(where, count, length)  # [S, L]

        def one(drawn):
            count, hidden = drawn
            x = jnp.where(hidden[None], jnp.asarray(mask, designs.dtype), designs)
            log_p = denoise(model, x, jnp.int32(0))
            terms = jnp.take_along_axis(log_p, designs[..., None].astype(jnp.int32), -1)[..., 0]
            return length / count * jnp.where(hidden[None], terms, 0.0).sum(1)

        return jax.lax.map(one, (count, hidden)).mean(0)

    return log_likelihood
