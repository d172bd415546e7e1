"""What doctor says of servers and databases: the truth, and no password."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tasks import doctor
from tasks.tracking.addresses import authorization
from tests.services import free_port


@pytest.fixture
def server() -> Iterator[str]:
    """Host and port of one that answers those alone who know the password."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == authorization("http://me:s@cret@host")
            self.send_response(200 if known and self.path == "/health" else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize("name", ["MLflow", "Prefect"])
def test_a_server_that_asks_for_a_password_gets_it(name: str, server: str) -> None:
    assert doctor._reach(name, f"http://me:s%40cret@{server}/", "/health") == doctor.Check(
        name, True, f"http://{server}/ answers"
    )
    refused = doctor._reach(name, f"http://me:wrong@{server}", "/health")
    assert not refused.ok
    assert "401" in refused.finding


@pytest.mark.parametrize(
    "address",
    [
        "http://me:secret@127.0.0.1:{port}",
        "http://me:secret@127.0.0.1:none",
        "http://me:sec/secret@127.0.0.1:{port}",
        "http://me:secret",
        "http://me:secret@[::1",
        "postgresql://me:secret@127.0.0.1:{port}/mlflow",
        "postgresql://me:secret@127.0.0.1:none/mlflow",
        "postgresql://me:sec/secret@127.0.0.1:{port}/mlflow",
        "mysql+pymysql://me:secret@127.0.0.1:{port}/mlflow?password=secret",
    ],
)
def test_where_nobody_answers_it_says_so_without_the_password(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(port=free_port()))
    found = doctor._mlflow()
    assert not found.ok
    assert "secret" not in found.finding
    assert "does not answer" in found.finding or "cannot be read" in found.finding


def test_a_database_is_no_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as database:
        place = f"127.0.0.1:{database.getsockname()[1]}/mlflow"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg2://me:secret@{place}")
        said = f"a database at postgresql+psycopg2://{place}, where something listens; it was not asked for more"
        assert doctor._mlflow() == doctor.Check("MLflow", True, said)
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", "postgresql:///mlflow?user=me&password=secret"
    )  # by a socket of the system
    assert doctor._mlflow() == doctor.Check("MLflow", True, "a store of another kind, which was not asked")
    for local in ("sqlite:///mlflow.db", "file:///films/mlruns", "mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", local)
        assert doctor._mlflow() == doctor.Check("MLflow", True, "a local store")
