"""The flow on the project itself, at tiny size: what Prefect and MLflow remember of it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from tests.conftest import TinyProject

ONE_EACH = {"ingest", "imbalance", "encoder", "phantom", "classify", "report", "data/raw.dvc"}
TWO_EACH = {f"{stage}@{name}" for stage in ("train", "synthesize", "quality") for name in ("msg_gan", "msg_sagan")}


def rows(database: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def test_one_task_run_a_stage_all_completed(tiny_project: TinyProject) -> None:
    memory = tiny_project.path / ".prefect" / "prefect.db"  # of the server that the run started for itself
    assert rows(memory, "SELECT state_name FROM flow_run") == [("Completed",)]
    runs = rows(memory, "SELECT name, state_name FROM task_run ORDER BY name")
    assert runs == [(stage, "Completed") for stage in sorted(ONE_EACH | TWO_EACH)]
    assert {key for (key,) in rows(memory, "SELECT key FROM artifact")} >= {"results", "samples"}


def test_dvc_status_is_clean_after_it(tiny_project: TinyProject) -> None:
    assert tiny_project.json("status") == {}


def test_its_mlflow_runs_share_the_id_of_the_flow_run(tiny_project: TinyProject) -> None:
    (flow_run,) = rows(tiny_project.path / ".prefect" / "prefect.db", "SELECT id FROM flow_run")
    runs = rows(
        tiny_project.path / "mlflow.db",
        "SELECT name, status, value FROM runs JOIN tags USING (run_uuid) WHERE key = 'pipeline_id'",
    )
    assert {status for _, status, _ in runs} == {"FINISHED"}
    assert {value.replace("-", "") for _, _, value in runs} == {flow_run[0].replace("-", "")}
    names = {name for name, _, _ in runs}
    assert names >= {f"{stage}@{name}" for stage in ("train", "quality") for name in ("msg_gan", "msg_sagan")}
    assert "classify" in names


def test_its_last_lines_are_calm(tiny_project: TinyProject) -> None:
    said = tiny_project.flow.stdout + tiny_project.flow.stderr
    assert "Traceback" not in said
    assert "\r" not in said
    assert "git add" not in said


def test_no_patient_is_in_two_splits_and_no_file_is_lost(tiny_project: TinyProject) -> None:
    curated, raw = tiny_project.path / "data/curated", tiny_project.path / "data/raw"
    manifest = pd.read_csv(curated / "manifest.csv")
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    inputs = [path for path in raw.rglob("*") if path.is_file() and path.name != "labels.csv"]
    assert len(inputs) == len(manifest) + len(pd.read_csv(curated / "quarantine.csv"))
