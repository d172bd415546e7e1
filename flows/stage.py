"""One stage in a process tree of its own, run by DVC: its lines, how it ended, and how to stop it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TAIL = 15  # lines kept for the message of a failure
GRACE_S = 5.0  # between asking a stage to end and ending it
BAD_INPUT = 2  # exit code of `xraysynth` where trying again cannot help

# What DVC says after each stage to a person at a prompt: noise in a log.
HINTS = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "Updating lock file",
    "Generating lock file",
    "Data and pipelines are up to date.",
)
UNCHANGED = ("didn't change, skipping", "is cached - skipping run")
LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EXITED = re.compile(r"exited with (-?\d+)")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    stage: str
    returncode: int  # of dvc
    tail: tuple[str, ...]  # its last lines
    unchanged: bool  # nothing to do, or taken from DVC's run cache
    stopped: bool  # with the flow

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def exit_code(self) -> int | None:
        """Of the stage's own command; None where DVC failed before or after it."""
        found = EXITED.findall("\n".join(self.tail))
        return int(found[-1]) if found else None

    @property
    def worth_retrying(self) -> bool:
        """A crash or a lock may pass; bad input, a missing dependency or a fault in dvc.yaml will not."""
        locked = any(sign in line for line in self.tail for sign in LOCKED)
        return not self.stopped and (locked or self.exit_code not in (None, BAD_INPUT))

    @property
    def reason(self) -> str:
        """The line that says it best: the stage's own `error: ...`, else its last one, else DVC's."""
        own = [line for line in self.tail if not line.startswith("ERROR: ")]
        said = [line for line in own if line.startswith("error: ")]
        return (said or own[-1:] or list(self.tail[-1:]) or [f"exit code {self.returncode}"])[-1]


class Stages:
    """The stages of one flow run: runs them, and can end all that still run."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = {**os.environ, **_surroundings(), **env}
        self.stopped = False
        self._running: set[subprocess.Popen[str]] = set()

    def run(self, stage: str, on_line: Callable[[str], None], *, threads: int | None, force: bool) -> Outcome:
        """Run `dvc repro --single-item STAGE`; each line of its output goes to `on_line` as it comes."""
        # DVC lets go of its lock while a stage's command runs and takes it again for the outputs. Without
        # waiting, a training of hours is lost when another stage stores its own then, for 3 s or more.
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
        process = subprocess.Popen(
            [*command, "--force"] if force else command,
            env=self.env if threads is None else {"OMP_NUM_THREADS": str(threads), **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a process group: the stage's whole tree can be ended at once
        )
        self._running.add(process)
        tail: deque[str] = deque(maxlen=TAIL)
        unchanged = False
        try:
            if self.stopped:  # while this one was starting
                _signal(process, signal.SIGKILL)
            for line in _lines(process):
                unchanged = unchanged or line.endswith(UNCHANGED) or UNCHANGED[1] in line
                tail.append(line)
                on_line(line)
            return Outcome(stage, process.wait(), tuple(tail), unchanged, self.stopped)
        finally:
            self._running.discard(process)

    def stop(self) -> None:
        """End every stage that runs, with all that it started: politely, then after a grace by force."""
        self.stopped = True
        stopping = list(self._running)
        try:
            for process in stopping:
                _signal(process, signal.SIGTERM)
            until = time.monotonic() + GRACE_S
            # A stage has ended when its output has: dvc ends at once, what it started may tidy up first.
            while time.monotonic() < until and not self._running.isdisjoint(stopping):
                time.sleep(0.1)
        finally:  # also after a second, impatient Ctrl-C
            for process in stopping:
                _signal(process, signal.SIGKILL)  # also what a process that ended left behind in its group


def _surroundings() -> dict[str, str]:
    """`xraysynth` and `dvc` are found although nobody activated the environment; lines come at once."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "PYTHONUNBUFFERED": "1"}


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """The lines worth showing. Of a progress bar, redrawn by carriage returns, the last state."""
    if process.stdout is None:
        return
    process.stdout.reconfigure(newline="\n")  # type: ignore[attr-defined]
    for raw in process.stdout:
        line = ANSI.sub("", raw.rstrip().rsplit("\r", 1)[-1]).rstrip()
        if line and not line.lstrip().startswith(HINTS):
            yield line


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
