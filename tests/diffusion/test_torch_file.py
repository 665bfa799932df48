"""The restricted reader of PyTorch's files: tensors come out, nothing else happens."""

import sys

import ml_dtypes
import numpy as np
import pytest
from torch_pickle import Build, Call, Name, View, write

from core_jax import torch_file
from core_jax.errors import UserError


def test_tensors_and_plain_data_come_out(tmp_path):
    a, n = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, -2], np.int64)
    shared = np.arange(10, dtype=np.float64)
    half = np.array([1.5, -2.0, 3.0]).astype(ml_dtypes.bfloat16)
    value = {
        'state_dict': Build(Call(Name('collections', 'OrderedDict'), ()), {'_metadata': {}}),
        'weights': {'a': a, 'n': n},
        'views': [View(shared, 2, (2, 3), (1, 2)), View(shared, 0, (0, 4), (4, 1)), View(shared, 7, (), ())],
        'half': View(half.view(np.uint16), 0, (3,), (1,), 'BFloat16Storage'),
        'parameter': Call(Name('torch._utils', '_rebuild_parameter'), (a, True, None)),
        'step': 7,
        'rate': 0.5,
        'names': ('x', None, True),
    }
    found = torch_file.read(write(tmp_path / 'x.pt', value))
    assert (found['weights']['a'] == a).all() and found['weights']['a'].dtype == np.float32
    assert (found['weights']['n'] == n).all() and (found['parameter'] == a).all()
    assert (found['views'][0] == [[2, 4, 6], [3, 5, 7]]).all()
    assert found['views'][1].shape == (0, 4) and found['views'][2] == 7.0
    assert (found['half'] == [1.5, -2.0, 3.0]).all() and found['half'].dtype == np.float32
    assert (found['step'], found['rate'], found['names']) == (7, 0.5, ('x', None, True))
    found['weights']['a'][0] = 9  # its own memory


def test_nothing_of_the_files_choosing_runs(tmp_path, monkeypatch):
    touched = tmp_path / 'touched'
    modules = set(sys.modules)
    config = Build(Call(Name('omegaconf', 'DictConfig'), ({'a': 1},)), {'_content': {}})
    value = {
        'evil': Call(Name('os', 'system'), (f'touch {touched}',)),
        'worse': Call(Name('builtins', 'eval'), (f'open({str(touched)!r}, "w")',)),
        'imported': Name('antigravity', 'x'),
        'hyper_parameters': Call(
            Name('copyreg', '_reconstructor'), (Name('a.b', 'C'), Name('builtins', 'object'), None)
        ),
        'config': config,
        'good': np.ones(2, np.float32),
    }
    found = torch_file.read(write(tmp_path / 'x.ckpt', value))
    assert (found['good'] == 1).all()
    assert not touched.exists() and 'antigravity' not in sys.modules
    assert not {'omegaconf', 'torch'} & (set(sys.modules) - modules)
    for key in ('evil', 'worse', 'hyper_parameters', 'config'):
        assert isinstance(found[key], torch_file.Unread)


def test_tensors_stay_within_their_storage(tmp_path):
    numbers = np.arange(4, dtype=np.float32)
    for view in (
        View(numbers, 0, (5,), (1,)),
        View(numbers, 2, (3,), (1,)),
        View(numbers, 3, (2,), (-1,)),
        View(numbers, -1, (2,), (1,)),
        View(numbers, 0, (-2,), (1,)),
        View(numbers, 0, (2, 2), (1,)),
    ):
        with pytest.raises(UserError, match='is damaged'):
            torch_file.read(write(tmp_path / 'x.pt', {'w': view}))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match='there is no checkpoint'):
        torch_file.read(tmp_path / 'none.pt')
    (tmp_path / 'old.pt').write_bytes(b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.')
    with pytest.raises(UserError, match='older than PyTorch 1.6'):
        torch_file.read(tmp_path / 'old.pt')
    np.savez(tmp_path / 'arrays.npz', a=np.ones(2))
    with pytest.raises(UserError, match='none that PyTorch wrote'):
        torch_file.read(tmp_path / 'arrays.npz')
    value = {'w': np.ones(3, np.float32)}
    with pytest.raises(UserError, match='byte order'):
        torch_file.read(write(tmp_path / 'big.pt', value, byteorder=b'big'))
    with pytest.raises(UserError, match='has 8 bytes in place of 3 numbers'):
        torch_file.read(write(tmp_path / 'short.pt', value, corrupt=lambda key, data: data[:8]))
    with pytest.raises(UserError, match='unknown type'):
        torch_file.read(write(tmp_path / 'kind.pt', {'w': View(np.ones(3, np.float32), 0, (3,), (1,), 'QInt8Storage')}))


@pytest.mark.slow
def test_it_reads_what_pytorch_writes(tmp_path):
    torch = pytest.importorskip('torch')
    net = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 5), torch.nn.LayerNorm(4))
    value = {
        'state_dict': net.state_dict(),
        'parameter': net[0].weight,
        'views': torch.arange(12.0).reshape(3, 4).T[1:],
        'bf16': torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        'long': torch.tensor(3),
        'shadow_params': [p.clone() for p in net.parameters()],
    }
    torch.save(value, tmp_path / 'x.pt')
    found = torch_file.read(tmp_path / 'x.pt')
    for name, weight in net.state_dict().items():
        assert (found['state_dict'][name] == weight.numpy()).all()
    assert (found['parameter'] == net[0].weight.detach().numpy()).all()
    assert (found['views'] == value['views'].numpy()).all()
    assert (found['bf16'] == [1.5, 2.5]).all() and found['long'] == 3
