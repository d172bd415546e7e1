"""The scheduled flow: new films in, a challenger out, which becomes the champion only if it is surely better."""

import json
from pathlib import Path
from typing import Annotated, Any

from dvc.exceptions import DvcException
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows import project, snapshot
from flows.artifacts import plain, where_to_read_on
from flows.pipeline import Slots, pipeline
from flows.stage import Commands, dvc
from flows.steps import BAD_INPUT, run_step
from tasks.errors import UserError
from tasks.labels import needs_table
from tasks.params import PARAMS_FILE, load
from tasks.places import CHALLENGER, CONTEST, DRIFT, RAW, RAW_DVC, VERDICT
from tasks.provenance import raw_digest, read_report


class StepFailed(Exception):
    """A step ended otherwise than completed; the message says which and why."""

    def __init__(self, state: State[Any]) -> None:
        super().__init__((state.message or "a step failed").splitlines()[0])
        self.name = state.name if state.name == BAD_INPUT else "Failed"


@flow
def retrain(
    source: str = str(RAW),
    labels: str | None = None,
    min_new_images: Annotated[int, Field(ge=1)] = 50,
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    seeds: Annotated[int, Field(ge=2, le=20)] = 3,
    push: bool = True,
    overrides: list[str] | None = None,
    gpu_slots: Slots = 1,
    cpu_slots: Slots = 2,
) -> State[Any]:
    """Train on what is new, compare with the champion on the same current test split, promote only what is better.

    Args:
        source: the folder into which films are delivered, on the worker's machine. What is new there is copied into
            data/raw, of which DVC keeps the snapshots; nothing is removed from either.
        labels: the table of labels; empty takes the file in the source of the name that params.yaml gives it.
        min_new_images: with fewer new or changed films nothing is trained, unless an earlier attempt is unfinished.
        margin: the challenger is promoted only if the whole interval of its advantage in the area under the
            precision-recall curve of the rare classes lies above this.
        seeds: how many classifiers are trained with the images of each side; more of them narrow the interval.
        push: whether data and models go to the DVC remote afterwards.
        overrides: changes of params.yaml, which stay, as section.key=value.
        gpu_slots: how many stages that train may run side by side on CUDA devices.
        cpu_slots: how many other stages may run side by side.
    """
    commands = Commands({})
    try:
        with project.held_alone():
            project.set_params(None, None, overrides or ())
            folder, table = Path(source), _table(Path(source), labels)
            found = snapshot.changes(folder, table)
            unfinished = _unfinished()
            get_run_logger().info(
                "%d new or changed films in the source; %s", len(found.films), unfinished or "no debt"
            )
            if len(found.films) < min_new_images and not unfinished:
                more = ", and other labels" if found.labels else ""
                return Completed(message=f"skipped: {len(found.films)} new{more}; {min_new_images} are asked for")
            take(folder, table, found)
            _step("dvc add", dvc("--wait-for-lock", "add", "--quiet", str(RAW)), commands)
            here = str(RAW / table.name) if table else None
            state = pipeline(str(RAW), here, gpu_slots=gpu_slots, cpu_slots=cpu_slots, return_state=True)
            if not state.is_completed():
                raise StepFailed(state)
            commands = Commands({"XRAYSYNTH_PIPELINE_ID": str(state.state_details.flow_run_id)})
            return _judged(commands, len(found.films), margin, seeds, push)
    except (UserError, DvcException) as error:
        return Failed(message=str(error), name=BAD_INPUT)
    except StepFailed as error:
        return Failed(message=f"{error}; the next run goes on from here", name=error.name)
    except BaseException:
        commands.stop()
        raise


@task(task_run_name="snapshot", cache_policy=NO_CACHE)
def take(source: Path, labels: Path | None, found: snapshot.Changes) -> None:
    """Copy what is new into `data/raw`."""
    snapshot.take(source, labels, found)


def _table(source: Path, labels: str | None) -> Path | None:
    """The table of labels; None for a format that needs none."""
    ingest = load(PARAMS_FILE).ingest
    if labels:
        return Path(labels)
    return source / Path(ingest.labels).name if needs_table(ingest.label_format) else None


def _unfinished() -> str:
    """Why the last attempt is to be finished first; "" where the newest version is of this snapshot and was judged."""
    from tasks import registry  # MLflow is slow to import

    if not raw_digest(RAW_DVC):
        return ""  # all films are new
    newest = next(iter(registry.versions()), None)
    if newest is None or newest.tags.get("raw_digest") != raw_digest(RAW_DVC):
        return "the snapshot has not been learnt from yet"
    contest = read_report(CONTEST)
    if contest.get("challenger") != newest.number:
        return f"version {newest.number} has not been judged yet"
    waits = contest["promote"] and CHALLENGER in newest.aliases
    return f"version {newest.number} is to be promoted" if waits else ""


def _judged(commands: Commands, new: int, margin: float, seeds: int, push: bool) -> State[Any]:
    """Register, compare, decide, tell."""
    _step("register", ["xraysynth", "models", "register", "best"], commands)
    _step("drift", ["xraysynth", "models", "drift"], commands)
    contest_command = ["xraysynth", "models", "contest", "--margin", f"{margin:g}", "--seeds", str(seeds)]
    _step("contest", contest_command, commands)
    contest = json.loads(CONTEST.read_text(encoding="utf-8"))
    version = contest["challenger"]
    if contest["promote"]:
        _step("promote", ["xraysynth", "models", "promote", str(version)], commands)
    pushed = "not asked for"
    if push:
        state = run_step("push", dvc("push"), commands, return_state=True)
        pushed = "done" if state.is_completed() else "failed"
    decision = f"version {version} was promoted" if contest["promote"] else f"version {version} was not promoted"
    text = story(new, read_report(DRIFT), read_report(VERDICT), contest, decision, pushed)
    create_markdown_artifact(text, key="retrain", description=f"{plain(decision)}.")
    message = f"{decision}: {contest['reason']}"
    if pushed == "failed":
        return Failed(message=f"{message} But `dvc push` failed: run it again by hand, or let the next run do it.")
    return Completed(message=message)


def _step(name: str, command: list[str], commands: Commands) -> None:
    state = run_step(name, command, commands, return_state=True)
    if not state.is_completed():
        raise StepFailed(state)


def story(
    new: int, drift: dict[str, Any], verdict: dict[str, Any], contest: dict[str, Any], decision: str, pushed: str
) -> str:
    """What happened, in markdown; every word that may come from the data is escaped."""
    champion = contest["champion"]
    opponent = f"the champion, version {champion}" if champion is not None else "no champion"
    difference = contest["difference"]
    numbers = "no interval"
    if difference is not None:
        ends = (difference[key] for key in ("mean", "low", "high"))
        mean, low, high = ("–" if value is None else f"{value:+.3f}" for value in ends)
        numbers = f"{plain(contest['measure'])} {mean} (interval {low} to {high}, margin {contest['margin']:g})"
    gates = [
        f"| {plain(name)} | {'passed' if gate['passed'] else '**not passed**'} | {plain(gate['sentence'])} |"
        for name, gate in contest["gates"].items()
    ]
    rollback = (
        "`xraysynth models rollback` brings the champion before it back."
        if champion is not None
        else ("There is no champion before it to go back to.")
    )
    lines = [
        f"# {plain(decision[0].upper() + decision[1:])}",
        "",
        plain(contest["reason"]),
        "",
        "## New films",
        "",
        f"{new} new or changed films were taken into the snapshot `{raw_digest(RAW_DVC)}`.",
        "",
        "## Drift against the champion's data",
        "",
        plain(drift.get("sentence", "Not measured.")),
        *(f"\n**Warning**: {plain(warning)}" for warning in drift.get("warnings", [])),
        "",
        "## Do synthetic images help here?",
        "",
        plain(verdict.get("sentence", "No verdict.")),
        "",
        f"## Challenger {contest['challenger']} against {opponent}",
        "",
        f"On the same current test split: {numbers}.",
        "",
        "| gate | | |",
        "|---|---|---|",
        *gates,
        "",
        "## And now",
        "",
        f"- {rollback if contest['promote'] else 'The champion stays; nothing is to be done.'}",
        "- `xraysynth models list` shows all versions.",
        f"- data and models to the DVC remote: {pushed}",
        where_to_read_on(),
    ]
    return "\n".join(lines)
