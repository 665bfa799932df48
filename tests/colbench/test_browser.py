"""The renderer: what a page may not do, what it looks like, and what stays behind. Where there is no browser, the error
that says so."""

import http.server
import io
import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

from colbench_jax.render import browser as rendering
from colbench_jax.render.browser import Browser, PageError
from colbench_jax.render.document import document
from core_jax.errors import UserError


@pytest.fixture(scope='module')
def browser():
    """A warm one; without a program, the error that asks for one is what is tested."""
    try:
        rendering.find()
    except UserError:
        with pytest.raises(UserError, match='there is no browser to render pages; install chromium'):
            Browser()
        pytest.skip('no browser is installed')
    with Browser() as warm:
        yield warm


def test_without_a_browser_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('COLBENCH_BROWSER', raising=False)
    with pytest.raises(UserError, match='there is no browser to render pages; install chromium, or name one'):
        Browser()
    monkeypatch.setenv('COLBENCH_BROWSER', 'chromum')
    with pytest.raises(UserError, match="COLBENCH_BROWSER names 'chromum', which is no program"):
        Browser()


def test_a_program_that_is_no_browser(monkeypatch, tmp_path):
    program = tmp_path / 'browser'
    program.write_text('#!/bin/sh\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv('COLBENCH_BROWSER', str(program))
    with Browser() as broken, pytest.raises(UserError, match='does not start: the browser has ended'):
        broken.render('<p>')


PAGE = """<html>
<head><script src="https://cdn.tailwindcss.com"></script></head>
<body class="bg-gray-100">
<header class="bg-blue-600 text-white p-8 text-center"><h1 class="text-4xl">Hello</h1></header>
<div class="grid grid-cols-2"><div class="bg-red-500 h-64"></div><div class="bg-green-500 h-64"></div></div>
<img class="w-full h-64" src="https://picsum.photos/400/300"><div class="h-96"></div>
</body>
</html>"""


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


def test_two_renders_of_a_page_are_the_same_bytes(browser):
    first = browser.render(document(PAGE))
    browser.render(document('<html><body class="bg-black"><p>Another page.</p></body></html>'))
    assert browser.render(document(PAGE)) == first
    with Browser() as other:
        assert other.render(document(PAGE)) == first


def test_colours_columns_and_the_whole_height(browser):
    found = pixels(browser.render(document(PAGE)))
    height = 2 * 32 + 40 + 256 + 256 + 384  # px: the header with a line of 2.5rem, the grid, the image, the empty block
    assert found.shape == (height, 1280, 3)
    assert tuple(found[5, 5]) == (0x25, 0x63, 0xEB)
    assert tuple(found[150, 639]) == (0xEF, 0x44, 0x44) and tuple(found[150, 641]) == (0x22, 0xC5, 0x5E)
    assert tuple(found[-1, 640]) == (0xF3, 0xF4, 0xF6)
    assert len(np.unique(found[370:610].reshape(-1, 3), axis=0)) > 3  # the placeholder is a drawing


def test_a_tall_page_is_cut(browser):
    assert pixels(browser.render('<div style="height:90000px;background:red">')).shape == (rendering.TALLEST, 1280, 3)


def test_no_page_reaches_the_network_or_files(browser, tmp_path):
    """A server that listens hears nothing, a file is not shown, no script runs; with and without our own head."""
    heard = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    (tmp_path / 'secret.html').write_text('<body style="background:#ff0000">')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = [f'http://{host}:{server.server_address[1]}' for host in ('127.0.0.1', 'localhost')]
    page = ''.join(
        f'<link rel="stylesheet" href="{url}/css"><link rel="preload" as="image" href="{url}/preload">'
        f'<style>@import "{url}/import"; body {{ background: url({url}/background) }}</style>'
        f'<script>document.body.style.background = "#ff0000"; fetch("{url}/fetch")</script>'
        f'<img src="{url}/image" onerror="document.body.style.background=\'#ff0000\'">'
        f'<iframe src="{url}/frame"></iframe>'
        f'<object data="{url}/object"></object><video src="{url}/video" poster="{url}/poster"></video>'
        f'<svg><image href="{url}/svg"/></svg><iframe srcdoc="<img src=\'{url}/srcdoc\'>"></iframe>'
        for url in at
    )
    page += f'<iframe src="file://{tmp_path}/secret.html" width="900" height="400"></iframe>'
    try:
        for html in (page, document(page), f'<meta http-equiv="refresh" content="0;url={at[0]}/refresh"><p>x'):
            found = pixels(browser.render(html))
            assert not (found == (255, 0, 0)).all(-1).any()
        time.sleep(0.3)
    finally:
        server.shutdown()
        server.server_close()
    assert heard == []


# A drawing that names ten copies of one that names ten copies, and so on: 10^9 squares.
ENDLESS = (
    '<svg><defs><g id="a0"><rect width="1" height="1"/></g>'
    + ''.join(f'<g id="a{k + 1}">' + f'<use href="#a{k}"/>' * 10 + '</g>' for k in range(9))
    + '</defs><use href="#a9"/></svg>'
)


def test_a_page_that_never_loads(browser):
    """It is given up at the deadline, the browser and all its processes are gone, and the next page finds a new one."""
    before = browser.render(document(PAGE))
    group, folder = browser._process.pid, browser._folder
    browser.seconds = 1.5
    try:
        with pytest.raises(PageError, match='the page does not load within 1.5 s'):
            browser.render(document(ENDLESS))
    finally:
        browser.seconds = rendering.SECONDS
    assert not os.path.exists(folder) and not alive(group)
    assert browser.render(document(PAGE)) == before


def test_nothing_stays_behind(browser):
    with Browser() as other:
        other.render('<p>hi</p>')
        socket = pathlib.Path(other._folder, 'SingletonSocket').readlink()
        assert socket.exists()
    assert not socket.parent.exists() and not os.path.exists(other._folder)


def test_a_browser_that_dies(browser):
    browser.render('<p>')
    os.killpg(browser._process.pid, signal.SIGKILL)
    with pytest.raises(PageError, match='the browser has ended'):
        browser.render('<p>')
    assert pixels(browser.render('<p>')).shape[1] == 1280


def alive(group):
    """Whether a process of the group is still there (others than the dead that wait to be counted), within 2 s."""
    for _ in range(20):
        states = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                states.append(fields[0])
        if all(state == 'Z' for state in states):
            return False
        time.sleep(0.1)
    return True
