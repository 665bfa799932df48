"""The image towers in numbers that are not ours (golden/make.py), and what a judge does with pages that fail."""

import io
import json
import pathlib
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from colbench_jax import fetch, similarity
from colbench_jax.render.browser import PageError
from colbench_jax.similarity import clip, features, resnet
from core_jax.errors import UserError

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden' / 'pictures.npz')


def weights(prefix):
    return {key.removeprefix(prefix): GOLDEN[key] for key in GOLDEN if key.startswith(prefix)}


def picture(width, height):
    """That of golden/make.py."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1).astype(np.uint8))


def test_the_resnet_is_that_of_the_reference():
    network = resnet.ResNet((2, 1), 4, 5)
    variables = resnet.from_torch(weights('resnet:'))
    found = jax.jit(network.apply)(variables, GOLDEN['resnet_images'])
    assert np.std(GOLDEN['resnet_out']) > 0.1
    np.testing.assert_allclose(found, GOLDEN['resnet_out'], atol=1e-5)


@pytest.fixture
def clip_directory(tmp_path):
    save_file(weights('clip:'), tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(str(GOLDEN['clip_config']))
    return tmp_path


@pytest.mark.parametrize('name,size', [('tall', (50, 91)), ('wide', (77, 40))])
def test_clip_is_that_of_the_reference(clip_directory, name, size):
    np.testing.assert_allclose(clip.prepared(picture(*size), 32), GOLDEN[f'clip_{name}_pixels'], atol=1e-6)
    np.testing.assert_allclose(clip.load(clip_directory)(picture(*size)), GOLDEN[f'clip_{name}_out'], atol=2e-5)
    assert np.std(GOLDEN[f'clip_{name}_out']) > 0.1


@pytest.mark.slow
def test_live_against_transformers(clip_directory):
    """Where torch and transformers are installed (the extra `parity`): a picture of their own choice."""
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    model = transformers.CLIPModel.from_pretrained(clip_directory).eval()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 33, 3), dtype=np.uint8))
    pixels = torch.from_numpy(clip.prepared(image, 32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        found = model.get_image_features(pixel_values=pixels)
    wanted = getattr(found, 'pooler_output', found)[0].numpy()
    np.testing.assert_allclose(clip.load(clip_directory)(image), wanted, atol=2e-5)
    (clip_directory / 'model.safetensors').unlink()
    torch.save(model.state_dict(), clip_directory / 'pytorch_model.bin')
    np.testing.assert_allclose(clip.load(clip_directory)(image), wanted, atol=2e-5)


def test_directories_that_hold_no_clip(clip_directory):
    document = json.loads((clip_directory / 'config.json').read_text())
    for change, complaint in (
        ({'projection_dim': 7}, 'do not have the shapes'),
        ({'vision_config': {'hidden_act': 'tanh'}}, 'is none of quick_gelu'),
        ({'vision_config': None}, 'no configuration of CLIP'),
    ):
        (clip_directory / 'config.json').write_text(json.dumps(document | change))
        with pytest.raises(UserError, match=complaint):
            clip.load(clip_directory)
    (clip_directory / 'config.json').write_text(json.dumps(document))
    (clip_directory / 'model.safetensors').write_bytes(b'torn')
    with pytest.raises(UserError, match='cannot be read'):
        clip.load(clip_directory)
    with pytest.raises(UserError, match='no configuration of CLIP'):
        clip.load(clip_directory / 'none')


@pytest.mark.slow
def test_the_weights_of_the_package(tmp_path, monkeypatch):
    """93 MB: the embedding of one picture is what PyTorch makes of it, and the licence lies beside the weights."""
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    made = fetch.fetch('imgsim', say=lambda text: None)
    assert 'MIT' in json.loads((made / 'SOURCE.json').read_text())['licence']
    assert 'Permission is hereby granted' in (made / 'LICENSE').read_text()
    found = resnet.load(made)(picture(320, 200))
    np.testing.assert_allclose(found, GOLDEN['imgsim_out'], atol=1e-4)
    assert fetch.fetch('imgsim', say=lambda text: None) == made


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    with pytest.raises(UserError, match='there is no .*model.safetensors'):
        resnet.load(tmp_path)
    with pytest.raises(UserError, match="did you mean 'imgsim'"):
        fetch.fetch('imgsin')


# Judges


class Canvas:
    """A browser that paints the page's first letter, and fails where it is 'x'."""

    def render(self, html):
        letter = html[-1]
        if letter == 'x':
            raise PageError('the page does not load within 1 s')
        return painted(letter)

    def close(self):
        pass


def painted(letter):
    file = io.BytesIO()
    Image.new('RGB', (4, 4), (ord(letter), 100, 255 - ord(letter))).save(file, 'PNG')
    return file.getvalue()


@pytest.fixture
def judge():
    return similarity.Pictures('toy', lambda image: np.asarray(image.resize((4, 4)), float).ravel() - 60, Canvas())


def test_a_judge_compares_pictures(judge):
    assert judge.score('<p>a', '<p>a').reward == pytest.approx(1.0)
    a, b = (np.array([ord(letter), 100, 255 - ord(letter)]) - 60.0 for letter in 'az')
    wanted = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert judge.score('<p>a', '<p>z').reward == pytest.approx(wanted)
    assert judge.score('', '<p>a') == similarity.Score(0.0)  # black, whose cosine is below zero
    assert judge.show('', '<p>a') == (similarity.black(), painted('a'))


def test_pages_that_do_not_load(judge):
    """An answer scores nothing and it is said why; a reference is the file's mistake."""
    assert judge.score('<p>x', '<p>a') == similarity.Score(0.0, 'the page does not load within 1 s')
    assert judge.show('<p>x', '<p>a')[0] == similarity.black()
    for ask in (lambda: judge.score('<p>a', '<p>x', 'f.jsonl, line 3'), lambda: judge.check('<p>x', 'f.jsonl, line 3')):
        with pytest.raises(
            UserError, match='^f.jsonl, line 3: ground_truth cannot be rendered: the page does not load'
        ):
            ask()


def test_the_black_picture():
    assert similarity.opened(similarity.black()).size == (224, 224)
    assert not np.asarray(similarity.opened(similarity.black())).any()


def test_the_fallback_by_hand():
    a, b, none = Counter(a=3, b=4), Counter(a=4, b=3), Counter()
    assert features.cosine(a, a) == 1.0 and features.cosine(a, b) == pytest.approx(0.96)
    assert features.cosine(a, none) == 0.0 and features.cosine(none, none) == 1.0
    one, two = '<body><p class="p-4">red fish</p></body>', '<body><p class="p-4">blue fish</p></body>'
    # Half of the words; tree, style, layout and colours are the same.
    assert features.similarity(one, two) == pytest.approx(1 - 0.5 * features.WEIGHTS['words'])
    assert features.similarity(one, one) == 1.0 and features.similarity('', one) == 0.0
    assert sum(features.WEIGHTS.values()) == pytest.approx(1.0)
    judge = similarity.Fallback('no browser')
    assert judge.label == 'fallback (no browser)' and judge.score(one, one).reward == 1.0 and judge.show(one, two) == ()


def test_who_judges_where_something_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv('TENFOLD_DATA', str(tmp_path))
    monkeypatch.setenv('COLBENCH_BROWSER', str(tmp_path / 'none'))
    assert similarity.make('auto').label == 'fallback (no browser)'
    with pytest.raises(UserError, match="imgsim's weights are not in .*; python -m colbench_jax.fetch takes them"):
        similarity.make('imgsim')
    program = tmp_path / 'browser'
    program.write_text('#!/bin/sh\n')
    program.chmod(0o755)
    monkeypatch.setenv('COLBENCH_BROWSER', str(program))
    assert similarity.make('auto').label == 'fallback (no weights)'
    assert similarity.make('fallback').label == 'fallback (no pictures)'
