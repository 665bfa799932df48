"""Generated tasks keep every proof, each proof can fail, and files say where they are broken."""

import json
import math
import random
import re
from collections import Counter

import pytest

from colbench_jax.grader import Grader
from colbench_jax.grader.inside import screen
from colbench_jax.grader.pool import Job, Pool
from colbench_jax.tasks import files
from colbench_jax.tasks.backend import generate, proofs
from colbench_jax.tasks.backend.family import Slot
from colbench_jax.tasks.backend.program import bundle, specialise
from core_jax.errors import UserError

NOUNS = {'fn': 'count', 'things': 'cats', 'amount': 'weight'}
SOURCE = """
def N_fn(N_things):
    total = 0
    for row in N_things:
        if row['N_amount'] is None:
            if S_missing == 'skip':
                continue
            row = {'N_amount': 0}
        if row['N_amount'] >= S_limit if S_edge == 'inclusive' else row['N_amount'] > S_limit:
            total += row['N_amount'] if S_limit and S_unit else 1
    if S_digits is None:
        return total
    return round(total, S_digits)
"""


def test_holes_are_filled_and_no_trace_of_the_choice_is_left():
    values = {'missing': 'skip', 'limit': 5, 'edge': 'exclusive', 'unit': '', 'digits': None}
    text = specialise(SOURCE, values, NOUNS)
    assert text == (
        'def count(cats):\n    total = 0\n    for row in cats:\n'
        "        if row['weight'] is None:\n            continue\n"
        "        if row['weight'] > 5:\n            total += 1\n    return total"
    )
    with pytest.raises(KeyError):
        specialise(SOURCE, {}, NOUNS)


FAMILIES = [(name, family) for name, grammar in generate.GRAMMARS.items() for family in grammar.families.values()]


@pytest.mark.parametrize('grammar,family', FAMILIES, ids=[family.name for _, family in FAMILIES])
def test_a_family_holds_together(pool, grammar, family):
    """Each value of each slot has its own answer, prints, and does in print what it does with its holes open."""
    domains = generate.GRAMMARS[grammar].domains
    domain = next(iter(domains.values()))
    answers = [(slot.name, value, slot.answer(value, domain)) for slot in family.slots for value in slot.values]
    assert len({text for _, _, text in answers}) == len(answers)
    assert all(text.count('.') >= 1 and text.endswith('.') for _, _, text in answers)
    for slot in family.slots:
        assert len(slot.values) > 1 and all('{' not in text for text in slot.questions(domain))
    variants = [family.usual()] + [family.usual() | {slot: value} for slot, value, _ in answers]
    rng = random.Random(0)
    calls = tuple(family.call(rng, domain, variants[-1]) for _ in range(2))
    printed = [family.program(values, domain) for values in variants]
    assert all(screen.refusal(text) is None and not re.search(r'\b[SN]_', text) for text in printed)
    fn = family.nouns(domain)['fn']
    whole = pool.run(Job(tuple(printed), calls)).values
    every = bundle(family.source, variants, family.nouns(domain))
    open_ = pool.run(Job((every,), tuple('every' + call.removeprefix(fn) for call in calls), screen=False)).values[0]
    assert [[row[k] or ['n'] for row in whole] for k in range(2)] == [value[1] for value in open_]


def test_there_are_enough_families():
    full = generate.GRAMMARS['full']
    assert len(full.families) >= 20 and set(full.unseen) < set(full.families)
    assert all(len(family.slots) >= 4 for _, family in FAMILIES)


def test_tasks_keep_their_proofs(pool, made):
    grader = Grader(pool=pool)
    for (grammar, split), tasks in made.items():
        rules = generate.GRAMMARS[grammar]
        for task, values in zip(tasks, grader.expected(tasks), strict=True):
            files.check_task(task, 'here')
            assert list(task)[:3] == ['problem_description', 'ground_truth', 'test_cases']
            assert len(set(task['test_cases'].values())) == 10 and proofs.is_defined(values) is None
            spec = task['spec']
            assert spec['split'] == split and (spec['family'] in rules.unseen) == (split == 'unseen')
            hidden = [slot for slot in spec['slots'] if slot['hidden']]
            assert rules.hidden[0] <= len(hidden) <= rules.hidden[1]
            for slot in spec['slots']:
                told = slot['answer'] in task['problem_description']
                assert told == slot['leaked'] or not slot['hidden']
        assert all(grade.success for grade in grader.grade_many([(task, task['ground_truth']) for task in tasks]))


def test_structures_of_train_and_test_are_disjoint(made):
    for grammar in generate.GRAMMARS:
        of = {split: {task['spec']['structure'] for task in made[grammar, split]} for split in generate.SPLITS}
        assert not of['train'] & of['test'] and not (of['train'] | of['test']) & of['unseen']


def test_the_same_seed_makes_the_same_tasks(pool, made):
    again = list(generate.generate(pool, 3))
    assert again == made['full', 'train'][:3]
    assert list(generate.generate(pool, 3, seed=1)) != again


def test_restricted_dialogues_are_short(made):
    for split in generate.SPLITS:
        for task in made['restricted', split]:
            asked = [slot for slot in task['spec']['slots'] if slot['hidden'] and not slot['leaked']]
            words = [slot['questions'][0] + slot['answer'] for slot in asked]
            assert len(task['problem_description'] + ''.join(words) + task['ground_truth']) < 350
            assert all(slot['name'] in task['problem_description'].split('Open: ')[1] for slot in asked)


def test_one_jail_proves_as_well(made):
    with Pool(1) as single:
        assert list(generate.generate(single, 2)) == made['full', 'train'][:2]


def test_hidden_slots_and_leaks_can_be_chosen(pool):
    tasks = list(generate.generate(pool, 4, grammar='restricted', hidden=(2, 2), leak=0.0))
    assert all(sum(slot['hidden'] for slot in task['spec']['slots']) == 2 for task in tasks)
    assert not any(slot['leaked'] for task in tasks for slot in task['spec']['slots'])


# Each proof fails where it should


def run(pool, source, calls=('f(1)', 'f(2)'), jail='grades'):
    return pool.run(Job((source,), calls, jail=jail)).values[0]


def test_a_reference_that_is_undefined_is_refused(pool):
    assert proofs.is_defined(run(pool, 'def f(x):\n    return x')) is None
    for body in ('None', '1 / 0', 'float("nan")', '[1, {"a": float("nan")}]'):
        assert proofs.is_defined(run(pool, f'def f(x):\n    return {body}'))


def test_a_reference_that_depends_on_the_hash_seed_is_refused(pool):
    for body, refused in (('list({"a", "b", "c", "d", "e", "f", "g", "h"})', True), ('sorted({"b", "a"})', False)):
        source = f'def f(x):\n    return {body}'
        found = proofs.is_deterministic(run(pool, source), run(pool, source, jail='again'))
        assert (found is not None) == refused


def test_a_call_set_that_does_not_tell_a_value_is_refused(pool):
    reference, other = (run(pool, f'def f(x):\n    return x > {limit}') for limit in (5, 6))
    assert proofs.is_sensitive(reference, {'limit=6': other}) == 'no call tells limit=6'
    calls = ('f(6)', 'f(2)')
    reference, other = (run(pool, f'def f(x):\n    return x > {limit}', calls) for limit in (5, 6))
    assert proofs.is_sensitive(reference, {'limit=6': other}) is None


def test_a_task_that_a_guess_solves_is_refused():
    yes, no = [['i', '1']] * 10, [['i', '1']] * 3 + [['i', '2']] * 7
    assert proofs.is_underspecified(yes, no) is None
    assert 'passes 4 of 10' in proofs.is_underspecified(yes, [['i', '1']] * 4 + [['i', '2']] * 6)


def test_a_description_that_tells_is_refused():
    literals = {'limit': ['12'], 'weights': ['3', '2']}
    assert proofs.tells_nothing('Marks from 0 to 10, f(x12), 12.5 and 123', literals) is None
    assert 'value of limit' in proofs.tells_nothing('More than 12 of them', literals)
    assert 'value of weights' in proofs.tells_nothing('Weights 3.', literals)


def test_what_an_answer_spells_out_is_a_literal():
    told = Slot(
        'top', (None, 1, 'name', 'by'), ('Which?',), {None: 'all.', 1: 'first 1.', 'name': "by 'name'.", 'by': 'by.'}
    )
    assert [told.literals(value) for value in told.values] == [[], ['1'], ["'name'"], []]
    told = Slot('top', (0, 1), ('Which?',), {0: 'after 10.', 1: 'one.'})
    assert not told.literals(0) and not told.literals(1)


def test_drafts_that_fail_are_counted(pool):
    rejected: Counter = Counter()
    list(generate.generate(pool, 5, rejected=rejected, seed=3))
    assert rejected['accepted'] >= 5 and sum(rejected.values()) >= 10


def test_what_cannot_be_generated_is_said(pool):
    with pytest.raises(UserError, match="did you mean 'train'"):
        next(generate.generate(pool, 1, split='trian'))
    with pytest.raises(UserError, match="did you mean 'restricted'"):
        next(generate.generate(pool, 1, grammar='restrict'))


# Files

GOOD = {'problem_description': 'Write f.', 'ground_truth': 'def f(x):\n    return x', 'test_cases': {'test1': 'f(1)'}}


SLOT = {'name': 'limit', 'questions': ['Which?'], 'answer': 'It is 3.', 'hidden': True, 'value': 3}
PLAYED = {'task': GOOD, 'dialogue_history': [], 'answer': ''}


def test_files_come_back_as_they_were(tmp_path):
    path = tmp_path / 'tasks.jsonl'
    files.write_lines(path, [GOOD, GOOD | {'spec': {'slots': []}}])
    assert files.read_tasks(path) == [GOOD, GOOD | {'spec': {'slots': []}}]
    assert files.read_tasks(path, limit=1) == [GOOD]
    line = json.dumps(GOOD | {'extra': 'field of an original file'})
    path.write_text(line + '\n\n' + line)  # no last line end, an empty line
    assert len(files.read_tasks(path)) == 2


@pytest.mark.parametrize(
    'line,complaint',
    [
        ('{"problem_description": "x"', 'is damaged'),
        ('[1]', 'is no JSON object'),
        ('{"a": 1}', 'problem_description is missing'),
        (json.dumps(GOOD | {'ground_truth': 3}), 'ground_truth is no text'),
        (json.dumps(GOOD | {'test_cases': ['f(1)']}), 'test_cases is no table'),
        (json.dumps(GOOD | {'spec': 1}), 'spec is no object'),
        (json.dumps(GOOD | {'spec': {}}), 'spec has no slots'),
        (json.dumps(GOOD | {'spec': {'slots': [], 'family': [1]}}), 'spec is no object with a family'),
        (json.dumps(GOOD | {'spec': {'slots': [{}]}}), 'slot 0 of spec has no name'),
        (json.dumps(GOOD | {'spec': {'slots': [SLOT | {'questions': []}]}}), 'slot 0 of spec has no questions'),
        (json.dumps(GOOD | {'spec': {'slots': [SLOT, SLOT | {'answer': 3}]}}), 'slot 1 of spec has no answer'),
        (json.dumps({'problem_description': 'p', 'ground_truth': '<p>', 'spec': 3}), 'spec is no object'),
        ('[' * 100_000, 'is damaged'),
    ],
)
def test_a_broken_line_is_one_error_with_file_and_line(tmp_path, line, complaint):
    path = tmp_path / 'tasks.jsonl'
    path.write_text(json.dumps(GOOD) + '\n' + line + '\n')
    with pytest.raises(UserError) as error:
        files.read_tasks(path)
    assert f'{path}, line 2' in str(error.value) and complaint in str(error.value)
    assert '\n' not in str(error.value)


def test_a_line_that_is_no_text_and_a_file_that_is_not_there(tmp_path):
    path = tmp_path / 'tasks.jsonl'
    path.write_bytes(b'\xff\xfe{}\n')
    with pytest.raises(UserError, match='line 1 is damaged'):
        files.read_tasks(path)
    with pytest.raises(UserError, match='cannot read'):
        files.read_tasks(tmp_path / 'none.jsonl')
    path.write_text('\n')
    with pytest.raises(UserError, match='no tasks'):
        files.read_tasks(path)


def test_broken_trajectories(tmp_path):
    path = tmp_path / 'played.jsonl'
    for row, complaint in (
        ({}, 'no task'),
        ({'task': GOOD, 'dialogue_history': 3}, 'no list of turns'),
        ({'task': GOOD, 'dialogue_history': []}, 'answer is no text'),
        (PLAYED | {'dialogue_history': [{'role': 'user'}]}, 'turn 0 has no content'),
        (PLAYED | {'dialogue_history': [{'role': 'user', 'content': ['a']}]}, 'turn 0 has no content'),
        (PLAYED | {'dialogue_history': [{'role': 'agent', 'content': 'a'}]}, 'turn 0 has neither the role'),
        (PLAYED | {'agent': {}}, 'agent is no text'),
        (PLAYED | {'agent': 3}, 'agent is no text'),
        (PLAYED | {'similarity': {}}, 'similarity is no text'),
        (PLAYED | {'grader': 1}, 'grader is no text'),
        (PLAYED | {'errors': 'x'}, 'errors is no list'),
        *(
            (PLAYED | {'reward': reward}, 'reward is no number between')
            for reward in ('high', None, True, 7.5, -1, math.nan)
        ),
    ):
        path.write_text(json.dumps(row) + '\n')
        with pytest.raises(UserError, match=f'line 1: .*{complaint}'):
            files.read_trajectories(path)
