"""What the benchmark and the TPU checks count by hand is what is compiled."""

import jax
import jax.numpy as jnp
import pytest

from core_jax import aot, hlo
from core_jax.mesh import make_mesh
from diffusion_jax import bench, tpu_check
from diffusion_jax.models import networks
from diffusion_jax.search import smc, svdd, tree
from diffusion_jax.value import Value


@pytest.mark.parametrize('length', [75, 20])
def test_flops_of_the_network_as_compiled(length, key):
    network = networks.DilatedCNN(4, 16, 2)
    params = jax.eval_shape(network.init, key, jax.ShapeDtypeStruct((1, length, 5), jnp.float32))
    lowered = jax.jit(network.apply).lower(params, jax.ShapeDtypeStruct((3, length, 5), jnp.float32))
    compiled = lowered.compile(compiler_options={'xla_backend_optimization_level': 0})
    assert hlo.count(compiled.as_text()).flops == pytest.approx(3 * bench.network_flops(length, 16, 2), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('kernel', ['groups', 'island'])
def test_programs_of_the_tpu_check_on_eight_devices(kernel, monkeypatch):
    """Groups have nothing to tell each other; of an island everybody gets the outputs."""
    monkeypatch.setattr(tpu_check, 'LENGTH', 20)
    monkeypatch.setattr(tpu_check, 'CHANNELS', 8)
    monkeypatch.setattr(tpu_check, 'STACKS', 1)
    monkeypatch.setattr(tpu_check, 'STEPS', 4)
    process, value = tpu_check.enhancers(), Value(reward=bench.small_reward)
    devices = list(make_mesh('data:8').devices.flat)
    if kernel == 'groups':
        plan = svdd.plan(process, value, children=4)
        program = tpu_check.program(tree.search, process, plan, 16, devices)
    else:
        plan = smc.plan(process, value, particles=32, alpha=0.5)
        program = tpu_check.program(smc.search, process, plan, 1, devices)
    report = aot.check(kernel, *program[:3], 10**9, *program[3:])
    assert not report.problems
    assert set(report.collectives) == (set() if kernel == 'groups' else {'all-gather'})
