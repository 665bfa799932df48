"""Statistics against scipy and numbers worked out by hand; tables against files on disk."""

import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from core_jax.errors import UserError
from core_jax.stats import iqm, main, markdown, mean_interval, read_results, stratified_bootstrap, wilson

RESULT = {
    'paper': 'fql',
    'title': 'cube-single, demo',
    'command': 'make demo',
    'device': 'CPU, 2 cores',
    'scale': 'smaller than the paper',
    'seeds': [0, 1, 2],
    'date': '2026-11-22',
    'versions': {'jax': '0.10.2'},
    'metrics': {'success': {'value': 0.96, 'low': 0.9151, 'high': 0.98157, 'n': 150, 'interval': 'Wilson 95 %'}},
    'published': {'success': {'value': 0.97, 'spread': '± 0.02', 'source': 'table 2', 'verified': 'third party'}},
}


@pytest.mark.parametrize(('k', 'n'), [(0, 50), (1, 50), (48, 50), (50, 50), (137, 150), (0, 1)])
@pytest.mark.parametrize('confidence', [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(k, n, confidence):
    expected = scipy.stats.binomtest(k, n).proportion_ci(confidence, method='wilson')
    np.testing.assert_allclose(wilson(k, n, confidence), expected, atol=1e-12)


def test_wilson_of_a_textbook_case():
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=5e-5)  # Newcombe 1998, table I, method 3
    with pytest.raises(ValueError):
        wilson(3, 2)


def test_the_mean_interval_equals_scipy():
    values = np.random.default_rng(1).normal(size=5)
    found = mean_interval(values)
    interval = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose((found['low'], found['high']), interval, rtol=1e-12)
    assert mean_interval([2.0]) == {'value': 2.0, 'low': None, 'high': None, 'n': 1}


@pytest.mark.parametrize('shape', [(1, 1), (3, 1), (4, 5), (10, 7), (3, 3)])
def test_iqm_equals_scipy(shape):
    scores = np.random.default_rng(0).normal(size=(6, *shape))
    expected = [scipy.stats.trim_mean(part, 0.25, axis=None) for part in scores]
    np.testing.assert_allclose(iqm(scores, axis=(-2, -1)), expected, rtol=1e-12)
    np.testing.assert_allclose(iqm(scores), scipy.stats.trim_mean(scores, 0.25, axis=None), rtol=1e-12)
    np.testing.assert_allclose(iqm(scores, axis=0), scipy.stats.trim_mean(scores, 0.25, axis=0), rtol=1e-12)


def test_iqm_by_hand():
    assert iqm([100, 1, 2, 3, 4, 5, 6, -50]) == (2 + 3 + 4 + 5) / 4


def test_bootstrap_equals_scipy():
    """One task: the ordinary percentile bootstrap. 20,000 repetitions leave an error of about 0.01."""
    scores = np.random.default_rng(1).normal(size=(30, 1))
    ours = stratified_bootstrap(scores, np.mean, repetitions=20_000)
    theirs = scipy.stats.bootstrap(
        (scores[:, 0],), np.mean, n_resamples=20_000, method='percentile', rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours[0] == pytest.approx(scores.mean())
    np.testing.assert_allclose(ours[1:], theirs, atol=0.02)


def test_bootstrap_is_stratified():
    """Runs that agree, on tasks that do not: resampling runs within tasks leaves nothing to vary, tasks stay whole."""
    scores = np.tile([0.0, 1.0, 5.0, 9.0], (6, 1))
    assert stratified_bootstrap(scores) == (3.0, 3.0, 3.0)
    # Two tasks of variances 4 and 16: the mean over both has variance (4 + 16) / 4 / runs.
    rng = np.random.default_rng(0)
    scores = scipy.stats.zscore(rng.normal(size=(400, 2)), axis=0) * [2, 4]
    _, low, high = stratified_bootstrap(scores, np.mean, confidence=0.9)
    np.testing.assert_allclose([low, high], np.array([-1, 1]) * 1.6449 * (5 / 400) ** 0.5, rtol=0.08)


def test_bootstrap_is_deterministic_and_refuses_other_shapes():
    scores = np.random.default_rng(1).normal(size=(5, 3))
    assert stratified_bootstrap(scores) == stratified_bootstrap(scores)
    assert stratified_bootstrap(scores) != stratified_bootstrap(scores, seed=1)
    with pytest.raises(ValueError, match='runs, tasks'):
        stratified_bootstrap(scores[0])


def write(folder, name='a.json', **changes):
    folder.joinpath(name).write_text(json.dumps(RESULT | changes))


def test_table(tmp_path):
    write(tmp_path, 'b.json')
    bare = {key: value for key, value in RESULT.items() if key != 'published'} | {'paper': 'bro', 'title': 'a | b'}
    tmp_path.joinpath('a.json').write_text(json.dumps(bare))
    tmp_path.joinpath('tpu_check.json').write_text(json.dumps({'title': 'x', 'rows': []}))
    text = markdown(read_results(tmp_path))
    assert text.index('## bro') < text.index('## fql')
    row = (
        '| cube-single, demo | success | 0.96 | 0.9151 to 0.9816 (Wilson 95 %) | 150 | 3 | smaller than the paper '
        '| CPU, 2 cores | 0.97 ± 0.02 (table 2; third party) |'
    )
    assert row in text.splitlines()
    assert 'a \\| b' in text and '- cube-single, demo: `make demo`, 2026-11-22 (`b.json`)' in text.splitlines()


def metric(**changes):
    return {'success': RESULT['metrics']['success'] | changes}


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'seeds': 3}, 'a.json: seeds must be a list, not 3'),
        ({'metrics': {'success': {'value': 1.0}}}, 'a.json: metrics.success.low is missing'),
        ({'metrics': metric(n=1.5)}, 'a.json: metrics.success.n must be a whole number, not 1.5'),
        ({'metrics': metric(value='96 %')}, "a.json: metrics.success.value must be a number, not '96 %'"),
        ({'metrics': []}, 'a.json: metrics must be a table, not'),
        ({'metrics': {'success': 1}}, 'a.json: metrics.success must be a table'),
        ({'published': 3}, 'a.json: published must be a table'),
        ({'published': {'success': {'value': 0.97}}}, 'a.json: published.success.spread is missing'),
        ({'published': {'return': RESULT['published']['success']}}, 'a.json: published.return belongs to no measured'),
    ],
)
def test_a_malformed_result_names_file_and_field(tmp_path, changes, says):
    write(tmp_path, **changes)
    with pytest.raises(UserError, match=says):
        read_results(tmp_path)


@pytest.mark.parametrize('text', ['{"paper": ', '[]', '\xff'])
def test_a_file_that_is_no_result_is_named(tmp_path, text):
    tmp_path.joinpath('a.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(UserError, match='a.json'):
        read_results(tmp_path)


def test_command_writes_checks_and_refuses(tmp_path, monkeypatch, capsys):
    results, out = tmp_path / 'results', tmp_path / 'docs' / 'results.md'
    results.mkdir()
    write(results)

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['stats', str(results), f'--out={out}', *words])
        return main()

    assert run('--check') == 1 and not out.exists()
    assert run() == 0 and run('--check') == 0
    first = out.read_bytes()
    assert run() == 0 and out.read_bytes() == first
    write(results, title='another')
    assert run('--check') == 1 and out.read_bytes() == first
    assert 'stale' in capsys.readouterr().out


def test_command_line_is_fast_and_errors_are_one_line(tmp_path):
    tmp_path.joinpath('a.json').write_text('{}')
    code = 'import sys, runpy; sys.argv = ["stats", {!r}]; runpy.run_module("core_jax.stats", run_name="__main__")'
    process = subprocess.run([sys.executable, '-c', code.format(str(tmp_path))], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == f'error: {tmp_path}/a.json: paper is missing\n'
    process = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'core_jax.stats', '--help'], capture_output=True, text=True
    )
    assert process.returncode == 0 and '--check' in process.stdout
    assert not {'jax', 'scipy'} & {line.split('|')[-1].strip() for line in process.stderr.splitlines()}
