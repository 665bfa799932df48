"""The laws against naive code, published coefficients, and curves from known laws."""

import numpy as np
import pytest

from scaling.utd import example
from scaling.utd.analysis import average, choose_thresholds, fit_curves
from scaling.utd.budget import cheapest_allocation, cheapest_sigma, extrapolate, sigma_grid
from scaling.utd.choices import budget, hyperparameters
from scaling.utd.crossings import (
    best_values,
    bootstrap_crossings,
    crossings,
    isotonic,
    outside_reset_dips,
)
from scaling.utd.data_law import DataLaw, fit_batch_size_law, fit_data_law, optimal_allocation
from scaling.utd.power_laws import (
    Line,
    fit_power_law,
    log_line,
    round_batch_size,
    round_learning_rate,
    separate_slopes,
    shared_slope,
)

# arXiv 2502.04327 as released (qscaled, saved fits to three decimals): (a, b, c) of c + (sigma / b)^-a for each J.
DMC = [0.876, 0.317, 0.216, 0.855, 0.360, 0.302, 0.893, 0.392, 0.390, 0.963, 0.420, 0.490, 0.917, 0.480, 0.547]
DMC += [0.968, 0.505, 0.640, 1.002, 0.516, 0.764, 1.147, 0.493, 0.921, 1.133, 0.534, 1.001, 1.090, 0.574, 1.100]
GYM = [0.757, 0.118, 0.319, 0.824, 0.190, 0.370, 0.783, 0.270, 0.409, 0.752, 0.357, 0.470, 0.745, 0.464, 0.528]
GYM += [0.691, 0.669, 0.565, 0.701, 0.910, 0.667, 0.580, 1.591, 0.659, 0.756, 1.628, 0.899, 0.700, 2.290, 1.031]
DMC_BATCH = [Line(-0.48793, b) for b in (2.72250, 2.76674, 2.10034, 2.78011, 2.64581, 2.72949, 2.46955)]
GYM_BATCH = [Line(-0.30961, b) for b in (2.61892, 2.61491, 2.49577, 2.50892)]


def published(fits, scale, lines, model_size, delta, highest):
    exponent, scale_sigma, floor = np.reshape(fits, (-1, 3)).T
    optima = cheapest_sigma(
        lambda sigma: scale * (floor + (sigma[:, None] / scale_sigma) ** -exponent),
        sigma_grid(0.25, highest),
        lambda sigma: np.mean([line(sigma) for line in lines], axis=0),
        model_size,
        delta,
    )
    return optima, extrapolate(optima.budget, optima.sigma)


def test_published_exponent_of_dmc():
    """The authors' notebook prints sigma* = 3.01e11 F^-0.74 (with their coefficients in full: 3.02e11, -0.738)."""
    optima, fit = published(DMC, 7.254e4, DMC_BATCH, 4.92e6, 1e10, 8)
    assert fit.line.slope == pytest.approx(-0.738, rel=0.01)
    assert 10**fit.line.intercept == pytest.approx(3.02e11, rel=0.02)
    np.testing.assert_allclose(optima.budget[[0, -1]], [1.24e15, 3.81e15], rtol=0.01)
    np.testing.assert_allclose(fit.errors[-1], -0.07, atol=0.01)


def test_exponent_of_gym_has_the_other_sign():
    """No published figure is known; this is what the released Gym coefficients give: 2.63e-9 F^+0.620."""
    _, fit = published(GYM, 2.105e5, GYM_BATCH, 1.5e5, 4e9, 16)
    assert fit.line.slope == pytest.approx(0.620, rel=0.01)
    assert 10**fit.line.intercept == pytest.approx(2.63e-9, rel=0.02)


def naive_isotonic(values):
    """Pool adjacent violators, on lists."""
    blocks = []
    for value in values:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks.pop(-2), blocks.pop(-1)
            blocks.append([(a * n + b * m) / (n + m), n + m])
    return np.concatenate([[value] * count for value, count in blocks])


@pytest.mark.parametrize('kind', ['normal', 'ties', 'falling', 'constant', 'single'])
def test_isotonic_and_crossings_equal_naive_code(kind):
    rng = np.random.default_rng(0)
    for _ in range(50):
        curve = {
            'normal': rng.normal(size=30).cumsum(),
            'ties': rng.integers(0, 4, size=30).astype(float),
            'falling': -np.arange(8.0),
            'constant': np.full(8, 2.0),
            'single': rng.normal(size=1),
        }[kind]
        fit = naive_isotonic(curve)
        np.testing.assert_allclose(isotonic(curve), fit, atol=1e-12)
        # Whole numbers are exact in floating point, so thresholds may equal values of the fit there.
        thresholds = np.arange(-1.0, 6.0) if kind in ('ties', 'constant') else rng.normal(size=9) * 4
        steps = np.arange(len(curve)) * 10.0 + 10
        naive = [next((x for x, y in zip(steps, fit, strict=True) if y >= j - 1e-9), np.nan) for j in thresholds]
        np.testing.assert_array_equal(crossings(steps, curve, thresholds), naive)


def test_a_threshold_never_reached_is_nan():
    np.testing.assert_array_equal(crossings([1, 2, 3], np.array([0.0, 5, 1]), np.array([0, 3, 3.1])), [1, 2, np.nan])


def test_bootstrap_equals_a_loop():
    rng = np.random.default_rng(3)
    returns = rng.normal(size=(6, 40)).cumsum(axis=1) + np.arange(40)
    steps, thresholds = np.arange(40) * 5.0, np.array([5.0, 20.0, 60.0])
    drawn = np.random.default_rng(7).integers(6, size=(25, 6))
    loop = [
        [
            next((x for x, y in zip(steps, naive_isotonic(returns[d].mean(0)), strict=True) if y >= j), np.nan)
            for j in thresholds
        ]
        for d in drawn
    ]
    np.testing.assert_array_equal(bootstrap_crossings(steps, returns, thresholds, 25, seed=7), loop)


def test_reset_dips_are_left_out():
    curve = np.array([1.0, 2, 3, 0, 1, 3, 4, 1, 2])
    keep = outside_reset_dips(np.arange(9), curve, [2, 6])
    np.testing.assert_array_equal(keep, [1, 1, 1, 0, 0, 1, 1, 0, 0])
    assert crossings(np.arange(9), curve, np.array([3.0]))[0] != 2  # the dip delays it
    assert crossings(np.arange(9)[keep], curve[keep], np.array([3.0]))[0] == 2


def test_best_values_average_over_the_other_and_over_resamples():
    cells = {
        (32, 1.0): [5.0, 9, np.nan], (64, 1.0): [6, 8, np.nan], (128, 1.0): [7, 7, np.nan],
        (32, 2.0): [3, 3, 3], (128, 2.0): [4, 2, np.nan],
        (64, 3.0): [0, 0, 0],  # nothing to choose from
    }  # fmt: skip
    cells = {pair: np.array(times) for pair, times in cells.items()}
    value, resampled = best_values(cells, arithmetic=True)
    assert value == np.mean([32, 128, 32, 128, 32])  # a resample in which nothing crosses does not count
    np.testing.assert_allclose(resampled, [32, 128, 32])
    assert best_values(cells)[0] == pytest.approx(np.exp(np.log([32, 128, 32, 128, 32]).mean()))
    assert best_values({(32, 1.0): np.ones(3)}) is None
    assert best_values({(b, 1.0): np.full(3, np.nan) for b in (32, 64)}) is None


def test_slopes_equal_polyfit_and_dummies():
    rng = np.random.default_rng(0)
    x, task = np.array([1, 2, 4, 8, 1, 4, 8.0]), np.array(['a'] * 4 + ['b'] * 3)
    y = np.exp(rng.normal(size=(5, 7)))
    design = np.column_stack([np.log10(x), task == 'a', task == 'b'])
    expected = np.linalg.lstsq(design, np.log10(y).T, rcond=None)[0]
    lines = shared_slope(x, y, task)
    np.testing.assert_allclose([lines['a'].slope, lines['a'].intercept, lines['b'].intercept], expected)
    own = separate_slopes(x, y[0], task)['b']
    np.testing.assert_allclose(own, np.polyfit(np.log10(x[4:]), np.log10(y[0, 4:]), 1))
    released = separate_slopes(x, y[0], task, released=True)['a']
    np.testing.assert_allclose(released, np.polyfit(np.log10(x[:3]), np.log10(y[0, :3]), 1))
    np.testing.assert_allclose(
        log_line(x[:4], y[:, :4]).slope[2], np.polyfit(np.log10(x[:4]), np.log10(y[2, :4]), 1)[0]
    )


def test_proposals_are_rounded_as_published():
    """cheetah-run, from its coefficients: 1152, 576, 304 and 144; 1.07e-3 to 2.83e-4."""
    batch, rate = Line(-0.48793, 2.76674), Line(-0.32028, -3.16252)
    assert [round_batch_size(batch(s)) for s in (0.25, 1, 4, 16)] == [1152, 576, 304, 144]
    assert [round_learning_rate(rate(s)) for s in (0.25, 1, 4, 16)] == [1.07e-3, 6.88e-4, 4.41e-4, 2.83e-4]
    assert round_batch_size(3) == 16


@pytest.mark.parametrize('objective', ['log', 'linear'])
@pytest.mark.parametrize(('floor', 'alpha', 'at_one'), [(8e4, 1.09, 5e4), (2e5, 0.7, 4e5), (0.0, 0.5, 1e5)])
def test_power_law_is_recovered(objective, floor, alpha, at_one):
    sigma = np.array([0.25, 0.5, 1, 2, 4, 8])
    law = fit_power_law(sigma, floor + at_one * sigma**-alpha, objective=objective)
    np.testing.assert_allclose(law(sigma), floor + at_one * sigma**-alpha, rtol=0.01)
    if floor:
        np.testing.assert_allclose(law[:2], [floor, alpha], rtol=0.05)
    np.testing.assert_allclose(law.beta**law.alpha, at_one, rtol=0.05)


def joint(alpha=0.6, beta=0.4):
    thresholds = np.linspace(300, 700, 6)
    height = np.linspace(0, 1, 6)
    return DataLaw(thresholds, 10.5 + height, 11.0 + height, alpha, 16.0 + height, beta, np.zeros(0))


def test_joint_law_is_recovered_with_missing_cells():
    truth = joint()
    sigma, size = (x.ravel() for x in np.meshgrid([1, 2, 4, 8.0], [2e5, 6e5, 2e6, 8e6, 3e7]))
    data = truth(sigma, size) * np.exp(0.01 * np.random.default_rng(0).normal(size=(20, 6)))
    data[3, 4:] = np.nan
    law = fit_data_law(data, truth.thresholds, sigma, size)
    np.testing.assert_allclose([law.alpha, law.beta], [0.6, 0.4], rtol=0.1)
    np.testing.assert_allclose(law(3.0, 5e6), truth(3.0, 5e6), rtol=0.03)
    np.testing.assert_allclose(law(16.0, 1.4e8), truth(16.0, 1.4e8), rtol=0.1)
    again = fit_data_law(data, truth.thresholds, sigma, size)
    np.testing.assert_array_equal(law.raw, again.raw)


def test_allocation_is_the_optimum():
    """No other pair with the same data has a smaller sigma N; and no pair at all a smaller budget."""
    law = joint()
    data = 2 * law.d_min
    sigma, size = optimal_allocation(law, data)
    np.testing.assert_allclose(law(sigma, size).diagonal(), data)
    other = sigma[0] * np.geomspace(0.2, 5, 2001)
    rest = data[0] - law.d_min[0] - np.exp(law.log_sigma_term[0]) * other**-law.alpha
    needed = np.exp((law.log_size_term[0] - np.log(rest[rest > 0])) / law.beta)
    assert (other[rest > 0] * needed).min() >= sigma[0] * size[0] * (1 - 1e-9)
    best = cheapest_allocation(law, 1280.0, 1e10)
    grid_s, grid_n = np.meshgrid(
        best.sigma[2] * np.geomspace(0.1, 10, 81), best.model_size[2] * np.geomspace(0.1, 10, 81)
    )
    needed = law(grid_s, grid_n)[..., 2]
    assert (1280.0 * grid_s * grid_n * needed + 1e10 * needed).min() >= best.budget[2] * (1 - 1e-4)


def test_batch_size_law_is_recovered():
    sigma, size = (x.ravel() for x in np.meshgrid([1, 2, 4, 8.0], [2e5, 6e5, 2e6, 8e6, 3e7]))
    truth = 1160 * sigma**-0.49 / (1 + 277 * size**-0.38)  # arXiv 2508.14881, appendix D.1: humanoid-stand
    law = fit_batch_size_law(sigma, size, truth)
    np.testing.assert_allclose(law(sigma, size), truth, rtol=1e-3)
    np.testing.assert_allclose([law.alpha, law.beta], [0.49, 0.38], rtol=0.02)


@pytest.mark.parametrize('alpha', [0.5, 0.8, 1.2])
def test_curves_from_a_known_law(alpha):
    runs = example.make_runs((0.25, 0.5, 1, 2, 4, 8), (128,), (6e-4,), alpha=alpha, noise=0.02, seeds=8)
    for i, own in enumerate(runs.curves):  # without the penalty of a fixed batch size and learning rate
        needed = example.data_needed(own.key.sigma, np.linspace(0, 990, 400), alpha)
        noise = np.random.default_rng(i).normal(size=(2, 8, 300))
        returns = [
            np.interp(own.env_step * np.exp(0.02 * a[0]), needed, np.linspace(0, 990, 400)) + b
            for a, b in zip(*noise, strict=True)
        ]
        runs.curves[i] = own._replace(returns=np.stack(returns))
    task = fit_curves('known', runs.curves, choose_thresholds(runs.curves))
    assert task.law.alpha == pytest.approx(alpha, rel=0.1)
    assert task.verdict.identifiable
    low, high = task.spread(lambda law: law.alpha)[1:]
    assert low < alpha < high or abs(task.law.alpha - alpha) < 0.03
    assert np.nanmean(task.fitted_errors()) < 0.03
    cost = budget(task, 1e8)
    assert cost['laws']['data']['exponent'].value == pytest.approx(1.0, abs=0.1)  # one shape of law at all thresholds


def test_hyperparameter_exponents_are_recovered():
    steps = 2 ** (np.arange(-5, 6) / 2)
    runs = example.make_runs((0.25, 0.5, 1, 2, 4, 8), 128 * steps, 6e-4 * steps, seeds=8, noise=0.04)
    laws = hyperparameters({'example': runs.curves}, {'example': choose_thresholds(runs.curves)}, 50)
    for field, slope, at_one in (
        ('batch_size', example.BATCH_SLOPE, example.BATCH_SIZE),
        ('learning_rate', example.RATE_SLOPE, example.LEARNING_RATE),
    ):
        law = laws[field]
        assert law['slope'].value == pytest.approx(slope, abs=0.05) and law['identifiable']
        assert law['at_one']['example'] == pytest.approx(at_one, rel=0.15)
        assert len(law['points']) == 6 and len(law['proposals']['example']) == 6


def test_flat_data_is_no_law():
    runs = example.make_runs((0.5, 1, 2, 4, 8), (128,), (6e-4,), alpha=0.0, noise=0.1)
    flat = [
        own._replace(returns=np.roll(runs.curves[0].returns, i, axis=0) + i % 3) for i, own in enumerate(runs.curves)
    ]
    task = fit_curves('flat', flat, choose_thresholds(flat), 50)
    assert not task.verdict.identifiable and 'does not fall with sigma' in task.verdict.sentence
    rising = [
        own._replace(returns=r.returns)
        for own, r in zip(
            runs.curves, reversed(example.make_runs((0.5, 1, 2, 4, 8), (128,), (6e-4,)).curves), strict=True
        )
    ]
    task = fit_curves('rising', rising, choose_thresholds(rising), 50)
    assert not task.verdict.identifiable and 'does not fall with sigma' in task.verdict.sentence


def test_too_few_points_are_no_law():
    curves = example.make_runs((1, 2, 4), (128,), (6e-4,)).curves
    task = fit_curves('three', curves, choose_thresholds(curves), 20)
    assert task.law is None and '3 of at least 4 values of sigma' in task.verdict.sentence
    single = [
        own._replace(returns=own.returns[:1], seeds=own.seeds[:1])
        for own in example.make_runs((0.5, 1, 2, 4, 8), (128,), (6e-4,)).curves
    ]
    task = fit_curves('single', single, choose_thresholds(single), 20)
    assert not task.verdict.identifiable and 'one seed' in task.verdict.sentence
    assert np.isnan(task.spread(lambda law: law.alpha).low) and np.isfinite(task.law.alpha)


def test_average_over_tasks_is_of_normalized_crossings():
    tasks = []
    for env in ('a', 'b'):
        curves = example.make_runs((0.5, 1, 2, 4), (128,), (6e-4,), env=env, seed=ord(env)).curves
        tasks.append(fit_curves(env, curves, choose_thresholds(curves, 6), 20))
    mean = average(tasks)
    medians = [np.median(task.data) for task in tasks]
    expected = np.median(medians) * (tasks[0].data / medians[0] + tasks[1].data / medians[1]) / 2
    np.testing.assert_allclose(mean.data, expected)
    assert mean.resampled.shape == (20, 4, 6)
    assert average(tasks[:1]) is None


def test_best_batch_size_over_sigma_and_model_size():
    """The same grid at three model sizes: the exponent in sigma stays, and there is none in N."""
    grids = [example.make_runs((0.5, 1, 2, 4), 2 ** np.arange(4, 11), (6e-4,), seed=seed).curves for seed in range(3)]
    curves = [
        own._replace(key=own.key._replace(model_size=10.0**power))
        for power, grid in zip((5, 6, 7), grids, strict=True)
        for own in grid
    ]
    law = hyperparameters({'x': curves}, {'x': choose_thresholds(curves)}, 50)['batch_size']
    assert len(law['at_one']) == 3 and 'x, N=100000' in law['at_one']
    over_size = law['over_size']['x']
    assert over_size['alpha'] == pytest.approx(0.4, abs=0.1) and over_size['relative_error'] < 0.15
