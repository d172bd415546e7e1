"""Work in other processes, here or on a Dask cluster: a worker that dies costs the one item that it died of."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import UserError
from tasks.progress import cores, processes

if TYPE_CHECKING:  # pydantic is dear in a worker process
    from tasks.params import ExecutorName

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

T = TypeVar("T")
R = TypeVar("R")

BATCH = 8  # items a message
BATCHES_AHEAD = 4  # a worker: enough to keep it busy, little enough for flat memory
SECONDS_AN_ITEM = 60.0  # a worker that needs longer is ended
SECONDS_FOR_A_WORKER = 30  # of a cluster to be there
STATM = Path("/proc/self/statm")  # its first number: pages of address space
NO_ROOM = (OSError, RuntimeError, ImportError)  # for processes, threads or semaphores; a broken pool is one of them
MEMORY_LIMIT = 1 << 30  # bytes that a worker may take beyond what it starts with


class NotStartedError(UserError):
    """Worker processes end before they do anything."""


def each(
    work: Callable[[T], R],
    items: Sequence[T],
    died: Callable[[T], R],
    executor: ExecutorName,
    workers: int = 0,
    seconds: float = SECONDS_AN_ITEM,
) -> Iterator[R]:
    """Yield `work(item)` for all items, as they come; `died(item)` where a worker crashed or took over `seconds`.

    `work` and the items must be picklable. `workers`: processes here, 0 for one a core; a cluster has its own number.
    Raises UserError when there is no cluster.
    """
    batched = partial(_work_through, work, seconds)
    waiting = deque(items[start : start + BATCH] for start in range(0, len(items), BATCH))
    count = min(workers or cores(), max(1, len(waiting)))
    while waiting:
        suspects: list[T] = []
        # One that does not start is tried once more, below: somebody may have ended it.
        with suppress(NotStartedError), _pool(executor, count) as (pool, width):
            running: dict[Future[list[R]], Sequence[T]] = {}
            while (waiting and not suspects) or running:
                while waiting and not suspects and len(running) < width * BATCHES_AHEAD:
                    batch = waiting.popleft()
                    try:
                        running[pool.submit(batched, batch)] = batch
                    except NO_ROOM:  # broken, or none but the first worker can be started
                        suspects.extend(batch)
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    batch = running.pop(future)
                    if _died(future):
                        suspects.extend(batch)
                    else:
                        yield from future.result()
        # All that was under way when a worker died is suspect; alone, an item shows whether it was the one.
        yield from _one_by_one(batched, deque(suspects), died, executor)


def _one_by_one(
    batched: Callable[[Sequence[T]], list[R]], items: deque[T], died: Callable[[T], R], executor: ExecutorName
) -> Iterator[R]:
    while items:
        with _pool(executor, 1) as (pool, _):
            alive = True
            while items and alive:
                try:
                    future = pool.submit(batched, [items[0]])
                except NO_ROOM:  # before this item's turn
                    break
                wait([future])
                alive = not _died(future)
                item = items.popleft()
                yield future.result()[0] if alive else died(item)


def _died(future: Future[list[R]]) -> bool:
    error = future.exception()
    return isinstance(error, BrokenProcessPool) or type(error).__name__ == "KilledWorker"


def _work_through(work: Callable[[T], R], seconds: float, batch: Sequence[T]) -> list[R]:
    import cv2  # here, for the command line imports this module

    cv2.setNumThreads(1)  # the workers are the parallelism
    results = []
    for item in batch:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # nobody handles the alarm: it ends the process
        try:
            results.append(work(item))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return results


@contextmanager
def _pool(executor: ExecutorName, workers: int) -> Iterator[tuple[Executor, int]]:
    """An executor and how many workers it has."""
    if executor == "dask":
        with _cluster() as found:
            yield found
        return
    with ExitStack() as stack:
        try:
            pool = stack.enter_context(processes(workers, partial(_bound_memory, MEMORY_LIMIT)))
            first = pool.submit(os.getpid)
        except NO_ROOM as error:
            why = " ".join(f"{(isinstance(error, OSError) and error.strerror) or error}".split())
            raise UserError(
                f"no worker process can be started ({why}); free memory or processes, or set ingest.workers lower"
            ) from None
        yield pool, workers
        if first.done() and isinstance(first.exception(), BrokenProcessPool):  # no item is to blame
            raise NotStartedError("no worker process starts; is there memory for one, and is all installed?")


@contextmanager
def _cluster() -> Iterator[tuple[Executor, int]]:
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise UserError("ingest.executor is dask, but Dask is not installed: pip install 'xraysynth[dask]'") from None
    address = dask.config.get("scheduler-address", None)
    if not address:
        raise UserError("ingest.executor is dask, but no scheduler is named: set DASK_SCHEDULER_ADDRESS")
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {address} ({type(error).__name__}); start it, or correct "
                        "DASK_SCHEDULER_ADDRESS") from None  # fmt: skip
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS_FOR_A_WORKER)  # they come back after a crash
        except TimeoutError:
            raise UserError(
                f"the Dask scheduler at {address} has no workers; start some: dask worker {address}"
            ) from None
        yield client.get_executor(pure=False), sum(client.nthreads().values())


def _bound_memory(limit: int) -> None:
    if resource is not None and STATM.exists():
        taken = int(STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit += taken
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
