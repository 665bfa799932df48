"""Rewards for the tests of the pool: worker processes import this module, which does not import jax."""

import os
import signal
import sys
import time

import numpy as np


def length(texts):
    """The length of each text."""
    return [float(len(text)) for text in texts]


def jax_is_imported(texts):
    """1 where this process has imported jax."""
    return [float('jax' in sys.modules)] * len(texts)


def process(texts):
    """The process that scores."""
    return [float(os.getpid())] * len(texts)


def moody(texts):
    """Its length, but for texts that say what goes wrong."""
    for text in texts:
        if text == 'raise':
            raise ValueError('not this one')
        if text == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        if text == 'exit':
            sys.exit(3)
        if text == 'sleep':
            time.sleep(60)
    return [{'nan': np.nan, 'none': None, 'inf': np.inf}.get(text, len(text)) for text in texts]


def broken(texts):
    """Raises always."""
    raise KeyError('no such column')


def one_short(texts):
    """Gives one number too few."""
    return [0.0] * (len(texts) - 1)


def needs_a_package(texts):
    """Says what the user must do."""
    from core_jax.errors import UserError

    raise UserError('install the package')


def nap(texts, seconds):
    """Takes `seconds` a design, without work for the processor."""
    time.sleep(seconds * len(texts))
    return length(texts)


def from_table(texts, table):
    """Entries of a table of strings of digits; the last axis varies fastest."""
    size = table.shape[0]
    return [float(table.ravel()[int(text, size)]) if text else np.nan for text in texts]
