"""The experts that made OGBench's data, driven one episode at a time.

An episode is a function of (seed, index) alone: every generator that it draws from is seeded at its start. What is
drawn, and from which distributions, is what OGBench's own generators draw (arXiv 2410.20092; seohongpark/ogbench,
data_gen_scripts).

    cube, scene, puzzle  play      an open-loop plan between key frames, with noise that is correlated in time
                         noisy     a closed-loop expert with Gaussian noise, and now and then a random action
    pointmaze, antmaze   navigate  to the neighbouring cell that is nearest to the goal; a new goal at each arrival
                         stitch    the same to a goal that is four cells away, where it stays
    antmaze              explore   in a random direction, another one every ten steps, with much noise

All but the ant are scripted; the ant is told the direction and walks as `fql_jax.ant_expert` has trained it.

Each row of an episode is a state and the action taken there; the last row is the final state, whose action leads
nowhere, flagged terminal.
"""

from __future__ import annotations

import itertools

import numpy as np

from core_jax.errors import UserError, unknown
from fql_jax import envs
from fql_jax.ant_oracle import Expert
from fql_jax.tasks import Task

NOISE = 0.1  # of the plan, and the upper bound of the closed-loop experts' noise level
NOISE_SMOOTHING = 0.5  # standard deviation in time of the plan's noise, in steps
MIN_NORM = 0.4  # the closed-loop experts never ask for a smaller move
MAZE_NOISE = {'pointmaze': 0.5, 'antmaze': 0.2}
EXPLORATION_NOISE = 1.0
EXPLORATION_STEPS = 10  # in one direction
STITCH_CELLS = 4  # from the start to the goal of 'stitch'
RANDOM_ACTIONS = {'cube': 0.1, 'scene': 0.1, 'puzzle': 0.2}  # probability at each step of 'noisy'
# How often a cube's target is on top of another cube: bounds of a probability drawn for each episode.
STACKING = {
    'cube-single': (0.0, 0.0),
    'cube-double': (0.0, 0.25),
    'cube-triple': (0.05, 0.35),
    'cube-quadruple': (0.1, 0.5),
    'cube-octuple': (0.0, 0.35),
}
DTYPES = {'terminals': np.bool_, 'button_states': np.int64}  # everything else is float32


def collectable(task: Task) -> tuple[str, ...]:
    """The kinds of data that can be collected for `task`: the others take an expert or a renderer that is not here."""
    offered = dict.fromkeys(RANDOM_ACTIONS, ('play', 'noisy')) | dict.fromkeys(MAZE_NOISE, task.kinds)
    if task.environment.startswith('visual-'):
        return ()
    return tuple(kind for kind in task.kinds if kind in offered.get(task.family, ()))


def takes_expert(task: Task) -> bool:
    """Whether the data of `task` are collected with a trained expert."""
    return task.family == 'antmaze'


def make(task: Task, kind: str, length: int, expert: Expert | None = None) -> Manipulation | Navigation:
    """An object whose episode(seed, index) gives one episode of `length` transitions, as arrays [length + 1, ...].

    expert: where `takes_expert`, who moves. Keys of an episode: observations, actions, terminals, qpos, qvel and, where
    there are buttons, button_states. Raises UserError for a kind that cannot be collected.
    """
    check(task, kind)
    if task.family not in MAZE_NOISE:
        return Manipulation(task, kind, length)
    if takes_expert(task) and expert is None:
        raise ValueError(f'{task.environment} takes an expert')
    return Navigation(task, kind, length, expert)


def check(task: Task, kind: str) -> None:
    """Raises UserError for a kind of data that cannot be collected for `task`."""
    offered = collectable(task)
    if not offered:
        raise UserError(f'data of {task.environment} cannot be collected here: it takes another expert, or a renderer')
    if kind not in offered:
        raise unknown(f'kind of data for {task.environment}', kind, offered)


def _seed(*path: int) -> int:
    return int(np.random.SeedSequence(path).generate_state(1)[0])


class Manipulation:
    """A robot arm that is given one target after the other."""

    def __init__(self, task: Task, kind: str, length: int):
        self._env = envs.make(
            f'{task.environment}-v0', mode='data_collection', terminate_at_goal=False, max_episode_steps=length + 1
        )
        _describe_once(self._env.unwrapped)
        self._family, self._noisy = task.family, kind == 'noisy'
        self._stacking = STACKING.get(task.environment, (0.5, 0.5))
        self._experts = _experts(self._env, task.family, self._noisy)

    def episode(self, seed: int, index: int) -> dict[str, np.ndarray]:
        for attempt in itertools.count():
            rows = self._roll(_seed(seed, index, attempt))
            if self._family != 'scene' or _cube_in_sight(rows['qpos'][:, 14:17]):
                return rows

    def _roll(self, seed: int) -> dict[str, np.ndarray]:
        env, rows = self._env, _Rows()
        observation, info = env.reset(seed=seed)
        stacking = np.random.uniform(*self._stacking)
        level = np.random.uniform(0, NOISE) * np.array([1, 1, 1, 3, 10]) if self._noisy else 0.0
        random_actions = RANDOM_ACTIONS[self._family] if self._noisy else 0.0
        expert = self._experts[info['privileged/target_task']]
        expert.reset(observation, info)
        done = False
        while not done:
            if np.random.rand() < random_actions:
                action = env.action_space.sample()
            else:
                action = np.array(expert.select_action(observation, info))
                if self._noisy:
                    action = action + np.random.normal(0, level, action.shape)
            action = np.clip(action, -1, 1)
            next_observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            rows.add(observation, action, done, info)
            observation = next_observation
            if expert.done:
                # The expert's next action still sees `info` from before the new target, as in OGBench's generator.
                expert_observation, expert_info = env.unwrapped.set_new_target(p_stack=stacking)
                expert = self._experts[expert_info['privileged/target_task']]
                expert.reset(expert_observation, expert_info)
        return rows.arrays()


def _describe_once(env) -> None:
    """Lets the environment describe each state once instead of three times: the same numbers in less time."""
    base = type(env)

    class Once(base):
        _described = None

        def compute_ob_info(self):
            if self._described is None:
                self._described = super().compute_ob_info()
            return self._described

        def initialize_episode(self):
            self._described = None
            super().initialize_episode()
            self._described = None

        def post_step(self):
            super().post_step()
            self._described = None

        def set_new_target(self, *args, **kwargs):
            self._described = None
            return super().set_new_target(*args, **kwargs)

    env.__class__ = Once


def _experts(env, family: str, noisy: bool) -> dict:
    """The expert for each thing that can be a target."""
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    closed = {'gripper_always_closed': True} if family == 'puzzle' else {}
    if noisy:
        options = {'env': env, 'min_norm': MIN_NORM}
        makers = {
            'cube': lambda: cube_markov.CubeMarkovOracle(**options, max_step=100 if family == 'scene' else 200),
            'button': lambda: button_markov.ButtonMarkovOracle(**options, **closed),
            'drawer': lambda: drawer_markov.DrawerMarkovOracle(**options),
            'window': lambda: window_markov.WindowMarkovOracle(**options),
        }
    else:
        options = {'env': env, 'noise': NOISE, 'noise_smoothing': NOISE_SMOOTHING}
        makers = {
            'cube': lambda: cube_plan.CubePlanOracle(**options),
            'button': lambda: button_plan.ButtonPlanOracle(**options, **closed),
            'drawer': lambda: drawer_plan.DrawerPlanOracle(**options),
            'window': lambda: window_plan.WindowPlanOracle(**options),
        }
    targets = {'cube': ('cube',), 'puzzle': ('button',)}.get(family, tuple(makers))
    return {target: makers[target]() for target in targets}


def _cube_in_sight(xyz: np.ndarray) -> bool:
    """Whether the cube [rows, 3] never left the picture, unless into the drawer: other scenes are thrown away."""
    y, z = xyz[:, 1], xyz[:, 2]
    in_drawer = (z >= 0.06) & (z <= 0.08)
    return not np.any((y >= 0.29) | ((y <= -0.3) & ~in_drawer))


class Navigation:
    """A point, or an ant led by an expert, that walks through a maze."""

    def __init__(self, task: Task, kind: str, length: int, expert: Expert | None):
        self._env = envs.make(f'{task.environment}-v0', terminate_at_goal=False, max_episode_steps=length + 1)
        maze = self._env.unwrapped.maze_map
        self._kind, self._expert = kind, expert
        self._noise = EXPLORATION_NOISE if kind == 'explore' else MAZE_NOISE[task.family]
        self._cells = [(int(i), int(j)) for i, j in np.argwhere(maze == 0)]
        self._goals = [cell for cell in self._cells if not _is_hallway(maze, *cell)]

    def episode(self, seed: int, index: int) -> dict[str, np.ndarray]:
        env, maze, rows = self._env, self._env.unwrapped, _Rows()
        chooser = np.random.default_rng(_seed(seed, index, 1))
        start = self._pick(self._cells, chooser)
        goals = self._near(start) if self._kind == 'stitch' else self._goals
        ends = {'init_ij': start, 'goal_ij': self._pick(goals, chooser)}
        observation, _ = env.reset(seed=_seed(seed, index, 0), options={'task_info': ends})
        for step in itertools.count():
            if self._kind != 'explore':
                direction = self._towards_goal()
            elif step % EXPLORATION_STEPS == 0:
                direction = _unit(np.random.randn(2))
            action = direction if self._expert is None else self._expert(observation[2:], direction)
            action = np.clip(action + np.random.normal(0, self._noise, action.shape), -1, 1)
            next_observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            rows.add(observation, action, done, info)
            if done:
                return rows.arrays()
            observation = next_observation
            if info['success'] and self._kind == 'navigate':
                maze.set_goal(self._pick(self._goals, chooser))

    def _towards_goal(self) -> np.ndarray:
        maze = self._env.unwrapped
        here = maze.get_xy()
        subgoal, _ = maze.get_oracle_subgoal(here, maze.cur_goal_xy)
        return _unit(subgoal - here)

    def _near(self, cell: tuple[int, int]) -> list[tuple[int, int]]:
        """The cells that are `STITCH_CELLS` away; the cell itself where there is none."""
        maze = self._env.unwrapped
        here = maze.ij_to_xy(cell)
        _, distances = maze.get_oracle_subgoal(here, here)
        return [(int(i), int(j)) for i, j in np.argwhere(distances == STITCH_CELLS)] or [cell]

    @staticmethod
    def _pick(cells: list, chooser: np.random.Generator) -> tuple[int, int]:
        return cells[chooser.integers(len(cells))]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / (np.linalg.norm(vector) + 1e-6)


def _is_hallway(maze: np.ndarray, i: int, j: int) -> bool:
    """Whether the free cell (i, j) only continues its two opposite neighbours: goals are at ends, bends, crossings."""
    up, down, left, right = maze[i - 1, j], maze[i + 1, j], maze[i, j - 1], maze[i, j + 1]
    return (up, down, left, right) in ((0, 0, 1, 1), (1, 1, 0, 0))


class _Rows:
    """The rows of an episode as they come."""

    def __init__(self):
        self._lists: dict[str, list] = {}

    def add(self, observation, action, done: bool, info: dict) -> None:
        row = {
            'observations': observation,
            'actions': action,
            'terminals': done,
            # Of the state that `observation` shows: rewards are relabelled from these.
            'qpos': info['prev_qpos'],
            'qvel': info['prev_qvel'],
        }
        if 'prev_button_states' in info:
            row['button_states'] = info['prev_button_states']
        for key, value in row.items():
            self._lists.setdefault(key, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        return {key: np.array(rows, DTYPES.get(key, np.float32)) for key, rows in self._lists.items()}
