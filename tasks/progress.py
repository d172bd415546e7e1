"""Long work: the cores that there are for it, processes, and its progress, a bar on a terminal and lines elsewhere."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait as wait_for_end
from typing import NamedTuple, TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")

SECONDS_BETWEEN_LINES = 10.0
LINE = re.compile(r"(?P<what>[^:]+): (?P<done>\d+(?:\.\d+)?)/(?P<total>\d+(?:\.\d+)?)(?: \w+)?, ")


class Share(NamedTuple):
    """What a `line` says: how much of what is done, in words and in per cent."""

    words: str
    percent: float


def cores() -> int:
    """Those this process may use: fewer than the machine has under taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield `work(item)` for all items, as they come; in other processes where `workers` is above 1.

    An item is taken when a worker is free for it. `work` and the items must be picklable then. An exception ends the
    workers at once; raises BrokenProcessPool when one was ended from outside.
    """
    if workers < 2:
        yield from map(work, items)
        return
    others = active_children()
    with processes(workers) as pool:
        running: set[Future[R]] = set()
        try:
            for item in items:
                running.add(pool.submit(work, item))
                if len(running) == workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(running))
        except BaseException:
            for child in active_children():
                if child not in others:
                    child.terminate()
            raise


@contextmanager
def processes(count: int, start: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each, in which `start` is called first, where there is one.

    They leave Ctrl-C to this process, and end with it, however it ends.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_start, initargs=(start,))
    with _environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"):  # the processes are the parallelism
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _start(start: Callable[[], object] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if start is not None:
        start()
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for_end([sentinel])
    os._exit(1)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def track(items: Iterable[T], total: int, what: str, unit: str = "", note: Callable[[], str] = str) -> Iterator[T]:
    """Yield `items` while showing how many of `total` are done, the rate in `unit`, the time left and `note()`."""
    if sys.stderr.isatty():
        with tqdm(items, total=total, desc=what, unit=unit) as bar:
            for item in bar:
                yield item
                bar.set_postfix_str(note(), refresh=False)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - shown >= SECONDS_BETWEEN_LINES:
            rate = done / max(now - start, 1e-9)
            print(line(what, str(done), str(total), f"{rate:.1f}{unit}", (total - done) / rate, note()), flush=True)
            shown = now


def line(what: str, done: str, total: str, rate: str, seconds_left: float, note: str = "") -> str:
    """E.g. `msg_gan: 1.60/16 kimg, 80 images/s, 180 s left, loss G 0.5`; `read_line` reads what it writes."""
    return f"{what}: {done}/{total}, {rate}/s, {seconds_left:.0f} s left" + (f", {note}" if note else "")


def read_line(text: str) -> Share | None:
    """The share that a line of output says is done; None of any other line."""
    found = LINE.match(text)
    if found is None or not float(found["total"]):
        return None
    done, total = float(found["done"]), float(found["total"])
    return Share(f"{found['what']}: {found['done']}/{found['total']}", min(100.0, 100 * done / total))
