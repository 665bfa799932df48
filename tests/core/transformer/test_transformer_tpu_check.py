"""The programs that are compiled for TPU slices: analytic counts, and a tiny model through the same code on a CPU."""

import dataclasses

import pytest

from core_jax import aot
from core_jax.mesh import make_mesh
from core_jax.transformer import losses, tpu_check
from core_jax.transformer.config import preset

# Heads of keys, columns and vocabulary divide by what the meshes have; queries are in blocks.
ARCH = preset('tiny', tie_embeddings=False, remat='full', query_block=16)
SERVED = dataclasses.replace(ARCH, remat='none')


def checked(program):
    report = aot.check('tiny', *program[:3], 10**9, *program[3:])
    assert report.ok, report.problems
    return report


def test_counts_at_the_published_size():
    """By hand, of Llama 3.1 8B in rows of 8,192: matrices of a layer have 218,103,808 numbers, the head 525,336,576."""
    arch = preset('llama-3.1-8b')
    layer, down, head, attention = 218_103_808, 58_720_256, 525_336_576, 4096 * 8192
    training = 32 * (4 * layer - down + 9 * attention) + 4 * head
    assert tpu_check.training_flops(arch, 8192) == pytest.approx(2 * training, rel=1e-12)
    model = 3 * (2 * (32 * layer + head) + 2 * 32 * attention)
    assert arch.flops_a_token(8192, backward=True) == pytest.approx(model, rel=1e-4)  # weights of norms are in it
    assert tpu_check.decode_flops(arch, 8192) == 2 * (32 * (layer + 2 * attention) + head)
    assert tpu_check.prefill_flops(arch, 8192) == 2 * (8192 * 32 * (layer + 2 * attention) + head)


@pytest.mark.parametrize('pairs', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_on_eight_devices(pairs, monkeypatch):
    """FLOPs as counted; every matrix of a layer is gathered twice, the head once, tokens for the embedding once."""
    monkeypatch.setattr(losses, 'CHUNK', 32)  # logits of 64 tokens would be kept, and not be made again
    report = checked(tpu_check.training(ARCH, make_mesh('data:2,fsdp:4'), 8, 64, pairs=pairs))
    assert report.flops == pytest.approx(report.analytic_flops, rel=1e-5)
    attention, mlp, head = tpu_check.sizes(ARCH)
    weights = 2 * ARCH.num_layers * (attention + mlp) + head
    assert report.collectives['all-gather'].bytes == pytest.approx(4 * weights / 4, rel=0.02)


def test_prefill_on_eight_devices():
    """What each part of the heads and of the MLP adds is summed, a matrix of activations each; nothing else is sent."""
    report = checked(tpu_check.prefill(SERVED, make_mesh('data:4,tensor:2'), 8, 64))
    assert report.flops == report.analytic_flops
    assert report.collectives['all-reduce'].bytes == pytest.approx((2 * 2 + 1) * 2 * 64 * 64 * 4, rel=0.02)


def test_decode_on_eight_devices():
    """Caches are in the loop's carry. A CPU keeps a second copy of them, and turns one layer's at a time for a product;
    a TPU does neither."""
    rows, cache = 8, 2048
    report = checked(tpu_check.decode(SERVED, make_mesh('data:4,tensor:2'), rows, 16, cache))
    assert report.flops == report.analytic_flops
    own = ARCH.num_layers * 2 * rows * cache * ARCH.num_kv_heads * ARCH.head_dim * 4 / 8
    assert own < report.temporary_bytes < (2 + 1.1 / ARCH.num_layers) * own


def test_programs_and_their_slices():
    """All of 8B on both slices, of 70B on its own; each has a mesh to be trained and one to be served on."""
    assert list(tpu_check.PROGRAMS) == [
        f'{n}-{m}' for m in ('8b', '70b') for n in ('train', 'critic', 'prefill', 'decode')
    ]
    assert tpu_check.TRAINED.keys() == tpu_check.SERVED.keys()
    assert all(model in tpu_check.SLICES and chip in tpu_check.PEAK for model, chip in tpu_check.SERVED)
