"""Scripted agents for generated tasks: the oracle above, the greedy one below, and a careless one between them.

They know the program families, as a programmer knows the trade, and see nothing but the dialogue: what a slot holds,
they read off the person's sentences.
"""

from __future__ import annotations

import functools
import random
import re
from typing import Any, NamedTuple

from colbench_jax.episode import MARK, TURNS, Agent, Dialogue, Utterance
from colbench_jax.tasks.backend.family import Family, Slot, shown
from colbench_jax.tasks.backend.generate import GRAMMARS
from core_jax.errors import UserError, unknown

IDLE = ('Let me think.', 'I see.')  # by these words no slot is meant


class Reading(NamedTuple):
    """What a dialogue says to someone who knows the families."""

    family: Family
    nouns: dict[str, Any]
    known: dict[str, Any]  # {slot: value that was told}
    asked: tuple[str, ...]  # slots asked for, in order
    open: tuple[str, ...]  # slots worth asking for that are not known

    def program(self) -> str:
        """The program of what is known, with the most common value elsewhere."""
        return self.family.program(self.family.usual() | self.known, self.nouns)


@functools.cache
def _requests() -> dict[str, tuple[str, str, str]]:
    """{request without leaks: (grammar, family, domain)}"""
    return {
        family.describe(nouns): (grammar, family.name, domain)
        for grammar, rules in GRAMMARS.items()
        for family in rules.families.values()
        for domain, nouns in rules.domains.items()
    }


def read(dialogue: Dialogue) -> Reading:
    """Raises UserError for a request of no known family."""
    text = dialogue[0]['content']
    found = max((request for request in _requests() if text.startswith(request)), key=len, default=None)
    if found is None:
        raise UserError(f'scripted agents know generated tasks alone, not: {text[:60]!r}')
    grammar, name, domain = _requests()[found]
    rules = GRAMMARS[grammar]
    family, nouns = rules.families[name], dict(rules.domains[domain])
    known = _told(family, nouns, text[len(found) :])
    asked: list[str] = []
    for turn in dialogue[1:]:
        slot = asked_for(family, nouns, turn['content']) if turn['role'] == 'assistant' else None
        if slot:
            asked.append(slot)
        if turn['role'] == 'user':
            known |= _told(family, nouns, turn['content'])
            known |= _bare(family, asked[-1] if asked else None, turn['content'])
    topics = re.search(r' Open: ([^.]*)\.', text[len(found) :])
    listed = topics.group(1).split(', ') if topics else [slot.name for slot in family.slots]
    return Reading(family, nouns, known, tuple(asked), tuple(name for name in listed if name not in known))


def _told(family: Family, nouns: dict[str, Any], text: str) -> dict[str, Any]:
    """{slot: value} of the answer sentences in `text`."""
    known = {}
    for slot in family.slots:
        answers = {slot.answer(value, nouns): value for value in slot.values}
        heard = [answer for answer in answers if re.search(r'(?<!\S)' + re.escape(answer) + r'(?!\S)', text)]
        if heard:
            known[slot.name] = answers[max(heard, key=len)]
    return known


def _bare(family: Family, asked: str | None, text: str) -> dict[str, Any]:
    """{slot: value} of a reply that is the value alone, to a question for that slot."""
    slot = next((slot for slot in family.slots if slot.name == asked), None)
    values = [] if slot is None else [value for value in slot.values if text.strip() == f'{shown(value)}.']
    return {slot.name: values[0]} if values else {}


def asked_for(family: Family, nouns: dict[str, Any], text: str) -> str | None:
    """The slot that one of our own questions is for."""
    return next((slot.name for slot in family.slots if text in slot.questions(nouns)), None)


def _question(slot: Slot, nouns: dict[str, Any], times: int = 0) -> Utterance:
    questions = slot.questions(nouns)
    return Utterance(questions[times % len(questions)])


def _answer(reading: Reading) -> Utterance:
    return Utterance(f'{MARK}\n{reading.program()}')


class Oracle:
    """Asks for every open slot, one a turn, again where no answer came and turns are left; then prints the program."""

    def __init__(self, turns: int = TURNS):
        self.turns = turns

    def act(self, dialogue: Dialogue) -> Utterance:
        reading = read(dialogue)
        left = self.turns - sum(turn['role'] == 'assistant' for turn in dialogue)
        answered = {turn['content'] for turn in dialogue if turn['role'] == 'user'}
        fresh = [name for name in reading.open if name not in reading.asked]
        again = [name for name in reading.open if reading.asked.count(name) == 1] if _forgot(answered) else []
        if left > 1 and fresh + again:
            name = (fresh + again)[0]
            slot = next(slot for slot in reading.family.slots if slot.name == name)
            return _question(slot, reading.nouns, reading.asked.count(name))
        return _answer(reading)


def _forgot(replies: set[str]) -> bool:
    return any('remember' in reply for reply in replies)


class Greedy:
    """Answers at once, with what the request tells and the most common values."""

    def act(self, dialogue: Dialogue) -> Utterance:
        return _answer(read(dialogue))


class Careless:
    """Wastes some turns and sometimes answers early: offline data of mixed quality."""

    def __init__(
        self, seed: int = 0, waste: float = 0.4, early: float = 0.15, turns: int = TURNS, *, idle: float = 0.0
    ):
        """waste: chance of a question for any slot at all. early: of answering now. idle: of a turn that asks nothing.

        What is wasted then is a question for what is known or closed.
        """
        self.seed, self.waste, self.early, self.turns, self.idle = seed, waste, early, turns, idle

    def act(self, dialogue: Dialogue) -> Utterance:
        reading = read(dialogue)
        rng = random.Random(f'{self.seed}/{dialogue}')
        left = self.turns - sum(turn['role'] == 'assistant' for turn in dialogue)
        if left <= 1 or not reading.open or rng.random() < self.early:
            return _answer(reading)
        if self.idle and rng.random() < self.idle:
            return Utterance(rng.choice(IDLE))
        wasted = rng.random() < self.waste
        names = [slot.name for slot in reading.family.slots] if wasted else list(reading.open)
        name = rng.choice(names)
        slot = next(slot for slot in reading.family.slots if slot.name == name)
        return _question(slot, reading.nouns, rng.randrange(9))


AGENTS = ('oracle', 'greedy', 'careless')


def make(name: str, seed: int = 0, turns: int = TURNS) -> Agent:
    """A scripted agent. Raises UserError with the nearest name."""
    if name not in AGENTS:
        raise unknown('agent', name, AGENTS)
    return {'oracle': Oracle(turns), 'greedy': Greedy(), 'careless': Careless(seed, turns=turns)}[name]
