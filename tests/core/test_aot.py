"""FLOPs and collectives of compiled programs against counts made by hand; the real TPU compiler under `slow`."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from core_jax import aot, hlo
from core_jax.errors import UserError
from core_jax.mesh import make_mesh

MATRIX = jax.ShapeDtypeStruct((8, 8), jnp.float32)
PRODUCT = 2 * 8 * 8 * 8  # FLOPs of one 8 x 8 x 8 product


def compiled_text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


def flops(function, *arguments):
    return hlo.count(compiled_text(function, *arguments)).flops


# Loops


def nested_scans(x):
    def inner(c, _):
        return jnp.tanh(c @ c), None

    def outer(c, _):
        return jax.lax.scan(inner, c, None, length=3)[0] @ c, None

    return jax.lax.scan(outer, x, None, length=5)[0]


def counts_down(x):
    return jax.lax.while_loop(lambda s: s[0] > 4, lambda s: (s[0] - 3, s[1] @ s[1]), (jnp.int32(20), x))[1]


def counts_to_and_including(x):
    return jax.lax.while_loop(lambda s: s[0] <= 10, lambda s: (s[0] + 2, s[1] @ s[1]), (jnp.int32(1), x))[1]


LOOPS = [(nested_scans, 5 * (3 + 1)), (counts_down, 6), (counts_to_and_including, 5)]  # 20 17 14 11 8 5; 1 3 5 7 9


@pytest.mark.parametrize('function, products', LOOPS)
def test_loop_bodies_count_as_often_as_they_run(function, products):
    assert flops(function, MATRIX) == products * PRODUCT


@pytest.mark.parametrize('function, products', LOOPS)
def test_trip_counts_without_the_compilers_note(function, products):
    text, removed = re.subn(r'"known_trip_count":\{"n":"\d+"\}', '"nothing":{}', compiled_text(function, MATRIX))
    assert removed >= 1
    assert hlo.count(text).flops == products * PRODUCT


def test_a_bound_known_only_at_run_time_is_refused():
    def function(x, n):
        return jax.lax.fori_loop(0, n, lambda _, c: c @ c, x)

    with pytest.raises(ValueError, match='trip count is unknown'):
        flops(function, MATRIX, 1)


def test_a_loop_of_unknown_length_without_products_is_harmless():
    assert flops(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x) @ x, MATRIX) == PRODUCT


def test_the_larger_branch_counts():
    def function(x, which):
        return jax.lax.cond(which, lambda c: c @ c @ c, lambda c: c @ c, x)

    assert flops(function, MATRIX, True) == 2 * PRODUCT


# Products


def test_batched_products_and_gradients():
    def loss(w, x):
        return jnp.tanh(jnp.einsum('ebi,eio->ebo', x, w)).sum()

    w, x = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32), jax.ShapeDtypeStruct((3, 4, 5), jnp.float32)
    assert flops(loss, w, x) == 2 * 3 * 4 * 5 * 7
    assert flops(jax.grad(loss), w, x) == 2 * (2 * 3 * 4 * 5 * 7)  # forward; the kernel's gradient; x is data
    assert flops(jax.grad(loss, argnums=(0, 1)), w, x) == 3 * (2 * 3 * 4 * 5 * 7)


def test_several_contracted_dimensions():
    x = jax.ShapeDtypeStruct((4, 5, 6), jnp.float32)
    assert flops(lambda x: jnp.einsum('aij,bij->ab', x, x), x) == 2 * 4 * 4 * 5 * 6


@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((2, 1), (0, 3))])
def test_strided_grouped_convolutions_agree_with_the_compiler(padding):
    agree(padding=padding, window_strides=(2, 3), rhs_dilation=(2, 1), feature_group_count=2)


def test_dilated_convolutions_agree_with_the_compiler():
    agree(padding=((2, 1), (0, 3)), window_strides=(1, 2), lhs_dilation=(1, 3), feature_group_count=2)


def agree(**options):
    """A program that is nothing but one convolution: there the compiler's own count is right, padding and holes too."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **options)

    x, kernel = jax.ShapeDtypeStruct((2, 9, 8, 4), jnp.float32), jax.ShapeDtypeStruct((3, 2, 2, 6), jnp.float32)
    compiled = jax.jit(convolve).lower(x, kernel).compile()
    assert len(re.findall(r' convolution\(', compiled.as_text())) == 1
    assert hlo.count(compiled.as_text()).flops == compiled.cost_analysis()['flops'] > 0


def test_a_convolution_by_hand():
    """3 x 3 on 4 x 4, SAME: along one dimension 2 + 3 + 3 + 2 of the 12 taps meet an input."""
    x, kernel = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1, 5), jnp.float32)
    dimensions = ('NHWC', 'HWIO', 'NHWC')
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), 'SAME', dimension_numbers=dimensions)  # noqa: E731
    assert flops(conv, x, kernel) == 2 * 10 * 10 * 5


# What the TPU compiler makes of products and loops, in its own notation.
TPU = """
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%batched (p0: f32[2,16,512], p1: f32[2,512,512]) -> f32[2,16,512] {
  %p0 = f32[2,16,512]{2,1,0:T(8,128)} parameter(0)
  %p1 = f32[2,512,512]{2,1,0:T(8,128)S(1)} parameter(1)
  ROOT %conv = f32[2,16,512]{2,1,0:T(8,128)} convolution(%p0, %p1), window={size=2 lhs_dilate=2}, \
dim_labels=0bf_0io->0bf, metadata={op_name="vmap(dense)/dot_general"}
}

%row (p2: f32[28,512], p3: f32[28]) -> f32[512] {
  %p2 = f32[28,512]{1,0:T(8,128)} parameter(0)
  %p3 = f32[28]{0:T(128)} parameter(1)
  %zero = f32[]{:T(128)} constant(0)
  %wide = f32[28,512]{1,0:T(8,128)} broadcast(%p3), dimensions={0}, metadata={op_name="dense/dot_general"}
  %product = f32[28,512]{1,0:T(8,128)} multiply(%p2, %wide), metadata={op_name="dense/dot_general"}
  ROOT %total = f32[512]{0:T(512)S(1)} reduce(%product, %zero), dimensions={0}, to_apply=%add, \
metadata={op_name="dense/dot_general"}
}

%outer (p4: f32[28], p5: f32[512]) -> f32[28,512] {
  %p4 = f32[28]{0:T(128)} parameter(0)
  %p5 = f32[512]{0:T(512)} parameter(1)
  %left = f32[28,512]{1,0:T(8,128)} broadcast(%p4), dimensions={0}
  %right = f32[28,512]{1,0:T(8,128)} broadcast(%p5), dimensions={1}
  %rate = f32[28,512]{1,0:T(8,128)} multiply(%left, %left), metadata={op_name="adam/mul"}
  ROOT %each = f32[28,512]{1,0:T(8,128)} multiply(%left, %right), metadata={op_name="transpose(dense)/dot_general"}
}

%body (carry: (s32[], f32[2,16,512], s32[])) -> (s32[], f32[2,16,512], s32[]) {
  %carry = (s32[]{:T(128)}, f32[2,16,512]{2,1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[2,16,512]{2,1,0:T(8,128)} get-tuple-element(%carry), index=1
  %limit = s32[]{:T(128)} get-tuple-element(%carry), index=2
  %i.copy = s32[]{:T(128)S(6)} copy(%i)
  %one..sunk = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i.copy, %one..sunk)
  %k = f32[2,512,512]{2,1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %y = f32[2,16,512]{2,1,0:T(8,128)} fusion(%x, %k), kind=kOutput, calls=%batched
  %ar.start = f32[2,16,512]{2,1,0:T(8,128)} all-reduce-start(%y), channel_id=1, to_apply=%add
  %ar.done = f32[2,16,512]{2,1,0:T(8,128)} all-reduce-done(%ar.start)
  ROOT %out = (s32[]{:T(128)}, f32[2,16,512]{2,1,0:T(8,128)}, /*index=2*/s32[]{:T(128)}) tuple(%next, %ar.done, %limit)
}

%condition (carry.1: (s32[], f32[2,16,512], s32[])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, f32[2,16,512]{2,1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %limit.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=2
  ROOT %more = pred[]{:T(512)} compare(%limit.1, %i.1), direction=GT
}

ENTRY %main (e0: f32[2,16,512], e1: f32[28,512], e2: f32[28]) -> f32[2,16,512] {
  %e0 = f32[2,16,512]{2,1,0:T(8,128)} parameter(0)
  %e1 = f32[28,512]{1,0:T(8,128)} parameter(1)
  %e2 = f32[28]{0:T(128)} parameter(2)
  %row.1 = f32[512]{0:T(512)S(1)} fusion(%e1, %e2), kind=kLoop, calls=%row
  %outer.1 = f32[28,512]{1,0:T(8,128)} fusion(%e2, %row.1), kind=kLoop, calls=%outer
  %zero.1 = s32[]{:T(128)} constant(0)
  %twenty = s32[]{:T(128)} constant(20)
  %start = (s32[]{:T(128)}, f32[2,16,512]{2,1,0:T(8,128)}, s32[]{:T(128)}) tuple(%zero.1, %e0, %twenty)
  %loop = (s32[]{:T(128)}, f32[2,16,512]{2,1,0:T(8,128)}, s32[]{:T(128)}) while(%start), condition=%condition, \
body=%body
  ROOT %end = f32[2,16,512]{2,1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def test_what_the_tpu_compiler_makes_of_products():
    """A batched product as a dilated convolution, one with a vector as multiply and reduce, and an outer product."""
    work = hlo.count(TPU)
    assert work.flops == 20 * (2 * 2 * 16 * 512 * 512) + 2 * 28 * 512 + 2 * 28 * 512


def test_an_asynchronous_pair_is_one_collective():
    block = 2 * 16 * 512 * 4  # bytes
    assert hlo.count(TPU).collectives == {'all-reduce': hlo.Collective(ops=1, executions=20, bytes=20 * block)}


SCATTER = """
HloModule jit_step, is_scheduled=true

%all-reduce-scatter (input: bf16[4096,512]) -> bf16[256,512] {
  %input = bf16[4096,512]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.2 = bf16[4096,512]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=1, to_apply=%add
  %start = s32[]{:T(128)} constant(0)
  ROOT %slice = bf16[256,512]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.2, %start, %start), \
dynamic_slice_sizes={256,512}
}

ENTRY %main (e0: bf16[4096,512]) -> bf16[256,512] {
  %e0 = bf16[4096,512]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %fusion = bf16[256,512]{1,0:T(8,128)(2,1)} fusion(%e0), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_a_sum_of_which_a_slice_is_kept_is_a_reduce_scatter():
    found = hlo.count(SCATTER).collectives
    assert found == {'reduce-scatter': hlo.Collective(ops=1, executions=1, bytes=4096 * 512 * 2)}


PIECES = """
HloModule jit_step, is_scheduled=true

%first (p0: bf16[1,16,512]) -> bf16[1,4096,512] {
  %p0 = bf16[1,16,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[1,4096,512]{2,1,0:T(8,128)(2,1)} all-gather(%p0), channel_id=2, dimensions={1}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
}

%last (p1: bf16[1,16,512]) -> bf16[1,4096,512] {
  %p1 = bf16[1,16,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[1,4096,512]{2,1,0:T(8,128)(2,1)} all-gather(%p1), channel_id=2, dimensions={1}, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
}

ENTRY %main (e0: bf16[1,16,512]) -> bf16[1,4096,512] {
  %e0 = bf16[1,16,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %begun = bf16[1,4096,512]{2,1,0:T(8,128)(2,1)} fusion(%e0), kind=kCustom, calls=%first
  ROOT %ended = bf16[1,4096,512]{2,1,0:T(8,128)(2,1)} fusion(%e0), kind=kCustom, calls=%last
}
"""


def test_pieces_of_a_collective_are_one():
    assert hlo.count(PIECES).collectives == {'all-gather': hlo.Collective(ops=1, executions=1, bytes=16 * 512 * 2)}


# Collectives of real programs, on 8 devices


@pytest.fixture(scope='module')
def mesh():
    return make_mesh('data:8')


def spread(mesh, shape, *axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))


@pytest.fixture(scope='module')
def ring(mesh):
    """In each of 5 turns one sum of a [2, 4] block and one step around the ring; after them one gather."""

    def local(x):
        def turn(c, _):
            c = jax.lax.psum(jnp.tanh(c), 'data')
            return jax.lax.ppermute(c, 'data', [(i, (i + 1) % 8) for i in range(8)]), None

        return jax.lax.all_gather(jax.lax.scan(turn, x, None, length=5)[0], 'data')

    specs = {'in_specs': PartitionSpec('data'), 'out_specs': PartitionSpec()}
    return jax.jit(jax.shard_map(local, mesh=mesh, **specs, check_vma=False)), (spread(mesh, (16, 4), 'data'),)


def test_collectives_are_counted_with_their_loops(ring, mesh):
    report = aot.check('ring', *ring, mesh, 10**9, {'all-reduce', 'all-gather', 'collective-permute'})
    block = 2 * 4 * 4  # bytes
    assert report.collectives == {
        'all-reduce': hlo.Collective(1, 5, 5 * block),
        'collective-permute': hlo.Collective(1, 5, 5 * block),
        'all-gather': hlo.Collective(1, 1, block),
    }
    assert report.ok and report.devices == 8


def test_an_unintended_collective_fails(ring, mesh):
    report = aot.check('ring', *ring, mesh, 10**9, {'all-reduce', 'collective-permute'})
    assert not report.ok
    assert report.problems == ('all-gather is not on the list of intended collectives (1 of them)',)
    assert 'FAILED ring: all-gather' in aot.table([report])


def test_facts_stand_under_the_table(ring, mesh):
    report = aot.check('ring', *ring, mesh, 10**9, hlo.COLLECTIVES, facts={'turns': 5, 'source': 'by hand'})
    assert aot.table([report]).splitlines()[-1] == 'ring: turns 5; source by hand'
    assert report == aot.Report.from_row(json.loads(json.dumps(report.row())))


def test_an_unknown_collective_on_the_list_is_an_error(ring, mesh):
    with pytest.raises(UserError, match="did you mean 'all-reduce'"):
        aot.check('ring', *ring, mesh, 10**9, {'all-reduced'})


# The whole check


def training_step(mesh, updates=4, rows=64, width=16):
    """Data-parallel gradient descent on a two-layer network; the batch is data of the program."""

    def loss(params, x):
        return jnp.mean((jnp.tanh(x @ params[0]) @ params[1]) ** 2)

    def run(params, x):
        def update(params, _):
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params, x)), None

        return jax.lax.scan(update, params, None, length=updates)[0]

    everywhere = NamedSharding(mesh, PartitionSpec())
    step = jax.jit(run, donate_argnums=0, out_shardings=everywhere)
    params = [spread(mesh, (width, width)), spread(mesh, (width, width))]
    # Forward 2 products, kernels' gradients 2, the gradient of the hidden layer 1.
    return step, (params, spread(mesh, (rows, width), 'data')), updates * 5 * 2.0 * rows * width**2


def test_a_data_parallel_step_is_what_it_should_be(mesh):
    step, arguments, analytic = training_step(mesh)
    report = aot.check('step', step, arguments, mesh, 10**9, {'all-reduce'}, analytic)
    assert report.ok, report.problems
    assert report.flops * 8 == analytic
    assert report.argument_bytes == 2 * 16 * 16 * 4 + 8 * 16 * 4  # parameters whole, an eighth of the rows
    assert report.aliased_bytes == 2 * 16 * 16 * 4  # donated
    assert report.collectives['all-reduce'].bytes == 4 * 2 * 16 * 16 * 4
    assert report == aot.Report.from_row(json.loads(json.dumps(report.row())))


def test_work_that_every_device_repeats_is_seen(mesh):
    """Rows that are replicated instead of spread: 8 times the FLOPs a device, and no collective at all."""
    step, (params, _), analytic = training_step(mesh)
    report = aot.check('step', step, (params, spread(mesh, (64, 16))), mesh, 10**9, {'all-reduce'}, analytic)
    assert report.problems == ('FLOPs are +700.0% from the analytic count',)
    assert report.collectives == {}


def test_what_does_not_fit_fails(mesh):
    report = aot.check('step', *training_step(mesh)[:2], mesh, 2000, {'all-reduce'})
    assert report.problems[0].startswith('does not fit')


class Refusing:
    """A program for which the compiler finds no place."""

    def __init__(self, message):
        self.message = message

    def lower(self, *_):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_the_compilers_own_refusal_is_reported(mesh):
    report = aot.check('big', Refusing('RESOURCE_EXHAUSTED: Ran out of memory on HBM\nmore'), (), mesh, 10**9, ())
    assert report.problems == ('does not fit: RESOURCE_EXHAUSTED: Ran out of memory on HBM',)
    with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
        aot.check('odd', Refusing('INTERNAL: something else'), (), mesh, 10**9, ())


# Names and the missing compiler


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="did you mean 'v5e:4x4'"):
        aot.topology_devices('v5e:4x4x')
    with pytest.raises(UserError, match='known: v5e, v5p, v6e'):
        aot.chip_memory('gpu:1')
    assert aot.chip_memory('v5e:4x4') == 16e9


def test_without_the_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tenfold\[tpu-check\]'"):
        aot.topology_devices('v5e:4x4')


def test_the_command_refuses_unknown_programs(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['check', '--program', 'fqll'])
    with pytest.raises(UserError, match="did you mean 'fql'"):
        aot.main('nowhere', {'fql': None}, ('v5e:4x4',))


def test_the_command_names_what_failed(monkeypatch, tmp_path, capsys):
    """Each program is compiled in a process of its own; one that dies is one row's failure."""
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    monkeypatch.setattr(importlib.metadata, 'version', lambda name: '0')
    monkeypatch.setattr(sys, 'argv', ['check', '--output', str(tmp_path / 'deep' / 'check.json')])
    slices = {'fql': ('v5e:4x4',), 'other': ()}
    assert aot.main('core_jax.no_such_module', {'fql': None, 'other': None}, slices) == 1
    written = json.loads((tmp_path / 'deep' / 'check.json').read_text())
    assert written['rows'] == [] and written['failures'][0]['name'] == 'fql v5e:4x4'
    assert 'FAILED fql v5e:4x4' in capsys.readouterr().out


# The real thing

REAL = """
import jax, jax.numpy as jnp, json, sys
from core_jax import aot
from core_jax.mesh import make_mesh
from tests.core.test_aot import spread, training_step

mesh = make_mesh({'data': 4}, aot.topology_devices('v5e:2x2'))
step, arguments, analytic = training_step(mesh, updates=6, rows=64, width=256)
good = aot.check('good', step, arguments, mesh, aot.chip_memory('v5e:2x2'), {'all-reduce'}, analytic)
row, arguments, one_row = training_step(mesh, updates=6, rows=4, width=256)
vector = aot.check('vector', row, arguments, mesh, aot.chip_memory('v5e:2x2'), {'all-reduce'}, one_row)
huge = aot.check('huge', jax.jit(jnp.sort), (spread(mesh, (1_900_000_000,)),), mesh, aot.chip_memory('v5e:2x2'), ())
print(json.dumps([report.row() for report in (good, vector, huge)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed')
def test_the_tpu_compiler(request):
    """Matrices, one row a chip (which the TPU compiler turns into multiply and reduce), and more than a chip holds."""
    root = request.config.rootpath
    command, environment = [sys.executable, '-c', REAL], os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    good, vector, huge = map(aot.Report.from_row, json.loads(done.stdout.splitlines()[-1]))
    assert good.ok and good.flops == good.analytic_flops
    assert good.collectives['all-reduce'].bytes == 6 * 2 * 256 * 256 * 4
    assert vector.ok and vector.flops == vector.analytic_flops
    assert huge.problems[0].startswith('does not fit: RESOURCE_EXHAUSTED')
