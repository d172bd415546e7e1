"""Real servers on loopback for tests: started on a free port, ended with all that they started."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest

PATIENCE_S = 120.0  # for what takes seconds where nothing else runs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """A program of this virtual environment, also where nobody activated it."""
    return str(Path(sys.executable).with_name(name))


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `url` gives an answer, whatever its status."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{url} does not answer\n{log.read_text()[-3000:]}")


@contextmanager
def serving(
    command: list[str], url: str, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers at `url`; what it says goes to the end of `log`."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_until_it_answers(url, process, log)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, by force; nothing to do where it has ended."""
    tree: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in tree:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


@contextmanager
def mlflow_server(
    port: int, folder: Path, store: str = "", artifacts: str = "", env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow with its store and artifacts in `folder`, if nothing else is said."""
    command = [
        *(program("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", store or f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", artifacts or str(folder / "artifacts")),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(env or {})}
    with serving(command, f"http://127.0.0.1:{port}/health", folder / "mlflow.log", quiet, folder) as process:
        yield process


@contextmanager
def prefect_server(
    port: int, home: Path, database: str = "", env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Prefect's server with its database in `home`, if nothing else is said."""
    command = [program("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    settings = {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    settings["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database or f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    url = f"http://127.0.0.1:{port}/api/health"
    with serving(command, url, home / "prefect.log", {**settings, **(env or {})}, home) as process:
        yield process


@contextmanager
def dask_cluster() -> Iterator[str]:
    """The address of a Dask cluster of two worker processes.

    In a process of its own, as any cluster: one that does not close holds up no tests.
    """
    code = """if __name__ == "__main__":
        import sys
        from distributed import LocalCluster
        options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options, worker_dashboard_address=None, host="127.0.0.1") as cluster:
            print(cluster.scheduler_address, flush=True)
            sys.stdin.read()"""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "cluster.py"
        script.write_text(code, encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, script],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip()
        finally:
            end(process)


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """An S3 server with an empty bucket `films`; the environment that leads to it."""
    url = f"http://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
        with serving(command, url, Path(folder) / "s3.log"):
            urllib.request.urlopen(urllib.request.Request(f"{url}/films", method="PUT"), timeout=30).close()
            keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
            yield {"AWS_ENDPOINT_URL": url, **keys}


def postgres_program(name: str) -> Path | None:
    """A program of PostgreSQL; Debian puts those of the server beside the path."""
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name)
    return Path(found) if found else next(reversed(beside), None)


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own with the databases `mlflow` and `prefect`; `user@host:port` without a scheme.

    It refuses to run as root, so there it runs as `nobody`.
    """
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    port, other = free_port(), "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if other:
            shutil.chown(folder, other)
        setup = [str(initdb), "--pgdata", str(folder / "data"), "--username", "test", "--auth", "trust", "--no-sync"]
        subprocess.run(setup, user=other, cwd=folder, check=True, capture_output=True, env={"LANG": "C.UTF-8"})
        options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
        command = [str(server), "-D", str(folder / "data"), *(word for option in options for word in ("-c", option))]
        process = subprocess.Popen(command, user=other, cwd=folder, stderr=subprocess.PIPE, env={"LANG": "C.UTF-8"})
        try:
            _make_databases(port, process)
            yield f"test@127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGQUIT)
            process.communicate(timeout=PATIENCE_S)


def _make_databases(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection = psycopg2.connect(host="127.0.0.1", port=port, user="test", dbname="postgres")
            break
        except psycopg2.OperationalError:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
    with closing(connection):
        connection.autocommit = True
        for name in ("mlflow", "prefect"):
            connection.cursor().execute(f"CREATE DATABASE {name}")
