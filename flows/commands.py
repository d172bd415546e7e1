"""Commands in process trees of their own: their lines, how they ended, and how to stop them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.services import tree

TAIL = 15  # lines kept for the message of a failure
GRACE_S = 5.0  # between asking a command to end and ending it
BAD_INPUT = 2  # exit code of `xraysynth` where trying again cannot help
DVC_REFUSES = range(251, 256)  # exit codes of `dvc` for a fault in dvc.yaml, its configuration or what it is asked for

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
    """How a command ended."""

    returncode: int
    tail: tuple[str, ...]  # its last lines
    unchanged: bool  # of a stage: nothing to do, or taken from DVC's run cache
    stopped: bool  # with the flow
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def exit_code(self) -> int:
        """Of the command itself; of the stage's own where DVC ran it and says how it ended."""
        found = EXITED.findall("\n".join(self.tail))
        return int(found[-1]) if found else self.returncode

    @property
    def worth_retrying(self) -> bool:
        """A crash or a lock may pass; bad input, a missing dependency or a fault in dvc.yaml will not."""
        locked = any(sign in line for line in self.tail for sign in LOCKED)
        return not self.stopped and (locked or self.exit_code not in (BAD_INPUT, *DVC_REFUSES))

    @property
    def reason(self) -> str:
        """The line that says it best: the command's own `error: ...`, else its last one, else DVC's."""
        own = [line for line in self.tail if not line.startswith("ERROR: ")]
        said = [line for line in own if line.startswith("error: ")]
        return (said or own[-1:] or list(self.tail[-1:]) or [f"exit code {self.returncode}"])[-1]


def dvc(*arguments: str) -> list[str]:
    """`dvc` of this environment, activated or not."""
    return [sys.executable, "-m", "dvc", *arguments]


def repro(stage: str, *, force: bool) -> list[str]:
    """The command that brings one stage up to date."""
    # DVC lets go of its lock while a stage's command runs and takes it again for the outputs. Without
    # waiting, a training of hours is lost when another stage stores its own then, for 3 s or more.
    command = dvc("--wait-for-lock", "repro", "--single-item", stage)
    return [*command, "--force"] if force else command


class Commands:
    """The commands of one flow run: runs them, and can end all that still run."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = {**os.environ, **_surroundings(), **env}
        self.stopped = False
        self._running: set[subprocess.Popen[str]] = set()

    def run(
        self, command: Sequence[str], on_line: Callable[[str], None], env: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run a command to its end; each line of its output goes to `on_line` as it comes.

        `env` comes on top of that of all commands. Raises OSError where there is no such program.
        """
        start = time.monotonic()
        process = subprocess.Popen(
            [_program(command[0], self.env["PATH"]), *command[1:]],
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a process group, by which the command's tree is known
        )
        self._running.add(process)
        watcher = _watcher(process)
        tail: deque[str] = deque(maxlen=TAIL)
        unchanged = False
        try:
            if self.stopped:  # while this one was starting
                _end([process])
            for line in _lines(process):
                unchanged = unchanged or line.endswith(UNCHANGED) or UNCHANGED[1] in line
                tail.append(line)
                on_line(line)
            returncode = process.wait()
            return Outcome(returncode, tuple(tail), unchanged, self.stopped, time.monotonic() - start)
        except BaseException:  # the flow was cancelled while this thread waited for a line
            _end([process])
            raise
        finally:
            watcher.kill()
            watcher.communicate()
            self._running.discard(process)

    def stop(self) -> None:
        """End every command that runs, with all that it started: politely, then after a grace by force."""
        self.stopped = True
        _end(list(self._running))


def _watcher(process: subprocess.Popen[str]) -> subprocess.Popen[bytes]:
    """Ends the tree of `process` should this process be killed: its standard input ends then, and not before."""
    end = f"read -r _; kill -TERM -{process.pid}; sleep {GRACE_S:g}; kill -KILL -{process.pid}"
    return subprocess.Popen(
        ["/bin/sh", "-c", end], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _end(processes: list[subprocess.Popen[str]]) -> None:
    work = _trees(processes)  # before a signal: who outlives its parent is not found any more
    try:
        # Parents first: one whose child ends before it is asked itself goes on without it, or ends without tidying up.
        for process in sorted(work, key=lambda process: (process.create_time(), process.pid)):
            with suppress(psutil.Error):
                process.terminate()
        until = time.monotonic() + GRACE_S
        while time.monotonic() < until and any(_works(process) for process in work):
            time.sleep(0.1)
    finally:  # also after a second, impatient Ctrl-C
        for process in _trees(processes).union(*(tree(process.pid) for process in work if process.is_running())):
            with suppress(psutil.Error):
                process.kill()


def _trees(processes: list[subprocess.Popen[str]]) -> set[psutil.Process]:
    """Their process groups and all below: torchrun's workers have sessions of their own."""
    leaders = {process.pid for process in processes}
    found: set[psutil.Process] = set()
    for other in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(other.pid) in leaders:
                found.update(tree(other.pid))
    return found


def _works(process: psutil.Process) -> bool:
    """Whether it still does: dvc ends at once, what it started may tidy up first.

    Orphans that have ended stay as zombies where process 1 does not collect them, and do not count.
    """
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _surroundings() -> dict[str, str]:
    """`xraysynth` and `dvc` are found although nobody activated the environment; lines come at once."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "PYTHONUNBUFFERED": "1"}


def _program(name: str, path: str) -> str:
    """Where a program is: the child's PATH must decide, and Popen looks along that of this process."""
    return shutil.which(name, path=path) or name


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """The lines worth showing. Of a progress bar, redrawn by carriage returns, the last state."""
    if process.stdout is None:
        return
    process.stdout.reconfigure(newline="\n")  # type: ignore[attr-defined]
    for raw in process.stdout:
        line = ANSI.sub("", raw.rstrip().rsplit("\r", 1)[-1]).rstrip()
        if line and not line.lstrip().startswith(HINTS):
            yield line
