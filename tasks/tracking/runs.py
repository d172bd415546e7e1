"""MLflow: every stage that measures something logs a run; runs of one execution share the tag `pipeline_id`.

The store is MLFLOW_TRACKING_URI, or the SQLite file `mlflow.db` in the working folder, which needs no server.
Where MLflow is down the work goes on: records wait on disk (`spool`) and are logged later in the same stage
or by the next one. A record that is sent again after an unclear answer is there once.
"""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE

from tasks.errors import UserError
from tasks.files import flattened
from tasks.paths import home
from tasks.tracking import provenance
from tasks.tracking.addresses import without_credentials
from tasks.tracking.machine import Machine
from tasks.tracking.spool import FOLDER, Record, Spool
from tasks.tracking.store import (
    EXPERIMENT,
    HASTE,
    Refused,
    Store,
    defaults,
    find_experiment,
    find_run,
    first_line,
    warn,
)

# The first run of a store tells of every table that it makes; of a store that is down, tracebacks.
for _name, _level in (("alembic", logging.WARNING), ("mlflow", logging.WARNING), ("mlflow.store.db", logging.CRITICAL)):
    logging.getLogger(_name).setLevel(_level)

DEFAULT_STORE = Path("mlflow.db")
PIPELINE_VARIABLE = "XRAYSYNTH_PIPELINE_ID"
NOT_IN_NAMES = re.compile(r"[^\w.\- :/]")  # MLflow refuses a whole batch for one such name
BATCH = 1000  # metrics that MLflow takes in one request
AS_MACHINE_LEARNING = "?workflowType=machine_learning"  # of a page of MLflow: else it is one for language models

__all__ = ["EXPERIMENT", "Run", "pipeline_id", "store_uri", "tracked"]


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, or the file in the project's folder."""
    # By its whole path: within a process MLflow takes the first relative mlflow.db for all of that name.
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(home() / DEFAULT_STORE).resolve()}"


def pipeline_id(data_digest: str) -> str:
    """What runs of one execution share; outside of one it is the digest of the data."""
    return os.environ.get(PIPELINE_VARIABLE) or f"data-{data_digest[:12]}"


class Run:
    """One open MLflow run, named `run_id` ("" until MLflow could be reached)."""

    def __init__(self, store: Store, spool: Spool) -> None:
        self.run_id, self.pipeline_id = "", str(spool.head["tags"]["pipeline_id"])
        self._store, self._spool = store, spool
        self._tried = self._refused = False
        self._machine: Machine | None = None

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Log numbers in one request, nested ones as `group/name.name`: MLflow shows a section a group."""
        flat = [(k, float(v)) for k, v in _grouped(values) if isinstance(v, int | float) and not isinstance(v, bool)]
        named = [(NOT_IN_NAMES.sub("_", name.replace("+", "_and_")), value) for name, value in flat]
        self._record({"kind": "metrics", "values": named, "step": step, "time": _now()})
        self._system_metrics()

    def watch_machine(self) -> None:
        """Log what the machine does until the end of the run, each time with other records."""
        self._machine = Machine()

    def links(self) -> dict[str, str]:
        """The pages of this execution's runs by stage, the newest of each; empty where no server shows them."""
        server, found = server_address(), dict[str, str]()
        if server and self.run_id:
            wanted = self.pipeline_id.replace("'", "")
            experiment, runs = self._store.runs(self.run_id, f"tags.pipeline_id = '{wanted}'") or ("", [])
            for run in runs:
                page = f"{server}/#/experiments/{experiment}/runs/{run.info.run_id}{AS_MACHINE_LEARNING}"
                found.setdefault(run.data.tags.get("stage", run.info.run_id), page)
        return dict(sorted(found.items()))

    def tag(self, name: str, value: object) -> None:
        """Set a tag of the run."""
        self._record({"kind": "tag", "name": name, "value": str(value)})

    def artifact(self, name: str, content: bytes) -> None:
        """Log `content` as the file `name`."""
        self._record({"kind": "artifact", "name": name}, content)

    def end(self, status: str, stopped: bool = False) -> None:
        """Close the run, or leave that to the next stage; a process that was told to stop waits for seconds only."""
        with defaults(HASTE) if stopped else nullcontext():
            if self._machine:
                self._machine.end()
                self._system_metrics()
            self._record({"kind": "end", "status": status, "time": _now()})
            if self._spool.exists() and (stopped or not self._delivered(now=True)):
                warn(f"records wait in {FOLDER} and are logged by the next stage that reaches MLflow")
        self._spool.release()

    def deliver(self, now: bool = False) -> bool:
        """Open the run if it is not, and send what waits; whether nothing waits any more.

        now: also where MLflow was down a moment ago. Raises Refused where MLflow takes no such run at all.
        """
        if not self.run_id:
            before, self._tried = self._tried, True
            self.run_id = self._store.open_run(self._spool.head, before, now) or ""
        if not self.run_id:
            return False
        for path in self._spool.waiting():
            record, content = self._spool.read(path)
            if not self._send(record, content, now):
                return False
            if record["kind"] == "end":
                self._spool.remove()
            else:
                self._spool.forget(path)
        return True

    @classmethod
    def deliver_left(cls, store: Store) -> None:
        """Send what stages before this one could not; the run of a stage that was killed ends as KILLED."""
        for spool in Spool.left():
            if spool.head["store"] != store.identity():
                continue  # it waits for that one
            run = cls(store, spool)
            run._tried = True
            try:
                if not run.deliver():
                    return
                if spool.exists():  # no word of its end
                    run._send({"kind": "end", "status": "KILLED", "time": int(spool.last_seen() * 1000)}, b"")
                    spool.remove()
            except Refused as error:
                warn(f"MLflow refuses the run that waits in {spool.folder}: {error}")

    def _system_metrics(self) -> None:
        samples = self._machine.taken() if self._machine else []
        for first in range(0, len(samples), BATCH):
            self._record({"kind": "samples", "values": samples[first : first + BATCH]})

    def _record(self, record: Record, content: bytes = b"") -> None:
        """Send a record, after those that wait; keep it where that fails."""
        self._spool.seen_alive()
        if self._delivered() and self._send(record, content):
            if record["kind"] == "end":
                self._spool.remove()
            return
        try:
            self._spool.put(record, content)
        except OSError as error:
            warn(f"a record for MLflow is lost: {first_line(error)}")

    def _delivered(self, now: bool = False) -> bool:
        """Like `deliver`; of a run that MLflow refuses now, after it was down at the start, there is one warning."""
        if not self._refused:
            try:
                return self.deliver(now)
            except Refused as error:
                self._refused = True
                warn(f"MLflow refuses the run that waits in {self._spool.folder}: {error}")
        return False

    def _send(self, record: Record, content: bytes, now: bool = False) -> bool:
        """Whether it need not be sent again."""
        try:
            return self._store.send(self.run_id, record, content, now)
        except Refused as error:
            warn(f"MLflow did not take a record: {error}")
            return True


@contextmanager
def tracked(
    stage: str, params: Mapping[str, Any], data_digest: str, films: Mapping[str, Mapping[str, int]] | None = None
) -> Iterator[Run]:
    """A run named after the stage, with its params; FINISHED when the block ends, FAILED when it raises.

    Its input is the curated set, with the numbers of `films` by split and class. Runs of one pipeline execution are
    nested in a run of that; outside of one they take the digest of their data as pipeline id. Raises UserError where
    the store answers that it cannot be used; one that does not answer costs a warning.
    """
    tags = {
        "stage": stage,
        "data_digest": data_digest,
        "pipeline_id": pipeline_id(data_digest),
    }
    tags |= _origin(tags)
    flat = {name: str(value) for name, value in flattened(params)}
    store = Store(store_uri())
    head = {"stage": stage, "tags": tags, "params": flat, "films": films or {}, "start": time.time()}
    spool = Spool.new({**head, "pipeline": os.environ.get(PIPELINE_VARIABLE, ""), "store": store.identity()})
    run = Run(store, spool)
    try:
        run.deliver()
    except Refused as error:
        spool.remove()
        raise UserError(f"MLflow's store cannot be used ({error}); see MLFLOW_TRACKING_URI") from None
    Run.deliver_left(store)
    status, stopped = "FAILED", False
    run.watch_machine()
    try:
        yield run
        status = "FINISHED"
    except SystemExit:
        stopped = True
        raise
    finally:
        run.end(status, stopped)


def _origin(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that MLflow shows as a run's description and as its commit, which is left out outside of git."""
    commit, _, changed = provenance.git_revision().partition(",")
    text = f"Stage `{tags['stage']}` on the curated set `{tags['data_digest'][:12]}`, in `{tags['pipeline_id']}`."
    if not commit:
        return {MLFLOW_RUN_NOTE: text}
    text += f" Code of commit `{commit[:12]}`{',' * bool(changed)}{changed}."
    return {MLFLOW_RUN_NOTE: text, MLFLOW_GIT_COMMIT: commit}


def _grouped(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        yield from flattened(value, f"{name}/") if isinstance(value, Mapping) else [(name, value)]


def _now() -> int:
    return int(time.time() * 1000)


def server_address(uri: str | None = None) -> str:
    """The address of a tracking server, by default that of MLFLOW_TRACKING_URI; "" for a local store.

    Without the name and the password that may stand in it.
    """
    address = without_credentials(os.environ.get("MLFLOW_TRACKING_URI", "") if uri is None else uri)
    return address.rstrip("/") if address.startswith(("http://", "https://")) else ""


def runs_page(uri: str | None = None) -> str:
    """The page of the project's runs on a tracking server, like `server_address`; that where it has no such page."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "") if uri is None else uri
    server = server_address(uri)
    experiment = find_experiment(uri) if server else None
    return server if experiment is None else f"{server}/#/experiments/{experiment}/runs{AS_MACHINE_LEARNING}"


def artifact_page(stage: str, name: str) -> str:
    """The page of an artifact of the newest run of a stage, like `runs_page`; "" where there is none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = server_address(uri)
    run = find_run(uri, f"tags.stage = '{stage}' and attributes.status = 'FINISHED'") if server else ""
    return f"{server}/#/{run}/artifacts/{name}{AS_MACHINE_LEARNING}" if run else ""
