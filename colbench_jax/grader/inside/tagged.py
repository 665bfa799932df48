"""Values as JSON that says their type: ['i', '12'], ['f', '0x1.8p+1'], ['l', [...]], ...

Only exact built-in types pass (`type(x) is int`): an object that calls itself equal to everything has no way out.
Depth, number of parts, text and digits are capped. This file is loaded inside the jail: standard library alone.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
from typing import Any

DEPTH, PARTS, TEXT, BITS = 16, 5_000, 20_000, 4_000

_PLAIN_DICTS = (dict, collections.Counter, collections.defaultdict, collections.OrderedDict)
_LISTS = {list: 'l', tuple: 't', set: 'S', frozenset: 'S', collections.deque: 'l'}
_BY_REPR = (
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    complex,
)


class CannotLeave(Exception):
    """The value is no plain data, or too much of it."""


def encode(value: Any) -> list:
    """`value` tagged. Raises CannotLeave."""
    left = [PARTS]

    def walk(value: Any, depth: int) -> list:
        left[0] -= 1
        if left[0] < 0 or depth > DEPTH:
            raise CannotLeave('too large')
        kind = type(value)
        if value is None:
            return ['n']
        if kind is bool:
            return ['b', int(value)]
        if kind is int:
            if value.bit_length() > BITS:
                raise CannotLeave('an integer of too many digits')
            return ['i', str(value)]
        if kind is float:
            return ['f', value.hex()]
        if kind is str or kind is bytes:
            if len(value) > TEXT:
                raise CannotLeave('too long a text')
            # Lone surrogates are no text that can be sent.
            return ['s', value.encode('utf-8', 'backslashreplace').decode()] if kind is str else ['y', value.hex()]
        if kind in _LISTS:
            return [_LISTS[kind], [walk(item, depth + 1) for item in value]]
        if kind in _PLAIN_DICTS:
            return ['d', [[walk(key, depth + 1), walk(item, depth + 1)] for key, item in value.items()]]
        if kind in _BY_REPR:
            return ['o', kind.__name__, repr(value)[:200]]
        raise CannotLeave(f'a value of type {kind.__name__[:40]}')

    return walk(value, 0)
