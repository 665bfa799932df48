"""Families over amounts: prices, scores, grades, conversions, what is to be bought or paid."""

from __future__ import annotations

from colbench_jax.tasks.backend.families.shared import EMPTY, digits, edge
from colbench_jax.tasks.backend.family import Family, Slot

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
