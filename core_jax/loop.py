"""One loop for all papers: the services around a driver (metrics, evaluation, checkpoints, bad numbers, preemption).

At a step where several things are due they come in this order: log, evaluate, save. What was last done is kept in the
checkpoint, so that a run stopped in between does the rest after it resumes.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from core_jax.driver import DeviceDriver, Report
from core_jax.errors import UserError
from core_jax.host_driver import HostDriver
from core_jax.mesh import fetch


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Counts in updates. An interval of 0 means only at the end."""

    steps: int
    log: int
    evaluate: int
    save: int

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f'steps must be at least 1, got {self.steps}')
        for name in ('log', 'evaluate', 'save'):
            if getattr(self, name) < 0:
                raise UserError(f'{name}_interval must not be negative, got {getattr(self, name)}')

    def due(self, name: str, step: int) -> bool:
        """Whether `name` is to be done at `step`."""
        interval = getattr(self, name)
        return step == self.steps or (interval > 0 and step > 0 and step % interval == 0)

    def next(self, step: int) -> int:
        """The next step at which anything is due."""
        upcoming = [(step // i + 1) * i for i in (self.log, self.evaluate, self.save) if i > 0]
        return min([self.steps, *upcoming])


class Preempted(Exception):
    """A signal arrived; the run is saved. `status` is the exit status, 128 + the signal's number."""

    def __init__(self, number: int):
        self.status = 128 + number
        super().__init__(signal.Signals(number).name)


class NonFinite(Exception):
    """A loss or gradient went non-finite in every member that was left; the metrics are on disk."""


class Signals:
    """SIGTERM and SIGINT as a flag that the loop polls; a second one ends the process at once."""

    def __init__(self):
        self.number = 0

    def __enter__(self) -> Signals:
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
        print(f'\n{signal.Signals(number).name}: saving, then stopping (once more ends at once)', file=sys.stderr)

    def requested(self) -> int:
        """The signal's number, the same on every process; 0 when there was none. Processes must ask together."""
        if jax.process_count() == 1:
            return self.number
        from jax.experimental import multihost_utils

        return int(np.max(multihost_utils.process_allgather(np.int32(self.number))))


# evaluate(step, policies of the running members {member: policy}, stop) -> {member: row}; raises when stop() is true
Evaluate = Callable[[int, dict[int, Any], Callable[[], bool]], dict[int, dict[str, float]]]


class Interrupted(Exception):
    """Raised by an evaluation that was asked to stop."""


@dataclasses.dataclass
class Progress:
    """What the loop must remember beyond the carry."""

    logged: int = 0
    evaluated: int = 0
    wall_seconds: float = 0.0
    frozen: dict[int, int] = dataclasses.field(default_factory=dict)  # member -> the update that went non-finite


def train(
    driver: DeviceDriver,
    run: Any,  # core_jax.runs.Run
    checkpoints: Any,  # core_jax.checkpoint.Checkpoints
    schedule: Schedule,
    *,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    resume_command: str = '',
    signals: Signals,
    profile: pathlib.Path | None = None,
    begin: Callable[[Any], Any] | None = None,
) -> Progress:
    """Trains to `schedule.steps`, with `resume` from the newest good checkpoint where there is one.

    profile: where to write a trace of some updates after the first log point.
    begin(states) -> states: what fresh learner states, stacked by member, become before the first update, such as ones
    with parameters that were trained before.

    Raises Preempted after a signal (saved), NonFinite when no member is left (metrics on disk, nothing saved since).
    """
    progress = _restore(driver, run, checkpoints, schedule, resume, begin)
    started = time.monotonic() - progress.wall_seconds
    pace = _Pace(driver)

    def position() -> tuple[int, ...]:
        steps = driver.environment_steps if isinstance(driver, HostDriver) else 0
        return driver.updates, steps, progress.logged, progress.evaluated

    if isinstance(driver, HostDriver):
        driver.should_stop = lambda: signals.number > 0
    saved = position() if driver.updates else None

    def save() -> None:
        nonlocal saved
        saved = position()
        progress.wall_seconds = time.monotonic() - started
        host = {'progress': dataclasses.asdict(progress), 'metrics_bytes': run.position(), 'step': driver.updates}
        if isinstance(driver, HostDriver):
            host['host'] = driver.host_state()
        checkpoints.save(driver.updates, driver.carry, host)

    def stop_if_asked() -> None:
        if number := signals.requested():
            driver.wait()
            if saved != position():
                save()
            run.say(f'saved at step {driver.updates}; go on with: {resume_command}')
            raise Preempted(number)

    def log() -> None:
        report = driver.report()
        seconds = time.monotonic() - started
        rate = pace.rate()
        alive = _freeze(driver, run, report, progress)
        clocks = _clocks(driver, seconds, rate)
        for member in sorted(alive):
            row = {name: float(values[member]) for name, values in report.metrics.items()}
            # A feed with environments of each member's own tells of each.
            row |= {name: float(value[member]) if np.ndim(value) else value for name, value in clocks.items()}
            run.write('train', driver.updates, _tagged(driver, member, row))
        if not alive:
            raise NonFinite(_explain(driver, progress))
        shown = {name: float(np.mean(values[sorted(alive)])) for name, values in report.metrics.items()}
        run.progress(driver.updates, schedule.steps, _headline(shown))
        progress.logged = driver.updates

    def evaluate_now() -> None:
        running = {m: policy for m, policy in enumerate(driver.policies()) if m not in progress.frozen}
        rows = evaluate(driver.updates, running, lambda: signals.number > 0)
        for member, row in rows.items():
            row = row | {'wall_seconds': time.monotonic() - started}
            run.write('eval', driver.updates, _tagged(driver, member, row))
        progress.evaluated = driver.updates
        pace.restart()

    while True:
        step = driver.updates
        stop_if_asked()
        if schedule.due('log', step) and progress.logged != step:
            log()
        if evaluate is not None and schedule.due('evaluate', step) and progress.evaluated != step:
            try:
                evaluate_now()
            except Interrupted:
                pass  # the flag is up: stop_if_asked saves, and the evaluation is made after the resume
            stop_if_asked()
        if schedule.due('save', step) and saved != position():
            if fetch(driver.carry.bad_step).min() >= 0 and progress.logged != step:
                log()  # nobody is left: this raises, and the good checkpoints stay
            save()
            pace.restart()
        if step >= schedule.steps:
            break
        until = schedule.next(step)
        if profile and progress.logged:
            with jax.profiler.trace(str(profile)):
                driver.advance(min(20, until - step))
                driver.wait()
            run.say(f'profile: {profile}')
            profile = None
        while driver.updates < until and not signals.requested():
            pace.advance(until - driver.updates)
    driver.wait()
    progress.wall_seconds = time.monotonic() - started
    return progress


class _Pace:
    """Keeps a dispatch short enough (about a quarter of a second) for signals to be seen soon, and measures the rate.

    How many updates a dispatch holds changes no result, since all of them run the same program. With several processes
    it is fixed, since all must agree.
    """

    def __init__(self, driver: DeviceDriver):
        self._driver, self._compiled = driver, False
        self._settled = jax.process_count() > 1
        self._size = driver.chunk_size if self._settled else 1
        self.restart()

    def restart(self) -> None:
        """The rate is measured from now on."""
        self._since, self._from = time.monotonic(), self._driver.updates

    def advance(self, limit: int) -> None:
        n = min(limit, self._size)
        begun = time.monotonic()
        self._driver.advance(n)
        if self._settled:
            return
        self._driver.wait()
        if not self._compiled:
            self._compiled = True
            self.restart()
        elif (time.monotonic() - begun) * self._size / n < 0.06 and self._size < self._driver.chunk_size:
            self._size = min(self._size * 4, self._driver.chunk_size)
        else:
            self._settled = True

    def rate(self) -> float:
        """Updates a second since the last call, compilation and evaluation left out."""
        self._driver.wait()
        rate = (self._driver.updates - self._from) / max(time.monotonic() - self._since, 1e-9)
        self.restart()
        return rate


def _restore(
    driver: DeviceDriver, run: Any, checkpoints: Any, schedule: Schedule, resume: bool, begin: Callable | None
) -> Progress:
    """1. the newest good checkpoint of this run; 2. a fresh start. Refuses to end before where the run stands."""
    found = checkpoints.restore(driver.target()) if resume else None
    if found is None:
        if resume:
            run.say('no checkpoint yet: starting from the beginning')
            run.cut(0)
        driver.initialize()
        if begin:
            driver.start(driver.carry.replace(state=begin(driver.carry.state)))
        return Progress()
    step, carry, host = found
    if step > schedule.steps:
        raise UserError(f'the run stands at step {step} already; --steps={schedule.steps} would take it back')
    driver.start(carry, step)
    if isinstance(driver, HostDriver):
        driver.set_host_state(host['host'])
    run.cut(host['metrics_bytes'])
    run.say(f'resumed at step {step}')
    saved = dict(host['progress'])
    saved['frozen'] = {int(member): step for member, step in saved['frozen'].items()}
    return Progress(**saved)


def _tagged(driver: DeviceDriver, member: int, row: dict) -> dict:
    """Rows of a population say whose they are."""
    return row if driver.members == 1 else {'member': member} | row


def _clocks(driver: DeviceDriver, seconds: float, rate: float) -> dict:
    clocks = {'wall_seconds': seconds, 'updates_per_second': rate}
    if isinstance(driver, HostDriver):
        fed = getattr(driver.feed, 'metrics', dict)()
        clocks = {'environment_steps': driver.environment_steps} | fed | clocks
    return clocks


def _headline(metrics: dict[str, float]) -> dict[str, float]:
    """What fits beside a progress bar."""
    wanted = [name for name in metrics if name.split('/')[-1] in ('loss', 'q_mean', 'distill_loss')]
    wanted = [name for name in metrics if name.endswith('/return')] + wanted
    return {name: metrics[name] for name in (wanted or list(metrics))[:3]}


def _freeze(driver: DeviceDriver, run: Any, report: Report, progress: Progress) -> set[int]:
    """Writes down the members that went non-finite since the last log; returns those that run on."""
    for member in np.flatnonzero(report.bad_step >= 0):
        member = int(member)
        if member in progress.frozen:
            continue
        step = int(report.bad_step[member])
        progress.frozen[member] = step
        row = {name: float(values[member]) for name, values in report.metrics.items()}
        last = {name: float(values[member]) for name, values in report.bad_metrics.items()}
        if report.count[member]:
            run.write('train', step - 1, _tagged(driver, member, row))
        run.write('train', step, _tagged(driver, member, last | {'nonfinite': True}))
        if driver.members > 1:
            who = f'member {member} (seed {driver.seeds[member]})'
            where = ', '.join(driver.diagnose(member)[:6])
            run.say(f'{who} went non-finite at step {step} and is frozen: {where}')
    return set(range(driver.members)) - set(progress.frozen)


def _explain(driver: DeviceDriver, progress: Progress) -> str:
    member, step = max(progress.frozen.items(), key=lambda item: item[1])
    found = driver.diagnose(member)
    shown = ', '.join(found[:8]) + (f' and {len(found) - 8} more' if len(found) > 8 else '')
    who = f' (member {member}, the last one left)' if driver.members > 1 else ''
    return f'non-finite at step {step}{who}; non-finite leaves: {shown or "none when the step is made again"}'
