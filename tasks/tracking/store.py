"""MLflow as a store of records, which may be down: waits are bounded, and what was sent twice is there once."""

import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from tasks.paths import CURATED
from tasks.tracking.addresses import is_database, reach_database, text_without_credentials, without_credentials

T = TypeVar("T")
Record = Mapping[str, Any]

EXPERIMENT = "xraysynth"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens with its runs, not with traces of language models
LOCK_FILE = Path(".xraysynth/mlflow.lock")
# MLflow's own defaults wait for minutes, each time. What the user has set wins.
HTTP_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # the address as it is given, with a password in it
HASTE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}  # of a process told to stop
FIRST_USE_S = 60.0  # another stage may be making the tables of a new SQLite store
LOCKED_S = 2.0  # a lock held for longer is not that of a stage that logs
PAUSE_S = 30.0  # between a try that failed and the next,
SHARE = 20  # and at least so many times what that try took: a dead server costs 5 % of the time at most
HOW_NOT_WHAT = "(raised as a result of Query-invoked autoflush"  # SQLAlchemy's first line
REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


class Refused(Exception):
    """MLflow answered, and will never take this."""


class Store:
    """One tracking store. After a failure it is left alone for a while."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._again_at = 0.0
        self._said = False

    def attempt(self, work: Callable[[MlflowClient], T], now: bool = False) -> T | None:
        """What `work` returns, or None where MLflow is down, or was a moment ago (but for `now`).

        Raises Refused.
        """
        started = time.monotonic()
        if started < self._again_at and not now:
            return None
        try:
            with defaults(HTTP_WAITS | QUIET):
                _free(self.uri)
                result = work(self._connected())
        except (MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
            if isinstance(error, MlflowException) and error.error_code in REFUSED:
                raise Refused(first_line(error)) from None
            ended = time.monotonic()
            self._again_at = ended + max(PAUSE_S, SHARE * (ended - started))
            if not self._said:
                warn(f"MLflow cannot be reached ({first_line(error)}); its records wait, the work goes on")
                self._said = True
            return None
        self._again_at, self._said = 0.0, False
        return result

    def prepare(self) -> None:
        """Make what the first record would make: tables of a new SQLite file, the experiment. Raises Refused."""
        self.attempt(lambda _: None)

    def open_run(self, head: Record, before: bool, now: bool = False) -> str | None:
        """The id of the run of `head`; `before`: an earlier try may have made it."""

        def work(client: MlflowClient) -> str:
            wanted = f"tags.record_id = '{head['record_id']}'"
            found = client.search_runs([self._experiment], wanted, max_results=1) if before else []
            if found:
                run_id = found[0].info.run_id
            else:
                start, tags = int(head["start"] * 1000), {**head["tags"], "record_id": head["record_id"]}
                if head.get("pipeline"):
                    tags[MLFLOW_PARENT_RUN_ID] = self._parent(client, head["pipeline"], start)
                run = client.create_run(self._experiment, start_time=start, run_name=head["stage"], tags=tags)
                run_id = run.info.run_id
            client.log_batch(run_id, params=[Param(name, value) for name, value in head["params"].items()])
            inputs = [_dataset(head["tags"]["data_digest"], head.get("films"))]
            try:
                client.log_inputs(run_id, inputs)
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
                client.log_inputs(run_id, inputs)  # another stage began at once, and added the same films first
            return str(run_id)

        return self.attempt(work, now)

    def _parent(self, client: MlflowClient, pipeline: str, start: int) -> str:
        """The run that those of one execution are nested in, made by the first of them."""

        def eldest() -> str:
            found = client.search_runs([self._experiment], f"tags.pipeline = '{pipeline}'", max_results=10)
            return min((run.info.start_time, str(run.info.run_id)) for run in found)[1] if found else ""

        if there := eldest():
            return there
        name = f"pipeline {datetime.fromtimestamp(start / 1000, UTC):%Y-%m-%d %H:%M}"
        made = client.create_run(self._experiment, start_time=start, run_name=name, tags={"pipeline": pipeline})
        client.set_terminated(made.info.run_id, end_time=start)
        if (first := eldest()) != made.info.run_id:  # two stages began at once
            client.delete_run(made.info.run_id)
        return first

    def send(self, run_id: str, record: Record, content: bytes, now: bool = False) -> bool:
        """Whether MLflow has the record. Sent again it changes nothing: every value carries its time."""

        def work(client: MlflowClient) -> bool:
            kind = record["kind"]
            if kind == "metrics":
                metrics = [Metric(name, value, record["time"], record["step"]) for name, value in record["values"]]
                client.log_batch(run_id, metrics=metrics)
            elif kind == "samples":
                client.log_batch(run_id, metrics=[Metric(*sample) for sample in record["values"]])
            elif kind == "tag":
                client.log_batch(run_id, tags=[RunTag(record["name"], record["value"])])
            elif kind == "artifact":
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / record["name"]
                    path.write_bytes(content)
                    client.log_artifact(run_id, str(path))
            else:
                client.set_terminated(run_id, record["status"], record["time"])
                _lengthen(client, run_id, record["time"])
            return True

        return self.attempt(work, now) is not None

    def runs(self, run_id: str, wanted: str) -> tuple[str, list[MlflowRun]] | None:
        """The id of the experiment of a run, and its runs that `wanted` (MLflow's filter) describes, newest first."""

        def work(client: MlflowClient) -> tuple[str, list[MlflowRun]]:
            experiment = client.get_run(run_id).info.experiment_id
            return experiment, list(client.search_runs([experiment], wanted, max_results=200))

        return self.attempt(work)

    def identity(self) -> str:
        """Which store this is, without what opens it."""
        return without_credentials(self.uri)

    def _connected(self) -> MlflowClient:
        if self._client is None:
            with FileLock(LOCK_FILE, timeout=FIRST_USE_S) if self.uri.startswith("sqlite") else nullcontext():
                client = MlflowClient(tracking_uri=self.uri)
                self._experiment = experiment_id(client, self.uri)
            self._client = client
        return self._client


def _lengthen(client: MlflowClient, run_id: str, end: int) -> None:
    """Let the run that this one is nested in last as long."""
    parent = client.get_run(run_id).data.tags.get(MLFLOW_PARENT_RUN_ID)
    if parent and (client.get_run(parent).info.end_time or 0) < end:
        client.set_terminated(parent, end_time=end)


def _dataset(digest: str, films: Mapping[str, Mapping[str, int]] | None) -> DatasetInput:
    """The curated set, as MLflow shows the inputs of a run: its digest, and the `films` of each split and class."""
    source = json.dumps({"uri": CURATED.as_posix()})
    dataset = Dataset("curated", digest[:36], "local", source, profile=json.dumps(films) if films else None)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "curated films")])


def experiment_id(client: MlflowClient, uri: str) -> str:
    """The project's experiment in the store `uri`, made where there is none.

    Of a SQLite file its artifacts lie beside it, wherever this process runs.
    """
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    _, is_file, database = uri.partition("sqlite:///")
    place = (Path(database).resolve().parent / "mlruns").as_uri() if is_file else None
    return str(client.create_experiment(EXPERIMENT, artifact_location=place, tags=KIND))


def find_experiment(uri: str) -> str | None:
    """The id of the project's experiment on the server `uri`; None where there is none, or no answer."""
    try:
        with defaults(HTTP_WAITS):
            found = MlflowClient(tracking_uri=uri).get_experiment_by_name(EXPERIMENT)
    except (MlflowException, OSError):
        return None
    return str(found.experiment_id) if found else None


def find_run(uri: str, wanted: str) -> str:
    """The newest run on the server `uri` that `wanted` (MLflow's filter) describes, as `experiments/ID/runs/ID`.

    "" where there is none, or no answer.
    """
    if (experiment := find_experiment(uri)) is None:
        return ""
    try:
        with defaults(HTTP_WAITS):
            found = MlflowClient(tracking_uri=uri).search_runs([experiment], wanted, max_results=1)
    except (MlflowException, OSError):
        return ""
    return f"experiments/{experiment}/runs/{found[0].info.run_id}" if found else ""


def artifacts_of(uri: str) -> str | None:
    """Where the project's experiment in the SQLite store `uri` keeps its artifacts; None where there is none yet.

    Raises Refused where the store cannot be read.
    """
    if is_missing(uri):
        return None
    try:
        _free(uri)
        found = MlflowClient(tracking_uri=uri).get_experiment_by_name(EXPERIMENT)
    except (MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        raise Refused(first_line(error)) from None
    return str(found.artifact_location) if found else None


def is_missing(uri: str) -> bool:
    """Whether the store is a SQLite file that is not there yet: asking it anything would make it."""
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file()


def warn(sentence: str) -> None:
    """On standard error, as all warnings of stages."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    """What an error says, on one line, with no more than 200 letters and without the credentials of an address."""
    said = [line for line in str(error).splitlines() if not line.startswith(HOW_NOT_WHAT)]
    return text_without_credentials(said[0])[:200] if said else type(error).__name__


@contextmanager
def defaults(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that MLflow reads at each use, where the user has set none; afterwards as before."""
    ours = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _free(uri: str) -> None:
    """Raises where a database does not answer or its SQLite file stays locked: MLflow itself would wait for long."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.is_file():
        with closing(sqlite3.connect(path, timeout=LOCKED_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    elif is_database(uri):
        reach_database(uri, LOCKED_S)
