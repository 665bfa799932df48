"""Whether two tagged values (inside/tagged.py) are the same value."""

from __future__ import annotations

import json
import math

TOLERANCE = 1e-9  # of floats, relative or absolute


def same(wanted: list, found: list, *, lenient: bool = False) -> bool:
    """Whether `found` is `wanted`, as Python's `==` on plain data would say, with these differences.

    Floats are the same within TOLERANCE and NaN is NaN; a bool is no number; the order of a set does not count.
    lenient: a list may stand for a tuple. Strict is the default because `[1] == (1,)` is false in Python too, so that
    scores agree with the released grader's wherever that one is right.
    """
    if wanted == found:
        return True
    kind, other = _kind(wanted, lenient), _kind(found, lenient)
    if kind != other:
        return False
    if kind == 'number':
        return _same_number(wanted, found)
    if kind in ('l', 't', 'S'):
        mine, its = wanted[1], found[1]
        if kind == 'S':
            mine, its = sorted(mine, key=_key), sorted(its, key=_key)
        return len(mine) == len(its) and all(same(a, b, lenient=lenient) for a, b in zip(mine, its, strict=True))
    if kind == 'd':
        mine, its = ({_key(key): value for key, value in one[1]} for one in (wanted, found))
        return mine.keys() == its.keys() and all(same(mine[key], its[key], lenient=lenient) for key in mine)
    return wanted == found


def is_nan(value: list) -> bool:
    """Whether a NaN is `value` or is in it."""
    if value[0] == 'f':
        return math.isnan(float.fromhex(value[1]))
    if value[0] in ('l', 't', 'S'):
        return any(is_nan(item) for item in value[1])
    return value[0] == 'd' and any(is_nan(item) for _, item in value[1])


def _kind(value: list, lenient: bool) -> str:
    if value[0] in ('i', 'f'):
        return 'number'
    return 'l' if lenient and value[0] == 't' else value[0]


def _same_number(wanted: list, found: list) -> bool:
    if wanted[0] == found[0] == 'i':
        return wanted[1] == found[1]
    try:
        mine, its = (float.fromhex(v) if tag == 'f' else float(int(v)) for tag, v in (wanted, found))
    except OverflowError:
        return False
    return (
        mine == its
        or (math.isnan(mine) and math.isnan(its))
        or math.isclose(mine, its, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    )


def _key(value: list) -> str:
    """A text by which equal values are found: 1 and 1.0 are one key, as in Python."""
    if value[0] == 'f':
        number = float.fromhex(value[1])
        return json.dumps(['i', str(int(number))] if number.is_integer() else ['f', repr(round(number, 9))])
    if value[0] in ('l', 't', 'S'):
        parts = [_key(item) for item in value[1]]
        return json.dumps([value[0], sorted(parts) if value[0] == 'S' else parts])
    return json.dumps(value)
