"""States that the tests of checkpoints save, and what they must be equal to."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from core_jax.mesh import make_mesh

METADATA = {'paper': 'fql', 'config': {'alpha': 30.0, 'hidden': (256, 256)}, 'numerics': {'population': 'map'}}


@flax.struct.dataclass
class State:
    params: dict
    opt_state: tuple
    key: jax.Array
    step: jax.Array


def make_state(step=1, impl='threefry2x32'):
    params = {'Dense_0': {'kernel': jnp.arange(32.0).reshape(8, 4) * 0.1 * step, 'bias': jnp.ones(4, jnp.bfloat16)}}
    return State(params, optax.adam(1e-3).init(params), jax.random.key(step, impl=impl), jnp.int32(step))


def sharded(tree, mesh):
    """Targets with the first dimension over `data` and the second over `tensor` where they divide."""

    def one(x):
        sizes = zip(x.shape, ('data', 'tensor'), strict=False)
        spec = PartitionSpec(*(axis if size % mesh.shape[axis] == 0 else None for size, axis in sizes))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(one, tree)


def target_of(tree):
    return sharded(tree, make_mesh('data:1'))


def bits(leaf):
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(leaf).tobytes()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert bits(x) == bits(y)


def data_file(checkpoints, step):
    """The largest file of a step: arrays."""
    files = (p for p in (checkpoints.directory / f'{step:010d}' / 'state').rglob('*') if p.is_file())
    return max(files, key=lambda p: p.stat().st_size)
