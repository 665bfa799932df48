"""What is proven of every task before it is written. Each proof gives the complaint, or None.

The values are tagged ones (grader/inside/tagged.py), [calls], of programs that ran in the jail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from colbench_jax.grader.compare import is_nan, same

Values = Sequence[list | None]

MOST_GUESSED = 3  # of 10 calls that the most common values may pass


def is_defined(reference: Values) -> str | None:
    """The reference gives a value on every call, and neither None nor NaN."""
    for number, value in enumerate(reference):
        if value is None:
            return f'the reference fails on call {number + 1}'
        if value == ['n'] or is_nan(value):
            return f'the reference gives None or NaN on call {number + 1}'
    return None


def is_deterministic(once: Values, again: Values) -> str | None:
    """Two runs under different hash seeds agree."""
    return None if list(once) == list(again) else 'the reference depends on the hash seed'


def is_sensitive(reference: Values, mutants: Mapping[str, Values]) -> str | None:
    """Every mutant (a hidden slot with another value) differs from the reference on some call."""
    blind = [name for name, values in mutants.items() if agreements(reference, values) == len(reference)]
    return f'no call tells {", ".join(blind)}' if blind else None


def is_underspecified(reference: Values, guess: Values) -> str | None:
    """The program of what is told and else most common passes few calls."""
    passed = agreements(reference, guess)
    return f'a guess passes {passed} of {len(reference)} calls' if passed > MOST_GUESSED else None


def tells_nothing(description: str, literals: Mapping[str, Sequence[str]]) -> str | None:
    """The description holds no literal of {slot: literals} that are hidden and did not leak."""
    for slot, texts in literals.items():
        for text in texts:
            if text and re.search(rf'(?<![\w.]){re.escape(text)}(?![\w]|\.\d)', description):
                return f'the description holds {text}, the value of {slot}'
    return None


def agreements(reference: Values, other: Values) -> int:
    """On how many calls two programs agree."""
    return sum(
        mine is not None and its is not None and same(mine, its) for mine, its in zip(reference, other, strict=True)
    )
