"""`make tpu-check`: compiles Llama 3.1 at 8B and 70B for TPU slices with the TPU compiler; no TPU is needed.

    train     an update of supervised fine-tuning: bfloat16 arithmetic on float32 masters, Adam, layers computed again
    critic    an update of SWEET-RL's critic: DPO on sums of turns' token means, the reference's scores in the batch
    prefill   prompts of 8,192 tokens, read into keys and values by a scan over stacked layers
    decode    a token of every row: 2,048 tokens of a prompt before it, and a cache of 8,192 in the loop's carry

Rows of training have 8,192 tokens, one row (of the critic: one pair) a chip; parameters are divided along `fsdp` and
gathered layer by layer. Serving keeps parameters in bfloat16, heads divided along `tensor`, copies along `data`. Shapes
are all that exists of any array here.

What training counts, in products a token. A matrix of a layer: 1 forward, 1 again for the gradient (not down_proj, with
whose output nothing is computed), 2 backward. Attention has two products, scores and sums of values, over all places,
those behind a query too (they are masked, not left out): 2 forward, 2 again with the layer, 1 again with the block of
queries, 4 backward. The head: 1, 1 again, 2. `model` FLOPs beside them are what is asked for: forward and backward
once, attention halved because it is causal, which is how MaxText counts since July 2025.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from core_jax import aot
from core_jax.errors import exit_on_user_error
from core_jax.mesh import make_mesh, replicated
from core_jax.transformer import checkpoint, generate, learner, rules
from core_jax.transformer.config import Config, preset
from core_jax.transformer.model import Prefix

PyTree = Any
LENGTH, PROMPT, TURNS = 8192, 2048, 10
QUERIES = 256  # whose scores exist at a time in training; with 1,024 a pair of rows of 8B takes 20 GB, a v5e has 16
SLICES = {'8b': ('v5e:16x16', 'v5p:4x4x4'), '70b': ('v5p:8x8x8',)}
# FLOP/s of a chip in bfloat16, by jax's name of it. Google Cloud TPU documentation, "System architecture" of v5e, v5p.
PEAK = {'TPU v5 lite': 197e12, 'TPU v5': 459e12}
# Training by model and chip: the mesh, and the share of the peak that MaxText reports for model FLOPs, at the nearest
# of its sizes (src/maxtext/configs/tpu/{v5e,v5p}/README.md). The compiler scatters the sums of gradients where a chip's
# part of a matrix has 256 rows or columns (128 rows will do); of narrower ones it sums the whole and cuts. 8B on a v5e
# has no memory for that: the critic's update takes 14 GB beside its state, which along `fsdp:16` is 6 GB.
TRAINED = {
    ('8b', 'TPU v5 lite'): ('fsdp:256', '61.1 % (16B on v5e-256)'),
    ('8b', 'TPU v5'): ('data:4,fsdp:16', '71.5 % (32B on v5p-128)'),
    ('70b', 'TPU v5'): ('data:8,fsdp:64', '70.3 % (64B on v5p-128)'),
}
# Serving: neighbours along an axis of the torus share a model, which has eight heads of keys.
SERVED = {
    ('8b', 'TPU v5 lite'): 'data:32,tensor:8',
    ('8b', 'TPU v5'): 'data:16,tensor:4',
    ('70b', 'TPU v5'): 'data:64,tensor:8',
}


# Analytic counts


class Sizes(NamedTuple):
    """Numbers in the matrices of a model: of a layer's attention, of its MLP, of the head."""

    attention: int
    mlp: int
    head: int


def sizes(arch: Config) -> Sizes:
    heads = 2 * (arch.num_heads + arch.num_kv_heads) * arch.head_dim
    width = arch.hidden_size
    return Sizes(width * heads, 3 * width * arch.intermediate_size, width * arch.vocab_size)


def attention_flops(arch: Config, places: int) -> float:
    """Of one of attention's two products, for a token that is compared with so many places; of all layers."""
    return 2.0 * arch.num_layers * arch.num_heads * arch.head_dim * places


def training_flops(arch: Config, length: int) -> float:
    """Of a token, of an update with remat 'full', in rows of more than one block of queries; see above."""
    attention, mlp, head = sizes(arch)
    layers = 2 * arch.num_layers * (4 * attention + (4 - 1 / 3) * mlp)
    return layers + 9 * attention_flops(arch, length) + 4 * 2 * head


def prefill_flops(arch: Config, length: int) -> float:
    """Of a prompt, of whose last token the logits are made."""
    attention, mlp, head = sizes(arch)
    return length * (2 * arch.num_layers * (attention + mlp) + 2 * attention_flops(arch, length)) + 2 * head


def decode_flops(arch: Config, places: int) -> float:
    """Of a token behind so many places, full or not."""
    attention, mlp, head = sizes(arch)
    return 2 * arch.num_layers * (attention + mlp) + 2 * attention_flops(arch, places) + 2 * head


# Programs


class Under(NamedTuple):
    """A jitted function that is traced with its mesh at hand, which is when the engine lays what it computes."""

    jitted: Any
    mesh: Mesh

    def lower(self, *arguments: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return self.jitted.lower(*arguments)


def training(
    arch: Config, mesh: Mesh, rows: int, length: int, *, pairs: bool, facts: dict | None = None
) -> aot.Program:
    """An update of rows, or of so many pairs of them."""
    config = learner.get_config()
    config.batch_size = rows
    names = ('tokens', 'positions', 'segments', 'mask') + (('turns',) if pairs else ())
    batch = {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name in names}
    if pairs:
        config.update(objective='dpo', reduction='turn_mean_sum', turns=TURNS)
        score = jax.ShapeDtypeStruct((rows,), jnp.float32)
        batch = {'chosen': batch, 'rejected': batch, 'reference_chosen': score, 'reference_rejected': score}
    made = learner.make(arch, config)
    state = jax.eval_shape(lambda batch: made.init(jax.random.key(0), batch), batch)
    laid = rules.params(state, mesh)
    hparams = {name: jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh)) for name in made.hparams}
    jitted = jax.jit(made.update, donate_argnums=0, out_shardings=(laid, replicated(mesh)))
    arguments = spread(state, laid), spread(batch, rules.batch(batch, mesh)), hparams
    tokens = rows * length * (2 if pairs else 1)
    return aot.Program(
        Under(jitted, mesh), arguments, mesh, TRAINING, tokens * training_flops(arch, length), facts=facts
    )


# Weights are gathered, their gradients summed and divided; losses, norms and statistics are summed. Every chip looks up
# the tokens of all in its columns of the embedding, and columns then change places with rows.
TRAINING = {'all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all'}


def prefill(arch: Config, mesh: Mesh, rows: int, length: int) -> aot.Program:
    """Prompts of this length, read."""
    jitted = jax.jit(lambda *arguments: generate.prefill(arch, *arguments))
    arguments = served(arch, mesh, apart=False), *by_rows(mesh, ((rows, length), jnp.int32), ((rows,), jnp.int32))
    return aot.Program(Under(jitted, mesh), arguments, mesh, SERVING, rows * prefill_flops(arch, length))


def decode(arch: Config, mesh: Mesh, rows: int, prompt: int, cache: int) -> aot.Program:
    """A token of each row, the loop's turn."""

    def drawn(params, kv, seen, first, lengths, key):
        options = {'samples': 1, 'max_tokens': cache, 'stops': (0,), 'sampling': generate.Sampling()}
        return generate.decode(arch, params, Prefix(kv, seen), first, lengths, key, **options)

    shape = rows, arch.num_kv_heads, prompt, arch.head_dim
    cell = jax.ShapeDtypeStruct(shape, arch.dtype, sharding=NamedSharding(mesh, P(rules.BATCH, 'tensor')))
    kv = tuple([cell] * arch.num_layers for _ in range(2))
    seen, first, lengths = by_rows(
        mesh, ((rows, prompt), bool), ((rows, arch.vocab_size), jnp.float32), ((rows,), jnp.int32)
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = served(arch, mesh, apart=True), kv, seen, first, lengths, spread(key, replicated(mesh))
    flops = rows * decode_flops(arch, prompt + cache)
    return aot.Program(Under(jax.jit(drawn), mesh), arguments, mesh, SERVING, flops, turns=1)


# Heads and parts of the MLP are added up over the chips that share a model; so are parts of the logits' statistics.
SERVING = {'all-reduce', 'all-gather'}


def served(arch: Config, mesh: Mesh, *, apart: bool) -> PyTree:
    """Parameters in the type of the arithmetic, layers stacked or apart."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, arch.dtype), checkpoint.shapes(arch))
    params = jax.eval_shape(generate.unstack, params) if apart else params
    return spread(params, rules.params(params, mesh))


def by_rows(mesh: Mesh, *arrays: tuple) -> list[jax.ShapeDtypeStruct]:
    """Arrays (shape, type) whose first axis is that of the batch."""
    sharding = NamedSharding(mesh, P(rules.BATCH))
    return [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in arrays]


def spread(tree: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


# What is compiled


def trained(model: str, pairs: bool):
    """A function of a slice's devices."""

    def make(devices: list) -> aot.Program:
        arch = preset(f'llama-3.1-{model}', dtype='bfloat16', remat='full', query_block=QUERIES)
        chip = devices[0].device_kind
        shape, published = TRAINED[model, chip]
        tokens = LENGTH * (2 if pairs else 1)  # a chip
        counted, asked = training_flops(arch, LENGTH), arch.flops_a_token(LENGTH, backward=True)
        facts = {
            'tokens a chip': tokens,
            'GFLOP a token': round(counted / 1e9, 1),
            'of the model': round(asked / 1e9, 1),
            'seconds at the peak': round(tokens * counted / PEAK[chip], 2),
            'for the model FLOPs alone': round(tokens * asked / PEAK[chip], 2),
            'MaxText reports': published,
        }
        return training(arch, make_mesh(shape, devices), len(devices), LENGTH, pairs=pairs, facts=facts)

    return make


def read(model: str):
    """One prompt a chip: as many as there are chips that share a model are read by them."""

    def make(devices: list) -> aot.Program:
        return prefill(*serving(model, devices), len(devices), LENGTH)

    return make


def drawn(model: str):
    """Four rows a chip."""

    def make(devices: list) -> aot.Program:
        return decode(*serving(model, devices), 4 * len(devices), PROMPT, LENGTH)

    return make


def serving(model: str, devices: list) -> tuple[Config, Mesh]:
    mesh = make_mesh(SERVED[model, devices[0].device_kind], devices)
    return preset(f'llama-3.1-{model}', dtype='bfloat16'), mesh


PROGRAMS = {
    f'{name}-{model}': program
    for model in SLICES
    for name, program in (
        ('train', trained(model, pairs=False)),
        ('critic', trained(model, pairs=True)),
        ('prefill', read(model)),
        ('decode', drawn(model)),
    )
}


def main() -> int:
    slices = {name: SLICES[name.partition('-')[2]] for name in PROGRAMS}
    about = f'A call is an update of rows of {LENGTH} tokens, a batch of prompts, or a token of every row.'
    return aot.main('core_jax.transformer.tpu_check', PROGRAMS, slices, about, 'results/transformer_tpu_check.json')


if __name__ == '__main__':
    exit_on_user_error(main)
