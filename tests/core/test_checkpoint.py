"""Checkpoints: exact on any mesh, damage found and survived, wrong ones refused, a full disk mended by nothing lost."""

import errno
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import textwrap
import zipfile

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from core_jax.checkpoint import Checkpoints, export_policy, load_policy
from core_jax.errors import UserError
from core_jax.mesh import make_mesh, place, replicated

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


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """Steps 1 and 2 of one run. Saved once; the tests work on copies."""
    directory = tmp_path_factory.mktemp('original') / 'checkpoints'
    checkpoints = Checkpoints(directory, metadata=METADATA)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {'metrics_bytes': 100 * step, 'rng': [1, 2.5, None]})
    return directory


@pytest.fixture
def saved(original, tmp_path):
    return Checkpoints(shutil.copytree(original, tmp_path / 'checkpoints'), metadata=METADATA)


def data_file(checkpoints, step):
    """The largest file of a step: arrays."""
    files = (p for p in (checkpoints.directory / f'{step:010d}' / 'state').rglob('*') if p.is_file())
    return max(files, key=lambda p: p.stat().st_size)


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / 'checkpoints')
    assert checkpoints.restore(target_of(make_state())) is None
    assert checkpoints.steps() == []
    assert list(tmp_path.iterdir()) == []  # looking does not create


def test_the_newest_step_comes_back_exactly(saved, capsys):
    step, tree, host = saved.restore(target_of(make_state()))
    assert step == 2
    assert_same(tree, make_state(2))
    assert host == {'metrics_bytes': 200, 'rng': [1, 2.5, None]}
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
def test_typed_keys_draw_the_same_numbers(tmp_path, impl):
    tree = {'key': jax.random.key(7, impl=impl), 'keys': jax.random.split(jax.random.key(8, impl=impl), 4)}
    checkpoints = Checkpoints(tmp_path / 'c')
    checkpoints.save(0, tree, {})
    _, back, _ = checkpoints.restore(target_of(tree))
    np.testing.assert_array_equal(jax.random.normal(back['key'], (5,)), jax.random.normal(tree['key'], (5,)))
    assert_same(back, tree)


def test_restores_on_every_mesh(tmp_path):
    tree = make_state(5)
    directory = tmp_path / 'checkpoints'
    for step, shape in enumerate(['data:8', 'data:4,tensor:2', 'data:1']):
        mesh = make_mesh(shape)
        tree = jax.device_put(make_state(5), jax.tree.map(lambda t: t.sharding, sharded(make_state(5), mesh)))
        assert len(tree.params['Dense_0']['kernel'].sharding.device_set) == mesh.size
        Checkpoints(directory, keep=1).save(step, tree, {})
        for other in ['data:2', 'data:4,tensor:2', 'data:1', 'data:8']:
            target = sharded(tree, make_mesh(other))
            _, back, _ = Checkpoints(directory).restore(target)
            assert_same(back, make_state(5))
            for leaf, wanted in zip(jax.tree.leaves(back), jax.tree.leaves(target), strict=True):
                assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_odd_leaves(tmp_path):
    tree = {
        'scalar': jnp.float32(-0.0),
        'empty': jnp.zeros((0, 3), jnp.int8),
        'bool': jnp.array([True, False]),
        'nan': jnp.array([np.nan, np.inf, 1e-42], jnp.float32),  # a denormal too
        'half': jnp.arange(5, dtype=jnp.float16),
        'a/b': jnp.uint32(3),
        'list': [jnp.int32(1), (jnp.int32(2), None)],
    }
    checkpoints = Checkpoints(tmp_path / 'c')
    checkpoints.save(3, tree, {})
    assert_same(checkpoints.restore(target_of(tree))[1], tree)


def test_leaves_with_the_same_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match='same path name'):
        Checkpoints(tmp_path / 'c').save(0, {'a/b': jnp.ones(2), 'a': {'b': jnp.ones(2)}}, {})


def test_keeps_the_newest_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path / 'c', keep=3)
    for step in (10, 20, 30, 40):
        checkpoints.save(step, {'x': jnp.float32(step)}, {})
    assert checkpoints.steps() == [20, 30, 40]
    assert sorted(p.name for p in (tmp_path / 'c').iterdir()) == ['0000000020', '0000000030', '0000000040']


def test_old_steps_go_only_after_the_new_one_stands(saved, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, 'rename', fail)
    with pytest.raises(UserError, match=r'0000000003: input/output error; the newest on disk is that of step 2'):
        saved.save(3, make_state(3), {})
    assert sorted(p.name for p in saved.directory.iterdir()) == ['0000000001', '0000000002']


def test_a_step_saved_again_replaces_itself(saved):
    saved.save(2, make_state(9), {'again': True})
    step, tree, host = saved.restore(target_of(make_state()))
    assert (step, host) == (2, {'again': True})
    assert_same(tree, make_state(9))
    assert sorted(p.name for p in saved.directory.iterdir()) == ['0000000001', '0000000002']


def test_a_kill_between_the_two_renames_loses_nothing(saved):
    path = saved.directory / '0000000002'
    path.rename(f'{path}.replaced')
    assert saved.restore(target_of(make_state()))[0] == 2


# Damage.


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {'truncated': (truncate, 'bytes in place of'), 'flipped': (flip_one_bit, 'wrong checksum')}
DAMAGE['deleted'] = (pathlib.Path.unlink, 'is missing')


@pytest.mark.parametrize('kind', DAMAGE)
def test_a_damaged_newest_step_is_named_and_the_one_before_used(saved, capsys, kind):
    damage, words = DAMAGE[kind]
    path = data_file(saved, 2)
    damage(path)
    step, tree, host = saved.restore(target_of(make_state()))
    assert step == 1 and host['metrics_bytes'] == 100
    assert_same(tree, make_state(1))
    shown = capsys.readouterr().err
    assert f'{saved.directory}/0000000002 is damaged' in shown
    assert path.name in shown and words in shown
    assert 'going back to the checkpoint of step 1' in shown


def test_every_file_of_a_step_is_watched(saved, capsys):
    """One bit flipped in any file at all: never a silent success, never another exception."""
    path = saved.directory / '0000000002'
    files = [p for p in path.rglob('*') if p.is_file() and p.stat().st_size]
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        flip_one_bit(file)
        assert saved.restore(target_of(make_state()))[0] == 1, file
        assert file.name in capsys.readouterr().err
        file.write_bytes(content)
    assert saved.restore(target_of(make_state()))[0] == 2


def test_a_flipped_bit_in_the_host_state_is_found(saved, capsys):
    host = saved.directory / '0000000002' / 'host.json'
    host.write_text(host.read_text().replace('"metrics_bytes": 200', '"metrics_bytes": 201'))
    assert saved.restore(target_of(make_state()))[0] == 1
    assert 'host.json has a wrong checksum' in capsys.readouterr().err


def test_a_flipped_bit_in_the_metadata_is_found(saved, capsys):
    manifest = saved.directory / '0000000002' / 'manifest.json'
    manifest.write_text(manifest.read_text().replace('"alpha": 30.0', '"alpha": 20.0'))
    assert saved.restore(target_of(make_state()))[0] == 1
    assert 'manifest.json has a wrong checksum' in capsys.readouterr().err


def test_a_step_under_a_wrong_name(saved, capsys):
    shutil.copytree(saved.directory / '0000000001', saved.directory / '0000000007')
    (saved.directory / '0000000008').write_text('a file')
    assert saved.restore(target_of(make_state()))[0] == 2
    shown = capsys.readouterr().err
    assert '0000000007 is damaged: manifest.json is that of step 1' in shown
    assert '0000000008 is damaged: manifest.json cannot be read' in shown


@pytest.mark.parametrize('content', [None, b'', b'{', b'[]', b'null', b'\xff\xfe'])
def test_a_manifest_that_is_missing_or_garbage(saved, capsys, content):
    manifest = saved.directory / '0000000002' / 'manifest.json'
    manifest.unlink() if content is None else manifest.write_bytes(content)
    assert saved.restore(target_of(make_state()))[0] == 1
    assert '0000000002 is damaged: manifest.json' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['0000000003.tmp', '0000000003.orbax-checkpoint-tmp'])
def test_leftovers_of_a_killed_save(saved, capsys, name):
    shutil.copytree(saved.directory / '0000000002', saved.directory / name)
    assert saved.restore(target_of(make_state()))[0] == 2
    assert name in capsys.readouterr().err
    saved.save(3, make_state(3), {})
    assert not (saved.directory / '0000000003.tmp').exists()  # ours is swept, and was not taken for the new one
    assert saved.steps() == [2, 3]


def test_only_leftovers_are_no_checkpoint(tmp_path, capsys):
    (tmp_path / '0000000001.tmp').mkdir()
    assert Checkpoints(tmp_path).restore(target_of(make_state())) is None
    assert '0000000001.tmp' in capsys.readouterr().err


def test_all_damaged(saved, capsys):
    for step in (1, 2):
        flip_one_bit(data_file(saved, step))
    with pytest.raises(UserError, match='every checkpoint in .* is damaged'):
        saved.restore(target_of(make_state()))
    shown = capsys.readouterr().err
    assert '0000000001 is damaged' in shown and '0000000002 is damaged' in shown
    assert sorted(p.name for p in saved.directory.iterdir()) == ['0000000001', '0000000002']


def test_going_on_after_damage(saved):
    """A later but damaged step neither shadows the new ones nor pushes the good one out."""
    truncate(data_file(saved, 2))
    third = saved.directory / '0000000003'
    shutil.copytree(saved.directory / '0000000002', third)
    assert saved.restore(target_of(make_state()))[0] == 1
    assert saved.steps() == [1]
    saved.save(2, make_state(2), {})
    assert saved.steps() == [1, 2]
    again = Checkpoints(saved.directory, metadata=METADATA)
    step, tree, _ = again.restore(target_of(make_state()))
    assert step == 2
    assert_same(tree, make_state(2))
    assert (saved.directory / '0000000003.damaged').is_dir()


# Wrong checkpoints.


def refuse(checkpoints, tree, *words):
    with pytest.raises(UserError) as caught:
        checkpoints.restore(target_of(tree))
    text = str(caught.value)
    assert '\n' not in text
    for word in words:
        assert word in text, text


def test_a_wrong_dtype_is_no_cast(saved):
    state = make_state()
    kernel = state.params['Dense_0']['kernel'].astype(jnp.bfloat16)
    wrong = state.replace(params={'Dense_0': state.params['Dense_0'] | {'kernel': kernel}})
    refuse(saved, wrong, "params/Dense_0/kernel: saved 'float32[8,4]', wanted 'bfloat16[8,4]'")


def test_a_wrong_shape(saved):
    wrong = make_state().replace(step=jnp.zeros(3, jnp.int32))
    refuse(saved, wrong, "step: saved 'int32[]', wanted 'int32[3]'")


def test_missing_and_extra_leaves(saved):
    state = make_state()
    wrong = state.replace(params={'Dense_0': {'kernel': state.params['Dense_0']['kernel'], 'scale': jnp.ones(2)}})
    refuse(
        saved,
        wrong,
        "params/Dense_0/bias: saved 'bfloat16[4]', wanted (nothing)",
        "params/Dense_0/scale: saved (nothing), wanted 'float32[2]'",
    )


def test_a_wrong_generator(saved):
    refuse(saved, make_state(impl='rbg'), "key: saved 'key<fry>[]', wanted 'key<rbg>[]'")


def test_raw_keys_are_not_typed_keys(saved):
    refuse(saved, make_state().replace(key=jax.random.PRNGKey(0)), "key: saved 'key<fry>[]', wanted 'uint32[2]'")


def test_wrong_metadata(saved):
    for field, wrong, words in [
        ('paper', 'qc', "paper: saved 'fql', wanted 'qc'"),
        ('config', {'alpha': 10.0, 'hidden': [256, 256]}, 'config.alpha: saved 30.0, wanted 10.0'),
        ('config', {'alpha': 30.0, 'hidden': (256,)}, 'config.hidden: saved [256, 256], wanted [256]'),
        ('config', {'hidden': (256, 256)}, 'config.alpha: saved 30.0, wanted (nothing)'),
        ('numerics', {'population': 'vmap'}, "numerics.population: saved 'map', wanted 'vmap'"),
    ]:
        refuse(Checkpoints(saved.directory, metadata=METADATA | {field: wrong}), make_state(), 'another run', words)


def test_many_differences_are_summed_up(tmp_path):
    checkpoints = Checkpoints(tmp_path / 'c')
    checkpoints.save(0, {f'leaf_{i}': jnp.ones(2) for i in range(20)}, {})
    refuse(checkpoints, {f'leaf_{i}': jnp.ones(3) for i in range(20)}, 'leaf_0: saved', '; and 12 more')


def test_a_wrong_checkpoint_is_no_damaged_one(saved):
    """No fall-back: the step before would be of the same run anyway, and the newest is intact."""
    refuse(saved, make_state().replace(step=jnp.float32(0)), '/0000000002 is of another run')


# Disks.


def test_no_space_left_anywhere(saved, monkeypatch):
    """The same as the next test where nothing can be mounted: Orbax meets the full disk half-way."""
    import orbax.checkpoint as ocp

    def fail(self, path, *_, **__):
        pathlib.Path(path).mkdir()
        (path / 'half').write_bytes(b'written')
        raise ValueError(f'RESOURCE_EXHAUSTED: Error writing "w/0":\n Failed writing: {os.strerror(errno.ENOSPC)} [28]')

    monkeypatch.setattr(ocp.Checkpointer, 'save', fail)
    with pytest.raises(UserError) as caught:
        saved.save(3, make_state(3), {})
    assert str(caught.value) == (
        f'could not save checkpoint {saved.directory}/0000000003: no space left on device; '
        'the newest on disk is that of step 2'
    )
    monkeypatch.undo()
    assert sorted(p.name for p in saved.directory.iterdir()) == ['0000000001', '0000000002']
    assert saved.restore(target_of(make_state()))[0] == 2


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('nothing can be mounted here')
    yield disk
    subprocess.run(['umount', '-l', disk], check=True)


def test_no_space_left_on_a_real_disk(small_disk, capfd):
    tree = {'w': jax.random.normal(jax.random.key(0), (400_000,))}  # 1.6 MB that do not compress
    checkpoints = Checkpoints(small_disk / 'checkpoints')
    checkpoints.save(1, tree, {})
    checkpoints.save(2, tree, {})
    with pytest.raises(UserError, match=r'no space left on device .*; the newest on disk is that of step 2'):
        checkpoints.save(3, tree, {})
    assert sorted(p.name for p in checkpoints.directory.iterdir()) == ['0000000001', '0000000002']
    assert_same(checkpoints.restore(target_of(tree))[1], tree)
    assert capfd.readouterr().err == ''


def test_a_read_only_disk(small_disk):
    checkpoints = Checkpoints(small_disk / 'checkpoints')
    checkpoints.save(1, {'x': jnp.ones(2)}, {})
    subprocess.run(['mount', '-o', 'remount,ro', small_disk], check=True)
    with pytest.raises(UserError, match='0000000002: read-only file system; the newest on disk is that of step 1'):
        checkpoints.save(2, {'x': jnp.ones(2)}, {})
    assert checkpoints.restore(target_of({'x': jnp.ones(2)}))[0] == 1


def test_a_directory_that_vanishes(saved):
    saved.restore(target_of(make_state()))
    shutil.rmtree(saved.directory)
    with pytest.raises(UserError, match='could not save checkpoint .*: no such file or directory$'):
        saved.save(3, make_state(3), {})
    assert not saved.directory.exists()


def test_host_state_must_be_json(tmp_path):
    with pytest.raises(TypeError):
        Checkpoints(tmp_path / 'c').save(0, {'x': jnp.ones(2)}, {'a': jnp.ones(2)})
    assert not (tmp_path / 'c').exists()


# Several processes.

TWO_PROCESSES = """
    import sys, jax
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(f'localhost:{sys.argv[1]}', 2, int(sys.argv[2]))
    import jax.numpy as jnp, numpy as np
    from core_jax.checkpoint import Checkpoints
    from core_jax.errors import UserError
    from core_jax.mesh import make_mesh, place
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = make_mesh('data:8')
    spec = {'w': NamedSharding(mesh, PartitionSpec('data')), 'b': NamedSharding(mesh, PartitionSpec())}
    tree = place({'w': np.arange(48, dtype=np.float32).reshape(16, 3), 'b': np.full(5, 0.1, np.float32)}, spec)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, spec)
    checkpoints = Checkpoints(sys.argv[3])
    assert checkpoints.restore(target) is None
    for step in (1, 2, 3):
        checkpoints.save(step, tree, {'step': step})
    assert checkpoints.steps() == [2, 3]
    step, back, host = checkpoints.restore(target)
    assert (step, host) == (3, {'step': 3})
    for x, y in zip(tree['w'].addressable_shards, back['w'].addressable_shards, strict=True):
        assert (np.asarray(x.data) == np.asarray(y.data)).all()

    # What fails on one process fails on both, and nobody waits for ever.
    if jax.process_index() == 0:
        checkpoints._complete = lambda *_: 1 / 0
    try:
        checkpoints.save(4, tree, {})
    except UserError as error:
        print('refused:', error)
    assert checkpoints.steps() == [2, 3]
"""


@pytest.mark.slow
def test_two_processes_save_and_one_restores(tmp_path):
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {'JAX_NUM_CPU_DEVICES': '4'}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', textwrap.dedent(TWO_PROCESSES), port, str(i), tmp_path / 'c'],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert 'division by zero' in outputs[0][0] and 'process 0 failed' in outputs[1][0]
    tree = {'w': np.arange(48, dtype=np.float32).reshape(16, 3), 'b': np.full(5, 0.1, np.float32)}
    for shape in ('data:8', 'data:2,tensor:3', 'data:1'):
        step, back, host = Checkpoints(tmp_path / 'c').restore(sharded(tree, make_mesh(shape)))
        assert (step, host) == (3, {'step': 3})
        assert_same(back, place(tree, jax.tree.map(lambda _: replicated(make_mesh('data:1')), tree)))


# Policies.

POLICY = {'actor': {'Dense_0': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}}, 'scale': np.float32(0.5)}


def test_a_policy_is_a_plain_npz(tmp_path):
    path = tmp_path / 'policy.npz'
    export_policy(path, POLICY | {'half': jnp.arange(3, dtype=jnp.bfloat16)}, {'agent': 'fql', 'hidden': (2, 3)})
    with np.load(path) as file:  # by numpy alone, without pickle
        np.testing.assert_array_equal(file['actor/Dense_0/kernel'], POLICY['actor']['Dense_0']['kernel'])
    tree, config = load_policy(path)
    assert config == {'agent': 'fql', 'hidden': [2, 3]}
    assert_same({name: tree[name] for name in POLICY}, POLICY)
    assert tree['half'].dtype == jnp.bfloat16
    np.testing.assert_array_equal(tree['half'].astype(np.float32), [0, 1, 2])
    assert os.listdir(tmp_path) == ['policy.npz']


def test_policies_that_cannot_be_loaded(tmp_path):
    path = tmp_path / 'policy.npz'
    with pytest.raises(UserError, match='no policy at'):
        load_policy(path)
    export_policy(path, POLICY, {})
    content = path.read_bytes()
    for bad in (content[:-40], content[: len(content) // 2], b'', b'text', b'PK\x03\x04'):
        path.write_bytes(bad)
        with pytest.raises(UserError, match='is damaged, or not an exported policy'):
            load_policy(path)
    np.savez(path, x=np.ones(3))
    with pytest.raises(UserError, match='is damaged, or not an exported policy'):
        load_policy(path)


def test_no_flipped_bit_changes_a_policy(tmp_path):
    path = tmp_path / 'policy.npz'
    export_policy(path, POLICY, {'agent': 'fql'})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo('actor/Dense_0/kernel.npy').header_offset
    refused = 0
    for at in range(start, start + 300):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        try:
            tree, config = load_policy(path)
        except UserError:
            refused += 1
        else:  # a bit that means nothing, like the date of an entry
            assert_same(tree, POLICY)
            assert config == {'agent': 'fql'}
    assert refused > 200


def test_the_manifest_can_be_read_by_people(saved):
    manifest = json.loads((saved.directory / '0000000002' / 'manifest.json').read_text())
    assert manifest['step'] == 2
    assert manifest['leaves']['params/Dense_0/kernel'] == 'float32[8,4]'
    assert manifest['leaves']['key'] == 'key<fry>[]'
    assert manifest['metadata']['config']['alpha'] == 30.0
    assert 'state/manifest.ocdbt' in manifest['files']
