"""Who runs which pack: worker processes on this machine, a core each, and this host's share of a fleet.

Hosts do not talk to each other. Each takes its share of the packs by the numbers that its launcher gives to
jax.distributed too (JAX_PROCESS_ID of JAX_NUM_PROCESSES, or SLURM's), uses its own devices, and leaves its results in
the folder that all share. So a host that is lost loses its packs and nobody else's; the same command brings them back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import pathlib
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from core_jax import cli
from core_jax.errors import UserError
from scaling.utd import cells
from scaling.utd.cells import Cell, Pack

PATIENCE = 900.0  # seconds without a sign of life after which the packs of other hosts are given up
PAUSE = 5.0  # seconds between two looks at what they have done
SHARES = (('JAX_PROCESS_ID', 'JAX_NUM_PROCESSES'), ('SLURM_PROCID', 'SLURM_NTASKS'))
STOPPED, FINISHED, FAILED = 'stopped', 'finished', 'failed'


def share() -> tuple[int, int]:
    """(number of this host, hosts), from the launcher's variables; (0, 1) without."""
    for index, count in SHARES:
        if index in os.environ and count in os.environ:
            try:
                own, hosts = int(os.environ[index]), int(os.environ[count])
            except ValueError:
                raise UserError(f'{index} and {count} must be whole numbers') from None
            if not 0 <= own < hosts:
                raise UserError(f'{index}={own} is no host of {count}={hosts}')
            return own, hosts
    return 0, 1


class Programs:
    """Compiled programs of this process: packs of the same static shape, whatever their ratio, use one."""

    LEFT_OUT = ('seed', 'seeds', 'vary', 'utd', 'learning_rate', 'log_interval', *cells.INCIDENTAL)

    def __init__(self, most: int = 8):
        self._drivers: dict[str, Any] = {}
        self._most = most

    def build(self, config, *, mesh, numerics, seeds, hparams) -> Any:
        """As `api.build`, with the program of an earlier pack where there is one."""
        from core_jax.host_driver import HostDriver
        from scaling.utd import api, rollout, settings

        static = {name: value for name, value in config.to_dict().items() if name not in self.LEFT_OUT}
        name = json.dumps([static, vars(numerics), dict(mesh.shape), len(seeds)], sort_keys=True, default=str)
        driver = self._drivers.pop(name, None)
        if driver is None:
            driver = api.build(config, mesh=mesh, numerics=numerics, seeds=seeds, hparams=hparams)
        else:
            driver.assign(seeds, hparams)
            if isinstance(driver, HostDriver):  # keeps the clocks itself
                driver.ratio = settings.ratio(config)
            else:
                driver.bind(rollout.clock(settings.ratio(config)))
        self._drivers[name] = driver  # the newest last
        while len(self._drivers) > self._most:
            del self._drivers[next(iter(self._drivers))]
        return driver


def run_pack(root: pathlib.Path, pack: Pack, programs: Programs, devices: list | None) -> list[str]:
    """Runs or continues one pack and writes its cells; returns what to say of members that failed."""
    from core_jax import loop
    from core_jax.runs import Run
    from scaling.utd import api

    directory = root / 'packs' / pack.name
    if not (directory / 'summary.json').exists():
        resume = Run.saved_config(directory) is not None
        with contextlib.suppress(loop.NonFinite):  # no member is left: its rows say where each ended
            api.train(
                fields={} if resume else pack.fields,
                preset={},
                workdir=str(directory),
                resume=resume,
                builder=programs.build,
                devices=devices,
            )
    return cells.harvest(root, pack, directory)


def train(root: pathlib.Path, wanted: list[Cell], workers: int | None, say: Callable[[str], None] = print) -> list[str]:
    """Trains what has no result yet of `wanted`, this host's share of it; returns what failed.

    Raises loop.Preempted after a signal; what was under way is saved. UserError where other hosts fell silent.
    """
    own, hosts = share()
    left = cells.packs(cells.unfinished(root, wanted))
    mine = [pack for pack in left if _owner(pack, hosts) == own]
    failed: list[str] = []
    if mine:
        where = f' (host {own} of {hosts})' if hosts > 1 else ''
        say(f'{len(mine)} packs of {sum(len(pack.cells) for pack in mine)} cells to run{where}')
        workers = min(workers or _default_workers(), len(mine))
        runner = _in_this_process if workers == 1 else _in_workers
        failed = runner(root, mine, workers, say)
    _wait_for_others(root, wanted, mine, failed, hosts, say)
    return failed


def _owner(pack: Pack, hosts: int) -> int:
    """The host that runs a pack: by its name, so that all agree whatever is finished already."""
    return int(pack.name.rpartition('-')[2], 16) % hosts


def _default_workers() -> int:
    """One a core where the CPU computes; on an accelerator one process has all devices."""
    import jax

    return len(os.sched_getaffinity(0)) if jax.default_backend() == 'cpu' else 1


def _in_this_process(root: pathlib.Path, packs: list[Pack], workers: int, say: Callable[[str], None]) -> list[str]:
    import jax

    from core_jax import loop

    progress, programs, failed = _Progress(packs, say), Programs(), []
    with loop.Signals() as signals:  # between the packs; each has its own while it runs
        for pack in packs:
            try:
                failed += progress.note(pack, run_pack(root, pack, programs, jax.local_devices()))
            except loop.Preempted:
                raise
            except Exception as error:
                failed += progress.failed(pack, _explain(error))
            if signals.number:
                raise loop.Preempted(signals.number)
    return failed


def _in_workers(root: pathlib.Path, packs: list[Pack], workers: int, say: Callable[[str], None]) -> list[str]:
    """A process a core: small networks gain nothing from a second thread, and two processes are twice as fast."""
    from core_jax import loop

    context = multiprocessing.get_context('spawn')
    orders, answers = context.Queue(), context.Queue()
    for number in range(len(packs)):
        orders.put(number)
    cores = sorted(os.sched_getaffinity(0))
    (root / 'logs').mkdir(parents=True, exist_ok=True)
    processes = [
        # Not daemons, which may have no processes of their own: environments on the host are such.
        context.Process(target=_work, args=(root, packs, orders, answers, cores[i % len(cores)], i))
        for i in range(workers)
    ]
    progress, failed = _Progress(packs, say), []
    with loop.Signals() as signals, _ended(processes):
        for process in processes:
            process.start()
        told = False
        while progress.left and any(process.is_alive() for process in processes):
            if signals.number and not told:
                told = True
                for process in processes:
                    if process.is_alive():
                        os.kill(process.pid, signal.SIGTERM)
            try:
                number, what, detail = answers.get(timeout=0.2)
            except queue.Empty:
                continue
            if what == FINISHED:
                failed += progress.note(packs[number], detail)
            elif what == FAILED:
                failed += progress.failed(packs[number], detail)
        for process in processes:
            process.join(None if signals.number else 5)
    if signals.number:
        raise loop.Preempted(signals.number)
    lost = [pack.name for pack in packs if pack.name in progress.left]
    return failed + [f'{name}: its process died; see {root / "logs"}' for name in lost]


@contextlib.contextmanager
def _ended(processes: list) -> Iterator[None]:
    """No worker outlives this block."""
    try:
        yield
    finally:
        alive = [process for process in processes if process.pid and process.is_alive()]
        for process in alive:
            process.terminate()
        for process in alive:
            process.join(60)  # it may be saving
            process.kill()


def _work(root: pathlib.Path, packs: list[Pack], orders: Any, answers: Any, core: int, number: int) -> None:
    """What runs in a worker: packs until there are none left, or a signal."""
    os.setsid()  # a terminal's Ctrl-C is for the parent, which passes it on once
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # when the parent is killed: save and leave
    if os.getppid() != multiprocessing.parent_process().pid:  # it was killed before that
        return
    os.sched_setaffinity(0, {core})  # before jax counts the cores
    log = open(root / 'logs' / f'worker_{number}.log', 'a', buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = log, log
    cli.keep_compiled()  # packs of one shape may fall to different workers, and to the next start

    from core_jax import loop

    programs = Programs()
    while True:
        try:
            index = orders.get(timeout=1)
        except queue.Empty:
            return
        try:
            answers.put((index, FINISHED, run_pack(root, packs[index], programs, None)))
        except loop.Preempted:
            return
        except Exception as error:
            traceback.print_exc()
            answers.put((index, FAILED, _explain(error)))


def _explain(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'


class _Progress:
    """Says how far the packs are, and when they will be done if the rest costs what it promises."""

    def __init__(self, packs: list[Pack], say: Callable[[str], None]):
        self.left = {pack.name: pack.cost for pack in packs}
        self._all, self._cost, self._say, self._begun = len(packs), sum(self.left.values()), say, time.monotonic()

    def note(self, pack: Pack, failures: list[str]) -> list[str]:
        """A pack is finished; gives its failures back."""
        self.left.pop(pack.name, None)
        done = self._cost - sum(self.left.values())
        seconds = (time.monotonic() - self._begun) * sum(self.left.values()) / max(done, 1)
        self._say(f'[{self._all - len(self.left)}/{self._all}] {pack.name}; about {_minutes(seconds)} left')
        for failure in failures:
            self._say(f'failed: {failure}')
        return failures

    def failed(self, pack: Pack, why: str) -> list[str]:
        """A pack that could not be run."""
        return self.note(pack, [f'{pack.name}: {why}'])


def _minutes(seconds: float) -> str:
    return f'{seconds:.0f} s' if seconds < 90 else f'{seconds / 60:.0f} min'


def _wait_for_others(
    root: pathlib.Path, wanted: list[Cell], mine: list[Pack], failed: list[str], hosts: int, say: Callable
) -> None:
    """Returns when the other hosts have finished their cells. UserError after PATIENCE without a new one."""
    if hosts == 1:
        return
    own = {cell.id for pack in mine for cell in pack.cells}
    left, since = None, time.monotonic()
    while True:
        now = [cell for cell in cells.unfinished(root, wanted) if cell.id not in own]
        if not now:
            return
        if left is None or len(now) < left:
            say(f'waiting for {len(now)} cells of other hosts')
            left, since = len(now), time.monotonic()
        if time.monotonic() - max(since, _last_sign(root)) > PATIENCE:
            raise UserError(f'{len(now)} cells of other hosts are missing; start the same command again on all hosts')
        time.sleep(PAUSE)


def wait_for_host_0(done: Callable[[], bool], what: str) -> None:
    """Returns when `done()`, which is what host 0 makes for all. UserError after PATIENCE."""
    since = time.monotonic()
    while not done():
        if time.monotonic() - since > PATIENCE:
            raise UserError(f'host 0 has not made {what}; start the same command again on all hosts')
        time.sleep(PAUSE)


def _last_sign(root: pathlib.Path) -> float:
    """When a running pack last wrote, on the clock of time.monotonic()."""
    newest = max((file.stat().st_mtime for file in root.glob('packs/*/metrics.jsonl')), default=0.0)
    return time.monotonic() - max(0.0, time.time() - newest)
