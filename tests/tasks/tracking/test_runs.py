"""What MLflow remembers when it was down, locked, slow or in doubt, with a real server and a real SQLite file."""

import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.tracking import MlflowClient

from tasks import doctor
from tasks.errors import UserError
from tasks.params import Model, Train
from tasks.tracking import runs as tracking
from tasks.tracking import spool, store
from tasks.train import stage as train
from tests.services import free_port, mlflow_server
from tests.tasks.sets import write_set

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "0" * 64
AT_ONCE = (
    20.0  # seconds for what takes milliseconds or, on a busy machine, a few; MLflow's own defaults wait for minutes
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables, to be copied."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with tracking.tracked("first", {}, DIGEST):
            pass
    return folder / "mlflow.db"


@pytest.fixture
def here(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a SQLite store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(made.read_bytes())
    return tmp_path


def runs(uri: str, stage: str) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'"))


def history(uri: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


def artifact(uri: str, run: Run, name: str, folder: Path) -> bytes:
    return Path(MlflowClient(uri).download_artifacts(run.info.run_id, name, str(folder))).read_bytes()


def waiting() -> list[Path]:
    return sorted(path for path in spool.FOLDER.rglob("*") if path.is_file())


def timed(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


class TestAServerThatGoesAndComesBack:
    """One server, killed and started again."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
        folder = tmp_path_factory.mktemp("down")
        (folder / "mlflow.db").write_bytes(made.read_bytes())
        write_set(folder / "curated")
        return folder

    @pytest.fixture(scope="class")
    def uri(self, folder: Path) -> Iterator[str]:
        """Down at first, then up in a stage, down and up again: what each test looks at happens here."""
        port = free_port()
        uri = f"http://127.0.0.1:{port}"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            patch.setattr(store, "PAUSE_S", 0.0)
            patch.setattr(store, "SHARE", 0)
            params, model = Train(width=8, kimg=0.04, batch=4), Model(attention_resolutions=[8])
            train.run("msg_sagan", folder / "curated", folder / "models/msg_sagan", params, model)
            assert len(waiting()) > 5
            with ExitStack() as second:
                with tracking.tracked("stage", {"a": 1}, DIGEST) as run:
                    with mlflow_server(port, folder):
                        run.metrics({"loss": 0.5}, step=0)
                        run.artifact("before.txt", b"before")
                    assert timed(lambda: run.metrics({"loss": 0.25}, step=1)) < AT_ONCE
                    assert timed(lambda: run.artifact("down.txt", b"down")) < AT_ONCE
                    assert timed(lambda: run.tag("verdict", "helps")) < AT_ONCE
                    second.enter_context(mlflow_server(port, folder))
                    run.metrics({"loss": 0.125}, step=2)
                    assert len(history(uri, runs(uri, "stage")[0], "loss")) == 3  # already, in the same stage
                assert spool.waiting_runs() == 1
                said = io.StringIO()
                patch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//user:secret@"))
                with redirect_stdout(said), tracking.tracked("next", {}, DIGEST):  # brings the training
                    pass
                assert said.getvalue() == ""  # MLflow's own link holds the password
                yield uri

    def test_there_is_one_run_with_all_its_records_once(self, uri: str, tmp_path: Path) -> None:
        (run,) = runs(uri, "stage")
        assert run.info.status == "FINISHED"
        assert run.data.params == {"a": "1"}
        assert run.data.tags["verdict"] == "helps"
        assert history(uri, run, "loss") == [(0, 0.5), (1, 0.25), (2, 0.125)]
        assert artifact(uri, run, "before.txt", tmp_path) == b"before"
        assert artifact(uri, run, "down.txt", tmp_path) == b"down"

    def test_a_training_went_on_without_it_and_is_there_now(self, uri: str, folder: Path) -> None:
        table = pd.read_csv(folder / "models/msg_sagan/history.csv")
        (run,) = runs(uri, "train@msg_sagan")
        assert run.info.status == "FINISHED"
        logged = history(uri, run, "loss_generator")
        assert [value for _, value in logged] == pytest.approx(table["loss_generator"].tolist(), rel=1e-5)
        assert len({step for step, _ in logged}) == len(table)
        assert history(uri, run, "system/cpu_utilization_percentage")
        assert run.info.end_time > run.info.start_time
        assert {a.path for a in MlflowClient(uri).list_artifacts(run.info.run_id)} >= {"samples.png", "card.md"}

    def test_nothing_waits_any_more(self, uri: str, folder: Path) -> None:
        assert waiting() == []


@pytest.mark.usefixtures("here")
class TestWithoutAServer:
    """The SQLite file in the working folder."""

    URI = "sqlite:///mlflow.db"

    @pytest.fixture
    def uri(self, here: Path) -> str:
        return f"sqlite:///{here / 'mlflow.db'}"

    def test_a_locked_file_costs_seconds_and_no_record(
        self, here: Path, uri: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with closing(sqlite3.connect(here / "mlflow.db", isolation_level=None)) as other:
            with tracking.tracked("stage", {}, DIGEST) as run:
                other.execute("BEGIN EXCLUSIVE")
                assert timed(lambda: run.metrics({"loss": 1.0}, step=0)) < AT_ONCE
                assert timed(lambda: run.metrics({"loss": 2.0}, step=1)) < store.LOCKED_S  # within the pause
            said = capsys.readouterr().err
            assert said.count("warning: MLflow cannot be reached (database is locked)") == 1
            assert "records wait in .xraysynth/tracking" in said
            other.execute("ROLLBACK")
        assert "1 runs wait in .xraysynth/tracking" in doctor._mlflow().finding
        with tracking.tracked("next", {}, DIGEST):
            pass
        (found,) = runs(uri, "stage")
        assert found.info.status == "FINISHED"
        assert history(uri, found, "loss") == [(0, 1.0), (1, 2.0)]
        assert waiting() == []

    def test_a_killed_stage_ends_as_killed_when_it_was_last_seen(self, here: Path, uri: str) -> None:
        code = (
            "import time\nfrom tasks.tracking import runs\n"
            f"with runs.tracked('stage', {{}}, '{DIGEST}') as run:\n"
            "    run.metrics({'loss': 1.0})\n    print('logged', flush=True)\n    time.sleep(300)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"logged\n"
            with tracking.tracked("beside", {}, DIGEST):
                pass
            assert runs(uri, "stage")[0].info.status == "RUNNING"  # it is alive, and left alone
        finally:
            process.kill()
            process.communicate()
        died = time.time()
        with tracking.tracked("next", {}, DIGEST):
            pass
        (found,) = runs(uri, "stage")
        assert found.info.status == "KILLED"
        assert history(uri, found, "loss") == [(0, 1.0)]
        assert found.info.end_time / 1000 <= died + 0.01
        assert waiting() == []

    @pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_terminated"])
    def test_an_answer_that_got_lost_doubles_nothing(
        self, call: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """MLflow has done it, and the connection broke before it could say so."""
        real = getattr(MlflowClient, call)

        def broken(*arguments: Any, **options: Any) -> None:
            real(*arguments, **options)
            monkeypatch.setattr(MlflowClient, call, real)
            raise ConnectionError("reset by peer")

        monkeypatch.setattr(store, "PAUSE_S", 0.0)
        monkeypatch.setattr(store, "SHARE", 0)
        monkeypatch.setattr(MlflowClient, call, broken)
        with tracking.tracked("stage", {"a": 1}, DIGEST) as run:
            run.metrics({"loss": 1.0, "nothing": float("nan")}, step=3)
            run.artifact("a.txt", b"a")
        (found,) = runs(uri, "stage")
        assert found.info.status == "FINISHED"
        assert found.data.params == {"a": "1"}
        assert history(uri, found, "loss") == [(3, 1.0)]
        assert len(history(uri, found, "nothing")) == 1
        assert artifact(uri, found, "a.txt", tmp_path) == b"a"
        assert waiting() == []

    def test_what_waits_has_a_bound(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(spool, "LIMIT", 5 * spool.BLOCK)
        monkeypatch.setattr(MlflowClient, "log_batch", _down)
        with tracking.tracked("stage", {}, DIGEST) as run:
            for step in range(10):
                run.metrics({"loss": 1.0}, step)
        assert len(waiting()) <= 5 + 1  # and the lock
        assert "warning: a record for MLflow is lost: 0 MiB of records wait" in capsys.readouterr().err

    def test_a_record_that_mlflow_refuses_holds_up_no_other(self, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
        with tracking.tracked("stage", {}, DIGEST) as run:
            run.tag("", "no name")
            run.metrics({"loss": 1.0})
        assert "warning: MLflow did not take a record" in capsys.readouterr().err
        assert history(uri, runs(uri, "stage")[0], "loss") == [(0, 1.0)]
        assert waiting() == []

    def test_metrics_are_grouped_and_an_arm_has_one_spelling(self, uri: str) -> None:
        with tracking.tracked("stage", {}, DIGEST) as run:
            run.metrics({"loss": 1.0, "auroc": {"classic+msg_gan": 0.5, "real": {"low": 0.25}}})
        logged = runs(uri, "stage")[0].data.metrics
        assert {name: value for name, value in logged.items() if not name.startswith("system/")} == {
            "loss": 1.0,
            "auroc/classic_and_msg_gan": 0.5,
            "auroc/real.low": 0.25,
        }

    def test_a_run_shows_what_the_machine_did_and_not_which_it_is(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
        with tracking.tracked("stage", {}, DIGEST) as run:
            until = time.monotonic() + 60
            while len(history(uri, runs(uri, "stage")[0], "system/cpu_utilization_percentage")) < 2:
                assert time.monotonic() < until
                run.metrics({"loss": 1.0})
                time.sleep(0.02)
        (found,) = runs(uri, "stage")
        steps = [step for step, _ in history(uri, found, "system/system_memory_usage_megabytes")]
        assert steps == sorted(set(steps))
        assert not any(socket.gethostname() in name for name in found.data.metrics)
        assert not [thread for thread in threading.enumerate() if thread.name == "machine"]

    def test_of_the_machine_nothing_is_logged_where_mlflow_is_told_so(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        with tracking.tracked("stage", {}, DIGEST) as run:
            run.metrics({"loss": 1.0})
        assert runs(uri, "stage")[0].data.metrics == {"loss": 1.0}

    def test_what_a_machine_cannot_count_is_left_out(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("psutil.net_io_counters", lambda: None)  # as in a sandbox without interfaces
        monkeypatch.setattr("psutil.disk_usage", _down)
        with tracking.tracked("stage", {}, DIGEST):
            pass
        assert set(runs(uri, "stage")[0].data.metrics) == {
            "system/cpu_utilization_percentage",
            "system/system_memory_usage_megabytes",
            "system/system_memory_usage_percentage",
        }

    @pytest.mark.parametrize("changed", ["", ", with changes that are not committed"])
    def test_a_run_says_what_it_is_and_of_which_commit(
        self, uri: str, changed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.tracking.provenance.git_revision", lambda: "c" * 40 + changed)
        with tracking.tracked("stage", {}, DIGEST):
            pass
        tags = runs(uri, "stage")[0].data.tags
        assert tags["mlflow.source.git.commit"] == "c" * 40
        assert tags["mlflow.note.content"] == (
            f"Stage `stage` on the curated set `000000000000`, in `data-000000000000`. Code of commit `cccccccccccc`"
            f"{changed}."
        )

    def test_outside_of_git_a_run_names_no_commit(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tasks.tracking.provenance.git_revision", lambda: "")
        with tracking.tracked("stage", {}, DIGEST):
            pass
        tags = runs(uri, "stage")[0].data.tags
        assert "mlflow.source.git.commit" not in tags
        assert tags["mlflow.note.content"].endswith("in `data-000000000000`.")

    def test_the_runs_of_a_pipeline_are_nested_in_one(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(tracking.PIPELINE_VARIABLE, "p1")
        for stage in ("stage", "next"):
            with tracking.tracked(stage, {}, DIGEST):
                pass
        monkeypatch.setenv(tracking.PIPELINE_VARIABLE, "p2")
        with tracking.tracked("other", {}, DIGEST):
            pass
        parents = [runs(uri, stage)[0].data.tags["mlflow.parentRunId"] for stage in ("stage", "next", "other")]
        assert parents[0] == parents[1] != parents[2]
        parent = MlflowClient(uri).get_run(parents[0])
        assert parent.data.tags["pipeline"] == "p1"
        assert parent.info.run_name.startswith("pipeline 20")
        assert parent.info.status == "FINISHED"
        assert parent.info.end_time == runs(uri, "next")[0].info.end_time  # it lasts as long as its stages

    def test_two_stages_that_begin_at_once_have_one_parent(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both look before either has made it."""
        monkeypatch.setenv(tracking.PIPELINE_VARIABLE, "p1")
        original, asked = MlflowClient.search_runs, []

        def blind_at_first(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
            asked.append(1)
            return [] if len(asked) == 1 else original(self, *arguments, **options)

        for stage in ("stage", "next"):
            asked.clear()
            monkeypatch.setattr(MlflowClient, "search_runs", blind_at_first)
            with tracking.tracked(stage, {}, DIGEST):
                pass
        monkeypatch.undo()
        first, second = (runs(uri, stage)[0].data.tags["mlflow.parentRunId"] for stage in ("stage", "next"))
        assert first == second
        assert MlflowClient(uri).get_run(first).info.lifecycle_stage == "active"

    def test_a_run_names_the_films_that_it_is_of(self, uri: str) -> None:
        films = {"train": {"normal": 3, "rare": 1}, "test": {"normal": 2, "rare": 1}}
        with tracking.tracked("stage", {}, "1" * 64, films):
            pass
        inputs = runs(uri, "stage")[0].inputs
        assert inputs is not None
        (given,) = inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("curated", "1" * 36)
        assert json.loads(given.dataset.profile or "") == films
        assert "/" not in json.loads(given.dataset.source)["uri"].removeprefix("data/")

    def test_two_stages_that_begin_at_once_both_name_their_films(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """MLflow finds no such films, then those of the other in the way, and refuses."""
        original, asked = MlflowClient.log_inputs, []

        def too_late_at_first(self: MlflowClient, *arguments: Any, **options: Any) -> None:
            asked.append(1)
            if len(asked) == 1:
                raise MlflowException("UNIQUE constraint failed: datasets.digest", BAD_REQUEST)
            original(self, *arguments, **options)

        monkeypatch.setattr(MlflowClient, "log_inputs", too_late_at_first)
        with tracking.tracked("stage", {}, DIGEST):
            pass
        inputs = runs(uri, "stage")[0].inputs
        assert inputs is not None
        assert len(inputs.dataset_inputs) == 1

    def test_the_experiment_opens_with_its_runs(self, uri: str) -> None:
        experiment = MlflowClient(uri).get_experiment_by_name(tracking.EXPERIMENT)
        assert experiment is not None
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"

    def test_records_wait_for_their_own_store(self, uri: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = f"http://user:secret@127.0.0.1:{free_port()}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
        with tracking.tracked("elsewhere", {}, DIGEST) as run:
            assert run.links() == {}
        before = waiting()
        assert b"secret" not in b"".join(path.read_bytes() for path in before)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        with tracking.tracked("stage", {}, DIGEST):
            pass
        assert waiting() == before
        assert runs(uri, "elsewhere") == []

    def test_a_store_that_cannot_be_used_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
        with pytest.raises(UserError, match="MLflow's store cannot be used"), tracking.tracked("stage", {}, DIGEST):
            pass
        assert waiting() == []


def test_the_page_of_the_runs_names_the_experiment_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"http://me:secret@mlflow.example/base/": "7"}
    monkeypatch.setattr(tracking, "find_experiment", found.get)
    page = "http://mlflow.example/base/#/experiments/7/runs?workflowType=machine_learning"
    assert tracking.runs_page("http://me:secret@mlflow.example/base/") == page
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow.example/base/")
    assert tracking.runs_page() == page
    assert tracking.runs_page("http://me:secret@other.example") == "http://other.example"  # no such experiment there
    assert tracking.runs_page("sqlite:///mlflow.db") == ""


def test_a_database_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://user:secret@127.0.0.1:{free_port()}/mlflow")

    def work() -> None:
        with tracking.tracked("stage", {}, DIGEST) as run:
            run.metrics({"loss": 1.0})

    assert timed(work) < 2 * AT_ONCE
    said = capsys.readouterr().err
    assert "MLflow cannot be reached" in said
    assert "secret" not in said


def test_a_server_that_never_answers_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # what the user sets wins
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{mute.getsockname()[1]}")
        started = time.monotonic()
        with tracking.tracked("stage", {}, DIGEST) as run:
            assert 1 < time.monotonic() - started < AT_ONCE
            started = time.monotonic()
            for step in range(50):
                run.metrics({"loss": 1.0}, step)
            assert time.monotonic() - started < AT_ONCE  # and not 50 times a second
    assert capsys.readouterr().err.count("MLflow cannot be reached") == 1
    assert len(waiting()) > 50


def test_a_stage_that_is_told_to_stop_waits_for_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow has answered before and is mute now; 10 s is what an orchestrator waits before it kills."""
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def mute(*_: object, **__: object) -> None:
        asked.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        raise MlflowException("no answer")

    monkeypatch.setattr(MlflowClient, "set_terminated", mute)
    with pytest.raises(SystemExit), tracking.tracked("stage", {}, DIGEST):
        sys.exit(143)
    assert asked == ["3"]  # once, and for so long
    assert "000001.json" in {path.name for path in waiting()}  # its end


def _down(*_: object, **__: object) -> None:
    raise MlflowException("the store is down")
