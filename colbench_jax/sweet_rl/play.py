"""Many episodes at once with one model: all that are not done take their turn together, in batches of one size.

`Player` holds a model for drawing: layers apart, programs compiled by the bucket of the longest prompt. A state's K
candidates share the reading of its prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from colbench_jax.episode import Episode, HumanSimulator, Utterance
from colbench_jax.sweet_rl import words
from core_jax.errors import UserError
from core_jax.transformer.config import Config
from core_jax.transformer.generate import Sampling, bucket, generate, padded, unstack
from core_jax.transformer.tokenizer import Tokenizer

PyTree = Any


class Player:
    """A policy that takes turns. max_tokens: of one turn; batch: prompts that are read together."""

    def __init__(
        self,
        arch: Config,
        params: PyTree,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        batch: int = 64,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
    ):
        self.arch, self.tokenizer, self.batch = arch, tokenizer, batch
        self._params = jax.jit(unstack)(params)
        options = {'max_tokens': max_tokens, 'stops': tokenizer.stops, 'sampling': sampling}
        self._draw = {}
        self._program = lambda n: jax.jit(functools.partial(generate, arch, samples=n, **options))
        self._room = arch.max_positions - max_tokens

    def draw(self, prompts: Sequence[Sequence[int]], key: jax.Array, samples: int = 1) -> list[list[list[int]]]:
        """Ids of `samples` turns for each prompt, their stops included. What a prompt draws depends on its place alone.

        Raises UserError where a prompt leaves no room for a turn.
        """
        program = self._draw.setdefault(samples, self._program(samples))
        found: list[list[list[int]]] = []
        for first in range(0, len(prompts), self.batch):
            part = list(prompts[first : first + self.batch])
            longest = max(map(len, part))
            if longest > self._room:
                raise UserError(f'a dialogue has {longest} tokens, there is room for {self._room}')
            filled = part + [part[0][:1]] * (self.batch - len(part))
            tokens, lengths = padded(filled)
            out = jax.device_get(program(self._params, tokens, lengths, jax.random.fold_in(key, first)))
            for tokens, lengths in zip(out.tokens[: len(part)], out.lengths[: len(part)], strict=True):
                found.append([list(map(int, ids[:length])) for ids, length in zip(tokens, lengths, strict=True)])
        return found

    def play(
        self,
        tasks: Sequence[dict[str, Any]],
        human: HumanSimulator,
        key: jax.Array,
        *,
        turns: int,
        choose: Callable[[list, list], list[int]] | None = None,
        samples: int = 1,
        tick: Callable[[int], None] = lambda done: None,
    ) -> list[dict[str, Any]]:
        """Trajectories of an episode of each task, not yet graded.

        choose(episodes, candidates) -> which of `samples` candidates [episodes][samples] is said; None: the first.
        """
        episodes = [Episode(task, turns) for task in tasks]
        for number in range(turns):
            going = [episode for episode in episodes if not episode.done]
            if not going:
                break
            prompts = [words.prompt(self.tokenizer, episode.history) for episode in going]
            drawn = self.draw(prompts, jax.random.fold_in(key, number), samples)
            chosen = [0] * len(going) if choose is None else choose(going, drawn)
            for episode, candidates, pick in zip(going, drawn, chosen, strict=True):
                take_turn(self.tokenizer, episode, candidates[pick])
                if not episode.done:
                    episode.human_says(human.reply(episode.task, episode.dialogue))
                else:
                    tick(1)
        return [episode.trajectory() for episode in episodes]


def take_turn(tokenizer: Tokenizer, episode: Episode, ids: Sequence[int]) -> None:
    """Says what was drawn, and keeps its ids."""
    text = tokenizer.decode([token for token in ids if token not in tokenizer.stops])
    episode.agent_says(Utterance(text))
    episode.history[-1]['tokens'] = list(ids)


def room(arch: Config, longest: int) -> int:
    """Width of rows that hold dialogues of `longest` tokens. Raises UserError where the model has no such positions."""
    width = bucket(longest)
    if width > arch.max_positions:
        raise UserError(f'dialogues of {longest} tokens do not fit in {arch.max_positions} positions')
    return width
