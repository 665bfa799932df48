"""Memory that is kept is not asked for again."""

import platform
import subprocess
import sys

FAULTS = """
import resource, sys
from core_jax.cli import keep_memory
if sys.argv[1:]:
    keep_memory()
counts = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt for _ in range(4) if bytearray(64 << 20)]
print(counts[-1] - counts[0])
"""


def test_freed_memory_is_not_cleared_again():
    """Page faults of three more blocks of 64 MB, of which each is freed before the next. Elsewhere than with glibc it
    runs and changes nothing that could be told."""
    gave_back, kept = (
        int(subprocess.run([sys.executable, '-c', FAULTS, *words], capture_output=True, check=True, text=True).stdout)
        for words in ((), ('keep',))
    )
    if platform.libc_ver()[0] == 'glibc':
        assert kept < 100 < gave_back
