"""Checkpoints: damage found and survived, wrong ones refused, a full disk mended by nothing lost."""

import errno
import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import pytest
from saved import METADATA, assert_same, data_file, make_state, target_of

from core_jax.checkpoint import Checkpoints
from core_jax.errors import UserError

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
