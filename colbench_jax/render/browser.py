"""A warm Chromium that turns pages into pictures, driven over the DevTools protocol through a pair of pipes.

Pages are not trusted: no script of theirs runs, nothing is fetched (no name resolves, the network is off, and every
request that is made all the same fails), and they have the origin of about:blank, which may read no file. The browser
has a directory of its own, which goes with it, and a group of processes of its own, which is killed with it. Where this
process is killed, the browser ends since its pipe does, and the directory (a few MB in the temporary one) stays.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from core_jax.errors import UserError

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chromium-headless-shell', 'chrome')
VARIABLE = 'COLBENCH_BROWSER'  # of the environment: the program, where it is none of NAMES
WIDTH, HEIGHT = 1280, 800  # px of the window
TALLEST = 6000  # px of a picture; what a page has below it is not seen
SECONDS = 20.0  # for one page
START_SECONDS = 60.0

_FLAGS = (
    '--headless',
    '--remote-debugging-pipe',
    '--host-resolver-rules=MAP * ~NOTFOUND',
    '--proxy-server=127.0.0.1:9',  # nothing listens there: addresses in numbers need no resolver
    '--proxy-bypass-list=<-loopback>',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-extensions',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-default-apps',
    '--disable-sync',
    '--disable-breakpad',
    '--no-first-run',
    '--no-default-browser-check',
    '--mute-audio',
    # The same picture on every screen.
    '--hide-scrollbars',
    '--force-device-scale-factor=1',
    '--force-color-profile=srgb',
    '--font-render-hinting=none',
    '--disable-lcd-text',
    f'--window-size={WIDTH},{HEIGHT}',
)
# Chromium reads commands from descriptor 3 and answers on 4: a child puts them there and becomes the browser.
_EXEC = 'import os,sys;r,w=map(int,sys.argv[1:3]);os.dup2(r,3);os.dup2(w,4);os.execv(sys.argv[3],sys.argv[3:])'


class PageError(Exception):
    """A page that does not come to an end, or takes the browser with it; the message says which, in a few words."""


def find() -> str:
    """The browser's program. Raises UserError where there is none."""
    named = os.environ.get(VARIABLE)
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and named:
        raise UserError(f'{VARIABLE} names {named!r}, which is no program')
    if found is None:
        raise UserError(f'there is no browser to render pages; install chromium, or name one in {VARIABLE}')
    return found


class Browser:
    """Renders pages, one after another. Starts with the first one; after a PageError the next one finds a new browser.

    `close` it, or use it as a context: its processes and files end with it.
    """

    def __init__(self, seconds: float = SECONDS):
        """seconds: the deadline of a page. Raises UserError where there is no browser."""
        self.seconds = seconds
        self._program = find()
        self._process: subprocess.Popen | None = None
        self._folder = ''

    def render(self, html: str) -> bytes:
        """A PNG of the whole page, WIDTH px wide and at most TALLEST px high. Raises PageError, and UserError where the
        browser does not start."""
        if self._process is None:
            self._start()
        self._deadline = time.monotonic() + self.seconds
        try:
            return self._picture(html)
        except PageError:
            self.close()
            raise

    def version(self) -> str:
        """Such as 'Chrome/150.0.7871.100'. Raises UserError where the browser does not start."""
        if self._process is None:
            self._start()
        self._deadline = time.monotonic() + self.seconds
        return self._call('Browser.getVersion')['product']

    def _picture(self, html: str) -> bytes:
        frame = self._call('Page.getFrameTree')['frameTree']['frame']['id']
        self._loaded = False
        self._call('Page.setDocumentContent', frameId=frame, html=html)
        while not self._loaded:
            self._take(self._read())
        size = self._call('Page.getLayoutMetrics')['cssContentSize']
        clip = {'x': 0, 'y': 0, 'width': WIDTH, 'height': max(1, min(TALLEST, size['height'])), 'scale': 1}
        shot = self._call('Page.captureScreenshot', format='png', clip=clip, captureBeyondViewport=True)
        self._call('Page.navigate', url='about:blank')  # nothing of this page is there when the next one comes
        return base64.b64decode(shot['data'])

    # The browser

    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix='colbench-browser-')
        theirs, self._commands = _pipe()
        self._replies, answers = _pipe()
        flags = [*_FLAGS, f'--user-data-dir={self._folder}']
        if os.geteuid() == 0:
            flags.append('--no-sandbox')  # Chromium's own walls need another user than root
        words = [sys.executable, '-I', '-S', '-c', _EXEC, str(theirs), str(answers), self._program, *flags]
        self._process = subprocess.Popen(
            [*words, 'about:blank'],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={'PATH': os.environ.get('PATH', ''), 'HOME': self._folder, 'LANG': 'C.UTF-8', 'TZ': 'UTC'},
            pass_fds=(theirs, answers),
            start_new_session=True,
        )
        os.close(theirs)
        os.close(answers)
        os.set_blocking(self._commands, False)
        self._said, self._number, self._session = bytearray(), 0, None
        self._deadline = time.monotonic() + START_SECONDS
        try:
            target = self._call('Target.createTarget', url='about:blank')['targetId']
            self._session = self._call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
            self._call('Page.enable')
            self._call('Network.enable')
            self._call('Emulation.setScriptExecutionDisabled', value=True)
            self._call(
                'Network.emulateNetworkConditions', offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
            )
            self._call('Fetch.enable', patterns=[{'urlPattern': '*'}])
            self._call(
                'Emulation.setDeviceMetricsOverride', width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
            )
        except PageError as error:
            self.close()
            raise UserError(f'{self._program} does not start: {error}') from error

    def close(self) -> None:
        """Ends the browser, if there is one, and removes its directory."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(self._commands)
        os.close(self._replies)
        with contextlib.suppress(OSError):  # it keeps a socket elsewhere, where its path is short
            socket = pathlib.Path(self._folder, 'SingletonSocket').readlink()
            if socket.parent.name.startswith('org.chromium.'):
                shutil.rmtree(socket.parent)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *unused: Any) -> None:
        self.close()

    # The protocol: JSON objects that end with a zero byte

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command. Raises PageError."""
        number = self._send(method, parameters)
        while True:
            message = self._read()
            if message.get('id') == number:
                if 'error' in message:
                    raise PageError(f'the browser refuses {method}: {message["error"].get("message")}')
                return message['result']
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        """What the browser says unasked."""
        method, about = message.get('method'), message.get('params', {})
        if method == 'Page.loadEventFired':
            self._loaded = True
        elif method == 'Fetch.requestPaused':
            self._send('Fetch.failRequest', {'requestId': about['requestId'], 'errorReason': 'Aborted'})
        elif method in ('Inspector.targetCrashed', 'Target.targetCrashed', 'Target.detachedFromTarget'):
            raise PageError('the page crashes the browser')

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        content = memoryview(json.dumps(message).encode() + b'\0')
        while content:
            self._wait(self._commands, select.POLLOUT)
            try:
                content = content[os.write(self._commands, content) :]
            except OSError as error:
                raise PageError('the browser has ended') from error
        return self._number

    def _read(self) -> dict[str, Any]:
        """The next message."""
        while (end := self._said.find(0)) < 0:
            self._wait(self._replies, select.POLLIN)
            block = os.read(self._replies, 1 << 20)
            if not block:
                raise PageError('the browser has ended')
            self._said += block
        message = json.loads(bytes(self._said[:end]))
        del self._said[: end + 1]
        return message

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = self._deadline - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise PageError(f'the page does not load within {self.seconds:g} s')


def _pipe() -> tuple[int, int]:
    """(end to read, end to write) of a pipe, above the descriptors that Chromium wants."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high
