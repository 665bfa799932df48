"""Pages compared without a browser: what is said, of what the page is made, and which colours it names.

A rough stand-in: it knows of layout what classes name, and one that has no effect counts like one that has. In 0..1; 1
for the same page, 0 for a page that holds nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from difflib import SequenceMatcher

from colbench_jax.render.dom import Node, body_of, parse
from colbench_jax.tasks.frontend.outline import Outline, outline

WEIGHTS = {'words': 0.25, 'tree': 0.2, 'style': 0.1, 'layout': 0.2, 'colours': 0.25}
LONGEST = 2_000  # elements that are compared in their order


def similarity(first: str, second: str) -> float:
    """The weighted mean of five parts, each in 0..1."""
    bodies = [body_of(parse(html)) for html in (first, second)]
    outlines = [outline(html) for html in (first, second)]
    if not all(body.elements for body in bodies):
        return float(first == second)
    tags = [[node.tag for node in body.walk()][:LONGEST] for body in bodies]
    parts = {
        'words': cosine(*(Counter(re.findall(r'\w+', body.text().lower())) for body in bodies)),
        'tree': SequenceMatcher(None, *tags, autojunk=False).ratio(),
        'style': cosine(*map(_styles, bodies)),
        'layout': cosine(*map(_layout, outlines)),
        'colours': cosine(*map(_colours, outlines)),
    }
    return sum(WEIGHTS[name] * value for name, value in parts.items())


def _styles(body: Node) -> Counter[str]:
    return Counter(name for node in body.walk() for name in node.classes)


def _layout(seen: Outline) -> Counter[tuple]:
    """What stands where and how, of each part."""
    fields = ('align', 'size', 'columns', 'image')
    facts = [(part.kind, field, getattr(part, field)) for part in seen.parts for field in fields]
    pairs = zip(seen.parts, seen.parts[1:], strict=False)
    return Counter(facts + [(above.kind, 'above', below.kind) for above, below in pairs])


def _colours(seen: Outline) -> Counter[str]:
    """Backgrounds, each part with the weight of its texts; a page of which no part is known has its own alone."""
    found: Counter[str] = Counter({seen.background: 1})
    for part in seen.parts:
        found[part.background] += 1 + len(part.texts)
        if part.colour:
            found[part.colour] += 1
    return found


def cosine(first: Counter, second: Counter) -> float:
    """Of two bags; 1 of two empty ones."""
    if not first or not second:
        return float(first == second)
    dot = sum(count * second[name] for name, count in first.items())
    return dot / math.sqrt(sum(c * c for c in first.values()) * sum(c * c for c in second.values()))
