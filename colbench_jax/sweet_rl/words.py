"""Dialogues as rows of tokens: what a policy sees, what the critic sees beside it, and whose turn a token belongs to.

A dialogue is written by the tokenizer's chat template. The hidden information of a task stands in front of it: the
critic's rows have it, and no row of a policy has that of a task that it talks about or is tested on (what the first
model of an experiment reads are `documents`, other tasks). Ids that a model has drawn are kept with its turn (`tokens`)
and go into rows as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from colbench_jax.episode import Dialogue
from core_jax.transformer.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ '<|' ~ m['role'] ~ '|>' ~ m['content'] ~ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TOLD = ('system', 'text')
Before = Dialogue | str  # messages, or text ahead of the template
SPECIAL = ['<|end|>', '<|system|>', '<|user|>', '<|assistant|>']


def train_tokenizer(texts: Sequence[str], size: int = 512) -> Tokenizer:
    """Byte pairs of these texts, for a small model that is trained here; with the four marks of `TEMPLATE`."""
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(alphabet), special_tokens=SPECIAL, show_progress=False
    )
    found.train_from_iterator(texts, trainer)
    return Tokenizer(found, TEMPLATE, {'eos_token': '<|end|>'}, 'the tokenizer of the small model')


def hidden(task: dict[str, Any], how: str = 'system') -> Before:
    """What the critic is told, the reference program: as a system message, or as `text` ahead of the whole template."""
    program = task['ground_truth']
    return [{'role': 'system', 'content': program}] if how == 'system' else f'What the person wants: {program}\n'


def seen(history: Sequence[dict[str, Any]]) -> Dialogue:
    """The turns of a trajectory as its sides see them."""
    return [{'role': turn['role'], 'content': turn['content']} for turn in history]


def prompt(tokenizer: Tokenizer, history: Sequence[dict[str, Any]], before: Before = ()) -> list[int]:
    """Ids up to where the next turn of the agent begins."""
    messages = () if isinstance(before, str) else before
    return row(tokenizer, history, before)['tokens'] + opening(tokenizer, [*messages, *seen(history)])


def row(tokenizer: Tokenizer, history: Sequence[dict[str, Any]], before: Before = ()) -> dict[str, list[int]]:
    """{'tokens', 'mask', 'turns'} of a trajectory: the mask is on the agent's tokens, the stop of each turn included.

    turns: the number of the agent's turn, -1 elsewhere.
    """
    messages: Dialogue = () if isinstance(before, str) else before
    if isinstance(before, str):
        tokens = tokenizer.encode(before)
    else:
        tokens = tokenizer.chat(messages, reply=False) if messages else []
    mask, turns, number = [0] * len(tokens), [-1] * len(tokens), 0
    for place, turn in enumerate(history):
        earlier = [*messages, *seen(history[:place])]
        if turn['role'] == 'user':
            ids = _added(tokenizer, earlier, seen([turn]))
            tokens, mask, turns = tokens + ids, mask + [0] * len(ids), turns + [-1] * len(ids)
            continue
        header, own = opening(tokenizer, earlier), turn_ids(tokenizer, turn)
        tokens += header + own
        mask += [0] * len(header) + [1] * len(own)
        turns += [-1] * len(header) + [number] * len(own)
        number += 1
    return {'tokens': tokens, 'mask': mask, 'turns': turns}


def turn_ids(tokenizer: Tokenizer, turn: dict[str, Any]) -> list[int]:
    """Ids of an agent's turn with its stop: those that were drawn, where they are kept."""
    return list(turn['tokens']) if 'tokens' in turn else [*tokenizer.encode(turn['content']), tokenizer.stops[0]]


def _added(tokenizer: Tokenizer, before: Dialogue, messages: Dialogue) -> list[int]:
    return tokenizer.added(before, messages, reply=False) if before else tokenizer.chat(messages, reply=False)


def opening(tokenizer: Tokenizer, messages: Dialogue) -> list[int]:
    """Ids that stand between a dialogue and the agent's next turn: the header of a turn."""
    return tokenizer.added(messages, [], reply=True)
