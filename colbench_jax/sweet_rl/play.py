"""Many episodes at once with one model: all that are not done take their turn together, in batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from colbench_jax.episode import Episode, HumanSimulator, Utterance
from colbench_jax.sweet_rl import words
from core_jax.transformer.speaker import Speaker
from core_jax.transformer.tokenizer import Tokenizer


class Player(Speaker):
    """A policy that takes turns in episodes."""

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
