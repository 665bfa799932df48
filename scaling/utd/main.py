"""Trains a value-based agent at a UTD ratio: `python -m scaling.utd.main --env=pendulum --config.utd=4`.

With no flags: soft actor-critic swings up a pendulum, about a minute on two cores.
The sweep over ratios, and the laws fitted from it: make sweep-utd (python -m scaling.utd.sweep)
"""

from __future__ import annotations

import sys

from core_jax.cli import Parser, add_run_flags, load_preset
from core_jax.errors import exit_on_user_error


def main() -> int:
    parser = Parser(prog='python -m scaling.utd.main', description=__doc__)
    parser.add_argument('--env', help='pendulum, cartpole, point_mass; cheetah-run, HalfCheetah-v4, brax:ant')
    parser.add_argument('--agent', help='sac, bro or pql (default sac)')
    parser.add_argument('--utd', type=float, help='updates an environment step (default 1)')
    add_run_flags(parser)
    flags, overrides = parser.parse()
    named = ('env', 'agent', 'utd', 'seed', 'seeds', 'vary', 'steps', 'mesh')
    fields = overrides | {name: getattr(flags, name) for name in named if getattr(flags, name) is not None}

    from core_jax import session  # jax is imported here, after --help and the errors of the flags
    from scaling.utd import api

    return session.as_program(
        lambda: api.train(
            fields=fields,
            preset=load_preset(flags.config) if flags.config else None,
            debug=flags.debug,
            workdir=flags.workdir,
            resume=flags.resume,
            overwrite=flags.overwrite,
            tensorboard=flags.tensorboard,
            wandb=flags.wandb,
            profile=flags.profile,
            command=['python', '-m', 'scaling.utd.main', *sys.argv[1:]],
        )
    )


if __name__ == '__main__':
    exit_on_user_error(main)
