"""Settings of a run: the fields beside an agent's own, and how a preset, flags and a saved run come together."""

from __future__ import annotations

import importlib
from fractions import Fraction
from typing import Any

import ml_collections

from core_jax import cli
from core_jax.errors import UserError, unknown
from scaling.utd import environments

AGENTS = ('sac', 'bro', 'pql')

# What runs without a preset: swing-up of a pendulum in about a minute on two cores.
SMALL = {
    'env': 'pendulum',
    'steps': 8_000,
    'warmup': 400,
    'log_interval': 400,
    'eval_interval': 2_000,
    'save_interval': 2_000,
    'batch_size': 64,
}
SMALL_AGENTS = {
    'sac': {'hidden_dims': (64, 64), 'learning_rate': 1e-3},
    'bro': {'critic_width': 64, 'critic_depth': 1, 'actor_width': 64, 'num_quantiles': 16, 'learning_rate': 1e-3},
    'pql': {
        'hidden_dims': (64, 64),
        'learning_rate': 1e-3,
        'envs': 16,
        'steps': 64_000,
        'warmup': 3_200,
        'log_interval': 3_200,
        'eval_interval': 16_000,
        'save_interval': 16_000,
        'utd': 0.125,
        'batch_size': 256,
        'reward_scale': 0.1,
    },
}

# `--debug`: every part of a run in seconds.
DEBUG = {
    'steps': 1_000,
    'warmup': 200,
    'log_interval': 200,
    'eval_interval': 400,
    'save_interval': 400,
    'eval_episodes': 2,
    'batch_size': 32,
}
DEBUG_AGENTS = {'pql': {'utd': 0.125, 'envs': 8}}


def agent_module(name: str) -> Any:
    """The module of an algorithm: make, get_config, HPARAMS, PRESETS."""
    if name not in AGENTS:
        raise unknown('agent', name, AGENTS)
    return importlib.import_module(f'scaling.utd.{name}')


def get_config(agent: str = 'sac') -> ml_collections.ConfigDict:
    """The agent's published settings and those of a run, in one flat ConfigDict. All counts are environment steps."""
    config = agent_module(agent).get_config()
    config.update(
        {
            'agent': agent,
            'env': 'pendulum',  # an analytic environment, a dm_control task, a gymnasium id, playground:NAME, brax:NAME
            'learning_rate': 0.0,  # of all optimizers; 0 leaves each one's own
            # The ratio, and what the environments do
            'utd': 1.0,  # sigma: updates an environment step
            'envs': 1,  # environments that are stepped together
            'steps': 1_000_000,  # environment steps, of all together
            'warmup': 2_500,  # of them with random actions and no update, at the start
            'capacity': 1_000_000,  # transitions that are kept; no more than `steps` are ever needed
            # Intervals
            'log_interval': 5_000,
            'eval_interval': 25_000,
            'save_interval': 100_000,
            # Evaluation
            'eval_episodes': 10,
            'workers': 0,  # processes for environments on the host; 0 means one a core
            # Population
            'seed': 0,
            'seeds': 1,  # members seed, seed + 1, ...
            'vary': '',  # 'learning_rate:3e-4,1e-3': as many members again for each value
            # Devices
            'mesh': '',  # 'population:4'; '' lays all devices along population if that divides, else along data
            'numerics': {
                'updates': 'scan',  # scan: many updates a dispatch; loop: one call an update
                'population': 'auto',  # map or vmap; auto is map on a CPU, vmap elsewhere
                'matmul_precision': 'default',  # jax_default_matmul_precision
            },
        }
    )
    return config


def resolve(
    fields: dict[str, Any], preset: dict[str, Any] | None = None, debug: bool = False
) -> ml_collections.ConfigDict:
    """The whole config: published settings, then the preset (SMALL if there is none), DEBUG, and `fields`.

    Raises UserError for unknown names, wrong types and values out of range.
    """
    agent = fields.get('agent', (preset or {}).get('agent', 'sac'))
    config = get_config(agent)
    small = SMALL | SMALL_AGENTS[agent] if preset is None else preset
    for layer in (small, _debug(agent) if debug else {}, fields):
        cli.apply(config, layer)
    validate(config)
    return _without_unreached_resets(config)


def _without_unreached_resets(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A run that ends before its first reset need not compile one."""
    if total_updates(config) <= config.get('reset_interval', 0):
        config.reset_interval = 0
    return config


def _debug(agent: str) -> dict[str, Any]:
    return DEBUG | DEBUG_AGENTS.get(agent, {})


LEAST = {
    1: ('batch_size', 'envs', 'steps', 'capacity', 'log_interval', 'seeds', 'eval_episodes'),
    0: (
        'warmup',
        'eval_interval',
        'save_interval',
        'reset_interval',
        'workers',
        'seed',
        'learning_rate',
        'discount',
        'tau',
    ),
}
CHOICES = {
    'critic': ('mlp', 'bronet', 'simba'),
    'activation': ('relu', 'gelu'),
    'target_entropy': ('full', 'half'),
    'temperature_loss': ('alpha', 'log_alpha'),
    'target_agg': ('min', 'mean'),
    'actor_agg': ('min', 'mean'),
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values that no run can have."""
    for least, names in LEAST.items():
        cli.require_positive(config, [name for name in names if name in config], least)
    for name in ('discount', 'tau'):
        if config[name] > 1:
            raise UserError(f'{name} lies in 0..1, got {config[name]}')
    for name, options in CHOICES.items():
        if config.get(name, options[0]) not in options:
            raise unknown(name, config[name], options)
    if not 0 < config.utd < float('inf'):
        raise UserError(f'utd must be above 0 and finite, got {config.utd}')
    if 'hidden_dims' in config and (not config.hidden_dims or min(config.hidden_dims) < 1):
        raise UserError(f'hidden_dims must be widths of at least 1, got {config.hidden_dims}')
    if config.seed + config.seeds > 2**32:
        raise UserError(f'seeds lie below 2**32, got {config.seed}')
    if config.steps <= config.warmup:
        raise UserError(f'the {config.steps} steps end within the {config.warmup} of warm-up')
    for name in ('steps', 'warmup', 'log_interval', 'eval_interval', 'save_interval'):
        if config[name] % config.envs:
            raise UserError(f'{name} must be a multiple of the {config.envs} environments, got {config[name]}')
    for name in ('log_interval', 'eval_interval', 'save_interval'):
        updates_in(config, config[name], name)
    if total_updates(config) < 1:
        raise UserError(f'{config.steps - config.warmup} steps after the warm-up are no update at utd={config.utd:g}')
    members(config)
    environments.check(config.env)


def ratio(config: ml_collections.ConfigDict) -> Fraction:
    """sigma as a fraction: 0.3333 is a third, to a denominator of at most 1024."""
    return Fraction(config.utd).limit_denominator(1 << 10)


def updates_in(config: ml_collections.ConfigDict, interval: int, name: str) -> int:
    """The updates that `interval` environment steps are worth. UserError where that is no whole number."""
    updates = ratio(config) * interval
    if updates.denominator != 1:
        raise UserError(f'{name}={interval} steps are {float(updates):g} updates at utd={config.utd:g}: make it whole')
    return int(updates)


def total_updates(config: ml_collections.ConfigDict) -> int:
    """floor(sigma * (steps - warmup))."""
    return int(ratio(config) * (config.steps - config.warmup))


def rate_names(agent: str) -> list[str]:
    """The hyperparameters that `learning_rate` stands for."""
    return [name for name in agent_module(agent).HPARAMS if name.endswith('_learning_rate')]


def members(config: ml_collections.ConfigDict) -> tuple[list[int], dict[str, list[float]]]:
    """(seeds, hyperparameters), one entry a member: all seeds for the first value of `vary`, then for the next."""
    seeds = [config.seed + i for i in range(config.seeds)]
    rates = {name: [config.learning_rate] * len(seeds) for name in rate_names(config.agent) if config.learning_rate}
    if not config.vary:
        return seeds, rates
    name, _, texts = config.vary.partition(':')
    known = ('learning_rate', *agent_module(config.agent).HPARAMS)
    if name not in known:
        raise unknown('hyperparameter to vary', name, known)
    try:
        values = [float(text) for text in texts.split(',')]
    except ValueError:
        raise UserError(f'cannot read {config.vary!r}; write it like learning_rate:3e-4,1e-3') from None
    if not all(0 <= value < float('inf') for value in values):
        raise UserError(f'{name} must be at least 0 and finite, got {texts}')
    column = [value for value in values for _ in seeds]
    varied = rate_names(config.agent) if name == 'learning_rate' else [name]
    rates = {rate: own * len(values) for rate, own in rates.items()}
    return seeds * len(values), rates | dict.fromkeys(varied, column)


# What a resumed run may change without becoming another run.
FREE_ON_RESUME = ('workers', 'mesh', 'eval_episodes')


def for_resume(
    saved: dict[str, Any], fields: dict[str, Any], preset: dict[str, Any] | None = None, debug: bool = False
) -> ml_collections.ConfigDict:
    """The saved config with what is asked for on top; UserError where that would make it another run."""
    from core_jax.files import differences

    config, before = get_config(saved['agent']), get_config(saved['agent'])
    cli.apply(before, _flat(saved))
    for layer in (saved, preset or {}, _debug(saved['agent']) if debug else {}, fields):
        cli.apply(config, _flat(layer))
    validate(config)
    _without_unreached_resets(config)
    changed = [
        f'{name}: saved {old!r}, wanted {new!r}'
        for name, old, new in differences(before.to_dict(), config.to_dict())
        if name not in FREE_ON_RESUME
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
