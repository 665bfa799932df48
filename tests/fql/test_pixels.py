"""FQL from images, end to end: frames kept once and stacked by index, crops inside the update, online too."""

import signal

import jax
import numpy as np
import pytest
import tiny

import fql_jax
from core_jax.errors import UserError
from fql_jax import api

PIXELS = {
    'env': 'tiny:Seen-v0',
    'encoder': 'impala_debug',
    'frame_stack': 3,
    'p_aug': 0.5,
    'steps': 4,
    'online_steps': 8,
    'online_envs': 2,
    'log_interval': 4,
    'eval_interval': 0,
    'save_interval': 5,
}


def frames(trajectories: int = 6) -> dict[str, np.ndarray]:
    """Episodes of Seen under random actions, single frames."""
    rng, env, rows = np.random.default_rng(0), tiny.Seen(), []
    for seed in range(trajectories):
        image, _ = env.reset(seed=seed)
        for _ in range(tiny.LENGTH):
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            after, reward, _, ends, _ = env.step(action)
            rows.append((image, action, np.float32(reward), ends, np.float32(1)))
            image = after
    names = ('observations', 'actions', 'rewards', 'terminals', 'masks')
    return dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True))


def train(directory, resume=False, **fields):
    fields = {} if resume else tiny.FIELDS | PIXELS | fields
    return api.run(fields, dataset=frames(), preset={}, workdir=str(directory), resume=resume)


@pytest.mark.slow
def test_images_offline_and_online_and_resumed(tmp_path, monkeypatch):
    tiny.share_programs(monkeypatch)
    assert train(tmp_path / 'whole') == 0
    with monkeypatch.context() as patch:
        tiny.stop_at(patch, 9, signal.SIGTERM)
        assert train(tmp_path / 'run') == 128 + signal.SIGTERM
    assert train(tmp_path / 'run', resume=True) == 0
    tiny.assert_same_run(tmp_path / 'whole', tmp_path / 'run')

    leaves = tiny.leaves(tmp_path / 'whole')
    ring = [leaf for name, leaf in leaves.items() if name.startswith('data/') and leaf.dtype == np.uint8]
    assert [leaf.shape[-3:] for leaf in ring] == [(8, 8, 3)]  # one frame a row, and no next observations
    encoders = {name.split('/')[-5] for name in leaves if 'encoder' in name and name.endswith('kernel')}
    assert encoders  # the networks that act and judge have seen pictures
    policy = fql_jax.load_policy(tmp_path / 'whole')
    actions = policy(np.zeros((5, 8, 8, 9), np.uint8))
    assert actions.shape == (5, 2) and np.isfinite(actions).all()


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'encoder': ''}, r'images of shape \(8, 8, 3\), which need an encoder: --config.encoder=impala_small'),
        ({'agent': 'rlpd', 'steps': 0}, 'which need an encoder: an agent that has one'),
        ({'encoder': 'impala_smal'}, "unknown encoder 'impala_smal'; did you mean 'impala_small'"),
        ({'frame_stack': 2}, r'observations of shape \(8, 8, 6\), the environment \(8, 8, 9\)'),
    ],
)
def test_what_images_cannot_be(fields, message, tmp_path):
    given = {name: value for name, value in (tiny.FIELDS | PIXELS | fields).items()}
    if given.get('agent') == 'rlpd':
        given = {name: given[name] for name in ('env', 'agent', 'steps', 'hidden_dims', 'batch_size')}
    if 'frame_stack' in fields:  # an environment of one's own stacks for itself
        with pytest.raises(UserError, match=message):
            api.train(fields=given, preset={}, dataset=frames(), make_env=stacked, workdir=str(tmp_path / 'run'))
        return
    with pytest.raises(UserError, match=message):
        api.train(fields=given, preset={}, dataset=frames(), workdir=str(tmp_path / 'run'))


def stacked():
    from fql_jax.envs import Stacked

    return Stacked(tiny.Seen(), 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_real_visual_run(tmp_path):
    """visual-cube-single: frames rendered by MuJoCo, a few updates, one evaluation. Minutes, without a GPU."""
    from fql_jax import tasks

    task = tasks.resolve('visual-cube-single-singletask-task1-v0')
    try:
        env = tasks.make_env(task.gym_id)
    except UserError as error:
        pytest.skip(f'no renderer here: {error}')
    rng, (image, _) = np.random.default_rng(0), env.reset(seed=0)
    rows = []
    for step in range(20):
        action = rng.uniform(-1, 1, 5).astype(np.float32)
        after, reward, _, _, _ = env.step(action)
        rows.append((image, action, np.float32(reward), step == 19, np.float32(1)))
        image = after
    env.close()
    names = ('observations', 'actions', 'rewards', 'terminals', 'masks')
    data = dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True))
    assert data['observations'].shape == (20, 64, 64, 3) and data['observations'].dtype == np.uint8
    fields = {'env': task.gym_id, 'encoder': 'impala_small', 'frame_stack': 3, 'p_aug': 0.5, 'hidden_dims': (32,)}
    fields |= {'batch_size': 8, 'steps': 4, 'log_interval': 2, 'eval_episodes': 1, 'video': False, 'workers': 1}
    result = api.train(fields=fields, preset={}, dataset=data, workdir=str(tmp_path / 'run'))
    losses = [row['loss'] for row in tiny.rows(result.directory) if row['kind'] == 'train']
    assert len(losses) == 2 and np.isfinite(losses).all() and result.metrics['success']['n'] == 1
    assert jax.tree.leaves(fql_jax.load_policy(result.directory)._policy)
