"""Learned values (the MC form of SVDD, arXiv 2408.08252): a network that knows what became of states like this one.

    v = argmin_v E |v(x_t, t) - r(x_0)|^2,   (x_t, x_0) from trajectories of the pre-trained process

The least is at v(x_t, t) = E[r(x_0) | x_t]; alpha has no part in it. Once it is fitted, a state on the way is valued
without a call of the reward or of the denoiser. What it takes before, trajectories with a reward each, is paid once.

    trajectories/NAME-HASH.npz      below `diffusion/` in the data directory: states and rewards
    models/NAME-value-HASH/         the network (see `training`)

What a reward is, no name can say: the hash of the trajectories holds the first of them and the first rewards, made anew
each time, so that another model, another reward or another version of either is never taken for this one.

Metrics: those of `averaged`; loss is in units of the rewards' variance, 1 for the best constant.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax.datasets import directory, fingerprint, load_npz
from core_jax.errors import UserError
from core_jax.files import write_atomic
from core_jax.state import Learner
from diffusion_jax import training
from diffusion_jax.models import averaged
from diffusion_jax.models.convolution import Conv
from diffusion_jax.models.gaussian import per_row
from diffusion_jax.models.masked_learner import even
from diffusion_jax.models.networks import one_hot
from diffusion_jax.models.unet import embedding
from diffusion_jax.process import Process, PyTree, spread, trajectories
from diffusion_jax.value import Value

BATCH = 64  # trajectories that are made at once
SCORED = 512  # designs that are scored at once
PROBE = 8  # rewards that say which reward it is


class Fit(NamedTuple):
    """A value's parameters, for `Value.params`, and what they cost.

    explained: share of the rewards' variance that it explains on trajectories that it was not fitted on, all levels
    together; the exact E[r(x_0) | x_t] has less than 1, too, as the future of a state is open.
    """

    params: PyTree
    trajectories: int
    denoiser_calls: int
    reward_calls: int
    explained: float


# Trajectories


@functools.partial(jax.jit, static_argnums=2)
def rolled_out(process: Process, key: jax.Array, count: int) -> dict[str, jax.Array]:
    """BATCH trajectories of the process: 'design' [B, ...], and K = count states of each, 'x' [B, K, ...].

    Their levels, 'level' [B, K], are of 1 to steps - 1, one from each of K even parts of these, so that all are seen
    equally often.
    """
    drawn, which = jax.random.split(key)
    designs, states = trajectories(process, jax.random.split(drawn, BATCH))
    part = (jnp.arange(count)[None] + even(which, BATCH)[:, None]) / count
    level = jnp.clip(1 + jnp.floor(part * (process.steps - 1)).astype(jnp.int32), 1, process.steps - 1)
    return {'design': designs, 'x': states[level - 1, jnp.arange(BATCH)[:, None]], 'level': level}


def examples(
    process: Process,
    name: str,
    score: Callable[[np.ndarray], np.ndarray],
    config: ml_collections.ConfigDict,
    floor: float,
    say: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """'x' [N, K, ...], 'level' [N, K] and 'reward' [N], float32, of config.trajectories; made here once and kept.

    score(designs [M, ...]) -> [M]. A reward that is not finite counts as `floor`, or as the least of the others where
    that is more: a floor far below all rewards would be all that a squared loss sees.

    Raises UserError where a process has no states on the way, or no trajectory a reward.
    """
    if process.steps < 2:
        raise UserError('a process of one step has no states on the way that a value could be learned of')
    count = config.trajectories
    states = min(config.levels, process.steps - 1)
    key = jax.random.key(config.seed)

    def batch(number: int) -> dict[str, np.ndarray]:
        return jax.tree.map(np.asarray, rolled_out(process, jax.random.fold_in(key, number), states))

    first = batch(0)
    rewards = [score(first['design'][:PROBE])]
    identity = [count, floor, fingerprint(first | {'reward': rewards[0]})]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = directory() / 'diffusion' / 'trajectories' / f'{name}-{digest[:16]}.npz'
    if not path.exists():
        say(
            f'learning the value of states, once: {count:,} trajectories of {process.steps} denoiser calls, '
            f'and {count:,} reward calls'
        )
        batches = [first] + [batch(number) for number in range(1, -(-count // BATCH))]
        rows = {field: np.concatenate([one[field] for one in batches])[:count] for field in first}
        designs = rows.pop('design')
        rewards += [score(designs[i : i + SCORED]) for i in range(PROBE, count, SCORED)]
        reward = np.concatenate(rewards)[:count]
        failed = ~np.isfinite(reward)
        if failed.all():
            raise UserError(f'not one of {count} trajectories has a reward')
        reward[failed] = max(floor, reward[~failed].min())
        if failed.any():
            say(f'{failed.sum()} of {count} rewards were not finite and count {reward[failed][0]:g}')
        content = io.BytesIO()
        np.savez_compressed(content, **rows, reward=reward.astype(np.float32))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.getvalue())
    return load_npz(path, {'x': None, 'level': 2, 'reward': 1})


# The network, and what it is trained for


class StateValue(nn.Module):
    """States [N, *size, C], and how far they are [N], 0 (noise) to 1 (a design) -> [N].

    Two convolutions over the axes that there are (dense layers where there are none), images halved after each; then
    dense layers that see every place.
    """

    hidden: int
    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """key: for dropout, while training."""
        axes, told = x.ndim - 2, embedding(progress, 16)
        for channels in (self.hidden, 2 * self.hidden):
            level = nn.Dense(channels)(told).reshape(x.shape[0], *[1] * axes, channels)
            x = Conv(channels, (self.width,) * axes)(x) if axes else nn.Dense(channels)(x)
            x = nn.gelu(x + level)
            if axes == 2:
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        if key is not None and self.dropout:
            x = jnp.where(jax.random.bernoulli(key, 1 - self.dropout, x.shape), x / (1 - self.dropout), 0.0)
        x = jnp.concatenate([x, told], -1)
        for _ in range(2):
            x = nn.gelu(nn.Dense(4 * self.hidden)(x))
        return nn.Dense(1)(x)[:, 0]


def make(config: ml_collections.ConfigDict, process: Process) -> Learner:
    """Trains on batches {'x' [B, ...], 'level' [B], 'target' [B]}: states, those of numbers with mean square 1 at each
    level, and standardised rewards. Its policy is the moving average.
    """
    network, inputs = network_of(config), inputs_of(process)

    def of(batch: dict) -> tuple[jax.Array, jax.Array]:
        return rows(batch['x'], inputs), batch['level'] / process.steps

    def loss(params: PyTree, batch: dict, key: jax.Array) -> jax.Array:
        chex.assert_rank([batch['level'], batch['target']], 1)
        return jnp.mean((network.apply(params, *of(batch), key) - batch['target']) ** 2)

    def initial(key: jax.Array, batch: dict) -> PyTree:
        return network.init(key, *of(jax.tree.map(lambda leaf: leaf[:1], batch)))

    return averaged.make(loss, initial, config)


def network_of(config: ml_collections.ConfigDict) -> StateValue:
    """The network that `make` trains."""
    return StateValue(config.hidden, config.width, config.dropout)


def inputs_of(process: Process) -> int:
    """How many tokens states are made of, the mask, which is the last one, among them; 0 where they are numbers."""
    noise = process.init(jax.random.key(0))
    return int(noise.max()) + 1 if jnp.issubdtype(noise.dtype, jnp.integer) else 0


def rows(x: jax.Array, inputs: int) -> jax.Array:
    """States [N, ...] as the network takes them."""
    return one_hot(x, inputs) if inputs else x


@functools.cache  # the same value is the same program
def of_state(network: StateValue, inputs: int, steps: int, micro: int) -> Callable:
    """`Value.of_state` of parameters {'state': ...} as `fitted` gives them. micro: see `process.Process`."""

    def value(params: dict, x: jax.Array, level: jax.Array) -> jax.Array:
        own = params['state']
        x = x if inputs else x / own['scale'][level]

        def predicted(x: jax.Array) -> jax.Array:
            return network.apply(own['net'], rows(x, inputs), jnp.full(x.shape[0], level / steps))

        return own['mean'] + own['deviation'] * spread(predicted, x, None, micro)

    return value


@functools.cache
def of_whole(function: Callable) -> Callable:
    """The same function of {'whole': its parameters}."""
    return lambda params, *rest: function(params['whole'], *rest)


def untrained(value: Value, process: Process, config: ml_collections.ConfigDict) -> Value:
    """`value` with a learned one on the way, whose params still lack `Fit.params`: enough to plan a search.

    Guidance goes along the slope of `value` as before, which is that of the reward.
    """
    return value.replace(
        params={'whole': value.params},
        reward=value.reward and of_whole(value.reward),
        slope=value.slope and of_whole(value.slope),
        of_state=of_state(network_of(config), inputs_of(process), process.steps, process.micro),
    )


# Fitting


def fitted(
    process: Process,
    name: str,
    score: Callable[[np.ndarray], np.ndarray],
    config: ml_collections.ConfigDict,
    *,
    floor: float,
    say: Callable[[str], None] = print,
) -> Fit:
    """The value of the reward that `score` gives, fitted once and kept. name: of its files. Otherwise as `examples`.

    Every tenth trajectory is held out, to say how good it is.
    """
    known = examples(process, name, score, config, floor, say)
    count, states = known['level'].shape
    x, level = known['x'].reshape(count * states, *known['x'].shape[2:]), known['level'].reshape(-1)
    unseen = np.arange(count) % 10 == 9
    mean, deviation = known['reward'][~unseen].mean(), known['reward'][~unseen].std()
    target = np.repeat((known['reward'] - mean) / (deviation or 1), states)
    scale = np.ones(process.steps, np.float32)
    if not inputs_of(process):
        for at in np.unique(level):
            scale[at] = np.sqrt(np.square(x[level == at], dtype=np.float64).mean())
    held_out = np.repeat(unseen, states)
    data = {'x': x if inputs_of(process) else x / per_row(scale[level], x), 'level': level, 'target': target}
    data = {field: array[~held_out] for field, array in data.items()}
    net = training.trained(f'{name}-value', make(config, process), data, config, steps=config.updates, seed=config.seed)
    state = {'net': net, 'mean': jnp.float32(mean), 'deviation': jnp.float32(deviation), 'scale': jnp.asarray(scale)}
    params = {'state': state}
    error = known['reward'].repeat(states)[held_out] - _values(process, params, config, x[held_out], level[held_out])
    explained = 1 - (error**2).mean() / known['reward'][unseen].var()
    return Fit(params, count, count * process.steps, count, float(explained))


def _values(process: Process, params: dict, config: ml_collections.ConfigDict, x: np.ndarray, level: np.ndarray):
    """Values [N] of states [N, ...] at levels [N]."""
    value = jax.jit(of_state(network_of(config), inputs_of(process), process.steps, process.micro))
    found = np.zeros(len(x), np.float32)
    for at in np.unique(level):
        found[level == at] = value(params, x[level == at], at)
    return found


def get_config() -> ml_collections.ConfigDict:
    """Settings for states of below a thousand tokens or pixels: a minute or two on a core beside the trajectories."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars.
            'learning_rate': 1e-3,  # Adam's step size
            'ema': 0.998,  # decay of the moving average, at most (1 + step) / (10 + step)
            # Shapes and switches: static.
            'trajectories': 2048,  # of the process; each costs its steps in denoiser calls, and one reward call
            'levels': 8,  # states of a trajectory that are learned from
            'updates': 1500,
            'seed': 0,  # of the trajectories and of the training
            'batch_size': 128,  # states an update
            'hidden': 32,  # channels of the first convolution
            'width': 5,  # of the convolutions, odd
            'dropout': 0.5,  # of what the dense layers see
            'warmup': 100,
            'clip': 1.0,  # most that the norm of the gradients may be
            'weight_decay': 0.1,  # decoupled, as AdamW's
        }
    )
