"""When what has died is started again: planted times a process that is always dead; what is given up or ended."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows import services
from flows.services import Service

MINUTE = 60.0


@dataclass
class Machine:
    """A clock, and the times at which the service was started."""

    service: Service
    now: float = 1000.0
    starts: list[float] = field(default_factory=list)

    def watch(self, seconds: float, step: float = 0.5) -> None:
        """As `make serve` does."""
        until = self.now + seconds
        while self.now < until:
            self.service.watch()
            self.now += step

    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.starts, self.starts[1:], strict=False)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(services, "LOGS", tmp_path)
    found = Machine(Service("worker", ["false"], {}))

    class Process:
        """Runs for the number of seconds in `env`."""

        returncode = 1
        pid = 2**30  # nobody's

        def __init__(self, command: list[str], env: dict[str, float], **_: Any) -> None:
            found.starts.append(found.now)
            self.ends = found.now + env.get("runs", 0.0)

        def poll(self) -> int | None:
            return 1 if found.now >= self.ends else None

    monkeypatch.setattr(services, "subprocess", SimpleNamespace(Popen=Process, DEVNULL=subprocess.DEVNULL))
    monkeypatch.setattr(services, "time", SimpleNamespace(monotonic=lambda: found.now))
    found.service.start()
    return found


def test_the_pause_doubles_up_to_a_minute(machine: Machine) -> None:
    machine.watch(5 * MINUTE)
    assert machine.pauses()[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(("runs", "expected"), [(9 * MINUTE, 9 * MINUTE + 60), (10 * MINUTE, 10 * MINUTE + 1)])
def test_deaths_before_a_healthy_while_are_forgotten(machine: Machine, runs: float, expected: float) -> None:
    """The second pause counts from a start after which it died at once again."""
    machine.watch(10 * MINUTE)
    machine.service.env = {"runs": runs}  # type: ignore[dict-item]
    count = len(machine.starts)
    machine.watch(MINUTE)
    assert len(machine.starts) == count + 1
    machine.service.env = {}
    machine.watch(12 * MINUTE)
    assert machine.starts[count + 2] - machine.starts[count] == expected


def test_what_dies_again_and_again_is_given_up_with_its_log(machine: Machine) -> None:
    with pytest.raises(
        services.GivenUp, match=r"worker has ended 20 times in a row, last with exit code 1; .*worker\.log"
    ):
        machine.watch(48 * 60 * MINUTE, step=30)
    assert len(machine.starts) == services.MOST_DEATHS


def test_what_was_healthy_in_between_is_not_given_up(machine: Machine) -> None:
    machine.service.env = {"runs": 11 * MINUTE}  # type: ignore[dict-item]
    machine.watch(48 * 60 * MINUTE, step=30)
    assert len(machine.starts) > 10 * services.MOST_DEATHS


@pytest.fixture
def orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], psutil.Process]]:
    """Starts a service whose process leaves a child behind, kills it, and has it started again; the child."""
    monkeypatch.setattr(services, "LOGS", tmp_path)
    found: list[Service] = []

    def left(is_outlived: bool) -> psutil.Process:
        service = Service("server", ["/bin/sh", "-c", "sleep 300 & wait"], dict(os.environ), is_outlived=is_outlived)
        found.append(service)
        service.start()
        head = psutil.Process(service.pid)
        while not head.children():
            time.sleep(0.01)
        (child,) = head.children()
        head.kill()
        service.process.wait()  # type: ignore[union-attr]
        service._pause = 0.0
        service.watch()
        assert service.pid != head.pid
        return child

    yield left
    for service in found:
        service.process.kill()  # type: ignore[union-attr]
        service.process.wait()  # type: ignore[union-attr]
        for process in services.session(service.pid):
            process.kill()


def test_what_a_killed_server_leaves_behind_is_ended_before_the_next_start(
    orphan: Callable[[bool], psutil.Process],
) -> None:
    child = orphan(False)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE  # process 1 may not collect orphans


def test_what_a_killed_worker_leaves_behind_goes_on(orphan: Callable[[bool], psutil.Process]) -> None:
    child = orphan(True)
    assert child.is_running()
    assert child.status() != psutil.STATUS_ZOMBIE
    child.kill()
