"""A worker that crashes, hangs or is killed costs the item that it died of, and no other."""

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.ingest import workers
from tasks.ingest.workers import MEMORY_LIMIT, each

Outcome = tuple[int, str]


def work(item: int) -> Outcome:
    """Items that end their process in every way that a decoder may."""
    if item == 13:
        ctypes.string_at(0)  # a native crash
    if item == 31:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 47:
        time.sleep(60)
    if item == 59:
        try:
            bytearray(2 * MEMORY_LIMIT)
        except MemoryError:
            return item, "no memory"
    return item, "done"


def died(item: int) -> Outcome:
    return item, "died"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_costs_one_item(workers: int) -> None:
    outcomes = dict(each(work, range(80), died, "processes", workers, seconds=2.0))
    assert len(outcomes) == 80
    expected = {13: "died", 31: "died", 47: "died", 59: "no memory"}
    assert {item: outcome for item, outcome in outcomes.items() if outcome != "done"} == expected


def test_nothing_to_do() -> None:
    assert list(each(work, [], died, "processes")) == []


@pytest.mark.usefixtures("one_core_of_many")
@pytest.mark.parametrize(("asked", "expected"), [(0, 1), (3, 3)])
def test_as_many_processes_as_there_are_cores_for_this_one(
    asked: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    @contextmanager
    def pool(executor: str, count: int) -> Iterator[tuple[Executor, int]]:
        counts.append(count)
        with ThreadPoolExecutor(1) as found:  # no process is needed to see how many there would be
            yield found, count

    monkeypatch.setattr(workers, "_pool", pool)
    monkeypatch.setattr(workers, "_work_through", lambda work, seconds, batch: [work(item) for item in batch])
    assert len(list(each(work, [0] * 80, died, "processes", asked))) == 80
    assert counts == [expected]


def fail(item: int) -> Outcome:
    raise ZeroDivisionError(item)


def test_an_error_of_the_work_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        list(each(fail, range(3), died, "processes"))


@pytest.mark.filterwarnings("ignore")
def test_a_crash_on_a_cluster_costs_one_item(cluster: str) -> None:
    import dask

    with dask.config.set({"scheduler-address": cluster}):  # as DASK_SCHEDULER_ADDRESS at the start of a process
        outcomes = dict(each(crash_at_13, range(40), died, "dask"))
    assert len(outcomes) == 40
    assert [item for item, outcome in outcomes.items() if outcome == "died"] == [13]


def crash_at_13(item: int) -> Outcome:
    if item == 13:
        os._exit(3)
    return item, "done"


def test_without_a_cluster_there_is_a_sentence() -> None:
    with pytest.raises(UserError, match="set DASK_SCHEDULER_ADDRESS"):
        list(each(work, range(3), died, "dask"))


def test_workers_that_cannot_start_are_a_sentence_and_blame_no_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MEMORY_LIMIT", "no number")
    with pytest.raises(UserError, match="no worker process starts"):
        list(each(work, range(10), died, "processes"))


class Full(ThreadPoolExecutor):
    """A pool whose system gives it one worker, and then no more."""

    given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.given += 1
        if self.given == 3:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
        ImportError("This platform lacks a functioning sem_open implementation"),
    ],
)
@pytest.mark.parametrize("at", ["the pool", "its first worker"])
def test_a_system_without_room_for_workers_is_a_sentence(
    at: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise error

    @contextmanager
    def processes(*_: object) -> Iterator[Executor]:
        if at == "the pool":
            raise error
        with Broken() as pool:
            yield pool

    monkeypatch.setattr(workers, "processes", processes)
    with pytest.raises(UserError, match=r"^no worker process can be started \((Resource|can't|This).*\); free memory"):
        list(each(work, range(10), died, "processes"))


def test_no_item_is_lost_where_there_is_room_for_few_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def processes(*_: object) -> Iterator[Executor]:
        with Full(1) as pool:
            yield pool

    monkeypatch.setattr(workers, "processes", processes)
    monkeypatch.setattr(workers, "_work_through", lambda work, seconds, batch: [(item, "done") for item in batch])
    outcomes = list(each(work, range(80), died, "processes", 4))
    assert sorted(outcomes) == [(item, "done") for item in range(80)]
