"""A model that takes turns: parameters cut into layers once, programs compiled by the bucket of the longest prompt."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from core_jax.transformer import checkpoint, fetch, tokenizer
from core_jax.transformer.config import Config
from core_jax.transformer.generate import Sampling, checked, generate, padded, room, unstack
from core_jax.transformer.tokenizer import Tokenizer

PyTree = Any


class Speaker:
    """Draws turns. max_tokens: of one turn; batch: prompts that are read together.

    Raises UserError where `max_tokens` leaves no room for a prompt.
    """

    def __init__(
        self,
        arch: Config,
        params: PyTree,
        words: Tokenizer,
        *,
        max_tokens: int,
        batch: int = 1,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
    ):
        self.arch, self.tokenizer, self.batch = arch, words, batch
        self._params = jax.jit(unstack)(params)
        options = {'max_tokens': max_tokens, 'stops': words.stops, 'sampling': sampling}
        self._draw: dict[int, Any] = {}
        self._program = lambda n: jax.jit(functools.partial(generate, arch, samples=n, **options))
        self.room = room(arch, max_tokens)

    @classmethod
    def open(cls, model: str, **options: Any) -> Speaker:
        """Of a directory, or a name in a package. Raises UserError."""
        directory = pathlib.Path(model)
        if not directory.is_dir():
            directory = fetch.fetch(model)
        arch, params = checkpoint.load(directory)
        return cls(arch, params, tokenizer.load(directory, arch.vocab_size), **options)

    def draw(self, prompts: Sequence[Sequence[int]], key: jax.Array, samples: int = 1) -> list[list[list[int]]]:
        """Ids of `samples` turns for each prompt, their stops included; a prompt's K turns share its reading.

        What a prompt draws depends on its place alone. Raises UserError, with the number of the prompt, where one is
        empty or leaves no room for a turn, before any is read.
        """
        if prompts:
            checked(prompts, self.room)
        program = self._draw.setdefault(samples, self._program(samples))
        found: list[list[list[int]]] = []
        for first in range(0, len(prompts), self.batch):
            part = list(prompts[first : first + self.batch])
            filled = part + [part[0][:1]] * (self.batch - len(part))
            tokens, lengths = padded(filled, self.room)
            out = jax.device_get(program(self._params, tokens, lengths, jax.random.fold_in(key, first)))
            for tokens, lengths in zip(out.tokens[: len(part)], out.lengths[: len(part)], strict=True):
                found.append([list(map(int, ids[:length])) for ids, length in zip(tokens, lengths, strict=True)])
        return found
