"""From a config and data to a driver: the learner, where its batches come from, and how it lies on the mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import PartitionSpec

from core_jax import augment, replay, sources
from core_jax.datasets import fingerprint
from core_jax.driver import DeviceDriver, Numerics, Source
from core_jax.files import plain
from core_jax.host_driver import Feed, HostDriver
from core_jax.state import Learner
from fql_jax import settings

# Sharding rules of the state: wide kernels [in, out] split their output over `tensor` and their input over `fsdp`.
RULES = (
    (r'kernel$', PartitionSpec('fsdp', 'tensor')),
    (r'.*', PartitionSpec()),
)


def layout(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The device layout of the rows that `fql_jax.data` gives."""
    return replay.dataset(rows['observations'], rows['actions'], rows['rewards'], rows['masks'], rows['terminals'])


def build(
    config: ml_collections.ConfigDict,
    rows: dict[str, np.ndarray],
    *,
    mesh: jax.sharding.Mesh,
    numerics: Numerics,
    seeds: list[int],
    hparams: dict[str, list[float]] | None = None,
    feed: Feed | None = None,
) -> tuple[DeviceDriver, Learner]:
    """The learner on its driver; the data are still to be bound. Only the shapes of `rows` are used.

    With online steps the driver is fed by the host; `feed` may be set later.
    """
    learner = settings.agent_module(config.agent).make(config, rows['actions'].shape[-1])
    source = make_source(config, rows, mesh)
    common = {'mesh': mesh, 'seeds': seeds, 'hparams': hparams, 'numerics': numerics, 'rules': RULES}
    if not config.online_steps:
        return DeviceDriver(learner, source, **common), learner
    clocks = {'ratio': config.utd, 'warmup': config.warmup, 'lead': config.steps}
    return HostDriver(learner, source, feed=feed, **clocks, **common), learner


def make_source(config: ml_collections.ConfigDict, rows: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> Source:
    """Batches of the dataset; with online steps, of the dataset and of what was collected."""
    dataset = replay.dataset_spec(layout(rows), mesh)
    shape = {
        'horizon': config.get('horizon', 1),
        'frame_stack': config.frame_stack,
        'augment': _batch_transform(config),
    }
    if not config.online_steps:
        return sources.offline(dataset, config.batch_size, **shape)
    example = {name: np.zeros(rows[name].shape[1:], rows[name].dtype) for name in ('observations', 'actions')}
    example |= {'rewards': np.float32(0), 'masks': np.float32(0), 'valid': np.bool_(False)}
    return sources.online_rows(
        example,
        slots=config.online_envs,
        capacity=config.online_capacity or default_capacity(config.online_steps, config.online_envs),
        batch_size=config.batch_size,
        dataset=dataset,
        balanced=config.balanced_sampling,
        **shape,
    )


def default_capacity(steps: int, envs: int) -> int:
    """Rows for so many steps. An episode takes one more than it has steps: of episodes under 16, the oldest go."""
    return steps + steps // 16 + 2 * envs


def _batch_transform(config: ml_collections.ConfigDict) -> Callable[[jax.Array, dict], dict] | None:
    """What is done to each batch: images cropped, rewards made sparse."""
    steps: list[Callable[[jax.Array, dict], dict]] = []
    if config.p_aug > 0:
        steps.append(functools.partial(augment.random_crop, probability=config.p_aug))
    if config.sparse_rewards:
        steps.append(lambda key, batch: batch | {'rewards': -(batch['rewards'] != 0).astype(jnp.float32)})
    if not steps:
        return None
    return lambda key, batch: functools.reduce(lambda batch, step: step(key, batch), steps, batch)


def identity(config: ml_collections.ConfigDict, numerics: Numerics, rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a checkpoint must agree with: numerics, the data's bytes, and the fields that make it another run."""
    return {
        'paper': 'fql',
        'numerics': vars(numerics),
        'config': _binding(config.to_dict()),
        'data': fingerprint(rows),
    }


def upgrade_identity(saved: dict[str, Any], rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """The `identity` that an earlier version wrote, as this one does: of fields that it did not have, the defaults.

    Version 0.1 knew the data by the number of transitions alone.
    """
    fields = _binding(settings.get_config(saved['config']['agent']).to_dict()) | saved['config']
    same = saved.get('transitions') == len(rows['starts'])
    data = saved.get('data') or (fingerprint(rows) if same else f'{saved["transitions"]} transitions')
    return {'paper': saved['paper'], 'numerics': saved['numerics'], 'config': fields, 'data': data}


def _binding(fields: dict[str, Any]) -> dict[str, Any]:
    free = (
        *settings.FREE_ON_RESUME,
        'online_steps',
        'log_interval',
        'eval_interval',
        'save_interval',
        'eval_envs',
        'data_dir',
    )
    return {name: value for name, value in plain(fields).items() if name not in (*free, 'dataset')}
