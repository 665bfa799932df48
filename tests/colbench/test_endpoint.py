"""A person behind a real server: what it is sent, and what becomes of a server that fails in each way."""

import contextlib
import http.server
import json
import threading
import time

import pytest

from colbench_jax.simulators import LEAK_REPLY, NO_RESPONSE, OpenAICompatible, leaks
from core_jax.errors import UserError

TASK = {
    'problem_description': 'Write f.',
    'ground_truth': (
        "def f(rows):\n    total = 0\n    for row in rows:\n        total += row['price']\n    return total"
    ),
    'test_cases': {'test1': 'f([])'},
}
DIALOGUE = [{'role': 'user', 'content': 'Write f.'}, {'role': 'assistant', 'content': 'What is summed?'}]


def completion(text):
    return json.dumps({'choices': [{'message': {'role': 'assistant', 'content': text}}]}).encode()


@contextlib.contextmanager
def server(*steps):
    """A server on this machine that takes one step a request, the last one for ever: (status, body) or a function."""
    seen, done, left = [], threading.Event(), list(steps)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers['Content-Length']))
            seen.append((self.path, dict(self.headers), json.loads(body)))
            step = left.pop(0) if len(left) > 1 else left[0]
            if callable(step):
                step(self, done)
                return
            self.send_response(step[0])
            self.send_header('Content-Length', str(len(step[1])))
            self.end_headers()
            self.wfile.write(step[1])

        def log_message(self, *unused):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass  # the other side went away, as it should

    with Server(('127.0.0.1', 0), Handler) as made:
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        try:
            yield f'http://127.0.0.1:{made.server_port}/v1', seen
        finally:
            done.set()
            made.shutdown()
            thread.join()


def human(url, **keywords):
    return OpenAICompatible(url, 'm', **({'timeout': 5.0, 'retries': 2, 'backoff': 0.01} | keywords))


def test_what_is_sent_and_what_comes_back(monkeypatch):
    monkeypatch.setenv('SOME_KEY', 'sesame')
    with server((200, completion(' The prices are summed. ' + 'x' * 500))) as (url, seen):
        person = human(url + '/', key_variable='SOME_KEY')
        said = person.reply(TASK, DIALOGUE)
        person.reply(TASK, DIALOGUE, artefact=[b'one', b'two'])
    assert said.startswith('The prices are summed.') and len(said) == 400
    path, headers, body = seen[0]
    assert path == '/v1/chat/completions' and headers['Authorization'] == 'Bearer sesame'
    assert body['model'] == 'm' and body['temperature'] == 0
    text = body['messages'][1]['content']
    assert TASK['ground_truth'] in text and 'Programmer: What is summed?' in text
    parts = seen[1][2]['messages'][1]['content']
    assert [part['type'] for part in parts] == ['text', 'image_url', 'image_url']
    assert parts[1]['image_url']['url'] == 'data:image/png;base64,b25l'
    assert person.report() == {
        'replies': 2,
        'retries': 0,
        'errors': 0,
        'leaks': 0,
        'error_rate': 0.0,
        'leak_rate': 0.0,
    }


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    with server((200, completion('Yes.'))) as (url, seen):
        assert human(url).reply(TASK, DIALOGUE) == 'Yes.'
    assert 'Authorization' not in seen[0][1]


@pytest.mark.parametrize(
    'bad',
    [
        (500, b'oops'),
        (429, b'slow down'),
        (400, b'too long'),
        (200, b'{"choices": ['),
        (200, b'{"choices": []}'),
        (200, b'[]'),
        (200, b'null'),
        (200, completion(None)),
        (200, b'\xff\xfe'),
        (200, b'[' * 100_000),
        lambda handler, done: handler.connection.close(),
        lambda handler, done: handler.wfile.write(b'no http at all\r\n\r\n'),
    ],
    ids=['500', '429', '400', 'torn', 'empty', 'list', 'null', 'no text', 'no utf-8', 'deep', 'closed', 'no http'],
)
def test_after_a_failure_comes_another_try(bad):
    with server(bad, (200, completion('The prices.'))) as (url, seen):
        person = human(url)
        assert person.reply(TASK, DIALOGUE) == 'The prices.'
    assert person.counts['retries'] == 1 and person.counts['errors'] == 0 and len(seen) == 2


def test_what_fails_for_ever_is_no_response_and_counted():
    with server((503, b'')) as (url, seen):
        person = human(url)
        assert person.reply(TASK, DIALOGUE) == NO_RESPONSE
    assert len(seen) == 3 and person.report()['errors'] == 1 and person.report()['error_rate'] == 1.0
    with server((200, completion('Yes.'))) as (url, seen):
        gone = human(url, retries=1)
        gone.reply(TASK, DIALOGUE)
    assert gone.reply(TASK, DIALOGUE) == NO_RESPONSE and gone.counts['errors'] == 1  # nobody listens any more
    with pytest.raises(UserError, match='cannot be reached: .*refused'):
        human(url, retries=1).reply(TASK, DIALOGUE)  # nor ever did


def test_a_server_that_hangs_is_left():
    with server((200, completion('Yes.')), lambda handler, done: done.wait(20)) as (url, _):
        person, began = human(url, timeout=0.2, retries=1), time.monotonic()
        person.reply(TASK, DIALOGUE)
        assert person.reply(TASK, DIALOGUE) == NO_RESPONSE
        with pytest.raises(UserError, match='cannot be reached: no answer within 0.1 s'):
            human(url, timeout=0.1, retries=0).reply(TASK, DIALOGUE)
        assert time.monotonic() - began < 5


def drip(handler, done):
    handler.send_response(200)
    handler.end_headers()
    while not done.wait(0.05):
        handler.wfile.write(b' ')


def drip_header(handler, done):
    handler.send_response(200)
    handler.flush_headers()
    while not done.wait(0.05):
        handler.wfile.write(b'X-Again: yes\r\n')


@pytest.mark.parametrize('slow', (drip, drip_header))
def test_a_server_that_drips_is_left(slow):
    with server((200, completion('Yes.')), slow) as (url, _):
        person, began = human(url, timeout=0.3, retries=0), time.monotonic()
        person.reply(TASK, DIALOGUE)
        assert person.reply(TASK, DIALOGUE) == NO_RESPONSE
        assert time.monotonic() - began < 5


def test_who_is_stopped_leaves_at_once():
    with server(lambda handler, done: done.wait(20)) as (url, seen):
        person, began, said = human(url, timeout=20.0, backoff=20.0), time.monotonic(), []

        def ask():
            try:
                person.reply(TASK, DIALOGUE)
            except UserError as error:
                said.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        while len(seen) < 2 and time.monotonic() < began + 10:
            time.sleep(0.01)
        person.stop()
        for thread in threads:
            thread.join(10)
        assert said == ['the talk was broken off'] * 2 and time.monotonic() - began < 10


@pytest.mark.parametrize('status', (401, 403, 404))
def test_what_no_retry_mends_is_said(status):
    with server((status, b'{"error":\n "invalid key"}')) as (url, seen):
        with pytest.raises(UserError, match=f'refuses with status {status}: .*invalid key') as error:
            human(url).reply(TASK, DIALOGUE)
    assert len(seen) == 1 and '\n' not in str(error.value)


def test_an_address_that_is_none():
    for url in ('localhost:8000/v1', 'ftp://x/v1', '', 'http://x:80x/v1', 'http://x:99999/v1', 'http://x y/v1'):
        with pytest.raises(UserError, match='is no address of a server'):
            OpenAICompatible(url, 'm')


def test_code_that_leaks_is_held_back_and_counted():
    with server((200, completion("It does total += row['price'] for every row."))) as (url, _):
        person = human(url)
        assert person.reply(TASK, DIALOGUE) == LEAK_REPLY
    assert person.report()['leak_rate'] == 1.0


def test_what_is_a_leak():
    source = TASK['ground_truth']
    assert leaks('def f(rows): total = 0', source) and leaks('```\nx\n```', source)
    assert not leaks('The total of the price of all rows, please. With none, return 0.', source)
    assert not leaks("The key is 'price' and I want the total.", source)
    assert leaks('It is "total += row[\'price\'] for each"', source) and leaks(f'"{" ".join(source.split())}"', source)
    assert leaks("It's for row in rows: total += row['price'], don't you see", source)
    noted = (
        'def f(x):\n    """Give the total price of all the orders."""\n    # skip those not yet paid for\n    return x'
    )
    assert not leaks('It should Give the total price of all the orders, skip those not yet paid for.', noted)
    spoken = 'def f(x):\n    return "Your order has been shipped today" + x'
    assert not leaks('It says "Your order has been shipped today" then x.', spoken)


def test_half_a_character_is_replaced():
    with server((200, b'{"choices": [{"message": {"content": "Yes \\ud83d."}}]}')) as (url, _):
        assert human(url).reply(TASK, DIALOGUE) == 'Yes ?.'
