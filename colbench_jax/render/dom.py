"""A page as a tree, by Python's own parser, which never fails: what is missing is closed, what is foreign is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

VOID = frozenset('area base br col embed hr img input link meta source track wbr'.split())
SILENT = frozenset('script style template noscript title'.split())  # of these, no text is seen
# An open element of the first kind ends where one of the second begins.
_ENDS = {tag: {tag} for tag in ('p', 'li', 'option')}
_ENDS |= {tag: {'td', 'th', 'tr'} for tag in ('td', 'th')} | {'tr': {'tr'}}
LONGEST = 200_000  # characters; what follows them is not read
DEEPEST = 200  # levels; what lies deeper counts to the last one


class Node:
    """An element: `tag`, `attributes`, `children` (elements and texts, in their order)."""

    def __init__(self, tag: str, attributes: dict[str, str]):
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    @property
    def classes(self) -> list[str]:
        return self.attributes.get('class', '').split()

    @property
    def elements(self) -> list[Node]:
        return [child for child in self.children if isinstance(child, Node)]

    def walk(self) -> Iterator[Node]:
        """This element and all below it, in the order of the page."""
        yield self
        for child in self.elements:
            yield from child.walk()

    def texts(self) -> Iterator[str]:
        """Texts that are seen, with white space as a browser has it."""
        for child in self.children:
            if isinstance(child, str):
                if said := ' '.join(child.split()):
                    yield said
            elif child.tag not in SILENT:
                yield from child.texts()

    def text(self) -> str:
        return ' '.join(self.texts())


class _Builder(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Node('root', {})
        self.open = [self.root]
        self.only: set[str] = set()  # elements of which a page has one, and had it

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in self.only:
            return  # a second one is none
        if tag in ('html', 'head', 'body'):
            self.only.add(tag)
        if len(self.open) > 1 and tag in _ENDS.get(self.open[-1].tag, ()):
            self.open.pop()
        node = Node(tag, {name: value or '' for name, value in attributes})
        self.open[-1].children.append(node)
        if tag not in VOID and len(self.open) < DEEPEST:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        for place in range(len(self.open) - 1, 0, -1):
            if self.open[place].tag == tag:
                del self.open[place:]
                return

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


# Whichever begins first: what looks like one within another is none. In a stylesheet, <!-- is no comment.
_UNSEEN = re.compile(
    r'(<style\b.*?(?:</style\s*>|\Z))|<!--(?:-?>|.*?(?:--!?>|\Z))|<script\b.*?(?:</script\s*>|\Z)', re.I | re.S
)


def without_scripts(html: str) -> str:
    """A page without its scripts and comments."""
    return _UNSEEN.sub(lambda match: match[1] or '', html)


def parse(html: str) -> Node:
    """The root of a page, whose children are those of the file."""
    builder = _Builder()
    builder.feed(without_scripts(html[:LONGEST]))
    builder.close()
    return builder.root


def body_of(root: Node) -> Node:
    """The body of a page, or all of it where there is none."""
    return next((node for node in root.walk() if node.tag == 'body'), root)
