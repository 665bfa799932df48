"""The packs that are compiled for TPU slices: their analytic FLOPs, their programs on fake devices, the profiles."""

import jax
import jax.numpy as jnp
import pytest

from core_jax import aot, hlo
from core_jax.errors import UserError
from core_jax.mesh import make_mesh
from scaling.utd import bro, cost, settings, sweep, tpu_check
from scaling.utd.cells import packs


def small(**fields):
    sizes = {'critic_width': 32, 'actor_width': 16, 'num_quantiles': 8, 'batch_size': 16}
    run = {'agent': 'bro', 'env': 'point_mass', 'steps': 2_000, 'warmup': 200, 'log_interval': 200}
    return settings.resolve({**sizes, **run, 'eval_interval': 0, 'save_interval': 0, **fields}, {})


@pytest.mark.parametrize('optimistic', [True, False])
def test_flops_of_an_update_as_compiled(optimistic):
    config = small(optimistic=optimistic)
    learner, rows = bro.make(config, 2), (config.batch_size,)
    shapes = {'observations': (*rows, 6), 'actions': (*rows, 2), 'rewards': rows, 'masks': rows}
    shapes['next_observations'] = shapes['observations']
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
    state = jax.eval_shape(lambda key: learner.init(key, zeros), jax.random.key(0))
    lowered = jax.jit(learner.update).lower(state, batch, learner.hparams)
    compiled = lowered.compile(compiler_options={'xla_backend_optimization_level': 0})  # it is not run
    config.envs = -1  # nobody acts, the held-out environment neither
    assert hlo.count(compiled.as_text()).flops == pytest.approx(cost.flops(cost.bro(config, 6, 2)), rel=0.01)


def test_flops_at_the_published_size():
    """Eight passes of a sample through the critics, N parameters, are 16 N; the policies are smaller networks.

    The papers count 10 N for all of an update (sheet, section 1.1): a unit, not these FLOPs.
    """
    config = settings.get_config('bro')
    size = 2 * (88 * 512 + 4 * 512**2 + 512 * 100)
    assert 16 < cost.flops(cost.bro(config, 67, 21)) / 128 / size < 18


def test_loops_whose_length_the_run_decides():
    def run(x, n):
        return jax.lax.fori_loop(0, 3, lambda i, x: jax.lax.fori_loop(0, n + i, lambda _, x: x @ x, x), x)

    matrix, number = jax.ShapeDtypeStruct((4, 4), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    text = jax.jit(run).lower(matrix, number).compile().as_text()
    assert hlo.count(text, turns=1).flops == 3 * 2 * 4**3
    assert hlo.count(text, turns=0).flops == 0
    with pytest.raises(ValueError, match='trip count is unknown'):
        hlo.count(text)


def test_packs_are_the_profiles():
    config, members = tpu_check.pack('playground:HumanoidStand', 1.0, 256)
    assert (config.critic_width, config.steps, config.reset_interval, members) == (512, 1_000_000, 0, 32)
    config, members = tpu_check.pack('playground:CartpoleSwingup', 8.0, 1024)
    assert (config.reset_interval, members) == (2_500_000, 8)


@pytest.mark.slow
def test_a_pack_on_eight_devices():
    """On a CPU, the chunk that is compiled for TPUs: two members a device, an environment in each, nothing sent."""
    mesh = make_mesh('population:8')
    config, members = small(env='pendulum'), 16
    flops = members * tpu_check.UPDATES * cost.flops(cost.bro(config, 3, 1))
    program = tpu_check.program(mesh, config, members, analytic_flops=flops)
    report = aot.check('pack', *program[:3], 10**9, *program[3:])
    assert report.ok, report.problems
    assert not report.collectives
    assert report.argument_bytes > 2 * 2_000 * 4 * (3 + 1 + 1 + 1 + 3)  # the replay


@pytest.mark.parametrize(
    'name, cells, groups, updates',
    [
        ('dmc_cpu', 90, 18, 14_175_000),
        ('dmc-cpu', 90, 18, 14_175_000),
        ('playground', 640, 80, 2_394_000_000),
        ('pod', 1792, 140, 6_703_200_000),
    ],
)
def test_profiles(name, cells, groups, updates):
    profile = sweep.load_profile(name)
    assert profile['name'] == name.replace('-', '_')
    found = sweep.grid_of(profile)
    assert (len(found), len(packs(found)), sum(cell.updates for cell in found)) == (cells, groups, updates)
    proposals = [
        {'env': env, 'utd': utd, 'batch_size': 144, 'learning_rate': 1e-3}
        for env in profile['environments']
        for utd in profile['fitted']['utd']
    ]
    fitted = sweep.fitted_of(profile, proposals)
    assert len(fitted) == len(proposals) * len(profile['fitted']['seeds'])
    assert {cell.config.agent for cell in found + fitted} == {profile['common']['agent']}  # all of them resolve


def test_unknown_profile():
    with pytest.raises(UserError, match="did you mean 'playground'"):
        sweep.load_profile('play-ground')


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pack_compiles_for_a_tpu():
    """With an environment of our own; the simulators' take minutes and are `make tpu-check`'s."""
    pytest.importorskip('libtpu', reason='tenfold[tpu-check] is not installed')
    devices = aot.topology_devices('v5e:2x2')
    mesh = make_mesh({'population': len(devices)}, devices)
    config, members = small(env='cartpole'), 8
    flops = members * tpu_check.UPDATES * cost.flops(cost.bro(config, 5, 1))
    program = tpu_check.program(mesh, config, members, analytic_flops=flops)
    report = aot.check('pack', *program[:3], aot.chip_memory('v5e:2x2'), *program[3:])
    assert report.ok, report.problems
