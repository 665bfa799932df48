"""Values as JSON that says their type: ['i', '12'], ['f', '0x1.8p+1'], ['l', [...]], ...

Only exact built-in types pass (`type(x) is int`), and named tuples as tuples: an object that calls itself equal to
everything has no way out. Depth, number of parts, text and digits are capped. This file is loaded inside the jail:
standard library alone.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
from typing import Any

DEPTH, PARTS, TEXT, BITS = 16, 5_000, 20_000, 80_000
DECIMAL_BITS = 4_000  # of an integer that is written in decimals; Python reads no long ones

_PLAIN_DICTS = (dict, collections.Counter, collections.defaultdict, collections.OrderedDict)
_LISTS = {list: 'l', tuple: 't', set: 'S', frozenset: 'S', collections.deque: 'l'}
_LISTS |= {type({}.keys()): 'S', type({}.items()): 'S'}  # they equal sets
_BY_REPR = (datetime.date, datetime.datetime, datetime.time, datetime.timedelta)


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
            return ['i', str(value) if value.bit_length() <= DECIMAL_BITS else hex(value)]
        if kind is float:
            return ['f', value.hex()]
        if kind is complex:
            return ['c', [walk(value.real, depth + 1), walk(value.imag, depth + 1)]]
        if kind is fractions.Fraction:
            return ['F', [walk(value.numerator, depth + 1), walk(value.denominator, depth + 1)]]
        if kind is decimal.Decimal:
            return ['D', text(str(value))]
        if kind is str:
            # Lone surrogates are no text that can be sent.
            return ['s', text(value).encode('utf-8', 'backslashreplace').decode()]
        if kind is bytes:
            return ['y', text(value).hex()]
        if kind in _LISTS:
            return [_LISTS[kind], [walk(item, depth + 1) for item in value]]
        if kind is range:  # as equal ones are: by what is in it
            first = [value[0], value.step if len(value) > 1 else 1] if value else []
            return ['r', [walk(part, depth + 1) for part in (len(value), *first)]]
        if issubclass(kind, tuple) and hasattr(kind, '_fields'):
            return ['t', [walk(item, depth + 1) for item in tuple.__iter__(value)]]
        if kind in _PLAIN_DICTS:
            return ['d', [[walk(key, depth + 1), walk(item, depth + 1)] for key, item in value.items()]]
        if kind in _BY_REPR:
            if type(getattr(value, 'tzinfo', None)) not in (type(None), datetime.timezone):
                raise CannotLeave('a time with a zone of its own')
            return ['o', kind.__name__, text(repr(value))]
        raise CannotLeave(f'a value of type {kind.__name__[:40]}')

    def text(value: Any) -> Any:
        if len(value) > TEXT:
            raise CannotLeave('too long a text')
        return value

    return walk(value, 0)
