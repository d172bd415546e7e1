"""A quarter in operation: twelve weekly deliveries to what `make serve` runs, all real but what the generators draw.

python -m benchmarks.quarter

New films, none, other films under names that are taken, a changed label, a bad table, films that come again, a worker
and a flow that are killed. Prints a row a week as a Markdown table. Ends with an error where archive, params, registry
or MLflow are not as docs/operations.md, docs/registry.md and docs/reliability.md say.
"""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import yaml
from mlflow.tracking import MlflowClient

from benchmarks.markdown import table
from tasks.registry.versions import NAME
from tests.conftest import Project
from tests.flows import films
from tests.flows.deployed import Deployed, wait
from tests.flows.test_deployed import MARGIN, SECOND, with_first_films
from tests.services import end, free_port

WEEKLY = sum(SECOND.values())  # new films for which a week is worth a training
STOP_S = 30.0


@contextmanager
def served() -> Iterator[Deployed]:
    """A project with its first films, and `make serve` in it."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        project = with_first_films(base)
        path = project.path
        env = project.env | {"PREFECT_SERVER_API_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
        log = base / "serve.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "flows.serve"]
            process = subprocess.Popen(command, cwd=path, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            wait(lambda: "Ctrl-C stops all" in log.read_text(), "make serve")
            url = f"http://127.0.0.1:{env['PREFECT_SERVER_API_PORT']}/api"
            env |= {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{env['MLFLOW_PORT']}", "PREFECT_API_URL": url}
            with httpx.Client(base_url=url, timeout=60) as api:
                yield Deployed(Project(path, env, base / "attempts"), api, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            end(process)


class Quarter:
    """The weeks so far, and what must hold after each."""

    def __init__(self, house: Deployed) -> None:
        self.house, self.path = house, house.project.path
        self.delivery = self.path.parent / "delivery"
        self.rows: list[list[str]] = []
        self.films = self.archive()
        self.versions, self.champion = 0, 0
        self.mlflow = MlflowClient(house.project.env["MLFLOW_TRACKING_URI"])

    def archive(self) -> dict[str, str]:
        """The digest of each film of the archive."""
        found = (path for path in (self.path / "data/raw").rglob("*") if path.is_file() and path.suffix == ".png")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def labels(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "data/raw/labels.csv")

    def week(
        self,
        what: str,
        state: str,
        message: str,
        new: int = 0,
        trains: bool = False,
        breaks: Callable[[str], None] = lambda _: None,
        **asked: Any,
    ) -> None:
        """Run retrain, and check: how it ends, that it brought `new` films, whether it made a version."""
        before = (self.path / "params.yaml").read_text()
        asked = {"min_new_images": WEEKLY, "margin": MARGIN, **asked}
        run_id = self.house.start("retrain", **asked)
        breaks(run_id)
        run = wait(partial(self.house.ended, run_id), f"the end of week {len(self.rows) + 1}")
        said = str(run["state"]["message"])
        expect(run["state"]["name"] == state and message in said, f"{run['state']['name']}: {said}")
        after = self.archive()
        expect(self.films.items() <= after.items(), "a film of the archive was changed or lost")
        expect(len(after) == len(self.films) + new, f"{len(after) - len(self.films)} films came, not {new}")
        expect(set(self.labels()["path"]) == set(after), "the archive's table is about other films")
        expect((self.path / "params.yaml").read_text() == before, "params.yaml is another")
        self.films, self.versions = after, self.versions + trains
        if trains:
            expect(self.house.project.json("status") == {}, "dvc status is not clean")
            expect(self.house.project.json("status", "--cloud") == {}, "not all was pushed")
            if json.loads((self.path / "reports/challenge.json").read_text())["promote"]:
                self.champion = self.versions
        self.check_registry()
        said = said.replace(f"{self.path.parent}/", "")
        words = said if len(said) < 90 else f"{said[:87]}..."
        self.rows.append([str(len(self.rows) + 1), what, f"{state}: {words}", str(len(after)), self.standing()])
        print(" | ".join(self.rows[-1]), file=sys.stderr, flush=True)

    def standing(self) -> str:
        return f"{self.versions}, champion {self.champion or 'none'}"

    def check_registry(self) -> None:
        listed = json.loads(self.house.project.run("xraysynth", "models", "list", "--json").stdout)
        expect(
            [one["number"] for one in listed] == list(range(self.versions, 0, -1)), "the registry has other versions"
        )
        champions = [one["number"] for one in listed if "champion" in one["aliases"]]
        expect(champions == [self.champion] * bool(self.champion), f"champion is {champions}")

    def check_mlflow(self) -> None:
        """One run of a pipeline for each execution, its stages nested in it; none goes on; versions know theirs."""
        (experiment,) = (e for e in self.mlflow.search_experiments() if e.name == "xraysynth")
        runs = {run.info.run_id: run for run in self.mlflow.search_runs([experiment.experiment_id], max_results=1000)}
        parents = {run_id for run_id, run in runs.items() if "pipeline" in run.data.tags}
        nested = [run for run in runs.values() if run.data.tags.get("mlflow.parentRunId") in parents]
        expect(len(nested) + len(parents) == len(runs), "a run is in no pipeline")
        expect(len(parents) == len({run.data.tags["pipeline"] for run in map(runs.get, parents) if run}), "doubled")
        expect(not any(run.info.status == "RUNNING" for run in runs.values()), "a run goes on")
        for version in self.mlflow.search_model_versions(f"name='{NAME}'"):
            training = runs[version.run_id]
            expect(training.data.tags["weights"] == version.tags["weights"], "a version names another training")
            expect(training.data.tags["pipeline_id"] == version.tags["pipeline_id"], "and another pipeline")

    def deliver(self, found: pd.DataFrame, labels: dict[str, str] | None = None) -> None:
        """The table of what lies in the delivery; `labels` that it says otherwise."""
        films.write_labels(self.delivery, found)
        if labels:
            said = pd.read_csv(self.delivery / "labels.csv")
            said["label"] = [labels.get(path, label) for path, label in zip(said["path"], said["label"], strict=True)]
            said.to_csv(self.delivery / "labels.csv", index=False)

    def empty(self) -> None:
        shutil.rmtree(self.delivery, ignore_errors=True)

    def kill_worker(self, _: str) -> None:
        """In mid-training."""
        wait(partial(self.house.processes, "xraysynth train"), "a training")
        service = [p for p in psutil.Process(self.house.worker).children() if {"prefect", "worker"} <= set(p.cmdline())]
        service[0].kill()

    def kill_flow(self, run_id: str) -> None:
        """The flow's own process, in mid-training."""
        wait(partial(self.house.processes, "xraysynth train"), "a training")
        for process in psutil.Process(self.house.worker).children(recursive=True):
            with suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                    process.kill()
                    break


def expect(true: bool, otherwise: str) -> None:
    if not true:
        raise SystemExit(f"error: {otherwise}")


def run(quarter: Quarter) -> None:
    project, folder = quarter.house.project, str(quarter.delivery)
    quarter.week(
        "the first films, by a generator that mixes classes up",
        "Completed",
        "was not promoted",
        source="data/raw",
        trains=True,
    )
    project.run("xraysynth", "models", "promote")
    quarter.champion = 1
    project.edit_params({"train": {"width": films.LEARNT_RIGHT}})

    quarter.week("nothing", "Completed", "skipped: 0 new")
    second = films.write(quarter.delivery, seed=2, **SECOND)
    quarter.deliver(second)
    quarter.week("new films", "Completed", "version 2 was promoted", new=WEEKLY, source=folder, trains=True)
    quarter.week("nothing", "Completed", "skipped: 0 new")

    quarter.empty()
    third = films.write(quarter.delivery, seed=3, **SECOND)
    for ours, theirs in zip(third["path"], second["path"], strict=True):
        (quarter.delivery / ours).rename(quarter.delivery / theirs)
    quarter.deliver(third.assign(path=second["path"]))
    quarter.week("other films of the same names", "Completed", "version 3", new=WEEKLY, trains=True)

    quarter.empty()
    again = films.write(quarter.delivery, seed=2, **SECOND)
    quarter.deliver(again, {again["path"][0]: "other"})
    quarter.week("a changed label", "BadInput", "says otherwise of its film than row")
    quarter.deliver(again)
    with (quarter.delivery / "labels.csv").open("a") as out:
        out.write("bright-4-0000.png,rare,somebody,else\n")
    quarter.week("a bad table", "BadInput", "values, but the header has")
    for name in again["path"]:
        (quarter.delivery / name).rename(quarter.delivery / f"again-{name}")
    quarter.deliver(again.assign(path="again-" + again["path"]))
    quarter.week("films that came before, under other names", "Completed", "skipped: 0 new")

    few = films.write(quarter.delivery, seed=5, bright=WEEKLY // 4)
    quarter.deliver(few)
    quarter.week("a few films", "Completed", f"skipped: {len(few)} new", overrides=["train.kimg=500"])
    more = films.write(quarter.delivery, seed=6, bright=WEEKLY // 4, dark=WEEKLY // 2)
    quarter.deliver(pd.concat([few, more]))
    new = len(few) + len(more)
    quarter.week(
        "more, and the worker is killed", "Completed", "version 4", new=new, breaks=quarter.kill_worker, trains=True
    )

    quarter.empty()
    quarter.deliver(films.write(quarter.delivery, seed=7, **SECOND))
    quarter.week("new films, and the flow is killed", "Crashed", "", new=WEEKLY, breaks=quarter.kill_flow)
    quarter.week("nothing; those of the week before are learnt from", "Completed", "version 5", trains=True)
    quarter.check_mlflow()
    assert yaml.safe_load((quarter.path / "params.yaml").read_text())["ingest"]["source"] == "data/raw"


def main() -> None:
    with served() as house:
        quarter = Quarter(house)
        run(quarter)
        print(table(["week", "delivered", "the run", "films", "versions"], quarter.rows))


if __name__ == "__main__":
    main()
