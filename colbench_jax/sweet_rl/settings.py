"""The settings of an experiment: what they are at the scale of two cores, and which are refused."""

from __future__ import annotations

import pathlib

import ml_collections

from colbench_jax.sweet_rl import words
from colbench_jax.tasks.backend.generate import grammar_named
from core_jax.cli import require_positive
from core_jax.errors import UserError, unknown
from core_jax.transformer import learner
from core_jax.transformer.config import preset


def get_config() -> ml_collections.ConfigDict:
    """The experiment at the scale of two cores: a small model, trained here, over the restricted grammar."""
    fine, critic, policy, whole, head = (learner.get_config() for _ in range(5))
    fine.update({'learning_rate': 3e-3, 'batch_size': 16, 'updates': 1300, 'clip': 1.0, 'beta2': 0.99})
    critic.update({'objective': 'dpo', 'reduction': 'turn_mean_sum', 'learning_rate': 2e-4, 'beta': 1.0})
    critic.update({'batch_size': 16, 'updates': 200, 'likelihood': 2.0})
    policy.update({'objective': 'dpo', 'learning_rate': 3e-4, 'beta': 0.1, 'updates': 200})
    policy.batch_size = 8  # trajectories, with the pairs of all their turns
    policy.likelihood = 1.0  # without it so small a model unlearns to write programs
    whole.update({'objective': 'dpo', 'learning_rate': 3e-4, 'beta': 0.1, 'batch_size': 32, 'updates': 80})
    whole.likelihood = 3.0  # with less it unlearns more of that
    head.update({'learning_rate': 2e-4, 'batch_size': 32, 'updates': 200})
    return ml_collections.ConfigDict(
        {
            'grammar': 'restricted',
            'hidden': (4, 4),  # least and most hidden slots of a task
            'usual': 0.5,  # chance that a hidden slot has its most common value, so that a guess is lucky at times
            'train_tasks': 800,  # that the model talks about
            'test_tasks': 500,  # of other structures
            'turns': 5,  # of the agent
            'demonstrations': 4,  # careless ones of each training task, for the first fine-tuning
            'documents': 1600,  # other tasks, whose programs and dialogues are read before: see `documents`
            'waste': 0.2,  # chance that they ask for any topic, be it known or closed
            'early': 0.0,  # chance of a turn that they answer without the rest
            'idle': 0.4,  # chance of a turn that asks nothing
            'model': '',  # a checkpoint to begin with: a directory, or a name in a package; empty: one is trained here
            'vocabulary': 512,  # of byte pairs, of the model that is trained here
            'layers': 3,
            'width': 96,
            'heads': 3,
            'offline': '',  # a file of trajectories to learn from; empty: the first model's own, on the training tasks
            'rollouts': 4,  # of those, of each task
            'share': 1.0,  # of the trajectories, whose turns are states
            'states': 2400,  # at most, that candidates are drawn for
            'candidates': 4,  # of a state; the paper has 16, and fewer states for them
            'told': 'system',  # how the critic is: by a system message, or by `text` ahead of the template, as released
            'reference_informed': True,  # advantages against a reference that is told, too; as released it is not
            'same_span': True,  # advantages over the same tokens; as released: header and text against text and stop
            'turn_pairs': 4,  # of a state, drawn from the better and the worse half
            'max_tokens': 96,  # of a turn
            'batch': 64,  # prompts that are read together
            'row': 256,  # tokens of a row, which holds several dialogues, of fine-tuning
            'sft': fine,
            'rft_updates': 300,
            'critic': critic,
            'value': head,
            'policy': policy,
            'mt_dpo': whole,
        }
    )


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for unknown names, numbers out of range and files that are not there."""
    counts = ('train_tasks', 'turns', 'demonstrations', 'layers', 'heads', 'rollouts', 'states', 'row')
    require_positive(config, (*counts, 'turn_pairs', 'max_tokens', 'batch', 'rft_updates'))
    require_positive(config, ('candidates', 'test_tasks'), least=2)
    require_positive(config, ('documents',), least=0)
    require_positive(config, ('vocabulary',), least=300)  # 256 bytes, the marks, and some pairs
    for name in ('waste', 'early', 'idle', 'usual'):
        if not 0 <= config[name] <= 1:
            raise UserError(f'{name} must be between 0 and 1, got {config[name]}')
    if not 0 < config.share <= 1:
        raise UserError(f'share must be above 0 and at most 1, got {config.share}')
    grammar_named(config.grammar)
    hidden = tuple(config.hidden)
    if len(hidden) != 2 or not all(isinstance(n, int) for n in hidden) or not 1 <= hidden[0] <= hidden[1]:
        raise UserError(f'hidden must be two numbers, the least and the most hidden slots, such as 4,4; got {hidden}')
    if config.told not in words.TOLD:
        raise unknown('way to tell the critic', config.told, words.TOLD)
    if config.offline and not pathlib.Path(config.offline).is_file():
        raise UserError(f'offline: there is no file {config.offline}')
    if config.value.lora_rank or (config.sft.lora_rank and not config.model):
        raise UserError('adapters (lora_rank) belong to a model that is there: set model, and not value.lora_rank')
    if config.width % (2 * config.heads):
        raise UserError(f'a width of {config.width} does not divide into {config.heads} heads of an even size')
    for name in ('sft', 'critic', 'policy', 'mt_dpo', 'value'):
        require_positive(config[name], ('updates', 'batch_size'))
        block = ml_collections.ConfigDict(config[name].to_dict() | {'turns': config.turns})
        try:
            learner.make(preset('tiny'), block)
        except UserError as error:
            raise UserError(f'{name}: {error}') from None
