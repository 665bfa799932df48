"""Small families, whose whole dialogue fits in about 300 bytes: for models of a few million parameters.

The request names the topics that are open. Each open one must be asked for, one a turn; a question for a closed one
gets `any.` for an answer, and with a limit on turns a wasted question costs an answer.
"""

from __future__ import annotations

from colbench_jax.tasks.backend.family import Family, Slot

DOMAINS = {f'{function}{argument}': {'call': function, 'arg': argument} for function in 'fgh' for argument in 'avq'}


def _slot(name: str, values: tuple, tell: str | dict) -> Slot:
    asks = f'Before I write it: which {name} is it?', f'Tell me more: what {name} do you need?'
    return Slot(name, values, (*asks, f'One more thing: which {name} do you want?'), tell)


def _ints(rng, nouns, values):
    return ([rng.randint(-2, 9) for _ in range(rng.randint(2, 5))],)


FOLD = Family(
    'fold',
    '{call}',
    '{fn}({arg}): fold a list.',
    """
def N_fn(N_arg):
    if S_limit is not None:
        N_arg = [x for x in N_arg if (x > S_limit if S_side == 'above' else x < S_limit)]
    r = (sum(N_arg) if S_rule == 'sum' else len(N_arg) if S_rule == 'count' else max(N_arg + [0]))
    return (r * S_times if S_times != 1 else r) + S_plus if S_plus else r * S_times if S_times != 1 else r
""",
    (
        _slot('rule', ('sum', 'count', 'max'), {'sum': 'add up.', 'count': 'count.', 'max': 'the largest.'}),
        _slot('limit', (None, 2, 3, 4, 5), {None: 'no limit.', 2: 'at 2.', 3: 'at 3.', 4: 'at 4.', 5: 'at 5.'}),
        _slot('side', ('above', 'below'), {'above': 'keep above.', 'below': 'keep below.'}),
        _slot('times', (1, 2, 3, 4), 'times {v}.'),
        _slot('plus', (0, 1, 5, 7), 'plus {v}.'),
    ),
    _ints,
)

TEXT = Family(
    'text',
    '{call}',
    '{fn}({arg}): edit a text.',
    """
def N_fn(N_arg):
    r = (N_arg if S_case == 'same' else N_arg.upper() if S_case == 'big' else N_arg.lower())
    if S_turn == 'yes':
        r = r[::-1]
    if S_cut is not None:
        r = r[:S_cut]
    return (S_head + r if S_head else r) + S_tail if S_tail else S_head + r if S_head else r
""",
    (
        _slot('case', ('same', 'big', 'small'), {'same': 'as it is.', 'big': 'big.', 'small': 'small.'}),
        _slot('turn', ('no', 'yes'), {'no': 'not turned.', 'yes': 'turned.'}),
        _slot('cut', (None, 2, 3, 4), {None: 'uncut.', 2: 'after 2.', 3: 'after 3.', 4: 'after 4.'}),
        _slot('tail', ('', '!', '?', '.'), {'': 'no tail.', '!': 'a bang.', '?': 'a question mark.', '.': 'a dot.'}),
        _slot('head', ('', '-', '#', '>'), {'': 'no head.', '-': 'a dash.', '#': 'a hash.', '>': 'an arrow.'}),
    ),
    lambda rng, nouns, values: (''.join(rng.choice('abcXYZ1') for _ in range(rng.randint(2, 7))),),
)

SORT = Family(
    'sort',
    '{call}',
    '{fn}({arg}): tidy a list.',
    """
def N_fn(N_arg):
    if S_kind != 'all':
        N_arg = [x for x in N_arg if x % 2 == (0 if S_kind == 'even' else 1)]
    if S_twice == 'drop':
        N_arg = set(N_arg)
    r = (sorted(N_arg) if S_order == 'up' else sorted(N_arg)[::-1])
    if S_top is not None:
        r = r[:S_top]
    return [x + S_plus for x in r] if S_plus else r
""",
    (
        _slot('order', ('up', 'down'), {'up': 'rising.', 'down': 'falling.'}),
        _slot('top', (None, 1, 2, 3), {None: 'all of them.', 1: 'first 1.', 2: 'first 2.', 3: 'first 3.'}),
        _slot('twice', ('keep', 'drop'), {'keep': 'keep doubles.', 'drop': 'drop doubles.'}),
        _slot('kind', ('all', 'even', 'odd'), {'all': 'any kind.', 'even': 'even ones.', 'odd': 'odd ones.'}),
        _slot('plus', (0, 1, 4, 6), 'plus {v}.'),
    ),
    lambda rng, nouns, values: ([rng.randint(1, 8) for _ in range(rng.randint(3, 6))],),
)

PRICE = Family(
    'price',
    '{call}',
    '{fn}({arg}): price of a count.',
    """
def N_fn(N_arg):
    r = N_arg * S_rate
    if S_fee:
        r = r + S_fee
    if S_start is not None:
        if N_arg > S_start:
            r = r - S_off
    return min(r, S_cap) if S_cap is not None else r
""",
    (
        _slot('rate', (2, 3, 4, 6), '{v} each.'),
        _slot('fee', (0, 1, 5, 8), 'fee {v}.'),
        _slot('start', (None, 2, 3, 5), {None: 'never.', 2: 'over 2.', 3: 'over 3.', 5: 'over 5.'}),
        _slot('off', (1, 2, 4), '{v} off.'),
        _slot('cap', (None, 15, 20, 25), {None: 'no cap.', 15: 'at most 15.', 20: 'at most 20.', 25: 'at most 25.'}),
    ),
    lambda rng, nouns, values: (rng.randint(0, 12),),
)

LABEL = Family(
    'label',
    '{call}',
    '{fn}({arg}): label of a number.',
    """
def N_fn(N_arg):
    if S_times != 1:
        N_arg = N_arg * S_times
    r = (str(N_arg) if S_pad is None else str(N_arg).zfill(S_pad))
    if S_mark:
        r = S_mark + r
    if S_twin == 'yes':
        r = r + r
    return r + S_end if S_end else r
""",
    (
        _slot('times', (1, 2, 3, 5), 'times {v}.'),
        _slot('pad', (None, 3, 4, 5), {None: 'no zeros.', 3: 'to 3.', 4: 'to 4.', 5: 'to 5.'}),
        _slot('mark', ('', 'A', 'B', 'C'), {'': 'no mark.', 'A': 'an A.', 'B': 'a B.', 'C': 'a C.'}),
        _slot('twin', ('no', 'yes'), {'no': 'once.', 'yes': 'twice.'}),
        _slot('end', ('', ';', ':'), {'': 'no end.', ';': 'a semicolon.', ':': 'a colon.'}),
    ),
    lambda rng, nouns, values: (rng.randint(0, 120),),
)

FAMILIES = {family.name: family for family in (FOLD, TEXT, SORT, PRICE, LABEL)}
UNSEEN = ('label',)
