"""Settings of a run: the fields beside an agent's own, and how a preset, flags and a saved run come together."""

from __future__ import annotations

import importlib
from typing import Any

import ml_collections

from core_jax import cli
from core_jax.errors import UserError, unknown
from fql_jax import tasks

AGENTS = ('fql',)

# What runs without a preset: small enough for two CPU cores in minutes, still the published algorithm. The search that
# led here is in docs/fql.md.
SMALL = {
    'data_kind': 'noisy',
    'data_episodes': 100,
    'data_length': 1000,
    'hidden_dims': (256, 256),
    'learning_rate': 1e-3,
    'alpha': 30.0,
    'discount': 0.98,
    'tau': 0.01,
    'flow_steps': 5,
    'steps': 20_000,
    'log_interval': 500,
    'eval_interval': 5_000,
    'save_interval': 5_000,
}

# `--debug`: every part of a run in seconds.
DEBUG = {
    'data_kind': 'noisy',
    'data_episodes': 6,
    'data_length': 200,
    'hidden_dims': (32, 32),
    'batch_size': 64,
    'steps': 200,
    'log_interval': 50,
    'eval_interval': 200,
    'eval_episodes': 2,
    'save_interval': 100,
    'video': False,
}


def agent_module(name: str) -> Any:
    """The module of an agent: make, get_config, HPARAMS."""
    if name not in AGENTS:
        raise unknown('agent', name, AGENTS)
    return importlib.import_module(f'fql_jax.agents.{name}')


def get_config(agent: str = 'fql') -> ml_collections.ConfigDict:
    """The agent's published settings and those of a run at the paper's size, in one flat ConfigDict."""
    config = agent_module(agent).get_config()
    config.update(
        {
            'agent': agent,
            'env': 'ogbench-cube',  # short name, OGBench id or gymnasium id
            # Data
            'dataset': '',  # your own .npz (core_jax.datasets says which arrays)
            'data_kind': '',  # play, noisy or navigate; '' takes what the environment publishes first
            'data_episodes': 0,  # episodes to collect here; 0 means the official file, or its size
            'data_length': 0,  # transitions an episode, where they are collected; 0 means the task's time limit
            'data_dir': '',  # where data sets are kept; '' means $TENFOLD_DATA or ~/.cache/tenfold/data
            # Length and intervals, in updates
            'steps': 1_000_000,
            'log_interval': 5_000,
            'eval_interval': 100_000,
            'save_interval': 100_000,
            # Evaluation
            'eval_episodes': 50,
            'eval_envs': 8,  # environments at once; part of what an evaluation's noise is a function of
            'video': True,  # film one episode at the end
            'workers': 0,  # processes for environments; 0 means one per core
            # Population
            'seed': 0,
            'seeds': 1,  # members seed, seed + 1, ...
            'vary': '',  # 'alpha:3,10,30': as many members again for each value
            # Devices
            'mesh': '',  # 'data:4,tensor:2'; '' lays all devices along data, or along population if that divides
            'numerics': {
                'updates': 'scan',  # scan: many updates a dispatch; loop: one call an update
                'population': 'auto',  # map or vmap; auto is map on a CPU, vmap elsewhere
                'matmul_precision': 'default',  # jax_default_matmul_precision
            },
        }
    )
    return config


def resolve(fields: dict[str, Any], preset: dict[str, Any] | None = None, debug: bool = False):
    """The whole config: published settings, then the preset (SMALL if there is none), DEBUG, and `fields`.

    Raises UserError for unknown names, wrong types and values out of range.
    """
    layers = [SMALL if preset is None else preset, DEBUG if debug else {}, fields]
    agent = next((layer['agent'] for layer in reversed(layers) if 'agent' in layer), 'fql')
    config = get_config(agent)
    for layer in layers:
        cli.apply(config, layer)
    if preset is None:
        _suit_kind(config, fields)
    validate(config)
    return config


def _suit_kind(config: ml_collections.ConfigDict, fields: dict[str, Any]) -> None:
    """The kind of data in SMALL and DEBUG is for manipulation; a kind in the name, or what the task has, wins."""
    if 'data_kind' in fields or config.dataset:
        return
    task = tasks.resolve(config.env)
    if task.kind and task.kind in config.env:
        config.data_kind = task.kind
    elif task.kinds and config.data_kind not in task.kinds:
        config.data_kind = ''


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values that no run can have."""
    tasks.resolve(config.env)
    cli.require_positive(config, ('steps', 'batch_size', 'seeds', 'eval_episodes', 'eval_envs'))
    cli.require_positive(config, ('flow_steps', 'num_critics'))
    cli.require_positive(config, ('seed', 'log_interval', 'eval_interval', 'save_interval'), 0)
    cli.require_positive(config, ('data_episodes', 'data_length', 'workers'), 0)
    cli.require_positive(config, ('alpha', 'learning_rate', 'tau', 'discount'), 0)
    if not config.hidden_dims or min(config.hidden_dims) < 1:
        raise UserError(f'hidden_dims must be widths of at least 1, got {config.hidden_dims}')
    if config.q_agg not in ('mean', 'min'):
        raise unknown('q_agg', config.q_agg, ('mean', 'min'))
    if config.seed + config.seeds > 2**32:
        raise UserError(f'seeds lie below 2**32, got {config.seed}')
    if config.tau > 1 or config.discount > 1:
        raise UserError(f'tau and discount lie in 0..1, got {config.tau} and {config.discount}')
    members(config)


def members(config: ml_collections.ConfigDict) -> tuple[list[int], dict[str, list[float]]]:
    """(seeds, varied hyperparameters), one entry a member: all seeds for the first value, then for the next."""
    seeds = [config.seed + i for i in range(config.seeds)]
    if not config.vary:
        return seeds, {}
    name, _, texts = config.vary.partition(':')
    known = agent_module(config.agent).HPARAMS
    if name not in known:
        raise unknown('hyperparameter to vary', name, known)
    try:
        values = [float(text) for text in texts.split(',')]
    except ValueError:
        raise UserError(f'cannot read {config.vary!r}; write it like alpha:3,10,30') from None
    limit = 1.0 if name in ('tau', 'discount') else float('inf')
    if not all(0 <= value <= limit for value in values):
        raise UserError(f'{name} lies in 0..{limit:g}, got {texts}')
    return seeds * len(values), {name: [value for value in values for _ in seeds]}


# What a resumed run may change without becoming another run.
FREE_ON_RESUME = ('steps', 'workers', 'video', 'mesh', 'eval_episodes')


def for_resume(
    saved: dict[str, Any], fields: dict[str, Any], preset: dict[str, Any] | None = None, debug: bool = False
) -> ml_collections.ConfigDict:
    """The saved config with what is asked for on top; UserError where that would make it another run."""
    config = get_config(saved['agent'])
    cli.apply(config, _flat(saved))
    before = config.to_dict()
    for layer in (preset or {}, DEBUG if debug else {}, fields):
        cli.apply(config, layer)
    if preset is None:
        _suit_kind(config, fields)
    validate(config)
    changed = [
        f'{name}: saved {old!r}, wanted {new!r}'
        for (name, old), new in zip(_flat(before).items(), _flat(config.to_dict()).values(), strict=True)
        if old != new and name not in FREE_ON_RESUME
    ]
    if changed:
        raise UserError('this is another run than the saved one: ' + '; '.join(changed))
    return config


def _flat(nested: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat
