"""Settings of a run: the fields beside an agent's own, and how a preset, flags and a saved run come together."""

from __future__ import annotations

import importlib
from fractions import Fraction
from typing import Any

import ml_collections

from core_jax import cli
from core_jax.errors import UserError, unknown
from fql_jax import tasks

AGENTS = ('fql', 'iql', 'rebrac', 'ifql', 'fbrac', 'fawac', 'idql', 'rlpd', 'bc', 'flow_bc')

# What runs without a preset: small enough for two CPU cores in minutes, still the published algorithm. The search that
# led here is in docs/fql.md.
SMALL = {
    'data_kind': 'noisy',
    'data_episodes': 100,
    'data_length': 1000,
    'hidden_dims': (256, 256),
    'steps': 20_000,
    'log_interval': 500,
    'eval_interval': 5_000,
    'save_interval': 5_000,
}
# The same for what only some agents have.
SMALL_HPARAMS = {'learning_rate': 1e-3, 'discount': 0.98, 'tau': 0.01, 'flow_steps': 5}
SMALL_AGENTS = {
    'fql': {'alpha': 30.0},
    'rlpd': {'steps': 0, 'online_steps': 20_000},
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
    module = agent_module(agent)
    config = module.get_config()
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
            'sparse_rewards': False,  # -1 wherever the reward is not 0 (scene and puzzle in QC and QAM)
            'frame_stack': 1,  # newest frames that an observation shows, where it is an image
            'p_aug': 0.0,  # how often the images of a batch are cropped at random: all of a batch, or none
            # Length and intervals, in updates
            'steps': 1_000_000,  # offline, before the online ones
            'log_interval': 5_000,
            'eval_interval': 100_000,
            'save_interval': 100_000,
            # Online, after the offline updates
            'online_steps': 0,  # environment steps
            'utd': 1.0,  # updates an environment step
            'online_envs': 1,  # environments that collect at once
            'warmup': 0,  # steps with random actions and no update, at the start
            'balanced_sampling': False,  # half of each batch offline, half online (RLPD); else uniform over both
            'online_capacity': 0,  # rows of what was collected that are kept; 0: online_steps and a sixteenth more
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
    config.update(getattr(module, 'RUN', {}))
    return config


def total_updates(config: ml_collections.ConfigDict) -> int:
    """Offline updates and those that the online steps are worth."""
    from core_jax.host_driver import updates_due  # imports jax, which names and numbers alone do without

    ratio = Fraction(config.utd).limit_denominator(1 << 20)
    return config.steps + updates_due(config.online_steps, ratio, config.warmup)


def resolve(fields: dict[str, Any], preset: dict[str, Any] | None = None, debug: bool = False):
    """The whole config: published settings, then the preset (SMALL if there is none), DEBUG, and `fields`.

    Raises UserError for unknown names, wrong types and values out of range.
    """
    agent = fields.get('agent', (preset or {}).get('agent', 'fql'))
    if preset:
        _check_agent(preset, agent)
    config = get_config(agent)
    for layer in (_small(config) if preset is None else preset, _debug(config) if debug else {}, fields):
        cli.apply(config, layer)
    if preset is None:
        _suit_kind(config, fields)
    validate(config)
    return config


def _check_agent(preset: dict[str, Any], agent: str) -> None:
    """UserError for a preset whose numbers are meant for another agent: an alpha is a different thing in each."""
    meant = preset.get('agent', 'fql')
    if agent != meant and any(name in agent_module(meant).get_config() for name in preset):
        raise UserError(f'this preset is for {meant}, not {agent}; --list=presets shows those for {agent}')


def _small(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The small settings, as far as they concern this agent."""
    common = {name: value for name, value in SMALL_HPARAMS.items() if name in config}
    return SMALL | common | SMALL_AGENTS.get(config.agent, {})


def _debug(config: ml_collections.ConfigDict) -> dict[str, Any]:
    online = {'steps': 0, 'online_steps': 200} if config.agent == 'rlpd' else {}
    return DEBUG | online


def _suit_kind(config: ml_collections.ConfigDict, fields: dict[str, Any]) -> None:
    """The kind of data in SMALL and DEBUG is for manipulation; a kind in the name, or what the task has, wins."""
    if 'data_kind' in fields or config.dataset:
        return
    task = tasks.resolve(config.env)
    if task.kind and task.kind in config.env:
        config.data_kind = task.kind
    elif task.kinds and config.data_kind not in task.kinds:
        config.data_kind = ''


# Least values of numbers, and the words that a choice is made from.
LEAST = {
    1: ('batch_size', 'seeds', 'eval_episodes', 'eval_envs', 'online_envs', 'frame_stack')
    + ('flow_steps', 'num_critics', 'horizon', 'act_samples', 'target_samples', 'num_samples', 'diffusion_steps')
    + ('actor_freq',),
    0: ('seed', 'steps', 'online_steps', 'warmup', 'online_capacity', 'log_interval', 'eval_interval', 'save_interval')
    + ('data_episodes', 'data_length', 'workers', 'p_aug')
    + ('alpha', 'learning_rate', 'tau', 'discount', 'pessimism', 'expectile', 'inv_temp', 'alpha_actor', 'alpha_critic')
    + ('actor_learning_rate', 'critic_learning_rate', 'temperature_learning_rate', 'noise', 'noise_clip'),
}
AT_MOST_ONE = ('tau', 'discount', 'p_aug', 'expectile')
CHOICES = {
    'q_agg': ('mean', 'min'),
    'policy': ('onestep', 'flow'),
    'actor_loss': ('awr', 'ddpgbc'),
    'std': ('constant', 'state'),
    'activation': ('relu', 'gelu'),
    'target_entropy': ('full', 'half'),
    'temperature_loss': ('alpha', 'log_alpha'),
    'target_agg': ('min', 'mean'),
    'actor_agg': ('min', 'mean'),
    'encoder': ('', 'impala_small', 'impala', 'impala_large', 'impala_debug'),
}


def check_values(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a number out of range or a word that is no choice, among the fields that `config` has."""
    for least, names in LEAST.items():
        cli.require_positive(config, [name for name in names if name in config], least)
    for name in AT_MOST_ONE:
        if config.get(name, 0) > 1:
            raise UserError(f'{name} lies in 0..1, got {config[name]}')
    for name, options in CHOICES.items():
        if config.get(name, options[0]) not in options:
            raise unknown(name, config[name], options)
    if not 0 < config.utd < float('inf'):
        raise UserError(f'utd must be above 0 and finite, got {config.utd}')


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values that no run can have."""
    tasks.resolve(config.env)
    check_values(config)
    if not config.hidden_dims or min(config.hidden_dims) < 1:
        raise UserError(f'hidden_dims must be widths of at least 1, got {config.hidden_dims}')
    if config.seed + config.seeds > 2**32:
        raise UserError(f'seeds lie below 2**32, got {config.seed}')
    if config.get('pessimism', 0) > 0 and config.q_agg == 'min':
        raise UserError('pessimism lowers the mean over the critics; it does not go with q_agg min')
    _validate_online(config)
    members(config)


def _validate_online(config: ml_collections.ConfigDict) -> None:
    if config.balanced_sampling and not config.online_steps:
        raise UserError('balanced_sampling mixes offline and online data; set online_steps')
    if config.online_steps and config.warmup >= config.online_steps:
        raise UserError(f'the {config.online_steps} online steps end within the {config.warmup} of warm-up')
    if total_updates(config) < 1:
        raise UserError(
            f'nothing to do: {config.steps} offline updates, {config.online_steps} online steps '
            f'(less {config.warmup} of warm-up, at {config.utd:g} updates a step)'
        )
    if config.online_steps and (config.seeds > 1 or config.vary):
        raise UserError('an online run has one seed, since each seed collects its own data; start one run a seed')


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
    if name == 'pessimism' and config.q_agg == 'min':
        raise UserError('pessimism lowers the mean over the critics; it does not go with q_agg min')
    limit = 1.0 if name in AT_MOST_ONE else float('inf')
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
    # Online steps decide the size of the ring, and offline ones when it begins to be filled.
    free = (
        FREE_ON_RESUME
        if not config.online_steps
        else (*FREE_ON_RESUME[1:], *('online_steps',) * (config.online_capacity > 0))
    )
    for layer in (preset or {}, _debug(config) if debug else {}, fields):
        cli.apply(config, layer)
    if preset is None and (debug or 'env' in fields):
        _suit_kind(config, fields)
    validate(config)
    changed = [
        f'{name}: saved {old!r}, wanted {new!r}'
        for (name, old), new in zip(_flat(before).items(), _flat(config.to_dict()).values(), strict=True)
        if old != new and name not in free
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
