"""The program families of ColBench's backend tasks, each a page of its own: request, program, slots, inputs.

Names, texts and programs are our own. The first value of a slot is the most common one, which an agent that does not
ask would guess.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from colbench_jax.tasks.backend.family import Arguments, Family, Slot

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

_AMOUNT = """
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


def _near_limit(rng: random.Random, nouns: Nouns, values: Values) -> Arguments:
    return (records(rng, nouns, near=values['limit']),)


def _some_records(rng: random.Random, nouns: Nouns, values: Values) -> Arguments:
    return (records(rng, nouns),)


def _numbers(rng: random.Random, low: int, high: int, most: int = 9, least: int = 0) -> list[int]:
    return [rng.randint(low, high) for _ in range(rng.randint(least, most))]


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
    _near_limit,
)

TIERED_PRICE = Family(
    'tiered_price',
    'price_for_{things}',
    'Write a function {fn}(count, unit_price) for the price of that many {things}. Large numbers get a discount.',
    """
def N_fn(count, unit_price):
    if count <= 0:
        return S_empty
    price = count * unit_price
    if count >= S_start if S_edge == 'inclusive' else count > S_start:
        base = price if S_scope == 'all' else (count - S_start) * unit_price
        price -= base * S_percent / 100
    return round(max(price, S_least), S_digits)
""",
    (
        Slot(
            'start',
            (10, 12, 20, 25, 50),
            ('From which count on is there a discount?', 'How many {things} are needed for the discount?'),
            'The discount starts at {v} {things}.',
        ),
        edge('start of the discount'),
        Slot(
            'percent',
            (10, 5, 8, 15, 30),
            ('How many percent is the discount?', 'How large is the discount?'),
            'The discount is {v} percent.',
        ),
        Slot(
            'scope',
            ('all', 'above'),
            ('Does the discount apply to all of them or only to those above the start?', 'What part is discounted?'),
            {'all': 'It applies to the whole price.', 'above': 'Only those above the start are cheaper.'},
        ),
        Slot(
            'least',
            (0, 20, 35, 60),
            ('Is there a minimum charge?', 'What is the least that must be paid?'),
            'The minimum charge is {v}.',
        ),
        digits(),
        EMPTY,
    ),
    lambda rng, nouns, values: (
        rng.choice((0, values['start'], values['start'] + rng.randint(1, 30), rng.randint(1, values['start']))),
        rng.choice((rng.randint(1, 9), round(rng.uniform(0.5, 12), 3))),
    ),
)

WEIGHTED_SCORE = Family(
    'weighted_score',
    'rate_{thing}',
    'Write a function {fn}(quality, speed, care) that combines three marks of a {thing}, each from 0 to 10 or None, '
    'into one score.',
    """
def N_fn(quality, speed, care):
    marks = [quality, speed, care]
    if all(mark is None for mark in marks):
        return S_empty
    total, weight = 0, 0
    for mark, share in zip(marks, S_weights):
        if mark is None:
            if S_missing == 'skip':
                continue
            mark = 0 if S_missing == 'zero' else 5
        total += mark * share
        weight += share
    score = total / weight if S_scale == 'mean' else total
    if S_cap is not None:
        score = min(score, S_cap)
    return round(score, S_digits)
""",
    (
        Slot(
            'weights',
            ((1, 1, 1), (2, 1, 1), (3, 2, 1), (1, 4, 2)),
            ('How much weight does each mark have?', 'Which weights should quality, speed and care get?'),
            'Quality, speed and care have the weights {v}.',
        ),
        Slot(
            'missing',
            ('skip', 'zero', 'five'),
            ('How should a missing mark be handled?', 'What should I do when a mark is None?'),
            {
                'skip': 'A missing mark is left out, with its weight.',
                'zero': 'A missing mark counts as zero.',
                'five': 'Take five in place of a missing mark.',
            },
        ),
        Slot(
            'scale',
            ('mean', 'sum'),
            ('Is the score a weighted mean or a sum?', 'Should I divide by the sum of the weights?'),
            {'mean': 'It is the weighted mean.', 'sum': 'Just add up, without dividing.'},
        ),
        Slot(
            'cap',
            (None, 6, 7, 8),
            ('Is there a cap on the score?', 'Is there a highest score that is possible?'),
            {
                None: 'The score has no cap.',
                6: 'No score is above six.',
                7: 'No score is above seven.',
                8: 'No score is above eight.',
            },
        ),
        digits(2, 0, 1, 3),
        EMPTY,
    ),
    lambda rng, nouns, values: (
        (None,) * 3 if rng.random() < 0.1 else tuple(rng.choice((None, *range(2, 11), 10)) for _ in range(3))
    ),
)

ID_FORMAT = Family(
    'id_format',
    'code_of_{thing}',
    'Write a function {fn}(text) that turns the free text of a {thing} into a tidy code.',
    """
def N_fn(text):
    words = []
    for word in text.strip().split():
        word = ''.join(a for a in word if a.isalpha() or (S_numbers == 'keep' and a.isdigit()))
        if word:
            word = word.lower() if S_case == 'lower' else word.upper() if S_case == 'upper' else word.capitalize()
            words.append(word)
    if not words:
        return S_nothing
    return S_separator.join(words)[:S_longest]
""",
    (
        Slot(
            'case',
            ('lower', 'upper', 'capital'),
            ('Should the code be lower or upper case?', 'Which letter case should I use?'),
            {
                'lower': 'All letters are small.',
                'upper': 'All letters are capitals.',
                'capital': 'Each word begins with a capital.',
            },
        ),
        Slot(
            'separator',
            ('-', '_', '.', '/'),
            ('What goes between the words?', 'Which separator joins the words?'),
            'Join the words with {v}.',
        ),
        Slot(
            'numbers',
            ('keep', 'drop'),
            ('Should digits be kept?', 'What happens to numbers in the text?'),
            {'keep': 'Digits stay in.', 'drop': 'Digits are thrown out.'},
        ),
        Slot(
            'longest',
            (20, 8, 10, 12),
            ('Is there a maximum length?', 'How long may the code be?'),
            'Cut it after {v} characters.',
        ),
        Slot(
            'nothing',
            ('', 'none', 'UNKNOWN'),
            ('What is the code of an empty text?', 'What if no word is left?'),
            'If no word is left, the code is {v}.',
        ),
    ),
    lambda rng, nouns, values: (
        rng.choice(('', ' ', ' ', '  '))
        + ' '.join(
            rng.choice((*nouns['names'], *nouns['groups'], 'No.7', '42', '#9', 'x2-b'))
            for _ in range(rng.choice((0, 2, 3, 3, 4)))
        ),
    ),
)

DATE_BUCKETS = Family(
    'date_buckets',
    '{things}_by_period',
    "Write a function {fn}(dates) that counts {things} by period. Dates are texts like '2024-03-09'; "
    'some are malformed. The result holds a list [period, count] for each.',
    """
def N_fn(dates):
    counts = {}
    for text in dates:
        parts = text.split('-')
        if len(parts) != 3 or not all(part.isdigit() for part in parts):
            if S_bad == 'skip':
                continue
            counts['bad'] = counts.get('bad', 0) + 1
            continue
        year, month = int(parts[0]), int(parts[1])
        if year < S_first:
            continue
        if S_period == 'month':
            key = f'{year}-{month:02d}'
        elif S_period == 'quarter':
            key = f'{year}-Q{(month + 2) // 3}'
        else:
            key = str(year)
        counts[key] = counts.get(key, 0) + 1
    keys = sorted(counts, reverse=S_order == 'descending')
    return [[key, counts[key]] for key in keys if counts[key] >= S_least]
""",
    (
        Slot(
            'period',
            ('month', 'quarter', 'year'),
            ('Which period: by month, quarter or year?', 'How long is a period?'),
            {
                'month': 'Count by month, written like 2024-03.',
                'quarter': 'Count by quarter, written like 2024-Q1.',
                'year': 'Count by year.',
            },
        ),
        Slot(
            'bad',
            ('skip', 'count'),
            ('What should I do with malformed dates?', 'How are invalid dates handled?'),
            {'skip': 'Ignore malformed dates.', 'count': "Count malformed dates under 'bad'."},
        ),
        order_slot(),
        Slot(
            'first',
            (0, 2020, 2021, 2022),
            ('Is there an earliest year?', 'Should old years be left out?'),
            {
                0: 'All years count, however old.',
                2020: 'Leave out what is before 2020.',
                2021: 'Leave out what is before 2021.',
                2022: 'Leave out what is before 2022.',
            },
        ),
        Slot(
            'least',
            (1, 2, 3),
            ('Is there a smallest count worth listing?', 'Should rare periods be dropped?'),
            'List a period when its count is {v} or more.',
        ),
    ),
    lambda rng, nouns, values: (
        [
            rng.choice(('soon', '2021/05/06'))
            if rng.random() < 0.15
            else f'{rng.choice((2019, 2020, 2021, 2022, 2023))}-{rng.choice((1, 2, 5, 6)):02d}-{rng.randint(1, 28):02d}'
            for _ in range(rng.randint(5, 12))
        ],
    ),
)

REORDER = Family(
    'reorder',
    'refill_{things}',
    'Write a function {fn}(stock) that says what to buy. Stock is a dict from {name} to the number left; '
    'the result holds a list [{name}, number to buy] for each.',
    """
def N_fn(stock):
    wanted = []
    for name, left in stock.items():
        left = max(left, 0) if S_negative == 'zero' else left
        if left <= S_limit if S_edge == 'inclusive' else left < S_limit:
            count = S_target - left
            count = -(-count // S_pack) * S_pack
            wanted.append([name, count])
    wanted.sort(key=lambda pair: (pair[0] if S_by == 'name' else -pair[1], pair[0]))
    return wanted
""",
    (
        Slot(
            'limit',
            (5, 4, 6, 8),
            ('At which number left do we buy?', 'What is the reorder limit?'),
            'The reorder limit is {v}.',
        ),
        edge('reorder limit'),
        Slot(
            'target',
            (20, 12, 15, 31),
            ('Up to which number do we fill?', 'What is the target stock?'),
            'Fill up to {v}.',
        ),
        Slot('pack', (1, 4, 6, 10), ('Do we buy in packs?', 'What is the pack size?'), 'They come in packs of {v}.'),
        Slot(
            'by',
            ('name', 'count'),
            ('How should the shopping list be sorted?', 'In which order do the lines come?'),
            {'name': 'Sort by {name}.', 'count': 'The largest purchase comes first.'},
        ),
        Slot(
            'negative',
            ('zero', 'keep'),
            ('What if a stock is negative?', 'How do I treat a number below zero?'),
            {'zero': 'Treat a negative stock as nothing left.', 'keep': 'A negative stock must be made good, too.'},
        ),
    ),
    lambda rng, nouns, values: (
        {
            name: rng.choice((values['limit'], values['limit'] - 1, rng.randint(-3, 12)))
            for name in rng.sample(nouns['names'], rng.randint(1, 5))
        },
    ),
)

RANKING = Family(
    'ranking',
    'rank_{things}',
    'Write a function {fn}({things}) that gives the best {things} by {amount}. ' + RECORDS,
    f"""
def N_fn(N_things):
    rows = []
    for row in N_things:
        {_AMOUNT.strip()}
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

ALARM = Family(
    'alarm',
    '{thing}_alarm',
    'Write a function {fn}(readings) that raises an alarm when the {amount} readings of a {thing} stay too high.',
    """
def N_fn(readings):
    run = 0
    for place, value in enumerate(readings):
        if value is None:
            if S_gap == 'reset':
                run = 0
            continue
        run = run + 1 if (value >= S_limit if S_edge == 'inclusive' else value > S_limit) else 0
        if run == S_count:
            return place if S_output == 'index' else value if S_output == 'value' else True
    return S_quiet
""",
    (
        limit_of(30, 20, 25, 40),
        edge('limit'),
        Slot(
            'count',
            (1, 2, 3),
            ('How many readings in a row are needed?', 'How long must it stay high?'),
            'It takes {v} in a row.',
        ),
        Slot(
            'gap',
            ('reset', 'ignore'),
            ('What does a missing reading do?', 'How should None readings be treated?'),
            {'reset': 'A gap starts the run anew.', 'ignore': 'A gap is as if it were not there.'},
        ),
        Slot(
            'output',
            ('index', 'value', 'flag'),
            ('What should be returned at an alarm?', 'Is the output the position or the reading?'),
            {'index': 'Return the position, from zero.', 'value': 'Return the reading itself.', 'flag': 'Return True.'},
        ),
        Slot(
            'quiet',
            (-1, False, 'quiet'),
            ('What should be returned without an alarm?', 'And when nothing happens?'),
            'Without an alarm, return {v}.',
        ),
    ),
    lambda rng, nouns, values: (
        [
            rng.choice(
                (
                    None,
                    None,
                    values['limit'],
                    values['limit'] + 1,
                    values['limit'] + 2,
                    values['limit'] + 3,
                    rng.randint(1, 60),
                )
            )
            for _ in range(rng.randint(1, 7))
        ],
    ),
)

WINDOW = Family(
    'window',
    'smooth_{amount}',
    'Write a function {fn}(numbers) that smooths the daily {amount} figures over a moving window.',
    """
def N_fn(numbers):
    result = []
    for end in range(1, len(numbers) + 1):
        start = end - S_width
        if start < 0:
            if S_partial == 'drop':
                continue
            start = 0
        part = numbers[start:end]
        if S_how == 'mean':
            value = sum(part) / len(part)
        elif S_how == 'highest':
            value = max(part)
        else:
            value = sorted(part)[len(part) // 2]
        result.append(round(value, S_digits))
    if S_order == 'latest':
        result.reverse()
    return result
""",
    (
        Slot('width', (3, 2, 4, 5), ('How wide is the window?', 'Over how many days?'), 'The window is {v} days wide.'),
        Slot(
            'how',
            ('mean', 'highest', 'middle'),
            ('How are the numbers of a window combined: mean, median or maximum?', 'Which statistic do I take?'),
            {
                'mean': 'Take the mean of the window.',
                'highest': 'Take the highest of the window.',
                'middle': 'Take the upper middle value of the window.',
            },
        ),
        Slot(
            'partial',
            ('drop', 'keep'),
            ('What about incomplete windows at the beginning?', 'Are partial windows kept?'),
            {'drop': 'Leave out incomplete windows.', 'keep': 'At the beginning use what is there.'},
        ),
        Slot(
            'order',
            ('oldest', 'latest'),
            ('Does the result begin with the oldest or the latest day?', 'In which order do results come?'),
            {'oldest': 'The oldest day comes first.', 'latest': 'The latest day comes first.'},
        ),
        digits(),
    ),
    lambda rng, nouns, values: ([round(rng.uniform(1, 40), 4) for _ in range(rng.randint(2, 8))],),
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
        {_AMOUNT.strip()}
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
    _some_records,
)

CONVERSION = Family(
    'conversion',
    'convert_{amount}',
    'Write a function {fn}(value) that converts the {amount} of a {thing} to our own unit, as a text.',
    """
def N_fn(value):
    if value is None:
        return S_nothing
    if value < 0:
        if S_negative == 'zero':
            value = 0
        else:
            value = -value
    value = value * S_factor
    scale = 10 ** S_digits
    if S_mode == 'nearest':
        number = int(value * scale + 0.5) / scale
    elif S_mode == 'down':
        number = int(value * scale) / scale
    else:
        number = -int(-value * scale // 1) / scale
    return f'{number:.{S_digits}f}' + S_suffix
""",
    (
        Slot(
            'factor',
            (2.5, 0.45, 1.6, 3.28),
            ('What is the conversion factor?', 'How many of our units are one unit?'),
            'Multiply by {v}.',
        ),
        Slot(
            'mode',
            ('nearest', 'down', 'up'),
            ('Should I round up, down or to the nearest?', 'Which rounding mode?'),
            {'nearest': 'Round to the nearest.', 'down': 'Always round down.', 'up': 'Always round up.'},
        ),
        Slot(
            'digits',
            (1, 0, 2),
            ('How many decimal places should be shown?', 'What precision should it have?'),
            'Show {v} decimal places.',
        ),
        Slot(
            'suffix',
            ('', ' u', ' units'),
            ('Is there a suffix after the number?', 'Should the text end with the name of the unit?'),
            'Behind the number put {v}.',
        ),
        Slot(
            'negative',
            ('zero', 'positive'),
            ('What should happen to negative values?', 'What if the value is below zero?'),
            {'zero': 'Values below zero become zero.', 'positive': 'Drop the sign of values below zero.'},
        ),
        Slot(
            'nothing', ('', '-', 'n/a'), ('What is shown for None?', 'What if there is no value?'), 'For None show {v}.'
        ),
    ),
    lambda rng, nouns, values: (
        rng.choice((None, -rng.randint(1, 9), round(rng.uniform(0, 30), 2), rng.randint(1, 50))),
    ),
)

CONFLICTS = Family(
    'conflicts',
    'clashing_{things}',
    'Write a function {fn}(bookings) that finds {things} that clash. A booking is [{group}, start, end] in minutes.',
    """
def N_fn(bookings):
    found = []
    for first in range(len(bookings)):
        for second in range(first + 1, len(bookings)):
            (place, start, end), (other, begin, stop) = bookings[first], bookings[second]
            if S_across == 'same' and place != other:
                continue
            if S_touch == 'free':
                clash = start < stop + S_pause and begin < end + S_pause
            else:
                clash = start <= stop + S_pause and begin <= end + S_pause
            if clash:
                found.append([first + S_base, second + S_base])
    if S_output == 'pairs':
        return found
    if S_output == 'count':
        return len(found)
    return sorted({number for pair in found for number in pair})
""",
    (
        Slot(
            'pause',
            (0, 5, 10, 15),
            ('Is a pause needed between two bookings?', 'How many minutes must lie between?'),
            'Between two there must be {v} minutes.',
        ),
        Slot(
            'touch',
            ('free', 'clash'),
            ('Do bookings that just touch clash?', 'What if one starts exactly when the other ends?'),
            {'free': 'Those that just touch are fine.', 'clash': 'Those that just touch clash, too.'},
        ),
        Slot(
            'across',
            ('same', 'any'),
            ('Do only bookings of the same {group} clash?', 'Can two in different places clash?'),
            {'same': 'Only within one {group}.', 'any': 'The {group} does not matter.'},
        ),
        Slot(
            'output',
            ('pairs', 'count', 'all'),
            ('Should I return the pairs or a count?', 'What form does the output have?'),
            {
                'pairs': 'Return the pairs of positions, each as a list.',
                'count': 'Return how many pairs there are.',
                'all': 'Return every position that is in a pair, sorted.',
            },
        ),
        Slot('base', (0, 1), ('Do positions start at zero or one?', 'How are bookings numbered?'), 'Count from {v}.'),
    ),
    lambda rng, nouns, values: (
        [
            [rng.choice(nouns['groups'][:2]), start, start + rng.choice((10, 20, 30))]
            for start in (10 * rng.randint(0, 9) + rng.choice((0, 5)) for _ in range(rng.randint(2, 6)))
        ],
    ),
)

REACH = Family(
    'reach',
    'reachable_{things}',
    'Write a function {fn}(links, start) that finds the {things} that can be reached. Links are pairs of names.',
    """
def N_fn(links, start):
    next_to = {}
    for first, second in links:
        next_to.setdefault(first, set()).add(second)
        if S_direction == 'both':
            next_to.setdefault(second, set()).add(first)
    seen = {start: 0}
    front = [start]
    while front:
        name = front.pop(0)
        if S_hops is not None and seen[name] == S_hops:
            continue
        for other in sorted(next_to.get(name, ())):
            if other not in seen:
                seen[other] = seen[name] + 1
                front.append(other)
    if S_start == 'leave':
        del seen[start]
    if S_output == 'names':
        return sorted(seen)
    if S_output == 'steps':
        return seen
    return len(seen)
""",
    (
        Slot(
            'direction',
            ('one', 'both'),
            ('Do links go both ways?', 'Are the links directed?'),
            {'one': 'A link goes from the first to the second.', 'both': 'A link works in either direction.'},
        ),
        Slot(
            'hops',
            (None, 1, 2, 3),
            ('Is there a limit on the number of steps?', 'How far may one go?'),
            {
                None: 'One may go as far as one likes.',
                1: 'One step at most.',
                2: 'Two steps at most.',
                3: 'Three steps at most.',
            },
        ),
        Slot(
            'start',
            ('keep', 'leave'),
            ('Is the start itself part of the result?', 'Should the start be included?'),
            {'keep': 'The start is in the result.', 'leave': 'The start is not in the result.'},
        ),
        Slot(
            'output',
            ('names', 'steps', 'count'),
            ('Should I return names, distances or a count?', 'What should come out?'),
            {
                'names': 'Return the names, sorted.',
                'steps': 'Return a dict from name to number of steps.',
                'count': 'Return just how many.',
            },
        ),
    ),
    lambda rng, nouns, values: (
        [rng.sample(nouns['names'], 2) for _ in range(rng.randint(3, 7))],
        rng.choice(nouns['names']),
    ),
)

REDACT = Family(
    'redact',
    'hide_in_{thing}',
    'Write a function {fn}(text) that hides what is private in the notes of a {thing}.',
    """
def N_fn(text):
    words = []
    for word in text.split():
        if S_what == 'numbers':
            private = any(letter.isdigit() for letter in word)
        elif S_what == 'mails':
            private = '@' in word
        else:
            private = any(letter.isdigit() for letter in word) or '@' in word
        if private and len(word) >= S_least:
            kept = word[len(word) - S_last:]
            word = (S_mask * (len(word) - S_last) if S_length == 'same' else S_mask * 3) + kept
        words.append(word)
    return ' '.join(words)
""",
    (
        Slot(
            'what',
            ('numbers', 'mails', 'both'),
            ('What is private: numbers, mail addresses or both?', 'Which words should be hidden?'),
            {
                'numbers': 'Hide words with a digit.',
                'mails': 'Hide words with an @ sign.',
                'both': 'Hide words with a digit or an @ sign.',
            },
        ),
        Slot('mask', ('*', '#', 'x'), ('Which character hides it?', 'What mask should I use?'), 'Use {v} as the mask.'),
        Slot(
            'last',
            (0, 1, 2),
            ('Should the last characters stay visible?', 'How many characters remain readable?'),
            'Leave the last {v} readable.',
        ),
        Slot(
            'length',
            ('same', 'short'),
            ('Should the hidden part keep its length?', 'How long is the masked part?'),
            {'same': 'One mask for each hidden character.', 'short': 'Always three masks, however long it was.'},
        ),
        Slot(
            'least',
            (2, 4, 6),
            ('Are short words hidden, too?', 'From which word length on do we hide?'),
            'Hide words of {v} or more characters.',
        ),
    ),
    lambda rng, nouns, values: (
        ' '.join(
            rng.choice(
                (*nouns['names'][:2], '4711', '12', 'a1', 'room9', 'me@x.org', 'b@c', '0171-33', 'call', 'a@2.de')
            )
            for _ in range(rng.randint(3, 8))
        ),
    ),
)

PARSER = Family(
    'parser',
    'read_{thing}_settings',
    "Write a function {fn}(text) that reads the settings of a {thing} from one line of 'key=number' parts into a dict.",
    """
def N_fn(text):
    found = {}
    for part in text.split(S_separator):
        key, equals, value = part.partition('=')
        key = key.strip().lower() if S_case == 'fold' else key.strip()
        value = value.strip()
        if not key or not value.lstrip('-').isdigit():
            if S_bad == 'skip' or not key:
                continue
            number = -1 if S_bad == 'minus' else 0
        else:
            number = int(value)
        if S_twice == 'last':
            found[key] = number
        elif S_twice == 'first':
            found.setdefault(key, number)
        else:
            found[key] = found.get(key, 0) + number
    return found
""",
    (
        Slot(
            'separator',
            (';', ',', '|', '&'),
            ('What separates the parts?', 'Which character lies between two settings?'),
            'The parts are separated by {v}.',
        ),
        Slot(
            'case',
            ('keep', 'fold'),
            ('Does the case of keys matter?', 'Should keys be lower case?'),
            {'keep': 'Keys stay as written.', 'fold': 'Keys become small letters.'},
        ),
        Slot(
            'twice',
            ('last', 'first', 'add'),
            ('What if a key comes twice?', 'How are duplicate keys handled?'),
            {
                'last': 'Of two equal keys the later counts.',
                'first': 'Of two equal keys the earlier counts.',
                'add': 'The numbers of equal keys are added.',
            },
        ),
        Slot(
            'bad',
            ('skip', 'zero', 'minus'),
            ('What if a value is not a number?', 'How are invalid values handled?'),
            {
                'skip': 'Pass over what is no number.',
                'zero': 'What is no number becomes zero.',
                'minus': 'What is no number becomes minus one.',
            },
        ),
    ),
    lambda rng, nouns, values: (
        rng.choice((values['separator'], values['separator'] + ' ')).join(
            f'{rng.choice(("a", "A", "b", "B", "c"))}={rng.choice((1, 2, 3, 7, -4, "x", ""))}'
            for _ in range(rng.randint(2, 6))
        ),
    ),
)

LOCK = Family(
    'lock',
    '{thing}_lock_state',
    "Write a function {fn}(events) for the lock of a {thing}. Events are 'good', 'bad', 'reset' and 'wait'.",
    """
def N_fn(events):
    state, bad, opened = S_begin, 0, 0
    for event in events:
        if state == 'locked':
            if event == 'reset' or (S_wait == 'frees' and event == 'wait'):
                state, bad = 'closed', 0
            continue
        if event == 'good':
            state = 'open'
            opened += 1
            if S_forget == 'good':
                bad = 0
        elif event == 'bad':
            bad += 1
            state = 'locked' if bad >= S_tries else 'closed'
        elif event == 'reset':
            state, bad = 'closed', 0
    if S_output == 'state':
        return state
    if S_output == 'opened':
        return opened
    return [state, bad]
""",
    (
        Slot(
            'begin', ('closed', 'open'), ('What is the state at the beginning?', 'How does it start?'), 'It starts {v}.'
        ),
        Slot(
            'tries',
            (3, 1, 2),
            ('After how many bad tries does it lock?', 'How many failures lock it?'),
            'It locks at bad try {v}.',
        ),
        Slot(
            'forget',
            ('good', 'never'),
            ('Does a good event clear the bad tries?', 'When are failures forgotten?'),
            {'good': 'A good event clears the bad tries.', 'never': 'Bad tries are cleared by a reset alone.'},
        ),
        Slot(
            'wait',
            ('nothing', 'frees'),
            ('What does waiting do to a locked one?', 'Does wait unlock it?'),
            {'nothing': 'Waiting changes nothing.', 'frees': 'Waiting frees a locked one.'},
        ),
        Slot(
            'output',
            ('state', 'opened', 'both'),
            ('What should be returned in the end?', 'Do you want the state or a count?'),
            {
                'state': 'Return the last state.',
                'opened': 'Return how often it was opened.',
                'both': 'Return a list of the last state and the number of bad tries.',
            },
        ),
    ),
    lambda rng, nouns, values: (
        [
            rng.choice(('good', 'bad', 'bad', 'bad', 'wait', 'good', 'reset'))
            for _ in range(rng.choice((0, *range(2, 8))))
        ],
    ),
)

BUDGET = Family(
    'budget',
    'share_among_{things}',
    'Write a function {fn}(budget, wishes) that hands out a budget. Wishes is a dict from {name} to what is wanted.',
    """
def N_fn(budget, wishes):
    names = list(wishes)
    if S_first == 'small':
        names.sort(key=lambda name: (wishes[name], name))
    if S_first == 'large':
        names.sort(key=lambda name: (-wishes[name], name))
    given = {}
    left = budget - S_reserve if S_reserve else budget
    for name in names:
        wanted = min(wishes[name], S_most) if S_most is not None else wishes[name]
        if wanted <= left:
            given[name] = wanted
            left -= wanted
        elif S_part == 'part' and left > 0:
            given[name] = left
            left = 0
        elif S_stop == 'stop':
            break
    return given
""",
    (
        Slot(
            'first',
            ('input', 'small', 'large'),
            ('Who comes first?', 'In which order are wishes served?'),
            {
                'input': 'Serve them in the order given.',
                'small': 'Serve the smallest wish first.',
                'large': 'Serve the largest wish first.',
            },
        ),
        Slot(
            'reserve',
            (0, 5, 10, 20),
            ('Is some of the budget kept back?', 'How large is the reserve?'),
            'Keep a reserve of {v}.',
        ),
        Slot(
            'most',
            (None, 15, 25, 30),
            ('Is there a cap for each {name}?', 'What is the most that one can get?'),
            {
                None: 'One can get as much as wanted.',
                15: 'Nobody gets more than fifteen.',
                25: 'Nobody gets more than twenty-five.',
                30: 'Nobody gets more than thirty.',
            },
        ),
        Slot(
            'part',
            ('none', 'part'),
            ('Can a wish be met in part?', 'What if the rest does not suffice for a wish?'),
            {'none': 'A wish is met in full or not at all.', 'part': 'A wish may be met in part.'},
        ),
        Slot(
            'stop',
            ('go', 'stop'),
            ('After a wish that fails, do later ones still get a chance?', 'Do I stop at the first failure?'),
            {'go': 'Later wishes still have a chance.', 'stop': 'Stop at the first wish that fails.'},
        ),
    ),
    lambda rng, nouns, values: (
        rng.choice((40, 55, 60, 75)),
        {name: rng.choice((10, 18, 25, 32, 40)) for name in rng.sample(nouns['names'], rng.randint(2, 5))},
    ),
)

UNIQUE = Family(
    'unique',
    'unique_{things}',
    'Write a function {fn}(names) that cleans a list of names of {things}, so that none comes twice.',
    """
def N_fn(names):
    found = {}
    for name in names:
        name = name.strip() if S_spaces == 'strip' else name
        if not name:
            continue
        key = name.lower() if S_case == 'fold' else name
        if S_keep == 'last':
            found.pop(key, None)
        found.setdefault(key, name)
    result = list(found.values())
    if S_sorted == 'sorted':
        result.sort()
    if S_sorted == 'length':
        result.sort(key=len)
    return result if S_output == 'list' else ', '.join(result)
""",
    (
        Slot(
            'case',
            ('exact', 'fold'),
            ('Does upper or lower case make a difference?', 'Are names compared with their case?'),
            {'exact': 'Names that differ in case are different.', 'fold': 'Case makes no difference.'},
        ),
        Slot(
            'keep',
            ('first', 'last'),
            ('Which one of the doubles is kept?', 'Do I keep the first or the last one?'),
            {'first': 'Keep the one that comes first.', 'last': 'Keep the one that comes last.'},
        ),
        Slot(
            'spaces',
            ('strip', 'keep'),
            ('Should spaces around names be removed?', 'Do blanks matter?'),
            {'strip': 'Remove blanks around a name.', 'keep': 'Blanks belong to the name.'},
        ),
        Slot(
            'sorted',
            ('input', 'sorted', 'length'),
            ('Should the result be sorted?', 'In what order should the names be?'),
            {
                'input': 'Do not sort.',
                'sorted': 'Sort by the alphabet.',
                'length': 'Sort by length, short ones first.',
            },
        ),
        Slot(
            'output',
            ('list', 'text'),
            ('Should I return a list or a text?', 'What type is the result?'),
            {'list': 'Return a list.', 'text': 'Return one text with a comma and a blank between.'},
        ),
    ),
    lambda rng, nouns, values: (
        [
            rng.choice((str.lower, str.upper, str, str))(rng.choice(nouns['names'][:4])) + rng.choice(('', '', ' '))
            for _ in range(rng.randint(3, 8))
        ],
    ),
)

STREAK = Family(
    'streak',
    'best_streak_of_{thing}',
    'Write a function {fn}(days) for the best streak of a {thing}: good days in a row. Days is a list of {amount}.',
    """
def N_fn(days):
    best, total, run, worth, gaps = 0, 0, 0, 0, 0
    for value in days:
        if value >= S_goal if S_edge == 'inclusive' else value > S_goal:
            run += 1
            worth += value
        elif run and gaps < S_gaps:
            gaps += 1
        else:
            run, worth, gaps = 0, 0, 0
        best = max(best, run)
        total = max(total, worth)
    if best < S_least:
        return S_none
    return best if S_output == 'length' else total
""",
    (
        Slot('goal', (8, 5, 6, 10), ('What makes a day good?', 'What is the daily goal?'), 'The daily goal is {v}.'),
        edge('daily goal'),
        Slot(
            'gaps',
            (0, 1, 2),
            ('May a streak have a gap?', 'How many bad days are forgiven?'),
            'A streak survives {v} bad days.',
        ),
        Slot(
            'least',
            (1, 2, 3),
            ('How short may a streak be?', 'What is the shortest streak that counts?'),
            'A streak has at least {v} good days.',
        ),
        Slot(
            'output',
            ('length', 'total'),
            ('Do you want the length or the total of the streak?', 'What should be returned?'),
            {'length': 'Return the number of good days.', 'total': 'Return the highest total of a streak.'},
        ),
        Slot(
            'none',
            (0, -1, 'none'),
            ('What if there is no streak?', 'And without one?'),
            'Without a streak, return {v}.',
        ),
    ),
    lambda rng, nouns, values: (
        [rng.choice((values['goal'], values['goal'] + 1, rng.randint(1, 12))) for _ in range(rng.randint(1, 9))],
    ),
)

HISTOGRAM = Family(
    'histogram',
    '{amount}_histogram',
    'Write a function {fn}(numbers) that counts the {amount} of {things} in bins of equal width; '
    'the result holds a list [bin, count] for each.',
    """
def N_fn(numbers):
    counts = {}
    for value in numbers:
        place = (value - S_start) // S_width
        if place < 0:
            if S_below == 'drop':
                continue
            place = 0
        if place >= S_bins:
            place = S_bins - 1
        counts[place] = counts.get(place, 0) + 1
    result = []
    for place in range(S_bins):
        count = counts.get(place, 0)
        if count or S_empty == 'show':
            low = S_start + place * S_width
            result.append([low, count] if S_label == 'low' else [f'{low}-{low + S_width}', count])
    return result
""",
    (
        Slot('width', (10, 5, 8, 12), ('How wide is a bin?', 'What is the bin width?'), 'A bin is {v} wide.'),
        Slot(
            'start',
            (0, 1, 3),
            ('Where does the first bin start?', 'What is the lowest edge?'),
            'The first one starts at {v}.',
        ),
        Slot('bins', (5, 3, 4), ('How many bins are there?', 'What is the number of bins?'), 'There are {v} of them.'),
        Slot(
            'below',
            ('drop', 'first'),
            ('What about values below the first bin?', 'Where do too small values go?'),
            {'drop': 'Too small values are dropped.', 'first': 'Too small values go to the first bin.'},
        ),
        Slot(
            'empty',
            ('show', 'hide'),
            ('Are empty bins listed?', 'Should bins without values be shown?'),
            {'show': 'Empty bins are listed, too.', 'hide': 'Empty bins are not listed.'},
        ),
        Slot(
            'label',
            ('low', 'range'),
            ('How are bins labelled?', 'What label does a bin get?'),
            {'low': 'A bin is named by its lower edge.', 'range': "A bin is named like '0-7', from edge to edge."},
        ),
    ),
    lambda rng, nouns, values: (
        [rng.choice((values['width'], -2, 0, rng.randint(0, 60))) for _ in range(rng.randint(2, 9))],
    ),
)

LATE_FEE = Family(
    'late_fee',
    'fee_for_{thing}',
    'Write a function {fn}(days_late, value) for the fee on a late {thing}.',
    """
def N_fn(days_late, value):
    days = days_late - S_grace
    if days <= 0:
        return S_ontime
    if S_unit == 'week':
        days = -(-days // 7)
    fee = days * S_rate
    if S_cap == 'value':
        fee = min(fee, value)
    if S_cap == 'half':
        fee = min(fee, value / 2)
    return round(fee, S_digits)
""",
    (
        Slot(
            'grace', (0, 2, 3, 5), ('Are there free days?', 'How many days of grace?'), 'The first {v} days are free.'
        ),
        Slot('rate', (0.5, 0.25, 1.125, 1.75), ('What does it cost?', 'How high is the rate?'), 'The rate is {v}.'),
        Slot(
            'unit',
            ('day', 'week'),
            ('Is the rate per day or per week?', 'For which unit of time is the fee?'),
            {'day': 'That is per day.', 'week': 'That is per week, also for one begun.'},
        ),
        Slot(
            'cap',
            ('none', 'value', 'half'),
            ('Is there a maximum fee?', 'Is the fee capped?'),
            {
                'none': 'There is no maximum.',
                'value': 'The fee is never more than the value.',
                'half': 'The fee is never more than half of the value.',
            },
        ),
        digits(2, 0, 1),
        Slot(
            'ontime',
            (0, 'ok', False),
            ('What is returned when nothing is due?', 'What if it is on time?'),
            'If it is on time, return {v}.',
        ),
    ),
    lambda rng, nouns, values: (rng.choice((0, 1, 3, 6, 8, 9, 12, 15, 20)), rng.choice((2, 3, 5, 7, 9.5, 20))),
)

CHECKS = Family(
    'checks',
    'check_{thing}_code',
    'Write a function {fn}(code) that checks the code of a {thing} against our rules. '
    "The faults are 'short', 'digit', 'capital' and 'banned', in this order.",
    """
def N_fn(code):
    faults = []
    if len(code) < S_least:
        faults.append('short')
    if S_digit == 'needed' and not any(letter.isdigit() for letter in code):
        faults.append('digit')
    if S_capital == 'needed' and not any(letter.isupper() for letter in code):
        faults.append('capital')
    if S_banned in code:
        faults.append('banned')
    if S_output == 'flag':
        return not faults
    if S_output == 'count':
        return len(faults)
    return faults
""",
    (
        Slot(
            'least',
            (8, 4, 5, 6),
            ('How long must a code be?', 'What is the minimum length?'),
            'It has at least {v} characters.',
        ),
        Slot(
            'digit',
            ('needed', 'free'),
            ('Must there be a digit?', 'Is a number required in it?'),
            {'needed': 'It needs a digit.', 'free': 'It needs no digit.'},
        ),
        Slot(
            'capital',
            ('free', 'needed'),
            ('Must there be a capital letter?', 'Is upper case required?'),
            {'needed': 'It needs a capital letter.', 'free': 'It needs no capital letter.'},
        ),
        Slot(
            'banned',
            (' ', '-', '_', '.'),
            ('Which character is forbidden?', 'Is some character banned?'),
            'It must not have {v} in it.',
        ),
        Slot(
            'output',
            ('flag', 'faults', 'count'),
            ('Should I return a flag, the faults or their number?', 'What does the check return?'),
            {
                'flag': 'Return whether it is fine.',
                'faults': 'Return the list of faults.',
                'count': 'Return the number of faults.',
            },
        ),
    ),
    lambda rng, nouns, values: (
        ''.join(rng.choice('abXY17-_. ' if rng.random() < 0.6 else 'abcxyz') for _ in range(rng.randint(2, 9))),
    ),
)

WORDS = Family(
    'words',
    'common_words_of_{thing}',
    'Write a function {fn}(text) that lists the most common words in the notes of a {thing}.',
    """
def N_fn(text):
    counts = {}
    for word in text.split():
        word = word.strip('.,!').lower() if S_case == 'fold' else word.strip('.,!')
        if len(word) < S_least or word == S_stop:
            continue
        counts[word] = counts.get(word, 0) + 1
    words = list(counts)
    if S_tie == 'alphabet':
        words.sort()
    if S_tie == 'length':
        words.sort(key=lambda word: (len(word), word))
    words.sort(key=lambda word: -counts[word])
    words = words[:S_top]
    return words if S_output == 'words' else [[word, counts[word]] for word in words]
""",
    (
        Slot(
            'case',
            ('fold', 'exact'),
            ('Does case matter?', 'Are upper and lower case words the same?'),
            {'fold': 'Count small and capital letters as the same.', 'exact': 'Words in different case are different.'},
        ),
        Slot(
            'least',
            (1, 2, 3),
            ('How short may a word be?', 'What is the minimum length?'),
            'Count words of {v} or more letters.',
        ),
        Slot(
            'stop', ('', 'the', 'and'), ('Is there a word to leave out?', 'Which stop word?'), 'Leave out the word {v}.'
        ),
        Slot(
            'tie',
            ('alphabet', 'input', 'length'),
            ('How are ties broken?', 'Which comes first if two are equally common?'),
            {
                'alphabet': 'Ties go by the alphabet.',
                'input': 'Of a tie, the one seen first comes first.',
                'length': 'Of a tie, the shorter comes first.',
            },
        ),
        Slot('top', (3, 1, 2, 5), ('How many words do you want?', 'How long is the list?'), 'I want {v} of them.'),
        Slot(
            'output',
            ('words', 'pairs'),
            ('Only the words, or counts as well?', 'What does the result hold?'),
            {'words': 'Only the words.', 'pairs': 'A list [word, count] for each.'},
        ),
    ),
    lambda rng, nouns, values: (
        ' '.join(
            rng.choice(('the', 'The', 'and', 'a', 'to', 'Box', 'box', 'zoo', 'water.', 'oak', 'Oak', 'ax'))
            for _ in range(rng.randint(3, 10))
        ),
    ),
)

GRADES = Family(
    'grades',
    'grade_of_{thing}',
    'Write a function {fn}(points) that gives the letter grade of a {thing} from its points, each from 0 to 100.',
    """
def N_fn(points):
    points = sorted(points)
    if S_drop and len(points) > S_drop:
        points = points[S_drop:]
    if not points:
        return S_empty
    value = sum(points) / len(points) if S_how == 'mean' else points[len(points) // 2]
    if S_bonus:
        value += S_bonus
    for letter, least in zip('ABC', S_steps):
        if value >= least if S_edge == 'inclusive' else value > least:
            return letter
    return 'D'
""",
    (
        Slot(
            'steps',
            ((90, 80, 70), (85, 70, 55), (80, 60, 40), (75, 50, 25)),
            ('Where do the grades A, B and C begin?', 'What are the boundaries of the grades?'),
            'A, B and C begin at {v}.',
        ),
        edge('boundary'),
        Slot(
            'drop',
            (0, 1, 2),
            ('Are the lowest points dropped?', 'How many bad results are forgiven?'),
            'Drop the lowest {v}.',
        ),
        Slot(
            'how',
            ('mean', 'middle'),
            ('Do I take the mean or the median?', 'How are the points combined?'),
            {'mean': 'Take the mean.', 'middle': 'Take the middle one, the upper of two.'},
        ),
        Slot('bonus', (0, 3, 5, 10), ('Is there a bonus?', 'Are points added in the end?'), 'Add a bonus of {v}.'),
        Slot(
            'empty',
            ('D', '-', 'F'),
            ('What is the grade without points?', 'What if the list is empty?'),
            'Without points the grade is {v}.',
        ),
    ),
    lambda rng, nouns, values: (
        [
            min(100, max(0, rng.choice(values['steps']) - values['bonus'] + rng.choice((0, 0, 1, -4, -9, 7))))
            for _ in range(rng.choice((0, 1, 1, 2, 3, 3, 4)))
        ],
    ),
)

FAMILIES = {
    family.name: family
    for family in (
        FILTER_TOTAL,
        TIERED_PRICE,
        WEIGHTED_SCORE,
        ID_FORMAT,
        DATE_BUCKETS,
        REORDER,
        RANKING,
        ALARM,
        WINDOW,
        GROUPING,
        CONVERSION,
        CONFLICTS,
        REACH,
        REDACT,
        PARSER,
        LOCK,
        BUDGET,
        UNIQUE,
        STREAK,
        HISTOGRAM,
        LATE_FEE,
        CHECKS,
        WORDS,
        GRADES,
    )
}
UNSEEN = ('conversion', 'conflicts', 'streak', 'grades')  # families that are never trained on
