"""The DAG of `dvc.yaml` as a Prefect flow: one task run a stage, independent stages side by side.

DVC decides what is stale, Prefect when and where it runs. Without a server (no PREFECT_API_URL) Prefect
starts one for the length of the run.

    python -m flows.pipeline [-S SECTION.KEY=VALUE]... [--keep] [--stage NAME]... [--force] [--cpu-slots N]
        [--gpu-slots N]
"""

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

from dvc.exceptions import DvcException
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed
from pydantic import Field

from flows import project
from flows.artifacts import publish
from flows.commands import Commands, repro
from flows.dag import Dag, names_menu, read_dag, share
from flows.steps import BAD_INPUT, run_step
from tasks.errors import UserError

Runs = dict[str, PrefectFuture[Any]]
CUDA_MAY_BE = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # without one there is no need to ask torch, for seconds
Slots = Annotated[int, Field(ge=1)]
Stage = Annotated[str, Field(json_schema_extra=names_menu)]
LONGEST_NAME = 100


def _name() -> str:
    """Of a run in Prefect's lists: what it does."""
    parameters = flow_run.parameters
    what = [*(parameters["stages"] or ["all stages"]), *(parameters["overrides"] or ())]
    return ", ".join([*what, *(["by force"] if parameters["force"] else [])])[:LONGEST_NAME]


@flow(flow_run_name=_name)
def pipeline(
    source: str | None = None,
    labels: str | None = None,
    overrides: list[str] | None = None,
    keep: bool = False,
    stages: list[Stage] | None = None,
    force: bool = False,
    gpu_slots: Slots = 1,
    cpu_slots: Slots = 2,
) -> State[Any]:
    """Bring the project up to date: films to curated images, generators, classifiers, report and verdict.

    Args:
        source: the folder of films, on the worker's machine; empty takes what params.yaml says (ingest.source).
        labels: the table of labels; empty takes labels.csv of the source, or what params.yaml says.
        overrides: further changes of params.yaml for this run, as section.key=value, e.g. `train.kimg=16`.
        keep: whether source, labels and overrides stay in params.yaml; else it is as before when the run has ended.
        stages: run only these and what they depend on, e.g. `train@msg_gan` or `train`; all if empty.
        force: run them even where nothing has changed.
        gpu_slots: how many stages that train may run side by side on CUDA devices, which they divide among them;
            without a device they are CPU stages.
        cpu_slots: how many other stages may run side by side.
    """
    try:
        with project.held_alone(), project.params_of_run(source, labels, overrides or (), keep):
            return _up_to_date(read_dag(stages or ()), force, {"gpu": gpu_slots, "cpu": cpu_slots})
    except (UserError, DvcException) as error:
        return Failed(message=str(error), name=BAD_INPUT)


def _up_to_date(dag: Dag, force: bool, slots: dict[str, int]) -> State[Any]:
    devices = _cuda_devices() if any(node.slot == "gpu" for node in dag.values()) else []
    if not devices:
        dag = {stage: node._replace(slot="cpu") for stage, node in dag.items()}
    commands = Commands({"XRAYSYNTH_PIPELINE_ID": str(flow_run.id)})  # the tag its MLflow runs share
    try:
        runs = _run_all(dag, commands, force, slots, devices)
    except BaseException:  # cancelled, or a fault of our own: no stage outlives its flow
        commands.stop()
        raise
    state = _verdict(runs)
    if state.is_completed():  # else the reports may be those of an earlier run
        publish([Path(out) for node in dag.values() for out in node.outs])
    return state


def _cuda_devices() -> list[str]:
    """Those that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not any(Path(device).exists() for device in CUDA_MAY_BE):
        return []
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(k) for k in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def _run_all(dag: Dag, commands: Commands, force: bool, slots: dict[str, int], devices: list[str]) -> Runs:
    """Submit each stage once those it waits for have ended and a slot of its kind is free.

    Submitting all at once to a pool of threads would be shorter, but there a task that waits for another holds a
    place that a ready one could use. A stage below a failed one is submitted too: Prefect then says so in its state
    and doesn't run it.
    """
    runs: Runs = {}
    ended: SimpleQueue[str] = SimpleQueue()
    waiting, finished, places = dict(dag), set[str](), dict[str, int]()
    while waiting or len(finished) < len(runs):
        for stage, node in list(waiting.items()):
            taken = {places[name] for name in runs if name not in finished and dag[name].slot == node.slot}
            place = min(set(range(slots[node.slot])) - taken, default=None)
            if not finished.issuperset(node.above) or place is None:
                continue
            del waiting[stage]
            places[stage] = place
            env = share(stage, dag, slots[node.slot], place, devices)
            above = [runs[name] for name in node.above]
            command = repro(stage, force=force) if force or node.changed else None
            runs[stage] = run_step.submit(stage, command, commands, env, wait_for=above, return_state=False)
            runs[stage].add_done_callback(partial(_put, ended, stage))
        finished.add(ended.get())
    return runs


def _put(ended: SimpleQueue[str], stage: str, _: PrefectFuture[Any]) -> None:
    ended.put(stage)


def _verdict(runs: Runs) -> State[Any]:
    """The state of the flow from those of its stages: all completed, or which failed and why."""
    failed, not_run, bad_input = [], [], 0
    for stage, run in runs.items():
        run.wait()
        if run.state.is_failed() or run.state.is_crashed():
            failed.append((run.state.message or stage).splitlines()[0])
            bad_input += run.state.name == BAD_INPUT
        elif not run.state.is_completed():
            not_run.append(stage)
    if not failed and not not_run:
        return Completed(message=f"{len(runs)} stages are up to date")
    message = f"{len(failed)} of {len(runs)} stages failed: {'; '.join(failed)}"
    name = BAD_INPUT if failed and bad_input == len(failed) else "Failed"  # of a crash another try may be better
    return Failed(message=message + (f" (not run: {', '.join(not_run)})" if not_run else ""), name=name)


def main() -> int:
    """The command line. Exit code 0 if every stage is up to date, else a sentence and 2 for bad input, 1 for others."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run the DAG of dvc.yaml.")
    parser.add_argument("--stage", action="append", metavar="NAME", help="only this and what it depends on")
    parser.add_argument("--force", action="store_true", help="run even where nothing has changed")
    parser.add_argument(
        "-S", "--set-param", action="append", metavar="KEY=VALUE", help="change params.yaml for this run"
    )
    parser.add_argument("--keep", action="store_true", help="let the changes of params.yaml stay")
    for kind, number in (("cpu", 2), ("gpu", 1)):
        text = f"how many stages on the {kind.upper()} side by side (default {number})"
        parser.add_argument(f"--{kind}-slots", type=int, default=number, metavar="N", help=text)
    options = parser.parse_args()
    if min(options.cpu_slots, options.gpu_slots) < 1:
        parser.error("--cpu-slots and --gpu-slots must be at least 1")
    if child := os.fork():
        return _wait_for(child)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):  # the former is ignored in what a script starts with &
        signal.signal(number, signal.default_int_handler)
    try:
        if _nothing_to_do(options):
            return 0
        state = pipeline(
            overrides=options.set_param,
            keep=options.keep,
            stages=options.stage,
            force=options.force,
            gpu_slots=options.gpu_slots,
            cpu_slots=options.cpu_slots,
            return_state=True,
        )
    except KeyboardInterrupt:
        print("error: stopped before the end; the same command resumes from here", file=sys.stderr)
        return 130
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 2 if state.name == BAD_INPUT else 1


def _nothing_to_do(options: argparse.Namespace) -> bool:
    """Whether all is up to date, of a run that Prefect would have to start a server for: nobody looks at such a run."""
    if options.force or PREFECT_API_URL.value():
        return False
    try:
        with project.held_alone(), project.params_of_run(overrides=options.set_param or (), keep=options.keep):
            dag = read_dag(options.stage or ())
    except (UserError, DvcException):
        return False  # the flow says why
    if any(node.changed for node in dag.values()):
        return False
    print(f"{len(dag)} stages are up to date")
    return True


def _wait_for(child: int) -> int:
    """Hand signals on to the flow, which has a session of its own; its exit code.

    At a prompt Ctrl-C goes to every process of the session. It would end the server that Prefect has
    started for the run before the run could tell it how it ended, and Prefect then tries for minutes.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGINT))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        return code
    print(f"error: the flow was ended by signal {-code}; the same command resumes from here", file=sys.stderr)
    return 128 - code


if __name__ == "__main__":
    sys.exit(main())
