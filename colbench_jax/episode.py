"""One episode: an agent and a person talk about a task until the agent answers, at most ten of its turns.

The rules are those of the released environment: the request is the person's first turn; of a turn that holds `OUTPUT:`
only what follows counts; the answer is what follows `I WANT TO ANSWER:`, or the whole last message where the turns ran
out. Of a frontend task it is the last page that the agent showed, declared or not. `Episode` is a state that a batched
engine can step; `play` is the loop for one agent and one person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from colbench_jax.tasks.files import domain_of

MARK, OUTPUT = 'I WANT TO ANSWER:', 'OUTPUT:'
TURNS = 10  # of the agent
LONGEST_REPLY = 400  # characters of the person
LONGEST_REMARK = 1000  # characters of the person who looks at pages

Dialogue = list[dict[str, str]]  # [{'role': 'user' | 'assistant', 'content': text}]; the person is the user


class Utterance(NamedTuple):
    """What an agent said in a turn."""

    output: str  # as it came
    input: str = ''  # the prompt that it answered, where there was one


class Agent(Protocol):
    """Whoever works on a task. It sees the dialogue and nothing else."""

    def act(self, dialogue: Dialogue) -> Utterance: ...


class HumanSimulator(Protocol):
    """Whoever knows what is wanted."""

    def reply(self, task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()) -> str:
        """The answer to the last turn of `dialogue`. artefact: images of what was made and of what is wanted."""
        ...


class Episode:
    """A dialogue in progress."""

    longest_reply = LONGEST_REPLY

    def __init__(self, task: dict[str, Any], turns: int = TURNS):
        self.task, self.turns = task, turns
        self.history: list[dict[str, str]] = [{'role': 'user', 'content': task['problem_description']}]
        self.answer: str | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None

    @property
    def dialogue(self) -> Dialogue:
        """What an agent may see."""
        return [{'role': turn['role'], 'content': turn['content']} for turn in self.history]

    def agent_says(self, said: Utterance) -> None:
        """Takes the agent's turn; the episode may be done after it."""
        content = visible(said.output)
        self.history.append({'role': 'assistant', 'content': content, 'input': said.input, 'output': said.output})
        spoken = sum(turn['role'] == 'assistant' for turn in self.history)
        if MARK in content or spoken >= self.turns:
            self.answer = self._answer(content)

    def human_says(self, text: str) -> None:
        """Takes the person's turn."""
        self.history.append({'role': 'user', 'content': text[: self.longest_reply]})

    def _answer(self, content: str) -> str:
        return answer_of(content)

    def trajectory(self) -> dict[str, Any]:
        """The episode in the shape of the original files."""
        return {'task': self.task, 'dialogue_history': self.history, 'answer': self.answer or ''}


class PageEpisode(Episode):
    """A dialogue about a page: what the agent shows is looked at, and the last of it is the answer ('' where it showed
    none)."""

    longest_reply = LONGEST_REMARK

    def _answer(self, content: str) -> str:
        return shown_page(self.dialogue)


def visible(output: str) -> str:
    """What the other side sees: what stands between the first and the second OUTPUT:, or all of it."""
    return output.split(OUTPUT)[1].strip() if OUTPUT in output else output


def answer_of(content: str) -> str:
    """What stands between the first and the second mark, or all of it."""
    return content.split(MARK)[1].strip() if MARK in content else content


def snippet_of(content: str) -> str:
    """The first page in a turn: `<html>...</html>`, else `<body>...</body>`, else ''."""
    for tag in ('html', 'body'):
        begin = re.search(rf'<{tag}\b[^<>]*>', content, re.IGNORECASE)
        end = begin and re.compile(rf'</{tag}\s*>', re.IGNORECASE).search(content, begin.end())
        if end:
            return content[begin.start() : end.end()]
    return ''


def shown_page(dialogue: Dialogue) -> str:
    """The last page that the agent showed, '' where it showed none."""
    turns = (snippet_of(turn['content']) for turn in reversed(dialogue) if turn['role'] == 'assistant')
    return next(filter(None, turns), '')


def play(
    task: dict[str, Any],
    agent: Agent,
    human: HumanSimulator,
    turns: int = TURNS,
    show: Callable[[dict[str, Any], str], Sequence[bytes]] = lambda task, page: (),
) -> dict[str, Any]:
    """The trajectory of one episode, not yet graded.

    show: the pictures that the person is shown, of a task and the last page that was made ('' for none).
    """
    episode = PageEpisode(task, turns) if domain_of(task) == 'frontend' else Episode(task, turns)
    while True:
        episode.agent_says(agent.act(episode.dialogue))
        if episode.done:
            return episode.trajectory()
        artefact = show(task, shown_page(episode.dialogue))
        episode.human_says(human.reply(task, episode.dialogue, artefact))
