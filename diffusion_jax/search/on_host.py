"""The search of `tree` with rewards that are made on the host (RDKit, docking, a folding program).

The compiled code calls nothing back. A step is two programs, in which the row of the plan is traced, so that each is
compiled once, and once more for the last row:

    propose    candidates, their denoiser outputs, and the designs that they point to
    select     rewards -> values -> winners

The groups are split into two halves that take turns: the pool scores the designs of one while the device denoises the
other. Groups know nothing of each other, so the designs are those of `tree.search` for the same keys and rewards.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core_jax.mesh import fetch
from diffusion_jax.process import Process
from diffusion_jax.rewards import Scorer
from diffusion_jax.search import tree
from diffusion_jax.search.run import Result
from diffusion_jax.value import Value

When = Callable[[Callable[[], Any]], None]  # takes what to call once something is there


class Pace(NamedTuple):
    """Where the time went. `busy` is the share of `seconds` in which the device had work."""

    seconds: float
    busy: float
    compile_seconds: float  # before those; close to 0 where these shapes are known


def search(
    process: Process,
    value: Value,
    plan: tree.Plan,
    keys: jax.Array,
    decode: Callable[[np.ndarray], Sequence[str]],
    scorer: Scorer,
    *,
    x: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> tuple[Result, Pace]:
    """Designs of the groups of `keys` [G] (see `run.group_keys`), from full noise or from states x [G, beams, ...].

    value: its `reward` is not asked, but the scorer's is, for what `decode` makes of designs [N, ...]. Rewards that are
    not finite count as value.floor, and are counted. Groups are laid over the mesh axis `data`; where they do not
    divide into the halves of all devices, some devices repeat a group.

    Raises UserError where the reward is broken, see `rewards.Scorer`, and where not one design has a reward.
    """
    groups, lanes = keys.shape[0], min(2, keys.shape[0])
    devices = 1 if mesh is None else mesh.shape['data']
    size = -(-groups // (lanes * devices)) * devices
    shares = [np.arange(lane * groups // lanes, (lane + 1) * groups // lanes) for lane in range(lanes)]

    began = time.perf_counter()
    process, value, plan = jax.device_put(
        (process, value, plan), None if mesh is None else NamedSharding(mesh, PartitionSpec())
    )
    starts = [(keys[rows], None if x is None else x[rows]) for rows in (np.resize(share, size) for share in shares)]
    programs = _compiled(*_abstract((process, value, plan, *starts[0])), mesh)
    compile_seconds = time.perf_counter() - began

    with _Device() as device:

        def scored(beams: tree.Beams, row: np.int32, last: bool, count: int) -> Iterator[When]:
            """One searched row; the groups after `count` are repetitions."""
            name = 'last' if last else 'row'
            *candidates, designs = device.run(programs[f'propose {name}'], process, value, plan, beams, row)
            yield device.when_idle
            real = np.asarray(plan.compete)[row] >= 0  # [C]
            whole = fetch(designs)  # [G, C, m, ...]
            chosen = whole[:count, real]
            scores = scorer.submit(decode(chosen.reshape(-1, *chosen.shape[3:])))
            yield scores.when_done
            rewards = np.zeros(whole.shape[:3], np.float32)
            rewards[:count, real] = scores.result().reshape(chosen.shape[:3])
            return device.run(programs[f'select {name}'], process, value, plan, beams, row, *candidates, rewards)

        def half(start: tuple, count: int) -> Iterator[When]:
            beams, traced = device.run(programs['start'], process, value, plan, *start), []
            rows = plan.search.shape[0]
            for row in np.arange(rows, dtype=np.int32):
                if row < rows - 1 and not searched[row]:
                    beams, one = device.run(programs['pass'], process, value, plan, beams, row)
                elif row < rows - 1 and value.of_state:
                    beams, one = device.run(programs['judge'], process, value, plan, beams, row)
                else:
                    beams, one = yield from scored(beams, row, row == rows - 1, count)
                traced.append(one)
            trace = {name: np.stack([one[name] for one in fetch(traced)]) for name in traced[0]}
            return _first(fetch(tree.result(plan, beams, trace)), count)

        searched = np.asarray(plan.search)
        halves = [half(start, len(share)) for start, share in zip(starts, shares, strict=True)]
        began = time.perf_counter()
        results = take_turns(halves)
        seconds = time.perf_counter() - began

    result = joined(results)
    return result, Pace(seconds, min(device.busy / seconds, 1.0), compile_seconds)


def take_turns(halves: Sequence[Iterator[When]]) -> list[Any]:
    """Runs generators by turns, each again once what it waits for is there. Returns what they return."""
    results: list[Any] = [None] * len(halves)
    ready: queue.SimpleQueue[int] = queue.SimpleQueue()  # halves that can go on
    for lane in range(len(halves)):
        ready.put(lane)
    while any(one is None for one in results):
        lane = ready.get()
        try:
            when = next(halves[lane])
        except StopIteration as end:
            results[lane] = end.value
        else:
            when(functools.partial(ready.put, lane))
    return results


def joined(results: Sequence[Result]) -> Result:
    """Results of some groups each, as one."""
    return Result(
        *(np.concatenate(parts) for parts in zip(*(one[:2] for one in results), strict=True)),
        {name: np.concatenate([one.trace[name] for one in results], 1) for name in results[0].trace},
        *(np.concatenate(parts) for parts in zip(*(one[3:] for one in results), strict=True)),
    )


def _first(result: Result, count: int) -> Result:
    """The first groups of a half."""
    trace = {name: column[:, :count] for name, column in result.trace.items()}
    return Result(*(field[:count] for field in result[:2]), trace, *(field[:count] for field in result[3:]))


# The programs: of what all devices know (process, value, plan), then of groups, but for the number of the row


def _start(process, value, plan, keys, x):
    return tree.start(process, plan, keys, x)


def _pass(process, value, plan, beams, row):
    x, out = tree.expand(process, plan, beams, row, plan.passing, False)
    beams = tree.accept(plan, tree.counted(process, plan, value, beams, row, False, False), row, x, out)
    return beams, tree.trace(plan, beams, row)


def _judge(process, value, plan, beams, row):
    """A row whose candidates are valued by a function of their states, on the device."""
    x, out = tree.expand(process, plan, beams, row, plan.parent.shape[1], False)
    beams = tree.judged(process, value, plan, beams, row, x, out)
    return beams, tree.trace(plan, beams, row)


def _propose(process, value, plan, beams, row, *, last):
    x, out = tree.expand(process, plan, beams, row, plan.parent.shape[1], last)
    return x, out, tree.candidate_designs(process, value, beams, x, out, row, plan.first + row + 1, last)


def _select(process, value, plan, beams, row, x, out, rewards):
    """rewards [G, C, m], NaN where there is none."""
    beams = tree.scored(process, value, plan, beams, row, x, out, rewards)
    return beams, tree.trace(plan, beams, row)


def _abstract(arguments: tuple) -> tuple[Any, tuple]:
    """(structure, shapes), which can be hashed: what a compilation depends on."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


@functools.lru_cache(maxsize=16)
def _compiled(structure: Any, shapes: tuple, mesh: Mesh | None) -> dict[str, Callable]:
    """The programs that a plan of this kind needs."""
    process, value, plan, keys, x = jax.tree.unflatten(structure, shapes)
    known, row = (process, value, plan), jax.ShapeDtypeStruct((), np.int32)
    programs: dict[str, Callable] = {}

    def build(name: str, function: Callable, *arguments: Any) -> Any:
        """Compiles it and returns the shapes of its results."""
        if mesh is None:
            jitted = jax.jit(function)
        else:
            everywhere, by_group = PartitionSpec(), PartitionSpec('data')
            specs = tuple(everywhere if argument is row else by_group for argument in arguments)
            specs = (everywhere,) * len(known) + specs
            laid = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=by_group, check_vma=False)
            jitted = jax.jit(laid, in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs))
        programs[name] = jitted.lower(*known, *arguments).compile()
        return jax.eval_shape(jitted, *known, *arguments)

    beams = build('start', _start, keys, x)
    if plan.searched != 'all':
        build('pass', _pass, beams, row)
    if plan.searched != 'none' and value.of_state:
        build('judge', _judge, beams, row)
    for name, last in (('row', False), ('last', True)):
        if last or (plan.searched != 'none' and not value.of_state):
            x, out, designs = build(f'propose {name}', functools.partial(_propose, last=last), beams, row)
            rewards = jax.ShapeDtypeStruct(designs.shape[:3], np.float32)
            build(f'select {name}', _select, beams, row, x, out, rewards)
    return programs


class _Device:
    """Runs programs, and knows from a thread of its own when the device has done what it was given."""

    def __init__(self) -> None:
        self.busy = 0.0  # seconds in which it had work
        self._given: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_: Any) -> None:
        self._given.put(None)
        self._thread.join()

    def run(self, program: Callable, *arguments: Any) -> Any:
        began = time.perf_counter()
        results = program(*arguments)
        self._given.put((began, results))
        return results

    def when_idle(self, callback: Callable[[], Any]) -> None:
        """Calls it once what was given so far is done."""
        self._given.put(callback)

    def _watch(self) -> None:
        free = 0.0
        while (item := self._given.get()) is not None:
            if callable(item):
                item()
                continue
            began, results = item
            with contextlib.suppress(Exception):  # whoever fetches the results will meet it
                jax.block_until_ready(results)
            now = time.perf_counter()
            self.busy += now - max(began, free)  # one program after the other, in the order that they were given
            free = now
