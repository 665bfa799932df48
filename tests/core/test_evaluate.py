"""Roll-outs against a plain loop over the same environment, and what happens when things go wrong."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import envs
import jax
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.evaluate import Evaluator, episode_seed
from core_jax.loop import Interrupted
from core_jax.worker_process import WorkerError

TESTS = pathlib.Path(__file__).parent.parent
KEY = jax.random.key(3)


@pytest.fixture(scope='module')
def walk():
    with Evaluator(envs.Walk, workers=2, envs=4) as evaluator:
        yield evaluator


def towards_zero(memory, observations, key):
    """A third of the way, plus noise from the key; far starts exceed the bounds, so clipping shows."""
    noise = np.asarray(jax.random.uniform(key, (len(observations), 1), minval=-0.3, maxval=0.3))
    return memory, -observations[:, :1] / 0.6 + noise


def third_of_the_way(memory, observations, key):
    return memory, -observations[:, :1] / 3


def solo(policy, seed, episodes, initial=()):
    """The same episodes, one after the other in one environment."""
    env, rows = envs.Walk(), []
    for i in range(episodes):
        observation, _ = env.reset(seed=episode_seed(seed, i))
        total, length, done, memory = 0.0, 0, False, initial
        while not done:
            memory, actions = policy(memory, observation[None].astype(np.float32), None)
            action = np.clip(actions[0], -0.5, 0.5)
            observation, reward, terminated, truncated, info = env.step(action.astype(np.float32).astype(np.float64))
            total, length, done = total + reward, length + 1, terminated or truncated
        rows.append((total, length, float(info['success'])))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize('episodes', [1, 3, 11])
def test_equals_a_plain_loop(walk, episodes):
    got = walk.run(third_of_the_way, episodes=episodes, seed=5, key=KEY)
    returns, lengths, successes = solo(third_of_the_way, 5, episodes)
    np.testing.assert_allclose(got.returns, returns, rtol=1e-12)
    np.testing.assert_array_equal(got.lengths, lengths)
    np.testing.assert_array_equal(got.successes, successes)
    assert len(set(got.lengths)) > 1 or episodes == 1


def test_depends_on_seed_key_and_slots_alone(walk):
    run = functools.partial(Evaluator.run, act=towards_zero, episodes=9)
    first = run(walk, seed=1, key=KEY)
    again = run(walk, seed=1, key=KEY)
    with Evaluator(envs.Walk, workers=1, envs=4) as other_processes:
        fewer = run(other_processes, seed=1, key=KEY)
    for same in (again, fewer):
        for a, b in zip(first, same, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (run(walk, seed=2, key=KEY).returns != first.returns).all()
    assert (run(walk, seed=1, key=jax.random.key(4)).returns != first.returns).any()


def test_seeds_of_episodes_do_not_overlap():
    seeds = {episode_seed(seed, i) for seed in range(20) for i in range(50)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize('slots', [1, 2, 3])
def test_memory_starts_anew_with_every_episode(slots):
    """The gain grows with the calls made since the episode began, so a memory that is stale or mixed up shows."""

    def accelerate(memory, observations, key):
        calls, fixed = np.asarray(memory['calls']), memory['fixed']
        return {'calls': calls + 1, 'fixed': fixed}, -observations[:, :1] * (0.05 + 0.05 * calls[:, None])

    def memory(rows):
        return {'calls': np.zeros(rows, np.float32), 'fixed': np.ones((rows, 2, 2), np.float32)}

    with Evaluator(envs.Walk, workers=1, envs=slots) as evaluator:
        assert (evaluator.slots, evaluator.batch_size) == {1: (1, 1), 2: (2, 1), 3: (4, 2)}[slots]
        got = evaluator.run(accelerate, episodes=11, seed=0, key=KEY, memory=memory(evaluator.batch_size))
    returns, lengths, _ = solo(accelerate, 0, 11, memory(1))
    np.testing.assert_array_equal(got.lengths, lengths)
    np.testing.assert_allclose(got.returns, returns, rtol=1e-5)
    assert len(set(lengths)) > 2


def test_success_is_nan_where_the_environment_says_nothing():
    with Evaluator(envs.NoInfo, workers=1, envs=1) as evaluator:
        assert np.isnan(evaluator.run(third_of_the_way, episodes=2, seed=0, key=KEY).successes).all()


def test_workers_are_clean_of_jax_and_single_threaded():
    with Evaluator(envs.clean_walk, workers=1, envs=1) as evaluator:
        evaluator.run(third_of_the_way, episodes=1, seed=0, key=KEY)
    assert 'OMP_NUM_THREADS' not in os.environ or os.environ['OMP_NUM_THREADS'] != '1'


def test_an_interrupted_run_leaves_the_evaluator_usable(walk):
    expected = walk.run(third_of_the_way, episodes=9, seed=1, key=KEY)
    calls = 0

    def act(memory, observations, key):
        nonlocal calls
        calls += 1
        return third_of_the_way(memory, observations, key)

    with pytest.raises(Interrupted):
        walk.run(act, episodes=9, seed=2, key=KEY, should_stop=lambda: calls == 3)
    assert calls == 3
    again = walk.run(third_of_the_way, episodes=9, seed=1, key=KEY)
    np.testing.assert_array_equal(expected.returns, again.returns)


def test_actions_of_the_wrong_shape_are_not_broadcast(walk):
    with pytest.raises(ValueError, match=r'act gave actions \(1, 1\), not \(2, 1\)'):
        walk.run(lambda memory, observations, key: (memory, np.zeros((1, 1))), episodes=4, seed=0, key=KEY)


def test_starts_at_once_builds_in_the_background_and_stops_while_building():
    start = time.monotonic()
    evaluator = Evaluator(envs.Slow, workers=1, envs=12)
    assert time.monotonic() - start < 0.5
    with evaluator:
        with pytest.raises(Interrupted):
            evaluator.run(third_of_the_way, episodes=1, seed=0, key=KEY, should_stop=lambda: True)
        evaluator.run(third_of_the_way, episodes=1, seed=0, key=KEY)
        assert time.monotonic() - start < 4  # twelve environments take 6 seconds to build


def test_an_exception_in_an_environment_reaches_the_parent():
    with Evaluator(envs.Raises, workers=1, envs=2) as evaluator:
        with pytest.raises(WorkerError, match='ZeroDivisionError: the floor gave way'):
            evaluator.run(third_of_the_way, episodes=2, seed=0, key=KEY)
        with pytest.raises(RuntimeError, match='closed'):
            evaluator.run(third_of_the_way, episodes=2, seed=0, key=KEY)


def test_a_keyboard_interrupt_closes():
    def act(memory, observations, key):
        raise KeyboardInterrupt

    with Evaluator(envs.Walk, workers=1, envs=2) as evaluator:
        with pytest.raises(KeyboardInterrupt):
            evaluator.run(act, episodes=2, seed=0, key=KEY)
        with pytest.raises(RuntimeError, match='closed'):
            evaluator.run(third_of_the_way, episodes=2, seed=0, key=KEY)


def test_the_death_of_a_worker_reaches_the_parent():
    with Evaluator(envs.Dies, workers=1, envs=2) as evaluator:
        with pytest.raises(WorkerError, match='died: killed by SIGKILL'):
            evaluator.run(third_of_the_way, episodes=2, seed=0, key=KEY)


def test_other_spaces_than_boxes_are_refused():
    with Evaluator(envs.Discrete, workers=1, envs=1) as evaluator:
        with pytest.raises(UserError, match='action_space .* Discrete.* needs a Box'):
            evaluator.run(third_of_the_way, episodes=1, seed=0, key=KEY)


def test_a_factory_that_cannot_be_sent_names_the_fix():
    with pytest.raises(UserError, match='top level of a module, or functools.partial'):
        Evaluator(lambda: envs.Walk())


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import envs

def factory():
    return envs.Endless()

if __name__ == '__main__':
    import signal, jax
    from core_jax.evaluate import Evaluator
    from core_jax.loop import Interrupted
    evaluator = Evaluator(factory, workers=2, envs=2)
    received = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    def act(memory, observations, key):
        print(*(worker.pid for worker in evaluator._slots.workers), flush=True)
        return memory, 0 * observations[:, :1]
    for count in 1, 2, 3:
        try:
            evaluator.run(
                act, episodes=2, seed=0, key=jax.random.key(0), should_stop=lambda: len(received) == count
            )
        except Interrupted:
            print('interrupted', flush=True)
"""


def alive(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_signals_are_for_the_parent_and_workers_leave_with_it(tmp_path):
    """SIGINT and SIGTERM to the process group, as terminals and batch systems send them, then SIGKILL to the parent.

    The factory lives in a script.
    """
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT.format(tests=str(TESTS)))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        try:
            workers = process.stdout.readline()
            for number in (signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, number)
                assert set(iter(process.stdout.readline, 'interrupted\n')) <= {workers}
                assert process.stdout.readline() == workers  # the same workers go on
        finally:
            process.kill()
        process.stdout.read()  # returns when the workers, who hold the other end too, are gone
    pids = [int(word) for word in workers.split()]
    assert len(pids) == 2 and not any(map(alive, pids))


@pytest.mark.slow
def test_ogbench_cube_is_deterministic_and_fresh_environments_equal_used_ones():
    def act(memory, observations, key):
        return memory, np.asarray(jax.random.uniform(key, (len(observations), 5), minval=-1, maxval=1))

    from fql_jax.tasks import make_env

    factory = functools.partial(make_env, 'cube-single-singletask-task2-v0')
    with Evaluator(factory, workers=2, envs=4) as evaluator:
        first = evaluator.run(act, episodes=6, seed=0, key=KEY)
        used = evaluator.run(act, episodes=6, seed=0, key=KEY)
    with Evaluator(factory, workers=1, envs=4) as evaluator:
        fresh = evaluator.run(act, episodes=6, seed=0, key=KEY)
    for other in (used, fresh):
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
