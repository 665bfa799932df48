"""Designs with a reward, by a search in a pre-trained diffusion model: `python -m diffusion_jax.main --domain=dna`.

With no flags: DSearch for 8-mers of DNA that a protein binds, at 64 denoiser calls a design, some seconds on a CPU.
All methods at all budgets beside each other: python -m diffusion_jax.compare
"""

from __future__ import annotations

import sys

from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error


def main() -> int:
    parser = Parser(prog='python -m diffusion_jax.main', description=__doc__)
    parser.add_argument('--domain', default='dna', help='dna, molecules, proteins or images (%(default)s)')
    parser.add_argument('--task', help='a variant of the domain, see --list')
    parser.add_argument('--method', default='dsearch', help='see --list (%(default)s)')
    parser.add_argument('--reward', help="by default the task's first; see --list")
    parser.add_argument('--nfe', type=int, help='denoiser calls a design (64, or what the method needs at least)')
    parser.add_argument('--designs', type=int, default=32, help='how many are returned (%(default)s)')
    parser.add_argument('--start', metavar='FILE', help='designs that rerd, genetic or anneal begin from, one a line')
    parser.add_argument('--values', default='posterior', help='of states: posterior, or learned first (%(default)s)')
    parser.add_argument('--samples', type=int, default=0, help='guesses that value a state; 0: the most probable')
    parser.add_argument('--lookahead', type=int, default=0, help='further steps before a state is valued (%(default)s)')
    parser.add_argument('--config.FIELD=VALUE', dest='_', action='store_const', const=None, help='of the method')
    parser.add_argument('--task.FIELD=VALUE', dest='_', action='store_const', const=None, help='of the task')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, help='processes for a reward on the host (default: one a core)')
    parser.add_argument('--mesh', help='such as data:8 (default: all devices along data)')
    parser.add_argument('--workdir', help='the run directory (default: a new one under runs/)')
    parser.add_argument('--overwrite', action='store_true', help='start over in --workdir')
    parser.add_argument('--list', action='store_true', help='tasks with their rewards, methods with their settings')
    flags, overrides, fields = parser.parse(blocks=('config', 'task'))
    for name in ('nfe', 'designs', 'workers'):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f'--{name} must be at least 1, got {value}')
    from core_jax import session  # jax is imported here, after --help and the errors of the flags
    from diffusion_jax import report

    if flags.list:
        report.listing()
        return 0
    command = ['python', '-m', 'diffusion_jax.main', *sys.argv[1:]]
    return session.as_program(lambda: report.single(flags, overrides, fields, command))


if __name__ == '__main__':
    exit_on_user_error(main)
