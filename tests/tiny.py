"""The smallest whole run of FQL: an environment, data for it, settings, and what of a run directory must be the same.

In a module of its own because worker processes and the programs that the tests start import it: `tiny:Tiny-v0`.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import gymnasium
import numpy as np

ENV = 'tiny:Tiny-v0'
LENGTH = 6
FIELDS = {
    'env': ENV,
    'hidden_dims': (8,),
    'batch_size': 16,
    'flow_steps': 1,
    'learning_rate': 1e-3,
    'alpha': 30.0,
    'tau': 0.01,
    'discount': 0.99,
    'steps': 12,
    'log_interval': 3,
    'eval_interval': 6,
    'save_interval': 4,
    'eval_episodes': 2,
    'workers': 1,
    'video': False,
    'mesh': 'data:1',
}


class Tiny(gymnasium.Env):
    """A point in the plane moves by the action; reward is minus its distance from 0. Observation [x, y, time]."""

    metadata = {'render_modes': ['rgb_array']}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    pause = 0.0  # seconds a step

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.point, self.steps = self.np_random.uniform(-1, 1, 2), 0
        return self._observe(), {}

    def step(self, action):
        time.sleep(self.pause)
        self.point = self.point + 0.2 * action
        self.steps += 1
        distance = float(np.linalg.norm(self.point))
        return self._observe(), -distance, False, self.steps >= LENGTH, {'success': distance < 0.5}

    def _observe(self):
        return np.array([*self.point, self.steps / LENGTH])

    def render(self):
        raise ImportError('libEGL.so.1: cannot open shared object file')


class Sleepy(Tiny):
    """An evaluation of it takes seconds."""

    pause = 0.3


class Seen(Tiny):
    """The same as an image [8, 8, 3]: red columns on black where the point is."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)

    def _observe(self):
        image = np.zeros((8, 8, 3), np.uint8)
        x, y = np.clip(4 + 2 * self.point, 0, 7).astype(int)
        image[y, x] = (255, 40 * self.steps, 0)
        return image


gymnasium.register('Tiny-v0', Tiny)
gymnasium.register('Seen-v0', Seen)
gymnasium.register('Sleepy-v0', Sleepy)


def arrays(trajectories: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    """Random trajectories of Tiny, in the keys of `fql_jax.data.from_arrays`."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (trajectories, LENGTH, 2))
    start = rng.uniform(-1, 1, (trajectories, 1, 2))
    points = start + 0.2 * np.cumsum(actions, 1) - 0.2 * actions  # before each action
    times = np.broadcast_to(np.arange(LENGTH)[:, None] / LENGTH, (trajectories, LENGTH, 1))
    ends = np.zeros((trajectories, LENGTH), bool)
    ends[:, -1] = True
    return {
        'observations': np.concatenate([points, times], -1).reshape(-1, 3).astype(np.float32),
        'actions': actions.reshape(-1, 2).astype(np.float32),
        'rewards': -np.linalg.norm(points + 0.2 * actions, axis=-1).reshape(-1).astype(np.float32),
        'terminals': ends.reshape(-1),
        'masks': np.ones(trajectories * LENGTH, np.float32),
    }


def train(directory: pathlib.Path, *, dataset=None, preset=None, resume=False, overwrite=False, **fields) -> int:
    """A run of Tiny in this process; its exit status. `fields` come on top of FIELDS, and of the saved ones."""
    from fql_jax import api

    return api.run(
        fields if resume else {name: value for name, value in FIELDS.items() if name != 'env'} | fields,
        make_env=Tiny,
        dataset=arrays() if dataset is None else dataset,
        preset=preset,
        workdir=str(directory),
        resume=resume,
        overwrite=overwrite,
    )


def share_programs(monkeypatch, drivers: dict = {}) -> None:  # noqa: B006  (shared is what it is for)
    """Runs with the same settings share one driver, so that a session traces each program once; plots are not drawn."""
    from core_jax import plots
    from fql_jax import api

    build = api.build

    def shared(config, rows, **keywords):
        shapes = {name: array.shape for name, array in rows.items()}
        static = [
            config[name]
            for name in ('hidden_dims', 'batch_size', 'alpha', 'learning_rate', 'tau', 'discount', 'flow_steps')
        ]
        if config.online_steps:
            static.append(config.to_dict())
        name = repr((static, shapes, keywords | {'seeds': len(keywords['seeds'])}))
        if name not in drivers:
            drivers[name] = build(config, rows, **keywords)
        driver, learner = drivers[name]
        driver.carry, driver.updates, driver.seeds = None, 0, np.asarray(keywords['seeds'], np.uint32)
        if config.online_steps:
            driver.environment_steps, driver.calls, driver._memory = 0, 0, None
        return driver, learner

    monkeypatch.setattr(api, 'build', shared)
    monkeypatch.setattr(plots, 'learning_curve', lambda rows, path, title: path)


def stop_at(monkeypatch, step: int, number: int) -> None:
    """Sends this process the signal `number` as soon as update `step` has been made."""
    from core_jax import loop

    def advance(pace, limit):
        pace._driver.advance(1)
        pace._driver.wait()
        if pace._driver.updates == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop._Pace, 'advance', advance)


def stop_in_evaluation(monkeypatch, step: int, number: int) -> None:
    """Sends this process the signal `number` at the third action call of the evaluation at `step`."""
    from fql_jax import api

    evaluate, host_act = api.Evaluation.__call__, api.host_act

    def evaluation(self, now, policies, stop):
        def wrapped(act, policy):
            calls, inner = iter(range(1000)), host_act(act, policy)

            def counted(*arguments):
                if next(calls) == 2 and now == step:
                    os.kill(os.getpid(), number)
                return inner(*arguments)

            return counted

        monkeypatch.setattr(api, 'host_act', wrapped)
        return evaluate(self, now, policies, stop)

    monkeypatch.setattr(api.Evaluation, '__call__', evaluation)


def program(module: str, *words: str, **environment: str) -> subprocess.Popen:
    """`python -m module words`, as a user starts it, with this folder importable."""
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    variables = os.environ | {'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1'} | environment
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen([sys.executable, '-m', module, *words], env=variables, **pipes)


def flags(fields: dict) -> list[str]:
    """Fields as the words of a command line."""
    return [f'--config.{name}={value}' for name, value in fields.items()]


def rows(directory: pathlib.Path) -> list[dict]:
    """metrics.jsonl without the fields that the clock decides."""
    from core_jax.runs import WALL_CLOCK

    lines = (directory / 'metrics.jsonl').read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in WALL_CLOCK} for line in lines]


def summary(directory: pathlib.Path) -> dict:
    return json.loads((directory / 'summary.json').read_text())


def leaves(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint on one device, read with Orbax alone."""
    import jax
    import orbax.checkpoint as ocp

    newest = max((directory / 'checkpoints').glob('[0-9]' * 10)).absolute()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {}
    for name, described in json.loads((newest / 'manifest.json').read_text())['leaves'].items():
        dtype, shape = described.removesuffix(']').split('[')
        dtype = jax.random.key(0).dtype if dtype.startswith('key<') else np.dtype(dtype)
        target[name] = jax.ShapeDtypeStruct(tuple(int(n) for n in shape.split(',') if n), dtype, sharding=here)
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(newest / 'state', args=ocp.args.StandardRestore(target))
    keys = {name for name in tree if jax.dtypes.issubdtype(tree[name].dtype, jax.dtypes.prng_key)}
    return {name: np.asarray(jax.random.key_data(leaf) if name in keys else leaf) for name, leaf in tree.items()}


def content(directory: pathlib.Path) -> dict[str, bytes]:
    """Every file below `directory`, to see that nothing changed; without the lock, which says who looked last."""
    files = (path for path in sorted(directory.rglob('*')) if path.is_file() and path.name != '.lock')
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    """Bit-identical, the clock aside: rows, evaluation table, final checkpoint, policy, summary."""
    from core_jax.runs import WALL_CLOCK

    assert rows(one) == rows(other)
    left, right = leaves(one), leaves(other)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name, strict=True)
    assert _table(one, WALL_CLOCK) == _table(other, WALL_CLOCK)
    if (one / 'policy.npz').exists():
        with np.load(one / 'policy.npz') as a, np.load(other / 'policy.npz') as b:
            names = [name for name in a.files if name != 'config.json']
            assert names and a.files == b.files
            for name in names:
                np.testing.assert_array_equal(a[name], b[name], strict=True)
        assert summary(one)['metrics'] == summary(other)['metrics'] != {}


def _table(directory: pathlib.Path, left_out: tuple[str, ...]) -> list[dict]:
    import csv

    path = directory / 'eval.csv'
    if not path.exists():
        return []
    with open(path, newline='') as file:
        return [{k: v for k, v in row.items() if k not in left_out} for row in csv.DictReader(file)]
