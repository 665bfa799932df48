"""What a person says of a page, in sentences that can be read again: `say` a difference, `heard` the differences."""

from __future__ import annotations

import re
from typing import Any

from colbench_jax.render.palette import hue_of
from colbench_jax.tasks.frontend.outline import Difference

PARTS = {
    'page': 'page',
    'navbar': 'navigation bar',
    'hero': 'banner',
    'features': 'feature section',
    'pricing': 'price section',
    'voices': 'section with testimonials',
    'table': 'section with a table',
    'gallery': 'gallery',
    'form': 'form',
    'footer': 'footer',
    'section': 'section',
}
TOP = 'top of the page'
_ORDINALS = ('', 'second ', 'third ', 'fourth ')

_SAID = {
    'background': 'The background of the {part} should be {v}.',
    'columns': 'The items of the {part} should stand in {v}.',
    'align': 'What stands in the {part} should be aligned to the {v}.',
    'title': 'The heading of the {part} should read "{v}".',
    'size': 'The heading of the {part} should be {v} px high.',
    'button': 'The button of the {part} should say "{v}".',
    'colour': 'The button of the {part} should be {v}.',
    'place': 'The {part} should come right below the {v}.',
    'missing': 'There should be a {part} right below the {v}.',
    'text': 'The {part} should also say "{v}".',
}
_BARE = {
    ('image', True): 'The {part} should show a picture.',
    ('image', False): 'The {part} should show no picture.',
    ('button', ''): 'The {part} should have no button.',
    ('extra', None): 'There should be no {part}.',
}
_NAMES = '|'.join(sorted(PARTS.values(), key=len, reverse=True))
_PART = rf'(?P<part>(?:{"|".join(filter(None, _ORDINALS))})?(?:{_NAMES}))'


def name_of(part: tuple[str, int] | None) -> str:
    """'gallery', 'second gallery'; the top of the page for None."""
    if part is None:
        return TOP
    kind, number = part
    return (_ORDINALS[number] if number < len(_ORDINALS) else f'{number + 1}th ') + PARTS[kind]


def say(difference: Difference) -> str:
    """The sentence for a difference."""
    _, field, part, value = difference
    if (field, value) in _BARE:
        return _BARE[field, value].format(part=name_of(part))
    if field in ('background', 'colour'):
        value = f'{hue_of(value)} ({value})'
    elif field == 'columns':
        value = f'{value} column{"s" if value != 1 else ""}'
    elif field in ('place', 'missing'):
        value = name_of(value)
    return _SAID[field].format(part=name_of(part), v=value)


def heard(text: str) -> list[Difference]:
    """The differences that a text names, in its order; whatever else it says is passed over."""
    found = []
    for field, pattern in _HEARD:
        for match in pattern.finditer(text):
            value: Any = match.groupdict().get('v')
            if field in ('background', 'colour'):
                colour = re.search(r'#[0-9a-f]{6}', value)
                if colour is None:
                    continue
                value = colour[0]
            elif field in ('columns', 'size'):
                value = int(re.match(r'\d*', value)[0] or 0)
            elif field in ('place', 'missing'):
                value = None if value == TOP else _part(value)
            found.append((match.start(), Difference(0, field, _part(match['part']), value)))
    for (field, value), pattern in _HEARD_BARE:
        found += [(m.start(), Difference(0, field, _part(m['part']), value)) for m in pattern.finditer(text)]
    return [difference for _, difference in sorted(found, key=lambda pair: pair[0])]


def _part(name: str) -> tuple[str, int]:
    number = next((k for k, word in enumerate(_ORDINALS) if word and name.startswith(word)), 0)
    return next(kind for kind, words in PARTS.items() if words == name.removeprefix(_ORDINALS[number])), number


def _pattern(template: str, value: str = '') -> re.Pattern:
    text = re.escape(template).replace(r'\{part\}', _PART)
    return re.compile(text.replace(r'\{v\}', f'(?P<v>{value})'))


_VALUES = {'background': r'[^."]+?', 'colour': r'[^."]+?', 'columns': r'\d+ columns?', 'align': 'left|center|right'}
_VALUES |= {'size': r'\d+', 'place': rf'{TOP}|[a-z ]+?', 'missing': rf'{TOP}|[a-z ]+?'}
_HEARD = [(field, _pattern(template, _VALUES.get(field, r'[^"]+'))) for field, template in _SAID.items()]
_HEARD_BARE = [(key, _pattern(template)) for key, template in _BARE.items()]
