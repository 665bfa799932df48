"""The pool of the host's rewards: what it gives, what it costs, what goes wrong, and that nothing is left behind."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import heard
import host_rewards
import numpy as np
import pytest

from core_jax.errors import UserError
from diffusion_jax.rewards import HOPELESS, MOST, Scorer


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_rewards_come_in_order_and_once():
    texts = ['a' * (1 + i % 90) for i in range(3 * MOST)] + ['', 'aa']
    with Scorer(host_rewards.length, workers=2) as scorer:
        first, second = scorer.submit(texts), scorer.submit(texts[:5])
        np.testing.assert_array_equal(first.result()[:-2], [len(text) for text in texts[:-2]])
        assert np.isnan(first.result()[-2]) and first.result()[-1] == 2
        np.testing.assert_array_equal(second.result(), [1, 2, 3, 4, 5])
        assert scorer.calls == 90 and scorer.failed == scorer.errors == 0
        assert scorer.hits == len(texts) - 1 - 90 + 5
        assert len(scorer.submit([]).result()) == 0


def test_processes_know_no_jax():
    with Scorer(host_rewards.jax_is_imported, workers=1) as scorer:
        assert scorer.submit(['x']).result() == [0.0]


def test_one_bad_design_costs_no_other_its_reward():
    # One worker and 3 * MOST texts: they come in batches, of which one has two designs that raise.
    texts = [f'{i:04d}' for i in range(3 * MOST)]
    texts[5], texts[6], texts[7], texts[8] = 'raise', 'nan', 'none', 'inf'
    with Scorer(host_rewards.moody, workers=1) as scorer:
        rewards = scorer.submit(texts).result()
        again = scorer.submit(['raise']).result()
        assert np.isnan(rewards[5:8]).all() and np.isinf(rewards[8]) and np.isnan(again).all()
        np.testing.assert_array_equal(np.delete(rewards, slice(5, 9)), 4.0)
        assert (scorer.failed, scorer.errors, scorer.calls, scorer.hits) == (4, 1, len(texts), 1)
        assert scorer.first_error == 'raise: ValueError: not this one'


@pytest.mark.parametrize(
    ('text', 'why'), [('die', 'killed by SIGKILL'), ('exit', 'exit status 3'), ('sleep', 'longer than 0.2 seconds')]
)
def test_a_process_that_dies_or_hangs_is_replaced(text, why):
    with Scorer(host_rewards.moody, workers=1, timeout=0.2) as scorer:
        began = time.monotonic()
        rewards = scorer.submit(['one', text, 'three', 'four']).result()
        np.testing.assert_array_equal(rewards, [3, np.nan, 5, 4])
        assert time.monotonic() - began < 20
        assert why in scorer.first_error and scorer.first_error.startswith(f'{text}: ')
        assert (scorer.failed, scorer.errors, scorer.calls) == (1, 1, 4)


@pytest.mark.parametrize(
    ('reward', 'texts', 'words'),
    [
        (host_rewards.one_short, ['a', 'b'], r'must give one number a design; for 1 it gave shape \(0,\)'),
        (host_rewards.needs_a_package, ['a'], 'install the package'),
        (
            host_rewards.broken,
            [str(i) for i in range(4 * HOPELESS)],
            "each of the first .*; 0: KeyError: 'no such",
        ),
    ],
)
def test_what_the_user_must_mend_is_said(reward, texts, words):
    with Scorer(reward, workers=1) as scorer:
        scores = scorer.submit(texts)
        told = threading.Event()
        scores.when_done(told.set)
        assert told.wait(30)
        with pytest.raises(UserError, match=words):
            scores.result()
        with pytest.raises(UserError, match=words):
            scorer.submit(['c'])


def test_a_reward_that_cannot_be_sent_is_refused():
    with pytest.raises(UserError, match='cannot send the reward .*lambda.*top level of a module'):
        Scorer(lambda texts: [0.0] * len(texts))


def test_callbacks_come_when_rewards_are_there():
    with Scorer(functools.partial(host_rewards.nap, seconds=0.2), workers=1) as scorer:
        scores, told = scorer.submit(['abc']), threading.Event()
        scores.when_done(told.set)
        assert not told.is_set()
        assert told.wait(30) and scores.result() == [3.0]
        late = threading.Event()
        scores.when_done(late.set)
        assert late.is_set()


def test_close_ends_busy_processes_and_those_who_wait():
    with Scorer(host_rewards.process, workers=1) as scorer:
        scores = scorer.submit(['x'])
        pid = int(scores.result()[0])
        assert alive(pid)
    assert not alive(pid) and scores.result() == [pid]
    scorer = Scorer(functools.partial(host_rewards.nap, seconds=60), workers=2)
    scores = scorer.submit(['a', 'b', 'c', 'd', 'e'])
    began = time.monotonic()
    scorer.close()
    assert time.monotonic() - began < 10
    with pytest.raises(UserError, match='closed'):
        scores.result()


SCRIPT = """
    import functools, sys, time
    sys.path.insert(0, {here!r})
    import host_rewards
    from diffusion_jax.rewards import Scorer

    if __name__ == '__main__':
        with Scorer(host_rewards.process, workers=1) as first:
            pid = first.submit(['x']).result()[0]
        scorer = Scorer(functools.partial(host_rewards.{reward}), workers=2)
        print(*[int(scorer.submit([str(i)]).result()[0]) for i in range(8)], flush=True)
        {end}
"""


@pytest.mark.parametrize('end', ['pass', 'with scorer: time.sleep(60)', 'time.sleep(60)'])
def test_nothing_is_left_behind(end, tmp_path):
    """A program that ends, is interrupted (Ctrl-C reaches the whole group), or is killed takes its processes along."""
    script = tmp_path / 'script.py'
    here = os.path.dirname(__file__)
    script.write_text(textwrap.dedent(SCRIPT.format(here=here, reward='process', end=end)))
    environment = os.environ | {'PYTHONPATH': os.getcwd()}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
    with heard.interrupts():
        program = subprocess.Popen([sys.executable, str(script)], start_new_session=True, env=environment, **pipes)
    workers = {int(word) for word in program.stdout.readline().split()}
    assert workers and all(alive(pid) for pid in workers) or end == 'pass'
    if 'with' in end:
        os.killpg(program.pid, signal.SIGINT)
    elif end != 'pass':
        program.kill()
    program.wait(30)
    program.stdout.close()
    for _ in range(100):
        if not any(alive(pid) for pid in workers):
            break
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)


def test_a_pool_has_processes():
    with pytest.raises(UserError, match='workers must be at least 1, got -1'):
        Scorer(host_rewards.length, workers=-1)
