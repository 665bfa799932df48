"""Families over bookings, links and events: conflicts, reach, a lock."""

from __future__ import annotations

from colbench_jax.tasks.backend.family import Family, Slot

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
