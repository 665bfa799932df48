"""Families over series of numbers and of days."""

from __future__ import annotations

from colbench_jax.tasks.backend.families.shared import digits, edge, limit_of, order_slot
from colbench_jax.tasks.backend.family import Family, Slot

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
