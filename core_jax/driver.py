"""The driver: what happens on the device between two visits of the host.

It runs one compiled program, `chunk`: for each of `n` updates (n is traced, so there is one compilation whatever the
intervals), take a batch from the source, update the learner, check that every metric is finite, add up the metrics.
Data are in the carry or on the device: an offline dataset, a replay, a JAX environment. For what a feed on the host
brings, see `host_driver`.

A population is a leading axis on the carry and on the hparams. Members are mapped one after the other (`lax.map`) or
vectorised (`vmap`), as the numerics policy says, and laid over the mesh axis `population`. A member with a non-finite
metric keeps its last good state from then on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core_jax import sharding
from core_jax.errors import UserError, unknown
from core_jax.mesh import fetch, place, replicated
from core_jax.state import Learner

PyTree = Any
REPLICATE: sharding.Rules = ((r'.*', PartitionSpec()),)
# What the keys of a source's hooks are told apart by.
ADVANCE, REPORT = 0x0AD7, 0x02E9


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What decides the last bits of a run; saved with it and used again on resume, never chosen by timing."""

    updates: str = 'scan'  # scan: many updates a dispatch; loop: one jitted call per update
    population: str = 'map'  # map: a member equals its solo run bit for bit; vmap: faster on accelerators
    matmul_precision: str = 'default'  # jax_default_matmul_precision: default, high, highest

    OPTIONS = {
        'updates': ('scan', 'loop'),
        'population': ('auto', 'map', 'vmap'),
        'matmul_precision': ('default', 'high', 'highest'),
    }

    @classmethod
    def resolve(cls, **fields: str) -> Numerics:
        """The policy with `population='auto'` decided by the backend; applies the matmul precision."""
        for name, value in fields.items():
            if name not in cls.OPTIONS:
                raise unknown('numerics field', name, cls.OPTIONS)
            if value not in cls.OPTIONS[name]:
                raise unknown(f'value of numerics.{name}', value, cls.OPTIONS[name])
        if fields.get('population', 'auto') == 'auto':
            fields['population'] = 'map' if jax.default_backend() == 'cpu' else 'vmap'
        numerics = cls(**fields)
        jax.config.update('jax_default_matmul_precision', numerics.matmul_precision)
        return numerics


class Source(NamedTuple):
    """Where batches come from.

    constants                                         on the device for the whole run, neither donated nor saved
    example                                           shapes and dtypes of a batch
    init(key) -> data                                 what changes while training (replay, environments): donated, saved
    sample(constants, data, state, key) -> (data, batch)
    receive(data, host_batch) -> data                 takes what a feed brought (`host_driver`)
    advance(constants, data, state, key, update) -> data
        before each update's sample, where data change by themselves (an environment on the device). `update`, how many
        updates were made, is the same number for all members: under vmap too, it may decide what is run.
    report(constants, data, state, key, hparams) -> (data, {name: scalar})
        at a log point: what the source has to say, beside the means of the learner's metrics
    """

    constants: PyTree
    example: PyTree
    sample: Callable[..., tuple[PyTree, PyTree]]
    init: Callable[[jax.Array], PyTree] = lambda key: ()
    receive: Callable[[PyTree, PyTree], PyTree] = lambda data, host_batch: host_batch
    advance: Callable[..., PyTree] | None = None
    report: Callable[..., tuple[PyTree, dict[str, jax.Array]]] | None = None


@flax.struct.dataclass
class Carry:
    """One member's run. sums and count restart at each log; bad_step is the update that went non-finite, or -1."""

    key: jax.Array  # of the source; the learner has its own
    state: PyTree
    data: PyTree
    sums: dict[str, jax.Array]
    count: jax.Array
    bad_step: jax.Array
    bad_metrics: dict[str, jax.Array]


class Report(NamedTuple):
    """What the host learns at a log point, numpy with a leading member axis [P]."""

    metrics: dict[str, np.ndarray]  # means since the last log
    count: np.ndarray
    bad_step: np.ndarray
    bad_metrics: dict[str, np.ndarray]


class DeviceDriver:
    """Runs a learner on data that lives on the device. `advance(n)` returns at once; `report()` waits."""

    def __init__(
        self,
        learner: Learner,
        source: Source,
        *,
        mesh: Mesh,
        seeds: Sequence[int] = (0,),
        hparams: dict[str, Any] | None = None,  # scalars or one value a member
        numerics: Numerics | None = None,
        rules: sharding.Rules = REPLICATE,
        chunk: int = 1000,  # most updates in one dispatch
    ):
        members = len(seeds)
        if members % mesh.shape['population']:
            raise UserError(f'{members} members do not divide over the mesh axis population:{mesh.shape["population"]}')
        self.learner, self.source, self.mesh, self.rules = learner, source, mesh, rules
        self.members, self.chunk_size, self.traces = members, chunk, 0
        self.numerics = numerics or Numerics()
        self.assign(seeds, hparams)

        # Shapes first, then arrays.
        self._example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), source.example)
        member = jax.eval_shape(self._init_member, jax.ShapeDtypeStruct((), jnp.uint32))
        self.abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct((members, *x.shape), x.dtype), member)
        self.shardings = self._carry_shardings(member)
        self._per_member = NamedSharding(mesh, PartitionSpec('population'))
        self._initialize = jax.jit(
            lambda seeds: self._over_members(lambda seed, _: self._init_member(seed), seeds),
            out_shardings=self.shardings,
        )
        self._chunk = jax.jit(self._run, donate_argnums=0, out_shardings=(self.shardings, None))
        self._flush = jax.jit(self._report, donate_argnums=0, out_shardings=(self.shardings, replicated(mesh)))

    # The program

    def _init_member(self, seed: jax.Array) -> Carry:
        key = jax.random.key(seed)
        state_key, data_key, source_key = jax.random.split(key, 3)
        example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._example)
        state = self.learner.init(state_key, example)
        hparams = {name: jnp.zeros(()) for name in self.hparams}
        metrics = jax.eval_shape(self.learner.update, state, example, hparams)[1]
        zeros = {name: jnp.zeros((), jnp.float32) for name in metrics}
        none = jnp.full((), -1, jnp.int32)
        return Carry(source_key, state, self.source.init(data_key), zeros, jnp.zeros((), jnp.int32), none, dict(zeros))

    def _step(self, carry: Carry, constants: PyTree, hparams: dict, update: jax.Array) -> Carry:
        key, data = jax.random.fold_in(carry.key, carry.state.step), carry.data
        if self.source.advance:
            data = self.source.advance(constants, data, carry.state, jax.random.fold_in(key, ADVANCE), update)
        data, batch = self.source.sample(constants, data, carry.state, key)
        batch = self._spread(batch)
        state, metrics = self.learner.update(carry.state, batch, hparams)
        metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
        finite = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()
        running = carry.bad_step < 0
        good = finite & running
        # The choice fuses into the optimizer's arithmetic: it reads nothing that is not read anyway.
        state = jax.tree.map(lambda new, old: new if new is old else jnp.where(good, new, old), state, carry.state)
        sums = {name: carry.sums[name] + jnp.where(good, value, 0.0) for name, value in metrics.items()}
        bad = running & ~finite
        bad_metrics = {name: jnp.where(bad, value, carry.bad_metrics[name]) for name, value in metrics.items()}
        bad_step = jnp.where(bad, carry.state.step + 1, carry.bad_step)
        return Carry(carry.key, state, data, sums, carry.count + good, bad_step, bad_metrics)

    def _spread(self, batch: PyTree) -> PyTree:
        """Rows of a batch along the mesh axis `data`."""
        if self.mesh.shape['data'] == 1:
            return batch
        return jax.lax.with_sharding_constraint(batch, sharding.batch_spec(batch, self.mesh))

    def _run(
        self, carry: Carry, constants: PyTree, hparams: dict, n: jax.Array, first: jax.Array
    ) -> tuple[Carry, jax.Array]:
        self.traces += 1

        def member(one, shared):
            (carry, hparams), (constants, n, first) = one, shared
            return jax.lax.fori_loop(0, n, lambda i, c: self._step(c, constants, hparams, first + i), carry)

        # A fresh output says when this chunk is done: the carry itself is donated to the next one.
        return self._over_members(member, (carry, hparams), (constants, n, first)), n + 0

    def _over_members(self, function: Callable, stacked: PyTree, shared: PyTree = ()) -> PyTree:
        """function(member, shared) for each member, by the numerics policy, spread over the axis `population`."""

        def local(stacked, shared):
            if jax.tree.leaves(stacked)[0].shape[0] == 1:
                result = function(jax.tree.map(lambda x: x[0], stacked), shared)
                return jax.tree.map(lambda x: x[None], result)
            if self.numerics.population == 'vmap':
                return jax.vmap(function, in_axes=(0, None))(stacked, shared)
            return jax.lax.map(lambda one: function(one, shared), stacked)

        if self.mesh.shape['population'] == 1:
            return local(stacked, shared)
        spec = PartitionSpec('population')
        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(spec, PartitionSpec()),
            out_specs=spec,
            axis_names={'population'},
            check_vma=False,
        )(stacked, shared)

    def _report(self, carry: Carry, constants: PyTree, hparams: dict) -> tuple[Carry, Report]:
        means = {name: value / jnp.maximum(carry.count, 1) for name, value in carry.sums.items()}
        if self.source.report:

            def told(one, constants):
                carry, hparams = one
                key = jax.random.fold_in(jax.random.fold_in(carry.key, carry.state.step), REPORT)
                return self.source.report(constants, carry.data, carry.state, key, hparams)

            data, found = self._over_members(told, (carry, hparams), constants)
            carry, means = carry.replace(data=data), means | found
        report = Report(means, carry.count, carry.bad_step, carry.bad_metrics)
        zeros = jax.tree.map(jnp.zeros_like, carry.sums)
        return carry.replace(sums=zeros, count=jnp.zeros_like(carry.count)), report

    def assign(self, seeds: Sequence[int], hparams: dict[str, Any] | None = None) -> None:
        """Makes this the driver of another run with as many members: the same compiled program, nothing of the last."""
        if len(seeds) != self.members:
            raise ValueError(f'{len(seeds)} seeds for {self.members} members')
        values = self.learner.hparams | (hparams or {})
        self.seeds = np.asarray(seeds, np.uint32)
        self.hparams = {
            name: np.broadcast_to(np.asarray(value, np.float32), (self.members,)).copy()
            for name, value in values.items()
        }
        self.carry: Carry | None = None
        self.updates = 0
        self._tokens: list[jax.Array] = []

    # Placement

    def _carry_shardings(self, member: Carry) -> Carry:
        """Rules for the state, `data` for the rows of a replay, `population` in front of everything."""
        state = sharding.infer(member.state, self.mesh, self.rules)
        data = sharding.batch_spec(member.data, self.mesh)
        rest = jax.tree.map(lambda _: replicated(self.mesh), member)
        population = 'population' if self.mesh.shape['population'] > 1 else None
        return jax.tree.map(
            lambda s: NamedSharding(self.mesh, PartitionSpec(population, *s.spec)), rest.replace(state=state, data=data)
        )

    def bytes_per_device(self) -> dict[str, int]:
        """Bytes that the state and the data will take on each device, known before anything is allocated."""

        def total(shapes, shardings):
            sizes = jax.tree.map(
                lambda x, s: int(np.prod(s.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize, shapes, shardings
            )
            return sum(jax.tree.leaves(sizes))

        constants = sum(
            int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize
            for x in jax.tree.leaves(self.source.constants)
        )
        data = total(self.abstract.data, self.shardings.data)
        everything = total(self.abstract, self.shardings)
        return {'state': everything - data, 'data': data + constants}

    # Running

    def initialize(self) -> None:
        """A fresh carry, made on the device under its shardings: the same bits on every mesh."""
        self.start(self._initialize(place(self.seeds, self._per_member)))

    def start(self, carry: Carry, updates: int = 0) -> None:
        """Takes over a carry, fresh or restored. The hparams go to the device here."""
        self.carry, self.updates = carry, updates
        self._placed = place(self.hparams, {name: self._per_member for name in self.hparams})

    def target(self) -> Carry:
        """Shapes, dtypes and shardings of the carry, for a checkpoint to restore into."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self.abstract, self.shardings
        )

    def bind(self, constants: PyTree) -> None:
        """Gives the source its arrays, where the driver was made from their shapes alone (or for another run)."""
        self.source = self.source._replace(constants=constants)

    def lower(self, updates: int) -> jax.stages.Lowered:
        """A chunk of a fixed number of updates, lowered from shapes alone (for `core_jax.aot`)."""
        hparams = {
            name: jax.ShapeDtypeStruct((self.members,), jnp.float32, sharding=self._per_member) for name in self.hparams
        }

        def run(carry, constants, hparams):
            return self._run(carry, constants, hparams, jnp.int32(updates), jnp.int32(0))

        program = jax.jit(run, donate_argnums=0, out_shardings=(self.shardings, None))
        return program.lower(self.target(), self.source.constants, hparams)

    def advance(self, updates: int) -> None:
        """Dispatches `updates` more updates and returns while they run, at most two dispatches ahead."""
        size = self.chunk_size if self.numerics.updates == 'scan' else 1
        while updates > 0:
            n = min(size, updates)
            count, first = place((np.int32(n), np.int32(self.updates)), (replicated(self.mesh),) * 2)
            with jax.transfer_guard('disallow'):
                self.carry, token = self._chunk(self.carry, self.source.constants, self._placed, count, first)
            self._tokens.append(token)
            if len(self._tokens) > 2:
                jax.block_until_ready(self._tokens.pop(0))
            self.updates += n
            updates -= n

    def wait(self) -> None:
        """Returns when everything dispatched has run."""
        jax.block_until_ready(self.carry)
        self._tokens.clear()

    def report(self) -> Report:
        """Means since the last report, which restart."""
        self.carry, report = self._flush(self.carry, self.source.constants, self._placed)
        return fetch(report)

    def state(self, member: int = 0) -> PyTree:
        """One member's learner state as a host tree (all processes must ask together)."""
        take = jax.jit(lambda tree: jax.tree.map(lambda x: x[member], tree), out_shardings=replicated(self.mesh))
        return fetch(take(self.carry.state))

    def policies(self) -> list[PyTree]:
        """Each member's policy, a numpy tree: what `act` reads."""
        stacked = jax.jit(jax.vmap(self.learner.policy), out_shardings=replicated(self.mesh))(self.carry.state)
        stacked = fetch(stacked)
        return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(self.members)]

    def diagnose(self, member: int) -> list[str]:
        """Names of the leaves that are non-finite when the frozen update of `member` is made once more."""

        def again(carry, constants, hparams):
            carry, hparams = jax.tree.map(lambda x: x[member], (carry, hparams))
            key = jax.random.fold_in(carry.key, carry.state.step)
            _, batch = self.source.sample(constants, carry.data, carry.state, key)
            state, metrics = self.learner.update(carry.state, batch, hparams)
            found = {'state before': carry.state, 'batch': batch, 'metrics': metrics, 'state after': state}
            return jax.tree.map(_all_finite, found)

        again = jax.jit(again, out_shardings=replicated(self.mesh))
        finite = fetch(again(self.carry, self.source.constants, self._placed))
        flat = zip(sharding.names(finite), jax.tree.leaves(finite), strict=True)
        return [name for name, good in flat if not good]


def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all() if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.array(True)
