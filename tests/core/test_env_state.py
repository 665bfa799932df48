"""Environments that go on in another object: every bit that they show, over ends of episodes and unseeded resets."""

import collections
import dataclasses
import enum
import functools
import json
import random
import types

import envs
import gymnasium
import mujoco
import numpy as np
import pytest

from core_jax import env_state
from core_jax.errors import UserError


def roll(env, actions):
    """All that the environment says, as bytes. Resets without a seed where an episode ends."""
    said = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        said.append((observation.tobytes(), np.float64(reward).tobytes(), terminated, truncated))
        if terminated or truncated:
            said.append(env.reset()[0].tobytes())
    return said


def goes_on_exactly(make_env, steps, before=15, after=40):
    """Whether a new environment goes on as the old one. Whatever was saved goes through JSON."""
    env = make_env()
    env.reset(seed=3)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(before + after)]
    roll(env, actions[:before])
    saved = json.dumps(env_state.snapshot(env))
    expected = roll(env, actions[before:])
    assert sum(isinstance(said, bytes) for said in expected) >= steps  # episodes ended
    np.random.seed(17)
    new = make_env()
    env_state.restore(new, json.loads(saved))
    assert json.dumps(env_state.snapshot(new)) == saved
    return roll(new, actions[before:]) == expected


class Arm(gymnasium.Env):
    """An arm whose controller reads, as OGBench's do, where the last substep left the hand before it steps.

    A ball hits it, so the solver's warm start counts; each reset moves a goal that is part of the model, and a
    restored random number is part of the observation.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (14,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    XML = """<mujoco><worldbody>
        <geom type="plane" size="2 2 .1"/>
        <geom name="goal" type="sphere" size=".01" contype="0" conaffinity="0"/>
        <body pos="0 0 .3"><joint name="elbow" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
          <site name="hand" pos=".3 0 0"/></body>
        <body pos=".2 .01 .6"><freejoint/><geom size=".05"/></body></worldbody>
        <actuator><motor joint="elbow" gear="2"/></actuator></mujoco>"""

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(self.XML)
        self.data = mujoco.MjData(self.model)
        self.hand = self.data.site('hand').xpos
        self.qpos = self.data.qpos  # a look into MuJoCo's own memory

    def observe(self):
        return np.concatenate([self.qpos, self.hand, self.model.geom('goal').pos])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.model.geom('goal').pos = self.np_random.uniform(-1, 1, 3)
        mujoco.mj_forward(self.model, self.data)
        return self.observe(), {}

    def step(self, action):
        self.data.ctrl[:] = action + 10 * (self.hand[2] - 0.4)
        mujoco.mj_step(self.model, self.data, nstep=10)
        return self.observe(), 0.0, False, False, {}


def limited_arm():
    return gymnasium.wrappers.TimeLimit(Arm(), 25)


WRAPPED = ('FrameStackObservation', 'NormalizeObservation', 'NormalizeReward', 'RecordEpisodeStatistics')


def wrapped(name):
    env = gymnasium.make('Pendulum-v1', max_episode_steps=12)
    return getattr(gymnasium.wrappers, name)(env, **({'stack_size': 3} if name == 'FrameStackObservation' else {}))


@pytest.mark.parametrize(
    'make_env',
    [
        functools.partial(gymnasium.make, 'Pendulum-v1', max_episode_steps=12),
        functools.partial(envs.Walk, limit=7),
        functools.partial(envs.Gusty, limit=7),
        envs.Pictures,
        limited_arm,
    ],
)
def test_goes_on_exactly(make_env):
    assert goes_on_exactly(make_env, steps=1)


@pytest.mark.parametrize('name', WRAPPED[:3])
def test_wrappers_go_on_exactly(name):
    assert goes_on_exactly(functools.partial(wrapped, name), steps=3)


def test_positions_and_velocities_alone_diverge():
    """So do they with a mj_forward: the tests above can fail."""
    for forward in (False, True):
        env, new = Arm(), Arm()
        for other in (env, new):
            other.reset(seed=0)
        actions = np.random.default_rng(0).uniform(-1, 1, (60, 1))
        roll(env, actions[:30])
        new.data.qpos[:], new.data.qvel[:] = env.data.qpos, env.data.qvel
        if forward:
            mujoco.mj_forward(new.model, new.data)
        assert roll(new, actions[30:]) != roll(env, actions[30:])


def test_a_small_array_of_a_model_is_restored_and_a_large_one_must_be_as_it_was():
    xml = """<mujoco><asset><texture name="t" type="2d" builtin="flat" width="200" height="200"/></asset>
        <worldbody><geom size="1"/></worldbody></mujoco>"""

    def make_env():
        env = envs.Walk()
        env.model = mujoco.MjModel.from_xml_string(xml)
        return env

    env = make_env()
    env.model.geom_rgba[:], env.model.opt.timestep, env.model.vis.rgba.fog[:] = 0.25, 0.125, 0.5
    saved = env_state.snapshot(env)
    new = make_env()
    env_state.restore(new, saved)
    assert (new.model.geom_rgba == 0.25).all() and new.model.opt.timestep == 0.125
    assert (new.model.vis.rgba.fog == 0.5).all()
    env.model.tex_data[0] += 1
    with pytest.raises(UserError, match=r'had changed env\.model\.tex_data'):
        env_state.restore(new, env_state.snapshot(env))
    env.model = mujoco.MjModel.from_xml_string('<mujoco/>')
    with pytest.raises(UserError, match=r'env\.model was compiled from another model'):
        env_state.restore(new, env_state.snapshot(env))


# What an environment may hold


class Mode(enum.Enum):
    OPEN = 1
    SHUT = 2


@dataclasses.dataclass(frozen=True)
class Pose:
    at: np.ndarray


class Slotted:
    __slots__ = ('here', '__there')

    def __init__(self, here):
        self.here, self.__there = here, 2 * here

    def there(self):
        return self.__there


HOME, AWAY = Pose(np.zeros(2)), Pose(np.ones(2))
PLAIN = [
    *(None, True, 5, 2**100, 0.1, -0.0, float('inf'), 'text', b'bytes', (1, (2.5,)), [1, [2]], {'a': 1, (1, 2): [0.5]}),
    *({1, 2}, frozenset({3}), range(1, 9, 2), slice(1, None), collections.deque([1, 2], maxlen=2)),
    *(collections.OrderedDict(b=1, a=2), np.float32(0.1), np.int64(3), np.array(2.0), np.zeros((0, 3))),
    *(np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(['a', 'bc'])),
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2).copy('K'),
    np.array([1, 'a', None, [2]], object),
]


@pytest.mark.parametrize('value', PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data(value):
    got = env_state.unpack(json.loads(json.dumps(env_state.pack(value))))
    assert type(got) is type(value) and repr(got) == repr(value)
    if isinstance(value, np.ndarray):
        assert got.dtype == value.dtype and got.strides == value.strides and got.flags == value.flags


def test_generators():
    def draw(x):
        if isinstance(x, random.Random):
            return [x.random(), x.gauss(0, 1)]
        if isinstance(x, np.random.Generator):
            return [x.random(), *(child.random() for child in x.spawn(2))]
        return [x.normal()]

    generators = [random.Random(1), np.random.RandomState(2)]
    generators += [np.random.Generator(getattr(np.random, name)(3)) for name in ('MT19937', 'PCG64', 'Philox', 'SFC64')]
    for generator in generators:
        draw(generator)
        got = env_state.unpack(json.loads(json.dumps(env_state.pack(generator))))
        assert draw(got) == draw(generator) and draw(got) == draw(generator)


class Holder(envs.Walk):
    """What a careless copy gets wrong: two names of one thing, looks into arrays, constants of the module, cycles."""

    def __init__(self):
        super().__init__()
        self.goal = self.player = self.piece = None  # met before the lists that they are in
        self.goals = [{'at': np.zeros(2)}, {'at': np.ones(2)}]
        self.goal = self.goals[0]
        self.players = [types.SimpleNamespace(lives=3, foe=None), types.SimpleNamespace(lives=3, foe=None)]
        self.player = self.players[0]
        self.pieces = [types.SimpleNamespace(at=0), types.SimpleNamespace(at=1)]
        self.piece = self.pieces[0]
        self.grid = np.zeros((3, 4))
        self.column = self.grid[:, 1]
        self.pose, self.mode, self.slotted = HOME, Mode.OPEN, Slotted(1)
        self.draw = self.players.append
        self.noise = np.random.default_rng(0).normal
        self.shots = []

    def reset(self, *, seed=None, options=None):
        self.bonus = 0
        return super().reset(seed=seed)


class Shot:
    def __init__(self, height):
        self.height = height


def test_what_is_one_thing_stays_one_thing():
    env = Holder()
    env.reset(seed=0)
    env.goal, env.player, env.piece = env.goals[1], env.players[1], env.pieces[1]
    env.players[0].foe, env.players[1].foe, env.player.lives = env.players[1], env.players[0], 1
    env.column[2] = 7
    env.pose, env.mode, env.slotted = AWAY, Mode.SHUT, Slotted(5)
    env.shots.append(Shot(0.5))
    env.noise()
    del env.bonus
    saved = json.loads(json.dumps(env_state.snapshot(env)))
    new = Holder()
    env_state.restore(new, saved)
    assert new.goal is new.goals[1] and new.goals[0]['at'].tolist() == [0, 0] and new.goal['at'].tolist() == [1, 1]
    assert new.player is new.players[1] is new.players[0].foe and new.players[1].foe is new.players[0]
    assert [player.lives for player in new.players] == [3, 1]
    assert [piece.at for piece in new.pieces] == [0, 1] and new.piece is new.pieces[1]
    assert new.grid[2, 1] == 7 and np.shares_memory(new.grid, new.column)
    assert (new.mode, new.slotted.here, new.slotted.there()) == (Mode.SHUT, 5, 10)
    assert new.pose.at.tolist() == [1, 1] and HOME.at.tolist() == [0, 0]
    assert new.shots[0].height == 0.5  # of a class that stands beside the environment's
    assert new.draw.__self__ is new.players and new.noise() == env.noise()
    assert not hasattr(new, 'bonus')


@pytest.mark.parametrize(
    'value, shown',
    [
        ((n for n in [1]), 'builtins:generator'),
        (open(__file__), '_io:TextIOWrapper'),
        (type('Big', (int,), {})(3), 'Big'),
        ([np.zeros(2).view([('a', float)])], 'an array of records'),
        ({Shot(1): 1}, 'a key of env.value'),
    ],
)
def test_what_cannot_be_saved_is_named(value, shown):
    env = envs.Walk()
    env.value = value
    with pytest.raises(UserError, match=r'env\.value') as error:
        env_state.snapshot(env)
    assert shown in str(error.value) and '\n' not in str(error.value)
    if hasattr(value, 'close'):
        value.close()


def test_what_cannot_be_rebuilt_is_named():
    env = envs.Walk()
    env.value = [collections.UserDict()]
    with pytest.raises(UserError, match=r'env\.value\[0\] was collections:UserDict, and a new one has nothing there'):
        env_state.restore(envs.Walk(), env_state.snapshot(env))
    env.value = len
    new = envs.Walk()
    new.value = 5
    with pytest.raises(UserError, match=r'env\.value was builtins:builtin_function'):
        env_state.restore(new, env_state.snapshot(env))
    with pytest.raises(UserError, match=r'env was envs:Walk, and a new one has envs:Pictures there'):
        env_state.restore(envs.Pictures(), env_state.snapshot(env))
