"""What a program family is: a program with holes, a vague request, and what a person knows about each hole."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from colbench_jax.tasks.backend.program import specialise

Arguments = tuple[Any, ...]


class Slot(NamedTuple):
    """One decision that the request leaves open. In texts, {noun} is a word of the domain and {v} the value."""

    name: str
    values: tuple[Any, ...]  # admissible ones, the most common first
    ask: tuple[str, ...]  # ways to ask for it
    tell: str | Mapping[Any, str]  # the answer, one sentence: with {v} in it, or one for each value

    def answer(self, value: Any, nouns: Mapping[str, str]) -> str:
        """The sentence that tells `value`."""
        text = self.tell if isinstance(self.tell, str) else self.tell[value]
        return text.format(v=shown(value), **nouns)

    def questions(self, nouns: Mapping[str, str]) -> list[str]:
        return [text.format(**nouns) for text in self.ask]

    def literals(self, value: Any) -> list[str]:
        """What would give `value` away: the value as people write it, where the answer spells it out."""
        if isinstance(self.tell, str):
            return [shown(part) for part in value] if isinstance(value, tuple) else [shown(value)]
        if type(value) not in (int, float, str):
            return []
        return [shown(value)] if re.search(rf'(?<!\w){re.escape(shown(value))}(?!\w)', self.tell[value]) else []


class Family(NamedTuple):
    """A program with holes. Everything in the request is known to an agent; the values of hidden slots are not."""

    name: str
    function: str  # its name, with {nouns}
    request: str  # what is wanted, vaguely, with {nouns}
    source: str
    slots: tuple[Slot, ...]
    sample: Callable[[random.Random, Mapping[str, str], Mapping[str, Any]], Arguments]

    def nouns(self, domain: Mapping[str, str]) -> dict[str, str]:
        """The words of a domain, with the function's name as `fn`."""
        return {**domain, 'fn': self.function.format(**domain)}

    def describe(self, domain: Mapping[str, str]) -> str:
        """The vague request, without what leaks."""
        return self.request.format(**self.nouns(domain))

    def program(self, values: Mapping[str, Any], domain: Mapping[str, str]) -> str:
        """The function with its holes filled."""
        return specialise(self.source, values, self.nouns(domain))

    def call(self, rng: random.Random, domain: Mapping[str, str], values: Mapping[str, Any]) -> str:
        """One call, as text, whose arguments lie where the values of the slots matter."""
        arguments = ', '.join(repr(argument) for argument in self.sample(rng, domain, values))
        return f'{self.nouns(domain)["fn"]}({arguments})'

    def usual(self) -> dict[str, Any]:
        """{slot: its most common value}"""
        return {slot.name: slot.values[0] for slot in self.slots}


def shown(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, tuple):
        return ', '.join(shown(part) for part in value[:-1]) + f' and {shown(value[-1])}'
    return repr(value) if isinstance(value, str) else f'{value:g}' if isinstance(value, float) else str(value)
