"""Nothing phones home: the whole pipeline runs with every way out of the machine refused and recorded."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TinyProject, guarded_environment


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import socket; socket.getaddrinfo('example.org', 443)",
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('192.0.2.1', 53))",
        "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
        "import urllib.request; urllib.request.urlopen('https://example.org')",
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import socket; "
        'socket.socket().connect(("192.0.2.1", 80))\']))',
    ],
    ids=["connect", "look-up", "datagram", "asyncio", "urllib", "child"],
)
def test_the_guard_refuses_and_records(attempt: str, tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"
    environment = guarded_environment(tmp_path, attempts)
    done = subprocess.run([sys.executable, "-c", attempt], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "network guard refuses" in done.stderr
    assert len(attempts.read_text().splitlines()) == 1


def test_the_guard_lets_loopback_pass(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"
    talk = (
        "import socket; server = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(('localhost', server.getsockname()[1])).close()"
    )
    subprocess.run([sys.executable, "-c", talk], env=guarded_environment(tmp_path, attempts), check=True)
    assert not attempts.exists()


def test_the_pipeline_runs_without_a_network(tiny_project: TinyProject) -> None:
    """Flow, its own server, stages, MLflow, DVC and albumentations, as set up by the project alone."""
    assert tiny_project.flow.returncode == 0, tiny_project.flow.stderr
    assert (tiny_project.path / "reports/report.html").is_file()


def test_nothing_tried_to_leave_the_machine(tiny_project: TinyProject) -> None:
    assert tiny_project.flow.returncode == 0
    assert not tiny_project.attempts.exists(), tiny_project.attempts.read_text()
