"""Bigger, regularized, optimistic (BRO), Nauman et al. 2024, arXiv 2405.16158: SAC made for many updates a step.

Two large critics with LayerNorm (`networks.BroNet`) predict N quantiles Z_ij(s, a) of the return, at the levels
tau_j = (j - 1/2) / N; Zbar are their target copies, pi the tanh-Gaussian policy, alpha its temperature. With
a' ~ pi(s'), a ~ pi(s), u = y_k - Z_ij(s, a_data) and H = -A/2 for A action dimensions:

    y_k      r + discount * mask * (mean_i Zbar_ik(s', a') - alpha log pi(a' | s'))       the mean: no pessimism
    J_Z      sum_{i,j} mean_{B,k} |tau_j - 1(u < 0)| huber(u)                 Huber of width 1, arXiv 1710.10044
    J_pi     mean_B alpha log pi(a | s) - mean_{i,j} Z_ij(s, a)
    J_alpha  mean_B alpha * (-log pi(a | s) - H)

A second policy, the optimist, collects the data. It shifts the mean m of pi before the tanh and narrows its standard
deviation d: a_o = tanh(m + shift(s, m) + std_scale * d * noise). The weights b of optimism and c of regularisation
hold its distance KL from pi at a target; where it is too near, b grows and c shrinks:

    J_o      mean_B -mean_{i,j} Z_ij(s, a_o) - b * mean_j |Z_1j(s, a_o) - Z_2j(s, a_o)| / 2 + c * KL
    KL       sum_A shift^2 / (2 d^2)            that of the Gaussians, the optimist's deviation divided by std_scale
    J_bc     (b - c) * (mean_B KL / A - kl_target)

One update: critics, policy (which sees the moved critics), optimist (which sees both moved), temperature, weights,
targets. Weight decay is on all networks, not on temperature and weights. At a reset, before an update that is due,
everything that learns starts anew, optimizers, targets, temperature and weights included; `step` and `key` stay. The
new start is drawn from this update's key, where the authors' release repeats the run's first one, noise included.
What is not said here is as in the release (github.com/naumix/BiggerRegularizedOptimistic): disagreement quantile by
quantile, initialisation, ranges, Adam's b1 = 0.5 for temperature and weights, the times of resets.

Metrics, means over the batch: critic/loss; critic/q_mean, q_min, q_max of Q_i(s, a_data), the mean over quantiles;
critic/parameter_norm and actor/parameter_norm, 2-norms after the update; critic/gradient_norm; actor/loss;
actor/entropy, the estimate -log pi(a | s); temperature/loss; temperature/alpha; grad_norm (2-norm of all gradients);
and with an optimist optimist/loss, actor/kl (KL / A, in nats), optimism (b) and regularizer (c). alpha, b and c are
those used in this update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax.distributions import TanhGaussian
from core_jax.host_driver import updates_due
from core_jax.networks import ensemble
from core_jax.state import Learner, Trainable, any_member, copy, descend, global_norm, polyak, step_key, trainable
from scaling.utd.networks import BroNet

HPARAMS = ('actor_learning_rate', 'critic_learning_rate', 'temperature_learning_rate', 'discount', 'tau')
LOG_WEIGHT = (-10.0, 7.5)  # range of log b and log c


@flax.struct.dataclass
class State:
    """Five optimizers, or three without an optimist; the targets of the critics lie outside of them."""

    key: jax.Array
    step: jax.Array
    actor: Trainable
    critic: Trainable
    temperature: Trainable  # params: log(alpha), a scalar
    target_critic: Any
    optimist: Trainable | None = None
    weights: Trainable | None = None  # params: {'optimism', 'regularizer'}, scalars before `squash`


@flax.struct.dataclass
class Policy:
    """What `act` reads. noise scales the standard deviation and the optimist's shift: 0 is pi's mode, 1 explores."""

    actor: Any
    optimist: Any
    noise: jax.Array


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """BRO for observations [B, D] and actions [B, action_dim] in [-1, 1]."""
    critic_net = ensemble(BroNet, 2)(config.critic_width, config.critic_depth, config.num_quantiles)
    actor_net = BroNet(config.actor_width, config.actor_depth, 2 * action_dim)
    shift_net = BroNet(config.actor_width, config.actor_depth, action_dim, final_scale=1e-2, final_bias=False)
    adamw = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay))
    adam = optax.scale_by_adam(b1=0.5)

    def critics(params, observations, actions):
        return critic_net.apply(params, jnp.concatenate([observations, actions], axis=-1))  # [2, B, N]

    def actor(params, observations):
        mean, x = jnp.split(actor_net.apply(params, observations), 2, axis=-1)
        return TanhGaussian(mean, squash(x, config.log_std_min, config.log_std_max))

    def shift(params, observations, mean):
        return shift_net.apply(params, jnp.concatenate([observations, mean], axis=-1))

    def narrowed(mean, log_std):
        return TanhGaussian(mean, log_std + math.log(config.std_scale))

    def critic_loss(params, state, batch, key, hparams):
        next_actions, next_log_prob = actor(state.actor.params, batch['next_observations']).sample_and_log_prob(key)
        next_z = critics(state.target_critic, batch['next_observations'], next_actions).mean(axis=0)
        next_z = next_z - jnp.exp(state.temperature.params) * next_log_prob[:, None]
        target = batch['rewards'][:, None] + hparams['discount'] * batch['masks'][:, None] * next_z  # [B, N]
        z = critics(params, batch['observations'], batch['actions'])
        loss, q = quantile_huber(z, target), z.mean(axis=-1)  # params appear in z alone
        return loss, {'critic/loss': loss, 'critic/q_mean': q.mean(), 'critic/q_min': q.min(), 'critic/q_max': q.max()}

    def actor_loss(params, critic_params, log_alpha, batch, key):
        actions, log_prob = actor(params, batch['observations']).sample_and_log_prob(key)
        q = critics(critic_params, batch['observations'], actions).mean(axis=(0, 2))
        loss = jnp.mean(jnp.exp(log_alpha) * log_prob - q)
        return loss, {'actor/loss': loss, 'actor/entropy': -log_prob.mean()}

    def temperature_loss(log_alpha, entropy):
        loss = jnp.exp(log_alpha) * (entropy + 0.5 * action_dim)
        return loss, {'temperature/loss': loss, 'temperature/alpha': jnp.exp(log_alpha)}

    def optimist_loss(params, actor_params, critic_params, weights, batch, key):
        mean, log_std = actor(actor_params, batch['observations'])
        moved = shift(params, batch['observations'], mean)
        z = critics(critic_params, batch['observations'], narrowed(mean + moved, log_std).sample(key))
        kl = 0.5 * jnp.sum(jnp.square(moved * jnp.exp(-log_std)), axis=-1)
        disagreement = 0.5 * jnp.abs(z[0] - z[1])  # quantile by quantile
        b, c = positive(weights['optimism']), positive(weights['regularizer'])
        loss = c * kl.mean() - z.mean() - b * disagreement.mean()
        return loss, {'optimist/loss': loss, 'actor/kl': kl.mean() / action_dim}

    def weights_loss(weights, kl):
        b, c = positive(weights['optimism']), positive(weights['regularizer'])
        return (b - c) * (kl - config.kl_target), {'optimism': b, 'regularizer': c}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank([batch['observations'], batch['actions'], batch['rewards'], batch['masks']], [2, 2, 1, 1])
        reset_key, critic_key, actor_key, optimist_key = jax.random.split(step_key(state), 4)
        if config.reset_steps or config.reset_interval:
            state = reset(state, reset_key, batch)

        grad_critic, metrics = jax.grad(critic_loss, has_aux=True)(
            state.critic.params, state, batch, critic_key, hparams
        )
        critic = descend(state.critic, grad_critic, adamw, hparams['critic_learning_rate'])

        grad_actor, actor_metrics = jax.grad(actor_loss, has_aux=True)(
            state.actor.params, critic.params, state.temperature.params, batch, actor_key
        )
        moved_actor = descend(state.actor, grad_actor, adamw, hparams['actor_learning_rate'])

        grad_temperature, temperature_metrics = jax.grad(temperature_loss, has_aux=True)(
            state.temperature.params, actor_metrics['actor/entropy']
        )
        temperature = descend(state.temperature, grad_temperature, adam, hparams['temperature_learning_rate'])
        metrics |= actor_metrics | temperature_metrics
        gradients, optimist, weights = (grad_critic, grad_actor, grad_temperature), None, None

        if config.optimistic:
            grad_optimist, optimist_metrics = jax.grad(optimist_loss, has_aux=True)(
                state.optimist.params, moved_actor.params, critic.params, state.weights.params, batch, optimist_key
            )
            optimist = descend(state.optimist, grad_optimist, adamw, hparams['actor_learning_rate'])
            grad_weights, weights_metrics = jax.grad(weights_loss, has_aux=True)(
                state.weights.params, optimist_metrics['actor/kl']
            )
            weights = descend(state.weights, grad_weights, adam, config.weights_learning_rate)
            metrics |= optimist_metrics | weights_metrics
            gradients += (grad_optimist, grad_weights)

        metrics['critic/parameter_norm'] = global_norm(critic.params)
        metrics['actor/parameter_norm'] = global_norm(moved_actor.params)
        metrics['critic/gradient_norm'] = global_norm(grad_critic)
        metrics['grad_norm'] = global_norm(gradients)
        target_critic = polyak(critic.params, state.target_critic, hparams['tau'])
        return State(
            state.key, state.step + 1, moved_actor, critic, temperature, target_critic, optimist, weights
        ), metrics

    def td_error(state: State, batch: dict, key: jax.Array, hparams: dict) -> jax.Array:
        return critic_loss(state.critic.params, state, batch, key, hparams)[0]

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        pi = actor(policy.actor, observations)
        if config.optimistic:
            pi = narrowed(pi.mean + policy.noise * shift(policy.optimist, observations, pi.mean), pi.log_std)
        return memory, pi.sample(key, policy.noise)

    def init(key: jax.Array, batch: dict) -> State:
        key, actor_key, critic_key, optimist_key = jax.random.split(key, 4)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        pair = jnp.concatenate([observations, actions], axis=-1)
        critic_params = critic_net.init(critic_key, pair)
        state = State(
            key,
            jnp.zeros((), jnp.int32),
            trainable(actor_net.init(actor_key, observations), adamw),
            trainable(critic_params, adamw),
            trainable(jnp.log(jnp.float32(config.initial_alpha)), adam),
            copy(critic_params),
        )
        if not config.optimistic:
            return state
        weights = {'optimism': config.initial_optimism, 'regularizer': config.initial_regularizer}
        weights = {name: jnp.float32(unsquash(math.log(weight), *LOG_WEIGHT)) for name, weight in weights.items()}
        return state.replace(
            optimist=trainable(shift_net.init(optimist_key, pair), adamw), weights=trainable(weights, adam)
        )

    def reset(state: State, key: jax.Array, batch: dict) -> State:
        """The state, or where a reset is due a new one with its key and step.

        A branch that is not taken still costs up to a copy of the state, and compilation doubles: without resets there
        is none.
        """
        due = jnp.any(state.step == jnp.asarray(config.reset_steps, jnp.int32))
        if config.reset_interval:
            due |= (state.step > 0) & (state.step % config.reset_interval == 0)

        def anew():
            new = init(key, batch).replace(key=state.key, step=state.step)
            return jax.tree.map(lambda new, old: jnp.where(due, new, old), new, state)

        return jax.lax.cond(any_member(due), anew, lambda: state)

    def policy(state: State) -> Policy:
        return Policy(state.actor.params, state.optimist.params if config.optimistic else None, jnp.zeros(()))

    def explore(policy: Policy) -> Policy:
        return policy.replace(noise=jnp.ones(()))

    hparams = {name: float(config[name]) for name in HPARAMS}
    return Learner(init, update, act, policy, hparams, explore=explore, td_error=td_error)


def squash(x: jax.Array, low: float, high: float) -> jax.Array:
    """Any number into (low, high), by tanh."""
    return low + 0.5 * (high - low) * (1.0 + jnp.tanh(x))


def positive(x: jax.Array) -> jax.Array:
    """The weight b or c that the parameter x stands for."""
    return jnp.exp(squash(x, *LOG_WEIGHT))


def unsquash(y: float, low: float, high: float) -> float:
    """The x that `squash` takes to y."""
    return math.atanh(2.0 * (y - low) / (high - low) - 1.0)


@jax.custom_vjp
def quantile_huber(z: jax.Array, target: jax.Array) -> jax.Array:
    """Loss of quantiles z [M, B, N] against samples target [B, K], which has no gradient: a scalar.

    Sum over M and N, mean over B and K, of |tau_j - 1(u < 0)| huber(u), u = target - z.
    """
    return _quantile_huber(z, target)[0]


def _quantile_huber(z: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss, and its gradient [M, B, N].

    One pass over the samples, all quantiles at once, keeps the M * B * N * K pairs out of memory. At the published
    sizes and B = 128 that is 0.7 ms on one CPU core, where the pairs as one array, differentiated, are 50 ms and more.
    """
    levels = (jnp.arange(z.shape[-1])[None, None] + 0.5) / z.shape[-1]

    def add(sums, sample):
        u = sample[None, :, None] - z
        clipped = jnp.clip(u, -1.0, 1.0)
        slope = jnp.where(u < 0, 1.0 - levels, levels) * clipped
        return (sums[0] + slope * (u - 0.5 * clipped), sums[1] + slope), None  # clipped * (u - clipped / 2) is Huber's

    # Unrolled: fewer launches on accelerators.
    (loss, slope), _ = jax.lax.scan(add, (jnp.zeros_like(z), jnp.zeros_like(z)), target.T, unroll=10)
    return loss.sum() / target.size, -slope / target.size


quantile_huber.defvjp(_quantile_huber, lambda gradient, cotangent: (cotangent * gradient, None))


def updates_before(environment_steps: Sequence[int], ratio: int | Fraction, warmup: int) -> tuple[int, ...]:
    """The updates made before those of each environment step: `reset_steps` from a schedule in environment steps.

    ratio: updates an environment step, after `warmup` of them without.
    """
    return tuple(updates_due(step - 1, Fraction(ratio), warmup) for step in environment_steps)


# By name, what differs from `get_config`; a run's ratio and warm-up beside the resets that are counted from them.
RESETS = (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_001, 1_500_001, 2_000_001)  # environment steps
PRESETS = {
    'bro': {'utd': 10.0, 'warmup': 2_500, 'reset_interval': 0, 'reset_steps': updates_before(RESETS, 10, 2_500)},
    'bro_fast': {'utd': 2.0, 'warmup': 2_500, 'reset_interval': 0, 'reset_steps': updates_before(RESETS[:1], 2, 2_500)},
    'bro_minimal': {'optimistic': False, 'reset_interval': 0, 'batch_size': 256},  # the scaling studies' base
}


def get_config() -> ml_collections.ConfigDict:
    """The published settings, but that resets go by updates, as in the scaling studies: no ratio is given here."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'actor_learning_rate': 3e-4,  # Adam's step size: of pi and of the optimist
            'critic_learning_rate': 3e-4,
            'temperature_learning_rate': 3e-4,
            'discount': 0.99,
            'tau': 0.005,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 128,  # transitions an update
            'critic_width': 512,  # of each of two
            'critic_depth': 2,  # residual blocks
            'actor_width': 256,  # of pi and of the optimist
            'actor_depth': 1,
            'num_quantiles': 100,  # of each critic
            'weight_decay': 1e-4,  # AdamW's, of all networks
            'log_std_min': -10.0,  # log_std of pi is squashed into this range
            'log_std_max': 2.0,
            'initial_alpha': 1.0,  # temperature at the start
            'optimistic': True,  # the optimist collects the data; without, pi does
            'std_scale': 0.75,  # the optimist's standard deviation by that of pi
            'kl_target': 0.05,  # of the optimist from pi, nats an action dimension
            'initial_optimism': 1.0,  # b at the start
            'initial_regularizer': 0.25,  # c at the start
            'weights_learning_rate': 3e-5,  # Adam's step size for both
            'reset_interval': 2_500_000,  # updates between resets, of the scaling studies; 0 for none
            'reset_steps': (),  # resets before these updates, counted from 0
        }
    )
