"""Persons who know what is wanted, behind one protocol (episode.HumanSimulator).

`ScriptedHuman` matches a question with what it knows and says its sentences: deterministic, and it holds no code that
it could leak. `OpenAICompatible` asks a model behind any server of the chat-completions interface, which sees the
reference and is watched for leaks.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import http.client
import io
import json
import math
import os
import random
import re
import socket
import threading
import time
import tokenize
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from colbench_jax.episode import LONGEST_REPLY, Dialogue
from colbench_jax.tasks.backend.family import shown
from core_jax.errors import UserError

UNSURE = 'I do not know.'
FORGOTTEN = 'I do not remember.'
CLOSED = 'any.'  # in the restricted grammar, for a topic that is not open
SHORT = {UNSURE: 'what?', FORGOTTEN: 'cannot remember.'}  # in the restricted grammar
NO_RESPONSE = 'No response.'  # of the released simulators, where their model fails

_STOP = frozenset(
    'a an the is are be do does did i you we it of to in on for and or with what which how should there that this if '
    'any me my your as at by can could would will please tell want need have has use'.split()
)


class ScriptedHuman:
    """Answers at most two questions a turn, in a sentence each; says that it does not know where nothing matches."""

    def __init__(self, seed: int = 0, *, terse: bool = False, one_slot_only: bool = False, forgetful: float = 0.0):
        """terse: a value alone where that is an answer. forgetful: chance of not remembering, drawn anew each turn."""
        self.seed, self.terse, self.forgetful = seed, terse, forgetful
        self.most = 1 if one_slot_only else 2

    def reply(self, task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()) -> str:
        """Raises UserError for a task without `spec`."""
        if not task.get('spec'):
            raise UserError('a scripted person needs tasks with `spec`; for others name an endpoint')
        slots = task['spec']['slots']
        short = task['spec'].get('grammar') == 'restricted'
        rng = random.Random(f'{self.seed}/{task["problem_description"]}/{len(dialogue)}')
        if self.forgetful and rng.random() < self.forgetful:
            return SHORT[FORGOTTEN] if short else FORGOTTEN
        sentences = [self._sentence(slot, short) for slot in meant(dialogue[-1]['content'], slots)[: self.most]]
        return ' '.join(dict.fromkeys(sentences))[:LONGEST_REPLY] or (SHORT[UNSURE] if short else UNSURE)

    def _sentence(self, slot: dict[str, Any], short: bool) -> str:
        if short and not slot['hidden']:
            return CLOSED
        value = tuple(slot['value']) if isinstance(slot['value'], list) else slot['value']
        spelled = value is not None and shown(value) in slot['answer']
        return f'{shown(value)}.' if self.terse and spelled else slot['answer']


def meant(text: str, slots: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The slots that `text` asks for, in its order: for each of its sentences the one whose questions are nearest.

    Nearness is the cosine of TF-IDF vectors, a slot's questions being the documents; below a third nothing is meant.
    """
    documents = [[tokens(question) for question in slot['questions']] for slot in slots]
    counts = Counter(word for questions in documents for word in set().union(*questions))
    weight = {word: math.log(1 + len(slots) / count) for word, count in counts.items()}

    def norm(words: set[str]) -> float:
        return math.sqrt(sum(weight.get(word, 1.0) ** 2 for word in words)) or 1.0

    found = []
    for sentence in re.split(r'(?<=[?!\n])\s*', text):
        words = tokens(sentence)
        if not words or not slots:
            continue
        scores = [
            max(sum(weight[word] ** 2 for word in words & other) / norm(words) / norm(other) for other in questions)
            for questions in documents
        ]
        best = max(range(len(slots)), key=scores.__getitem__)
        if scores[best] > 1 / 3 and slots[best] not in found:
            found.append(slots[best])
    return found


def tokens(text: str) -> set[str]:
    """The words of a text that say what it is about, without endings."""
    words = re.findall(r'[a-z]+|\d+', text.lower())
    return {re.sub(r'(ing|ed|es|s|e)$', '', word) if len(word) > 4 else word for word in words if word not in _STOP}


# A model behind an endpoint

LEAK_LENGTH = 6  # tokens in a row that are the reference's
LEAK_REPLY = 'I cannot show code; ask me what it should do.'
LARGEST_REPLY = 4 * 2**20  # bytes of a server's answer

_ROLE = (
    'You play a person who ordered a piece of software and talks with the programmer. You know what the finished '
    'program does, since you hold its source, but you are no programmer yourself. Answer the last message of the '
    'programmer truthfully from that source, in at most two short sentences and in everyday words. If the source '
    'does not decide what is asked, say that you do not know. Never quote, show or describe the source itself, and '
    'offer nothing that was not asked.'
)


class OpenAICompatible:
    """A person played by a model behind a chat-completions server.

    counts: `replies`, `retries`, `errors` (replies that failed after all retries: `No response.`) and `leaks`.
    """

    longest_reply = LONGEST_REPLY
    sees_source = True  # and may leak it

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str = 'OPENAI_API_KEY',
        timeout: float = 60.0,
        retries: int = 3,
        backoff: float = 1.0,
    ):
        """base_url: such as http://localhost:8000/v1. key_variable: of the environment. timeout: seconds in total for
        one try. backoff: seconds before the first retry, twice as long before each further one. Raises UserError."""
        self._url = urllib.parse.urlsplit(base_url.rstrip('/') + '/chat/completions')
        try:
            right = self._url.scheme in ('http', 'https') and self._url.hostname and self._url.port != 0
        except ValueError:  # a port that is none
            right = False
        if not right or re.search(r'\s', base_url):
            raise UserError(f'{base_url!r} is no address of a server, such as http://localhost:8000/v1')
        self.model, self.timeout, self.retries, self.backoff = model, timeout, retries, backoff
        self._key = os.environ.get(key_variable, '')
        self.counts: Counter[str] = Counter()
        self.why = ''  # the last reply failed
        self._lock = threading.Lock()  # one simulator may serve many episodes at once
        self._open: set[socket.socket] = set()  # of tries in progress
        self._stopped = threading.Event()

    def reply(self, task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()) -> str:
        """Raises UserError where the server refuses us for good (wrong key, no such model or address), where it cannot
        be reached and no reply has come yet, and after `stop`."""
        self._count('replies')
        failure: Exception | None = None
        for attempt in range(self.retries + 1):
            if attempt:
                self._count('retries')
                self._stopped.wait(self.backoff * 2 ** (attempt - 1))
            if self._stopped.is_set():
                raise UserError('the talk was broken off')
            try:
                text = self._ask(self.messages(task, dialogue, artefact))
                break
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
                failure = error
        else:
            self._count('errors')
            self.why = ' '.join(str(failure).split())[:200] or type(failure).__name__
            if isinstance(failure, OSError) and not self.counts['answered']:
                raise UserError(f'{self._url.geturl()} cannot be reached: {self.why}')
            return NO_RESPONSE
        self._count('answered')
        if self.sees_source and leaks(text, task['ground_truth']):
            self._count('leaks')
            return LEAK_REPLY
        return text[: self.longest_reply]

    def stop(self) -> None:
        """Ends all tries in progress, and lets no other begin."""
        self._stopped.set()
        with self._lock:
            for sock in self._open:
                _cut(sock)

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def report(self) -> dict[str, float]:
        """Counts, with the rates of errors and leaks among replies."""
        return report_of(self.counts)

    def messages(
        self, task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()
    ) -> list[dict[str, Any]]:
        """What the model is sent."""
        return person_messages(task, dialogue, artefact)

    @contextlib.contextmanager
    def _watched(self, sock: socket.socket, until: float) -> Iterator[None]:
        """Cuts a connection when its time is up, however slowly something still comes, and when we are stopped."""
        timer = threading.Timer(until - time.monotonic(), _cut, (sock,))
        timer.daemon = True
        timer.start()
        with self._lock:
            self._open.add(sock)
        try:
            if self._stopped.is_set():
                _cut(sock)
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._open.discard(sock)

    def _ask(self, messages: list[dict]) -> str:
        """The text of one completion. Raises what `reply` retries after, and UserError for what no retry mends."""
        began = time.monotonic()
        kind = http.client.HTTPSConnection if self._url.scheme == 'https' else http.client.HTTPConnection
        connection = kind(self._url.hostname, self._url.port, timeout=self.timeout)
        try:
            body = json.dumps({'model': self.model, 'messages': messages, 'temperature': 0, 'max_tokens': 4096})
            headers = {'Content-Type': 'application/json'}
            if self._key:
                headers['Authorization'] = f'Bearer {self._key}'
            path = self._url.path + (f'?{self._url.query}' if self._url.query else '')
            connection.connect()
            with self._watched(connection.sock, began + self.timeout):
                connection.request('POST', path, body.encode(), headers)
                with contextlib.closing(connection.getresponse()) as response:
                    content = bytearray()
                    while block := response.read1(65536):
                        content += block
                        if len(content) > LARGEST_REPLY:
                            raise ValueError('the answer is too large')
            if response.status in (401, 403, 404):
                said = ' '.join(bytes(content[:200]).decode('utf-8', 'replace').split())
                raise UserError(f'{self._url.geturl()} refuses with status {response.status}: {said}')
            if response.status != 200:
                raise ValueError(f'status {response.status}')
            text = json.loads(content)['choices'][0]['message']['content']
            if not isinstance(text, str):
                raise ValueError('no text')
            return text.strip().encode(errors='replace').decode()  # half a character cannot be sent on
        except socket.gaierror as error:
            raise UserError(f'there is no host {self._url.hostname}') from error
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            if time.monotonic() - began >= self.timeout:
                raise TimeoutError(f'no answer within {self.timeout:g} s') from error
            raise
        finally:
            connection.close()


def _cut(sock: socket.socket) -> None:
    """Ends what waits for a socket."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def report_of(counts: Counter[str]) -> dict[str, float]:
    """What a model that plays a person did, with the rates of errors and leaks among its replies."""
    replies = max(1, counts['replies'])
    rates = {f'{name[:-1]}_rate': counts[name] / replies for name in ('errors', 'leaks')}
    return {name: counts[name] for name in ('replies', 'retries', 'errors', 'leaks')} | rates


def person_messages(task: dict[str, Any], dialogue: Dialogue, artefact: Sequence[bytes] = ()) -> list[dict[str, Any]]:
    """What a model that plays the person is sent. Images go after the text, as PNG."""
    names = {'user': 'You', 'assistant': 'Programmer'}
    spoken = '\n'.join(f'{names[turn["role"]]}: {turn["content"]}' for turn in dialogue)
    text = f'Source of the finished program:\n{task["ground_truth"]}\n\nThe talk so far:\n{spoken}\n\nYou:'
    content: Any = text
    if artefact:
        images = [f'data:image/png;base64,{base64.b64encode(image).decode()}' for image in artefact]
        content = [{'type': 'text', 'text': text}]
        content += [{'type': 'image_url', 'image_url': {'url': image}} for image in images]
    return [{'role': 'system', 'content': _ROLE}, {'role': 'user', 'content': content}]


def leaks(text: str, source: str, length: int = LEAK_LENGTH) -> bool:
    """Whether `length` tokens in a row of `text` stand in the code of `source` too, or it has a fence in it.

    Comments and docstrings are no code: a person may say the same. A text in quotes is one token, so that what a
    program says may be told; but code between quotes or apostrophes is code, so words are also compared without them.
    """
    told = _code_of(source)
    words = _TOKEN.findall(text), _BARE.findall(text)
    code = told, [token for each in told for token in (_unquoted(each) if each[0] in '"\'' else [each])]
    return '```' in text or any(
        not _grams(mine, length).isdisjoint(_grams(its, length)) for mine, its in zip(words, code, strict=True)
    )


_TOKEN = re.compile(r""""[^"\n]*"|'[^'\n]*'|\w+|[^\w\s]""")
_BARE = re.compile(r"""\w+|[^\w\s"']""")


def _unquoted(token: str) -> list[str]:
    """The word in quotes; of several they stay one token."""
    words = _BARE.findall(token)
    return words if len(words) < 2 else [token]


def _grams(tokens: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(tokens[k : k + length]) for k in range(len(tokens) - length + 1)}


@functools.lru_cache(64)
def _code_of(source: str) -> list[str]:
    """The tokens of a source without comments and docstrings; of what is no Python, all."""
    try:
        blocks = [node for node in ast.walk(ast.parse(source)) if isinstance(node, _DOCUMENTED)]
        notes = {(node.body[0].lineno, node.body[0].col_offset) for node in blocks if ast.get_docstring(node, False)}
        parts = tokenize.generate_tokens(io.StringIO(source).readline)
        source = ' '.join(part.string for part in parts if part.type != tokenize.COMMENT and part.start not in notes)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        pass
    return _TOKEN.findall(source)


_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
