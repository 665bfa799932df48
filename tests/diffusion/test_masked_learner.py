"""Masked denoisers: the losses in NumPy, learning against exact conditionals, likelihood bounds, guidance."""

import itertools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from core_jax.errors import UserError
from core_jax.state import step_key
from diffusion_jax import process as processes
from diffusion_jax.models import masked, masked_learner, networks, table

TINY = {'kind': 'transformer', 'width': 16, 'layers': 0, 'heads': 1}  # quick to compile


def config(**fields):
    made = masked_learner.get_config()
    made.network = ml_collections.ConfigDict(TINY)
    made.update({'batch_size': 16, 'warmup': 0} | fields)
    return made


def markov(length, size, seed=0, concentration=0.3):
    """A prior over strings: an order-1 chain with peaked rows [size, size, ...]."""
    rng = np.random.default_rng(seed)
    rows, start = rng.dirichlet([concentration] * size, size), np.full(size, 1 / size)
    prior = start.reshape(size, *[1] * (length - 1))
    for i in range(1, length):
        prior = prior * rows.reshape(*[1] * (i - 1), size, size, *[1] * (length - 1 - i))
    return 0.98 * prior + 0.02 / prior.size  # every string has some mass


def log_softmax(x):
    x = x.astype(np.float64)
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


# The losses


@pytest.mark.parametrize('masking', ['mdlm', 'oaardm'])
def test_the_loss_is_the_papers_in_numpy(key, masking):
    settings = config(tokens=5, masking=masking)
    learner, network = masked_learner.make(settings), masked_learner.network_of(settings)
    tokens = np.random.default_rng(0).integers(0, 5, (16, 7)).astype(np.int8)
    state = jax.jit(learner.init)(key, {'tokens': jnp.asarray(tokens)})
    hidden, weight = map(np.asarray, masked_learner.MASKINGS[masking](step_key(state), 16, 7))
    x = np.where(hidden, 5, tokens)
    log_p = log_softmax(np.asarray(jax.jit(network.apply)(state.net.params, jax.nn.one_hot(x, 6))))
    expected = 0.0
    for b, i in itertools.product(range(16), range(7)):
        if hidden[b, i]:
            expected -= weight[b] * log_p[b, i, tokens[b, i]] / (16 * 7)
    _, metrics = jax.jit(learner.update)(state, {'tokens': jnp.asarray(tokens)}, learner.hparams)
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)


def test_mdlm_masks_the_log_linear_share_and_weighs_by_one_over_t(key):
    hidden, weight = masked_learner.mdlm(key, 4096, 50)
    t = 1 / np.asarray(weight)
    assert t.min() >= 1e-3 and t.max() <= 1.0
    # Low discrepancy: one t in each of 4096 equal intervals.
    assert len(np.unique(np.floor((t - 1e-3) / (1 - 1e-3) * 4096 - 1e-6))) > 4000
    # -d sigma / (e^sigma - 1) of sigma = -log(1 - (1 - eps) t) is 1 / t, and a share 1 - e^-sigma is masked.
    sigma = -np.log1p(-(1 - masked.EPSILON) * t)
    rate = (1 - masked.EPSILON) / (1 - (1 - masked.EPSILON) * t)
    np.testing.assert_allclose(rate / np.expm1(sigma), weight, rtol=2e-3)  # float32 near t = 1
    share, count = np.asarray(hidden).sum(1), 50 * (1 - np.exp(-sigma))
    assert np.abs((share - count).mean()) < 4 * np.sqrt((count * (1 - count / 50)).sum()) / 4096


def test_oaardm_masks_n_positions_for_each_n_and_each_set_alike(key):
    hidden, weight = masked_learner.oaardm(key, 4000, 4)
    n = np.asarray(hidden).sum(1)
    np.testing.assert_allclose(weight, 4 / n)
    assert np.bincount(n, minlength=5).tolist() == [0, 1000, 1000, 1000, 1000]  # each n once in every four rows
    pairs = np.asarray(hidden)[n == 2] @ [1, 2, 4, 8]
    counts = np.bincount(pairs)[[3, 5, 6, 9, 10, 12]]
    assert counts.sum() == 1000 and np.abs(counts - 1000 / 6).max() < 5 * np.sqrt(1000 / 6)


def test_spread_uniforms_stay_below_one():
    drawn = jax.vmap(lambda k: masked_learner.even(k, 8))(jax.random.split(jax.random.key(1), 500))
    assert drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.01)
    assert (masked_learner.counts(jnp.array([0.0, 0.5, 1.0]), 10) == jnp.array([1, 6, 10])).all()


# An update


def test_an_update_clips_warms_up_and_averages(key):
    settings = config(tokens=3, clip=1e-3, warmup=10, weight_decay=0.1, ema=0.5)
    learner = masked_learner.make(settings)
    batch = {'tokens': jax.random.randint(key, (16, 6), 0, 3)}
    state = jax.jit(learner.init)(key, batch)
    update, hparams = jax.jit(learner.update), learner.hparams
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.adamw(3e-4 / 10, weight_decay=0.1))

    def loss(params):
        hidden, weight = masked_learner.mdlm(step_key(state), 16, 6)
        x = jax.nn.one_hot(jnp.where(hidden, 3, batch['tokens']), 4)
        log_p = jax.nn.log_softmax(masked_learner.network_of(settings).apply(params, x))
        picked = jnp.take_along_axis(log_p, batch['tokens'][..., None], -1)[..., 0]
        return -jnp.mean(weight[:, None] * hidden * picked)

    params = state.net.params

    @jax.jit
    def reference(params):
        directions, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
        return optax.apply_updates(params, directions)

    expected = reference(params)
    moved, metrics = update(state, batch, hparams)
    assert metrics['grad_norm'] > 1e-3  # as it was before the clip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), moved.net.params, expected)
    # The first average is of decay (1 + 0) / (10 + 0).
    moved, before = jax.tree.map(np.asarray, (moved.replace(key=0), params))
    average = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, moved.net.params, before)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), learner.policy(moved), average)
    late, _ = update(moved.replace(key=state.key, step=jnp.int32(100_000)), batch, hparams)
    late = jax.tree.map(np.asarray, late.replace(key=0))
    average = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, late.net.params, moved.ema)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), learner.policy(late), average)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="did you mean 'mdlm'"):
        masked_learner.make(config(masking='mldm'))
    with pytest.raises(UserError, match="did you mean 'cnn'"):
        masked_learner.make(config(network={'kind': 'cn'}))


# Learning


@pytest.fixture(scope='module')
def chain():
    return markov(4, 3)


def every_state(length, size):
    return np.array(list(itertools.product(range(size + 1), repeat=length)), np.int8)


@pytest.mark.slow
@pytest.mark.parametrize('masking', ['mdlm', 'oaardm'])
def test_the_denoiser_learns_the_conditionals_of_a_markov_chain(chain, masking):
    settings = config(tokens=3, masking=masking, batch_size=128, learning_rate=6e-3, ema=0.99)
    settings.network = {'kind': 'cnn', 'hidden': 16, 'stacks': 1}
    learner = masked_learner.make(settings)
    strings = every_state(4, 2)
    rng = np.random.default_rng(1)
    data = jnp.asarray(strings[rng.choice(81, 20_000, p=chain.ravel() / chain.sum())])

    @jax.jit
    def train(state):
        def one(state, _):
            index = jax.random.randint(jax.random.fold_in(step_key(state), 7), (128,), 0, len(data))
            return learner.update(state, {'tokens': data[index]}, learner.hparams)[0], None

        return jax.lax.scan(one, state, None, 500)[0]

    state = train(jax.jit(learner.init)(jax.random.key(3), {'tokens': data[:128]}))
    model = masked_learner.process(masked_learner.network_of(settings), learner.policy(state), length=4, tokens=3)
    exact, states = table.make(chain), jnp.asarray(every_state(4, 3))
    truth = np.asarray(exact.denoise(exact.params, states, 0))
    learned = np.asarray(jax.jit(processes.denoise)(model, states, 0))
    # Averaged over x_0 from the chain and all sets of masked positions.
    weight = np.where(np.asarray(states) == 3, table.extended(chain).reshape(-1, 1), 0.0)
    weight /= weight.sum()
    divergence = (weight * (np.exp(truth) * (truth - learned)).sum(-1)).sum()
    ignorant = (weight * (np.exp(truth) * (truth - truth[-1:])).sum(-1)).sum()  # of a model blind to its input
    assert ignorant > 0.2 and divergence < 0.01, (ignorant, divergence)
    # Whole designs of both samplers are distributed as the chain is.
    for sampler in (model, masked.grid(model.params, model.denoise, length=4, mask=3, steps=32)):
        drawn = np.asarray(jax.jit(processes.sample)(sampler, jax.random.split(jax.random.key(5), 4000)))
        assert drawn.max() < 3
        found = np.bincount(drawn @ [27, 9, 3, 1], minlength=81) / 4000
        assert 0.5 * np.abs(found - chain.ravel()).sum() < 0.12


# The likelihood's bound


def exact_bound(log_p, design, mask):
    """L E_n E_M (1 / n) sum_M log p, over all sets M. log_p(x [N, L]) -> [N, L, V]."""
    length, total = len(design), 0.0
    for n in range(1, length + 1):
        sets = list(itertools.combinations(range(length), n))
        for chosen in sets:
            x = np.array(design)
            x[list(chosen)] = mask
            out = np.asarray(log_p(jnp.asarray(x[None], jnp.int8)))[0]
            total += sum(out[i, design[i]] for i in chosen) / n / len(sets)
    return total  # L * (1 / L) sum over n


def test_the_bound_is_the_likelihood_for_an_exact_denoiser(key, chain):
    prior = table.make(chain)
    bound = masked_learner.bound(prior, 3, samples=4)
    designs = jnp.asarray([[0, 1, 2, 0], [2, 2, 2, 2], [1, 0, 0, 1]], jnp.int8)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: bound(prior.params, k, designs)))(jax.random.split(key, 2000)))
    truth = np.asarray(prior.log_likelihood(prior.params, key, designs))
    error = drawn.std(0) / np.sqrt(2000)
    assert (np.abs(drawn.mean(0) - truth) < 4 * error + 1e-5).all()
    assert error.max() < 0.1


def test_the_bound_is_below_the_likelihood_for_another_denoiser(key, chain):
    other = table.make(markov(4, 3, seed=1))
    wrong = masked.one_position(other.params, lambda p, x, level: 0.5 * other.denoise(p, x, level), length=4, mask=3)
    normalised = wrong.replace(denoise=lambda p, x, level: jax.nn.log_softmax(wrong.denoise(p, x, level)))
    design = np.array([0, 1, 2, 0], np.int8)
    expected = exact_bound(lambda x: normalised.denoise(other.params, x, 0), design, 3)
    assert expected < np.asarray(other.log_likelihood(other.params, key, design[None]))[0]
    for samples in (1, 7):
        bound = masked_learner.bound(normalised, 3, samples)
        many = jax.jit(jax.vmap(lambda k, bound=bound: bound(other.params, k, jnp.asarray(design[None]))))
        drawn = np.asarray(many(jax.random.split(key, 3000)))
        assert abs(drawn.mean() - expected) < 4 * drawn.std() / np.sqrt(3000)


def test_a_designs_bound_depends_on_the_key_alone(key):
    network = networks.Transformer(3, 16, 0, 1)
    params = jax.jit(network.init)(key, jnp.zeros((1, 5, 4)))
    model = masked_learner.process(network, params, length=5, tokens=3, samples=8, micro=4)
    designs = jax.random.randint(key, (6, 5), 0, 3).astype(jnp.int8)
    likelihood = jax.jit(model.log_likelihood)
    together, alone = likelihood(params, key, designs), likelihood(params, key, designs[2:3])
    assert together[2] == alone[0] and jnp.isfinite(together).all()
    assert (likelihood(params, key, designs) == together).all()


# The process


def test_rows_do_not_depend_on_how_many_there_are(key):
    network = networks.DilatedCNN(4, 16, 1)
    params = jax.jit(network.init)(key, jnp.zeros((1, 20, 5)))
    model = masked_learner.process(network, params, length=20, tokens=4, micro=8)
    x = jax.random.randint(key, (19, 20), 0, 5).astype(jnp.int8)
    together = jax.jit(processes.denoise)(model, x, 0)
    alone = jax.jit(processes.denoise)(model, x[11:12], 0)
    assert together.dtype == jnp.float32 and (together[11] == alone[0]).all()
    np.testing.assert_allclose(jnp.exp(together).sum(-1), 1.0, rtol=1e-5)


def test_tokens_beyond_the_alphabet_are_never_drawn(key):
    """EvoDiff's layout: 20 amino acids, mask 28, 31 inputs and outputs."""
    network = networks.ByteNet(31, 16, 1)
    params = jax.jit(network.init)(key, jnp.zeros((1, 9, 31)))
    keys = jax.random.split(key, 64)
    for steps in (0, 3):
        model = masked_learner.process(network, params, length=9, tokens=20, mask=28, inputs=31, steps=steps, samples=3)

        @jax.jit
        def run(model, keys):
            designs = processes.sample(model, keys)
            x, last = designs.at[:, 3].set(28), model.steps - 1
            out = processes.denoise(model, x, last)
            y = jax.vmap(model.step, (0, 0, 0, None))(keys, x, out, last)
            log_p = jax.vmap(model.log_step, (0, 0, None, 0))(x, out, last, y)
            return designs, log_p, model.log_likelihood(model.params, key, designs)

        designs, log_p, likelihood = run(model, keys)
        assert designs.shape == (64, 9) and designs.max() < 20 and designs.min() >= 0
        assert np.isfinite(log_p).all() and np.isfinite(likelihood).all()
    with pytest.raises(UserError, match='must not decrease'):
        masked_learner.process(network, params, length=9, tokens=20, mask=19)


def test_relaxed_states_agree_with_tokens(key):
    network = networks.Transformer(4, 16, 0, 1)
    params = jax.jit(network.init)(key, jnp.zeros((1, 12, 5)))
    model = masked_learner.process(network, params, length=12, tokens=4)
    x = jax.random.randint(key, (3, 12), 0, 5).astype(jnp.int8)
    soft = jax.vmap(model.soften)(x)

    @jax.jit
    def look(x):
        out = processes.denoise(model, x, 0)
        return out, jax.vmap(model.mode, (0, 0, None))(x, out, 0)

    (out, hard), (soft_out, expected) = look(x), look(soft)
    np.testing.assert_allclose(soft_out, out, atol=1e-5)
    np.testing.assert_allclose(expected.sum(-1), 1.0, rtol=1e-5)  # [3, 12, 4]
    assert (expected.argmax(-1) == hard).all()
    shown = np.asarray(x) < 4
    assert (np.asarray(expected)[shown] == np.eye(4)[np.asarray(x)[shown]]).all()


def test_guidance_tilts_by_the_gain_of_each_token(key):
    """A linear reward, a denoiser that does not look at its input: the first order is exact, q exp(s r_k) / Z."""
    rewards, logits = jax.random.normal(key, (6, 4)), jax.random.normal(jax.random.key(1), (6, 4))

    def denoise(params, x, level):
        return jnp.broadcast_to(jax.nn.log_softmax(logits), (x.shape[0], 6, 4))

    model = masked.one_position({}, denoise, length=6, mask=4, **masked.relaxation(4))
    x = jnp.asarray([4, 0, 4, 4, 2, 4], jnp.int8)
    out = denoise({}, x[None], 0)[0]

    def value(soft):
        return (model.mode(soft, denoise({}, soft[None], 0)[0], 0) * rewards).sum()

    slope = jax.jit(jax.grad(value))(model.soften(x))
    guided = model.guide(x, out, 3.0 * slope, 0)
    expected = jax.nn.softmax(out + 3.0 * rewards)
    np.testing.assert_allclose(jnp.exp(guided), expected, rtol=1e-5)
    mean = (jnp.exp(out) * rewards).sum(-1)
    np.testing.assert_allclose(slope[:, :4] - slope[:, 4:], rewards - mean[:, None], atol=1e-6)
