"""One episode: an agent and a person talk about a task until the agent answers, at most ten of its turns.

The rules are those of the released environment: the request is the person's first turn; of a turn that holds `OUTPUT:`
only what follows counts; the answer is what follows `I WANT TO ANSWER:`, or the whole last message where the turns ran
out. `Episode` is a state that a batched engine can step; `play` is the loop for one agent and one person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

MARK, OUTPUT = 'I WANT TO ANSWER:', 'OUTPUT:'
TURNS = 10  # of the agent
LONGEST_REPLY = 400  # characters of the person

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
            self.answer = answer_of(content)

    def human_says(self, text: str) -> None:
        """Takes the person's turn."""
        self.history.append({'role': 'user', 'content': text[:LONGEST_REPLY]})

    def trajectory(self) -> dict[str, Any]:
        """The episode in the shape of the original files."""
        return {'task': self.task, 'dialogue_history': self.history, 'answer': self.answer or ''}


def visible(output: str) -> str:
    """What the other side sees: what stands between the first and the second OUTPUT:, or all of it."""
    return output.split(OUTPUT)[1].strip() if OUTPUT in output else output


def answer_of(content: str) -> str:
    """What stands between the first and the second mark, or all of it."""
    return content.split(MARK)[1].strip() if MARK in content else content


def play(task: dict[str, Any], agent: Agent, human: HumanSimulator, turns: int = TURNS) -> dict[str, Any]:
    """The trajectory of one episode, not yet graded."""
    episode = Episode(task, turns)
    while True:
        episode.agent_says(agent.act(episode.dialogue))
        if episode.done:
            return episode.trajectory()
        episode.human_says(human.reply(task, episode.dialogue))
