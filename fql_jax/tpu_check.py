"""`make tpu-check`: compiles FQL at the paper's size for TPU slices with the TPU compiler; no TPU is needed.

    fql             one run, batch 256 laid over all chips of the slice; 1M transitions laid over them too
    fql-population  512 seeds laid over all chips, each chip vectorising its members; every chip holds the dataset

Both are the very program that `python -m fql_jax.main` dispatches: a chunk of updates with the data in device memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from core_jax import aot
from core_jax.driver import DeviceDriver, Numerics
from core_jax.errors import exit_on_user_error
from core_jax.mesh import make_mesh
from core_jax.sources import offline
from fql_jax.agents import fql

TOPOLOGIES = ('v5e:4x4', 'v5p:4x4x4', 'v6e:16x16')
OBSERVATION, ACTION = 28, 5  # cube-single
TRANSITIONS = 1_000_000  # the size of OGBench's play datasets: 1000 episodes of 1001 states
EPISODE = 1000
SEEDS = 512
UPDATES = 1000  # in one dispatch


def flops_per_update(config, observation: int, action: int) -> float:
    """FLOPs of all matrix products of one update, two a multiply-add.

    A layer's product appears once forward, once for the gradient of its kernel and once for that of its input; the
    input of a network is data, so its first layer lacks the last, except where Q is followed back to the action.
    """

    def network(inputs, outputs):
        sizes = (inputs, *config.hidden_dims, outputs)
        products = [a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        forward = sum(products)
        return forward, 3 * forward - products[0]  # forward alone; forward and the gradient of the parameters

    critic, critic_trained = network(observation + action, 1)
    onestep, onestep_trained = network(observation + action, action)
    flow, flow_trained = network(observation + action + 1, action)
    # Of the input's gradient only the columns of the action are wanted.
    critic_followed = 2 * critic - observation * config.hidden_dims[0]
    multiply_adds = (
        onestep  # next actions
        + config.num_critics * (critic + critic_trained + critic_followed)  # target, loss, L_Q
        + flow_trained
        + config.flow_steps * flow  # the teacher
        + onestep_trained  # the student
    )
    return 2.0 * config.batch_size * multiply_adds


def _dataset(mesh) -> dict:
    """Shapes of 1M transitions as `replay.place_dataset` lays them out: rows over `data`, which they must divide."""
    rows = TRANSITIONS // EPISODE * (EPISODE + 1)
    rows += -rows % mesh.shape['data']

    def array(shape, dtype=jnp.float32, spec='data'):
        axis = spec if mesh.shape['data'] > 1 else None
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(axis)))

    return {
        'observations': array((rows, OBSERVATION)),
        'actions': array((rows, ACTION)),
        'rewards': array((rows,)),
        'masks': array((rows,)),
        'starts': array((TRANSITIONS,), jnp.int32, None),
        'ends': array((rows,), jnp.int32),
    }


def _program(mesh, seeds: int, allowed: set[str]) -> aot.Program:
    config = fql.get_config()
    driver = DeviceDriver(
        fql.make(config, ACTION),
        offline(_dataset(mesh), config.batch_size),
        mesh=mesh,
        seeds=range(seeds),
        numerics=Numerics(population='vmap'),  # what 'auto' means on an accelerator
    )
    per_member = NamedSharding(mesh, PartitionSpec('population'))
    hparams = {name: jax.ShapeDtypeStruct((seeds,), jnp.float32, sharding=per_member) for name in driver.hparams}
    turns = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    arguments = (driver.target(), driver.source.constants, hparams, turns)
    flops = seeds * UPDATES * flops_per_update(config, OBSERVATION, ACTION)
    return aot.Program(driver._chunk, arguments, mesh, allowed, flops, turns=UPDATES)


def data_parallel(devices: list) -> aot.Program:
    """The sum of the gradients is the one thing that chips must tell each other, and whose row a chip holds."""
    return _program(make_mesh({'data': len(devices)}, devices), 1, {'all-reduce'})


def population(devices: list) -> aot.Program:
    """Members have nothing to tell each other."""
    return _program(make_mesh({'population': len(devices)}, devices), SEEDS, set())


def main() -> int:
    return aot.main('fql_jax.tpu_check', {'fql': data_parallel, 'fql-population': population}, TOPOLOGIES)


if __name__ == '__main__':
    exit_on_user_error(main)
