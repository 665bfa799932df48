"""Flow Q-learning (FQL), Park, Li and Levine 2025, arXiv 2502.02538, and what composes with it.

Three networks: a critic ensemble Q_i(s, a), a flow policy v(s, x, t) that clones the behaviour, and a one-step policy
mu(s, z) that is distilled from the flow and alone sees the critic, so no gradient runs through the ODE.

    L = L_critic + L_flow + alpha * L_distill + L_Q

    L_critic   mean_{i,B} (Q_i(s, a) - r - discount * mask * agg_i Qbar_i(s', clip mu(s', z')))^2
    L_flow     mean_{B,A} |v(s, x_t, t) - (a - x_0)|^2
    L_distill  mean_{B,A} |mu(s, z) - clip Euler(v)(s, z)|^2          same z for teacher and student
    L_Q        -mean_B mean_i Q_i(s, clip mu(s, z))

Options, each off by default:

    pessimism          agg is mean - pessimism * std over the ensemble (ten critics and 0.5 in arXiv 2601.14234, QAM)
    horizon h > 1      actions are chunks of h, executed open loop, with h-step targets (Q-chunking, arXiv 2507.07969)
    policy 'flow'      no one-step policy: L = L_critic + L_flow, and the flow's own samples act
    *_samples N > 1    of N samples the one with the highest Q acts, or gives the target's next action

Horizon 5 is QC-FQL; horizon 5 with the flow and 32 samples in both places is QC; horizon 1 with 4 is BFN.

Metrics, means over the batch: critic/loss; critic/q_mean, q_min, q_max of Q(s, a) on data; actor/flow_loss;
actor/distill_loss (how far the one-step policy is from the flow); actor/q_loss; actor/q (value of the policy's own
actions); loss (the sum above); grad_norm (2-norm of all gradients).
"""

from __future__ import annotations

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp
import ml_collections

from core_jax import flow, replay
from core_jax.state import Learner, step_key
from fql_jax.agents import parts
from fql_jax.agents.parts import State, aggregate

HPARAMS = ('learning_rate', 'alpha', 'discount', 'tau', 'pessimism')


@flax.struct.dataclass
class Policy:
    """What `act` reads: the one-step policy or the flow, and the critic where it picks among samples."""

    onestep: Any = None
    flow: Any = None
    critic: Any = None


def make(config: ml_collections.ConfigDict, action_dim: int) -> Learner:
    """FQL for observations [B, D], or images [B, H, W, C] with an encoder, and actions [B, action_dim] in [-1, 1].

    With horizon h > 1, batches have windows (`core_jax.replay.sample_chunks`): actions [B, h, action_dim].
    """
    horizon, chunk_dim = config.horizon, config.horizon * action_dim
    critic = parts.critic_network(config, config.num_critics)
    velocity = parts.actor_network(config, chunk_dim)
    onestep = parts.actor_network(config, chunk_dim)

    # The policy

    def flow_actions(params, observations, noise):
        return parts.flow_actions(velocity, params, observations, noise, config.flow_steps)

    def onestep_actions(params, observations, noise):
        return jnp.clip(onestep.apply(params, observations, noise), -1.0, 1.0)

    def base_actions(policy: Policy, observations, noise):
        if config.policy == 'flow':
            return flow_actions(policy.flow, observations, noise)
        return onestep_actions(policy.onestep, observations, noise)

    def select(params, samples) -> Policy:
        """What a decision among so many samples reads of the parameters."""
        return Policy(**{name: params[name] for name in (config.policy, 'critic')[: 1 + (samples > 1)]})

    def policy_actions(policy: Policy, observations, key, samples):
        """A sample of the policy [B, hA]; of several, the one with the highest Q."""
        shape = (len(observations), chunk_dim)
        if samples == 1:
            return base_actions(policy, observations, jax.random.normal(key, shape))
        noise = jax.random.normal(key, (samples, *shape))
        candidates = jax.vmap(lambda z: base_actions(policy, observations, z))(noise)
        q = parts.q_of_samples(critic, policy.critic, observations, candidates)
        return parts.pick_best(candidates, aggregate(q, config.q_agg))

    # The losses

    def critic_loss(params, state, batch, key, hparams):
        # The next action is the current policy's: there is no target actor and no entropy term.
        stored, following = state.nets.params, batch['next_observations']
        policy = select(stored, config.target_samples)
        next_actions = policy_actions(policy, following, key, config.target_samples)
        next_q = critic.apply(state.target_critic, following, next_actions)
        target = batch['rewards'] + batch['bootstrap'] * aggregate(next_q, config.q_agg, hparams['pessimism'])  # [B]
        q = critic.apply(params['critic'], batch['observations'], batch['actions'])  # [num_critics, B]
        return parts.td_loss(q, target, batch['complete'])

    def flow_loss(params, batch, key):
        x_t, t, target = flow.training_pairs(key, batch['actions'])
        predicted = velocity.apply(params['flow'], batch['observations'], x_t, t)
        return jnp.mean(batch['valid'] * (predicted - target) ** 2)

    def distill_and_q_loss(params, state, batch, key):
        observations = batch['observations']
        noise = jax.random.normal(key, batch['actions'].shape)
        teacher = flow_actions(state.nets.params['flow'], observations, noise)
        student = onestep.apply(params['onestep'], observations, noise)
        distill = jnp.mean((student - teacher) ** 2)  # only the teacher is clipped

        # Stored critic parameters: the gradient reaches the action alone. Always the mean, whatever q_agg says.
        q = critic.apply(state.nets.params['critic'], observations, jnp.clip(student, -1.0, 1.0)).mean(axis=0)
        q_loss = -q.mean()
        if config.normalize_q_loss:
            q_loss = q_loss / jax.lax.stop_gradient(jnp.abs(q).mean())
        return distill, q_loss, q.mean()

    def total_loss(params, state, batch, hparams):
        critic_key, flow_key, actor_key = jax.random.split(step_key(state), 3)
        loss_critic, metrics = critic_loss(params, state, batch, critic_key, hparams)
        loss_flow = flow_loss(params, batch, flow_key)
        loss, actor_metrics = loss_critic + loss_flow, {'flow_loss': loss_flow}
        if config.policy == 'onestep':
            distill, loss_q, q = distill_and_q_loss(params, state, batch, actor_key)
            loss = loss + hparams['alpha'] * distill + loss_q
            actor_metrics |= {'distill_loss': distill, 'q_loss': loss_q, 'q': q}
        return loss, metrics | {f'actor/{name}': value for name, value in actor_metrics.items()} | {'loss': loss}

    # The learner

    def update(state: State, batch: dict, hparams: dict) -> tuple[State, dict]:
        chex.assert_rank(batch['observations'], parts.rank_of_observations(config))
        batch = flatten_chunks(batch, horizon, hparams['discount'])
        return parts.step(total_loss, state, batch, hparams)

    def act(policy: Policy, memory: Any, observations: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        # Always sampled, in evaluation too.
        def plan():
            return policy_actions(policy, observations, key, config.act_samples)

        if horizon == 1:
            return memory, plan()
        # A row plans anew when its chunk is used up.
        over = memory['used'] == horizon
        chunks = jax.lax.cond(
            over.any(), lambda: jnp.where(over[:, None], plan(), memory['chunks']), lambda: memory['chunks']
        )
        used = jnp.where(over, 0, memory['used'])
        steps = chunks.reshape(len(observations), horizon, action_dim)
        actions = jnp.take_along_axis(steps, used[:, None, None], axis=1)[:, 0]
        return {'chunks': chunks, 'used': used + 1}, actions

    def memory(batch_size: int) -> Any:
        if horizon == 1:
            return ()
        return {'chunks': jnp.zeros((batch_size, chunk_dim)), 'used': jnp.full((batch_size,), horizon, jnp.int32)}

    def init(key: jax.Array, batch: dict) -> State:
        key, critic_key, flow_key, onestep_key = jax.random.split(key, 4)
        observations, actions = batch['observations'][:1], batch['actions'][:1].reshape(1, chunk_dim)
        params = {
            'critic': critic.init(critic_key, observations, actions),
            'flow': velocity.init(flow_key, observations, actions, actions[:, :1]),
        }
        if config.policy == 'onestep':
            params['onestep'] = onestep.init(onestep_key, observations, actions)
        return parts.begin(key, params)

    def policy(state: State) -> Policy:
        return select(state.nets.params, config.act_samples)

    return Learner(init, update, act, policy, {name: float(config[name]) for name in HPARAMS}, memory)


def flatten_chunks(batch: dict, horizon: int, discount: jax.Array) -> dict:
    """A batch of windows as one of long actions, and what the losses read beside it.

    actions [B, hA]; rewards and bootstrap [B], of the target rewards + bootstrap * V(s'); valid [B, hA], 1 for actions
    within the trajectory; complete [B], 1 where the whole window is: Q is trained on those rows alone.
    """
    if horizon == 1:
        return batch | {'bootstrap': discount * batch['masks'], 'valid': 1.0, 'complete': 1.0}
    size, _, action_dim = batch['actions'].shape
    rewards, bootstrap = replay.n_step(batch['rewards'], batch['masks'], batch['valid'], discount)
    return batch | {
        'actions': batch['actions'].reshape(size, horizon * action_dim),
        'rewards': rewards,
        'bootstrap': bootstrap,
        'valid': jnp.repeat(batch['valid'], action_dim, axis=1),
        'complete': batch['valid'][:, -1],
    }


def get_config() -> ml_collections.ConfigDict:
    """The published settings."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars, what the members of a population may differ in.
            'learning_rate': 3e-4,  # Adam's step size, for all networks
            'alpha': 10.0,  # weight of the distillation loss, the one knob per task (3 to 30000; see tasks.py)
            'discount': 0.99,  # 0.995 for antmaze-giant, humanoidmaze and antsoccer
            'tau': 0.005,  # rate of the target critic
            'pessimism': 0.0,  # standard deviations over the critics that the target lies below their mean
            # Shapes and switches: static, a change compiles anew.
            'batch_size': 256,  # transitions an update
            'hidden_dims': (512, 512, 512, 512),  # of every network
            'encoder': '',  # of images, one a network: impala_small, impala, impala_large, impala_debug
            'num_critics': 2,  # size of the critic ensemble
            'critic_layer_norm': True,  # LayerNorm after each activation of the critic
            'actor_layer_norm': False,  # the same in the flow and the one-step policy
            'flow_steps': 10,  # Euler steps of the teacher
            'q_agg': 'mean',  # over the target critics: mean, or min (antmaze-large and -giant, Adroit)
            'normalize_q_loss': False,  # divide L_Q by mean |Q|; then alpha is 0.03 to 10
            'horizon': 1,  # actions a decision: above 1, chunks executed open loop
            'policy': 'onestep',  # what acts: the one-step policy, or the flow itself
            'act_samples': 1,  # of so many samples the one with the highest Q acts
            'target_samples': 1,  # and gives the target's next action
        }
    )
