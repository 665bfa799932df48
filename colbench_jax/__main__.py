"""ColBench: tasks that must be talked about before they can be solved, who talks about them, and the grades.

    python -m colbench_jax generate    tasks with hidden requirements, each proven before it is written
    python -m colbench_jax play        you are the agent, or the person who knows what is wanted
    python -m colbench_jax rollout     a scripted agent talks with a scripted person or a model behind an endpoint
    python -m colbench_jax grade       rewards of trajectories, by the strict grader or as released (--mode=compat)
    python -m colbench_jax report      success and tests passed, with intervals; without a file, of scripted agents

Each has --help and works without flags. Files are JSON lines in the schema of the original ones, which load unchanged.
With --domain=frontend the tasks are pages, compared by --similarity; a file says itself what it holds.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from core_jax.cli import Parser, command_of, quoted
from core_jax.errors import UserError, exit_on_user_error, unknown
from core_jax.files import make_directory, write_atomic, write_json_atomic

FOLDER = 'runs/colbench'
PLAYED = f'{FOLDER}/played.jsonl'
SIMILARITIES = ('auto', 'imgsim', 'fallback')  # and clip:DIRECTORY


def main(arguments: Sequence[str] | None = None) -> int:
    name, words = command_of('python -m colbench_jax', __doc__, COMMANDS, 'report', arguments)
    parser = Parser(prog=f'python -m colbench_jax {name}', description=COMMANDS[name].__doc__)
    try:
        return COMMANDS[name](parser, words)
    except KeyboardInterrupt:
        raise UserError('interrupted; files are written at the end, so none was') from None


# Commands


def generate_command(parser: Parser, words: list[str]) -> int:
    """Makes tasks and proves each: its calls tell every hidden value, and a guess passes at most three of ten.

    Of pages: everything hidden can be seen, and a guess differs in three things at least.
    """
    _add_task_flags(parser, 100)
    parser.add_argument('--out', help=f'the file (default: {FOLDER}/GRAMMAR-SPLIT.jsonl, {FOLDER}/pages-SPLIT.jsonl)')
    parser.add_argument('--overwrite', action='store_true', help='replace it')
    flags = _parse(parser, words)
    kind = 'pages' if flags.domain == 'frontend' else flags.grammar
    out = _free(flags.out or f'{FOLDER}/{kind}-{flags.split}.jsonl', flags.overwrite)
    from colbench_jax.tasks.files import write_lines

    rejected: Counter[str] = Counter()
    with _stage(flags, None) as stage:
        tasks = _made(stage, flags, rejected)
    write_lines(out, tasks)
    drafts = sum(rejected.values())
    print(f'{len(tasks)} tasks of {len({task["spec"]["structure"] for task in tasks})} structures in {out}')
    print(f'{rejected.pop("accepted")} of {drafts} drafts passed the proofs; ' + _listed(rejected))
    print(f'next: python -m colbench_jax rollout --tasks={out}')
    return 0


def play_command(parser: Parser, words: list[str]) -> int:
    """You talk in the terminal. An answer begins with I WANT TO ANSWER: and ends with a line that holds a dot alone.

    A page that you show begins with <html> and ends with </html>.
    """
    _add_task_flags(parser, 10)
    parser.add_argument('--tasks', help='a file of tasks (default: makes --count of them)')
    parser.add_argument('--number', type=int, default=0, help='which task, from 0')
    parser.add_argument('--as', dest='role', default='agent', help='who you are: agent (default) or human')
    _add_play_flags(parser)
    flags = _parse(parser, words)
    if flags.role not in ('agent', 'human'):
        raise unknown('role', flags.role, ('agent', 'human'))
    with _stage(flags, given := _given(flags)) as stage:
        tasks = given or _made(stage, flags)
        if not 0 <= flags.number < len(tasks):
            raise UserError(f'--number must be between 0 and {len(tasks) - 1}, got {flags.number}')
        task = tasks[flags.number]
        if flags.role == 'agent':
            agent, human = Terminal(), _human(flags, stage.domain)
        else:
            agent, human = stage.agent(flags.agent, flags.seed, flags.turns), Terminal()
            print(f'You want this, and the agent must not see it:\n\n{task["ground_truth"]}\n')
            print(f'The agent was told: {task["problem_description"]}')
        played = stage.play(task, agent, human, flags.turns)
        stage.grade([played], lambda: None)
        print(f'\nthe answer:\n{played["answer"]}\n')
        print(stage.verdict(played))
    print(f'next: python -m colbench_jax play --as={"human" if flags.role == "agent" else "agent"}')
    return 0


def rollout_command(parser: Parser, words: list[str]) -> int:
    """Plays tasks and grades the answers; a file of trajectories comes out."""
    _add_task_flags(parser, 20)
    parser.add_argument('--tasks', help='a file of tasks (default: makes --count of them)')
    parser.add_argument('--repeat', type=int, default=1, help='episodes of each task; they follow each other in blocks')
    parser.add_argument('--out', default=PLAYED, help=f'the file (default: {PLAYED})')
    parser.add_argument('--overwrite', action='store_true', help='replace it')
    _add_play_flags(parser)
    flags = _parse(parser, words)
    if flags.repeat < 1:
        raise UserError(f'--repeat must be at least 1, got {flags.repeat}')
    out = _free(flags.out, flags.overwrite)
    from colbench_jax.tasks.files import write_lines

    with _stage(flags, given := _given(flags)) as stage:
        human = _human(flags, stage.domain)
        tasks = given or _made(stage, flags)
        stage.check(tasks)
        played = _played(stage, tasks, flags, human)
        counts = getattr(human, 'counts', Counter())
        if counts['replies'] and counts['errors'] == counts['replies']:
            raise UserError(f'{flags.human} gave no reply that can be used: {human.why}')
        _grade(stage, played)
        told = stage.told(played)
    write_lines(out, played)
    print(f'{flags.agent}: {told}')
    _print_refusals(played)
    if hasattr(human, 'report'):
        counts = human.report()
        print(f'the model: {counts["replies"]} replies, {counts["errors"]} failed, {counts["leaks"]} leaks held back')
    print(f'{len(played)} trajectories in {out}')
    print(f'next: python -m colbench_jax report --trajectories={out}')
    return 0


def grade_command(parser: Parser, words: list[str]) -> int:
    """Grades the answers of trajectories anew; without a file, those of a careless agent, made now."""
    parser.add_argument('--trajectories', metavar='FILE', help=f'default: {PLAYED} if it is there')
    parser.add_argument('--mode', default='strict', help='strict (default), lenient (a list for a tuple) or compat')
    parser.add_argument('--out', help='the file with rewards (default: write nothing)')
    _add_domain_flags(parser)
    parser.add_argument('--overwrite', action='store_true', help='replace it')
    flags = _parse(parser, words)
    from colbench_jax.grader import MODES

    if flags.mode not in MODES:
        raise unknown('grader mode', flags.mode, MODES)
    out = _free(flags.out, flags.overwrite) if flags.out else None
    from colbench_jax.tasks.files import write_lines

    with _stage(flags, given := _recorded(flags)) as stage:
        rows = given or _shown(stage, ('careless',))
        began = time.monotonic()
        _grade(stage, rows)
        seconds = time.monotonic() - began
        told = stage.told(rows)
    by = flags.mode if stage.domain == 'backend' else 'pages'
    print(f'{by}: {told}; {len(rows) / seconds:.0f} gradings a second')
    _print_refusals(rows)
    if out:
        write_lines(out, rows)
        print(f'rewards in {out}')
    print('next: python -m colbench_jax report' + (f' --trajectories={out}' if out else ''))
    return 0


def report_command(parser: Parser, words: list[str]) -> int:
    """What trajectories came to, with 95 % intervals; without a file, those of the scripted agents."""
    parser.add_argument('--trajectories', metavar='FILE', help=f'default: {PLAYED} if it is there')
    parser.add_argument('--out', metavar='DIR', help='the directory of summary.json and report.md (default: none)')
    parser.add_argument('--overwrite', action='store_true', help='replace them')
    _add_domain_flags(parser)
    flags = _parse(parser, words)
    if flags.out:
        _free(f'{flags.out}/summary.json', flags.overwrite)
    from colbench_jax import report
    from colbench_jax.agents import AGENTS

    began = time.monotonic()
    rows = _recorded(flags)
    bare = [row for row in rows or () if 'reward' not in row]
    if rows is None or bare:
        if bare:
            print(f'{len(bare)} of {len(rows)} trajectories have no reward; they are graded now')
        with _stage(flags, rows) as stage:
            rows = rows or _shown(stage, AGENTS)
            _grade(stage, bare or rows)
    metrics, label = report.metrics_of(rows), report.label_of(rows)
    text = report.table(metrics, label)
    print(text)
    _print_refusals(rows)
    if flags.out:
        folder = make_directory(flags.out)
        write_atomic(folder / 'report.md', (text + '\n').encode())
        summary = {
            'paper': 'sweet_rl',
            'command': quoted([*parser.prog.split(), *words]),
            'device': 'cpu',
            'seed': rows[0].get('seed', 0),
            'steps': len(rows),
            'wall_seconds': time.monotonic() - began,
            'metrics': metrics,
            'similarity' if 'similarity' in rows[0] else 'grader': label,
        }
        write_json_atomic(folder / 'summary.json', summary)
        print(f'\nsummary.json and report.md in {folder}')
    print('\nnext: python -m colbench_jax play')
    return 0


COMMANDS: dict[str, Callable[[Parser, list[str]], int]] = {
    'generate': generate_command,
    'play': play_command,
    'rollout': rollout_command,
    'grade': grade_command,
    'report': report_command,
}


class Terminal:
    """A person at the terminal, as agent or as the one who knows."""

    looks = True  # pictures are left in FOLDER

    def act(self, dialogue):
        from colbench_jax.episode import MARK, Utterance

        print(f'\nperson: {dialogue[-1]["content"]}')
        text = self._line()
        if MARK in text:
            text = self._until(text, lambda line: line == '.', keep=False)
        elif '<html' in text:
            text = self._until(text, lambda line: '</html>' in line, keep=True)
        return Utterance(text)

    def reply(self, task, dialogue, artefact=()):
        print(f'\nagent: {dialogue[-1]["content"]}')
        for name, image in zip(('made', 'wanted'), artefact):  # noqa: B905, without a browser there are none
            path = make_directory(FOLDER) / f'{name}.png'
            write_atomic(path, image)
            print(f'{name}: {path}')
        return self._line()

    def _until(self, text: str, ends: Callable[[str], bool], keep: bool) -> str:
        """`text` and the lines after it up to the one that ends it."""
        lines = [text]
        while not ends(lines[-1]):
            lines.append(self._line(''))
        return '\n'.join(lines if keep else lines[:-1])

    @staticmethod
    def _line(prompt: str = 'you: ') -> str:
        try:
            return input(prompt)
        except (EOFError, KeyboardInterrupt):
            raise UserError('the talk ended before the answer') from None


# What the commands share


def _add_domain_flags(parser: Parser) -> None:
    parser.add_argument('--domain', default='backend', help='backend (default): programs; frontend: pages')
    parser.add_argument(
        '--similarity',
        default='auto',
        help='of pages: imgsim, clip:DIRECTORY, fallback (no pictures), or auto (default): imgsim where it can be had',
    )
    parser.add_argument('--workers', type=int, help='jails side by side (default: the CPUs)')


def _add_task_flags(parser: Parser, count: int) -> None:
    parser.add_argument('--grammar', help='full (default) or restricted: short, for small models')
    parser.add_argument('--split', help='train (default), test (other structures) or unseen (families or topics)')
    parser.set_defaults(usual_count=count)
    parser.add_argument('--count', type=int, help=f'tasks (default {count}; of a file: all)')
    parser.add_argument('--hidden', metavar='LEAST:MOST', help='hidden slots of a task (default: of the grammar)')
    parser.add_argument('--leak', type=float, metavar='P', help='chance that one is told (default: of the grammar)')
    parser.add_argument('--seed', type=int, default=0, help='of everything random (default 0)')
    _add_domain_flags(parser)


def _add_play_flags(parser: Parser) -> None:
    parser.add_argument('--agent', default='oracle', help='oracle (default), greedy or careless')
    parser.add_argument(
        '--human', default='scripted', help='scripted (default), terse, forgetful, local, or http://HOST/v1'
    )
    parser.add_argument('--model', help='of the endpoint; of local: a directory, or smollm2-135m (default)')
    parser.add_argument('--timeout', type=float, default=60.0, help='seconds of one try of an endpoint (default 60)')
    parser.add_argument('--retries', type=int, default=3, help='further tries of an endpoint (default 3)')
    parser.add_argument('--turns', type=int, default=10, help='turns of the agent (default 10)')


def _parse(parser: Parser, words: list[str]) -> Any:
    flags, overrides = parser.parse(words)
    if overrides:
        raise unknown(
            'flag', f'--config.{next(iter(overrides))}', [o for a in parser._actions for o in a.option_strings]
        )
    for name in ('count', 'turns', 'workers'):
        value = getattr(flags, name, None)
        if value is not None and value < 1:
            raise UserError(f'--{name} must be at least 1, got {value}')
    if getattr(flags, 'timeout', 1) <= 0 or getattr(flags, 'retries', 0) < 0:
        raise UserError('--timeout must be above 0 and --retries at least 0')
    if getattr(flags, 'leak', None) is not None and not 0 <= flags.leak <= 1:
        raise UserError(f'--leak must be between 0 and 1, got {flags.leak}')
    from colbench_jax.tasks.files import DOMAINS

    if flags.domain not in DOMAINS:
        raise unknown('domain', flags.domain, DOMAINS)
    if flags.similarity not in SIMILARITIES and not flags.similarity.startswith('clip:'):
        raise unknown('similarity', flags.similarity, (*SIMILARITIES, 'clip:DIRECTORY'))
    if hasattr(flags, 'grammar'):
        _settle(flags)
    if hasattr(flags, 'agent'):
        from colbench_jax.agents import make

        make(flags.agent)
        if flags.human != 'local' or flags.domain == 'frontend':  # a local model is opened where it is needed
            _human(flags, flags.domain)
    return flags


def _settle(flags: Any) -> None:
    """Checks the flags of tasks, and fills in those that are not given. Raises UserError for one that does nothing."""
    from colbench_jax.tasks.backend.generate import SPLITS, grammar_named

    given = [name for name in ('grammar', 'split', 'hidden', 'leak') if getattr(flags, name) is not None]
    if getattr(flags, 'tasks', None) and given:
        raise UserError(
            f'--{given[0]} is for tasks that are made now; those of --tasks={flags.tasks} are what they are'
        )
    if flags.domain == 'frontend' and 'grammar' in given:
        raise UserError('--grammar is for programs; all pages have one')
    flags.grammar, flags.split = flags.grammar or 'full', flags.split or 'train'
    grammar_named(flags.grammar)
    if flags.split not in SPLITS:
        raise unknown('split', flags.split, SPLITS)
    if flags.count is None and not getattr(flags, 'tasks', None):
        flags.count = flags.usual_count


def _hidden(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    least, _, most = text.partition(':')
    try:
        found = int(least), int(most or least)
    except ValueError:
        raise UserError(f'cannot read --hidden={text}; write LEAST:MOST, such as 2:4') from None
    if not 1 <= found[0] <= found[1]:
        raise UserError(f'--hidden={text}: least must be at least 1 and not above most')
    return found


def _human(flags: Any, domain: str):
    from colbench_jax.stages import human_of

    return human_of(domain, flags.human, flags.model, flags.seed, flags.timeout, flags.retries)


def _pool(workers: int | None):
    from colbench_jax.grader.pool import Pool

    pool = Pool(workers)
    if pool.missing_walls:
        print(f'note: walls of the jail that cannot be had here: {", ".join(pool.missing_walls)}', file=sys.stderr)
    return pool


@contextlib.contextmanager
def _stage(flags: Any, rows: Sequence[dict[str, Any]] | None) -> Iterator[Any]:
    """The stage of the domain that tasks or trajectories belong to; without any, of --domain."""
    from colbench_jax.stages import Backend, Frontend
    from colbench_jax.tasks.files import domain_of

    if (domain_of(rows[0].get('task', rows[0])) if rows else flags.domain) == 'frontend':
        with contextlib.closing(Frontend(flags.similarity)) as stage:
            yield stage
    else:
        with _pool(flags.workers) as pool:
            yield Backend(pool, getattr(flags, 'mode', 'strict'))


def _given(flags: Any) -> list[dict[str, Any]] | None:
    """The tasks of --tasks, at most --count."""
    from colbench_jax.tasks.files import read_tasks

    return read_tasks(flags.tasks, flags.count) if flags.tasks else None


def _made(stage: Any, flags: Any, rejected: Counter[str] | None = None) -> list[dict[str, Any]]:
    """Tasks made now."""
    choices = {'split': flags.split, 'seed': flags.seed, 'leak': flags.leak, 'hidden': _hidden(flags.hidden)}
    if stage.domain == 'backend':
        choices['grammar'] = flags.grammar
    return list(_progress(stage.tasks(flags.count, rejected=rejected, **choices), flags.count, 'tasks'))


def _played(stage: Any, tasks: list[dict[str, Any]], flags: Any, human: Any) -> list[dict[str, Any]]:
    """Trajectories [repeat x tasks], episode i of task j at i * tasks + j."""
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> dict[str, Any]:
        agent = stage.agent(flags.agent, flags.seed + number // len(tasks), flags.turns)
        played = stage.play(tasks[number % len(tasks)], agent, human, flags.turns)
        return played | {'agent': flags.agent, 'seed': flags.seed}

    count = len(tasks) * flags.repeat
    threads = ThreadPoolExecutor(8 if '://' in flags.human else 1)  # an endpoint is waited for
    try:
        return list(_progress(threads.map(one, range(count)), count, 'episodes'))
    except BaseException:
        if hasattr(human, 'stop'):
            human.stop()
        raise
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _recorded(flags: Any) -> list[dict[str, Any]] | None:
    """The trajectories of a file; without one, None."""
    from colbench_jax.tasks.files import read_trajectories

    if flags.trajectories or pathlib.Path(PLAYED).exists():
        return read_trajectories(flags.trajectories or PLAYED)
    return None


def _shown(stage: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Trajectories of scripted agents on tasks made now."""
    from colbench_jax.stages import human_of

    print('no file: tasks and trajectories are made now')
    tasks, human = (
        list(_progress(stage.tasks(12, split='test'), 12, 'tasks')),
        human_of(stage.domain, 'scripted', '', 0),
    )
    return [stage.play(task, stage.agent(name, 0, 6), human, 6) | {'agent': name} for name in names for task in tasks]


def _grade(stage: Any, rows: list[dict[str, Any]]) -> None:
    """Sets the rewards."""
    from tqdm import tqdm

    with tqdm(total=len(rows), desc='grades', leave=False, disable=None) as bar:
        stage.grade(rows, bar.update)


def _print_refusals(rows: list[dict[str, Any]]) -> None:
    from colbench_jax.report import refusals

    if said := refusals(rows):
        print(said)


def _progress(items: Iterable, count: int, what: str) -> Iterable:
    from tqdm import tqdm

    return tqdm(items, total=count, desc=what, leave=False, disable=None)


def _listed(rejected: Counter[str]) -> str:
    return 'refused: ' + (', '.join(f'{count} since {why}' for why, count in rejected.most_common()) or 'none')


def _free(path: str, overwrite: bool) -> pathlib.Path:
    """The path of a file to write, in a folder that exists. Raises UserError where it would replace one."""
    out = pathlib.Path(path)
    if out.exists() and not overwrite:
        raise UserError(f'{out} is there already; give --overwrite or another --out')
    make_directory(out.parent)
    return out


if __name__ == '__main__':
    exit_on_user_error(main)
