"""`python -m fql_jax.play` on finished runs of Tiny, which has no renderer: the video and the windows are pretended."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import tiny

from core_jax import video
from core_jax.errors import exit_on_user_error
from core_jax.evaluate import Evaluator, episode_seed
from fql_jax import api, main, play, tasks


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished run of two updates on tiny:Tiny-v0."""
    folder = tmp_path_factory.mktemp('trained')
    np.savez(folder / 'data.npz', **tiny.arrays())
    fields = tiny.FIELDS | {'hidden_dims': 8, 'steps': 2, 'eval_interval': 0, 'dataset': folder / 'data.npz'}
    with pytest.MonkeyPatch.context() as patch:
        tiny.share_programs(patch)
        patch.setattr(sys, 'argv', ['main', *tiny.flags(fields), f'--workdir={folder / "run"}'])
        assert main.main() == 0
    return folder / 'run'


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A working directory with runs/mine in it, and no display."""
    monkeypatch.chdir(tmp_path)
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(trained, tmp_path / 'runs' / 'mine')
    return tmp_path / 'runs'


@pytest.fixture
def command(monkeypatch, capsys):
    """command(words) -> (exit status, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['play', *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            exit_on_user_error(play.main)
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture
def films(monkeypatch):
    """What `record_video` was asked for, and the steps and return of what it would show."""
    asked = []

    def record(make_render_env, act, path, *, memory, seed, key, max_steps):
        env = make_render_env.func(*make_render_env.args)
        observation, _ = env.reset(seed=episode_seed(seed, 0))
        value = 0.0
        for _ in range(max_steps):
            memory, actions = act(memory, observation[None].astype(np.float32), key)
            observation, reward, *_ = env.step(actions[0])
            value += reward
        asked.append((str(path), seed, max_steps, value, make_render_env.keywords))
        return path

    monkeypatch.setattr(video, 'record_video', record)
    return asked


def returns(out: str) -> list[float]:
    lines = [line for line in out.splitlines() if line.startswith('episode ')]
    assert [line.split(':')[0] for line in lines] == [f'episode {i + 1}' for i in range(len(lines))]
    assert all(line.endswith(f'{tiny.LENGTH} steps') and 'success' in line for line in lines)
    return [float(line.split('return ')[1].split(',')[0]) for line in lines]


def test_the_newest_run_is_played_and_filmed(command, runs, films):
    shutil.copytree(runs / 'mine', runs / 'newer')
    os.utime(runs / 'newer' / 'summary.json', (2e9, 2e9))
    (runs / 'empty').mkdir()
    code, out, err = command('--seed=5')
    assert code == 0, err
    assert f'playing runs/newer/policy.npz: fql on {tiny.ENV}, seed 5' in out
    path, seed, steps, value, keywords = films[0]
    assert (path, seed, steps) == ('runs/newer/videos/play_policy_seed5.mp4', 5, tiny.LENGTH)
    assert keywords['render'] is True
    assert f'video of episode 1: {path}' in out
    played = returns(out)
    assert len(played) == 3
    assert played[0] == pytest.approx(value, abs=0.01)  # the film is of the episode that was printed
    assert returns(command('--run=runs/newer', '--seed=5')[1]) == played
    assert returns(command('--run=runs/newer/policy.npz', '--seed=6', '--episodes=2')[1]) != played[:2]


def test_the_episodes_are_those_of_an_evaluation(command, runs, films):
    """Same starts, as `Evaluator` makes them; the policy here stands still, so that nothing else matters."""
    code, out, _ = command('--run=runs/mine', '--episodes=4', '--seed=2', '--out=some.mp4')
    assert code == 0 and films[0][0] == 'some.mp4'

    class Still:
        def __call__(self, observations):
            return np.zeros((len(observations), 2), np.float32)

        def reset(self):
            pass

    make_env = play.environment(api.load_policy(runs / 'mine').config)
    played = play.roll(make_env(), play.Window(), Still(), 4, 2)
    with Evaluator(make_env, workers=1, envs=1) as evaluator:
        import jax

        act = lambda memory, observations, key: (memory, np.zeros((len(observations), 2), np.float32))  # noqa: E731
        episodes = evaluator.run(act, episodes=4, seed=2, key=jax.random.key(0))
    np.testing.assert_allclose([episode.value for episode in played], episodes.returns, rtol=1e-6)
    assert [episode.success for episode in played] == (episodes.successes > 0).tolist()


def test_members_of_a_population(command, runs, films):
    for member in (0, 1):
        shutil.copy(runs / 'mine' / 'policy.npz', runs / 'mine' / f'policy_{member}.npz')
    (runs / 'mine' / 'policy.npz').unlink()
    code, out, _ = command('--run=runs/mine', '--member=1')
    assert code == 0 and 'playing runs/mine/policy_1.npz' in out
    assert films[0][0] == 'runs/mine/videos/play_policy_1_seed0.mp4'
    assert command('--run=runs/mine')[0] == 0
    code, _, err = command('--run=runs/mine', '--member=2')
    assert code == 2 and err == 'error: runs/mine has no member 2; it has 0 to 1\n'


def test_without_a_renderer_the_episodes_are_played_all_the_same(command, runs):
    code, out, _ = command('--run=runs/mine', '--episodes=1')
    assert code == 0 and len(returns(out)) == 1
    assert out.splitlines()[-1].startswith('no video: ') and 'libEGL.so.1' in out


# Windows


def test_a_window_where_there_is_a_display(command, runs, films, monkeypatch):
    monkeypatch.setenv('DISPLAY', ':0')
    assert play.has_display()
    shown = []

    class Pretended(play.Window):
        def show(self):
            shown.append(1)
            return len(shown) < 9

    monkeypatch.setattr(play, 'open_window', lambda make_env: (make_env(), Pretended()))
    code, out, _ = command('--run=runs/mine')
    assert code == 0 and not films and 'video' not in out
    assert [line.split(', ')[-1] for line in out.splitlines()[-2:]] == ['6 steps', '2 steps']  # closed in the second
    assert command('--run=runs/mine', '--out=a.mp4')[0] == 0
    assert len(films) == 1  # who names a file wants no window


def test_mujoco_has_its_own_viewer(monkeypatch):
    """Of the state as it is, a new one where a reset built another model, paced by the environment's clock."""
    import glfw
    import mujoco.viewer

    class Viewer:
        def __init__(self, model, data):
            self.model, self.data, self.synced, self.closed = model, data, 0, False
            opened.append(self)

        def sync(self):
            self.synced += 1

        def is_running(self):
            return not self.closed

        def close(self):
            self.closed = True

    opened, slept = [], []
    monkeypatch.setattr(mujoco.viewer, 'launch_passive', Viewer)
    monkeypatch.setattr(play.time, 'sleep', slept.append)
    make_env = play.functools.partial(tasks.make_env, 'pointmaze-medium-singletask-v0')
    monkeypatch.setattr(glfw, 'init', lambda: False)  # DISPLAY leads nowhere
    assert play.open_window(make_env) is None
    monkeypatch.setattr(glfw, 'init', lambda: True)
    env, window = play.open_window(make_env)
    env.reset(seed=0)
    assert window.show() and window.show()
    assert opened[0].model is env.unwrapped.model and opened[0].data is env.unwrapped.data and opened[0].synced == 2
    assert slept[0] == 0 and 0.05 < slept[1] <= env.unwrapped.dt == 0.1
    env.unwrapped.model = object()
    assert window.show() and opened[0].closed and len(opened) == 2
    opened[1].closed = True
    assert not window.show()
    window.close()
    env.close()


def test_what_can_draw_itself_does_and_the_rest_is_filmed(monkeypatch):
    from fql_jax import envs

    made = []
    monkeypatch.setattr(envs, 'make', lambda gym_id, **keywords: made.append((gym_id, keywords)) or 'an environment')
    tiny_env = lambda gym_id: tiny.Tiny()  # noqa: E731
    env, window = play.open_window(play.functools.partial(tiny_env, 'tiny:Tiny-v0'))
    assert env == 'an environment' and made == [('tiny:Tiny-v0', {'render_mode': 'human'})] and window.show()
    monkeypatch.setattr(tiny.Tiny, 'metadata', {})
    assert play.open_window(play.functools.partial(tiny_env, 'tiny:Tiny-v0')) is None


# Errors


def test_no_run_at_all_says_how_to_make_one(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command()
    assert code == 2
    assert err == 'error: no finished run under runs/; python -m fql_jax.main --env=ogbench-cube makes one\n'
    assert command('--run=runs/mine')[2] == 'error: no run at runs/mine\n'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--run=runs/mien'], "unknown run 'runs/mien'; did you mean 'runs/mine'?"),
        (['--run=runs'], 'runs is no run directory of fql (no config.json of one)'),
        (['--run=runs/mine', '--member=1'], 'runs/mine has no member 1; it has only 0'),
        (['--run=runs/mine', '--episodes=0'], '--episodes must be at least 1, got 0'),
        (['--run=runs/mine', '--out=a.gif'], "--out must end in .mp4, not 'a.gif'"),
        (['--run=runs/mine', '--epsodes=2'], "unknown flag '--epsodes'; did you mean '--episodes'?"),
        (['--run=runs/mine', '--config.alpha=2'], "unknown flag '--config.alpha'"),
        (['--run=runs/mine/summary.json'], 'is damaged, or not an exported policy'),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else '',
)
def test_wrong_flags(words, message, command, runs):
    code, _, err = command(*words)
    assert code == 2 and err.startswith('error: ') and message in err and len(err.splitlines()) == 1


def test_a_run_that_is_not_finished(command, runs):
    (runs / 'mine' / 'policy.npz').unlink()
    code, _, err = command('--run=runs/mine')
    assert code == 2
    expected = 'its policy comes at the end: go on with --workdir=runs/mine --resume'
    assert err == f'error: runs/mine is not finished; {expected}\n'


def test_a_run_of_another_paper_is_not_ours(command, runs):
    config = json.loads((runs / 'mine' / 'config.json').read_text())
    (runs / 'mine' / 'config.json').write_text(json.dumps(config | {'paper': 'tra'}))
    assert 'no run directory of fql' in command('--run=runs/mine')[2]
    assert 'no finished run' in command()[2]


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'gym_id': 'own:my_env'}, 'trained on my_env, given as a function'),
        ({'gym_id': '', 'env': 'd4rl-antmaze-umaze'}, 'the environment of d4rl-antmaze-umaze is not on this machine'),
    ],
    ids=['a function', 'D4RL'],
)
def test_environments_that_cannot_be_built(config, message, command, runs, monkeypatch):
    load = api.load_policy

    def changed(*arguments):
        policy = load(*arguments)
        policy.config.update(config)
        return policy

    monkeypatch.setattr(api, 'load_policy', changed)
    code, _, err = command('--run=runs/mine')
    assert code == 2 and message in err and len(err.splitlines()) == 1
