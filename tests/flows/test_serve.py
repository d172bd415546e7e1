"""`make serve`: real servers, a real worker, and what happens when one of them dies in mid-flow."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_API_URL

from flows.serve import FLOWS_S, SERVERS_S, _client, _find_pool, _prepare, addresses
from tests.services import PATIENCE_S, end, free_port

ROOT = Path(__file__).resolve().parents[2]
WAITS = "echo x >> tries; for i in $(seq 3000); do test -e go && break; sleep 0.1; done; cp raw/film.txt out"
STAGE = {"cmd": WAITS, "deps": ["raw"], "outs": ["out"]}


@dataclass
class Serving:
    """A running `python -m flows.serve` in a toy project."""

    project: Path
    process: subprocess.Popen[bytes]
    prefect: str
    mlflow: str

    def api(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.prefect}/api{path}", data, {"Content-Type": "application/json"})
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:  # busy with its database; Prefect's own clients ask again too
                if error.code != 503 or time.monotonic() > give_up:
                    raise
                time.sleep(0.5)

    def trigger(self, flow: str = "pipeline", **parameters: Any) -> str:
        """Start a flow; the id of its run."""
        deployment = self.api(f"/deployments/name/{flow}/{flow}")["id"]
        return str(self.api(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    def at_work(self) -> str:
        """Start `pipeline`; the id of its run, once its one stage waits for the file `go`."""
        for name in ("go", "tries"):
            (self.project / name).unlink(missing_ok=True)
        run = self.trigger(force=True)
        until(lambda: (self.project / "tries").exists(), "the stage did not start", self)
        return run

    def go(self, run: str) -> list[str]:
        """Let the stage end, and the flow; a line for each try of the stage."""
        (self.project / "go").touch()
        until(answers(self, run, "COMPLETED"), "the run did not complete", self)
        return (self.project / "tries").read_text().splitlines()

    def shell(self) -> psutil.Process:
        """That of the stage."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        return next(process for process in tree if WAITS in words(process))

    def state(self, run: str) -> str:
        return str(self.api(f"/flow_runs/{run}")["state"]["type"])

    def service(self, word: str) -> psutil.Process:
        """Prefect's `server` or `worker`."""
        found, *_ = [c for c in psutil.Process(self.process.pid).children() if {"prefect", word} <= set(words(c))]
        return found

    def said(self) -> str:
        return (self.project / "said").read_text()

    def logs(self) -> str:
        return "\n".join(f"--- {f.name}\n{f.read_text()[-2000:]}" for f in self.project.glob(".xraysynth/serve/*.log"))


def words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def until(true: Callable[[], bool], otherwise: str, serving: Serving) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        assert serving.process.poll() is None, serving.logs()
        assert time.monotonic() < give_up, f"{otherwise}\n{serving.logs()}"
        time.sleep(0.1)


def answers(serving: Serving, run: str, state: str) -> Callable[[], bool]:
    """Whether the server is there and says so."""

    def asked() -> bool:
        try:
            return serving.state(run) == state
        except OSError:
            return False

    return asked


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path_factory.mktemp("home")),
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "MLFLOW_PORT": str(free_port()),
    }


@pytest.fixture(scope="module")
def serving(make_project: Callable[..., Path], environment: dict[str, str]) -> Iterator[Serving]:
    project = make_project(stage=STAGE)
    for name in ("flows", "tasks"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", project)
    (project / "params.yaml").write_text("ingest: {source: raw}\n")
    with (project / "said").open("wb") as said:
        command = [sys.executable, "-m", "flows.serve"]
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    urls = [f"http://127.0.0.1:{environment[name]}" for name in ("PREFECT_SERVER_API_PORT", "MLFLOW_PORT")]
    found = Serving(project, process, *urls)
    try:
        until(lambda: "Ctrl-C stops all" in found.said(), "did not start", found)
        yield found
    finally:
        end(process)


def test_it_says_where_things_are_and_they_answer(serving: Serving) -> None:
    said, runs = serving.said(), f"{serving.mlflow}/#/experiments/1/runs?workflowType=machine_learning"
    assert said.startswith("Starting prefect, mlflow, worker ...\n")
    assert f"Prefect  {serving.prefect}\nMLflow   {runs}\n" in said
    assert f"export PREFECT_API_URL={serving.prefect}/api MLFLOW_TRACKING_URI={serving.mlflow}\n" in said
    assert serving.api("/work_pools/xraysynth")["type"] == "process"
    names = {found["name"] for found in serving.api("/deployments/filter", {})}
    assert names == {"pipeline", "retrain", "synthesize"}
    for url in (serving.prefect, serving.mlflow):
        with urllib.request.urlopen(url, timeout=30) as page:
            assert b"<html" in page.read().lower()


def test_it_listens_on_loopback_alone(serving: Serving) -> None:
    tree = psutil.Process(serving.process.pid).children(recursive=True)
    listening = {c.laddr.ip for p in tree for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_what_it_remembers_is_in_the_project(serving: Serving, environment: dict[str, str]) -> None:
    assert (serving.project / "mlflow.db").is_file()
    tree = psutil.Process(serving.process.pid).children(recursive=True)
    # The address of a database may hold a password, and everybody sees the arguments of a process.
    assert not any("mlflow.db" in word for process in tree for word in words(process))
    assert (Path(environment["PREFECT_HOME"]) / "prefect.db").is_file()


def test_a_taken_port_is_one_sentence(serving: Serving, environment: dict[str, str]) -> None:
    for name, port in (("Prefect", "PREFECT_SERVER_API_PORT"), ("MLflow", "MLFLOW_PORT")):
        other = {**environment, "PREFECT_SERVER_API_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
        command = [sys.executable, "-m", "flows.serve"]
        done = subprocess.run(
            command, cwd=serving.project, env={**other, port: environment[port]}, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {name} cannot listen on 127.0.0.1:{environment[port]} (Address already")
        assert port in done.stderr
        assert done.stderr.count("\n") == 1


def test_artifacts_that_cannot_go_elsewhere_are_one_sentence(serving: Serving, environment: dict[str, str]) -> None:
    ports = {name: str(free_port()) for name in ("PREFECT_SERVER_API_PORT", "MLFLOW_PORT")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.serve"],
        cwd=serving.project,
        env={**environment, **ports, "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/mlflow"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: MLFLOW_ARTIFACTS_DESTINATION has no effect: the experiment xraysynth keeps")
    assert done.stderr.count("\n") == 1


def test_an_experiment_whose_artifacts_go_elsewhere_is_left_to_the_server(tmp_path: Path) -> None:
    _prepare(f"sqlite:///{tmp_path / 'mlflow.db'}", "s3://bucket/mlflow")
    assert list(tmp_path.iterdir()) == []


def test_no_password_is_printed() -> None:
    mlflow = "http://a:secret@127.0.0.1:1"  # nothing listens there, so there is no page to name
    said = addresses({"PREFECT_API_URL": "http://a:secret@b:4200/api", "MLFLOW_TRACKING_URI": mlflow})
    assert said.startswith("Prefect  http://b:4200\nMLflow   http://127.0.0.1:1\n")
    assert said.endswith("export PREFECT_API_URL=http://b:4200/api MLFLOW_TRACKING_URI=http://127.0.0.1:1")
    assert addresses({"PREFECT_API_URL": "http://b/api", "MLFLOW_TRACKING_URI": "sqlite:///a.db"}).endswith("///a.db")


@pytest.mark.parametrize("way", ["in the address", "by the variable"])
def test_a_server_that_asks_for_a_password_gets_it(way: str) -> None:
    heard: list[str | None] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"name": "xraysynth", "type": "process"}')

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.handle_request, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}/api"
        if way == "in the address":
            env = {"PREFECT_API_URL": f"http://a:s%40c@{place}"}
        else:
            env = {"PREFECT_API_URL": f"http://{place}", "PREFECT_API_AUTH_STRING": "a:s@c"}
        _find_pool(env)
    assert heard == [f"Basic {base64.b64encode(b'a:s@c').decode()}"]


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\n\r\n{", b"HTTP/1.1 503 busy\r\n\r\n", b"no HTTP"])
def test_a_server_that_is_down_or_dies_is_an_error_of_the_system_and_asked_once(answer: bytes | None) -> None:
    """`make serve` watches on, and is what starts the server again: it must not wait for it meanwhile."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        env = {"PREFECT_API_URL": f"http://a:secret@127.0.0.1:{server.getsockname()[1]}/api"}

        def serve_one() -> None:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(answer or b"")

        if answer is None:
            server.close()
        else:
            Thread(target=serve_one, daemon=True).start()
        with pytest.raises(OSError) as failed:
            _find_pool(env)
    assert len(heard) == (answer is not None)
    assert "secret" not in str(failed.value)


def test_the_settings_of_this_process_stay() -> None:
    before = PREFECT_API_URL.value()
    with _client({"PREFECT_API_URL": "http://127.0.0.1:1/api"}) as client:
        assert str(client.api_url) == "http://127.0.0.1:1/api/"
    assert PREFECT_API_URL.value() == before


def test_a_second_flow_is_not_let_in_and_a_restarted_server_costs_the_first_nothing(serving: Serving) -> None:
    run = serving.at_work()
    second = serving.trigger("retrain", source="raw")
    until(answers(serving, second, "FAILED"), "the second was let in", serving)
    assert serving.api(f"/flow_runs/{second}")["state"]["message"].startswith("another flow is at work in this project")
    server = serving.service("server")
    server.kill()
    until(lambda: "prefect has ended (signal 9) and is started again" in serving.said(), "not started again", serving)
    until(answers(serving, run, "RUNNING"), "the new server does not know the run", serving)
    assert serving.service("server").pid != server.pid
    # The flow renews its hold on the deployment's slot every few minutes, and is cancelled where nobody knows of it.
    lease = serving.api(f"/flow_runs/{run}")["state"]["state_details"]["deployment_concurrency_lease_id"]
    serving.api(f"/v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 300})
    assert serving.go(run) == ["x"]


def test_a_killed_worker_and_a_killed_stage_are_started_again(serving: Serving) -> None:
    run = serving.at_work()
    serving.service("worker").kill()
    until(lambda: "worker has ended (signal 9) and is started again" in serving.said(), "not started again", serving)
    assert serving.state(run) == "RUNNING"
    serving.shell().kill()  # as a killer of processes does where memory runs out
    assert serving.go(run) == ["x", "x"]


def test_a_flow_whose_worker_was_killed_can_be_cancelled(serving: Serving) -> None:
    run = serving.at_work()
    shell = serving.shell()
    serving.service("worker").kill()
    serving.api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    until(answers(serving, run, "CANCELLED"), "the run was not cancelled", serving)
    assert not shell.is_running() or shell.status() == psutil.STATUS_ZOMBIE  # process 1 may not collect orphans


def test_ctrl_c_stops_all_with_a_flow_at_work(serving: Serving) -> None:
    """Of the new worker. Last, for nothing is there after it."""
    serving.at_work()
    assert serving.shell().is_running()
    tree = psutil.Process(serving.process.pid).children(recursive=True)
    os.killpg(serving.process.pid, signal.SIGINT)  # as a terminal does
    assert serving.process.wait(timeout=PATIENCE_S) == 0
    assert FLOWS_S + 1 + SERVERS_S + 1 < 15  # seconds, whatever will not end; a second each for what is then killed
    assert [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert serving.said().endswith("stopped\n")
