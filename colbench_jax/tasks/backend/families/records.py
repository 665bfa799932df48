"""Families over records: dicts of a domain, whose amounts and groups may be missing."""

from __future__ import annotations

from colbench_jax.tasks.backend.families.shared import (
    AMOUNT,
    EMPTY,
    MISSING,
    RECORDS,
    digits,
    edge,
    limit_of,
    near_limit,
    order_slot,
    records,
    some_records,
)
from colbench_jax.tasks.backend.family import Family, Slot

FILTER_TOTAL = Family(
    'filter_total',
    'total_of_large_{things}',
    'Write a function {fn}({things}) that adds up the {amount} of the large {things}. ' + RECORDS,
    """
def N_fn(N_things):
    total = 0
    found = False
    for row in N_things:
        value = row['N_amount']
        if value is None:
            if S_missing == 'skip':
                continue
            if S_missing == 'refuse':
                return 'incomplete'
            value = 50
        if value >= S_limit if S_edge == 'inclusive' else value > S_limit:
            total += min(value, S_cap) if S_cap is not None else value
            found = True
    if not found:
        return S_empty
    return round(total, S_digits)
""",
    (
        limit_of(10, 15, 20, 25, 40),
        edge('limit'),
        Slot(
            'missing',
            ('skip', 'fifty', 'refuse'),
            MISSING.ask,
            {
                'skip': 'Leave out any {thing} whose {amount} is missing.',
                'fifty': 'Take fifty in place of a missing {amount}.',
                'refuse': "If any {amount} is missing, return just 'incomplete'.",
            },
        ),
        digits(),
        EMPTY,
        Slot(
            'cap',
            (None, 22, 30, 45),
            ('Is there a cap on what a single {thing} may add?', 'Can one {thing} contribute without a maximum?'),
            {
                None: 'There is no cap on a single {thing}.',
                22: 'A single {thing} adds 22 at most.',
                30: 'A single {thing} adds 30 at most.',
                45: 'A single {thing} adds 45 at most.',
            },
        ),
    ),
    near_limit,
)

RANKING = Family(
    'ranking',
    'rank_{things}',
    'Write a function {fn}({things}) that gives the best {things} by {amount}. ' + RECORDS,
    f"""
def N_fn(N_things):
    rows = []
    for row in N_things:
        {AMOUNT.strip()}
        rows.append((value, row['N_name']))
    if S_tie == 'reverse':
        rows.sort(key=lambda pair: pair[1], reverse=True)
    if S_tie == 'name':
        rows.sort(key=lambda pair: pair[1])
    rows.sort(key=lambda pair: pair[0], reverse=S_order == 'descending')
    rows = rows[:S_top]
    if S_output == 'names':
        return [name for _, name in rows]
    return [[name, value] for value, name in rows]
""",
    (
        order_slot(usual='descending'),
        Slot(
            'tie',
            ('name', 'reverse', 'input'),
            ('How are ties broken?', 'What if two {things} have the same {amount}?'),
            {
                'name': 'Ties go by {name}, A to Z.',
                'reverse': 'Ties go by {name}, Z to A.',
                'input': 'Ties stay in the order they came.',
            },
        ),
        Slot('top', (3, 1, 2, 4), ('How many {things} do you want?', 'How long is the list?'), 'I want the first {v}.'),
        Slot(
            'output',
            ('names', 'pairs'),
            ('Should the output have only names or also values?', 'What should the result contain?'),
            {'names': 'Only the {name} of each.', 'pairs': 'Give a list [{name}, {amount}] for each.'},
        ),
        MISSING,
    ),
    lambda rng, nouns, values: (records(rng, nouns, near=6, least=4, decimals=False),),
)

GROUPING = Family(
    'grouping',
    '{things}_per_{group}',
    'Write a function {fn}({things}) that summarizes the {amount} for each {group}. '
    + RECORDS
    + ' A {group} may be missing, too.',
    f"""
def N_fn(N_things):
    groups = {{}}
    for row in N_things:
        {AMOUNT.strip()}
        group = row['N_group']
        if group is None:
            if S_nogroup is None:
                continue
            group = S_nogroup
        groups.setdefault(group, []).append(value)
    result = {{}}
    for group, values in groups.items():
        if len(values) < S_least:
            continue
        if S_how == 'sum':
            result[group] = round(sum(values), S_digits)
        elif S_how == 'mean':
            result[group] = round(sum(values) / len(values), S_digits)
        else:
            result[group] = round(max(values), S_digits)
    return result
""",
    (
        Slot(
            'how',
            ('sum', 'mean', 'highest'),
            ('Do you want the sum, the mean or the maximum?', 'How should each {group} be summarized?'),
            {'sum': 'Add them up.', 'mean': 'Take the average.', 'highest': 'Take the highest one.'},
        ),
        Slot(
            'nogroup',
            ('other', None, 'unknown'),
            ('Where does a {thing} without a {group} go?', 'What if the {group} is missing?'),
            {
                'other': "Without a {group} it goes to 'other'.",
                None: 'Without a {group} it is left out.',
                'unknown': "Without a {group} it goes to 'unknown'.",
            },
        ),
        MISSING,
        Slot(
            'least',
            (1, 2, 3),
            ('How many {things} must a {group} have to be listed?', 'Are small groups dropped?'),
            'List a {group} with {v} or more {things}.',
        ),
        digits(),
    ),
    some_records,
)
