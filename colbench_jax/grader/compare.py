"""Whether two tagged values (inside/tagged.py) are the same value."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

TOLERANCE = 1e-9  # of floats, relative or absolute


def same(wanted: list, found: list, *, lenient: bool = False) -> bool:
    """Whether `found` is `wanted`, as Python's `==` on plain data would say, with these differences.

    Floats are the same within TOLERANCE, also as another kind of number, and NaN is NaN; a bool is no number; the order
    of a set does not count.
    lenient: a list may stand for a tuple. Strict is the default because `[1] == (1,)` is false in Python too, so that
    scores agree with the released grader's wherever that one is right.
    """
    if wanted == found:
        return True
    kind, other = _kind(wanted, lenient), _kind(found, lenient)
    if kind != other:
        return False
    if kind == 'number':
        return _same_number(number(wanted), number(found))
    if kind in ('l', 't', 'S', 'r'):
        mine, its = wanted[1], found[1]
        if kind == 'S':
            mine, its = sorted(mine, key=_key), sorted(its, key=_key)
        return len(mine) == len(its) and all(same(a, b, lenient=lenient) for a, b in zip(mine, its, strict=True))
    if kind == 'd':
        mine, its = ({_key(pair[0]): pair for pair in one[1]} for one in (wanted, found))
        return mine.keys() == its.keys() and all(
            same(a, b, lenient=lenient) for key in mine for a, b in zip(mine[key], its[key], strict=True)
        )
    return wanted == found


def is_nan(value: list) -> bool:
    """Whether a NaN is `value` or is in it."""
    if value[0] in _NUMBERS:
        return number(value) != number(value)
    if value[0] in ('l', 't', 'S'):
        return any(is_nan(item) for item in value[1])
    return value[0] == 'd' and any(is_nan(item) for _, item in value[1])


def number(value: list) -> Any:
    """What a tagged number says: int, float, complex, Decimal or Fraction. Raises ValueError."""
    tag, said = value
    if tag == 'i':
        return int(said, 16 if 'x' in said else 10)
    if tag == 'f':
        return float.fromhex(said)
    if tag == 'D':
        return Decimal(said)
    first, second = map(number, said)
    return complex(first, second) if tag == 'c' else Fraction(first, second)


_NUMBERS = ('i', 'f', 'c', 'D', 'F')


def _kind(value: list, lenient: bool) -> str:
    if value[0] in _NUMBERS:
        return 'number'
    return 'l' if lenient and value[0] == 't' else value[0]


def _same_number(mine: Any, its: Any) -> bool:
    if mine == its or (mine != mine and its != its):
        return True
    if not {float, complex} & {type(mine), type(its)}:
        return False
    try:
        mine, its = complex(mine), complex(its)
    except OverflowError:
        return False
    return _close(mine.real, its.real) and _close(mine.imag, its.imag)


def _close(mine: float, its: float) -> bool:
    return math.isclose(mine, its, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _key(value: list) -> str:
    """A text by which equal values are found: 1 and 1.0 have one key, as in Python. Others may share it."""
    if value[0] in _NUMBERS:
        said = number(value)
        return json.dumps(['#', 'nan' if said != said else hash(round(said, 9) if type(said) is float else said)])
    if value[0] in ('l', 't', 'S'):
        parts = [_key(item) for item in value[1]]
        return json.dumps([value[0], sorted(parts) if value[0] == 'S' else parts])
    return json.dumps(value)
