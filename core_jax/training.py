"""Models that are trained here once and kept: denoisers, oracles, anything that is a learner on an array of examples.

    NAME-HASH/               a run directory (config.json, metrics.jsonl), and
    NAME-HASH/policy.npz     the parameters, written last

HASH stands for settings, data, seed, start and the shapes of the parameters, so that a change of any of these is
another model and never a stale file. What it does not see is a change of the code.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax import checkpoint, loop, session, sharding
from core_jax.datasets import fingerprint
from core_jax.driver import DeviceDriver, Numerics, Source
from core_jax.files import plain
from core_jax.mesh import make_mesh, place, replicated
from core_jax.runs import Run
from core_jax.state import Learner, PyTree

REPORTS = 20  # lines of metrics over a training
SAVE = 2000  # updates between checkpoints; a signal saves at once


def trained(
    home: pathlib.Path,
    name: str,
    learner: Learner,
    data: dict[str, np.ndarray],
    config: ml_collections.ConfigDict,
    *,
    paper: str,
    steps: int,
    seed: int = 0,
    start: PyTree | None = None,
    put: Callable[[PyTree, PyTree], PyTree] | None = None,
    shared: dict[str, PyTree] | None = None,
) -> PyTree:
    """The parameters (`learner.policy`: the EMA where it keeps one) of a model trained here, once, below `home`.

    data: arrays with a leading axis of examples [N]; an update sees `config.batch_size` of them, drawn uniformly.
    config: what the learner was made of; it names the file and is written beside it.
    start: parameters to begin with in place of fresh ones; put(state, start) -> state says where they belong.
    shared: what every batch holds beside its examples, whole: the parameters that an adapter belongs to.

    A finished model is loaded; an interrupted training is taken up. One device trains, however many there are, so that
    the parameters do not depend on the machine's layout. Raises loop.Preempted after a signal (saved), loop.NonFinite
    for bad numbers, UserError where another process trains the same model.
    """
    source = _source(data, config.batch_size, shared or {})
    structure = _structure(learner, source.example)
    identity = {
        'name': name,
        'config': plain(config.to_dict()),
        'steps': steps,
        'seed': seed,
        'data': fingerprint(data),
        'parameters': dict(zip(sharding.names(structure), map(str, jax.tree.leaves(structure)), strict=True)),
    }
    if start is not None:
        identity['start'] = fingerprint(_named(start))
    if shared:
        identity['shared'] = fingerprint(_named(shared))
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = home / f'{name}-{digest[:16]}'
    kept = folder / 'policy.npz'
    if not kept.exists():
        _train(folder, learner, source, identity, paper, None if start is None else lambda state: put(state, start))
    return _load(kept, structure)


def driver(learner: Learner, source: Source, seed: int = 0) -> DeviceDriver:
    """The learner on one device, its source's constants still on the host."""
    return DeviceDriver(learner, source, mesh=make_mesh({'data': 1}, jax.devices()[:1]), seeds=[seed])


def _source(data: dict[str, np.ndarray], batch_size: int, shared: dict[str, PyTree]) -> Source:
    """Batches of examples, drawn uniformly with replacement on the device."""
    count = len(next(iter(data.values())))

    def sample(constants, state, learner_state, key):
        index = jax.random.randint(key, (batch_size,), 0, count)
        examples, shared = constants
        return state, jax.tree.map(lambda rows: rows[index], examples) | shared

    example = {
        key: jax.ShapeDtypeStruct((batch_size, *rows.shape[1:]), jax.dtypes.canonicalize_dtype(rows.dtype))
        for key, rows in data.items()
    }
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), shared)
    return Source((data, shared), example | whole, sample)


def _structure(learner: Learner, example: dict[str, PyTree]) -> PyTree:
    """Shapes and types of the parameters."""
    return jax.eval_shape(lambda key, batch: learner.policy(learner.init(key, batch)), jax.random.key(0), example)


def _named(tree: PyTree) -> dict[str, np.ndarray]:
    return dict(zip(sharding.names(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def _train(
    folder: pathlib.Path, learner: Learner, source: Source, identity: dict, paper: str, begin: Callable | None
) -> None:
    """Trains in the run directory `folder`, from its newest checkpoint on; leaves policy.npz there.

    begin(state) -> state: what a fresh state becomes before the first update.
    """
    name, steps, seed = identity['name'], identity['steps'], identity['seed']
    numerics = Numerics()
    trainer = driver(learner, source, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run = Run.open(
        folder, identity['config'], paper=paper, command=f'training {name}', numerics=vars(numerics), resume=True
    )
    try:
        with loop.Signals() as signals:
            run.say(f'training {name}, once, into {folder}')
            trainer.bind(place(source.constants, jax.tree.map(lambda _: replicated(trainer.mesh), source.constants)))
            session.announce(run, trainer, f'{steps:,} updates')
            progress = loop.train(
                trainer,
                run,
                checkpoint.Checkpoints(folder / 'checkpoints', keep=1, metadata=identity),
                loop.Schedule(steps, log=max(1, steps // REPORTS), evaluate=0, save=SAVE),
                resume=run.resumed,
                resume_command='the same command',
                signals=signals,
                begin=begin,
            )
        run.finish({}, seed=seed, steps=steps, wall_seconds=progress.wall_seconds)
        checkpoint.export_policy(folder / 'policy.npz', trainer.policies()[0], identity)
        shutil.rmtree(folder / 'checkpoints')  # a finished model is never trained further
        run.say(f'{name} is trained ({progress.wall_seconds:.0f} s)')
    finally:
        run.close()


def _load(path: pathlib.Path, structure: PyTree) -> PyTree:
    """The parameters in `path`, in their own structure, on the device."""
    nested, _ = checkpoint.load_policy(path)
    leaves = dict(zip(sharding.names(nested), jax.tree.leaves(nested), strict=True))
    ordered = [jnp.asarray(leaves[name]) for name in sharding.names(structure)]
    return jax.tree.unflatten(jax.tree.structure(structure), ordered)
