"""Pages as typed choices, and the HTML of them: a navigation bar, a banner, three to five parts, a footer.

A part is a kind (`KINDS`) and a value for each of its fields (`Part`); what it says beside its heading and its button
belongs to the topic. Everything that a field holds can be seen on the page, and read off it again (outline.py).
"""

from __future__ import annotations

import html as entities
from collections.abc import Callable
from typing import Any, NamedTuple

from colbench_jax.tasks.frontend.topics import TOPICS, Topic

ACCENTS = ('blue', 'emerald', 'rose', 'amber', 'indigo', 'teal', 'violet', 'red')
ALIGNMENTS = ('left', 'center', 'right')


class Part(NamedTuple):
    """The choices of one part of a page; a field that its kind does not have keeps its default."""

    kind: str
    background: str = 'white'  # a colour of the palette
    align: str = 'left'
    title: str = ''  # the heading
    size: str = ''  # the class of its font size
    columns: int = 1
    button: str = ''  # what stands on it
    colour: str = ''  # of the button, of the palette
    image: bool = False


class Page(NamedTuple):
    """A page: a topic and parts from top to bottom."""

    topic: str
    background: str  # of what no part covers, and of parts that have none of their own
    parts: tuple[Part, ...]


_LIGHT = ('white', 'gray-100', 'slate-200', 'amber-100', 'sky-100', 'emerald-100', 'rose-100')
_DARK = ('gray-800', 'slate-700', 'blue-800', 'emerald-800', 'rose-800', 'indigo-700', 'teal-700')
_BUTTONS = tuple(f'{accent}-600' for accent in ACCENTS)
_HEADING = ('text-3xl', 'text-2xl', 'text-4xl', 'text-5xl')

# {kind: {field: its values, the usual one first}}; headings and words on buttons come from the topic.
KINDS: dict[str, dict[str, tuple[Any, ...]]] = {
    'navbar': {'background': ('white', *_DARK, 'sky-100', 'amber-100')},
    'hero': {
        'background': ('gray-100', *_DARK, *_LIGHT[2:]),
        'align': ('center', 'left', 'right'),
        'size': ('text-5xl', 'text-3xl', 'text-4xl', 'text-6xl'),
        'colour': _BUTTONS,
        'image': (False, True),
    },
    'features': {
        'background': _LIGHT + _DARK[:2],
        'align': ALIGNMENTS,
        'size': _HEADING,
        'columns': (3, 2, 6),
        'image': (False, True),
    },
    'pricing': {
        'background': _LIGHT + _DARK[:2],
        'align': ALIGNMENTS,
        'size': _HEADING,
        'columns': (3, 1, 2),
        'colour': _BUTTONS,
    },
    'voices': {'background': _LIGHT + _DARK[2:], 'align': ALIGNMENTS, 'size': _HEADING, 'columns': (3, 1, 2)},
    'table': {'background': _LIGHT, 'align': ALIGNMENTS, 'size': _HEADING},
    'gallery': {'background': _LIGHT + _DARK[:2], 'align': ALIGNMENTS, 'size': _HEADING, 'columns': (3, 2, 4)},
    'form': {'background': _LIGHT, 'align': ALIGNMENTS, 'size': _HEADING, 'colour': _BUTTONS},
    'footer': {'background': ('gray-800', 'gray-100', *_DARK[1:]), 'align': ('center', 'left', 'right')},
}
BODY = tuple(kind for kind in KINDS if kind not in ('navbar', 'hero', 'footer'))
GROUNDS = ('white', 'gray-100', 'slate-200', 'amber-100')


def values_of(kind: str, topic: str) -> dict[str, tuple[Any, ...]]:
    """{field: its values, the usual one first} of a part."""
    found = dict(KINDS[kind])
    if kind in TOPICS[topic].headings:
        found['title'] = TOPICS[topic].headings[kind]
    if kind in TOPICS[topic].buttons:
        found['button'] = TOPICS[topic].buttons[kind]
    return found


def usual(kind: str, topic: str) -> Part:
    """A part as one would build it without asking."""
    part = Part(kind, **{field: values[0] for field, values in values_of(kind, topic).items()})
    return part._replace(image=True) if kind == 'gallery' else part


def dark(colour: str) -> bool:
    """Whether light text belongs on it."""
    return colour.rpartition('-')[2] in ('500', '600', '700', '800', '900')


def html_of(page: Page) -> str:
    """The page in HTML, without a stylesheet."""
    topic = TOPICS[page.topic]
    parts = '\n'.join(_PRINTERS[part.kind](part, topic) for part in page.parts)
    head = f'<head>\n<title>{_t(topic.name)}</title>\n</head>'
    return f'<html>\n{head}\n<body class="bg-{page.background} text-gray-800">\n{parts}\n</body>\n</html>'


# Printers


def _t(text: str) -> str:
    return entities.escape(text, quote=False)


def _frame(part: Part, inner: str, tag: str = 'section', padding: str = 'px-12 py-12') -> str:
    ink = 'text-white' if dark(part.background) else 'text-gray-800'
    return f'<{tag} class="bg-{part.background} {ink} text-{part.align} {padding}">\n{inner}\n</{tag}>'


def _heading(part: Part, level: int = 2) -> str:
    return f'<h{level} class="{part.size} font-bold mb-6">{_t(part.title)}</h{level}>'


def _button(part: Part) -> str:
    return f'<button class="bg-{part.colour} text-white font-semibold px-6 py-3 rounded-lg">{_t(part.button)}</button>'


def _grid(part: Part, cells: list[str]) -> str:
    return f'<div class="grid grid-cols-{part.columns} gap-6">\n' + '\n'.join(cells) + '\n</div>'


def _image(topic: Topic, number: int, style: str) -> str:
    seed = topic.name.lower().replace(' ', '-')
    return f'<img src="https://picsum.photos/seed/{seed}-{number}/600/400" alt="" class="{style}">'


def _card(inner: str) -> str:
    return f'<div class="bg-white text-gray-800 rounded-lg shadow-md p-6">{inner}</div>'


def _navbar(part: Part, topic: Topic) -> str:
    links = ''.join(f'<a href="#" class="ml-8">{_t(link)}</a>' for link in topic.links)
    inner = f'<span class="text-xl font-bold">{_t(topic.name)}</span><div>{links}</div>'
    return _frame(part, f'<div class="flex justify-between items-center">{inner}</div>', 'nav', 'px-12 py-4')


def _hero(part: Part, topic: Topic) -> str:
    placed = {'left': 'mr-auto', 'center': 'mx-auto', 'right': 'ml-auto'}[part.align]
    image = _image(topic, 0, f'w-96 rounded-xl mt-8 {placed}') if part.image else ''
    inner = f'{_heading(part, 1)}<p class="text-lg mb-8">{_t(topic.lead)}</p>{_button(part)}{image}'
    return _frame(part, inner, 'header', 'px-12 py-20')


def _features(part: Part, topic: Topic) -> str:
    cells = []
    for number, (name, about) in enumerate(topic.goods):
        image = _image(topic, number + 1, 'w-full h-32 object-cover rounded-lg mb-4') if part.image else ''
        words = f'<h3 class="font-semibold mb-2">{_t(name)}</h3><p class="text-sm">{_t(about)}</p>'
        cells.append(f'<div>{image}{words}</div>')
    return _frame(part, _heading(part) + _grid(part, cells))


def _pricing(part: Part, topic: Topic) -> str:
    cells = []
    for name, price, content in topic.plans:
        lines = ''.join(f'<li class="mb-2">{_t(line)}</li>' for line in content)
        top = f'<h3 class="text-xl font-semibold mb-2">{_t(name)}</h3><p class="text-4xl font-bold mb-4">${price}</p>'
        cells.append(_card(f'{top}<ul class="mb-6">{lines}</ul>{_button(part)}'))
    return _frame(part, _heading(part) + _grid(part, cells))


def _voices(part: Part, topic: Topic) -> str:
    cells = [
        _card(f'<blockquote class="italic mb-4">{_t(said)}</blockquote><p class="text-sm text-gray-500">{_t(role)}</p>')
        for said, role in topic.voices
    ]
    return _frame(part, _heading(part) + _grid(part, cells))


def _table(part: Part, topic: Topic) -> str:
    head, *rows = topic.table
    top = ''.join(f'<th class="px-4 py-2 border-b-2 border-gray-500">{_t(cell)}</th>' for cell in head)
    lines = [
        '<tr>' + ''.join(f'<td class="px-4 py-2 border-b border-gray-300">{_t(cell)}</td>' for cell in row) + '</tr>'
        for row in rows
    ]
    return _frame(part, f'{_heading(part)}<table class="w-full">\n<tr>{top}</tr>\n' + '\n'.join(lines) + '\n</table>')


def _gallery(part: Part, topic: Topic) -> str:
    cells = [_image(topic, number, 'w-full h-48 object-cover rounded-lg') for number in range(10, 18)]
    return _frame(part, _heading(part) + _grid(part, cells[: 2 * part.columns]))


def _form(part: Part, topic: Topic) -> str:
    fields = ''.join(
        f'<label class="block mb-4">{_t(name)}<input class="block w-full border border-gray-400 rounded p-2"></label>'
        for name in topic.fields
    )
    return _frame(part, f'{_heading(part)}<form class="max-w-xl">{fields}{_button(part)}</form>')


def _footer(part: Part, topic: Topic) -> str:
    words = f'<p class="font-semibold">{_t(topic.name)}</p><p class="text-sm">{_t(" / ".join(topic.links))}</p>'
    return _frame(part, words, 'footer', 'px-12 py-8')


_PRINTERS: dict[str, Callable[[Part, Topic], str]] = {
    'navbar': _navbar,
    'hero': _hero,
    'features': _features,
    'pricing': _pricing,
    'voices': _voices,
    'table': _table,
    'gallery': _gallery,
    'form': _form,
    'footer': _footer,
}
