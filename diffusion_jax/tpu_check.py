"""`make tpu-check`: compiles searches for TPU slices with the TPU compiler; no TPU is needed.

    dsearch     DSearch of the enhancer model (dilated CNN of 128 channels and 20 convolutions, 200 bases, 128 steps):
                4 groups a chip, 64 candidates a group; groups have nothing to tell each other
    island      SMC with one island of 16 particles a chip, of the same model: every chip denoises its share and gets
                the outputs of all, which is what the all-gathers are

The reward is one convolution. FLOPs are compared with a count by hand: candidates times those of the network.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from core_jax import aot
from core_jax.errors import exit_on_user_error
from core_jax.mesh import make_mesh, replicated
from diffusion_jax.bench import network_flops, small_reward, taps
from diffusion_jax.models import masked_learner, networks
from diffusion_jax.process import Process
from diffusion_jax.search import dsearch, smc, tree
from diffusion_jax.search.run import laid
from diffusion_jax.value import Value

TOPOLOGIES = ('v5e:16x16',)
LENGTH, CHANNELS, STACKS, STEPS = 200, 128, 4, 128
GROUPS, PARTICLES = 4, 16  # a chip


def enhancers() -> Process:
    """The model at the published size, of shapes alone."""
    network = networks.DilatedCNN(4, CHANNELS, STACKS)
    params = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, LENGTH, 5), jnp.float32))
    return masked_learner.process(network, params, length=LENGTH, tokens=4, steps=STEPS)


def program(search: Any, process: Process, plan: Any, groups: int, devices: list) -> aot.Program:
    """One whole search of `groups` groups on these devices."""
    mesh = make_mesh({'data': len(devices)}, devices)
    value = Value(params=jax.ShapeDtypeStruct((9, 4, 16), jnp.float32), reward=small_reward)
    everywhere = functools.partial(
        jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), groups))
    rows = PartitionSpec('data') if groups % len(devices) == 0 else PartitionSpec()
    keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=NamedSharding(mesh, rows))
    arguments = everywhere((process, value))
    whole = jax.jit(lambda arguments, keys: laid(search, mesh, groups)((*arguments, plan), keys, None))
    flops = groups * (
        plan.calls * network_flops(LENGTH, CHANNELS, STACKS) + plan.rewards * 2 * taps(LENGTH, 1) * 4 * 16
    )
    # The compiler gathers the rewards, a number a particle, by adding up arrays that are 0 but for one's own share.
    allowed = set() if groups % len(devices) == 0 else {'all-gather', 'all-reduce'}
    return aot.Program(whole, (arguments, keys), mesh, allowed, flops)


def searched(devices: list) -> aot.Program:
    process = enhancers()
    plan = dsearch.plan(process, Value(reward=small_reward), children=16, oversample=4, search='all')
    return program(tree.search, process, plan, GROUPS * len(devices), devices)


def island(devices: list) -> aot.Program:
    process = enhancers()
    plan = smc.plan(process, Value(reward=small_reward), particles=PARTICLES * len(devices), alpha=0.5)
    return program(smc.search, process, plan, 1, devices)


def main() -> int:
    programs = {'dsearch': searched, 'island': island}
    about = f'A call is a whole search of {STEPS} steps.'
    return aot.main('diffusion_jax.tpu_check', programs, TOPOLOGIES, about, 'results/diffusion_tpu_check.json')


if __name__ == '__main__':
    exit_on_user_error(main)
