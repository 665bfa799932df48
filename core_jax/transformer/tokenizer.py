"""Text to token ids and back, and conversations by the template of a checkpoint.

A template is a program that came with a model: it runs in jinja2's sandbox, where it sees the messages and nothing
else. Token ids that a model has drawn are never made of their text again: a conversation grows by the ids of what was
added (`added`), which asks that what the template wrote before stays as it was.
"""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox
import tokenizers

from core_jax.errors import UserError
from core_jax.files import reason

Messages = Sequence[dict[str, Any]]  # {'role': 'system' | 'user' | 'assistant', 'content': text}
FILES = TOKENIZER, TEMPLATE, SETTINGS = 'tokenizer.json', 'chat_template.jinja', 'tokenizer_config.json'


class Tokenizer:
    """A vocabulary, and a template where the checkpoint has one. `stops`: the ids that end a turn."""

    def __init__(self, vocabulary: tokenizers.Tokenizer, template: str | None, special: dict[str, str], source: str):
        self._vocabulary, self._special, self._source = vocabulary, special, source
        self._template = None if template is None else _compiled(template, source)
        self.size = vocabulary.get_vocab_size()
        ends = [special.get('eos_token'), '<|im_end|>', '<|eot_id|>', '<|end_of_text|>', '<|endoftext|>']
        known = (vocabulary.token_to_id(text) for text in ends if text)
        self.stops = tuple(dict.fromkeys(token for token in known if token is not None))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, in which special tokens may stand written out. No token is added."""
        return self._vocabulary.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of ids; with `special`, special tokens too."""
        return self._vocabulary.decode([int(token) for token in ids], skip_special_tokens=not special)

    def chat(self, messages: Messages, reply: bool = True) -> list[int]:
        """Ids of a conversation, up to where the assistant's next turn begins (`reply`)."""
        return self.encode(self.rendered(messages, reply))

    def added(self, before: Messages, messages: Messages, reply: bool = True) -> list[int]:
        """Ids of what `messages` add to the conversation `before`, whose ids stay.

        A turn that was drawn ends with its stop; what the template writes behind that (ChatML: a line break) is added.
        Raises UserError where the template writes the beginning of the conversation in another way now.
        """
        old, new = self.rendered(before, False), self.rendered([*before, *messages], reply)
        if before[-1]['role'] == 'assistant':
            stops = [self._vocabulary.id_to_token(token) for token in self.stops]
            old = old[: max((old.rfind(stop) + len(stop) for stop in stops if stop in old), default=len(old))]
        if not new.startswith(old):
            raise UserError(
                f'the template of {self._source} rewrites earlier turns when a turn is added, so ids cannot be kept: '
                f'{old[-40:]!r} became {new[: len(old)][-40:]!r}'
            )
        return self.encode(new[len(old) :])

    def rendered(self, messages: Messages, reply: bool = True) -> str:
        """A conversation as the template writes it. Raises UserError where it fails, or there is none."""
        if self._template is None:
            raise UserError(f'{self._source} has no chat template')
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=reply, **self._special)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f'the chat template of {self._source} fails: {reason(error)}') from None

    def save(self, directory: Any) -> None:
        """Writes tokenizer.json beside the template and the names of the special tokens."""
        from core_jax.files import write_atomic, write_json_atomic

        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / TOKENIZER, self._vocabulary.to_str().encode())
        if self._template is not None:
            write_atomic(directory / TEMPLATE, self._template.text.encode())
        write_json_atomic(directory / SETTINGS, self._special)


def _compiled(text: str, source: str) -> jinja2.Template:
    # As transformers sets it up, which templates are written for.
    world = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols']
    )
    world.filters['tojson'] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    world.globals['raise_exception'] = _refuse
    world.globals['strftime_now'] = lambda form: datetime.datetime.now().strftime(form)
    try:
        template = world.from_string(text)
    except jinja2.TemplateError as error:
        raise UserError(f'the chat template of {source} does not parse: {reason(error)}') from None
    template.text = text
    return template


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def load(directory: Any, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint. vocab_size: of the model that it must fit.

    Raises UserError where it is not there, damaged, or of another model.
    """
    directory = pathlib.Path(directory)
    path = directory / TOKENIZER
    if not path.is_file():
        raise UserError(f'{directory} has no {TOKENIZER}')
    try:
        vocabulary = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f'{path} is damaged: {reason(error)}') from None
    settings = directory / SETTINGS
    try:
        document = json.loads(settings.read_text()) if settings.is_file() else {}
    except ValueError as error:
        raise UserError(f'{settings} is damaged: {reason(error)}') from None
    template = document.get('chat_template')
    if (directory / TEMPLATE).is_file():
        template = (directory / TEMPLATE).read_text()
    special = {}
    for name in ('bos_token', 'eos_token', 'pad_token', 'unk_token'):
        value = document.get(name)
        value = value.get('content') if isinstance(value, dict) else value
        if isinstance(value, str):
            special[name] = value
    found = Tokenizer(vocabulary, template if isinstance(template, str) else None, special, str(directory))
    if vocab_size is not None and found.size > vocab_size:
        raise UserError(f'{path} has {found.size} tokens, the model {vocab_size}: it is the tokenizer of another model')
    return found
