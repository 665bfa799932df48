"""SWEET-RL and what it is compared with, on tasks that must be talked about: python -m colbench_jax.sweet_rl

    tasks        what is talked about, training and test, each task proven
    sft          a small model fine-tuned on dialogues of careless scripted agents
    collect      the model's own dialogues, graded
    critic       credit for turns, by one that knows what the person wants
    candidates   turns drawn for many states
    rank         advantages of those turns, by the critic of an arm
    policy       an arm: zero_shot, rft, mt_dpo, sweet, no_info, sum, value_head
    evaluate     all arms, the scripted anchors and best-of-N with the critic on the test tasks: a table

Each makes what it needs and is missing; started again it takes what is finished from the directory and goes on behind
it. Without a stage: evaluate. Every stage has --help. docs/sweet_rl.md shows what flows where.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from core_jax.cli import Parser, apply, command_of, keep_compiled, keep_memory, load_preset, quoted
from core_jax.errors import UserError, exit_on_user_error

STAGES = {
    'tasks': 'Makes the tasks.',
    'sft': 'Fine-tunes the model that all arms begin with.',
    'collect': "Collects and grades the model's own dialogues.",
    'critic': 'Trains the critic of --arm.',
    'candidates': 'Draws turns for states out of the dialogues.',
    'rank': 'Ranks the turns by the critic of --arm.',
    'policy': 'Trains the policy of --arm.',
    'evaluate': 'Evaluates all arms, or those of --arms, on the test tasks.',
}
WITH_ARM = ('critic', 'rank', 'policy')
DEBUG = {
    **{'train_tasks': 48, 'test_tasks': 20, 'demonstrations': 2, 'documents': 24, 'rollouts': 2, 'states': 24},
    **{'layers': 1, 'width': 32, 'heads': 2, 'candidates': 4, 'batch': 16, 'rft_updates': 20},
    **{'sft.updates': 60, 'critic.updates': 20, 'value.updates': 20, 'policy.updates': 20, 'mt_dpo.updates': 20},
}


def main(arguments: Sequence[str] | None = None) -> int:
    stage, words = command_of('python -m colbench_jax.sweet_rl', __doc__, STAGES, 'evaluate', arguments)
    parser = Parser(prog=f'python -m colbench_jax.sweet_rl {stage}', description=STAGES[stage])
    parser.add_argument('--config', metavar='FILE', help='a preset, such as configs/sweet_rl/released.py')
    parser.add_argument('--config.FIELD=VALUE', dest='_', action='store_const', const=None, help='set one field')
    parser.add_argument('--workdir', default='runs/sweet_rl', help='where everything is kept (default runs/sweet_rl)')
    parser.add_argument('--seed', type=int, default=0, help='of everything random (default 0)')
    parser.add_argument('--debug', action='store_true', help='the smallest model and data: minutes')
    if stage in WITH_ARM:
        which = 'zero_shot, rft, mt_dpo, sweet (default), ' if stage == 'policy' else 'sweet (default), '
        parser.add_argument('--arm', default='sweet', help=f'{which}no_info, sum, value_head')
    if stage == 'evaluate':
        parser.add_argument('--arms', help='with commas (default: all)')
        parser.add_argument('--seeds', type=int, default=1, help='how many, from --seed on (default 1)')
        parser.add_argument(
            '--best-of', type=int, default=4, help="candidates a turn for critics' choice (default 4; 1: without)"
        )
    flags, fields = parser.parse(words)
    keep_compiled()
    keep_memory()
    from core_jax import session

    def run() -> None:
        try:
            _run(stage, flags, fields, words)
        except KeyboardInterrupt:
            print(f'stopped; go on with: {_command(stage, words)}', file=sys.stderr)
            raise SystemExit(130) from None

    return session.as_program(run)


def _command(stage: str, words: Sequence[str]) -> str:
    return shlex.join(['python', '-m', 'colbench_jax.sweet_rl', stage, *words])


def _following(stage: str, words: Sequence[str]) -> str:
    """The command of the next stage, with the same flags."""
    names = list(STAGES)
    name, kept = names[names.index(stage) + 1], list(words)
    if name not in WITH_ARM:
        if '--arm' in kept:
            del kept[kept.index('--arm') : kept.index('--arm') + 2]
        kept = [word for word in kept if not word.startswith('--arm=')]
    return _command(name, kept)


def _run(stage: str, flags: Any, fields: dict[str, str], words: Sequence[str]) -> None:
    from colbench_jax.sweet_rl import experiment, settings

    config = settings.get_config()
    if flags.config:
        apply(config, load_preset(flags.config))
    apply(config, (DEBUG if flags.debug else {}) | fields)
    settings.check(config)
    if flags.seed < 0:
        raise UserError(f'--seed must not be negative, got {flags.seed}')
    if stage in WITH_ARM:
        (experiment.arm_named if stage == 'policy' else experiment.turns_arm)(flags.arm)
    if stage == 'evaluate':
        _evaluate(flags, config, quoted(['python', '-m', 'colbench_jax.sweet_rl', stage, *words]))
        return
    run = opened(flags.workdir, config, flags.seed)
    if stage == 'tasks':
        print(f'{len(run.tasks("train"))} training and {len(run.tasks("test"))} test tasks in {run.directory}')
    elif stage == 'sft':
        run.sft()
    elif stage == 'collect':
        rows = run.trajectories()
        solved = sum(row['reward'] == 1.0 for row in rows)
        print(f'{solved} of {len(rows)} dialogues end in a solved task ({run.directory}/trajectories.jsonl)')
    elif stage == 'critic':
        run.critic(experiment.turns_arm(flags.arm))
    elif stage == 'candidates':
        states, drawn = run.candidates()
        print(f'{len(drawn[0])} turns for each of {len(states)} states in {run.directory}/candidates.json')
    elif stage == 'rank':
        found = run.advantages(flags.arm)
        spread = (found.max(1) - found.min(1)).mean()
        print(
            f'{found.size} turns ranked in {run.directory}/advantages-{flags.arm}.json; '
            f'best and worst of a state are {spread:.3g} apart'
        )
    else:
        run.policy(flags.arm)
    print(f'next: {_following(stage, words)}')


def opened(workdir: str, config: Any, seed: int) -> Any:
    """The experiment of a seed below `workdir`. Raises UserError where another config was begun there."""
    import json

    from colbench_jax.sweet_rl import experiment
    from core_jax.files import differences, make_directory, plain, write_json_atomic

    directory = pathlib.Path(workdir) / f'seed-{seed}'
    given = {name: pathlib.Path(config[name]) for name in ('offline', 'model') if config[name]}
    read = {name: _fingerprint(path) for name, path in given.items() if path.exists()}
    path, wanted = directory / 'config.json', plain(config.to_dict()) | {'read': read}
    if path.exists():
        try:
            saved = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f'{path} is damaged: {error}') from None
        if changed := differences(saved, wanted):
            name, before, now = changed[0]
            raise UserError(f'{directory} was begun with {name} {before}, not {now}; take another --workdir')
    else:
        make_directory(directory)
        write_json_atomic(path, wanted)
    return experiment.Experiment(directory, config, seed)


def _fingerprint(path: pathlib.Path) -> str:
    """SHA-256 of a file, or of all files of a directory."""
    from core_jax.files import sha256

    if path.is_file():
        return sha256(path)
    return hashlib.sha256(
        ''.join(sha256(part) for part in sorted(path.iterdir()) if part.is_file()).encode()
    ).hexdigest()


def _evaluate(flags: Any, config: Any, command: str) -> None:
    from colbench_jax.sweet_rl import experiment, report

    arms = flags.arms.split(',') if flags.arms else list(experiment.ARMS)
    for name in arms:
        experiment.arm_named(name)
    if flags.seeds < 1 or flags.best_of < 1:
        raise UserError('--seeds and --best-of must be at least 1')
    started, seeds, found, left_out, seconds = time.monotonic(), range(flags.seed, flags.seed + flags.seeds), {}, {}, {}
    for seed in seeds:
        run = opened(flags.workdir, config, seed)
        made = {name: functools.partial(run.evaluated, name) for name in [*arms, *experiment.SCRIPTED]}
        for name in experiment.TURNS if flags.best_of > 1 else ():
            if name in arms:
                label = report.best_of(name, flags.best_of, experiment.ARMS[name].informed)
                made[label] = functools.partial(run.best_of, name, flags.best_of)
        for name, evaluated in made.items():
            try:
                rows = evaluated()
            except experiment.NothingToLearn as error:
                print(f'{name}, seed {seed}: left out; {error}', flush=True)
                left_out.setdefault(name, []).append(f'seed {seed}: {error}')
                continue
            found.setdefault(name, {})[seed] = rows
            print(report.line(name, seed, rows), flush=True)
        seconds[seed] = run.seconds()
    document = report.document(found, left_out, command, config, seeds, seconds, time.monotonic() - started)
    for path in report.write(document, pathlib.Path(flags.workdir), whole=not flags.arms):
        print(path)


if __name__ == '__main__':
    exit_on_user_error(main)
