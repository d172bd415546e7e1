"""The scheduled flow: new films in, a challenger out, which becomes the champion only if it is surely better."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

from dvc.exceptions import DvcException
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows import project, snapshot
from flows.artifacts import capital, plain, story
from flows.commands import Commands, dvc
from flows.pipeline import Slots, pipeline
from flows.steps import BAD_INPUT, run_step
from tasks.errors import Unavailable, UserError
from tasks.files import read_report, write_json
from tasks.params import PARAMS_FILE, Ingest, load, needs_table
from tasks.paths import CHALLENGE, DRIFT, RAW, RAW_DVC, VERDICT
from tasks.registry import CHALLENGER
from tasks.tracking.provenance import raw_digest

PUSH_FAILED = "`dvc push` failed: run it again by hand, or let the next run do it."
DELIVERED = Path(".xraysynth/delivered.json")  # source and labels of the last run that took films in
PUSH_OWED = Path(".xraysynth/push-owed")  # there from before data changes until a push has succeeded
NOTHING_TO_REGISTER = Path(".xraysynth/nothing-to-register")  # the snapshot of which the verdict names no generator


class StepFailed(Exception):
    """A step ended otherwise than completed; the message says which and why."""

    def __init__(self, state: State[Any]) -> None:
        super().__init__((state.message or "a step failed").splitlines()[0])
        self.name = state.name if state.name == BAD_INPUT else "Failed"


@flow(flow_run_name=lambda: f"films of {datetime.now(UTC):%Y-%m-%d}")
def retrain(
    source: str | None = None,
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
        source: the folder into which films are delivered, on the worker's machine. What is new there, by content, is
            added to data/raw, of which DVC keeps the snapshots; nothing is removed or overwritten. Empty takes what
            params.yaml says (ingest.source), and where that is data/raw the folder of the last run that found films.
        labels: the table of labels; empty takes what params.yaml says, or the file of that name in a source named here.
            Its rows are added to the archive's table; one that contradicts it ends the run.
        min_new_images: with fewer new films nothing is trained, unless an earlier attempt is unfinished.
        margin: the challenger is promoted only if the whole interval of its advantage in the area under the
            precision-recall curve of the rare classes lies above this.
        seeds: how many classifiers are trained with the images of each side; more of them narrow the interval.
        push: whether data and models go to the DVC remote afterwards.
        overrides: changes of params.yaml for this run, as section.key=value.
        gpu_slots: how many stages that train may run side by side on CUDA devices, which they divide among them.
        cpu_slots: how many other stages may run side by side.
    """
    commands = Commands({})
    try:
        with project.held_alone(), project.params_of_run(overrides=overrides or (), films=False):
            folder, table = _delivered(source, labels)
            new = _changes(folder, table)
            unfinished = _unfinished()
            get_run_logger().info("%d new films in %s; %s", new.new, folder, unfinished or "no debt")
            if new.new < min_new_images and not unfinished:
                return _skipped(new, min_new_images, push, commands)
            if push:
                PUSH_OWED.touch()
            _take_snapshot(folder, table, new, commands)
            commands = _trained(gpu_slots, cpu_slots)
            return _judged(commands, new.new, margin, seeds, push)
    except (UserError, DvcException) as error:
        return Failed(message=str(error), name="Failed" if isinstance(error, Unavailable) else BAD_INPUT)
    except StepFailed as error:
        return Failed(message=f"{error}; the next run resumes from here", name=error.name)
    except BaseException:
        commands.stop()
        raise


def _last_time(ingest: Ingest) -> tuple[str | None, str | None]:
    """Source and labels of the last run that took films in, while params.yaml says what it left there."""
    last = read_report(DELIVERED)
    left = RAW, Path(last.get("archive") or RAW)
    here = (Path(ingest.source), Path(ingest.labels)) == left
    return (last.get("source"), last.get("labels")) if here else (None, None)


def _delivered(source: str | None, labels: str | None) -> tuple[Path, Path | None]:
    """The folder of films and the table of labels, None for a format that needs none.

    Raises UserError where params.yaml names another folder than `data/raw`, and films that are there would come in.
    """
    ingest = load(PARAMS_FILE).ingest
    if not (source or labels):
        source, labels = _last_time(ingest)
    used = Path(ingest.source)
    folder, table = Path(source) if source else used, None
    if labels:
        table = Path(labels)
    elif needs_table(ingest.label_format):
        table = folder / Path(ingest.labels).name if source else Path(ingest.labels)
    looked_at = used if folder.resolve() == RAW.resolve() else folder
    if used.resolve() != RAW.resolve() and snapshot.others(looked_at, table):
        raise UserError(
            f"params.yaml takes films from {used}, and {RAW} holds others, which would be mixed in; `dvc remove "
            f"{RAW_DVC}`, empty {RAW} and name the folder of films as the flow's source, or, if those others are "
            f"meant, set ingest.source to {RAW}"
        )
    return folder, table


def _changes(folder: Path, table: Path | None) -> snapshot.Changes:
    """What is new in the folder and in its table, of which the rows go to the archive's own table in `data/raw`."""
    ingest, archive = load(PARAMS_FILE).ingest, None
    if table:
        own = Path(ingest.labels)
        archive = own if own.resolve().is_relative_to(RAW.resolve()) else RAW / table.name
    return snapshot.changes(folder, table, archive, ingest.label_format)


def _unfinished() -> str:
    """Why the last attempt is to be finished first; "" where the newest version is of this snapshot and was judged."""
    from tasks.registry import versions  # MLflow is slow to import

    digest = raw_digest(RAW_DVC)
    if not digest:
        return ""  # all films are new
    if NOTHING_TO_REGISTER.is_file() and NOTHING_TO_REGISTER.read_text(encoding="utf-8") == digest:
        return ""
    newest = next(iter(versions.versions()), None)
    if newest is None or newest.tags.get("raw_digest") != digest:
        return "the snapshot has not been learnt from yet"
    challenge = read_report(CHALLENGE)
    if challenge.get("challenger") != newest.number:
        return f"version {newest.number} has not been judged yet"
    waits = challenge["promote"] and CHALLENGER in newest.aliases
    return f"version {newest.number} is to be promoted" if waits else ""


def _skipped(new: snapshot.Changes, min_new_images: int, push: bool, commands: Commands) -> State[Any]:
    """There is nothing to learn from; what an earlier run could not push is pushed all the same."""
    other_labels = ", and other labels" if new.labels else ""
    message = f"skipped: {new.new} new{other_labels}; {min_new_images} are asked for"
    if not (push and PUSH_OWED.is_file()):
        return Completed(message=message)
    if _push(commands) == "failed":
        return Failed(message=f"{message}. But {PUSH_FAILED}")
    return Completed(message=f"{message}. What an earlier run had not pushed now is.")


def _take_snapshot(folder: Path, table: Path | None, new: snapshot.Changes, commands: Commands) -> None:
    """Add what is new to `data/raw`, and let DVC keep the whole; note where it came from for the next run."""
    archive = str(new.table) if new.table else None
    take(folder, table, new)
    _step("dvc add", dvc("--wait-for-lock", "add", "--quiet", str(RAW)), commands)
    project.keep_source(str(RAW), archive or str(RAW))
    write_json(DELIVERED, {"source": str(folder), "labels": str(table) if table else None, "archive": archive})


@task(task_run_name="snapshot", cache_policy=NO_CACHE)
def take(source: Path, labels: Path | None, found: snapshot.Changes) -> None:
    """Add what is new to `data/raw`."""
    snapshot.take(source, labels, found)


def _trained(gpu_slots: int, cpu_slots: int) -> Commands:
    """Run the pipeline on the snapshot; what runs commands that belong to that run."""
    state = pipeline(gpu_slots=gpu_slots, cpu_slots=cpu_slots, return_state=True)
    if not state.is_completed():
        raise StepFailed(state)
    return Commands({"XRAYSYNTH_PIPELINE_ID": str(state.state_details.flow_run_id)})


def _judged(commands: Commands, new: int, margin: float, seeds: int, push: bool) -> State[Any]:
    """Register, compare, decide, tell. Where the verdict is about no generator there is only something to tell."""
    verdict, challenge = read_report(VERDICT), None
    _step("drift", ["xraysynth", "models", "drift"], commands)
    if "candidate" in verdict:
        _step("register", ["xraysynth", "models", "register", "best"], commands)
        challenge_command = ["xraysynth", "models", "challenge", "--margin", f"{margin:g}", "--seeds", str(seeds)]
        _step("challenge", challenge_command, commands)
        challenge = read_report(CHALLENGE)
        version, reason = challenge["challenger"], challenge["reason"]
        decision = f"version {version} was promoted" if challenge["promote"] else f"version {version} was not promoted"
        if challenge["promote"]:
            instead = ["--instead-of", str(challenge["champion"] or 0)]
            _step("promote", ["xraysynth", "models", "promote", str(version), *instead], commands)
    else:
        decision, reason = "nothing was registered", verdict.get("headline", "there is no verdict")
        NOTHING_TO_REGISTER.write_text(raw_digest(RAW_DVC), encoding="utf-8")
    pushed = _push(commands) if push else "not asked for"
    text = story(new, read_report(DRIFT), verdict, challenge, decision, pushed)
    create_markdown_artifact(text, key="retrain", description=f"{plain(capital(decision))}.")
    message = f"{decision}: {reason}"
    if pushed == "failed":
        return Failed(message=f"{message} But {PUSH_FAILED}")
    return Completed(message=message)


def _push(commands: Commands) -> str:
    """Push data and models; how it ended, as a word for the story."""
    if not run_step("push", dvc("push"), commands, return_state=True).is_completed():
        return "failed"
    PUSH_OWED.unlink(missing_ok=True)
    return "done"


def _step(name: str, command: list[str], commands: Commands) -> None:
    state = run_step(name, command, commands, return_state=True)
    if not state.is_completed():
        raise StepFailed(state)


def main() -> NoReturn:
    """The flow is a deployment and has no command line: --help says how it is run, anything else is an error."""
    how = "`make serve`, then Prefect's UI, or `prefect deployment run retrain/retrain -p NAME=VALUE`"
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=f"Run as a deployment: {how}.")
    parser.parse_args()
    parser.error(f"run as a deployment: {how}")


if __name__ == "__main__":
    main()
