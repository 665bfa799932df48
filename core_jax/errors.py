"""Errors that a user caused or can mend: one line, the nearest right name, exit status 2."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something that the user can mend; the message is one line and says how."""


def unknown(kind: str, name: str, options: Iterable[str]) -> UserError:
    """The error for a name that is none of `options`, with the nearest one."""
    options = sorted(options)
    lowered = {option.lower(): option for option in options}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)]
    shown = ', '.join(options[:12]) + (', ...' if len(options) > 12 else '')
    hint = f'did you mean {near[0]!r}?' if near else f'known: {shown}'
    return UserError(f'unknown {kind} {name!r}; {hint}')


def exit_on_user_error(main: Callable[[], int | None]) -> None:
    """Runs `main` as a program: its integer result is the exit status; a UserError becomes one line on stderr and 2."""
    try:
        status = main()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 2
    except BrokenPipeError:
        status = 141  # the reader of our output went away, as in `... | head`
    sys.exit(status)
