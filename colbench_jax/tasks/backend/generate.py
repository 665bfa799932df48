"""Backend tasks made from program families, each with its proofs (proofs.py), in the schema of the original files.

A task = a family x the words of a domain x values of 3 to 6 hidden slots. The structure of a task is its family, which
slots are hidden, and the values of those that are choices; structures belong to `train` or `test` by a hash, so that no
structure is in both, and the families of `unseen` are in neither.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from colbench_jax.grader.compare import same
from colbench_jax.grader.pool import Job, Pool
from colbench_jax.tasks.backend import families, proofs, restricted
from colbench_jax.tasks.backend.family import Family, Slot
from colbench_jax.tasks.backend.program import bundle
from core_jax.errors import UserError, unknown

SPLITS = ('train', 'test', 'unseen')
CALLS, TRIED = 10, 28  # calls of a task, and those that they are chosen from
BATCH = 32  # most drafts that are proven side by side


class Grammar(NamedTuple):
    """A set of families, and how tasks are drawn from it."""

    families: Mapping[str, Family]
    unseen: tuple[str, ...]
    domains: Mapping[str, Mapping[str, Any]]
    hidden: tuple[int, int]  # least and most hidden slots
    leak: float  # chance that the description tells a hidden slot
    usual: float  # chance that a hidden slot has its most common value
    topics: bool  # whether the description names the topics that are open


GRAMMARS = {
    'full': Grammar(families.FAMILIES, families.UNSEEN, families.DOMAINS, (3, 6), 0.15, 0.2, False),
    'restricted': Grammar(restricted.FAMILIES, restricted.UNSEEN, restricted.DOMAINS, (2, 4), 0.1, 0.1, True),
}


class Draft(NamedTuple):
    """A task before its proofs."""

    grammar: str
    family: Family
    domain: str
    values: dict[str, Any]  # of all slots
    hidden: tuple[str, ...]  # slots that are decided by the person
    leaked: tuple[str, ...]  # those of them that the description tells
    calls: tuple[str, ...]  # [TRIED]


def grammar_named(name: str) -> Grammar:
    """Raises UserError with the nearest name."""
    if name not in GRAMMARS:
        raise unknown('grammar', name, GRAMMARS)
    return GRAMMARS[name]


def generate(
    pool: Pool,
    count: int,
    *,
    split: str = 'train',
    seed: int = 0,
    grammar: str = 'full',
    hidden: tuple[int, int] | None = None,
    leak: float | None = None,
    usual: float | None = None,
    rejected: Counter[str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """`count` tasks that passed every proof, the same ones for the same arguments.

    hidden: least and most hidden slots; leak: chance that one is told; usual: chance that one has its most common
    value, which is what agents guess (defaults: the grammar's).
    rejected: counts drafts by the proof that they failed, and those that passed under 'accepted'.
    Raises UserError for an unknown split or grammar, and where hardly any draft passes.
    """
    if split not in SPLITS:
        raise unknown('split', split, SPLITS)
    rules = grammar_named(grammar)
    rules = rules._replace(hidden=hidden or rules.hidden, leak=rules.leak if leak is None else leak)
    rules = rules._replace(usual=rules.usual if usual is None else usual)
    rejected = Counter() if rejected is None else rejected
    seen: set[str] = set()
    number = made = 0
    while made < count:
        drafts = []
        while len(drafts) < min(BATCH, 2 * (count - made) + 2):
            draft = _draft(random.Random(f'{seed}/{grammar}/{split}/{number}'), grammar, rules, split)
            number += 1
            if draft is not None:
                drafts.append(draft)
        for task in _proven(pool, drafts, rejected):
            if task['ground_truth'] + task['problem_description'] in seen:
                rejected['seen before'] += 1
                continue
            seen.add(task['ground_truth'] + task['problem_description'])
            made += 1
            tick()
            yield task | {'spec': task['spec'] | {'split': split}}
            if made == count:
                return
        if number > 200 * (made + 10):
            raise UserError(f'only {made} of {number} drafts passed: {dict(rejected.most_common(3))}')


def _draft(rng: random.Random, grammar: str, rules: Grammar, split: str) -> Draft | None:
    """One draw, or None where its structure belongs to another split."""
    names = [name for name in rules.families if (name in rules.unseen) == (split == 'unseen')]
    family = rules.families[rng.choice(names)]
    low, high = rules.hidden
    slots = rng.sample(family.slots, min(len(family.slots), rng.randint(low, high)))
    values = family.usual()
    for slot in slots:
        values[slot.name] = slot.values[0] if rng.random() < rules.usual else rng.choice(slot.values[1:])
    hidden = tuple(slot.name for slot in family.slots if slot in slots)
    if split != 'unseen' and split_of(family, hidden, values) != split:
        return None
    leaked = tuple(name for name in hidden if rng.random() < rules.leak)
    domain = rng.choice(list(rules.domains))
    nouns = family.nouns(rules.domains[domain])
    calls = dict.fromkeys(family.call(rng, nouns, values) for _ in range(TRIED))
    return Draft(grammar, family, domain, values, hidden, leaked, tuple(calls))


def structure_of(family: Family, hidden: tuple[str, ...], values: Mapping[str, Any]) -> str:
    """The structure of a task: hidden slots, with their values where these are choices and not numbers or texts."""
    parts = [
        f'{slot.name}={values[slot.name]}' if not isinstance(slot.tell, str) else slot.name
        for slot in family.slots
        if slot.name in hidden
    ]
    return f'{family.name}({", ".join(parts)})'


def split_of(family: Family, hidden: tuple[str, ...], values: Mapping[str, Any]) -> str:
    """`train` or `test` of a structure: one in five is for tests."""
    digest = hashlib.sha256(structure_of(family, hidden, values).encode()).digest()
    return 'test' if digest[0] % 5 == 0 else 'train'


def describe(draft: Draft) -> str:
    """The request, with the sentences that leak and, where the grammar says so, the topics that are open."""
    rules = GRAMMARS[draft.grammar]
    nouns = rules.domains[draft.domain]
    text = draft.family.describe(nouns)
    slots = {slot.name: slot for slot in draft.family.slots}
    leaks = [slots[name].answer(draft.values[name], nouns) for name in draft.leaked]
    if rules.topics:
        text += ' Open: ' + ', '.join(name for name in draft.hidden if name not in draft.leaked) + '.'
        leaks = [f'{name}: {leak}' for name, leak in zip(draft.leaked, leaks, strict=True)]
    return ' '.join([text, *leaks])


def variants(draft: Draft) -> dict[str, dict[str, Any]]:
    """{name: values of all slots}: the guess of who does not ask, then a mutant for each other value of a hidden slot.

    Of a number, the values next to it stand for all others.
    """
    told = draft.values | {
        slot.name: slot.values[0]
        for slot in draft.family.slots
        if slot.name in draft.hidden and slot.name not in draft.leaked
    }
    found = {'guess': told}
    for slot in draft.family.slots:
        if slot.name in draft.hidden:
            for value in _others(slot, draft.values[slot.name]):
                found[f'{slot.name}={value!r}'] = draft.values | {slot.name: value}
    return found


def _others(slot: Slot, value: Any) -> list[Any]:
    others = [other for other in slot.values if repr(other) != repr(value)]
    if all(type(other) in (int, float) for other in slot.values):
        below = [other for other in others if other < value]
        above = [other for other in others if other > value]
        return ([max(below)] if below else []) + ([min(above)] if above else [])
    return others


def _proven(pool: Pool, drafts: list[Draft], rejected: Counter[str]) -> list[dict[str, Any]]:
    """The tasks of those drafts that pass every proof."""
    ready = []
    for draft in drafts:
        slots = {slot.name: slot for slot in draft.family.slots}
        secret = [name for name in draft.hidden if name not in draft.leaked]
        literals = {name: slots[name].literals(draft.values[name]) for name in secret}
        if not secret or proofs.tells_nothing(describe(draft), literals):
            rejected['the description tells a value'] += 1
        else:
            ready.append(draft)
    chosen = []
    for draft, outcome in zip(ready, pool.map([_trial(draft) for draft in ready]), strict=True):
        rows = _by_variant(outcome.values[0], 1 + len(variants(draft)))
        places = choose(rows)
        if places is None:
            rejected['no ten calls tell all values'] += 1
        else:
            program = draft.family.program(draft.values, GRAMMARS[draft.grammar].domains[draft.domain])
            calls = [draft.calls[k] for k in places]
            chosen.append((draft, program, calls, [[row[k] for k in places] for row in rows]))
    # The printed reference runs under another hash seed: what it gives depends neither on that nor on the printer.
    printed = pool.map([Job((program,), tuple(calls), jail='again') for _, program, calls, _ in chosen])
    tasks = []
    for (draft, program, calls, (reference, guess, *mutants)), again in zip(chosen, printed, strict=True):
        names = list(variants(draft))[1:]
        complaint = (
            proofs.is_defined(reference)
            or proofs.is_deterministic(reference, again.values[0])
            or proofs.is_underspecified(reference, guess)
            or proofs.is_sensitive(reference, dict(zip(names, mutants, strict=True)))
        )
        rejected[complaint or 'accepted'] += 1
        if not complaint:
            tasks.append(task_of(draft, program, calls))
    return tasks


def _trial(draft: Draft) -> Job:
    """The reference and all variants of it on every call that may be chosen."""
    nouns = draft.family.nouns(GRAMMARS[draft.grammar].domains[draft.domain])
    program = bundle(draft.family.source, [draft.values, *variants(draft).values()], nouns)
    calls = tuple('every' + call.removeprefix(nouns['fn']) for call in draft.calls)
    return Job((program,), calls, screen=False)


def _by_variant(values: list[list | None], count: int) -> list[list[list | None]]:
    """[variant][call] of what `every` gave on each call; a variant that failed has no value."""
    columns = [value[1] if value else [None] * count for value in values]
    return [[None if column[k] in (None, ['n']) else column[k] for column in columns] for k in range(count)]


def choose(rows: list[list[list | None]]) -> list[int] | None:
    """Ten calls on which the reference is defined, each mutant is told apart and the guess mostly fails; else None.

    rows: values [variant][call] of the reference, the guess and the mutants. The first calls are preferred, so that
    they stay a sample.
    """
    reference, guess, *mutants = rows
    defined = [k for k, value in enumerate(reference) if proofs.is_defined([value]) is None]

    def same_as(other: list[list | None]) -> set[int]:
        return {k for k in defined if other[k] is not None and same(reference[k], other[k])}

    right, apart = same_as(guess), [set(defined) - same_as(mutant) for mutant in mutants]
    if not all(apart) or len(defined) < CALLS:
        return None
    chosen: list[int] = []
    for places in sorted(apart, key=len):
        if not places & set(chosen):
            chosen.append(min(places - right or places))
    wrong = [k for k in defined if k not in right and k not in chosen]
    chosen += wrong[: max(0, CALLS - proofs.MOST_GUESSED - sum(k not in right for k in chosen))]
    chosen += [k for k in defined if k not in chosen][: max(0, CALLS - len(chosen))]
    if len(chosen) != CALLS or len(right & set(chosen)) > proofs.MOST_GUESSED:
        return None
    return sorted(chosen)


def task_of(draft: Draft, source: str, calls: list[str]) -> dict[str, Any]:
    """The line of a file. `spec` is for the person and the referee, never for an agent."""
    nouns = GRAMMARS[draft.grammar].domains[draft.domain]
    slots = [
        {
            'name': slot.name,
            'value': draft.values[slot.name],
            'usual': slot.values[0],
            'hidden': slot.name in draft.hidden,
            'leaked': slot.name in draft.leaked,
            'questions': slot.questions(nouns),
            'answer': slot.answer(draft.values[slot.name], nouns),
        }
        for slot in draft.family.slots
    ]
    return {
        'problem_description': describe(draft),
        'ground_truth': source,
        'test_cases': {f'test{k + 1}': call for k, call in enumerate(calls)},
        'spec': {
            'grammar': draft.grammar,
            'family': draft.family.name,
            'domain': draft.domain,
            'structure': structure_of(draft.family, draft.hidden, draft.values),
            'slots': slots,
        },
    }
