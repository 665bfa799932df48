"""Programs that a test starts hear Ctrl-C, wherever the tests run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Around the start of a program: a shell that runs the tests in its background has SIGINT ignored, and what is
    ignored is inherited; a handler of this process is not, and leaves the program the default one.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
