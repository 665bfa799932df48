"""Trains, evaluates and films an offline RL agent: `python -m fql_jax.main --env=ogbench-cube`.

With no flags: a small, real run on a CPU (cube-single; the data are collected here), some minutes on two cores.
The paper's size: --config=configs/fql/offline/cube_single.py
What there is: --list, or --list=environments, agents, presets, data
"""

from __future__ import annotations

import sys

from core_jax.cli import Parser, add_run_flags, load_preset
from core_jax.errors import exit_on_user_error


def main() -> int:
    parser = Parser(prog='python -m fql_jax.main', description=__doc__)
    parser.add_argument('--env', help='short name or id, such as ogbench-cube, ogbench-scene, cube-double-play-v0')
    parser.add_argument('--agent', help='the algorithm (default fql)')
    parser.add_argument('--dataset', help='your own .npz instead of the one of the environment')
    add_run_flags(parser)
    parser.add_argument('--list', nargs='?', const='all', metavar='WHAT', help='print what there is, and do nothing')
    flags, overrides = parser.parse()
    if flags.list:
        from fql_jax import catalogue

        print(catalogue.show(flags.list))
        return 0

    named = ('env', 'agent', 'dataset', 'seed', 'seeds', 'vary', 'steps', 'mesh')
    fields = overrides | {name: getattr(flags, name) for name in named if getattr(flags, name) is not None}

    from fql_jax import api  # jax is imported here, after --help and the errors of the flags

    return api.run(
        fields,
        preset=load_preset(flags.config) if flags.config else None,
        debug=flags.debug,
        workdir=flags.workdir,
        resume=flags.resume,
        overwrite=flags.overwrite,
        tensorboard=flags.tensorboard,
        wandb=flags.wandb,
        profile=flags.profile,
        command=['python', '-m', 'fql_jax.main', *sys.argv[1:]],
    )


if __name__ == '__main__':
    exit_on_user_error(main)
