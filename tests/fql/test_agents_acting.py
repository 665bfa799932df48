"""How the agents act: samplers against NumPy loops, the best of N row by row, chunks, evaluating and exploring."""

import jax
import numpy as np
import pytest
from numpy_nets import (
    ACT,
    BATCH,
    OBS,
    actor,
    as_float64,
    batch,
    flow_actions,
    gaussian,
    normal,
    once,
    random_state,
    value,
)

from core_jax import replay
from fql_jax.agents import bc, fawac, fbrac, flow_bc, fql, idql, ifql, iql, rebrac

SEEN = batch()['observations']
KEY = jax.random.key(7)


def agent_in(agent, count=None, seed=0, **fields):
    """(learner, a random state, compiled act)."""
    config = agent.get_config()
    config.update({'hidden_dims': (16,), 'batch_size': BATCH} | fields)
    learner = agent.make(config, ACT)
    return learner, random_state(learner, batch(horizon=count), seed), once(learner.act)


def params_of(policy, name):
    return as_float64(getattr(policy, name))


def best_of(candidates, q):
    """[N, B, A] and [N, B] -> [B, A], in a loop; different rows take different candidates."""
    best = [int(max(range(len(q)), key=lambda n: q[n, i])) for i in range(q.shape[1])]
    assert len(set(best)) > 2
    return np.stack([candidates[n, i] for i, n in enumerate(best)])


# A single sample of a flow


@pytest.mark.parametrize('agent', [flow_bc, fbrac, fawac])
def test_flow_agents_sample_their_flow_always(agent):
    learner, state, act = agent_in(agent, flow_steps=3)
    policy = learner.policy(state)
    _, actions = act(policy, (), SEEN, KEY)
    expected = flow_actions(params_of(policy, 'flow'), SEEN, normal(KEY, BATCH, ACT), 3)
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)
    assert (np.abs(expected) == 1).any() and learner.explore(policy) is policy


# The best of N


def test_ifql_takes_the_best_of_each_row():
    learner, state, act = agent_in(ifql, flow_steps=3, num_samples=6)
    policy = learner.policy(state)
    _, actions = act(policy, (), SEEN, KEY)
    candidates = np.stack([flow_actions(params_of(policy, 'flow'), SEEN, z, 3) for z in normal(KEY, 6, BATCH, ACT)])
    q = np.stack([np.minimum(*value(as_float64(state.nets.params['critic']), SEEN, a)) for a in candidates])
    np.testing.assert_allclose(actions, best_of(candidates, q), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('kind', 'q_agg'), [('onestep', 'min'), ('flow', 'mean')])
def test_fql_takes_the_best_of_each_row(kind, q_agg):
    learner, state, act = agent_in(fql, policy=kind, q_agg=q_agg, act_samples=6, flow_steps=3)
    policy = learner.policy(state)
    _, actions = act(policy, (), SEEN, KEY)
    params = as_float64(state.nets.params)

    def sample(z):
        if kind == 'flow':
            return flow_actions(params['flow'], SEEN, z, 3)
        return np.clip(actor(params['onestep'], SEEN, z), -1, 1)

    candidates = np.stack([sample(z) for z in normal(KEY, 6, BATCH, ACT)])
    aggregate = {'min': np.min, 'mean': np.mean}[q_agg]
    q = np.stack([aggregate(value(params['critic'], SEEN, a), axis=0) for a in candidates])
    np.testing.assert_allclose(actions, best_of(candidates, q), rtol=1e-4, atol=1e-5)
    assert learner.explore(policy) is policy


def test_fql_exports_the_critic_only_where_it_is_asked():
    for kind, samples, critic in (('onestep', 1, None), ('onestep', 2, 'critic'), ('flow', 1, None)):
        learner, state, _ = agent_in(fql, policy=kind, act_samples=samples)
        exported, params = learner.policy(state), state.nets.params
        assert jax.tree.structure(exported) == jax.tree.structure(
            fql.Policy(**{name: params[name] for name in (kind, critic) if name})
        )
    assert 'onestep' not in params


# IDQL: a diffusion model, then the best one or a draw by weight

STEPS = 4


def denoised(params, observations, x, key):
    """Ho et al. 2020, algorithm 2, with variance beta_t and clipped iterates."""
    edges = np.linspace(0, 1, STEPS + 1)
    integral = 0.1 * edges + 9.9 * edges**2 / 2
    alpha, abar = np.exp(-np.diff(integral)), np.exp(-integral[1:])
    for t in range(STEPS, 0, -1):
        predicted = actor(params, observations, x, np.full((len(x), 1), t / STEPS))
        x = (x - (1 - alpha[t - 1]) / np.sqrt(1 - abar[t - 1]) * predicted) / np.sqrt(alpha[t - 1])
        if t > 1:
            x = x + np.sqrt(1 - alpha[t - 1]) * normal(jax.random.fold_in(key, t - 1), *x.shape)
        x = np.clip(x, -1, 1)
    return x


def idql_in(samples, **fields):
    """As `agent_in`, with a calmer denoiser, so that few actions lie at the bounds."""
    learner, state, act = agent_in(idql, diffusion_steps=STEPS, num_samples=samples, **fields)
    params = state.nets.params | {'eps': jax.tree.map(lambda p: 0.3 * p, state.nets.params['eps'])}
    return learner, state.replace(nets=state.nets.replace(params=params)), act


def idql_candidates(state, observations, samples):
    """([N, B, A], their min Q [N, B], V [B])."""
    params = as_float64(state.nets.params)
    start_key, noise_key, _ = jax.random.split(KEY, 3)
    starts, keys = normal(start_key, samples, len(observations), ACT), jax.random.split(noise_key, samples)
    candidates = np.stack([denoised(params['eps'], observations, x, k) for x, k in zip(starts, keys, strict=True)])
    q = np.stack([np.minimum(*value(params['critic'], observations, a)) for a in candidates])
    return candidates, q, value(params['value'], observations)[0]


def test_idql_evaluates_with_the_best_of_each_row():
    learner, state, act = idql_in(6)
    _, actions = act(learner.policy(state), (), SEEN, KEY)
    candidates, q, _ = idql_candidates(state, SEEN, 6)
    np.testing.assert_allclose(actions, best_of(candidates, q), rtol=2e-4, atol=2e-5)


def test_idql_explores_by_the_weights_of_the_expectile():
    """Of two samples, one with Q >= V and one with Q < V, they take expectile : 1 - expectile of the draws."""
    learner, state, act = idql_in(2, expectile=0.8)
    seen = np.repeat(SEEN[:1], 4000, axis=0)
    # V is moved to the middle of the samples' Q.
    candidates, q, v = idql_candidates(state, seen, 2)
    middle = np.median(q - v)
    policy, v = learner.policy(state), v + middle
    bias = policy.value['params']['ensemble']['Dense_1']['bias']
    bias += np.float32(middle)

    _, actions = act(learner.explore(policy), (), seen, KEY)
    is_first, is_second = (np.abs(actions - c).max(-1) < 1e-4 for c in candidates)
    assert (is_first | is_second).all()
    told_apart = is_first != is_second
    good = (q >= v) & told_apart
    mixed = (good[0] != good[1]) & told_apart
    assert mixed.sum() > 800
    assert np.mean(np.where(good[0], is_first, is_second)[mixed]) == pytest.approx(0.8, abs=0.045)
    alike = ((q >= v)[0] == (q >= v)[1]) & told_apart
    assert np.mean(is_first[alike]) == pytest.approx(0.5, abs=0.06)


# Gaussian and deterministic policies


@pytest.mark.parametrize('agent', [iql, bc])
def test_gaussian_policies_evaluate_at_the_mean_and_explore_with_their_deviation(agent):
    learner, state, act = agent_in(agent, std='state')
    policy = learner.policy(state)
    mean, std = gaussian(params_of(policy, 'actor'), SEEN, 'state')
    _, still = act(policy, (), SEEN, KEY)
    np.testing.assert_allclose(still, np.clip(mean, -1, 1), rtol=1e-4, atol=1e-5)
    _, explored = act(learner.explore(policy), (), SEEN, KEY)
    expected = np.clip(mean + std * normal(KEY, BATCH, ACT), -1, 1)
    np.testing.assert_allclose(explored, expected, rtol=1e-4, atol=1e-5)
    assert (np.abs(expected) == 1).any() and (np.abs(expected) < 1).any()


def test_rebrac_explores_with_clipped_noise():
    learner, state, act = agent_in(rebrac, noise=0.4, noise_clip=0.5)
    policy = learner.policy(state)
    mode = np.tanh(actor(params_of(policy, 'actor'), SEEN))
    np.testing.assert_allclose(act(policy, (), SEEN, KEY)[1], mode, rtol=1e-4, atol=1e-5)
    noise = 0.4 * normal(KEY, BATCH, ACT)
    assert (np.abs(noise) > 0.5).any() and (np.abs(mode + noise) > 1).any()
    expected = np.clip(mode + np.clip(noise, -0.5, 0.5), -1, 1)
    np.testing.assert_allclose(act(learner.explore(policy), (), SEEN, KEY)[1], expected, rtol=1e-4, atol=1e-5)


# Chunks


def test_chunks_are_executed_open_loop_and_each_row_plans_for_itself():
    """Row 1's episode ends before step 2: its memory is fresh there, and the others go on."""
    horizon = 3
    learner, state, act = agent_in(fql, count=horizon, horizon=horizon)
    policy, memory, fresh = learner.policy(state), learner.memory(BATCH), learner.memory(BATCH)
    params, rng = params_of(policy, 'onestep'), np.random.default_rng(0)
    plans, used, planned = [None] * BATCH, [horizon] * BATCH, []
    for step in range(8):
        observations, key = rng.normal(size=(BATCH, OBS)).astype(np.float32), jax.random.fold_in(KEY, step)
        if step == 2:
            memory = jax.tree.map(lambda m, f: m.at[1].set(f[1]), memory, fresh)
            used[1] = horizon
        memory, actions = act(policy, memory, observations, key)
        plan = np.clip(actor(params, observations, normal(key, BATCH, horizon * ACT)), -1, 1)
        for i in range(BATCH):
            if used[i] == horizon:
                plans[i], used[i] = plan[i].reshape(horizon, ACT), 0
                planned.append((step, i))
            np.testing.assert_allclose(actions[i], plans[i][used[i]], rtol=1e-4, atol=1e-5)
            used[i] += 1
    assert [[step for step, i in planned if i == row] for row in (0, 1)] == [[0, 3, 6], [0, 2, 5]]


def test_windows_become_long_actions():
    """Against a loop over trajectories: windows that the end cuts, and masks of 0 within them."""
    rng, horizon, discount = np.random.default_rng(0), 3, 0.9
    lengths = (6, 3, 9)
    rows, last = sum(lengths), np.cumsum(lengths) - 1
    actions, rewards = rng.uniform(-1, 1, (rows, ACT)).astype(np.float32), rng.normal(size=rows).astype(np.float32)
    masks = np.float32(rng.uniform(size=rows) > 0.25)
    observations = np.arange(rows, dtype=np.float32)[:, None]
    data = replay.dataset(observations, actions, rewards, masks, np.isin(np.arange(rows), last))
    starts = np.setdiff1d(np.arange(rows), last)
    batch = replay.read(data, np.arange(len(starts)), horizon)
    flat = jax.device_get(fql.flatten_chunks(batch, horizon, np.float32(discount)))
    kinds = set()
    for i, row in enumerate(starts):
        end = min(e for e in last if e >= row)
        steps = range(row, min(row + horizon, end))
        total, factor = 0.0, 1.0
        for step in steps:
            total, factor = total + factor * rewards[step], factor * discount * masks[step]
        n = len(steps)
        assert flat['rewards'][i] == pytest.approx(total, abs=1e-5)
        assert flat['bootstrap'][i] == pytest.approx(factor, abs=1e-6)
        assert flat['complete'][i] == (n == horizon)
        np.testing.assert_array_equal(flat['valid'][i], np.repeat(np.arange(horizon) < n, ACT))
        np.testing.assert_array_equal(flat['actions'][i, : n * ACT], actions[list(steps)].ravel())
        np.testing.assert_array_equal(flat['next_observations'][i], observations[steps[-1] + 1])
        kinds.add((n == horizon, factor > 0))
    assert len(kinds) == 4
