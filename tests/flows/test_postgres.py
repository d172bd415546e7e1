"""PostgreSQL behind Prefect's server and behind MLflow's: a real one, of this test alone."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tasks.tracking import runs
from tests.services import free_port, mlflow_server, postgres, prefect_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as address:
        yield address


def rows(address: str, name: str, query: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(f"postgresql://{address}/{name}")) as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor.fetchall()


def test_mlflow_keeps_its_runs_there(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    with mlflow_server(port, tmp_path, store=f"postgresql://{database}/mlflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with runs.tracked("stage", {"a": 1}, "0" * 64) as run:
            run.metrics({"loss": 0.5}, step=3)
    assert rows(database, "mlflow", "SELECT name, status FROM runs") == [("stage", "FINISHED")]
    assert rows(database, "mlflow", "SELECT key, value, step FROM metrics WHERE key NOT LIKE 'system/%%'") == [
        ("loss", 0.5, 3)
    ]


def test_a_stage_may_write_there_without_a_server(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://{database}/mlflow")
    with runs.tracked("direct", {}, "0" * 64) as run:
        run.metrics({"loss": 0.25})
    assert ("direct", "FINISHED") in rows(database, "mlflow", "SELECT name, status FROM runs")


def test_prefect_keeps_its_runs_there(database: str, make_project: Callable[..., Path], tmp_path: Path) -> None:
    project = make_project(ingest={"cmd": "cp raw/film.txt curated", "deps": ["raw"], "outs": ["curated"]})
    port = free_port()
    with prefect_server(port, tmp_path, database=f"postgresql+asyncpg://{database}/prefect"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        command = [sys.executable, "-m", "flows.pipeline"]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows(database, "prefect", "SELECT state_name FROM flow_run") == [("Completed",)]
    found = rows(database, "prefect", "SELECT name, state_name FROM task_run ORDER BY name")
    assert found == [("ingest", "Completed"), ("raw.dvc", "Completed")]
