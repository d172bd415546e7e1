"""A real Prefect server and worker on loopback, with what prefect.yaml deploys from a copy of the project."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import ROOT, Project, guarded_environment
from tests.services import end

WAIT_S = 1200.0  # for a flow run, on a machine that has other things to do


@dataclass(frozen=True)
class Deployed:
    """The project, and the API of the server that knows its deployments."""

    project: Project
    api: httpx.Client
    worker: int

    def start(self, deployment: str, **parameters: Any) -> str:
        """Trigger a run; its id. Where SQLite is locked the server says 503, and Prefect's own clients ask again."""
        found = self.api.get(f"/deployments/name/{deployment}/{deployment}").raise_for_status().json()

        def created() -> httpx.Response | None:
            run = self.api.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
            return None if run.status_code == httpx.codes.SERVICE_UNAVAILABLE else run

        run: httpx.Response = wait(created, f"{deployment} to be taken")
        return str(run.raise_for_status().json()["id"])

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Trigger a run and wait for its end; the run as the server knows it."""
        run_id = self.start(deployment, **parameters)
        return wait(lambda: self.ended(run_id), f"the end of {deployment} {parameters}")

    def ended(self, run_id: str) -> dict[str, Any] | None:
        """The run if it has ended. Of a server that is busy with its database no answer is none yet."""
        with suppress(httpx.ReadTimeout):
            found = self.flow_run(run_id)
            return found if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None
        return None

    def flow_run(self, run_id: str) -> dict[str, Any]:
        return dict(self.api.get(f"/flow_runs/{run_id}").raise_for_status().json())

    def flow_run_within(self, run_id: str) -> dict[str, Any]:
        """The one that it has called."""
        asked = {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}}
        (found,) = self.api.post("/flow_runs/filter", json=asked).raise_for_status().json()
        return dict(found)

    def task_runs(self, run_id: str) -> dict[str, dict[str, Any]]:
        """By name, once none of them moves: the server hears of them by events, a moment after the flow's end."""
        asked = {"flow_runs": {"id": {"any_": [run_id]}}}

        def settled() -> list[dict[str, dict[str, Any]]]:
            runs = self.api.post("/task_runs/filter", json=asked).raise_for_status().json()
            return [{run["name"]: run for run in runs}] * all(r["end_time"] for r in runs)

        return dict(wait(settled, "the states of the task runs")[0])

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Of a flow run, by key."""
        asked = {"flow_runs": {"id": {"any_": [run_id]}}}
        found = self.api.post("/artifacts/filter", json=asked).raise_for_status().json()
        return {artifact["key"]: artifact for artifact in found}

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of the project whose command line holds `name`."""
        return [process for process in psutil.process_iter() if name in _line(process) and _is_in(process, self)]


def _line(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _is_in(process: psutil.Process, deployed: Deployed) -> bool:
    with suppress(psutil.Error):
        return Path(process.cwd()) == deployed.project.path and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait(found: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """What `found` returns, once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := found():
            return result
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


@contextmanager
def deployed(project: Project) -> Iterator[Deployed]:
    """Start server and worker, deploy; end both, with all that they started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    project.env.update(PREFECT_API_URL=url, PREFECT_SERVER_API_PORT=str(port), PREFECT_SERVER_API_HOST="127.0.0.1")
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        with (project.path.parent / f"{name}.log").open("wb") as log:
            program = [str(Path(sys.executable).with_name("prefect")), *command]
            env, folder = project.env, project.path
            process = subprocess.Popen(program, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        return process

    try:
        server = start("server", "server", "start")
        with httpx.Client(base_url=url, timeout=60) as api:

            def healthy() -> bool:
                assert server.poll() is None, (project.path.parent / "server.log").read_text()
                with suppress(httpx.TransportError):
                    return api.get("/health").status_code == 200
                return False

            wait(healthy, "the server", 120)
            project.run("prefect", "work-pool", "create", "--type", "process", "xraysynth")
            project.run("prefect", "--no-prompt", "deploy", "--all")
            worker = start("worker", "worker", "start", "--pool", "xraysynth", "--limit", "2")
            yield Deployed(project, api, worker.pid)
    finally:
        for process in reversed(started):
            end(process)


def environment(base: Path, code: Path) -> dict[str, str]:
    """Of a user who has configured nothing but where Prefect keeps its things; the code in `code` runs.

    The worker looks for work every second: no test waits for its default of ten.
    """
    (base / "home").mkdir()
    env = guarded_environment(base / "home", base / "attempts")
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(code), str(ROOT)])
    prefect = {"PREFECT_HOME": str(base / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1", "DO_NOT_TRACK": "1"}
    return {**env, **prefect}
