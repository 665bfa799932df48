"""Small grey images as text, as files, and their size as JPEG. Without jax: the processes of host rewards import it.

An image is written as the data URI of a PNG: text that a browser shows.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence

import numpy as np

from core_jax.errors import UserError

PREFIX = 'data:image/png;base64,'
QUALITY = 95  # of JPEG, as in the papers


def to_text(pixels: np.ndarray) -> str:
    """The data URI of an image uint8 [H, W]."""
    return PREFIX + base64.b64encode(_encoded(pixels, 'PNG')).decode()


def from_text(text: str) -> np.ndarray:
    """The image uint8 [H, W] that a data URI holds, or an image file at this path. Raises UserError."""
    image = _pillow()
    try:
        content = base64.b64decode(text[len(PREFIX) :], validate=True) if text.startswith(PREFIX) else None
        with image.open(text if content is None else io.BytesIO(content), formats=('PNG', 'JPEG')) as opened:
            return np.asarray(opened.convert('L'))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f'{text[:60]!r} is no image: {" ".join(str(error).split())}') from error


def compressibility(texts: Sequence[str]) -> list[float]:
    """Bytes of a JPEG of quality 95, of a mid-grey image of that size minus those of the image: 0 is the most."""
    sizes = []
    for text in texts:
        pixels = from_text(text)
        sizes.append(float(_least(pixels.shape) - len(_jpeg(pixels))))
    return sizes


def grid(images: np.ndarray, columns: int, scale: int, gap: int = 2) -> np.ndarray:
    """Images uint8 [N, H, W] beside each other, row by row, each pixel a square of `scale`: uint8 [...]."""
    big = np.repeat(np.repeat(images, scale, 1), scale, 2)
    count, height, width = big.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, min(columns, count) * (width + gap) + gap), 128, np.uint8)
    for i, image in enumerate(big):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = image
    return sheet


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of an image uint8 [H, W]."""
    return _encoded(pixels, 'PNG')


def _jpeg(pixels: np.ndarray) -> bytes:
    return _encoded(pixels, 'JPEG', quality=QUALITY)


@functools.lru_cache
def _least(shape: tuple[int, int]) -> int:
    """Bytes of a JPEG that says nothing."""
    return len(_jpeg(np.full(shape, 128, np.uint8)))


def _encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    _pillow().fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError('images need Pillow: pip install pillow') from error
    return Image
