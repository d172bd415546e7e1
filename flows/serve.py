"""`make serve`: what is needed on one machine. Prefect's server, MLflow's, the deployments and a worker for them.

Addresses come from PREFECT_SERVER_API_HOST, PREFECT_SERVER_API_PORT, MLFLOW_HOST and MLFLOW_PORT. A server that
PREFECT_API_URL or MLFLOW_TRACKING_URI names is used and not started. What they remember lies in the project folder.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

import httpx
import psutil
from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import Cancelled

from flows.services import LOGS, GivenUp, Service, adopt_orphans, adopted, end, parent, reap, tree
from tasks.errors import UserError
from tasks.tracking import runs as tracking
from tasks.tracking.addresses import without_credentials
from tasks.tracking.store import EXPERIMENT, Refused, Store, artifacts_of

POOL = "xraysynth"
LOCK_FILE = LOGS.with_name("serve.lock")
START_S = 180.0  # a first start makes the tables of both databases
ANSWER_S = 5.0  # for one answer of Prefect's server
ASK_S = 3.0  # between two looks whether a flow without a worker is to be cancelled
FLOWS_S, SERVERS_S = 9.0, 3.0  # until what was asked to end is ended; Ctrl-C takes 15 s at most
# By default in memory: a restarted server would cancel the flow at work, or hold its slot for ever.
LEASES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
ACCESS = (PREFECT_API_URL, PREFECT_API_KEY, PREFECT_API_AUTH_STRING)
EVERYWHERE = ("0.0.0.0", "::")
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs of its language model tools
}


@dataclass(frozen=True)
class Address:
    """Where a server listens, from the environment variables of the server itself."""

    name: str
    host_variable: str
    port_variable: str
    default_port: int

    @property
    def host(self) -> str:
        return os.environ.get(self.host_variable) or "127.0.0.1"

    @property
    def port(self) -> int:
        text = os.environ.get(self.port_variable) or str(self.default_port)
        if not text.isdecimal() or not 0 < int(text) < 65536:
            raise UserError(f"{self.port_variable} is {text}; a port is a number from 1 to 65535")
        return int(text)

    @property
    def url(self) -> str:
        """As seen from this machine."""
        host = "127.0.0.1" if self.host in EVERYWHERE else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def check_free(self) -> None:
        """Raises UserError where nothing can listen there."""
        try:
            family, kind, proto, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, proto) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            why = f"{self.name} cannot listen on {self.host}:{self.port} ({error.strerror})"
            raise UserError(f"{why}; end what is there or set {self.port_variable} and {self.host_variable}") from None


PREFECT = Address("Prefect", "PREFECT_SERVER_API_HOST", "PREFECT_SERVER_API_PORT", 4200)
MLFLOW = Address("MLflow", "MLFLOW_HOST", "MLFLOW_PORT", 5000)


def serve() -> None:
    """Start all, print the addresses, and watch until interrupted.

    Raises UserError where something cannot start, GivenUp where it does not stay.
    """
    if not Path("prefect.yaml").is_file():
        raise UserError("no prefect.yaml here; make the project's folder the working folder")
    LOGS.mkdir(parents=True, exist_ok=True)
    env, services = _services()
    with _alone():
        print(f"Starting {', '.join(service.name for service in services)} ...", flush=True)
        _watch(env, services)


@contextmanager
def _alone() -> Iterator[None]:
    """Two in one folder would have one database and one set of flows, whatever their ports. Raises UserError."""
    lock = FileLock(LOCK_FILE.resolve(), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError("`make serve` is at work in this folder already; end that one first") from None
    try:
        yield
    finally:
        lock.release()


def _watch(env: Mapping[str, str], services: list[Service]) -> None:
    adopt_orphans()
    try:
        *servers, worker = services
        for service in servers:
            service.start()
        for service in servers:
            if service.name == "prefect":
                _wait_for(service.answers, service)
        worker.start()  # makes the work pool
        _wait_for(lambda: _find_pool(env), worker)
        _deploy(env)
        for service in servers:
            _wait_for(service.answers, service)
        print(addresses(env))
        print(f"Logs are in {LOGS}. Ctrl-C stops all.", flush=True)
        asked = time.monotonic()
        while True:
            time.sleep(0.5)
            for service in services:
                service.watch()
            reap(services)
            if time.monotonic() - asked > ASK_S:
                asked = time.monotonic()
                _cancel(env, services)
    finally:
        _stop(services)


def _services() -> tuple[dict[str, str], list[Service]]:
    """The environment of all, and what is to be started: the worker last. Raises UserError where a port is taken."""
    python, env = [sys.executable, "-m"], {**os.environ, **QUIET, "PYTHONUNBUFFERED": "1"}
    services = []
    if not env.get("PREFECT_API_URL"):
        PREFECT.check_free()
        env["PREFECT_API_URL"] = f"{PREFECT.url}/api"
        listen = ["--host", PREFECT.host, "--port", str(PREFECT.port)]
        command = [*python, "prefect", "server", "start", *listen]
        services.append(Service("prefect", command, LEASES | env, f"{env['PREFECT_API_URL']}/health"))
    if not env.get("MLFLOW_TRACKING_URI"):
        MLFLOW.check_free()
        env["MLFLOW_TRACKING_URI"] = MLFLOW.url
        listen = ["--host", MLFLOW.host, "--port", str(MLFLOW.port), "--workers", "1"]
        command = [*python, "mlflow", "server", *listen, "--uvicorn-opts", "--log-level warning"]
        # By environment: an address of a database may hold a password, and arguments are seen by everybody.
        database = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tracking.DEFAULT_STORE.resolve()}"} | env
        _prepare(database["MLFLOW_BACKEND_STORE_URI"], env.get("MLFLOW_ARTIFACTS_DESTINATION"))
        services.append(Service("mlflow", command, database, f"{MLFLOW.url}/health"))
    for address in (PREFECT, MLFLOW):
        if address.host in EVERYWHERE and any(service.name == address.name.lower() for service in services):
            print(f"warning: {address.name} asks nobody for a password and listens on all addresses", file=sys.stderr)
    command = [*python, "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    return env, [*services, Service("worker", command, env, is_outlived=True)]


def _prepare(database: str, destination: str | None) -> None:
    """The artifacts of an experiment that MLflow's server makes need a server ever after: here `dvc repro` makes do.

    Not where they are to go to a `destination`, which only such an experiment knows.
    """
    if not database.startswith("sqlite"):
        return
    try:
        if not destination:
            Store(database).prepare()
        elif (place := artifacts_of(database)) and not place.startswith("mlflow-artifacts:"):
            why = f"the experiment {EXPERIMENT} keeps its artifacts in {place}"
            what = "unset it or name a new MLFLOW_BACKEND_STORE_URI"
            raise UserError(f"MLFLOW_ARTIFACTS_DESTINATION has no effect: {why}; {what}")
    except Refused as error:
        raise UserError(f"MLflow's store cannot be used ({error}); see MLFLOW_BACKEND_STORE_URI") from None


def _wait_for(answers: Callable[[], object], service: Service) -> None:
    until = time.monotonic() + START_S
    while True:
        with suppress(OSError):
            answers()
            return
        ended = service.process is not None and service.process.poll() is not None
        if ended or time.monotonic() > until:
            raise UserError(f"{service.name} did not start; {service.log} says why")
        time.sleep(0.2)


def _deploy(env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)
    (LOGS / "deploy.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise UserError(f"the deployments of prefect.yaml were not taken; {LOGS / 'deploy.log'} says why")


def _cancel(env: Mapping[str, str], services: list[Service]) -> None:
    """A flow whose worker was killed: the next worker cannot end what it has not started."""
    runs: defaultdict[str, list[psutil.Process]] = defaultdict(list)
    for process in adopted(services):
        with suppress(psutil.Error, KeyError):
            runs[process.environ()["PREFECT__FLOW_RUN_ID"]].append(process)
    for run, processes in runs.items():
        with suppress(OSError):  # where the server is down: the next time
            with _client(env) as client:
                state = client.read_flow_run(UUID(run)).state
            if state is None or not state.is_cancelling():
                continue
            end(processes, processes, FLOWS_S)
            # The flow says that it crashed, for it is the worker that tells it to be cancelled.
            cancelled: State[Any] = Cancelled(message="its worker had died; `make serve` ended it")
            with _client(env) as client:  # another one: the server closes a connection while nothing is said
                client.set_flow_run_state(run, cancelled, force=True)


def _find_pool(env: Mapping[str, str]) -> None:
    with _client(env) as client:
        client.read_work_pool(POOL)


@contextmanager
def _client(env: Mapping[str, str]) -> Iterator[SyncPrefectClient]:
    """Prefect's client of the server in `env`, which asks once. Raises OSError where that fails, whatever the cause."""
    named = {setting: env[setting.name] for setting in ACCESS if env.get(setting.name)}
    once = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: ANSWER_S}
    try:
        with temporary_settings(named | once), get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, PrefectException, ValueError) as error:  # the last: half an answer
        raise OSError(type(error).__name__) from None


def _stop(services: list[Service]) -> None:
    """End the flows that run with their stages, so that they can still say so, then worker and servers."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what follows ends by itself
    servers = {service.pid for service in services[:-1]}
    behind = {process for server in servers if server for process in tree(server)}
    work = [process for process in tree(os.getpid())[1:] if process not in behind]
    heads = {os.getpid(), services[-1].pid}  # flows are children of the worker, or adopted
    end(work, [process for process in work if parent(process) in heads], FLOWS_S)
    rest = tree(os.getpid())[1:]
    end(rest, [process for process in rest if process.pid in servers], SERVERS_S)


def addresses(env: Mapping[str, str]) -> str:
    """Where Prefect is, the runs in MLflow, and what a shell needs, without the passwords that may stand in there."""
    api, store = (without_credentials(env[name]) for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"))
    mlflow = tracking.runs_page(env["MLFLOW_TRACKING_URI"]) or store
    shell = f"export PREFECT_API_URL={api} MLFLOW_TRACKING_URI={store}"
    return f"Prefect  {api.removesuffix('/api')}\nMLflow   {mlflow}\nFor commands in another shell: {shell}"


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Exit code 0 after Ctrl-C, 2 and a sentence where something is in the way, 1 where a service does not stay."""
    described = "Prefect's server, MLflow's, the deployments and a worker for them, until Ctrl-C."
    variables = ", ".join(name for one in (PREFECT, MLFLOW) for name in (one.host_variable, one.port_variable))
    argparse.ArgumentParser(
        prog="python -m flows.serve",
        description=described,
        epilog=f"Environment: {variables}; PREFECT_API_URL, MLFLOW_TRACKING_URI: servers that are there already.",
    ).parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        serve()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except GivenUp as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
