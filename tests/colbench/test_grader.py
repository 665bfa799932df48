"""Right answers score 1 in whatever shape they come; the released grader's scores are had in `compat`."""

import json
import math
import pathlib
import time

import pytest

from colbench_jax.grader import Grader, compare
from colbench_jax.grader.inside import tagged
from colbench_jax.grader.pool import Job, Limits, program_of, read_outcome, well_formed
from core_jax.errors import UserError


def task_of(source, calls):
    return {'ground_truth': source, 'test_cases': {f'test{k + 1}': call for k, call in enumerate(calls)}}


AREA = 'def area(r):\n    return round(3.14159 * r * r, 2)'
CALLS = tuple(f'area({r})' for r in range(1, 11))
FACTORIAL = 'def fact(n):\n    return 1 if n == 0 else n * fact(n - 1)'
FACTORIALS = tuple(f'fact({n})' for n in range(10))

FRAMES = """
def area(r):
    def walk():
        frame = (lambda g: g.gi_frame)((x for x in [0]))
        yield 0
    g = walk()
    try:
        raise ValueError
    except ValueError as error:
        frame = error.__traceback__.tb_frame
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if isinstance(value, str) and 'def area' in value and 'frame' not in value:
                space = {}
                exec(value, space)
                return space['area'](r)
        frame = frame.f_back
"""
EQUAL = 'class Same:\n    def __eq__(self, other):\n        return True\ndef area(r):\n    return Same()'
EQUAL_WITHIN = (
    'def area(r):\n    class Same:\n        def __eq__(self, other):\n            return True\n    return Same()'
)

# The table of sheet 2.5: (task, answer, what is right, what the released grader gives).
TABLE = {
    'identical': (task_of(AREA, CALLS), AREA, 1.0, 1.0),
    'import at the top': (
        task_of(AREA, CALLS),
        'import math\ndef area(r):\n    return round(math.fsum([3.14159 * r * r]), 2)',
        1.0,
        0.0,
    ),
    'a helper': (
        task_of(AREA, CALLS),
        'def square(x):\n    return x * x\ndef area(r):\n    return round(3.14159 * square(r), 2)',
        1.0,
        0.0,
    ),
    'recursion': (task_of(FACTORIAL, FACTORIALS), FACTORIAL, 1.0, 0.1),
    'equal to everything': (task_of(AREA, CALLS), EQUAL_WITHIN, 0.0, 1.0),
    'walks frames': (task_of(AREA, CALLS), FRAMES, 0.0, 1.0),
    'reference gives None': (
        task_of('def f(x):\n    return None', ['f(1)'] * 10),
        'def f(x):\n    return None',
        1.0,
        0.0,
    ),
}


@pytest.mark.parametrize('row', TABLE)
def test_the_seven_rows(graders, row):
    task, answer, right, released = TABLE[row]
    assert graders['strict'].grade(task, answer).reward == right
    assert graders['compat'].grade(task, answer).reward == pytest.approx(released)


def test_the_released_blacklist_of_words(graders):
    task = task_of(AREA, CALLS)
    answer = AREA.replace('def', '# sudo\ndef')
    assert graders['strict'].grade(task, answer).success and graders['compat'].grade(task, answer).reward == 0


def test_a_class_with_private_names_and_a_format(graders):
    answer = (
        'from collections import Counter\nclass Disc:\n    def __init__(self, r):\n        self._r = r\n'
        '    def area(self):\n        return round(3.14159 * self._r ** 2, 2)\n'
        "if __name__ == '__main__':\n    print('no')\ndef area(r):\n    print('noise' * 10)\n    return Disc(r).area()"
    )
    assert graders['strict'].grade(task_of(AREA, CALLS), f'Sure!\n```python\n{answer}\n```\nEnjoy').success


def test_part_of_the_calls(graders):
    answer = 'def area(r):\n    if r > 7:\n        raise ValueError\n    return round(3.14159 * r * r, 2)'
    grade = graders['strict'].grade(task_of(AREA, CALLS), answer)
    assert grade.reward == 0.7 and not grade.success and grade.errors[-1] == 'ValueError'


def test_a_call_that_hangs_costs_that_call_alone(graders):
    answer = 'def area(r):\n    while r == 3:\n        pass\n    return round(3.14159 * r * r, 2)'
    grade = graders['strict'].grade(task_of(AREA, CALLS), answer)
    assert grade.reward == 0.9 and grade.errors[2] == 'OutOfTime'


def test_calls_on_which_the_reference_fails_are_said(graders):
    source = 'def f(x):\n    return 1 / x'
    grade = graders['strict'].grade(task_of(source, ['f(0)', 'f(1)']), source)
    assert grade.reward == 0.5 and grade.unusable == 1


def both(wanted, found, lenient=False):
    wanted, found = (json.loads(json.dumps(tagged.encode(value))) for value in (wanted, found))
    assert well_formed(wanted) and well_formed(found)
    return compare.same(wanted, found, lenient=lenient)


def test_values_are_compared_as_python_does():
    import collections
    import datetime

    for value in (None, True, -3, 10**300, 0.1, -math.inf, 'ä\n', b'x', [1, [2]], (1,), {3, 1}, {'a': {1: 2.5}}):
        assert both(value, value)
    assert both(math.nan, math.nan) and both({'a': [math.nan]}, {'a': [math.nan]})
    assert both(0.1 + 0.2, 0.3) and both(2, 2.0) and both({1: 'x'}, {1.0: 'x'})
    assert both({'a': 1, 'b': 2}, {'b': 2, 'a': 1}) and both(collections.Counter('aab'), {'a': 2, 'b': 1})
    assert both({3, 1, 2}, {2, 3, 1}) and both({(1, 'a'), (0, 'b')}, {(0, 'b'), (1, 'a')})
    assert both(datetime.date(2024, 1, 2), datetime.date(2024, 1, 2))
    for wanted, found in ((1, True), (1, 1.001), ('1', 1), ([1], [1, 1]), ({1}, [1]), ({}, []), (None, 0), (b'a', 'a')):
        assert not both(wanted, found) and not both(found, wanted)
    assert not both(10**300, 10**300 + 1) and not both(10**400, 1.5)
    assert not both([1], (1,)) and both([1], (1,), lenient=True) and both([(1, [2])], ([1, (2,)],), lenient=True)


def test_what_is_no_plain_data_does_not_leave():
    class Text(str):
        pass

    class Number(int):
        pass

    loop: list = []
    loop.append(loop)
    for value in (Text('a'), Number(1), object(), loop, 1 << 5_000, list(range(6_000)), 'x' * 30_000, len, int):
        with pytest.raises(tagged.CannotLeave):
            tagged.encode(value)


def test_rows_that_are_no_rows_are_passed_over():
    job = Job(('',), ('f(1)', 'f(2)'))
    good = '[0, 0, ["i", "1"], null]'
    forged = (
        '{',
        '[]',
        '[0, 9, ["n"], null]',
        '[0, 1, ["i", "x"], null]',
        '[[[[',
        '[0, 0, ["i", "2"], null]',
        '[true, 0, 1, 2]',
    )
    outcome = read_outcome(job, {'rows': '\n'.join((good, *forged, '[' * 100_000)), 'end': 'ended'})
    assert outcome.values[0] == [['i', '1'], None] and outcome.errors[0][1] == 'no value'
    for value in (['i', '1' * 5_000], ['f', 'one'], ['l', [1]], ['d', [[['n']]]], ['z', 1], [], 'i', ['b', True]):
        assert not well_formed(value)
    deep = ['n']
    for _ in range(500):
        deep = ['l', [deep]]
    assert not well_formed(deep)


def test_code_is_taken_out_of_its_fence():
    assert program_of('a\n```python\nx = 1\n```\nb') == 'x = 1' == program_of('```\nx = 1\n```') == program_of('x = 1')


def test_references_run_once_and_are_kept(pool, tmp_path):
    task, file = task_of(AREA, CALLS), tmp_path / 'references.json'
    with Grader(pool=pool, cache=file) as grader:
        assert grader.grade(task, AREA).success
    kept = json.loads(file.read_text())
    assert len(kept) == 1
    (key,) = kept
    file.write_text(json.dumps({key: [['i', '0']] * 10}))
    with Grader(pool=pool, cache=file) as grader:
        assert grader.grade(task, 'def area(r):\n    return 0').success  # the kept values count
    file.write_text('{"a": [["q"]]}')
    with pytest.raises(UserError, match='damaged'):
        Grader(pool=pool, cache=file)


def test_an_unknown_mode_has_a_nearest_one():
    with pytest.raises(UserError, match="did you mean 'strict'"):
        Grader('strickt')


def test_a_broken_jail_is_replaced(pool):
    job = Job(('def f():\n    return 1',), ('f()',))
    pool._jails[0].process.kill()
    pool._jails[0].process.wait()
    assert pool.run(job, 0).end == 'the jail broke'
    assert pool.run(job, 0).values == [[['i', '1']]]


@pytest.mark.slow
def test_a_hundred_gradings_a_second(pool):
    """CPU-seconds, which a busy machine does not change much: two cores give a hundred from 0.02 of them."""
    grader, task = Grader(pool=pool, limits=Limits()), task_of(AREA, CALLS)

    def spent():
        stats = [pathlib.Path(f'/proc/{jail.process.pid}/stat').read_text() for jail in pool._jails]
        fields = [text.rsplit(') ', 1)[1].split()[11:15] for text in stats]
        return time.process_time() + sum(int(field) for row in fields for field in row) / 100

    before = spent()
    assert all(grade.success for grade in grader.grade_many([(task, AREA)] * 200))
    assert (spent() - before) / 200 < 0.02
