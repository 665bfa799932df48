"""Frontend tasks: a vague request and the page that is meant, in the schema of the original files.

A page is drawn as one would build it without asking; then 4 to 8 of its fields take another value, its parts another
order, and sometimes the request forgets one of them. The structure of a task is the order of its parts; structures
belong to `train` or `test` by a hash, so that no structure is in both, and the topics of `unseen` are in neither.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from colbench_jax.tasks.frontend import page
from colbench_jax.tasks.frontend.outline import Difference, differences, outline
from colbench_jax.tasks.frontend.page import Page, Part
from colbench_jax.tasks.frontend.sentences import PARTS, say
from colbench_jax.tasks.frontend.topics import TOPICS
from core_jax.errors import UserError, unknown

SPLITS = ('train', 'test', 'unseen')
UNSEEN = ('repair',)
HIDDEN = (4, 8)  # least and most fields that are not the usual ones
LEAK = 0.1  # chance that the request tells one of them
FORGOTTEN = 0.25  # chance that the request leaves out a part
LEAST_APART = 3  # differences between the page that is meant and the one of who does not ask


def generate(
    count: int,
    *,
    split: str = 'train',
    seed: int = 0,
    hidden: tuple[int, int] | None = None,
    leak: float | None = None,
    rejected: Counter[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """`count` tasks, the same ones for the same arguments.

    hidden: least and most hidden fields; leak: chance that one is told. rejected: counts draws by what they failed,
    and those that passed under 'accepted'. Raises UserError for an unknown split, and where hardly any draw passes.
    """
    if split not in SPLITS:
        raise unknown('split', split, SPLITS)
    rejected = Counter() if rejected is None else rejected
    seen: set[str] = set()
    number = 0
    while len(seen) < count:
        rng = random.Random(f'{seed}/frontend/{split}/{number}')
        task = _task(rng, split, hidden or HIDDEN, LEAK if leak is None else leak, rejected)
        number += 1
        if task is not None and task['ground_truth'] in seen:
            rejected['seen before'] += 1
        elif task is not None:
            rejected['accepted'] += 1
            seen.add(task['ground_truth'])
            yield task
        if number > 40 * (len(seen) + 10):
            raise UserError(f'only {len(seen)} of {number} drawn pages hide enough; raise --hidden')


def structure_of(meant: Page) -> str:
    """The order of the parts."""
    return ' > '.join(part.kind for part in meant.parts)


def split_of(meant: Page) -> str:
    """`train` or `test` of a structure: one in five is for tests."""
    digest = hashlib.sha256(structure_of(meant).encode()).digest()
    return 'test' if digest[0] % 5 == 0 else 'train'


def request(topic: str, kinds: list[str], leaks: list[Difference]) -> str:
    """What the agent is told: whose page, which parts, and what leaks."""
    names = [f'a {PARTS[kind]}' for kind in kinds]
    listed = ', '.join(names[:-1]) + f' and {names[-1]}'
    text = f'Build a page for {TOPICS[topic].name}, {TOPICS[topic].about}. It needs {listed}.'
    return ' '.join([text, *map(say, leaks)])


def guess(topic: str, kinds: list[str]) -> Page:
    """The page of who does not ask: what the request names, in the usual order and with the usual values."""
    named = [kind for kind in page.KINDS if kind in kinds]
    return Page(topic, page.GROUNDS[0], tuple(page.usual(kind, topic) for kind in named))


def _task(
    rng: random.Random, split: str, hidden: tuple[int, int], leak: float, rejected: Counter[str]
) -> dict[str, Any] | None:
    """One draw, or None where its structure belongs to another split or a proof fails."""
    topic = rng.choice([name for name in TOPICS if (name in UNSEEN) == (split == 'unseen')])
    body = rng.sample(page.BODY, rng.randint(3, 5))
    meant, changed = _varied(rng, topic, ['navbar', 'hero', *body, 'footer'], rng.randint(*hidden))
    if split != 'unseen' and split_of(meant) != split:
        return None
    forgotten = rng.choice(body) if rng.random() < FORGOTTEN else None
    kinds = [kind for kind in page.KINDS if kind in ('navbar', 'hero', *body, 'footer') and kind != forgotten]
    source = page.html_of(meant)
    apart = differences(outline(page.html_of(guess(topic, kinds))), outline(source))
    leaks = [one for one in apart if one.field not in ('missing', 'place') and rng.random() < leak]
    if len(apart) - len(leaks) < LEAST_APART:
        rejected['a guess is too near'] += 1
        return None
    told = {f'{one.part[0]}.{one.field}' for one in apart}
    if any(name not in told and not name.startswith(f'{forgotten}.') for name in changed):
        rejected['a hidden field cannot be seen'] += 1
        return None
    return {
        'problem_description': request(topic, kinds, leaks),
        'ground_truth': source,
        'spec': {
            'family': topic,
            'structure': structure_of(meant),
            'split': split,
            'page': {'topic': topic, 'background': meant.background, 'parts': [part._asdict() for part in meant.parts]},
            'hidden': changed,
            'leaked': [f'{one.part[0]}.{one.field}' for one in leaks],
            'forgotten': forgotten,
        },
    }


def _varied(rng: random.Random, topic: str, kinds: list[str], count: int) -> tuple[Page, list[str]]:
    """A page of these parts in which `count` fields are not the usual ones, and the names of those fields."""
    parts = {kind: page.usual(kind, topic) for kind in kinds}
    places = [(kind, field) for kind in kinds for field in page.values_of(kind, topic)] + [('page', 'background')]
    ground, changed = page.GROUNDS[0], sorted(rng.sample(places, min(count, len(places))))
    for kind, field in changed:
        if kind == 'page':
            ground = rng.choice(page.GROUNDS[1:])
        else:
            value = rng.choice(page.values_of(kind, topic)[field][1:])
            parts[kind] = parts[kind]._replace(**{field: value})
    return Page(topic, ground, tuple(parts.values())), [f'{kind}.{field}' for kind, field in changed]


def page_of(saved: dict[str, Any]) -> Page:
    """The page of a task's `spec['page']`."""
    return Page(saved['topic'], saved['background'], tuple(Part(**part) for part in saved['parts']))
