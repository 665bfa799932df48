"""Implicit diffusion Q-learning (IDQL), Hansen-Estruch et al. 2023, arXiv 2304.10573.

IQL's value and critics, a diffusion model (DDPM, Ho et al. 2020, arXiv 2006.11239) that clones the behaviour, and a
choice among its samples:

    L = L_V + L_Q + L_eps                        L_V and L_Q: iql.py
    L_eps   mean_B sum_A (eps(s, sqrt(abar_t) a + sqrt(1 - abar_t) e, t) - e)^2,   e ~ N(0, I),  t uniform in 1..T

    exploring    a sample, drawn with the weights |expectile - 1(Q < V)| that the expectile implies (its eq. 8)
    evaluating   the sample with the highest min_i Q_i

The noise schedule is the variance-preserving one of the IDQL code, for few steps T. The network is the same MLP as in
the other agents with t / T as one more input, where the IDQL code has residual blocks with LayerNorm and Fourier
features. Written from the papers: neither their code nor the settings behind FQL's IDQL column were at hand, so this
column is unverified.

Metrics: those of iql.py without the actor's; actor/diffusion_loss; loss (the sum); grad_norm.
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax.state import Learner, step_key
from fql_jax.agents import iql, parts
from fql_jax.agents.parts import State

HPARAMS = ('learning_rate', 'discount', 'tau')  # the expectile also weighs the samples: it is static here


@flax.struct.dataclass
class Policy:
    """What `act` reads. greedy 1: the best sample; 0: one drawn by weight."""

    eps: Any
    critic: Any
    value: Any
    greedy: jax.Array


def noise_schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(beta [T], abar [T]) of the variance-preserving schedule for beta in 0.1..10 cut into T steps.

    1 - beta_t = exp(-0.1 / T - 0.5 (10 - 0.1) (2 t - 1) / T^2), after Xiao et al. 2021 (arXiv 2112.07804).
    """
    t = np.arange(1, steps + 1)
    alpha = np.exp(-0.1 / steps - 0.5 * 9.9 * (2 * t - 1) / steps**2)
    return (1 - alpha).astype(np.float32), np.cumprod(alpha).astype(np.float32)


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """IDQL for observations [B, D], or images with an encoder, and actions [B, action_dim] in [-1, 1]."""
    value = parts.critic_network(config, 1)
    critic = parts.critic_network(config, 2)
    denoiser = parts.actor_network(config, action_dim)
    steps = config.diffusion_steps
    beta, abar = noise_schedule(steps)

    def diffusion_loss(params, batch, key):
        actions = batch['actions']
        time_key, noise_key = jax.random.split(key)
        t = jax.random.randint(time_key, (len(actions), 1), 0, steps)  # index of abar: the paper's t less 1
        noise = jax.random.normal(noise_key, actions.shape)
        kept = jnp.asarray(abar)[t]
        noisy = jnp.sqrt(kept) * actions + jnp.sqrt(1 - kept) * noise
        predicted = denoiser.apply(params['eps'], batch['observations'], noisy, (t + 1) / steps)
        return jnp.mean(jnp.sum((predicted - noise) ** 2, axis=-1))

    def denoise(params, observations, noise, key):
        """DDPM's ancestral sampling from noise [B, A]; every iterate is clipped to the actions' range."""
        features, x = denoiser.apply(params, observations, method='encode'), noise
        for t in reversed(range(steps)):
            time = jnp.full((len(x), 1), (t + 1) / steps)
            predicted = denoiser.apply(params, features, x, time, method='head')
            x = (x - beta[t] / np.sqrt(1 - abar[t]) * predicted) / np.sqrt(1 - beta[t])
            if t > 0:
                x = x + np.sqrt(beta[t]) * jax.random.normal(jax.random.fold_in(key, t), x.shape)
            x = jnp.clip(x, -1.0, 1.0)
        return x

    def total_loss(params, state, batch, hparams):
        hparams = hparams | {'expectile': config.expectile}
        loss_critic, metrics = iql.value_and_critic_loss(value, critic, params, state, batch, hparams)
        loss_diffusion = diffusion_loss(params, batch, step_key(state))
        loss = loss_critic + loss_diffusion
        return loss, metrics | {'actor/diffusion_loss': loss_diffusion, 'loss': loss}

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        return parts.step(total_loss, state, batch, hparams)

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        start_key, noise_key, choice_key = jax.random.split(key, 3)
        noise = jax.random.normal(start_key, (config.num_samples, len(observations), action_dim))
        keys = jax.random.split(noise_key, config.num_samples)
        actions = jax.vmap(lambda z, k: denoise(policy.eps, observations, z, k))(noise, keys)
        q = parts.q_of_samples(critic, policy.critic, observations, actions).min(axis=0)  # [N, B]
        v = value.apply(policy.value, observations)
        weight = jnp.where(q >= v, config.expectile, 1 - config.expectile)
        gumbel = jax.random.gumbel(choice_key, q.shape)  # the argmax of log weight + Gumbel noise is a draw by weight
        return memory, parts.pick_best(actions, jnp.where(policy.greedy > 0, q, jnp.log(weight) + gumbel))

    def init(key: jax.Array, batch: dict) -> State:
        key, value_key, critic_key, eps_key = jax.random.split(key, 4)
        observations, actions = batch['observations'][:1], batch['actions'][:1]
        params = {
            'value': value.init(value_key, observations),
            'critic': critic.init(critic_key, observations, actions),
            'eps': denoiser.init(eps_key, observations, actions, actions[:, :1]),
        }
        return parts.begin(key, params)

    def policy(state: State) -> Policy:
        params = state.nets.params
        return Policy(params['eps'], params['critic'], params['value'], jnp.ones(()))

    def explore(policy: Policy) -> Policy:
        return policy.replace(greedy=jnp.zeros(()))

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS}, explore=explore)


def get_config() -> ml_collections.ConfigDict:
    """The sizes of FQL and the critic settings of its IQL and IFQL; unverified for IDQL."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for all networks
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'expectile': 0.9,  # of Q over the data's actions
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'encoder': '',  # of images, one a network: impala_small, impala, impala_large, impala_debug
            'critic_layer_norm': True,  # LayerNorm after each activation of value and critics
            'actor_layer_norm': False,  # the same in the diffusion model
            'diffusion_steps': 10,  # T
            'num_samples': 32,  # actions that each decision chooses from
        }
    )
