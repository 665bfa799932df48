"""`make tpu-check`: compiles FQL at the paper's size for TPU slices with the TPU compiler; no TPU is needed.

    fql             one run, batch 256 laid over all chips of the slice; 1M transitions laid over them too
    fql-population  512 seeds laid over all chips, each chip vectorising its members; every chip holds the dataset

Both are what `python -m fql_jax.main` dispatches: a chunk of updates with the data in device memory. Its length is
fixed here, where a run passes it as an argument: that is how FLOPs and collectives can be counted.
"""

from __future__ import annotations

import ml_collections
import numpy as np
from jax.sharding import Mesh

from core_jax import aot
from core_jax.errors import exit_on_user_error
from core_jax.mesh import make_mesh

TOPOLOGIES = ('v5e:4x4', 'v5p:4x4x4', 'v6e:16x16')
OBSERVATION, ACTION = 28, 5  # cube-single
EPISODES, STEPS = 1000, 1000  # of OGBench's play data: 1M transitions
SEEDS = 512
UPDATES = 1000  # in one dispatch, which is what the figures are for


def _rows() -> dict[str, np.ndarray]:
    """A data set of the published size, of zeros: only its shapes matter."""
    rows = EPISODES * (STEPS + 1)
    terminals = np.zeros(rows, np.float32)
    terminals[STEPS :: STEPS + 1] = 1
    return {
        'observations': np.zeros((rows, OBSERVATION), np.float32),
        'actions': np.zeros((rows, ACTION), np.float32),
        'rewards': np.zeros(rows, np.float32),
        'masks': np.zeros(rows, np.float32),
        'terminals': terminals,
    }


def program(
    mesh: Mesh, seeds: int, allowed_collectives: set[str], config: ml_collections.ConfigDict | None = None
) -> aot.Program:
    """A chunk of updates of `seeds` members; the default config is the published one."""
    from core_jax.driver import Numerics  # here, so that --help does not wait for agents and optimizers
    from fql_jax import api, cost, settings

    config = config or settings.get_config('fql')
    numerics = Numerics(population='vmap')  # what `auto` means on an accelerator
    driver, _ = api.build(config, _rows(), mesh=mesh, numerics=numerics, seeds=list(range(seeds)))
    flops = seeds * UPDATES * cost.flops(config, OBSERVATION, ACTION)
    return aot.Program(driver, (UPDATES,), mesh, allowed_collectives, flops)


def data_parallel(devices: list) -> aot.Program:
    """The sum of the gradients is the one thing that chips must tell each other, and whose row a chip holds."""
    return program(make_mesh({'data': len(devices)}, devices), 1, {'all-reduce'})


def population(devices: list) -> aot.Program:
    """Members have nothing to tell each other."""
    return program(make_mesh({'population': len(devices)}, devices), SEEDS, set())


def main() -> int:
    programs = {'fql': data_parallel, 'fql-population': population}
    return aot.main('fql_jax.tpu_check', programs, TOPOLOGIES, f'A call is {UPDATES} updates.')


if __name__ == '__main__':
    exit_on_user_error(main)
