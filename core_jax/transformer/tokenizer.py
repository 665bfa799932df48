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
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import tokenizers

from core_jax.errors import UserError
from core_jax.files import make_directory, reason, write_atomic, write_json_atomic
from core_jax.transformer.config import token_ids

Messages = Sequence[dict[str, Any]]  # {'role': 'system' | 'user' | 'assistant', 'content': text}
_TURN = '\ue000the turn\ue001'  # stands for a turn whose ids are known; private characters, so no message has it
FILES = TOKENIZER, TEMPLATE, SETTINGS = 'tokenizer.json', 'chat_template.jinja', 'tokenizer_config.json'


class Tokenizer:
    """A vocabulary, and a template where the checkpoint has one.

    source: the file that the template came from, for errors. ends: ids of which the model says that they end a text.
    `size`: ids lie below it. `stops`: the ids that end a turn.
    """

    def __init__(
        self,
        vocabulary: tokenizers.Tokenizer,
        template: str | None,
        special: dict[str, str],
        source: str,
        ends: Sequence[int] = (),
    ):
        self._vocabulary, self._special, self._source = vocabulary, special, source
        self._template = None if template is None else _compiled(template, source)
        self.size = max(vocabulary.get_vocab().values(), default=-1) + 1
        texts = [special.get('eos_token'), '<|im_end|>', '<|eot_id|>', '<|end_of_text|>', '<|endoftext|>']
        known = [vocabulary.token_to_id(text) for text in texts if text]
        self.stops = tuple(dict.fromkeys(token for token in [*known, *ends] if token is not None))

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
        How the template writes that turn itself is not asked: Qwen3's has room for thoughts in the last turn alone.
        Raises UserError where the template writes what stands before that turn in another way now.
        """
        turn, earlier = [], list(before)
        if earlier[-1]['role'] == 'assistant':
            turn, earlier = [{'role': 'assistant', 'content': _TURN}], earlier[:-1]
        old = self.rendered(earlier, False) if earlier else ''
        new = self.rendered([*earlier, *turn, *messages], reply)
        self._keeps(old, new)
        if not turn:
            return self.encode(new[len(old) :])
        behind = self.rendered([*earlier, *turn], False).partition(_TURN)[2]
        stops = [self._vocabulary.id_to_token(token) for token in self.stops]
        behind = behind[: max((behind.rfind(stop) + len(stop) for stop in stops if stop in behind), default=None)]
        new = new[len(old) :].partition(_TURN)[2]
        self._keeps(behind, new)
        return self.encode(new[len(behind) :])

    def _keeps(self, old: str, new: str) -> None:
        if not new.startswith(old):
            raise UserError(
                f'the template in {self._source} rewrites earlier turns when a turn is added, so ids cannot be kept: '
                f'{old[-40:]!r} became {new[: len(old)][-40:]!r}'
            )

    def rendered(self, messages: Messages, reply: bool = True) -> str:
        """A conversation as the template writes it. Raises UserError where it fails, or there is none."""
        if self._template is None:
            raise UserError(f'{self._source} has no chat template')
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=reply, **self._special)
        except Exception as error:  # a program that came with a model may raise anything
            raise UserError(f'the chat template in {self._source} fails: {reason(error)}') from None

    def save(self, directory: Any) -> None:
        """Writes tokenizer.json beside the template and the names of the special tokens."""
        directory = make_directory(directory)
        write_atomic(directory / TOKENIZER, self._vocabulary.to_str().encode())
        if self._template is not None:
            write_atomic(directory / TEMPLATE, self._template.text.encode())
        write_json_atomic(directory / SETTINGS, self._special)


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: what the assistant says, for who wants it marked."""

    tags = {'generation'}

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(('name:endgeneration',), drop_needle=True), lineno=line)


def _compiled(text: str, source: str) -> jinja2.Template:
    # As transformers sets it up, which templates are written for.
    world = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols', _Generation]
    )
    world.filters['tojson'] = _json
    world.globals['raise_exception'] = _refuse
    world.globals['strftime_now'] = lambda form: datetime.datetime.now().strftime(form)
    try:
        template = world.from_string(text)
    except jinja2.TemplateError as error:
        raise UserError(f'the chat template in {source} does not parse: {reason(error)}') from None
    template.text = text
    return template


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def load(directory: Any, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint, held against the config.json beside it. vocab_size: of the model it must fit.

    Raises UserError where it is not there, damaged, or of another model.
    """
    directory = pathlib.Path(directory)
    path, settings = directory / TOKENIZER, directory / SETTINGS
    if not path.is_file():
        raise UserError(f'{directory} has no {TOKENIZER}')
    try:
        vocabulary = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f'{path} is damaged: {reason(error)}') from None
    vocabulary.no_truncation()
    vocabulary.no_padding()
    document, source = _object(settings), settings
    template = document.get('chat_template')
    if (directory / TEMPLATE).is_file():
        source = directory / TEMPLATE
        template = _text(source)
    special = {}
    for name in ('bos_token', 'eos_token', 'pad_token', 'unk_token'):
        value = document.get(name)
        value = value.get('content') if isinstance(value, dict) else value
        if isinstance(value, str):
            special[name] = value
    about = directory / 'config.json'
    model = _object(about)
    begin, ends = (_several(token_ids(model, f'{name}_token_id', str(about))) for name in ('bos', 'eos'))
    template = template if isinstance(template, str) else None
    found = Tokenizer(vocabulary, template, special, str(source), ends)
    another = 'it is the tokenizer of another model' + (f' than {about}' if model else '')
    if vocab_size is not None and found.size > vocab_size:
        raise UserError(f'{path} has {found.size} tokens, the model {vocab_size}: {another}')
    # A model that was tuned further may end its turns with another mark than its tokenizer says, but with a mark.
    marks = {token for token, mark in vocabulary.get_added_tokens_decoder().items() if mark.special}
    for name, ids in (('bos_token', begin), ('eos_token', ends)):
        if strange := [token for token in ids if vocabulary.id_to_token(token) is None]:
            raise UserError(f'{path} has no token {strange[0]}, the {name}_id: {another}')
        own = vocabulary.token_to_id(special[name]) if name in special else None
        if own is not None and ids and own not in ids and not marks & set(ids):
            said = ' or '.join(map(str, ids))
            raise UserError(f'{name} of {settings} is {own} in {path}, the model says {said}: {another}')
    return found


def _several(ids: Any) -> tuple[int, ...]:
    return ids if isinstance(ids, tuple) else () if ids is None else (ids,)


def _object(path: pathlib.Path) -> dict[str, Any]:
    """What a file of JSON holds, nothing where there is none."""
    try:
        document = json.loads(_text(path)) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f'{path} is damaged: {reason(error)}') from None
    if not isinstance(document, dict):
        raise UserError(f'{path} is damaged: it is no object')
    return document


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text('utf-8')
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is damaged: {reason(error)}') from None
