"""Images: handwritten digits of 8x8 pixels (scikit-learn), or Fashion-MNIST of 28x28 (Debian's dataset-fashion-mnist).

A small U-Net learns them as EDM does; designs are [H, W, 1] with values of -1 (black) to 1, cut there where they are
read. Rewards: how small an image becomes as a JPEG, which only the host can say, and two measures of it that have
gradients; log-odds of a class, by a classifier that knows one half of the images, judged by one that knows the other.
Model and classifiers are trained here, once (`training`).

Digits: E. Alpaydin and C. Kaynak, 1998, UCI repository, 1,797 images (BSD, in scikit-learn). Fashion-MNIST: Xiao et
al., arXiv 1708.07747, 60,000 images for training (MIT).
"""

from __future__ import annotations

import gzip
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax.errors import UserError, unknown
from core_jax.files import reason, write_atomic
from diffusion_jax import training
from diffusion_jax.domains import pictures
from diffusion_jax.domains.table import designs_csv
from diffusion_jax.domains.task import Reward, Task
from diffusion_jax.models import classifier, gaussian, gaussian_learner
from diffusion_jax.models.oracle import halves
from diffusion_jax.process import Process, PyTree

TASKS = ('digits', 'fashion')
FASHION = '/usr/share/datasets/fashion-mnist'  # where Debian puts it
PACKAGE = 'dataset-fashion-mnist'
CLASSES = {
    'digits': tuple('0123456789'),
    'fashion': ('t-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot'),
}
WIDTH = 640  # about so many pixels a sheet of designs is wide


def get_config(name: str = 'digits') -> ml_collections.ConfigDict:
    """Settings for the images of this name: minutes on a core for digits. Raises UserError."""
    if name not in TASKS:
        raise unknown('task', name, TASKS)
    model, judge = gaussian_learner.get_config(), classifier.get_config()
    model.update({'batch_size': 64, 'sigma_data': 0.75, 'ema': 0.998, 'learning_rate': 2e-3, 'warmup': 100})
    model.network.channels = 24
    if name == 'fashion':
        model.sigma_data = 0.7
        model.network.patch = 2
    return ml_collections.ConfigDict(
        {
            'path': FASHION,  # of the four idx files of Fashion-MNIST, gzipped or not
            'model': model,
            'model_steps': 1500 if name == 'digits' else 3000,  # updates
            'classifier': judge,
            'classifier_steps': 1500,  # updates
            'steps': 32,  # of the process
            'sigma_min': 0.02,  # its least noise: a grey level of 256 is 0.008
            'sigma_max': 20.0,  # its most
            'rank': 32,  # principal directions in which a guess differs from the posterior mean
        }
    )


def reward_names(name: str, config: ml_collections.ConfigDict) -> list[str]:
    """Of a task with these settings, before anything is trained."""
    classes = [f'class-{label}' for label in CLASSES[name]]
    return ['jpeg', 'dct', 'variation', *(part for each in classes for part in (each, f'{each}-held-out'))]


def make(
    name: str = 'digits', config: ml_collections.ConfigDict | None = None, say: Callable[[str], None] = print
) -> Task:
    """The task of this name, 'digits' or 'fashion'; trains what is missing. Raises UserError for another name.

    Where Fashion-MNIST is not at config.path, `say` is told, and it is the digits.
    """
    config = config or get_config(name)
    if name == 'fashion' and not pathlib.Path(config.path).is_dir():
        say(f'no Fashion-MNIST at {config.path} (Debian: apt install {PACKAGE}); taking the digits')
        name, config = 'digits', get_config('digits')
    images, labels = load(name, config.path)
    shape = images.shape[1:]
    return Task(
        name=name,
        about=f'{"handwritten digits" if name == "digits" else "Fashion-MNIST"}, {shape[0]}x{shape[1]} grey levels',
        process=prior(name, images, config),
        rewards=rewards(name, images, labels, config),
        decode=decode,
        encode=encoder(shape),
        distances=distances,
        write=write,
        alpha=1.0,
    )


# Data


def load(name: str, path: str = FASHION) -> tuple[np.ndarray, np.ndarray]:
    """(images [N, H, W, 1] float32 in -1..1, labels [N] int32). Raises UserError."""
    if name == 'digits':
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError('the digits need scikit-learn: pip install scikit-learn') from error
        data = load_digits()
        grey, labels = data.images / 16, data.target
    elif name == 'fashion':
        grey = read_idx(pathlib.Path(path) / 'train-images-idx3-ubyte', 3) / np.float32(255)
        labels = read_idx(pathlib.Path(path) / 'train-labels-idx1-ubyte', 1)
        if len(grey) != len(labels):
            raise UserError(f'{path}: {len(grey)} images, but {len(labels)} labels')
    else:
        raise unknown('task', name, TASKS)
    return (2 * grey - 1).astype(np.float32)[..., None], labels.astype(np.int32)


def read_idx(path: pathlib.Path, rank: int) -> np.ndarray:
    """The bytes uint8 [...] of an idx file, or of PATH.gz, with this number of axes. Raises UserError.

    Its head is two zeros, the type 8 and the rank as bytes, then each length as a big-endian int32.
    """
    packed = path.with_name(path.name + '.gz')
    path = path if path.exists() else packed
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path == packed else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'cannot read {path}: {reason(error)}') from error
    start = 4 + 4 * rank
    shape = tuple(int(size) for size in np.frombuffer(content[4:start].ljust(4 * rank, b'\0'), '>i4'))
    if content[:4] != bytes((0, 0, 8, rank)) or len(content) != start + np.prod(shape, dtype=np.int64):
        raise UserError(f'{path} is no idx file of bytes with {rank} axes, or a damaged one')
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# Model


def prior(name: str, images: np.ndarray, config: ml_collections.ConfigDict) -> Process:
    """The process of a model of these images, trained here once."""
    learner = gaussian_learner.make(config.model)
    params = training.trained(name, learner, {'designs': images}, config.model, steps=config.model_steps)
    return gaussian_learner.process(
        config.model,
        params,
        shape=images.shape[1:],
        steps=config.steps,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        directions=gaussian.principal_directions(images, config.rank),
    )


# Rewards


def grey_levels(designs: jax.Array) -> jax.Array:
    """Designs [N, H, W, 1] as [N, H, W] in 0..255, cut where they are darker or lighter. Not rounded."""
    return 127.5 * (jnp.clip(designs[..., 0], -1.0, 1.0) + 1)


def total_variation(params: None, designs: jax.Array) -> jax.Array:
    """Minus the differences of neighbours, summed, a pixel."""
    grey = grey_levels(designs)
    across, down = jnp.abs(jnp.diff(grey, axis=2)).sum((1, 2)), jnp.abs(jnp.diff(grey, axis=1)).sum((1, 2))
    return -(across + down) / np.prod(grey.shape[1:])


def cosines(size: int = 8) -> np.ndarray:
    """The orthonormal DCT-II [frequency, position] of JPEG's blocks."""
    k, x = np.arange(size)[:, None], np.arange(size)[None]
    table = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * x + 1) / (2 * size))
    table[0] /= np.sqrt(2)
    return table.astype(np.float32)


def dct_l1(params: None, designs: jax.Array) -> jax.Array:
    """Minus the absolute coefficients but the mean's of JPEG's 8x8 blocks, summed, a pixel. The edge is repeated."""
    grey = grey_levels(designs)
    height, width = grey.shape[1:]
    grey = jnp.pad(grey, ((0, 0), (0, -height % 8), (0, -width % 8)), mode='edge')
    blocks = grey.reshape(grey.shape[0], grey.shape[1] // 8, 8, grey.shape[2] // 8, 8)
    found = jnp.abs(jnp.einsum('ux,vy,nixjy->nijuv', cosines(), cosines(), blocks))
    return -(found.sum((1, 2, 3, 4)) - found[..., 0, 0].sum((1, 2))) / (height * width)


def rewards(name: str, images: np.ndarray, labels: np.ndarray, config: ml_collections.ConfigDict) -> dict[str, Reward]:
    """All of them; trains the two classifiers where they are missing."""
    found = {
        'jpeg': Reward(
            'bytes that a JPEG of it has more than that of a mid-grey image, negative', on_host=pictures.compressibility
        ),
        'dct': Reward('JPEG coefficients, grey levels a pixel, negative', dct_l1, on_relaxed=dct_l1, held_out='jpeg'),
        'variation': Reward(
            'differences of neighbours, grey levels a pixel, negative', total_variation, on_relaxed=total_variation
        ),
    }
    guide, judge = classifiers(name, images, labels, config)
    class_odds = odds_of(config.classifier)
    for i, label in enumerate(CLASSES[name]):
        chosen = jnp.arange(config.classifier.classes) == i
        about = f'log-odds of class {label}, nats, by classifier'
        odds = {'net': guide, 'chosen': chosen}
        found[f'class-{label}'] = Reward(
            f'{about} A', class_odds, odds, on_relaxed=class_odds, held_out=f'class-{label}-held-out'
        )
        found[f'class-{label}-held-out'] = Reward(f'{about} B, of the other half', class_odds, odds | {'net': judge})
    return found


def classifiers(
    name: str, images: np.ndarray, labels: np.ndarray, config: ml_collections.ConfigDict
) -> tuple[PyTree, PyTree]:
    """(A, B): parameters, trained on two disjoint halves."""
    learner, found = classifier.make(config.classifier), []
    for letter, rows in zip('ab', halves(len(images)), strict=True):
        data = {'images': images[rows], 'labels': labels[rows]}
        found.append(
            training.trained(f'{name}-{letter}', learner, data, config.classifier, steps=config.classifier_steps)
        )
    return found[0], found[1]


def odds_of(config: ml_collections.ConfigDict) -> Callable[[dict, jax.Array], jax.Array]:
    """(params, designs [N, H, W, 1]) -> log-odds [N] of params['chosen'] by params['net']."""
    network = classifier.network_of(config)

    def class_odds(params: dict, designs: jax.Array) -> jax.Array:
        logits = network.apply(params['net'], jnp.clip(designs, -1.0, 1.0))
        return classifier.log_odds(logits, params['chosen'])

    return class_odds


# What a person reads


def pixels(designs: np.ndarray) -> np.ndarray:
    """Designs [N, H, W, 1] as grey levels uint8 [N, H, W]."""
    return np.round(127.5 * (np.clip(np.asarray(designs)[..., 0], -1, 1) + 1)).astype(np.uint8)


def decode(designs: np.ndarray) -> list[str]:
    """Data URIs of PNGs; empty where a design has a number that is not finite."""
    finite = np.isfinite(designs).all((1, 2, 3))
    grey = pixels(np.where(finite[:, None, None, None], designs, 0))
    return [pictures.to_text(image) if whole else '' for image, whole in zip(grey, finite, strict=True)]


def encoder(shape: tuple[int, ...]) -> Callable[[Sequence[str]], np.ndarray]:
    """`Task.encode` of images of this shape [H, W, 1]: data URIs, or paths of PNG and JPEG files."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        if not texts:
            raise UserError('there are no images')
        found = []
        for text in texts:
            image = pictures.from_text(text)
            if image.shape != shape[:2]:
                size, wanted = (f'{rows[1]}x{rows[0]}' for rows in (image.shape, shape))
                raise UserError(f'{text[:60]!r} is an image of {size} pixels, designs have {wanted}')
            found.append(image)
        return (np.stack(found)[..., None] / 127.5 - 1).astype(np.float32)

    return encode


def distances(designs: np.ndarray) -> np.ndarray:
    """Root mean squares of what two images' grey levels differ by, as parts of black to white: float64 [N, N]."""
    flat = pixels(designs).reshape(len(designs), -1) / 255
    return np.stack([np.sqrt(((flat - one) ** 2).mean(1)) for one in flat])


def write(directory: pathlib.Path, designs: np.ndarray, columns: Mapping[str, Sequence[float]]) -> list[pathlib.Path]:
    """designs.png, all of them on one sheet, row by row, and designs.csv with `columns` [N] each beside them."""
    grey = pixels(designs)
    across = int(np.ceil(np.sqrt(len(grey))))
    sheet = pictures.grid(grey, across, max(1, WIDTH // (across * grey.shape[2])))
    paths = [pathlib.Path(directory) / name for name in ('designs.png', 'designs.csv')]
    for path, content in zip(paths, (pictures.png(sheet), designs_csv(decode(designs), columns)), strict=True):
        write_atomic(path, content)
    return paths
