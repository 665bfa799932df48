"""The losses of the agents beside FQL against NumPy, their gradients against finite differences.

Each loss is written here again from the papers' formulas. The points are nowhere special: targets differ from the
networks, some actions lie beyond the bounds, masks are 0 and 1. A gradient flows through `params` alone; `old` are the
stored parameters, `target` the targets.
"""

from typing import NamedTuple

import jax
import numpy as np
import pytest
import scipy.stats
from numpy_nets import (
    ACT,
    BATCH,
    actor,
    as_float64,
    assert_same,
    batch,
    check_gradients,
    check_metrics,
    check_target,
    flow_actions,
    flow_noise,
    gaussian,
    normal,
    once,
    random_state,
    scalars,
    value,
)

from core_jax.learners import sac
from fql_jax.agents import bc, fawac, fbrac, flow_bc, idql, ifql, iql, rebrac, rlpd

SMALL = {'hidden_dims': (16,), 'batch_size': BATCH}


def settings(agent, **fields):
    config = agent.get_config()
    config.update(SMALL | fields)
    return config


class Case(NamedTuple):
    """One update of an agent, and what the NumPy loss needs to know of it."""

    cfg: object
    state: object
    new: object
    metrics: dict
    b: dict
    h: dict
    key: object

    def check(self, loss, nets='nets'):
        """loss(params, old) -> dict of metrics with 'loss' among them; nets: which optimizer."""
        bundle, moved = getattr(self.state, nets), getattr(self.new, nets)
        old = as_float64(bundle.params)
        check_metrics(self.metrics, loss(old, old))
        check_gradients(lambda params: loss(params, old)['loss'], old, moved.opt_state)
        # Adam's first step has the length of the learning rate.
        step = max(
            np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (bundle.params, moved.params)), strict=True)
        )
        assert step == pytest.approx(self.h['learning_rate'], rel=1e-2)
        assert self.new.step == self.state.step + 1
        if hasattr(self.state, 'target_critic'):  # it follows the parameters from before this step
            online = bundle.params.get('critic', bundle.params)
            check_target(self.state.target_critic, online, self.new.target_critic, self.h['tau'])


def updated(agent, seed=0, **fields):
    cfg = settings(agent, **({'discount': 0.9, 'tau': 0.25} if agent not in (bc, flow_bc) else {}), **fields)
    learner, b = agent.make(cfg, ACT), batch()
    state, h = random_state(learner, b, seed), scalars(learner)
    new, metrics = once(learner.update)(state, b, h)
    return Case(cfg, state, new, jax.device_get(metrics), as_float64(b), h, jax.random.fold_in(state.key, state.step))


def test_the_batch_has_masks_of_both_kinds():
    assert set(batch()['masks']) == set(batch()['next_valid']) == {0, 1}


# Shared terms


def q_metrics(q):
    return {'critic/q_mean': q.mean(), 'critic/q_min': q.min(), 'critic/q_max': q.max()}


def implicit_terms(params, old, target, b, h):
    """IQL's critic half: the value's expectile loss, the SUM over both critics."""
    u = value(target, b['observations'], b['actions']).min(0) - value(params['value'], b['observations'])[0]
    assert (u > 0).any() and (u < 0).any()
    loss_value = np.mean([(h['expectile'] if x >= 0 else 1 - h['expectile']) * x**2 for x in u])
    y = b['rewards'] + h['discount'] * b['masks'] * value(old['value'], b['next_observations'])[0]
    q = value(params['critic'], b['observations'], b['actions'])
    loss_critic = np.mean((q[0] - y) ** 2 + (q[1] - y) ** 2)
    v = value(params['value'], b['observations'])
    return {'value/loss': loss_value, 'value/v': v.mean(), 'critic/loss': loss_critic} | q_metrics(q)


def flow_errors(params, b, noise):
    """[B, A], before any mean."""
    x0, t = noise
    x1 = b['actions']
    return (actor(params, b['observations'], (1 - t) * x0 + t * x1, t) - (x1 - x0)) ** 2


# The agents


@pytest.mark.parametrize(('loss', 'std'), [('awr', 'constant'), ('ddpgbc', 'constant'), ('ddpgbc', 'state')])
def test_iql(loss, std):
    case = updated(iql, seed=10, actor_loss=loss, std=std, alpha=5.0, expectile=0.8)
    b, h, target = case.b, case.h, as_float64(case.state.target_critic)
    noise = normal(case.key, BATCH, ACT)

    def actions_of(params):
        mean, deviation = gaussian(params['actor'], b['observations'], std)
        return np.clip(mean + (deviation * noise if std == 'state' else 0), -1, 1)

    def total(params, old):
        terms = implicit_terms(params, old, target, b, h)
        mean, deviation = gaussian(params['actor'], b['observations'], std)
        log_prob = scipy.stats.norm(mean, deviation).logpdf(b['actions']).sum(-1)
        # The critics themselves, not their targets.
        smaller_q = value(old['critic'], b['observations'], b['actions']).min(0)
        advantage = smaller_q - value(old['value'], b['observations'])[0]
        if loss == 'awr':
            weights = np.exp(h['alpha'] * advantage)
            assert (weights > 100).any() and (weights < 100).any()
            loss_actor = -np.mean(np.minimum(weights, 100) * log_prob)
        else:
            q = value(old['critic'], b['observations'], actions_of(params)).min(0)
            frozen = value(old['critic'], b['observations'], actions_of(old)).min(0)
            loss_actor = -q.mean() / np.abs(frozen).mean() - h['alpha'] * log_prob.mean()
        terms |= {'actor/loss': loss_actor, 'actor/advantage': advantage.mean()}
        terms['actor/mse'] = np.mean((mean - b['actions']) ** 2)
        return terms | {'loss': terms['value/loss'] + terms['critic/loss'] + loss_actor}

    case.check(total)
    assert (np.abs(actions_of(as_float64(case.state.nets.params))) == 1).any()


def test_ifql():
    case = updated(ifql, expectile=0.8)
    b, target = case.b, as_float64(case.state.target_critic)
    noise = flow_noise(case.key)

    def total(params, old):
        terms = implicit_terms(params, old, target, b, case.h)
        terms['actor/flow_loss'] = flow_errors(params['flow'], b, noise).mean()
        return terms | {'loss': terms['value/loss'] + terms['critic/loss'] + terms['actor/flow_loss']}

    case.check(total)


def variance_preserving(steps):
    """(beta, abar) of dx = -beta(s) x / 2 ds + ..., beta(s) = 0.1 + 9.9 s on [0, 1], cut into equal steps."""
    edges = np.linspace(0, 1, steps + 1)
    integral = 0.1 * edges + 9.9 * edges**2 / 2
    return 1 - np.exp(-np.diff(integral)), np.exp(-integral[1:])


@pytest.mark.parametrize('steps', [1, 5, 10])
def test_idql_noise_schedule(steps):
    for ours, expected in zip(idql.noise_schedule(steps), variance_preserving(steps), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_idql():
    case = updated(idql, expectile=0.8, diffusion_steps=5)
    b, target = case.b, as_float64(case.state.target_critic)
    time_key, noise_key = jax.random.split(case.key)
    index = np.asarray(jax.random.randint(time_key, (BATCH, 1), 0, 5))
    assert {0, 4} <= set(index.ravel())  # the first and the last step are among them
    abar, noise = variance_preserving(5)[1][index], normal(noise_key, BATCH, ACT)

    def total(params, old):
        terms = implicit_terms(params, old, target, b, case.h | {'expectile': 0.8})
        noisy = np.sqrt(abar) * b['actions'] + np.sqrt(1 - abar) * noise
        error = actor(params['eps'], b['observations'], noisy, (index + 1) / 5) - noise
        terms['actor/diffusion_loss'] = (error**2).sum(-1).mean()  # a sum over the action dimensions
        return terms | {'loss': terms['value/loss'] + terms['critic/loss'] + terms['actor/diffusion_loss']}

    case.check(total)


def test_fbrac_gradient_runs_through_all_euler_steps():
    case = updated(fbrac, q_agg='min', normalize_q_loss=True, alpha=0.5, flow_steps=3)
    b, h, target = case.b, case.h, as_float64(case.state.target_critic)
    critic_key, flow_key, q_key = jax.random.split(case.key, 3)
    next_noise, noise = normal(critic_key, BATCH, ACT), normal(q_key, BATCH, ACT)

    def total(params, old):
        next_actions = flow_actions(old['flow'], b['next_observations'], next_noise, 3)
        next_q = np.minimum(*value(target, b['next_observations'], next_actions))
        q = value(params['critic'], b['observations'], b['actions'])
        loss_critic = np.mean((q - b['rewards'] - h['discount'] * b['masks'] * next_q) ** 2)
        terms = q_metrics(q) | {'critic/loss': loss_critic}
        terms['actor/flow_loss'] = flow_errors(params['flow'], b, flow_noise(flow_key)).mean()
        actions = flow_actions(params['flow'], b['observations'], noise, 3)
        q = value(old['critic'], b['observations'], actions).mean(0)
        frozen = flow_actions(old['flow'], b['observations'], noise, 3)
        normalizer = np.abs(value(old['critic'], b['observations'], frozen).mean(0)).mean()
        terms |= {'actor/q': q.mean(), 'actor/q_loss': -q.mean() / normalizer}
        # alpha multiplies the cloning loss.
        return terms | {'loss': loss_critic + h['alpha'] * terms['actor/flow_loss'] + terms['actor/q_loss']}

    case.check(total)
    acted = flow_actions(as_float64(case.state.nets.params['flow']), b['observations'], noise, 3)
    assert (np.abs(acted) == 1).any() and (np.abs(acted) < 1).any()


def test_fawac():
    case = updated(fawac, inv_temp=5.0, flow_steps=3)
    b, h, target = case.b, case.h, as_float64(case.state.target_critic)
    critic_key, flow_key = jax.random.split(case.key)

    def total(params, old):
        v, q_target = value(params['value'], b['observations'])[0], value(target, b['observations'], b['actions'])
        terms = {'value/loss': np.mean((v - q_target.mean(0)) ** 2), 'value/v': v.mean()}
        next_actions = flow_actions(old['flow'], b['next_observations'], normal(critic_key, BATCH, ACT), 3)
        next_q = value(target, b['next_observations'], next_actions).mean(0)
        q = value(params['critic'], b['observations'], b['actions'])
        terms |= q_metrics(q) | {'critic/loss': np.mean((q - b['rewards'] - h['discount'] * b['masks'] * next_q) ** 2)}
        # As stored: neither the critics nor the value feel the weights.
        q = value(old['critic'], b['observations'], b['actions']).mean(0)
        weights = np.exp(h['inv_temp'] * (q - value(old['value'], b['observations'])[0]))
        assert (weights > 100).any() and (weights < 100).any()
        weights = np.minimum(weights, 100)
        errors = flow_errors(params['flow'], b, flow_noise(flow_key)).mean(-1)
        terms |= {'actor/weight': weights.mean(), 'actor/flow_loss': np.mean(weights * errors)}
        return terms | {'loss': terms['value/loss'] + terms['critic/loss'] + terms['actor/flow_loss']}

    case.check(total)


def test_flow_bc():
    case = updated(flow_bc)
    noise = flow_noise(case.key)
    case.check(lambda params, old: {'loss': flow_errors(params, case.b, noise).mean()}, 'flow')


def test_bc():
    case = updated(bc, std='constant')

    def total(params, old):
        mean, deviation = gaussian(params, case.b['observations'], 'constant')
        loss = -scipy.stats.norm(mean, deviation).logpdf(case.b['actions']).sum(-1).mean()
        return {'loss': loss, 'mse': np.mean((mean - case.b['actions']) ** 2), 'std': deviation.mean()}

    case.check(total, 'actor')


# ReBRAC: two optimizers, and updates of two kinds


def rebrac_losses(case):
    """(L_Q(params), L_pi(params)) of an update."""
    cfg, b, h, state = case.cfg, case.b, case.h, case.state
    target_critic, target_actor = as_float64((state.target_critic, state.target_actor))
    noise = np.clip(cfg.noise * normal(case.key, BATCH, ACT), -cfg.noise_clip, cfg.noise_clip)
    assert (np.abs(noise) == cfg.noise_clip).any()

    def critic(params, old):
        unclipped = np.tanh(actor(target_actor, b['next_observations'])) + noise
        assert (np.abs(unclipped) > 1).any() and (np.abs(unclipped) < 1).any()
        next_actions = np.clip(unclipped, -1, 1)
        distance = ((next_actions - b['next_actions']) ** 2).sum(-1)  # a sum over the action dimensions
        if not cfg.released:
            distance = np.where(b['next_valid'] > 0, distance, 0)
        next_q = value(target_critic, b['next_observations'], next_actions)
        y = b['rewards'] + h['discount'] * b['masks'] * (np.minimum(*next_q) - h['alpha_critic'] * distance)
        q = value(params, b['observations'], b['actions'])
        loss = np.mean((q - y) ** 2)
        return q_metrics(q) | {'critic/loss': loss, 'loss': loss}

    stored = as_float64(state.critic.params)

    def policy(params, old):
        def smaller_q(params):
            return np.minimum(*value(stored, b['observations'], np.tanh(actor(params, b['observations']))))

        q = smaller_q(params)
        cloning = ((np.tanh(actor(params, b['observations'])) - b['actions']) ** 2).sum(-1).mean()
        loss = -q.mean() / np.abs(smaller_q(old)).mean() + h['alpha_actor'] * cloning
        return {'actor/q': q.mean(), 'actor/bc_loss': cloning, 'actor/loss': loss, 'loss': loss}

    return critic, policy


@pytest.fixture(scope='module', params=[False, True], ids=['paper', 'released'])
def rebrac_updates(request):
    """A full update (the 6th), and after it one that leaves policy and targets alone."""
    fields = {'noise': 1.0, 'alpha_actor': 0.7, 'alpha_critic': 0.3, 'discount': 0.9, 'tau': 0.25}
    cfg = settings(rebrac, released=request.param, **fields)
    learner, b = rebrac.make(cfg, ACT), batch()
    state, h, update = random_state(learner, b), scalars(learner), once(learner.update)
    cases = []
    for _ in range(2):
        new, metrics = update(state, b, h)
        cases.append(Case(cfg, state, new, metrics, as_float64(b), h, jax.random.fold_in(state.key, state.step)))
        state = new
    return cases


def test_rebrac_full_update(rebrac_updates):
    case, _ = rebrac_updates
    for name, loss in zip(('critic', 'actor'), rebrac_losses(case), strict=True):
        loss_alone = lambda *args, loss=loss: loss(*args)['loss']  # noqa: E731
        old = as_float64(getattr(case.state, name).params)
        check_metrics(case.metrics, {k: v for k, v in loss(old, old).items() if k != 'loss'})
        check_gradients(lambda p, f=loss_alone, old=old: f(p, old), old, getattr(case.new, name).opt_state)
        online, moved = getattr(case.state, name).params, getattr(case.new, f'target_{name}')
        check_target(getattr(case.state, f'target_{name}'), online, moved, 0.25)


def test_rebrac_other_updates_move_the_critics_alone(rebrac_updates):
    _, case = rebrac_updates
    for name, loss in zip(('critic', 'actor'), rebrac_losses(case), strict=True):
        old = as_float64(getattr(case.state, name).params)
        check_metrics(case.metrics, {k: v for k, v in loss(old, old).items() if k != 'loss'})
        assert_same(getattr(case.state, f'target_{name}'), getattr(case.new, f'target_{name}'))
    before, after = case.state.critic, case.new.critic
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True))

    if not case.cfg.released:
        assert_same(case.state.actor, case.new.actor)
        return
    # One Adam for all: the policy's gradient is zero, its moments decay and move it on. This is Adam's second step.
    adam, rate = case.state.actor.opt_state, case.h['learning_rate']
    for m, v, old, new in zip(
        *map(jax.tree.leaves, (adam.mu, adam.nu, case.state.actor.params, case.new.actor.params)), strict=True
    ):
        step = rate * (0.9 * m / (1 - 0.9**2)) / (np.sqrt(0.999 * v / (1 - 0.999**2)) + 1e-8)
        np.testing.assert_allclose(new, old - step, rtol=1e-5, atol=1e-7)
        assert (new != old).any()


def test_rlpd_is_sac_with_the_settings_of_the_release():
    config = rlpd.get_config()
    assert rlpd.make is sac.make and config.hidden_dims == (512,) * 4
    expected = {
        'activation': 'gelu',
        'critic_layer_norm': True,
        'num_critics': 2,
        'log_std_min': -5.0,
        'log_std_max': 2.0,
        'initial_alpha': 1.0,
        'target_entropy': 'half',
        'temperature_loss': 'alpha',
        'target_agg': 'min',
        'actor_agg': 'mean',
        'backup_entropy': False,
        'tau': 0.005,
        'batch_size': 256,
    }
    assert {name: config[name] for name in expected} == expected
    assert {config[f'{name}_learning_rate'] for name in ('actor', 'critic', 'temperature')} == {3e-4}
    assert rlpd.RUN == {'steps': 0, 'online_steps': 1_000_000, 'balanced_sampling': True}
