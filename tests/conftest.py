"""Strict in tests: CPU, 8 fake devices, rank promotion raises, a compilation cache that outlives the process."""

import os
import pathlib

# Before jax is imported anywhere.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_NUM_CPU_DEVICES'] = '8'
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(__file__).parent.parent / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_configure(config):
    """Programs of the default suite run for milliseconds and compile for seconds, so LLVM does not optimise them.

    XLA reads this when it makes its first device, and programs that tests start inherit it. Slow tests train.
    """
    if config.option.markexpr != 'slow':
        unoptimised = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {unoptimised}'.strip()


@pytest.fixture
def key():
    return jax.random.key(0)
