"""Processes that run until all is stopped: started again where they die, and ended with all that they started."""

import ctypes
import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LOGS = Path(".xraysynth/serve")
# From a start to the next one at least, which doubles up to the second value.
AGAIN_S, AGAIN_MAX_S = 1.0, 60.0
HEALTHY_S = 600.0  # what has run for so long is started again as if it were the first time
MOST_DEATHS = 20  # in a row, each before that: a quarter of an hour at least
END_S = 3.0  # until what a dead service has left behind is ended by force
PR_SET_CHILD_SUBREAPER = 36


class GivenUp(Exception):
    """A service dies whenever it is started; the message is a sentence with the path of its log."""


@dataclass
class Service:
    """A process that is to run until all is stopped; started again where it dies.

    What it has started is ended before it is started again, for it would keep the port, unless `is_outlived`: the flows
    of a worker go on without it.
    """

    name: str
    command: list[str]
    env: Mapping[str, str]
    health: str = ""  # a URL that answers once it works
    is_outlived: bool = False
    process: subprocess.Popen[bytes] | None = None
    _started: float = -math.inf
    _pause: float = 0.0
    _deaths: int = 0  # in a row

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """0 before the start."""
        return self.process.pid if self.process else 0

    def answers(self) -> None:
        """Raises OSError where it does not answer."""
        urllib.request.urlopen(self.health, timeout=5).close()

    def start(self) -> None:
        """A session of its own: the terminal's Ctrl-C reaches only this program, which ends them in order."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        now = time.monotonic()
        self._pause = AGAIN_S if now - self._started >= HEALTHY_S else min(2 * self._pause, AGAIN_MAX_S)
        self._started = now

    def watch(self) -> None:
        """Start it again if it has died, not too often. Raises GivenUp after MOST_DEATHS in a row."""
        ran = time.monotonic() - self._started
        if ran < self._pause or self.process is None or self.process.poll() is None:
            return
        how = _how(self.process.returncode)
        self._deaths = 1 if ran >= HEALTHY_S else self._deaths + 1
        if self._deaths >= MOST_DEATHS:
            raise GivenUp(f"{self.name} has ended {self._deaths} times in a row, last with {how}; {self.log} says why")
        print(f"{self.name} has ended ({how}) and is started again", flush=True)
        if not self.is_outlived:
            left = session(self.pid)
            end(left, left, END_S)
        self.start()


def end(processes: list[psutil.Process], ask: list[psutil.Process], patience: float) -> None:
    """Ask some to end, and after a while end by force what is left of all and of what they started since."""
    for process in ask:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in {child for parent in alive for child in tree(parent.pid)}:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=1)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; [] where it has ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def session(leader: int) -> list[psutil.Process]:
    """The processes of a session, also where its leader has died. While there is one, no other process gets its id."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def parent(process: psutil.Process) -> int:
    """The id of its parent; 0 where it has ended."""
    with suppress(psutil.NoSuchProcess):
        return int(process.ppid())
    return 0


def adopt_orphans() -> None:
    """On Linux: a flow whose worker was killed becomes a child of this program, not of init, and is ended with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopted(services: list[Service]) -> list[psutil.Process]:
    """The processes whose parent has died."""
    own = {service.pid for service in services}
    return [process for process in psutil.Process().children() if process.pid not in own]


def reap(services: list[Service]) -> None:
    """Adopted processes that have ended would stay as zombies."""
    for process in adopted(services):
        with suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def _how(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
