"""Meshes from text, arrays to and fro, and sharding rules."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from core_jax import mesh, sharding
from core_jax.errors import UserError

P = PartitionSpec


# Meshes


def test_mesh_from_text_has_all_axes_and_all_are_auto():
    built = mesh.make_mesh('data:2,tensor:2')
    assert dict(built.shape) == {'population': 1, 'data': 2, 'fsdp': 1, 'tensor': 2}
    assert built.axis_types == (AxisType.Auto,) * 4
    assert built.size == 4 and len(jax.devices()) == 8
    assert mesh.make_mesh().shape['data'] == 8  # all devices
    assert mesh.make_mesh({'fsdp': 8}).shape['fsdp'] == 8
    assert mesh.make_mesh('data:2', devices=jax.devices()[6:]).devices.ravel().tolist() == jax.devices()[6:]
    assert mesh.describe(built) == 'data:2,tensor:2'
    assert mesh.describe(mesh.make_mesh('data:1')) == 'data:1'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('dta:2', "unknown mesh axis 'dta'; did you mean 'data'"),
        ('data', "cannot read mesh 'data'"),
        ('data:', 'cannot read mesh'),
        ('data:0', 'cannot read mesh'),
        ('data:-1', 'cannot read mesh'),
        ('data:2,data:4', 'each axis once'),
        ('', 'unknown mesh axis'),
        ('data:4,tensor:4', 'mesh data:4,tensor:4 needs 16 devices, 8 found'),
    ],
)
def test_unreadable_mesh_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        mesh.make_mesh(text)
    assert '\n' not in str(caught.value)


def test_plain_gathers_and_products_work_under_the_mesh():
    """Under the Explicit axes that jax.make_mesh builds by default, both raise."""
    rows = mesh.place(np.arange(16.0).reshape(8, 2), sharding.batch_spec(np.zeros((8, 2)), mesh.make_mesh('data:8')))

    @jax.jit
    def both(rows):
        return rows[jnp.array([3, 0])], jax.grad(lambda x: (x @ x.T).sum())(rows)

    taken, gradient = both(rows)
    np.testing.assert_array_equal(taken, [[6, 7], [0, 1]])
    np.testing.assert_array_equal(gradient, 2 * np.arange(16.0).reshape(8, 2).sum(0, keepdims=True).repeat(8, 0))


def test_place_and_fetch_and_their_count():
    built = mesh.make_mesh('data:4')
    tree = {'x': np.arange(8, dtype=np.float32), 'n': np.int32(3)}
    placed = mesh.place(tree, sharding.batch_spec(tree, built))
    assert [s.data.shape for s in placed['x'].addressable_shards] == [(2,)] * 4
    assert placed['n'].is_fully_replicated and len(placed['n'].sharding.device_set) == 4

    before = mesh.fetch.count
    back = mesh.fetch(placed | {'key': jax.random.key(7), 'name': 'as it is'})
    assert mesh.fetch.count == before + 1  # one visit, however many leaves
    np.testing.assert_array_equal(back['x'], tree['x'])
    assert isinstance(back['x'], np.ndarray) and back['n'] == 3 and back['name'] == 'as it is'
    np.testing.assert_array_equal(back['key'], jax.random.key_data(jax.random.key(7)))


def test_one_process_joins_nobody(monkeypatch):
    for name in ('JAX_COORDINATOR_ADDRESS', 'TPU_WORKER_HOSTNAMES'):
        monkeypatch.delenv(name, raising=False)
    mesh.initialize_distributed()
    assert jax.process_count() == 1


# Sharding rules


@pytest.fixture(scope='module')
def four_by_two():
    return mesh.make_mesh('data:2,fsdp:2,tensor:2')


def specs(tree, built, rules):
    return jax.tree.map(lambda s: s.spec, sharding.infer(tree, built, rules))


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_first_matching_rule_wins_and_names_are_paths(four_by_two):
    tree = {'critic': {'Dense_0': {'kernel': shape(4, 6), 'bias': shape(6)}, 'Dense_1': {'kernel': shape(6, 2)}}}
    assert sharding.names(tree) == ['critic/Dense_0/bias', 'critic/Dense_0/kernel', 'critic/Dense_1/kernel']
    rules = [(r'Dense_0/kernel', P('fsdp', 'tensor')), (r'kernel', P('tensor')), (r'.*', P())]
    found = specs(tree, four_by_two, rules)['critic']
    assert found['Dense_0'] == {'kernel': P('fsdp', 'tensor'), 'bias': P(None)}
    assert found['Dense_1']['kernel'] == P(None, 'tensor')  # aligned to the last dimensions


def test_rule_of_a_matrix_serves_the_stack_of_an_ensemble(four_by_two):
    assert specs(shape(10, 4, 6), four_by_two, [('', P('fsdp', 'tensor'))]) == P(None, 'fsdp', 'tensor')
    assert specs(shape(6), four_by_two, [('', P('fsdp', 'tensor'))]) == P('tensor')
    assert specs(shape(), four_by_two, [('', P('fsdp', 'tensor'))]) == P()


def test_indivisible_dimension_is_replicated_and_logged(four_by_two, caplog):
    with caplog.at_level(logging.INFO, logger='core_jax.sharding'):
        assert specs(shape(5, 6), four_by_two, [('', P('fsdp', 'tensor'))]) == P(None, 'tensor')
    assert 'dimension of size 5 is not divisible by fsdp (2): replicated' in caplog.text
    # Several axes on one dimension must divide it together; an axis of size 1 is as good as none.
    assert specs(shape(6), four_by_two, [('', P(('fsdp', 'tensor')))]) == P(None)
    assert specs(shape(8), four_by_two, [('', P(('fsdp', 'tensor')))]) == P(('fsdp', 'tensor'))
    assert specs(shape(8), four_by_two, [('', P('population'))]) == P(None)


def test_large_leaf_must_be_named(four_by_two, caplog):
    tree = {'small': shape(10), 'large': shape(1024, 1024)}
    with pytest.raises(UserError, match=r'no sharding rule names large \(1024, 1024\)'):
        sharding.infer(tree, four_by_two, [('small', P('data'))])
    with caplog.at_level(logging.INFO, logger='core_jax.sharding'):
        found = specs(tree, four_by_two, [('large', P('fsdp', None))])
    assert found == {'small': P(None), 'large': P('fsdp', None)}
    assert 'sharding large (1024, 1024)' in caplog.text


def test_rows_of_a_batch_go_along_data(four_by_two):
    tree = {'x': shape(8, 3), 'odd': shape(7), 'scalar': shape()}
    found = jax.tree.map(lambda s: s.spec, sharding.batch_spec(tree, four_by_two))
    assert found == {'x': P('data'), 'odd': P(), 'scalar': P()}
