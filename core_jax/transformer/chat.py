"""Talk with a language model in the terminal: python -m core_jax.transformer.chat

Without --model it is SmolLM2-135M out of a package (93 MB, once; Apache-2.0); --model also takes a directory of
safetensors of the Llama family. With --prompt it answers once and ends.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from core_jax.cli import Parser, keep_compiled, keep_memory
from core_jax.errors import UserError, exit_on_user_error


def main() -> int:
    parser = Parser(prog='python -m core_jax.transformer.chat', description=__doc__)
    parser.add_argument('--model', default='smollm2-135m', help='a name in a package, or a directory (%(default)s)')
    parser.add_argument('--prompt', help='what to say; without it you are asked, until an empty line')
    parser.add_argument('--max-tokens', type=int, default=128, help='of an answer (%(default)s)')
    parser.add_argument('--temperature', type=float, default=0.7, help='0: the likeliest token (%(default)s)')
    parser.add_argument('--top-p', type=float, default=0.95, help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    flags = parser.parse()[0]
    if flags.max_tokens < 1:
        raise UserError(f'--max-tokens must be at least 1, got {flags.max_tokens}')
    keep_compiled()
    keep_memory()
    talk = Talk(flags)
    if flags.prompt is not None:
        talk.say(flags.prompt)
        return 0
    print('an empty line ends')
    while text := _line():
        talk.say(text)
    return 0


class Talk:
    """One conversation. Ids that were drawn stay as they are; what you say is added to them."""

    def __init__(self, flags: Any):
        import jax

        from core_jax.transformer.generate import Sampling
        from core_jax.transformer.speaker import Speaker

        sampling = Sampling(flags.temperature, 0, flags.top_p)
        self.speaker = Speaker.open(flags.model, max_tokens=flags.max_tokens, sampling=sampling)
        self.words, self.key = self.speaker.tokenizer, jax.random.key(flags.seed)
        self.messages: list[dict[str, str]] = []
        self.ids: list[int] = []

    def say(self, text: str) -> None:
        """Prints the answer, and how fast it came."""
        import jax

        message = [{'role': 'user', 'content': text}]
        self.ids += self.words.added(self.messages, message) if self.messages else self.words.chat(message)
        self.messages += message
        began = time.perf_counter()
        ((drawn,),) = self.speaker.draw([self.ids], jax.random.fold_in(self.key, len(self.ids)))
        seconds, count = time.perf_counter() - began, len(drawn)
        answer = self.words.decode(drawn)
        if drawn[-1] not in self.words.stops:
            drawn.append(self.words.stops[0])  # cut by the limit: the template ends the turn all the same
        self.ids, self.messages = self.ids + drawn, [*self.messages, {'role': 'assistant', 'content': answer}]
        print(answer)
        print(f'({count} tokens, {seconds:.1f} s, compilation included where it was the first)', file=sys.stderr)


def _line() -> str:
    try:
        return input('you: ').strip()
    except (EOFError, KeyboardInterrupt):
        return ''


if __name__ == '__main__':
    exit_on_user_error(main)
