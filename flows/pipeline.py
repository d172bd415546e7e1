"""The DAG of `dvc.yaml` as a Prefect flow: one task run a stage, independent stages side by side.

DVC decides what is stale, Prefect when and where it runs. Without a server (no PREFECT_API_URL) Prefect
starts one for the length of the run.

    python -m flows.pipeline [--stage NAME]... [--force] [--max-parallel N]
"""

import argparse
import logging
import os
import signal
import sys
from functools import partial
from queue import SimpleQueue
from typing import Annotated, Any

from dvc.exceptions import DvcException
from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows.artifacts import publish
from flows.dag import Dag, read_dag, threads
from flows.stage import Stages

Runs = dict[str, PrefectFuture[Any]]
BAD_INPUT = "BadInput"  # a failed state that another try cannot mend: data, params or dvc.yaml must change


def _worth_retrying(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return state.name != BAD_INPUT


@task(
    task_run_name="{stage}",
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,  # DVC decides what is stale
)
def run_stage(stage: str, stages: Stages, omp_threads: int | None, force: bool) -> State[Any]:
    """Run one stage by `dvc repro --single-item`; its lines go to the log of the task run."""
    outcome = stages.run(stage, get_run_logger().info, threads=omp_threads, force=force)
    if outcome.ok:
        return Completed(message="nothing had changed" if outcome.unchanged else "done")
    if outcome.stopped:
        return Cancelled(message="stopped with the flow")
    # A state, not an exception: what went wrong happened in another process, and its last lines say
    # more than a traceback of this one.
    message = "\n".join([f"{stage}: {outcome.reason}", "", "Its last lines:", *outcome.tail])
    return Failed(message=message, name="Failed" if outcome.worth_retrying else BAD_INPUT)


@flow
def pipeline(
    stages: list[str] | None = None,
    force: bool = False,
    max_parallel: Annotated[int, Field(ge=1)] = 2,
) -> State[Any]:
    """Bring the project up to date.

    Args:
        stages: run only these and what they depend on, e.g. `train@msg_gan` or `train`; all if empty.
        force: run them even where nothing has changed.
        max_parallel: how many stages may run side by side.
    """
    logging.getLogger("prefect.task_runs").addFilter(_without_empty_traceback)
    try:
        dag = read_dag(stages or ())
    except DvcException as error:
        return Failed(message=str(error))
    runner = Stages({"XRAYSYNTH_PIPELINE_ID": str(flow_run.id)})  # the tag its MLflow runs share
    try:
        runs = _run_all(dag, runner, force, max_parallel)
    except BaseException:  # cancelled, or a fault of our own: no stage outlives its flow
        runner.stop()
        raise
    state = _verdict(runs)
    if state.is_completed():  # else the reports may be those of an earlier run
        publish()
    return state


def _run_all(dag: Dag, runner: Stages, force: bool, max_parallel: int) -> Runs:
    """Submit each stage once those it waits for have ended and a place is free.

    Submitting all at once to a pool of `max_parallel` threads would be shorter, but there a task that
    waits for another holds a place that a ready one could use. A stage below a failed one is submitted
    too: Prefect then says so in its state and doesn't run it.
    """
    runs: Runs = {}
    ended: SimpleQueue[str] = SimpleQueue()
    waiting, finished = dict(dag), set[str]()
    while waiting or len(finished) < len(runs):
        ready = [stage for stage, above in waiting.items() if finished.issuperset(above)]
        for stage in ready[: max_parallel - (len(runs) - len(finished))]:
            above = [runs[name] for name in waiting.pop(stage)]
            omp_threads = threads(stage, dag, max_parallel)
            runs[stage] = run_stage.submit(stage, runner, omp_threads, force, wait_for=above, return_state=False)
            runs[stage].add_done_callback(partial(_put, ended, stage))
        finished.add(ended.get())
    return runs


def _put(ended: SimpleQueue[str], stage: str, _: PrefectFuture[Any]) -> None:
    ended.put(stage)


def _verdict(runs: Runs) -> State[Any]:
    """The state of the flow from those of its stages: all completed, or which failed and why."""
    failed, not_run = [], []
    for stage, run in runs.items():
        run.wait()
        if run.state.is_failed() or run.state.is_crashed():
            failed.append((run.state.message or stage).splitlines()[0])
        elif not run.state.is_completed():
            not_run.append(stage)
    if not failed and not not_run:
        return Completed(message=f"{len(runs)} stages are up to date")
    message = f"{len(failed)} of {len(runs)} stages failed: {'; '.join(failed)}"
    return Failed(message=message + (f" (not run: {', '.join(not_run)})" if not_run else ""))


def _without_empty_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs a failed state with the traceback of an exception there never was."""
    if record.exc_info == (None, None, None):
        record.exc_info = None
    return True


def main() -> int:
    """The command line. Exit code 0 if every stage is up to date, else 1 and a sentence."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run the DAG of dvc.yaml.")
    parser.add_argument("--stage", action="append", metavar="NAME", help="only this and what it depends on")
    parser.add_argument("--force", action="store_true", help="run even where nothing has changed")
    parser.add_argument("--max-parallel", type=int, default=2, metavar="N", help="side by side (default 2)")
    options = parser.parse_args()
    if options.max_parallel < 1:
        parser.error("--max-parallel must be at least 1")
    if child := os.fork():
        return _wait_for(child)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):  # the former is ignored in what a script starts with &
        signal.signal(number, signal.default_int_handler)
    try:
        state = pipeline(options.stage, options.force, options.max_parallel, return_state=True)
    except KeyboardInterrupt:
        print("error: stopped before the end; the same command goes on from here", file=sys.stderr)
        return 130
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


def _wait_for(child: int) -> int:
    """Hand signals on to the flow, which has a session of its own; its exit code.

    At a prompt Ctrl-C goes to every process of the session. It would end the server that Prefect has
    started for the run before the run could tell it how it ended, and Prefect then tries for minutes.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGINT))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
