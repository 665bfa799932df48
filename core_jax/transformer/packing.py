"""Rows of tokens as arrays, one sequence a row or several behind one another.

A sequence is {'tokens': [..], 'mask': [..], 'turns': [..]} of one length; an array holds [N, width] of each, beside
`positions`, which count from 0 in every sequence, and `segments`, which number the sequences of a row from 1 and say
which of them a token can see. Padding is segment 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core_jax.errors import UserError


def width_of(found: Sequence[dict[str, list[int]]]) -> int:
    """Tokens of the longest sequence, rounded up to a multiple of 32 so that few widths are compiled."""
    return -(-max(len(one['tokens']) for one in found) // 32) * 32


def rows(found: Sequence[dict[str, list[int]]], width: int) -> dict[str, np.ndarray]:
    """Arrays [N, width] of N sequences, short ones padded on the right.

    Raises UserError where one is longer: what was cut would be the answer, or what a critic is told.
    """
    return _laid([[one] for one in found], width)


def pack(found: Sequence[dict[str, list[int]]], width: int) -> dict[str, np.ndarray]:
    """Arrays [R, width] with several sequences a row, each in the first row that has room for it.

    For losses that are sums over tokens: a number a sequence cannot be told from such rows without their segments.
    Raises UserError where one is longer than a row.
    """
    laid: list[list[dict[str, list[int]]]] = []
    free = np.zeros(len(found), np.int64)
    for one in found:
        length = len(one['tokens'])
        fits = np.flatnonzero(free[: len(laid)] >= length)
        if not len(fits):
            free[len(laid)] = width
            laid.append([])
        row = fits[0] if len(fits) else len(laid) - 1
        laid[row].append(one)
        free[row] -= length
    return _laid(laid, width)


def _laid(laid: Sequence[Sequence[dict[str, list[int]]]], width: int) -> dict[str, np.ndarray]:
    longest = max(len(one['tokens']) for own in laid for one in own)
    if longest > width:
        raise UserError(f'a sequence has {longest} tokens, there is room for {width}')
    shape = len(laid), width
    out = {name: np.zeros(shape, np.int32) for name in ('tokens', 'positions', 'segments', 'mask')}
    out['turns'] = np.full(shape, -1, np.int32)
    for row, own in enumerate(laid):
        at = 0
        for number, one in enumerate(own):
            here = row, slice(at, at + len(one['tokens']))
            for name in ('tokens', 'mask', 'turns'):
                out[name][here] = one[name]
            out['positions'][here] = np.arange(len(one['tokens']))
            out['segments'][here] = number + 1
            at += len(one['tokens'])
    return out
