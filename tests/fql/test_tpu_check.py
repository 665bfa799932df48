"""The analytic FLOPs of FQL against published sizes and against what a compiler makes of the update."""

import jax
import jax.numpy as jnp
import pytest

from core_jax import aot, hlo
from core_jax.mesh import make_mesh
from fql_jax import cost, settings, tpu_check
from fql_jax.agents import fql


def small(**fields):
    config = settings.get_config('fql')
    config.update(hidden_dims=(128, 128), flow_steps=2, **fields)
    return config


def test_flops_at_the_papers_size():
    """Parameters as counted in the released code; 30 forward passes a sample, less one for a metric that we skip."""
    config = settings.get_config('fql')
    assert cost.flops(config, 28, 5) == pytest.approx(2 * 256 * 29 * 807_941, rel=0.01)


def test_flops_of_an_update_as_compiled():
    config = small()
    learner = fql.make(config, 5)
    rows = (config.batch_size,)
    shapes = {'observations': (*rows, 28), 'actions': (*rows, 5), 'rewards': rows, 'masks': rows}
    shapes['next_observations'] = shapes['observations']
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def zeros(_):
        return {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}

    state = jax.eval_shape(lambda key: learner.init(key, zeros(key)), jax.random.key(0))
    lowered = jax.jit(learner.update).lower(state, batch, learner.hparams)
    compiled = lowered.compile(compiler_options={'xla_backend_optimization_level': 0})  # it is not run
    assert hlo.count(compiled.as_text()).flops == pytest.approx(cost.flops(config, 28, 5), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('axis, seeds, allowed', [('data', 1, {'all-reduce', 'all-gather'}), ('population', 16, ())])
def test_both_programs_on_eight_devices(axis, seeds, allowed):
    """On a CPU, the chunk that is compiled for TPUs. The gather there is of row numbers, 4 bytes a row."""
    program = tpu_check.program(make_mesh({axis: 8}), seeds, set(allowed), small())
    report = aot.check('fql', *program[:3], 10**9, *program[3:])
    assert report.ok, report.problems
    gathered = report.collectives.get('all-gather', hlo.Collective(0, 0, 0))
    assert gathered.bytes <= tpu_check.UPDATES * 5 * 4 * 256
