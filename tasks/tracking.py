"""MLflow: every stage that measures something logs a run; runs of one execution share the tag `pipeline_id`.

The store is MLFLOW_TRACKING_URI, or the SQLite file `mlflow.db` in the working folder, which needs no server.
"""

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.errors import UserError

# The first run of a store tells of every table that it makes.
for _name in ("alembic", "mlflow"):
    logging.getLogger(_name).setLevel(logging.WARNING)

EXPERIMENT = "xraysynth"
DEFAULT_STORE = Path("mlflow.db")
LOCK_FILE = Path(".xraysynth/mlflow.lock")
PIPELINE_VARIABLE = "XRAYSYNTH_PIPELINE_ID"
NOT_IN_NAMES = re.compile(r"[^\w.\- :/]")  # MLflow refuses a whole batch for one such name, e.g. classic+msg_sagan


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, or the file in the working folder."""
    # By its whole path: within a process MLflow takes the first relative mlflow.db for all of that name.
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE.resolve()}"


def pipeline_id(data_digest: str) -> str:
    """What runs of one execution share; outside of one it is the digest of the data."""
    return os.environ.get(PIPELINE_VARIABLE) or f"data-{data_digest[:12]}"


class Run:
    """One open MLflow run. A store that fails on the way costs a warning, not the work that it was to remember."""

    def __init__(self, client: MlflowClient, run_id: str, pipeline_id: str = "") -> None:
        self._client, self.run_id, self.pipeline_id = client, run_id, pipeline_id

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Log numbers, nested ones with dots between the names, in one request."""
        now = int(time.time() * 1000)
        flat = [(k, float(v)) for k, v in _flatten(values) if isinstance(v, int | float) and not isinstance(v, bool)]
        named = [Metric(NOT_IN_NAMES.sub("_", name), value, now, step) for name, value in flat]
        with _warned():
            self._client.log_batch(self.run_id, metrics=named)

    def links(self) -> dict[str, str]:
        """The pages of this execution's runs by stage, the newest of each; empty where no server shows them."""
        server, found = _server(), dict[str, str]()
        if server:
            with _warned():
                experiment = self._client.get_run(self.run_id).info.experiment_id
                wanted = self.pipeline_id.replace("'", "")
                for run in self._client.search_runs([experiment], f"tags.pipeline_id = '{wanted}'", max_results=200):
                    page = f"{server}/#/experiments/{experiment}/runs/{run.info.run_id}"
                    found.setdefault(run.data.tags.get("stage", run.info.run_id), page)
        return dict(sorted(found.items()))

    def tag(self, name: str, value: object) -> None:
        """Set a tag of the run."""
        with _warned():
            self._client.set_tag(self.run_id, name, str(value))

    def artifact(self, name: str, content: bytes) -> None:
        """Log `content` as the file `name`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            with _warned():
                self._client.log_artifact(self.run_id, str(path))


@contextmanager
def tracked(stage: str, params: Mapping[str, Any], data_digest: str) -> Iterator[Run]:
    """A run named after the stage, with its params; FINISHED when the block ends, FAILED when it raises.

    Runs outside a pipeline execution take the digest of their data as pipeline id.
    """
    uri = store_uri()
    tags = {
        "stage": stage,
        "data_digest": data_digest,
        "pipeline_id": pipeline_id(data_digest),
    }
    LOCK_FILE.parent.mkdir(exist_ok=True)
    try:
        with FileLock(LOCK_FILE) if uri.startswith("sqlite") else nullcontext():
            client = MlflowClient(tracking_uri=uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
        run_id = client.create_run(experiment_id, run_name=stage, tags=tags).info.run_id
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in _flatten(params)])
    except MlflowException as error:
        raise UserError(f"MLflow's store cannot be used ({_first_line(error)}); see MLFLOW_TRACKING_URI") from None
    status = "FAILED"
    try:
        yield Run(client, run_id, tags["pipeline_id"])
        status = "FINISHED"
    finally:
        with _warned():
            client.set_terminated(run_id, status)


def _server() -> str:
    """The address of the tracking server, without name and password that may stand in it; "" for a local store."""
    found = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if found.scheme not in ("http", "https"):
        return ""
    return urlunsplit((found.scheme, found.netloc.rpartition("@")[2], found.path.rstrip("/"), "", ""))


@contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        print(f"warning: MLflow did not take a record: {_first_line(error)}", file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
