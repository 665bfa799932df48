"""What can be seen on a page, read off its HTML: its parts from top to bottom, and the fields of page.Part in each.

Any page has an outline, not only ours: parts are the children of the body (or of its one wrapper), their kind is told
by what they hold, and colours and sizes come from utility classes or `style`. `differences` says what separates two
pages, the most outstanding first.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from colbench_jax.render.dom import Node, body_of, parse
from colbench_jax.render.palette import COLOURS
from colbench_jax.render.stylesheet import PIXELS

_BLOCKS = frozenset('nav header section footer article aside main form'.split())
_HEADINGS = ('h1', 'h2', 'h3', 'h4', 'h5', 'h6')


class Seen(NamedTuple):
    """A part of a page."""

    kind: str  # of page.KINDS, or 'section'
    background: str  # '#rrggbb'
    align: str  # left, center, right
    title: str  # the first heading, '' without one
    size: int  # px of its font, 0 without one
    columns: int
    button: str  # what stands on the first one, '' without one
    colour: str  # '#rrggbb' of it, '' without one
    image: bool
    texts: tuple[str, ...]  # all of them, in order


class Outline(NamedTuple):
    background: str  # '#rrggbb'
    parts: tuple[Seen, ...]


class Difference(NamedTuple):
    """One thing that should be otherwise."""

    weight: int  # how much it stands out
    field: str  # of Seen; or 'missing', 'extra', 'place', 'text'
    part: tuple[str, int]  # kind, and which one of that kind, from 0; ('page', 0) of the page itself
    value: Any  # what it should be; of 'missing' and 'place' the part above it, None at the top


_WEIGHTS = {'missing': 10, 'extra': 9, 'background': 8, 'place': 7, 'columns': 6, 'image': 5, 'align': 4, 'title': 4}
_WEIGHTS |= {'colour': 3, 'size': 3, 'button': 2, 'text': 1}


@functools.lru_cache(512)
def outline(html: str) -> Outline:
    """What can be seen on a page."""
    body = body_of(parse(html))
    ground = _background(body) or '#ffffff'
    return Outline(ground, tuple(_seen(node, ground) for node in _parts(body)))


def differences(mine: Outline, wanted: Outline) -> list[Difference]:
    """What must change in `mine`, the most outstanding first, then from top to bottom."""
    found = []

    def note(field: str, part: tuple[str, int], value: Any) -> None:
        found.append(Difference(_WEIGHTS[field], field, part, value))

    if mine.background != wanted.background:
        note('background', ('page', 0), wanted.background)
    have, want = _named(mine.parts), _named(wanted.parts)
    above = None
    for name, part in want.items():
        if name not in have:
            note('missing', name, above)
        else:
            for field in ('background', 'align', 'title', 'size', 'columns', 'button', 'colour', 'image'):
                value = getattr(part, field)
                told_by_button = field == 'colour' and not part.button  # no button has no colour
                told_by_title = field in ('title', 'size') and not part.title
                if value != getattr(have[name], field) and not told_by_button and not told_by_title:
                    note(field, name, value)
            heard = ' '.join(have[name].texts)
            for text in part.texts:
                if text not in heard and text not in (part.title, part.button):
                    note('text', name, text)
        above = name
    for name in have:
        if name not in want:
            note('extra', name, None)
    ours, theirs = [name for name in have if name in want], [name for name in want if name in have]
    place = next((k for k, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), None)
    if place is not None:
        note('place', theirs[place], theirs[place - 1] if place else None)
    return sorted(found, key=lambda difference: -difference.weight)


def _named(parts: tuple[Seen, ...]) -> dict[tuple[str, int], Seen]:
    """{(kind, which one of that kind): part}"""
    found: dict[tuple[str, int], Seen] = {}
    for part in parts:
        found[part.kind, sum(kind == part.kind for kind, _ in found)] = part
    return found


def _parts(body: Node) -> list[Node]:
    """The children of the body that hold something, with wrappers of blocks opened."""
    found = []
    for node in body.elements:
        inner = [child for child in node.elements if child.tag in _BLOCKS]
        if node.tag in ('div', 'main') and len(inner) > 1:
            found += _parts(node)
        elif node.text() or any(below.tag in ('img', 'input') for below in node.walk()):
            found.append(node)
    return found


def _seen(node: Node, ground: str) -> Seen:
    heading = _first(node, *_HEADINGS)
    button = next((below for below in node.walk() if _is_button(below)), None)
    images = sum(below.tag == 'img' for below in node.walk())
    columns = next(filter(None, map(_columns, node.walk())), 1)
    path = list(_path(node, heading)) if heading else [node]
    return Seen(
        _kind(node, images, columns),
        next(filter(None, map(_background, _wrappers(node))), ground),
        next(filter(None, map(_alignment, reversed(path))), 'left'),
        heading.text() if heading else '',
        next(filter(None, (PIXELS.get(name) for name in heading.classes)), 16) if heading else 0,
        columns,
        button.text() if button else '',
        (_background(button) or ground) if button else '',
        images > 0,
        tuple(node.texts()),
    )


def _kind(node: Node, images: int, columns: int) -> str:
    tags = [below.tag for below in node.walk()]
    if 'footer' in tags:
        return 'footer'
    if 'nav' in tags and 'h1' not in tags:
        return 'navbar'
    if 'form' in tags or tags.count('input') > 1:
        return 'form'
    if 'table' in tags:
        return 'table'
    if 'blockquote' in tags:
        return 'voices'
    texts = list(node.texts())
    if sum(bool(re.match(r'[$€£]\s?\d', text)) for text in texts) > 1:
        return 'pricing'
    if 'h1' in tags or node.tag == 'header':
        return 'hero'
    if images > 2 and len(texts) <= images:
        return 'gallery'
    return 'features' if columns > 1 or tags.count('h3') > 1 else 'section'


def _first(node: Node, *tags: str) -> Node | None:
    return next((below for below in node.walk() if below.tag in tags), None)


def _is_button(node: Node) -> bool:
    return node.tag == 'button' or (node.tag == 'a' and _background(node) is not None)


def _path(node: Node, below: Node) -> Iterator[Node]:
    """From `node` down to `below`."""
    yield node
    if node is not below:
        yield from _path(next(child for child in node.elements if any(one is below for one in child.walk())), below)


def _wrappers(node: Node) -> Iterator[Node]:
    """A part, and what wraps all of it inside."""
    yield node
    if len(node.elements) == 1 and not any(isinstance(child, str) and child.strip() for child in node.children):
        yield from _wrappers(node.elements[0])


def _background(node: Node) -> str | None:
    for name in node.classes:
        if name.startswith('bg-') and name[3:] in COLOURS:
            return COLOURS[name[3:]]
        if match := re.fullmatch(r'bg-\[(#[0-9a-fA-F]{6})\]', name):
            return match[1].lower()
    match = re.search(r'background(?:-color)?\s*:\s*(#[0-9a-fA-F]{6}|[a-z]+)', node.attributes.get('style', ''))
    return None if match is None else match[1].lower() if match[1][0] == '#' else COLOURS.get(match[1])


def _alignment(node: Node) -> str | None:
    named = {f'text-{side}': side for side in ('left', 'center', 'right')}
    match = re.search(r'text-align\s*:\s*(left|center|right)', node.attributes.get('style', ''))
    return next((named[name] for name in node.classes if name in named), match[1] if match else None)


def _columns(node: Node) -> int:
    """Of a grid, those of its widest prefix that the window reaches; 0 of what is no grid."""
    counts = {}
    for name in node.classes:
        if match := re.fullmatch(r'(?:(sm|md|lg|xl):)?grid-cols-(\d{1,2})', name):
            counts[('', 'sm', 'md', 'lg', 'xl').index(match[1] or '')] = int(match[2])
    return counts[max(counts)] if counts else 0
