"""Persons who look at pages, behind the protocol of all persons (episode.HumanSimulator).

`ScriptedViewer` compares what can be seen on the page that was made and on the one that is wanted, and says the three
most outstanding differences: deterministic. `ModelViewer` asks a model that sees two screenshots and nothing else, as
the released simulator does.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from colbench_jax.episode import LONGEST_REMARK, Dialogue, shown_page
from colbench_jax.simulators import OpenAICompatible
from colbench_jax.tasks.frontend.outline import differences, outline
from colbench_jax.tasks.frontend.sentences import say
from core_jax.errors import UserError

MOST = 3  # differences that are said in a turn
NOTHING = 'I see no page yet.'
RIGHT = 'It looks right to me.'


class ScriptedViewer:
    """Says what should be otherwise, in a sentence each."""

    def __init__(self, most: int = MOST):
        self.most = most

    def reply(self, task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()) -> str:
        page = shown_page(dialogue)
        if not page:
            return NOTHING
        found = differences(outline(page), outline(task['ground_truth']))
        return ' '.join(say(difference) for difference in found[: self.most]) or RIGHT


_ROLE = (
    'You play a person who ordered a web page. Two screenshots follow: first the page that the programmer has made so '
    'far, then the page that you have in mind. Tell the programmer which differences stand out most: what is missing, '
    'colours, layout, sizes, texts. Be concrete and brief, in everyday words; write no code.'
)


class ModelViewer(OpenAICompatible):
    """A person played by a model that sees, behind a chat-completions server. It gets no text of the task."""

    longest_reply = LONGEST_REMARK
    sees_source = False
    looks = True  # it is shown pictures

    def messages(self, task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()) -> list[dict]:
        """What the model is sent: the pictures of what was made and of what is wanted, as PNG.

        Raises UserError without pictures.
        """
        if len(artefact) != 2:
            raise UserError('a model that looks at pages needs a browser and weights; there are no screenshots')
        content: list[dict[str, Any]] = []
        for name, image in zip(('The page so far:', 'The page in your mind:'), artefact, strict=True):
            address = f'data:image/png;base64,{base64.b64encode(image).decode()}'
            content += [{'type': 'text', 'text': name}, {'type': 'image_url', 'image_url': {'url': address}}]
        return [{'role': 'system', 'content': _ROLE}, {'role': 'user', 'content': content}]
