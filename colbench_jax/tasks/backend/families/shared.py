"""What families share: the words of their domains, slots that several of them have, and inputs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from colbench_jax.tasks.backend.family import Arguments, Slot

Nouns, Values = Mapping[str, Any], Mapping[str, Any]

_DOMAINS = (
    # thing, things, name, amount, group, names, groups
    ('order', 'orders', 'customer', 'total', 'region', 'Ada Bo Cleo Dan Eve Finn', 'north south east'),
    ('ticket', 'tickets', 'owner', 'hours', 'queue', 'Gus Hana Ivo Jill Kai Lena', 'billing web phone'),
    ('runner', 'runners', 'bib', 'minutes', 'club', 'R7 R12 R19 R23 R31 R40', 'hares owls foxes'),
    ('plant', 'plants', 'species', 'height', 'bed', 'fern rose iris moss sage mint', 'sun shade pond'),
    ('loan', 'loans', 'reader', 'days', 'branch', 'Mo Nia Olaf Pia Quin Rosa', 'main harbor hill'),
    ('delivery', 'deliveries', 'driver', 'weight', 'route', 'Sam Tess Uma Vic Wes Xena', 'red green blue'),
    ('room', 'rooms', 'label', 'area', 'floor', 'attic den hall loft study porch', 'low mid top'),
    ('shift', 'shifts', 'worker', 'length', 'team', 'Yan Zoe Abe Bea Cy Dot', 'early late night'),
)
DOMAINS: dict[str, dict[str, Any]] = {
    row[1]: dict(zip(('thing', 'things', 'name', 'amount', 'group'), row, strict=False))
    | {'names': row[5].split(), 'groups': row[6].split()}
    for row in _DOMAINS
}

RECORDS = "Each {thing} is a dict with '{name}', '{amount}' and '{group}'; the {amount} may be missing (None)."

# Slots that several families have


def edge(limit: str) -> Slot:
    return Slot(
        'edge',
        ('inclusive', 'exclusive'),
        (
            f'Does a value exactly at the {limit} count?',
            f'Is the {limit} inclusive or exclusive?',
            f'What if a value is equal to the {limit}?',
        ),
        {
            'inclusive': f'A value exactly at the {limit} does count.',
            'exclusive': f'A value exactly at the {limit} does not count.',
        },
    )


def digits(*values: Any) -> Slot:
    return Slot(
        'digits',
        values or (2, 0, 1, 3),
        (
            'How many decimal places should the result be rounded to?',
            'How should I round the result?',
            'What precision?',
        ),
        'Round the result to {v} decimal places.',
    )


MISSING = Slot(
    'missing',
    ('skip', 'zero', 'five'),
    ('How should a missing {amount} be handled?', 'What should I do when the {amount} is None?'),
    {
        'skip': 'Leave out any {thing} whose {amount} is missing.',
        'zero': 'A missing {amount} counts as zero.',
        'five': 'Take five in place of a missing {amount}.',
    },
)

EMPTY = Slot(
    'empty',
    (0, -1, 'n/a'),
    ('What should be returned when there is nothing to report?', 'What is the result for empty input?'),
    'With nothing to go on, return {v}.',
)

AMOUNT = """
        value = row['N_amount']
        if value is None:
            if S_missing == 'skip':
                continue
            value = 0 if S_missing == 'zero' else 5
"""


def limit_of(*values: int) -> Slot:
    return Slot(
        'limit',
        values,
        ('What is the limit?', 'Which threshold should I use for the {amount}?', 'Where is the cut-off?'),
        'The limit is {v}.',
    )


def order_slot(*, usual: str = 'ascending') -> Slot:
    other = 'descending' if usual == 'ascending' else 'ascending'
    return Slot(
        'order',
        (usual, other),
        (
            'In which order should the result be sorted?',
            'Ascending or descending order?',
            'What is the sort direction?',
        ),
        {'ascending': 'Sort it from low to high.', 'descending': 'Sort it from high to low.'},
    )


def records(rng: random.Random, nouns: Nouns, near: int = 20, least: int = 0, decimals: bool = True) -> list[dict]:
    """Records whose amounts lie around `near`, some missing, some without a group."""
    rows = []
    for _ in range(rng.choice((least, *range(3, 8)))):
        amount = rng.choice((near, near, near - 1, near + 1, rng.randint(1, 2 * near)))
        amount = round(amount + rng.random(), 3) if decimals and rng.random() < 0.4 else amount
        rows.append(
            {
                nouns['name']: rng.choice(nouns['names']),
                nouns['amount']: None if rng.random() < 0.2 else amount,
                nouns['group']: None if rng.random() < 0.2 else rng.choice(nouns['groups']),
            }
        )
    return rows


def near_limit(rng: random.Random, nouns: Nouns, values: Values) -> Arguments:
    return (records(rng, nouns, near=values['limit']),)


def some_records(rng: random.Random, nouns: Nouns, values: Values) -> Arguments:
    return (records(rng, nouns),)


def numbers(rng: random.Random, low: int, high: int, most: int = 9, least: int = 0) -> list[int]:
    return [rng.randint(low, high) for _ in range(rng.randint(least, most))]
