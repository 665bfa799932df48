"""A process of our own that owns environments: started clean of jax, obeying one pipe, never outliving its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import pickletools
import signal
import sys
import types
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler
from typing import Any

from core_jax.env_worker import Failure
from core_jax.errors import UserError

_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
_PARENT_DECIDES = (signal.SIGINT, signal.SIGTERM)


class WorkerError(RuntimeError):
    """An environment raised, or its process died. The message has the worker's traceback or its exit status."""
