"""When what has died is started again: planted times and a process that is always dead; nothing waits."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def test_what_dies_for_days_is_still_started_again(machine: Machine) -> None:
    machine.watch(48 * 60 * MINUTE, step=30)
    assert len(machine.starts) > 2800
    assert machine.pauses()[-1] == MINUTE


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
