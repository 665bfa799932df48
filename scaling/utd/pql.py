"""Parallel Q-learning (PQL) and PQL-D, Li et al. 2023, arXiv 2307.12983, as one learner without processes of its own.

A deterministic policy mu(s) (tanh at its end) and two critics Q_i(s, a) with target copies Qbar_i; there is no target
policy. With the n-step return R, the discount b of its bootstrap and a' = clip(mu(s') + clip(0.8 z, -0.2, 0.2), -1, 1),
where z ~ N(0, 1):

    J_V     sum_i mean_B (Q_i(s, a_data) - R - b * min_i Qbar_i(s', a'))^2
    J_P     -mean_B min_i Q_i(s, mu(s))

PQL-D (`distributional`): Q_i = sum_k z_k p_ik, p_i(s, a) a distribution over K atoms z. Pi moves the mass that the
target copies put on z_k to R + b * z_k and shares it among the nearest atoms (C51), and J_V is a binary cross-entropy
of every atom:

    y_k     min_i (Pi pbar_i(s', a'))_k              of each atom, so that the y_k may add up to less than 1
    J_V     -sum_i mean_{B,K} y_k log p_ik + (1 - y_k) log(1 - p_ik)

The three processes of the release (github.com/Improbable-AI/pql, the source of all that is said of it here) become a
driver that calls `act` and `update` in fixed ratios. Each update is one of the V learner; every `critic_per_actor`-th
is one of the P learner too, on the same batch (the release draws another one), which climbs the moved critics. `stale`
has both learners see copies of the other's network as they were when the super-step of `critic_per_step` updates began.

Differences that are meant. Windows end where episodes do and bootstrap with discount^(steps taken); the release clears
the end of a truncated episode, its windows run on into the next one, and all are discounted by discount^n. Observations
are normalised by the mean and variance of the batches' observations, here and in `act` clipped to [-5, 5]; the release
takes the observations that the environments show, and does not clip where it acts. Networks are initialised as
elsewhere in this project.

Metrics, means over the batch: critic/loss; critic/q_mean, q_min, q_max of Q(s, a_data); critic/parameter_norm and
actor/parameter_norm (2-norms, after the update); actor/loss of the latest P update, 0 before the first; grad_norm
(2-norm of the gradients that this update followed, before they are clipped).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from core_jax import replay
from core_jax.networks import MLP, ensemble
from core_jax.state import Learner, Trainable, any_member, copy, descend, global_norm, polyak, step_key, trainable

HPARAMS = ('actor_learning_rate', 'critic_learning_rate', 'discount', 'tau')


@flax.struct.dataclass
class Statistics:
    """Mean and variance [D] of the observations of all batches so far."""

    mean: jax.Array
    variance: jax.Array


@flax.struct.dataclass
class State:
    """Two optimizers; the targets of the critics, and the copies of `stale`, lie outside of them."""

    key: jax.Array
    step: jax.Array
    actor: Trainable
    critic: Trainable
    target_critic: Any
    statistics: Statistics
    actor_loss: jax.Array  # of the latest P update: most updates have none, and a mean of zeros would mislead
    stale_actor: Any = None
    stale_critic: Any = None


@flax.struct.dataclass
class Policy:
    """What `act` reads. noise scales the standard deviations of the rows: 0 evaluates, 1 explores."""

    actor: Any
    statistics: Statistics
    noise: jax.Array


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """PQL for observations [B, D] and actions in [-1, 1].

    Batches hold windows of n = `horizon` steps (`core_jax.replay.sample_chunks`, `sample_rows`): observations [B, D] at
    the first, actions [B, n, action_dim], of which the first is Q's, rewards, masks and valid [B, n], next_observations
    [B, D] after the last valid step. With horizon 1 they hold transitions: actions [B, action_dim], rewards and masks
    [B].
    """
    hidden = tuple(config.hidden_dims)
    critic_net = ensemble(MLP, 2)((*hidden, config.num_atoms if config.distributional else 1), activation=nn.elu)
    actor_net = MLP((*hidden, action_dim), activation=nn.elu, final_scale=1e-2)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(),
        optax.add_decayed_weights(config.weight_decay),
    )

    def normalize(statistics: Statistics, observations):
        if not config.normalize_observations:
            return observations
        centred = observations - statistics.mean[None]
        return jnp.clip(centred / jnp.sqrt(statistics.variance[None] + 1e-4), -5.0, 5.0)

    def actor(params, observations):
        return jnp.tanh(actor_net.apply(params, observations))

    def critics(params, observations, actions):
        return critic_net.apply(params, jnp.concatenate([observations, actions], axis=-1))  # [2, B, K], or [2, B, 1]

    def atoms():
        return jnp.linspace(config.v_min, config.v_max, config.num_atoms)

    def q_values(outputs):
        return nn.softmax(outputs) @ atoms() if config.distributional else outputs.squeeze(-1)  # [2, B]

    # The losses; observations are normalised already

    def critic_loss(params, state, batch, key):
        following, stepped = batch['next_observations'], batch['returns']
        noise = config.target_std * jax.random.normal(key, batch['actions'].shape)
        noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
        policy = state.stale_actor if config.stale else state.actor.params
        next_actions = jnp.clip(actor(policy, following) + noise, -1.0, 1.0)
        next_outputs = critics(state.target_critic, following, next_actions)
        outputs = critics(params, batch['observations'], batch['actions'])  # params appear here alone
        q = q_values(outputs)
        if config.distributional:
            projected = project(nn.softmax(next_outputs), stepped, batch['bootstrap'], atoms())
            loss = binary_cross_entropy(outputs, projected.min(axis=0)).mean(axis=(1, 2)).sum()
        else:
            target = stepped + batch['bootstrap'] * q_values(next_outputs).min(axis=0)  # [B]
            loss = jnp.mean((q - target[None]) ** 2, axis=1).sum()
        return loss, {'critic/loss': loss, 'critic/q_mean': q.mean(), 'critic/q_min': q.min(), 'critic/q_max': q.max()}

    def actor_loss(params, critic_params, observations):
        return -q_values(critics(critic_params, observations, actor(params, observations))).min(axis=0).mean()

    # The learner

    def prepare(batch: dict, statistics: Statistics, discount) -> dict:
        """Normalised observations, Q's actions [B, A], and the target's returns and bootstrap [B]."""
        ranks = [1, 1, 2] if config.horizon == 1 else [2, 2, 3]
        chex.assert_rank([batch['observations'], batch['rewards'], batch['masks'], batch['actions']], [2, *ranks])
        if config.horizon == 1:
            actions, returns, bootstrap = batch['actions'], batch['rewards'], discount * batch['masks']
        else:
            actions = batch['actions'][:, 0]
            returns, bootstrap = replay.n_step(batch['rewards'], batch['masks'], batch['valid'], discount)
        observations = {k: normalize(statistics, batch[k]) for k in ('observations', 'next_observations')}
        return observations | {'actions': actions, 'returns': config.reward_scale * returns, 'bootstrap': bootstrap}

    def refresh(state: State) -> State:
        """New copies where a super-step begins."""
        if not config.stale:
            return state
        begins = state.step % config.critic_per_step == 0
        actor, critic = jax.tree.map(
            lambda current, stale: jnp.where(begins, current, stale),
            (state.actor.params, state.critic.params),
            (state.stale_actor, state.stale_critic),
        )
        return state.replace(stale_actor=actor, stale_critic=critic)

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        state = refresh(state)
        statistics = observe(state.statistics, batch['observations'], state.step)
        batch = prepare(batch, statistics, hparams['discount'])

        grad_critic, metrics = jax.grad(critic_loss, has_aux=True)(state.critic.params, state, batch, step_key(state))
        critic = descend(state.critic, grad_critic, optimizer, hparams['critic_learning_rate'])

        def climb():
            climbed = state.stale_critic if config.stale else critic.params
            loss, gradient = jax.value_and_grad(actor_loss)(state.actor.params, climbed, batch['observations'])
            moved = descend(state.actor, gradient, optimizer, hparams['actor_learning_rate'])
            # A frozen member stands at a step of its own: whose turn it is not, rests.
            return jax.tree.map(partial(jnp.where, turn), (moved, loss, global_norm(gradient)), rest())

        def rest():
            return state.actor, state.actor_loss, jnp.zeros_like(state.actor_loss)

        turn = (state.step + 1) % config.critic_per_actor == 0
        moved_actor, loss, actor_norm = jax.lax.cond(any_member(turn), climb, rest)

        metrics |= {
            'critic/parameter_norm': global_norm(critic.params),
            'actor/parameter_norm': global_norm(moved_actor.params),
            'actor/loss': loss,
            'grad_norm': jnp.hypot(global_norm(grad_critic), actor_norm),
        }
        state = state.replace(
            step=state.step + 1,
            actor=moved_actor,
            critic=critic,
            target_critic=polyak(critic.params, state.target_critic, hparams['tau']),
            statistics=statistics,
            actor_loss=loss,
        )
        return state, metrics

    def td_error(state: State, batch: dict, key: jax.Array, hparams: dict) -> jax.Array:
        """J_V on any batch, by the state's own statistics."""
        return critic_loss(state.critic.params, state, prepare(batch, state.statistics, hparams['discount']), key)[0]

    def act(policy: Policy, memory: tuple, observations: jax.Array, key: jax.Array) -> tuple[tuple, jax.Array]:
        # Row i is always environment i of S and keeps its standard deviation, from std_min (a single one's) to std_max.
        std = jnp.linspace(config.std_min, config.std_max, len(observations))[:, None]
        actions = actor(policy.actor, normalize(policy.statistics, observations))
        noise = policy.noise * std * jax.random.normal(key, actions.shape)
        return memory, jnp.clip(actions + noise, -1.0, 1.0)

    def init(key: jax.Array, batch: dict) -> State:
        key, actor_key, critic_key = jax.random.split(key, 3)
        observations, actions = batch['observations'][:1], jnp.zeros((1, action_dim))
        actor_params = actor_net.init(actor_key, observations)
        critic_params = critic_net.init(critic_key, jnp.concatenate([observations, actions], axis=-1))
        return State(
            key,
            jnp.zeros((), jnp.int32),
            trainable(actor_params, optimizer),
            trainable(critic_params, optimizer),
            copy(critic_params),
            Statistics(jnp.zeros(observations.shape[1]), jnp.ones(observations.shape[1])),
            jnp.zeros(()),
            copy(actor_params) if config.stale else None,
            copy(critic_params) if config.stale else None,
        )

    def policy(state: State) -> Policy:
        return Policy(state.actor.params, state.statistics, jnp.zeros(()))

    def explore(policy: Policy) -> Policy:
        return policy.replace(noise=jnp.ones(()))

    hparams = {name: float(config[name]) for name in HPARAMS}
    return Learner(init, update, act, policy, hparams, explore=explore, td_error=td_error)


def observe(statistics: Statistics, observations: jax.Array, batches: jax.Array) -> Statistics:
    """The statistics of one more batch [B, D] after `batches` of the same size (Chan, Golub and LeVeque 1979)."""
    share = 1.0 / (batches + 1.0)
    shift = observations.mean(axis=0) - statistics.mean
    variance = statistics.variance + share * (observations.var(axis=0) - statistics.variance)
    return Statistics(statistics.mean + share * shift, variance + share * (1.0 - share) * shift**2)


def project(probabilities: jax.Array, returns: jax.Array, bootstrap: jax.Array, atoms: jax.Array) -> jax.Array:
    """The distributions of returns + bootstrap * Z on the atoms of Z: Bellemare et al. 2017, arXiv 1707.06887, eq. 7.

    probabilities [N, B, K], returns and bootstrap [B], atoms [K], evenly spaced -> [N, B, K]. Mass goes to the two
    nearest atoms, in proportion to how near they are; what falls outside goes to the outermost one.
    """
    count = atoms.shape[0]
    moved = jnp.clip(returns[:, None] + bootstrap[:, None] * atoms[None], atoms[0], atoms[-1])
    places = (moved - atoms[0]) / (atoms[-1] - atoms[0]) * (count - 1)  # [B, K], in atoms

    def share(total, atom):
        mass, place = atom  # [N, B], [B]
        shares = jnp.clip(1.0 - jnp.abs(place[:, None] - jnp.arange(count, dtype=place.dtype)[None]), 0.0, 1.0)
        return total + mass[..., None] * shares[None], None

    # One atom after the other: all shares at once are [B, K, K], and a scatter adds in no fixed order on a GPU.
    masses = jnp.moveaxis(probabilities, -1, 0)
    return jax.lax.scan(share, jnp.zeros_like(probabilities), (masses, places.T))[0]


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """-y log p - (1 - y) log(1 - p) of each atom, p = softmax(logits): [N, B, K] and [B, K] -> [N, B, K]."""
    log_p = nn.log_softmax(logits)
    # p = 1 to the last bit would give log(0); from 1 - 1e-7 on, log(1 - p) is taken as constant.
    log_rest = jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-7)))
    return -target[None] * log_p - (1.0 - target[None]) * log_rest


def get_config() -> ml_collections.ConfigDict:
    """The published settings."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'actor_learning_rate': 5e-4,  # AdamW's step size, one for each optimizer
            'critic_learning_rate': 5e-4,
            'discount': 0.99,
            'tau': 0.05,  # rate of the target critics
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 8192,  # windows an update
            'horizon': 3,  # steps of a window, n of the n-step return
            'hidden_dims': (512, 256, 128),  # of every network, with ELU
            'weight_decay': 1e-2,  # of every parameter, times the learning rate
            'max_grad_norm': 0.5,  # gradients of each optimizer are clipped to this 2-norm
            'reward_scale': 1.0,  # of the targets; the release has 0.01 to 1, by task
            'normalize_observations': True,  # by their running mean and variance
            'target_std': 0.8,  # of the noise on the target's action
            'target_noise_clip': 0.2,  # and what it is clipped to
            'std_min': 0.05,  # of the exploration noise in the first environment
            'std_max': 0.8,  # and in the last one, linear between them
            'critic_per_actor': 2,  # V updates a P update
            'critic_per_step': 8,  # V updates a super-step, at whose start the copies of `stale` are made
            'stale': False,  # each learner sees a copy of the other's network
            'distributional': False,  # PQL-D
            'num_atoms': 51,  # of PQL-D, evenly from v_min to v_max: discounted, scaled returns should lie between
            'v_min': -10.0,
            'v_max': 10.0,
        }
    )
