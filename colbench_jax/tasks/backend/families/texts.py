"""Families over texts: identifiers, redaction, parsing, checks, words, names."""

from __future__ import annotations

from colbench_jax.tasks.backend.family import Family, Slot

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
