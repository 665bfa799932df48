"""Right answers score 1 in whatever shape they come; the released grader's scores are had in `compat`."""

import decimal
import json
import math
import pathlib
import select
import shutil
import time

import pytest

from colbench_jax.grader import Grader, compare
from colbench_jax.grader import pool as jails
from colbench_jax.grader.inside import tagged
from colbench_jax.grader.pool import Job, Limits, Pool, program_of, read_outcome, well_formed
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


@pytest.mark.parametrize('mode', ('strict', 'compat'))
def test_calls_that_hang_cost_no_more_than_themselves(pool, mode):
    """Four of ten, with the limits in total as they come; six of ten where the first are right."""
    grader = Grader(mode, pool=pool, limits=Limits(call_seconds=0.1))
    task = task_of('def f(x):\n    return x', [f'f({k})' for k in range(10)])
    assert grader.grade(task, 'def f(x):\n    while x < 4:\n        pass\n    return x').reward == 0.6
    assert grader.grade(task, 'def f(x):\n    while x > 3:\n        pass\n    return x').reward == 0.4
    assert Limits().of(10) == Limits(cpu_seconds=12, deadline=30.0)


def test_verdicts_before_the_end_count_in_compat(graders):
    """The jail is killed on the third call."""
    task = task_of('def f(x):\n    return x', [f'f({k})' for k in range(4)])
    answer = 'def f(x):\n    while x == 2:\n        try:\n            while True:\n                pass\n'
    answer += '        except BaseException:\n            pass\n    return x'
    assert graders['compat'].grade(task, answer).reward == 0.5


def test_no_call_sees_what_another_left(graders):
    task = task_of('def f(x, seen=[]):\n    seen.append(x)\n    return sum(seen)', ['f(1)', 'f(2)'])
    for mode in ('strict', 'compat'):
        assert graders[mode].grade(task, 'def f(x):\n    return x').success


def test_the_order_of_a_set_is_the_same_for_all(pool):
    source = 'def f(s):\n    return list(set(s.split()))'
    task = task_of(source, [f'f("a{k} bb{k} ccc dddd e ff")' for k in range(10)])
    assert all(Grader(pool=pool).grade_many([(task, source)] * 6)[k].success for k in range(6))


MODULES = 'hashlib base64 textwrap uuid csv secrets zoneinfo urllib.parse pprint difflib logging array numpy'.split()


def test_references_import_more_than_answers_may(graders):
    sources = [f'def f(x):\n    import {name}\n    return x' for name in MODULES]
    pairs = [(task_of(source, ['f(1)']), source) for source in sources]
    assert all(grade.success for grade in graders['compat'].grade_many(pairs))
    answer = 'def f(x):\n    return x'
    assert all(grade.success for grade in graders['strict'].grade_many([(task, answer) for task, _ in pairs[:-1]]))


def test_references_that_raise_are_counted_in_compat_too(graders):
    source = 'def f(x):\n    return 1 / x'
    grade = graders['compat'].grade(task_of(source, ['f(0)', 'f(1)']), source)
    assert grade.reward == 0.5 and grade.unusable == 1


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


def test_numbers_of_all_kinds_are_compared_as_python_does():
    from decimal import Decimal
    from fractions import Fraction

    many = Decimal('0.' + '3' * 230 + '1')
    big = math.factorial(600)
    for mine, its in (
        (Decimal('3.00'), Decimal('3.0')),
        (Decimal(3), 3),
        (Fraction(1, 2), 0.5),
        (Decimal('0.5'), Fraction(1, 2)),
        (complex(1, 0), 1),
        (complex(0.1 + 0.2, 1), complex(0.3, 1)),
        (Decimal('NaN'), math.nan),
        (many, many),
        (big, big),
        (-big, -big),
        ({Decimal('3.0'): 1}, {3: 1}),
        ({Fraction(1, 2), 7}, {0.5, 7.0}),
        (Decimal('1E+999999'), Decimal('1E+999999')),
    ):
        assert both(mine, its) and both(its, mine)
    for mine, its in (
        (many, many + Decimal('1E-231')),
        (Decimal('0.1'), Fraction(1, 3)),
        (Fraction(10**250 + 1, 7), Fraction(10**250 + 8, 7)),
        (big, big + 1),
        (big, float('inf')),
        ({0: 1}, {2**61 - 1: 1}),
        ({0}, {2**61 - 1}),
        (complex(1, 1), 1),
        (Decimal('1E+999999'), 1.0),
    ):
        with decimal.localcontext(prec=400):
            assert not both(mine, its) and not both(its, mine)
    for value in (['D', 'sNaN'], ['D', 'x'], ['F', [['i', '1'], ['i', '0']]], ['c', [['i', '1']]], ['i', '0x1']):
        assert not well_formed(value)


def test_plain_data_under_other_names():
    import collections

    point = collections.namedtuple('P', 'a b')(1, [2])
    assert both(point, (1, [2])) and both(range(0, 5, 2), range(0, 6, 2)) and both(range(0), range(3, 1))
    assert both({1: 2}.keys(), {1}) and both({1: 2}.items(), {(1, 2)}) and both(range(4, 5), range(4, 6, 9))
    assert not both(range(3), [0, 1, 2]) and not both(range(3), range(4)) and not both(point, [1, [2]])


def test_calls_may_each_give_a_long_value(graders):
    task = task_of('def f(x):\n    return list(range(x))', [f'f({4_900 + k})' for k in range(10)])
    assert graders['strict'].grade(task, 'def f(x):\n    return list(range(x))').success


def test_what_is_no_plain_data_does_not_leave():
    class Text(str):
        pass

    class Number(int):
        pass

    loop: list = []
    loop.append(loop)
    for value in (Text('a'), Number(1), object(), loop, 1 << 100_000, list(range(6_000)), 'x' * 30_000, len, int):
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
    outcome = read_outcome(job, '\n'.join((good, *forged, '[' * 100_000)).encode(), 'ended')
    assert outcome.values[0] == [['i', '1'], None] and outcome.errors[0][1] == 'no value'
    for value in (['i', '1' * 5_000], ['f', 'one'], ['l', [1]], ['d', [[['n']]]], ['z', 1], [], 'i', ['b', True]):
        assert not well_formed(value)
    deep = ['n']
    for _ in range(500):
        deep = ['l', [deep]]
    assert not well_formed(deep)


def test_code_is_taken_out_of_its_fence():
    assert program_of('a\n```python\nx = 1\n```\nb') == 'x = 1' == program_of('```\nx = 1\n```') == program_of('x = 1')
    for fence in ('```py', '```Python', '``` python', '```python3 ', '```PY\r'):
        assert program_of(f'Here:\n{fence}\nx = 1\n```') == 'x = 1'
    assert program_of('Do\n```\npip install x\n```\nthen\n```python\nx = 1\n```') == 'x = 1'
    assert program_of('```\npython = 3\n```') == 'python = 3' and program_of('```python x = 1```').strip() == 'x = 1'


def test_calls_may_contain_what_answers_may_not(graders):
    task = task_of('def f(x):\n    return x', ['f((lambda x: x).__name__)', 'f([].__class__.__name__)'])
    assert graders['strict'].grade(task, task['ground_truth']).passed == (True, True)


def test_references_have_what_they_import(graders):
    for line, call, jail in (
        ('import math', 'math.floor(x)', 'grades'),
        ('from collections import Counter as C  # import', 'C([x])[x]', 'grades'),
        ('import uuid', 'uuid.UUID(int=x).int', 'references'),
        ('import math, uuid', 'uuid.UUID(int=x).int', 'references'),
        ('x = 1; import uuid', 'uuid.UUID(int=x).int', 'references'),
        ("uuid = __import__('uuid')", 'uuid.UUID(int=x).int', 'references'),
    ):
        reference = f'{line}\ndef f(x):\n    return {call}'
        assert jails.jail_of(reference) == jail, line
        assert graders['strict'].expected([task_of(reference, ['f(1)'])]) == [[['i', '1']]], line


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
    pool.jails[0].process.kill()
    pool.jails[0].process.wait()
    assert pool.run(job).end == 'the jail broke'
    assert pool.run(job).values == [[['i', '1']]]


def test_what_is_said_has_an_end(pool, monkeypatch):
    monkeypatch.setattr(jails, 'MOST_BYTES', 10_000)
    job = Job(('def f(x):\n    return list(range(x))',), ('f(3)', 'f(4000)', 'f(5)'))
    outcome = pool.run(job)
    assert outcome.end == 'said too much' and outcome.values[0][0] and outcome.errors[0][2] == 'said too much'
    assert pool.run(job._replace(calls=('f(2)',))).values == [[['l', [['i', '0'], ['i', '1']]]]]


def test_who_floods_is_stopped(pool):
    source = 'import os\ndef f():\n    while True:\n        os.write(0, b"x" * 60_000)'
    began = time.monotonic()
    outcome = pool.run(Job((source,), ('f()',), screen=False, limits=Limits(30.0, 40, deadline=60.0)))
    assert outcome.end == outcome.errors[0][0] == 'said too much' and time.monotonic() - began < 15
    assert pool.run(Job(('x = 1',), ('x',))).values == [[['i', '1']]]


def test_a_child_need_not_wait_for_the_parent(pool):
    long = Job(('def f(n):\n    return list(range(n))',), tuple(f'f({4_900 + k})' for k in range(8)))
    pauses = [0, 2]
    jobs = [Job(('x = 1',), ('x',)), long._replace(limits=Limits(deadline=1.5))]
    outcomes = pool.map(jobs, lambda: time.sleep(pauses.pop()))
    assert [outcome.end for outcome in outcomes] == ['ended'] * 2 and None not in outcomes[1].values[0]


def test_what_a_map_left_behind_counts_for_no_later_job(pool):
    jobs = [Job((f'x = {k}',), ('x',)) for k in range(8)]
    with pytest.raises(ZeroDivisionError):
        pool.map(jobs, lambda: 1 / 0)
    assert [outcome.values for outcome in pool.map(jobs)] == [[[['i', f'{k}']]] for k in range(8)]


def test_a_job_that_is_not_read_in_time_costs_no_later_one(monkeypatch, tmp_path):
    """The parent may be stopped while it writes; what it writes then is no beginning of a job."""
    inside = shutil.copytree(jails.ZYGOTE.parent, tmp_path / 'inside')
    text = (inside / 'zygote.py').read_text()
    (inside / 'zygote.py').write_text(text.replace('os.setsid()', '_read(requests, 10); time.sleep(60)'))
    monkeypatch.setattr(jails, 'ZYGOTE', inside / 'zygote.py')
    with Pool(1) as slow:
        jail = slow.jails[0]
        text = b'{"programs": []}'
        head = bytes(1) + len(text).to_bytes(4, 'big') + (200).to_bytes(4, 'big')
        jail.process.stdin.write(head + text[:10])
        assert select.select([jail.process.stdout], [], [], 20)[0] and jail.process.stdout.read(64) == b'out of time\n'
        jail.process.stdin.write(text[10:] + b'"x": 1}')
        assert jail.process.wait(20) == 0


@pytest.mark.parametrize('calls', [1, 20_000])  # within what a pipe holds, and beyond
def test_a_child_that_never_reads_its_job_breaks_the_jail(monkeypatch, tmp_path, calls):
    inside = shutil.copytree(jails.ZYGOTE.parent, tmp_path / 'inside')
    text = (inside / 'zygote.py').read_text()
    assert 'os.setsid()' in text
    (inside / 'zygote.py').write_text(text.replace('os.setsid()', 'os._exit(0)'))
    monkeypatch.setattr(jails, 'ZYGOTE', inside / 'zygote.py')
    with Pool(1) as broken:
        outcomes = broken.map([Job(('x = 1',), ('f(1)',) * calls)] * 2)
    assert [outcome.end for outcome in outcomes] == ['the jail broke'] * 2


@pytest.mark.slow
def test_a_hundred_gradings_a_second(pool):
    """CPU-seconds, which a busy machine does not change much: two cores give a hundred from 0.02 of them."""
    grader, task = Grader(pool=pool, limits=Limits()), task_of(AREA, CALLS)

    def spent():
        stats = [pathlib.Path(f'/proc/{jail.process.pid}/stat').read_text() for jail in pool.jails]
        fields = [text.rsplit(') ', 1)[1].split()[11:15] for text in stats]
        return time.process_time() + sum(int(field) for row in fields for field in row) / 100

    before = spent()
    assert all(grade.success for grade in grader.grade_many([(task, AREA)] * 200))
    assert (spent() - before) / 200 < 0.02
