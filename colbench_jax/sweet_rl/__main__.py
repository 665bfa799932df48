"""SWEET-RL and what it is compared with, on tasks that must be talked about: python -m colbench_jax.sweet_rl

    tasks        what is talked about, training and test, each task proven
    sft          a small model fine-tuned on dialogues of careless scripted agents
    collect      the model's own dialogues, graded
    critic       credit for turns, by one that knows what the person wants
    candidates   turns drawn for many states
    policy       an arm: zero_shot, rft, mt_dpo, sweet, no_info, sum, value_head
    evaluate     all arms, the scripted anchors and best-of-N with the critic on the test tasks: a table

Each makes what it needs and is missing, and goes on where it was stopped; without a stage: evaluate. Every stage has
--help. docs/sweet_rl.md shows what flows where.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from core_jax.cli import Parser, apply, command_of, keep_compiled, load_preset, quoted
from core_jax.errors import UserError, exit_on_user_error

STAGES = {
    'tasks': 'Makes the tasks.',
    'sft': 'Fine-tunes the model that all arms begin with.',
    'collect': "Collects and grades the model's own dialogues.",
    'critic': 'Trains the critic of --arm.',
    'candidates': 'Draws turns for states out of the dialogues.',
    'policy': 'Trains the policy of --arm.',
    'evaluate': 'Evaluates all arms, or those of --arms, on the test tasks.',
}
DEBUG = {
    **{'train_tasks': 48, 'test_tasks': 20, 'demonstrations': 2, 'documents': 24, 'rollouts': 2, 'states': 24},
    **{'layers': 1, 'width': 32, 'heads': 2, 'candidates': 4, 'batch': 16, 'rft_updates': 20, 'mt_dpo_updates': 20},
    **{'sft.updates': 60, 'critic.updates': 20, 'value.updates': 20, 'policy.updates': 20},
}


def main(arguments: Sequence[str] | None = None) -> int:
    stage, words = command_of('python -m colbench_jax.sweet_rl', __doc__, STAGES, 'evaluate', arguments)
    parser = Parser(prog=f'python -m colbench_jax.sweet_rl {stage}', description=STAGES[stage])
    parser.add_argument('--config', metavar='FILE', help='a preset, such as configs/sweet_rl/released.py')
    parser.add_argument('--config.FIELD=VALUE', dest='_', action='store_const', const=None, help='set one field')
    parser.add_argument('--workdir', default='runs/sweet_rl', help='where everything is kept (default runs/sweet_rl)')
    parser.add_argument('--seed', type=int, default=0, help='of everything random (default 0)')
    parser.add_argument('--debug', action='store_true', help='the smallest model and data: minutes')
    if stage in ('critic', 'policy'):
        parser.add_argument('--arm', default='sweet', help='zero_shot, rft, mt_dpo, sweet (default), no_info, ...')
    if stage == 'evaluate':
        parser.add_argument('--arms', help='with commas (default: all)')
        parser.add_argument('--seeds', type=int, default=1, help='how many, from --seed on (default 1)')
        parser.add_argument(
            '--best-of', type=int, default=4, help="candidates a turn for the critic's choice (default 4)"
        )
    flags, fields = parser.parse(words)
    command = quoted(['python', '-m', 'colbench_jax.sweet_rl', stage, *words])
    keep_compiled()
    from core_jax import session

    return session.as_program(lambda: _run(stage, flags, fields, command))


def _run(stage: str, flags: Any, fields: dict[str, str], command: str) -> None:
    from colbench_jax.sweet_rl import experiment

    config = experiment.get_config()
    if flags.config:
        apply(config, load_preset(flags.config))
    apply(config, (DEBUG if flags.debug else {}) | fields)
    experiment.check(config)
    if stage in ('critic', 'policy'):
        experiment.arm_named(flags.arm)
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
        run.critic(experiment.arm_named(flags.arm))
    elif stage == 'candidates':
        states, drawn = run.candidates()
        print(f'{len(drawn[0])} turns for each of {len(states)} states in {run.directory}/candidates.json')
    elif stage == 'policy':
        run.policy(flags.arm)
    else:
        _evaluate(flags, config, command)
        return
    names = list(STAGES)
    following = names[min(names.index(stage) + 1, len(names) - 1)]
    print(f'next: python -m colbench_jax.sweet_rl {following} --workdir={flags.workdir}')


def opened(workdir: str, config: Any, seed: int) -> Any:
    """The experiment of a seed below `workdir`. Raises UserError where another config was begun there."""
    import json

    from colbench_jax.sweet_rl import experiment
    from core_jax.files import differences, plain, write_json_atomic

    directory = pathlib.Path(workdir) / f'seed-{seed}'
    path, wanted = directory / 'config.json', plain(config.to_dict())
    if path.exists():
        try:
            saved = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f'{path} is damaged: {error}') from None
        if changed := differences(saved, wanted):
            name, before, now = changed[0]
            raise UserError(f'{directory} was begun with {name} {before}, not {now}; take another --workdir')
    else:
        directory.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, wanted)
    return experiment.Experiment(directory, config, seed)


def _evaluate(flags: Any, config: Any, command: str) -> None:
    from colbench_jax.sweet_rl import experiment, report
    from core_jax.files import write_json_atomic

    arms = flags.arms.split(',') if flags.arms else list(experiment.ARMS)
    for name in arms:
        experiment.arm_named(name)
    if flags.seeds < 1 or flags.best_of < 1:
        raise UserError('--seeds and --best-of must be at least 1')
    started, found = time.monotonic(), {}
    for seed in range(flags.seed, flags.seed + flags.seeds):
        run = opened(flags.workdir, config, seed)
        made = {name: functools.partial(run.evaluated, name) for name in [*arms, *experiment.SCRIPTED]}
        if 'sweet' in arms and flags.best_of > 1:
            made[f'best of {flags.best_of}, by the critic'] = functools.partial(run.best_of, 'sweet', flags.best_of)
        for name, evaluated in made.items():
            try:
                rows = evaluated()
            except experiment.NothingToLearn as error:
                print(f'{name}, seed {seed}: left out; {error}', flush=True)
                continue
            found.setdefault(name, []).append(rows)
            print(report.line(name, seed, rows), flush=True)
    document = report.document(found, command, config, flags.seeds, time.monotonic() - started)
    directory = pathlib.Path(flags.workdir)
    write_json_atomic(directory / 'summary.json', document)
    (directory / 'report.md').write_text(report.markdown(document))
    report.draw(document, directory / 'report.png')
    print(report.markdown(document))
    print(f'{directory}/report.md, report.png, summary.json')


if __name__ == '__main__':
    exit_on_user_error(main)
