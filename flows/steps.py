"""One command as one task run: its lines in the log, its progress, how long it took, why it failed."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import FailedRun
from prefect.states import Cancelled, Completed, Failed

from flows.commands import Commands
from tasks.progress import read_line

BAD_INPUT = "BadInput"  # a failed state that another try cannot mend: data, params or dvc.yaml must change
SECONDS_BETWEEN = 2.0  # reports of progress to the server


def _says_something(record: logging.LogRecord) -> bool:
    """Prefect logs a failed state, which it has told of, with the traceback of an exception there never was: of a task
    that is tried again an empty one, of a flow that of the exception by which its own code hands the state on."""
    if record.exc_info == (None, None, None):
        record.exc_info = None
    return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


for _name in ("prefect.task_runs", "prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_says_something)


def _worth_retrying(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return state.name != BAD_INPUT


@task(
    task_run_name="{name}",
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,  # DVC decides what is stale
)
def run_step(
    name: str, command: Sequence[str] | None, commands: Commands, env: Mapping[str, str] | None = None
) -> State[Any]:
    """Run one command; its lines go to the log of the task run, and the share that is done to a progress artifact.

    Without a command there is nothing to do, and the task run says so.
    """
    if command is None:
        return Completed(message="nothing had changed")
    log, progress = get_run_logger(), Progress(name)

    def on_line(line: str) -> None:
        log.info("%s", line)
        progress.read(line)

    outcome = commands.run(command, on_line, env)
    if outcome.ok:
        progress.done()
        said = "nothing had changed" if outcome.unchanged else "done"
        return Completed(message=f"{said}, {_duration(outcome.seconds)}")
    if outcome.stopped:
        return Cancelled(message=f"stopped with the flow, after {_duration(outcome.seconds)}")
    # A state, not an exception: what went wrong happened in another process, and its last lines say
    # more than a traceback of this one.
    before = [line for line in outcome.tail if line != outcome.reason]
    message = "\n".join([f"{name}: {outcome.reason}", *(["", "Its last lines:", *before] if before else [])])
    return Failed(message=message, name="Failed" if outcome.worth_retrying else BAD_INPUT)


class Progress:
    """Of a step whose lines say it (`msg_gan: 1.60/16 kimg, ...`), for the UI; nothing for the others."""

    def __init__(self, step: str) -> None:
        self._key = "progress-" + (re.sub(r"[^a-z0-9]+", "-", step.lower()).strip("-") or "step")
        self._artifact: UUID | None = None
        self._next = 0.0
        self._what = step

    def read(self, line: str) -> None:
        """Report what a line says of it, if it does and the last report is not just made."""
        share = read_line(line)
        if share is None:
            return
        self._what = share.words
        if time.monotonic() >= self._next:
            self._report(share.percent)
            self._next = time.monotonic() + SECONDS_BETWEEN

    def done(self) -> None:
        """All of it, where any of it was reported."""
        if self._artifact is not None:
            self._report(100.0)

    def _report(self, percent: float) -> None:
        try:
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self._key, description=self._what))
            else:
                update_progress_artifact(self._artifact, percent, description=self._what)
        except Exception as error:  # whatever a server that is away raises: the step is not to end for a bar
            get_run_logger().warning("The server did not take the progress: %s", type(error).__name__)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
