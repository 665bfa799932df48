"""How far a run is: a bar on a terminal, otherwise one line a call."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping


class Screen:
    """What a run shows. `start` is the step that it starts from, None where only its first call will tell."""

    def __init__(self, start: int | None):
        self._bar = None
        self._mark = None if start is None else (start, time.monotonic())  # step and time of the last call

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Shows `step` of `total` with the speed since the last call, the time left, and `values`."""
        now = time.monotonic()
        shown = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
        if sys.stdout.isatty() and sys.stderr.isatty():
            self._draw_bar(step, total, shown)
        else:
            speed = ''
            if self._mark and step > self._mark[0]:
                rate = (step - self._mark[0]) / max(now - self._mark[1], 1e-9)
                speed = f'  {rate:,.4g} steps/s  ETA {duration((total - step) / rate)}'
            print(f'step {step:,}/{total:,}{speed}  {shown}'.rstrip(), flush=True)
        self._mark = (step, now)

    def _draw_bar(self, step: int, total: int, shown: str) -> None:
        size = shutil.get_terminal_size()  # tqdm itself shows nothing on a terminal of unknown size
        if self._bar is None:
            from tqdm import tqdm

            start = self._mark[0] if self._mark else step
            self._bar = tqdm(total=total, initial=start, unit='step', ncols=size.columns, nrows=size.lines)
        self._bar.ncols = size.columns
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        self._bar.refresh()

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        """Leaves the bar as it stands. May be called twice."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def duration(seconds: float) -> str:
    """'42s', '3m07s', '2h15m'."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds}s'
    if seconds < 3600:
        return f'{seconds // 60}m{seconds % 60:02d}s'
    return f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'
