"""`make tpu-check`: compiles packs of the `pod` profile for TPU slices with the TPU compiler; no TPU is needed.

    utd-largest    HumanoidStand, batch 256, four rates of eight seeds (v5e: four seeds), the most that a chip holds
    utd-resets     CartpoleSwingup, batch 1024, UTD 8, eight seeds: the largest batch, and a program that has resets
    utd-smallest   CartpoleSwingup, batch 64, UTD 1, eight seeds

Physics, policy, replay and updates are one program, the one that `python -m scaling.utd.sweep` dispatches; its length
is fixed here, so that FLOPs can be counted. A host of these slices has four chips and runs a pack on them by itself.
Here the packs of all hosts are one program, so that every chip holds and computes what it does in a run; members have
nothing to tell each other, and no collective is allowed. The compiler lays the replay out anew at the beginning and the
end of a call, which is what most of the temporary memory is.

FLOPs are compared where there are no resets, whose cost is that of the branch not taken. The loop of environment steps
before an update is counted as one turn, which it is at UTD 1 with one environment (and at UTD 8 before one update of
eight); so are those of the contact solver, whose products are small beside the networks'.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from core_jax import aot
from core_jax.driver import Numerics
from core_jax.errors import exit_on_user_error
from core_jax.mesh import make_mesh, replicated
from scaling.utd import api, cost, environments, sweep

TOPOLOGIES = ('v5p:4x4x4', 'v5e:16x16')
CHIPS = 4  # of a host
UPDATES = 100  # in one call, which is what the figures are for


def pack(env: str, utd: float, batch_size: int) -> tuple[ml_collections.ConfigDict, int]:
    """(config, members) of one pack of the profile's first stage."""
    profile = sweep.narrowed(sweep.load_profile('pod'), env, str(utd), None)
    chosen = [cell for cell in sweep.grid_of(profile) if cell.fields['batch_size'] == batch_size]
    return chosen[0].config, len(chosen)


def program(mesh: Mesh, config: ml_collections.ConfigDict, members: int, **about: Any) -> aot.Program:
    """A chunk of updates of `members` runs laid over the mesh. about: other fields of `aot.Program`."""
    numerics = Numerics(population='vmap')  # what `auto` means on an accelerator
    driver = api.build(config, mesh=mesh, numerics=numerics, seeds=list(range(members)), hparams={})
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    driver.bind(jax.tree.map(lambda _: scalar, driver.source.constants))
    return aot.Program(driver, (UPDATES,), mesh, set(), turns=1, **about)


def update_flops(config: ml_collections.ConfigDict, task: environments.Task) -> float:
    return cost.flops(cost.bro(config, task.observation_dim, task.action_dim))


def of_pod(env: str, utd: float, batch_size: int, counted: bool = True):
    """A function of a slice's devices."""

    def make(devices: list) -> aot.Program:
        config, members = pack(env, utd, batch_size)
        if members > 8 and 'lite' in devices[0].device_kind:
            members //= 2  # 16.01 GB of a v5e's 16 otherwise: --seeds=4, then the other four
        members = members // CHIPS * len(devices)
        task = environments.resolve(env)
        flops = members * UPDATES * update_flops(config, task) if counted else None
        return program(make_mesh({'population': len(devices)}, devices), config, members, analytic_flops=flops)

    return make


PROGRAMS = {
    'utd-largest': of_pod('playground:HumanoidStand', 1.0, 256),
    'utd-resets': of_pod('playground:CartpoleSwingup', 8.0, 1024, counted=False),
    'utd-smallest': of_pod('playground:CartpoleSwingup', 1.0, 64),
}


def main() -> int:
    about = f'A call is {UPDATES} updates with their environment steps.'
    return aot.main('scaling.utd.tpu_check', PROGRAMS, TOPOLOGIES, about, 'results/utd_tpu_check.json')


if __name__ == '__main__':
    exit_on_user_error(main)
