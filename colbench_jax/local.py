"""A person played by a language model of this machine, which needs no server and no network.

A model of 135M parameters answers in sentences that are often beside the point: it is there so that everything can
be tried offline, not for figures.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

from colbench_jax.episode import LONGEST_REPLY, Dialogue
from colbench_jax.simulators import LEAK_REPLY, leaks, person_messages, report_of
from core_jax.errors import UserError
from core_jax.transformer.generate import Sampling
from core_jax.transformer.speaker import Speaker


class LocalLM:
    """Answers with the likeliest tokens, by the same prompt and behind the same leak filter as an endpoint's model.

    counts: `replies` and `leaks`.
    """

    def __init__(self, model: str = 'smollm2-135m', *, max_tokens: int = 48):
        """model: a directory of safetensors, or a name in a package. Raises UserError."""
        self._speaker = Speaker.open(model, max_tokens=max_tokens, sampling=Sampling(temperature=0))
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reply(self, task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()) -> str:
        """Raises UserError for images, and for a dialogue beyond the model's context."""
        if artefact:
            raise UserError('a local language model sees no images; name an endpoint')
        words = self._speaker.tokenizer
        with self._lock:  # one device
            ((ids,),) = self._speaker.draw([words.chat(person_messages(task, dialogue))], jax.random.key(0))
            self.counts['replies'] += 1
            text = words.decode(ids).strip()
            if leaks(text, task['ground_truth']):
                self.counts['leaks'] += 1
                return LEAK_REPLY
        return text[:LONGEST_REPLY]

    def report(self) -> dict[str, float]:
        """Counts and rates."""
        return report_of(self.counts)
