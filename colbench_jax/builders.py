"""Scripted agents for generated pages: the oracle above, the greedy one below, and a careless one between them.

They know kinds of parts and topics, as a designer knows the trade, and see nothing but the dialogue: what should be
otherwise, they read off the person's sentences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from colbench_jax.agents import AGENTS
from colbench_jax.episode import MARK, OUTPUT, TURNS, Agent, Dialogue, Utterance
from colbench_jax.render.palette import COLOURS
from colbench_jax.render.stylesheet import PIXELS
from colbench_jax.tasks.frontend import page
from colbench_jax.tasks.frontend.generate import guess
from colbench_jax.tasks.frontend.outline import Difference
from colbench_jax.tasks.frontend.page import Page
from colbench_jax.tasks.frontend.sentences import PARTS, heard
from colbench_jax.tasks.frontend.topics import TOPICS
from colbench_jax.viewers import RIGHT
from core_jax.errors import UserError, unknown

_COLOUR = {value: name for name, value in COLOURS.items()}
_SIZE = {f'{pixels}': name for name, pixels in PIXELS.items()}


def draft(dialogue: Dialogue, overlooks: Callable[[str], bool] = lambda said: False) -> Page:
    """The page that a dialogue asks for: a guess from the request, then every sentence in turn.

    overlooks: whether a difference, as text, is not acted on. Raises UserError for a request of no known topic.
    """
    text = dialogue[0]['content']
    topic = next((name for name, topic in TOPICS.items() if f'{topic.name}, {topic.about}.' in text), None)
    if topic is None:
        raise UserError(f'scripted agents know generated pages alone, not: {text[:60]!r}')
    listed = re.search(r'It needs ([^.]*)\.', text)
    kinds = [kind for kind, name in PARTS.items() if listed and re.search(rf'\ba {name}(?=,| and|$)', listed[1])]
    made = guess(topic, kinds)
    for number, turn in enumerate(dialogue):
        if turn['role'] == 'user':
            for difference in heard(turn['content']):
                if not overlooks(f'{number}/{difference}'):
                    made = changed(made, difference)
    return made


def changed(made: Page, difference: Difference) -> Page:
    """The page with one difference mended; one that cannot be, since there is no such part or value, is left."""
    _, field, (kind, _), value = difference
    parts = list(made.parts)
    place = next((k for k, part in enumerate(parts) if part.kind == kind), None)
    if field in ('missing', 'place'):
        if kind not in page.KINDS or (field == 'place' and place is None):
            return made
        moved = page.usual(kind, made.topic) if place is None else parts.pop(place)
        above = [part.kind for part in parts]
        parts.insert(above.index(value[0]) + 1 if value and value[0] in above else 0, moved)
    elif field == 'background' and kind == 'page':
        return made._replace(background=_COLOUR.get(value, made.background))
    elif place is None:
        return made
    elif field == 'extra':
        del parts[place]
    elif field in ('background', 'colour'):
        parts[place] = parts[place]._replace(**{field: _COLOUR.get(value, getattr(parts[place], field))})
    elif field == 'size':
        parts[place] = parts[place]._replace(size=_SIZE.get(str(value), parts[place].size))
    elif field in ('columns', 'align', 'title', 'button', 'image'):
        parts[place] = parts[place]._replace(**{field: value})
    return made._replace(parts=tuple(parts))


def _answer(made: Page) -> Utterance:
    return Utterance(f'{MARK}\n{page.html_of(made)}')


class Oracle:
    """Shows a page, mends what is said about it, and answers when it looks right."""

    def __init__(self, turns: int = TURNS):
        self.turns = turns

    def act(self, dialogue: Dialogue) -> Utterance:
        made = draft(dialogue)
        spoken = sum(turn['role'] == 'assistant' for turn in dialogue)
        if dialogue[-1]['content'] == RIGHT or spoken + 1 >= self.turns:
            return _answer(made)
        return Utterance(f'Colours, order and words may still be wrong. {OUTPUT}\n{page.html_of(made)}')


class Greedy:
    """Answers at once, with what the request tells and the most common values."""

    def act(self, dialogue: Dialogue) -> Utterance:
        return _answer(draft(dialogue))


class Careless:
    """Overlooks some of what is said and sometimes answers early: offline data of mixed quality."""

    def __init__(self, seed: int = 0, overlooks: float = 0.4, early: float = 0.2, turns: int = TURNS):
        """overlooks: chance that a sentence is not acted on. early: chance of answering now."""
        self.seed, self.overlooks, self.early, self.turns = seed, overlooks, early, turns

    def act(self, dialogue: Dialogue) -> Utterance:
        begun = f'{self.seed}/{dialogue[0]["content"]}'
        made = draft(dialogue, lambda said: random.Random(f'{begun}/{said}').random() < self.overlooks)
        spoken = sum(turn['role'] == 'assistant' for turn in dialogue)
        right = dialogue[-1]['content'] == RIGHT or spoken + 1 >= self.turns
        if right or random.Random(f'{begun}/{spoken}').random() < self.early:
            return _answer(made)
        return Utterance(page.html_of(made))


def make(name: str, seed: int = 0, turns: int = TURNS) -> Agent:
    """A scripted agent. Raises UserError with the nearest name."""
    if name not in AGENTS:
        raise unknown('agent', name, AGENTS)
    return {'oracle': Oracle(turns), 'greedy': Greedy(), 'careless': Careless(seed, turns=turns)}[name]
