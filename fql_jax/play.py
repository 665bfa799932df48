"""Plays a trained policy: `python -m fql_jax.play --run=runs/mine`.

In a window where there is a display, else into a video in the run's videos/ (or --out). Without --run the newest
finished run under runs/ is played. The return of each episode is printed, and its success where the environment tells.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error, unknown
from fql_jax import tasks

RUNS = Path('runs')
PAPER = 'fql'


class Played(NamedTuple):
    """One episode. success: None where the environment does not say. finished: False where the window was closed."""

    value: float
    success: bool | None
    steps: int
    finished: bool


def main() -> int:
    parser = Parser(prog='python -m fql_jax.play', description=__doc__)
    parser.add_argument(
        '--run', metavar='DIR', help='the run directory, or an exported policy.npz (default: the newest)'
    )
    parser.add_argument('--episodes', type=int, default=3, help='how many (default 3); a video shows the first')
    parser.add_argument('--seed', type=int, default=0, help='of the environment and the policy (default 0)')
    parser.add_argument('--out', metavar='FILE.mp4', help='write the video here, and open no window')
    parser.add_argument('--member', type=int, default=0, help='of a population (default 0)')
    flags, overrides = parser.parse()
    if overrides:
        raise unknown(
            'flag', f'--config.{next(iter(overrides))}', ('--run', '--episodes', '--seed', '--out', '--member')
        )
    if flags.out and not flags.out.endswith('.mp4'):
        raise UserError(f'--out must end in .mp4, not {flags.out!r}')
    if flags.episodes < 1:
        raise UserError(f'--episodes must be at least 1, got {flags.episodes}')
    file = find_policy(Path(flags.run) if flags.run else newest(), flags.member)

    from fql_jax.api import load_policy  # jax is imported here

    policy = load_policy(file, flags.seed)
    make_env = environment(policy.config)
    print(f'playing {file}: {policy.config.agent} on {policy.config.env}, seed {flags.seed}')
    in_window = None if flags.out or not has_display() else open_window(make_env)
    episodes = roll(*(in_window or (make_env(), Window())), policy, flags.episodes, flags.seed)
    if not in_window:
        out = Path(flags.out) if flags.out else file.parent / 'videos' / f'play_{file.stem}_seed{flags.seed}.mp4'
        print(film(file, make_env, flags.seed, episodes[0].steps, out))
    return 0


def newest() -> Path:
    """The run under runs/ that was finished last."""
    finished = [path for path in RUNS.glob('*/summary.json') if _saved(path.parent)]
    if not finished:
        raise UserError(f'no finished run under {RUNS}/; python -m fql_jax.main --env=ogbench-cube makes one')
    return max(finished, key=lambda path: path.stat().st_mtime).parent


def find_policy(run: Path, member: int) -> Path:
    """The exported policy of a run directory, or `run` itself if it is one. Raises UserError where there is none."""
    if run.is_file():
        return run
    if not run.exists():
        options = [str(path) for path in RUNS.glob('*') if _saved(path)]
        raise unknown('run', str(run), options) if options else UserError(f'no run at {run}')
    if not _saved(run):
        raise UserError(f'{run} is no run directory of {PAPER} (no config.json of one)')
    single, several = run / 'policy.npz', sorted(run.glob('policy_*.npz'))
    if not single.exists() and not several:
        raise UserError(f'{run} is not finished; its policy comes at the end: go on with --workdir={run} --resume')
    file = run / f'policy_{member}.npz' if several else single
    if not file.exists() or (member and not several):
        raise UserError(f'{run} has no member {member}; it has {f"0 to {len(several) - 1}" if several else "only 0"}')
    return file


def _saved(run: Path) -> dict | None:
    from core_jax.runs import Run

    saved = Run.saved_config(run)
    return saved if saved and saved.get('paper') == PAPER else None


def environment(config: Any) -> Callable[..., Any]:
    """make_env(render=False) of the environment that a policy was trained for."""
    gym_id = config.gym_id or tasks.resolve(config.env).gym_id  # D4RL's may have come since
    if gym_id.startswith(tasks.OWN):
        name = gym_id.removeprefix(tasks.OWN)
        raise UserError(
            f'this policy was trained on {name}, given as a function, which a program cannot find again; in Python, '
            'fql_jax.load_policy gives its actions'
        )
    if not gym_id:
        raise UserError(f'the environment of {config.env} is not on this machine; see fql_jax/tasks.py for its names')
    return functools.partial(tasks.make_env, gym_id, frame_stack=config.get('frame_stack', 1))


def roll(env: Any, window: Window, policy: Any, episodes: int, seed: int) -> list[Played]:
    """Plays `episodes` episodes, the i-th from the i-th seed of an evaluation with `seed`, and prints each.

    Ends when the window is closed; closes both.
    """
    from core_jax.env_worker import Slot
    from core_jax.evaluate import episode_seed

    slot, played = Slot(lambda: env), []
    with contextlib.closing(env), contextlib.closing(window):
        for i in range(episodes):
            observation = slot.reset(episode_seed(seed, i))
            policy.reset()
            episode = _roll_one(slot, window, policy, observation)
            played.append(episode)
            told = '' if episode.success is None else f', success {"yes" if episode.success else "no"}'
            print(f'episode {i + 1}: return {episode.value:.2f}{told}, {episode.steps} steps', flush=True)
            if not episode.finished:
                break
    return played


def _roll_one(slot: Any, window: Window, policy: Any, observation: Any) -> Played:
    value, success, steps, done = 0.0, None, 0, False
    while not done and window.show():
        reward, told, done, _, observation = slot.step(policy(observation[None])[0])
        value, steps = value + float(reward), steps + 1
        success = None if told != told else told > 0  # NaN where the environment does not tell
    return Played(value, success, steps, done)


def film(file: Path, make_env: Callable[..., Any], seed: int, steps: int, out: Path) -> str:
    """A line about the video of the first episode that `roll` played, made again by a policy of the same seed."""
    import jax

    from core_jax.video import NoRenderer, record_video
    from core_jax.worker_process import WorkerError
    from fql_jax.api import load_policy

    policy = load_policy(file, seed)
    try:
        record_video(
            functools.partial(make_env, render=True),
            lambda memory, observations, key: (memory, policy(observations)),  # which has a memory and keys of its own
            out,
            memory=(),
            seed=seed,
            key=jax.random.key(seed),
            max_steps=steps,
        )
        return f'video of episode 1: {out}'
    except (NoRenderer, WorkerError) as error:
        return f'no video: {error}'


# Windows


def has_display() -> bool:
    return sys.platform in ('darwin', 'win32') or any(os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY'))


class Window:
    """No window, or one that the environment draws itself."""

    def show(self) -> bool:
        """Shows the current state; False once the window is closed."""
        return True

    def close(self) -> None:
        """Closes it."""


class MujocoWindow(Window):
    """MuJoCo's viewer of an environment with `model` and `data`, at the pace of its clock."""

    def __init__(self, env: Any):
        self._env, self._model, self._viewer, self._next = env, None, None, 0.0
        self._step = 1 / env.metadata.get('render_fps', 20)  # OGBench's arms say nothing, and make 20 steps a second

    def show(self) -> bool:
        import mujoco.viewer

        if self._env.model is not self._model:  # a reset may build another one
            self.close()
            self._model = self._env.model
            self._viewer = mujoco.viewer.launch_passive(self._model, self._env.data)
        self._viewer.sync()
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + self._step
        return self._viewer.is_running()

    def close(self) -> None:
        if self._viewer is not None:
            self._viewer.close()


def open_window(make_env: functools.partial) -> tuple[Any, Window] | None:
    """(environment, its window): MuJoCo's viewer or gymnasium's own window; None where it can have neither."""
    env = make_env()
    inner = env.unwrapped
    # Looked up without being read: before the first reset there may be no model yet.
    if all(hasattr(type(inner), name) or name in vars(inner) for name in ('model', 'data')):
        if _glfw_starts():
            return env, MujocoWindow(inner)
        env.close()
        return None
    modes = inner.metadata.get('render_modes', ())
    env.close()
    if not {'human', 'rgb_array'} & set(modes):
        return None
    from fql_jax import envs

    return envs.make(make_env.args[0], render_mode='human'), Window()


def _glfw_starts() -> bool:
    """Whether MuJoCo's viewer could open a window: where DISPLAY leads nowhere it would end the process."""
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return bool(glfw.init())


if __name__ == '__main__':
    exit_on_user_error(main)
