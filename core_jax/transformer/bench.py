"""Measures the decoder on this machine beside transformers with PyTorch: the same weights, turns taken in one run.

    make bench                                   everything, some minutes
    python -m core_jax.transformer.bench --only=decode

    prefill       the logits that follow a prompt of 256 tokens
    decode        tokens a second behind a prompt of 64, one row and eight
    train         a training step (all parameters, Adam) on a row of 256 tokens
    score         log-probabilities of 16 candidates of 32 tokens behind one prompt of 256: the prompt read once, and
                  read with every candidate, as the peer does
    accelerator   on a GPU or TPU: FLOPs of a training step of Llama 3.2 1B in bfloat16, and decoding, against what the
                  chip could do

The model is SmolLM2-135M in float32. The peer runs in the Python that --peers names, with torch and transformers (here:
pip install 'tenfold[parity]').
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from core_jax import bench
from core_jax.cli import keep_memory
from core_jax.errors import exit_on_user_error

PARTS = ('prefill', 'decode', 'train', 'score', 'accelerator')
PROMPT, BEHIND, NEW, ROW, STEM, CANDIDATES, CANDIDATE = 256, 64, 32, 256, 256, 16, 32
INSTALL = "pip install 'tenfold[parity]'"
# Dense bfloat16 FLOPs and bytes of memory a second, by what jax calls the chip. NVIDIA's data sheets of A100, H100 SXM
# and H200; Google Cloud TPU documentation, "System architecture" of v5e and v5p.
CHIPS = {
    'A100': (312e12, 2.0e12),
    'H100': (989e12, 3.35e12),
    'H200': (989e12, 4.8e12),
    'TPU v5 lite': (197e12, 0.82e12),
    'TPU v5': (459e12, 2.77e12),
}


def main() -> int:
    parser = bench.parser('python -m core_jax.transformer.bench', __doc__, PARTS)
    parser.add_argument('--model', default='smollm2-135m', help='a name in a package, or a directory (%(default)s)')
    parser.add_argument('--peers', default=sys.executable, metavar='PYTHON', help="of the peer's environment")
    flags, parts, measure = bench.parse(parser, PARTS)
    keep_memory()
    show = bench.Rows()
    beside = [part for part in parts if part != 'accelerator']
    with contextlib.ExitStack() as stack:
        if beside:
            from core_jax.transformer import checkpoint, fetch

            path = pathlib.Path(flags.model)
            directory = path if path.is_dir() else fetch.fetch(flags.model)
            peer = _peer(flags.peers, directory, stack)
            model = checkpoint.load(directory)
            for part in beside:
                MEASURED[part](show, measure, model, peer)
    if 'accelerator' in parts:
        bench_accelerator(show, measure)
    show.append_to(flags.out)
    return 0


def _peer(python: str, directory: pathlib.Path, stack: contextlib.ExitStack) -> bench.Peer | None:
    """The peer at work, or None where it is not installed."""
    if bench.installed(python, ['torch', 'transformers']) != {'torch', 'transformers'}:
        print(f'no peer: torch and transformers are not installed ({INSTALL})')
        return None
    script = str(pathlib.Path(__file__).with_name('bench_peer.py'))
    return stack.enter_context(bench.Peer([python, script, str(directory)], os.environ | {'HF_HUB_OFFLINE': '1'}))


def rows(vocabulary: int, count: int, length: int, seed: int = 0):
    """Random tokens [count, length], the same for both."""
    import numpy as np

    return np.random.default_rng(seed).integers(3, vocabulary, (count, length)).astype(np.int32)


def bench_prefill(show: Callable, measure: Callable, model: tuple, peer: bench.Peer | None) -> None:
    """One prompt."""
    import jax
    import numpy as np

    from core_jax.transformer import generate

    arch, params = model
    tokens, lengths = rows(arch.vocab_size, 1, PROMPT), np.array([PROMPT], np.int32)
    read = jax.jit(lambda params, tokens, lengths: generate.prefill(arch, params, tokens, lengths)[1])
    seconds, read = _compiled(read, params, tokens, lengths)
    _beside(
        show,
        measure,
        {'bench': 'transformer prefill', 'tokens': PROMPT, 'compile_seconds': seconds},
        _repeated(read, params, tokens, lengths),
        peer and functools.partial(peer.ask, do='prefill', tokens=tokens.tolist()),
        PROMPT,
    )


def bench_decode(show: Callable, measure: Callable, model: tuple, peer: bench.Peer | None) -> None:
    """NEW tokens behind a prompt. The time of reading the prompt is in it, for both."""
    import jax
    import numpy as np

    from core_jax.transformer import generate

    arch, params = model
    layers = jax.jit(generate.unstack)(params)
    for count in (1, 8):
        tokens, lengths = rows(arch.vocab_size, count, BEHIND), np.full(count, BEHIND, np.int32)
        options = {'max_tokens': NEW, 'sampling': generate.Sampling(temperature=0)}
        draw = jax.jit(functools.partial(generate.generate, arch, **options))
        seconds, draw = _compiled(draw, layers, tokens, lengths, jax.random.key(0))
        _beside(
            show,
            measure,
            {'bench': 'transformer decode', 'rows': count, 'prompt': BEHIND, 'new': NEW, 'compile_seconds': seconds},
            _repeated(draw, layers, tokens, lengths, jax.random.key(0)),
            peer and functools.partial(peer.ask, do='decode', tokens=tokens.tolist(), new=NEW),
            count * NEW,
        )


def bench_train(show: Callable, measure: Callable, model: tuple, peer: bench.Peer | None) -> None:
    """A step of fine-tuning: loss, gradients of all parameters, Adam."""
    import jax

    from core_jax.transformer import learner

    arch, params = model
    config = learner.get_config()
    config.update({'batch_size': 1, 'learning_rate': 1e-6})
    made = learner.make(arch, config)
    batch = _batch(rows(arch.vocab_size, 1, ROW))
    state = jax.jit(made.init)(jax.random.key(0), batch)
    state = state.replace(net=state.net.replace(params=jax.tree.map(lambda x: x.copy(), params)))
    update = jax.jit(lambda state, batch: made.update(state, batch, made.hparams), donate_argnums=0)
    seconds, update = _compiled(update, state, batch)
    kept = [state]

    def ours(count: int) -> None:
        for _ in range(count):
            kept[0], metrics = update(kept[0], batch)
        jax.block_until_ready(metrics)

    _beside(
        show,
        measure,
        {'bench': 'transformer train', 'tokens': ROW, 'compile_seconds': seconds},
        ours,
        peer and functools.partial(peer.ask, do='train', tokens=batch['tokens'].tolist()),
        ROW,
    )


def bench_score(show: Callable, measure: Callable, model: tuple, peer: bench.Peer | None) -> None:
    """Candidates of one prompt: its reading shared, beside whole rows; the peer scores whole rows."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from core_jax.transformer.losses import branch_logps, token_logps

    arch, params = model
    stem, ends = rows(arch.vocab_size, 1, STEM), rows(arch.vocab_size, CANDIDATES, CANDIDATE, 1)
    whole = np.concatenate([np.repeat(stem, CANDIDATES, 0), ends], 1)

    def shared(params, stem, ends):
        behind = jnp.concatenate([jnp.repeat(stem[:, -1:], CANDIDATES, 0), ends], 1)[None]
        branches = {'stem': stem[:, :-1], 'length': jnp.array([STEM - 1]), 'tokens': behind}
        branches |= {'segments': jnp.ones_like(behind), 'after': jnp.full((1, CANDIDATES), STEM - 1)}
        return branch_logps(arch, params, branches).sum((0, 2))

    def apart(params, whole):
        positions = jnp.broadcast_to(jnp.arange(whole.shape[1]), whole.shape)
        return token_logps(arch, params, whole, positions, jnp.ones_like(whole))[:, STEM:].sum(1)

    seconds, once = _compiled(jax.jit(shared), params, stem, ends)
    _, again = _compiled(jax.jit(apart), params, whole)
    np.testing.assert_allclose(once(params, stem, ends), again(params, whole), rtol=1e-3)
    _beside(
        show,
        measure,
        {'bench': 'transformer score', 'prompt': STEM, 'candidates': CANDIDATES, 'compile_seconds': seconds},
        _repeated(once, params, stem, ends),
        peer and functools.partial(peer.ask, do='score', tokens=whole.tolist(), behind=STEM),
        CANDIDATES,
        apart=_repeated(again, params, whole),
    )


MEASURED = {'prefill': bench_prefill, 'decode': bench_decode, 'train': bench_train, 'score': bench_score}


def bench_accelerator(show: Callable, measure: Callable) -> None:
    """Llama 3.2 1B on one chip: the model FLOPs of a training step (6 a parameter and token, and attention, of which
    the half that is masked does not count) and the weights that a decoded token reads, over what the chip can do."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from core_jax.transformer import generate, learner, model
    from core_jax.transformer.config import preset

    device = jax.devices()[0]
    chip = next((name for name in sorted(CHIPS, key=len, reverse=True) if name in device.device_kind), None)
    if chip is None:
        print(f'accelerator: left out, {device.device_kind} is none of {", ".join(CHIPS)}')
        return
    peak, bandwidth = CHIPS[chip]
    arch = preset('llama-3.2-1b', dtype='bfloat16', remat='full')
    config = learner.get_config()
    count, length = 8, 2048
    config.update({'batch_size': count, 'micro': 2})
    made, batch = learner.make(arch, config), _batch(rows(arch.vocab_size, count, length))
    state = [jax.jit(made.init)(jax.random.key(0), batch)]
    update = jax.jit(lambda state, batch: made.update(state, batch, made.hparams), donate_argnums=0)

    def train(times: int) -> None:
        for _ in range(times):
            state[0], metrics = update(state[0], batch)
        jax.block_until_ready(metrics)

    steps = measure({'ours': train})['ours']
    size = sum(x.size for x in jax.tree.leaves(state[0].net.params))
    square = 2 * 2 * arch.num_layers * arch.num_heads * arch.head_dim * length / 2  # FLOPs a token, scores and sums
    flops = count * length * (6 * size + 3 * square)
    middle = statistics.median(steps)
    row = {'bench': 'transformer train', 'model': 'llama-3.2-1b, bfloat16', 'chip': device.device_kind}
    row |= {'tokens': count * length, 'milliseconds': 1000 / middle, 'flops_utilisation': flops * middle / peak}
    show(row | {'low': flops * min(steps) / peak, 'high': flops * max(steps) / peak})
    state.clear()
    params = jax.jit(lambda key: jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.init(arch, key)))
    layers = jax.jit(generate.unstack)(params(jax.random.key(0)))
    tokens, lengths = rows(arch.vocab_size, 1, 128), np.array([128], np.int32)
    draw = jax.jit(functools.partial(generate.generate, arch, max_tokens=128, sampling=generate.Sampling(0)))
    rates = measure({'ours': _repeated(draw, layers, tokens, lengths, jax.random.key(0))})['ours']
    least = 2 * size / bandwidth  # seconds a token: every weight is read once
    row = {'bench': 'transformer decode', 'model': 'llama-3.2-1b, bfloat16', 'chip': device.device_kind, 'rows': 1}
    show(row | {'tokens_per_second': 128 * statistics.median(rates), 'floor_share': 128 * max(rates) * least})


def _batch(tokens: Any) -> dict[str, Any]:
    import numpy as np

    places = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape).copy()
    ones = np.ones_like(tokens)
    return {'tokens': tokens, 'positions': places, 'segments': ones, 'mask': ones}


def _compiled(function: Any, *arguments: Any) -> tuple[float, Any]:
    """(seconds it took, the compiled program)."""
    began = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return time.perf_counter() - began, compiled


def _repeated(program: Any, *arguments: Any) -> Callable[[int], None]:
    import jax

    def run(count: int) -> None:
        for _ in range(count):
            out = program(*arguments)
        jax.block_until_ready(out)

    return run


def _beside(
    show: Callable, measure: Callable, row: dict[str, Any], ours: Callable, peer: Callable | None, work: int, **more
) -> None:
    """Measures a call of ours and of the peer in turns; `work`: tokens, or candidates, a call."""
    functions = {'ours': ours, **more} | ({'peer': lambda count: peer(count=count)} if peer else {})
    rates = measure(functions)
    for name, values in rates.items():
        before = '' if name == 'ours' else f'{name}_'
        row |= {f'{before}{what}': value for what, value in bench.spread(values, work).items()}
    for name in rates:
        if name != 'ours':
            row[f'ratio_to_{name}'] = bench.ratio(rates['ours'], rates[name])
    if peer:
        row['peer'] = ', '.join(f'{name} {version}' for name, version in peer.func.__self__.versions.items())
    show(row)


if __name__ == '__main__':
    exit_on_user_error(main)
