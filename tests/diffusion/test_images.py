"""The image domain: data, rewards against other ways to compute them, text and files, the task from end to end."""

import csv
import gzip
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from core_jax.errors import UserError
from diffusion_jax import process as processes
from diffusion_jax.domains import images, pictures
from diffusion_jax.models import classifier
from diffusion_jax.search import run, svdd, tree
from diffusion_jax.value import Value


@pytest.fixture(scope='module')
def digits():
    return images.load('digits')


@pytest.fixture
def designs():
    return np.float32(np.random.default_rng(0).uniform(-1.3, 1.3, size=(5, 8, 8, 1)))


# Data


def test_digits(digits):
    x, labels = digits
    assert x.shape == (1797, 8, 8, 1) and x.dtype == np.float32 and (x.min(), x.max()) == (-1, 1)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, '>i4').tobytes() + array.tobytes()


def test_fashion_files_packed_or_not(tmp_path):
    grey = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    (tmp_path / 'train-images-idx3-ubyte.gz').write_bytes(gzip.compress(idx(grey)))
    (tmp_path / 'train-labels-idx1-ubyte').write_bytes(idx(np.uint8([4, 0, 9])))
    x, labels = images.load('fashion', tmp_path)
    assert x.shape == (3, 28, 28, 1) and labels.tolist() == [4, 0, 9]
    np.testing.assert_array_equal(images.pixels(x), grey)
    (tmp_path / 'train-labels-idx1-ubyte').write_bytes(idx(np.uint8([4, 0])))
    with pytest.raises(UserError, match='3 images, but 2 labels'):
        images.load('fashion', tmp_path)


@pytest.mark.parametrize('content', [b'', b'\0\0\x08\x01', idx(np.uint8([1, 2]))[:-1], idx(np.zeros((2, 2), np.uint8))])
def test_damaged_idx_files(tmp_path, content):
    (tmp_path / 'labels').write_bytes(content)
    with pytest.raises(UserError, match='no idx file of bytes with 1 axes'):
        images.read_idx(tmp_path / 'labels', 1)


def test_missing_and_damaged_packed_files(tmp_path):
    with pytest.raises(UserError, match='cannot read .*labels.gz: no such file'):
        images.read_idx(tmp_path / 'labels', 1)
    (tmp_path / 'labels.gz').write_bytes(gzip.compress(idx(np.zeros(999, np.uint8)))[:-9])
    with pytest.raises(UserError, match='cannot read .*labels.gz'):
        images.read_idx(tmp_path / 'labels', 1)


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        images.get_config('digit')
    with pytest.raises(UserError, match="did you mean 'fashion'"):
        images.load('fashio')


# Rewards


def test_jpeg_reward_counts_bytes_above_an_even_image(designs):
    even = [np.full((8, 8, 1), grey, np.float32) for grey in (0.0, 0.3)]
    rewards = pictures.compressibility(images.decode(np.stack([*even, *designs])))
    assert rewards[0] == 0 and -5 < rewards[1] < 0 and max(rewards[2:]) < -30
    from PIL import Image

    def size(pixels):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, 'JPEG', quality=95)
        return len(stream.getvalue())

    expected = size(np.full((8, 8), 128, np.uint8)) - size(images.pixels(designs)[2])
    assert rewards[4] == expected
    assert isinstance(rewards[0], float)


def test_total_variation_against_loops(designs):
    grey = 127.5 * (np.clip(np.float64(designs[..., 0]), -1, 1) + 1)
    for image, found in zip(grey, images.total_variation(None, jnp.asarray(designs)), strict=True):
        total = 0.0
        for i in range(8):
            for j in range(8):
                total += abs(image[i, j] - image[i - 1, j]) if i else 0.0
                total += abs(image[i, j] - image[i, j - 1]) if j else 0.0
        assert float(found) == pytest.approx(-total / 64, rel=1e-5)


def test_dct_against_scipy():
    x = np.float32(np.random.default_rng(1).uniform(-1, 1, size=(2, 10, 16, 1)))
    grey = np.pad(127.5 * (np.float64(x[..., 0]) + 1), ((0, 0), (0, 6), (0, 0)), mode='edge')
    for image, found in zip(grey, images.dct_l1(None, jnp.asarray(x)), strict=True):
        total = 0.0
        for i in range(0, 16, 8):
            for j in range(0, 16, 8):
                block = np.abs(scipy.fft.dctn(image[i : i + 8, j : j + 8], norm='ortho'))
                total += block.sum() - block[0, 0]
        assert float(found) == pytest.approx(-total / 160, rel=1e-4)
    even = images.dct_l1(None, jnp.full((1, 8, 8, 1), 0.4))
    np.testing.assert_allclose(even, 0, atol=1e-3)


def test_dct_ranks_digits_as_jpeg_does(digits):
    x = digits[0][:300]
    found = np.asarray(jax.jit(images.dct_l1)(None, x))
    assert np.corrcoef(found, pictures.compressibility(images.decode(x)))[0, 1] > 0.8  # measured: 0.88


@pytest.mark.parametrize('reward', [images.dct_l1, images.total_variation])
def test_device_rewards_rise_along_their_gradient(reward, digits):
    x = jnp.asarray(0.9 * digits[0][:20])
    slope = jax.jit(jax.grad(lambda x: reward(None, x).sum()))(x)
    better = jax.jit(reward)(None, x + 0.02 * jnp.sign(slope)) - jax.jit(reward)(None, x)
    assert np.isfinite(slope).all() and float(better.min()) > 0


def test_log_odds_against_numpy():
    logits = np.random.default_rng(0).normal(size=(6, 10)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = classifier.log_odds(jnp.asarray(logits, jnp.float32), jnp.arange(10) == 4)
    np.testing.assert_allclose(found, np.log(p[:, 4] / (1 - p[:, 4])), rtol=1e-4)
    sure = classifier.log_odds(jnp.zeros((1, 10)).at[0, 4].set(200.0), jnp.arange(10) == 4)
    np.testing.assert_allclose(sure, 200 - np.log(9), rtol=1e-5)  # where p rounds to 1


# Text and files


def test_decode_and_encode_are_inverse_on_grey_levels(digits, tmp_path):
    x = digits[0][:3]
    texts = images.decode(x)
    assert all(text.startswith('data:image/png;base64,') for text in texts)
    again = images.encoder((8, 8, 1))(texts)
    assert again.dtype == np.float32 and np.abs(again - x).max() < 1 / 250
    assert images.decode(again) == texts
    (tmp_path / 'seed.png').write_bytes(pictures.png(images.pixels(x)[1]))
    np.testing.assert_array_equal(images.encoder((8, 8, 1))([str(tmp_path / 'seed.png')]), again[1:2])


def test_decode_leaves_out_what_is_no_number(designs):
    designs[1, 0, 0, 0] = np.nan
    texts = images.decode(designs)
    assert texts[1] == '' and all(texts[:1] + texts[2:])


@pytest.mark.parametrize(
    'text, message',
    [
        ('data:image/png;base64,%%%', 'is no image'),
        ('data:image/png;base64,aGVsbG8=', 'is no image'),
        ('no/such/file.png', 'is no image: .*o such file'),
        (pictures.to_text(np.zeros((8, 9), np.uint8)), '9x8 pixels, designs have 8x8'),
    ],
)
def test_encode_names_what_it_cannot_read(text, message):
    with pytest.raises(UserError, match=message):
        images.encoder((8, 8, 1))([text])


def test_encode_wants_something():
    with pytest.raises(UserError, match='no images'):
        images.encoder((8, 8, 1))([])


def test_distances():
    x = np.stack([np.full((8, 8, 1), v, np.float32) for v in (-1, 1, 5, 0.2)])
    found = images.distances(x)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(found[0, :3], [0, 1, 1])  # what is lighter than white is white
    assert found[0, 3] == pytest.approx(0.6, abs=1 / 255)


def test_write_draws_all_designs_and_lists_them(designs, tmp_path):
    paths = images.write(tmp_path, designs, {'reward': [1.0, 2.0, 3.0, 4.0, 5.0]})
    assert [path.name for path in paths] == ['designs.png', 'designs.csv']
    sheet = pictures.from_text(str(paths[0]))
    scale = 640 // (3 * 8)
    assert sheet.shape == (2 * (8 * scale + 2) + 2, 3 * (8 * scale + 2) + 2)
    cell = sheet[8 * scale + 4 :, 8 * scale + 4 :][: 8 * scale : scale, : 8 * scale : scale]
    np.testing.assert_array_equal(cell, images.pixels(designs)[4])
    rows = list(csv.DictReader(io.StringIO(paths[1].read_text())))
    assert [row['reward'] for row in rows] == ['1.0', '2.0', '3.0', '4.0', '5.0']
    np.testing.assert_array_equal(pictures.from_text(rows[2]['design']), images.pixels(designs)[2])


# The task


def tiny():
    config = images.get_config()
    config.model.network.update({'channels': 8, 'multipliers': (1,)})
    config.update({'steps': 4, 'rank': 5})
    config.classifier.channels = 4
    return config


def untrained(name, learner, data, config, *, steps):
    """In place of `training.trained`, which has its own tests: parameters that the name decides."""
    batch = {key: jax.ShapeDtypeStruct((2, *rows.shape[1:]), rows.dtype) for key, rows in data.items()}
    shapes = jax.eval_shape(lambda key, batch: learner.policy(learner.init(key, batch)), jax.random.key(0), batch)
    rng = np.random.default_rng(len(name) + ord(name[-1]))
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope='module')
def task():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images.training, 'trained', untrained)
        return images.make('digits', tiny())


def test_task_has_a_process_and_rewards(task, key):
    x = jax.jit(lambda keys: processes.sample(task.process, keys))(jax.random.split(key, 6))
    assert x.shape == (6, 8, 8, 1) and np.isfinite(x).all()
    assert {'jpeg', 'dct', 'variation', 'class-7', 'class-7-held-out'} <= set(task.rewards)
    assert images.reward_names('digits', tiny()) == list(task.rewards)
    for name, reward in task.rewards.items():
        assert reward.held_out is None or reward.held_out in task.rewards, name
        if reward.on_device:
            found = jax.jit(reward.on_device)(reward.params, x)
            assert found.shape == (6,) and np.isfinite(found).all(), name
        else:
            assert np.isfinite(reward.on_host(task.decode(np.asarray(x)))).all()
    guide, judge = task.rewards['class-7'].params, task.rewards['class-7-held-out'].params
    assert not np.array_equal(*(jax.tree.leaves(params['net'])[-1] for params in (guide, judge)))
    likelihood = jax.jit(task.process.log_likelihood)(task.process.params, key, x)
    assert likelihood.shape == (6,) and np.isfinite(likelihood).all()


def test_guess_differs_along_principal_directions(task, key):
    x = jnp.zeros((8, 8, 1))
    guesses = jax.vmap(lambda k: task.process.guess(k, x, x, 1))(jax.random.split(key, 20))
    assert np.linalg.matrix_rank(np.asarray(guesses).reshape(20, -1), tol=1e-4) == 5


def test_fashion_falls_back_to_digits_with_a_message(monkeypatch, tmp_path):
    said, config, default = [], tiny(), tiny()
    monkeypatch.setattr(images, 'get_config', lambda name: default)
    monkeypatch.setattr(images.training, 'trained', untrained)
    config.path = str(tmp_path / 'none')
    task = images.make('fashion', config, said.append)
    assert task.name == 'digits' and 'no Fashion-MNIST' in said[0] and 'dataset-fashion-mnist' in said[0]


@pytest.mark.slow
def test_default_digits_are_recognised_and_guided(key, digits):
    """Minutes where the model is not trained yet. Classifier B never saw A's half; A never saw B's."""
    x, labels = digits
    task = images.make('digits')
    config = images.get_config()
    network = classifier.network_of(config.classifier)
    logits = lambda name, x: network.apply(task.rewards[name].params['net'], x)  # noqa: E731
    for name, rows in zip(('class-0', 'class-0-held-out'), reversed(images.halves(len(x))), strict=True):
        assert (np.argmax(logits(name, x[rows]), 1) == labels[rows]).mean() > 0.95
    samples = np.asarray(jax.jit(lambda keys: processes.sample(task.process, keys))(jax.random.split(key, 500)))
    sure = np.asarray(jax.nn.softmax(logits('class-0', samples))).max(1)
    real = np.asarray(jax.nn.softmax(logits('class-0', x[images.halves(len(x))[1]]))).max(1)
    assert sure.mean() > 0.9 * real.mean()
    shares = np.bincount(np.argmax(logits('class-0', samples), 1), minlength=10) / 500
    assert shares.min() > 0.04 and shares.max() < 0.2
    np.testing.assert_allclose(samples.mean(), x.mean(), atol=0.03)
    np.testing.assert_allclose(samples.std(0).mean(), x.std(0).mean(), atol=0.05)

    guide, judge = task.rewards['class-3'], task.rewards['class-3-held-out']
    value = Value(guide.params, guide.on_device)
    plan = svdd.plan(task.process, value, children=4)
    found = run.on_device(tree.search, None, task.process, value, plan, groups=8, key=key)
    before, after = (np.median(judge.on_device(judge.params, rows)) for rows in (samples, found.designs[:, 0]))
    assert before < -5 and after > 5
