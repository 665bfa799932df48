"""Every preset loads, its header says how to call it and whose its figures are, and its numbers are those typed here.

The tables are the commands in the README of the released FQL, except where a comment says otherwise.
"""

import pathlib
import re

import pytest

from core_jax.cli import load_preset
from fql_jax import settings, tasks

ROOT = pathlib.Path(__file__).parents[2] / 'configs' / 'fql'
PRESETS = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py'))
MIN = {'q_agg': 'min'}

# preset: (env, alpha, discount, what else differs from the settings of all)
OFFLINE = {
    'antmaze_large': ('antmaze-large-navigate-singletask-v0', 10, 0.99, MIN),
    'antmaze_giant': ('antmaze-giant-navigate-singletask-v0', 10, 0.995, MIN),
    'humanoidmaze_medium': ('humanoidmaze-medium-navigate-singletask-v0', 30, 0.995, {}),
    'humanoidmaze_large': ('humanoidmaze-large-navigate-singletask-v0', 30, 0.995, {}),
    'antsoccer_arena': ('antsoccer-arena-navigate-singletask-v0', 10, 0.995, {}),
    'cube_single': ('cube-single-play-singletask-v0', 300, 0.99, {}),
    'cube_double': ('cube-double-play-singletask-v0', 300, 0.99, {}),
    'scene': ('scene-play-singletask-v0', 300, 0.99, {}),
    'puzzle_3x3': ('puzzle-3x3-play-singletask-v0', 1000, 0.99, {}),
    'puzzle_4x4': ('puzzle-4x4-play-singletask-v0', 1000, 0.99, {}),
}
VISUAL = {
    'cube_single': ('visual-cube-single-play-singletask-task1-v0', 300),
    'cube_double': ('visual-cube-double-play-singletask-task1-v0', 100),
    'scene': ('visual-scene-play-singletask-task1-v0', 100),
    'puzzle_3x3': ('visual-puzzle-3x3-play-singletask-task1-v0', 300),
    'puzzle_4x4': ('visual-puzzle-4x4-play-singletask-task1-v0', 300),
}
D4RL = {
    'antmaze-umaze-v2': (10, 'mean'),
    'antmaze-umaze-diverse-v2': (10, 'mean'),
    'antmaze-medium-play-v2': (10, 'mean'),
    'antmaze-medium-diverse-v2': (10, 'mean'),
    'antmaze-large-play-v2': (3, 'mean'),
    'antmaze-large-diverse-v2': (3, 'mean'),
    'pen-human-v1': (10000, 'min'),
    'pen-cloned-v1': (10000, 'min'),
    'pen-expert-v1': (3000, 'min'),
    'door-human-v1': (30000, 'min'),
    'door-cloned-v1': (30000, 'min'),
    'door-expert-v1': (30000, 'min'),
    'hammer-human-v1': (30000, 'min'),
    'hammer-cloned-v1': (10000, 'min'),
    'hammer-expert-v1': (30000, 'min'),
    'relocate-human-v1': (10000, 'min'),
    'relocate-cloned-v1': (30000, 'min'),
    'relocate-expert-v1': (30000, 'min'),
}
ONLINE = {
    'humanoidmaze_medium': ('humanoidmaze-medium-navigate-singletask-v0', 100, 0.995, 'mean'),
    'antsoccer_arena': ('antsoccer-arena-navigate-singletask-v0', 30, 0.995, 'mean'),
    'cube_double': ('cube-double-play-singletask-v0', 300, 0.99, 'mean'),
    'scene': ('scene-play-singletask-v0', 300, 0.99, 'mean'),
    'puzzle_4x4': ('puzzle-4x4-play-singletask-v0', 1000, 0.99, 'mean'),
    'd4rl_antmaze_umaze': ('antmaze-umaze-v2', 10, 0.99, 'mean'),
    'd4rl_antmaze_umaze_diverse': ('antmaze-umaze-diverse-v2', 10, 0.99, 'mean'),
    'd4rl_antmaze_medium_play': ('antmaze-medium-play-v2', 10, 0.99, 'mean'),
    'd4rl_antmaze_medium_diverse': ('antmaze-medium-diverse-v2', 10, 0.99, 'mean'),
    'd4rl_antmaze_large_play': ('antmaze-large-play-v2', 3, 0.99, 'mean'),
    'd4rl_antmaze_large_diverse': ('antmaze-large-diverse-v2', 3, 0.99, 'mean'),
    'd4rl_pen_cloned': ('pen-cloned-v1', 1000, 0.99, 'min'),
    'd4rl_door_cloned': ('door-cloned-v1', 1000, 0.99, 'min'),
    'd4rl_hammer_cloned': ('hammer-cloned-v1', 1000, 0.99, 'min'),
    'd4rl_relocate_cloned': ('relocate-cloned-v1', 10000, 0.99, 'min'),
}
SIZE = {'learning_rate': 3e-4, 'batch_size': 256, 'hidden_dims': (512,) * 4, 'tau': 0.005, 'eval_episodes': 50}

# environment: (IQL's alpha, ReBRAC's two, IFQL's samples, FBRAC's alpha or None), from memory but for *.
BASELINES = {
    'antmaze_large': (10, (0.003, 0.01), 32, None),
    'antmaze_giant': (10, (0.003, 0.01), 32, None),
    'humanoidmaze_medium': (10, (0.01, 0.01), 32, 30),  # * the first three: examples in the README
    'humanoidmaze_large': (10, (0.01, 0.01), 32, 30),
    'antsoccer_arena': (1, (0.01, 0.01), 64, 30),
    'cube_single': (1, (1, 0), 32, 100),
    'cube_double': (0.3, (0.1, 0), 32, 100),
    'scene': (10, (0.1, 0.01), 32, 100),
    'puzzle_3x3': (10, (0.3, 0.01), 32, 100),
    'puzzle_4x4': (3, (0.3, 0.01), 32, 300),
}
FAWAC = {
    'antmaze_large': 6.4,
    'humanoidmaze_medium': 6.4,
    'scene': 6.4,
    'cube_double': 0.8,
    'cube_single': 0.8,
}  # QAM's
# From the releases of QC and QAM; all on cube-double.
SUCCESSORS = {
    'qc_fql': {'horizon': 5, 'alpha': 100, 'policy': 'onestep', 'act_samples': 1, 'target_samples': 1},
    'qc': {'horizon': 5, 'policy': 'flow', 'act_samples': 32, 'target_samples': 32},
    'bfn': {'horizon': 1, 'policy': 'flow', 'act_samples': 4, 'target_samples': 4},
    'fql_ensemble': {'horizon': 5, 'alpha': 300, 'num_critics': 10, 'pessimism': 0.5},
}


def load(name: str):
    return settings.resolve({}, preset=load_preset(str(ROOT / f'{name}.py')))


def assert_has(config, **wanted) -> None:
    assert {name: config[name] for name in wanted} == wanted


def folder(name: str) -> set[str]:
    return {path.stem for path in (ROOT / name).glob('*.py')}


@pytest.mark.parametrize('name', PRESETS)
def test_loads_and_says_what_it_is(name):
    config = load(name.removesuffix('.py'))
    tasks.resolve(config.env)
    text = (ROOT / name).read_text()
    assert text.startswith('"""')
    header = text.split('"""')[1]
    assert f'\n\n    python -m fql_jax.main --config=configs/fql/{name}\n\n' in header
    figures = [part for part in header.split('\n\n')[2:] if re.match('Paper|Released data|Others|Expected', part)]
    assert figures
    words = ' '.join(' '.join(figures).split())
    if re.search(r'\d +%|\d normalised', words):
        assert re.search('third party|from memory, unverified|re-run with released per-seed data', words)


@pytest.mark.parametrize('name', OFFLINE)
def test_offline(name):
    env, alpha, discount, more = OFFLINE[name]
    config = load(f'offline/{name}')
    assert_has(config, agent='fql', env=env, alpha=alpha, discount=discount, steps=1_000_000, **SIZE)
    assert_has(config, **{'q_agg': 'mean', 'horizon': 1, 'online_steps': 0} | more)
    task = tasks.resolve(env)
    assert (task.alpha, task.discount, task.q_agg) == (alpha, discount, config.q_agg)


@pytest.mark.parametrize('name', VISUAL)
def test_visual(name):
    env, alpha = VISUAL[name]
    config = load(f'visual/{name}')
    assert_has(config, agent='fql', env=env, alpha=alpha, discount=0.99, q_agg='mean', steps=500_000, **SIZE)
    assert_has(config, encoder='impala_small', p_aug=0.5, frame_stack=3)
    task = tasks.resolve(env)
    assert (task.alpha, task.number) == (alpha, 1)


@pytest.mark.parametrize('name', D4RL)
def test_d4rl(name):
    alpha, q_agg = D4RL[name]
    config = load(f'd4rl/{name[:-3].replace("-", "_")}')
    assert_has(config, agent='fql', env=name, alpha=alpha, discount=0.99, q_agg=q_agg, steps=500_000, **SIZE)
    task = tasks.resolve(name)
    assert (task.alpha, task.discount, task.q_agg) == (alpha, 0.99, q_agg)


@pytest.mark.parametrize('name', ONLINE)
def test_online(name):
    env, alpha, discount, q_agg = ONLINE[name]
    config = load(f'online/{name}')
    assert_has(config, agent='fql', env=env, alpha=alpha, discount=discount, q_agg=q_agg, **SIZE)
    assert_has(config, steps=1_000_000, online_steps=1_000_000, utd=1.0, warmup=0, balanced_sampling=False)


@pytest.mark.parametrize('name', BASELINES)
def test_baselines(name):
    iql, (alpha_actor, alpha_critic), samples, fbrac = BASELINES[name]
    env, _, discount, _ = OFFLINE[name]
    same = {'env': env, 'discount': discount, 'steps': 1_000_000} | SIZE
    assert_has(load(f'baselines/iql_{name}'), agent='iql', alpha=iql, expectile=0.9, actor_loss='awr', **same)
    rebrac = load(f'baselines/rebrac_{name}')
    assert_has(rebrac, agent='rebrac', alpha_actor=alpha_actor, alpha_critic=alpha_critic, released=False, **same)
    assert_has(load(f'baselines/ifql_{name}'), agent='ifql', num_samples=samples, expectile=0.9, flow_steps=10, **same)
    if fbrac:
        assert_has(load(f'baselines/fbrac_{name}'), agent='fbrac', alpha=fbrac, flow_steps=10, **same)
    if name in FAWAC:
        assert_has(load(f'baselines/fawac_{name}'), agent='fawac', inv_temp=FAWAC[name], flow_steps=10, **same)
    for agent in ('iql', 'rebrac', 'ifql', 'fbrac'):
        file = ROOT / 'baselines' / f'{agent}_{name}.py'
        verified = name == 'humanoidmaze_medium' and agent != 'fbrac'
        if file.exists():
            assert ('from memory, unverified' in file.read_text().split('"""')[2]) != verified


def test_the_other_baselines():
    pixels = {'env': VISUAL['cube_single'][0], 'steps': 500_000}
    pixels |= {'encoder': 'impala_small', 'p_aug': 0.5, 'frame_stack': 3}
    assert_has(load('baselines/iql_visual_cube_single'), agent='iql', alpha=1, **pixels)
    assert_has(load('baselines/rebrac_visual_cube_single'), agent='rebrac', alpha_actor=1, alpha_critic=0, **pixels)
    assert_has(load('baselines/ifql_visual_cube_single'), agent='ifql', num_samples=32, **pixels)
    assert_has(load('baselines/rebrac_released'), agent='rebrac', alpha_actor=1, alpha_critic=0, released=True)
    rlpd = load('baselines/rlpd_cube_double')
    assert_has(rlpd, agent='rlpd', steps=0, online_steps=1_000_000, balanced_sampling=True, utd=1.0)
    for agent in ('bc', 'flow_bc', 'idql'):
        assert_has(load(f'baselines/{agent}_cube_single'), agent=agent, env='cube-single-play-singletask-v0')


@pytest.mark.parametrize('name', SUCCESSORS)
def test_successors(name):
    wanted = {'agent': 'fql', 'env': 'cube-double-play-singletask-v0', 'sparse_rewards': False} | SUCCESSORS[name]
    assert_has(load(f'successors/{name}'), **wanted)


def test_there_is_a_file_for_every_row_and_no_other():
    assert folder('offline') == OFFLINE.keys() and len(OFFLINE) == 10
    assert folder('visual') == VISUAL.keys() and len(VISUAL) == 5
    assert folder('d4rl') == {name[:-3].replace('-', '_') for name in D4RL} and D4RL.keys() == set(tasks.D4RL)
    assert folder('online') == ONLINE.keys() and len(ONLINE) == 15
    assert folder('successors') == SUCCESSORS.keys()
    per_task = {f'{agent}_{name}' for name in BASELINES for agent in ('iql', 'rebrac', 'ifql')}
    per_task |= {f'fbrac_{name}' for name, row in BASELINES.items() if row[3]} | {f'fawac_{name}' for name in FAWAC}
    others = {'rebrac_released', 'rlpd_cube_double', 'bc_cube_single', 'flow_bc_cube_single', 'idql_cube_single'}
    pixels = {f'{agent}_visual_cube_single' for agent in ('iql', 'rebrac', 'ifql')}
    assert folder('baselines') == per_task | others | pixels
