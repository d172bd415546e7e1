"""deploy/compose.yaml, as far as it can be checked without a Docker engine."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import mlflow.cli
import mlflow.environment_variables
import pytest
import yaml

import flows  # noqa: F401  first: it says where Prefect keeps its things and that nothing phones home

from flows.serve import LEASES  # isort: skip
from prefect.settings import Settings  # isort: skip
from prefect.settings.legacy import _get_settings_fields  # isort: skip

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "deploy/compose.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = CONTENT["services"]


def known_variables() -> set[str]:
    """What Prefect and MLflow read, by their own word."""
    prefect = {name.upper() for name in _get_settings_fields(Settings)}
    options = {str(option.envvar) for option in mlflow.cli.server.params if getattr(option, "envvar", None)}
    return prefect | options | set(dir(mlflow.environment_variables)) | {"DO_NOT_TRACK", "NO_ALBUMENTATIONS_UPDATE"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_setting_is_one_that_the_program_reads(name: str) -> None:
    ours = {v for v in SERVICES[name]["environment"] if v.startswith(("PREFECT", "MLFLOW", "DO_NOT", "NO_ALBU"))}
    assert ours <= known_variables()


def test_no_secret_is_in_it() -> None:
    for match in re.finditer(r"^\s*\w*(PASSWORD|SECRET|KEY)\w*:[ \t]*([^#\n]*)", FILE.read_text(), re.MULTILINE):
        assert match[2].strip() == "" or match[2].startswith("${"), match[0]
    assert all("PASSWORD" not in str(service.get("command", "")) for service in SERVICES.values())


def test_files_that_hold_passwords_go_into_neither_git_nor_the_image() -> None:
    files = ["deploy/.env", ".dvc/config.local"]
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == files
    assert set(files) <= set((ROOT / ".dockerignore").read_text().split())


def test_who_holds_a_slot_of_a_deployment_is_on_a_volume() -> None:
    """A new container would not know it else: a flow at work is cancelled, or its slot never free again."""
    prefect = SERVICES["prefect"]
    assert LEASES.items() <= prefect["environment"].items()
    assert prefect["volumes"] == [f"prefect:{prefect['environment']['PREFECT_HOME']}"]


def test_ports_are_open_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_it_names_is_there() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", [])) <= SERVICES.keys()
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (FILE.parent / source).exists() if source.startswith(".") else source in CONTENT["volumes"]
    databases = set(re.findall(r"@postgres/(\w+)", FILE.read_text()))
    assert databases == set(re.findall(r"CREATE DATABASE (\w+);", (FILE.parent / "databases.sql").read_text()))


def test_the_worker_polls_the_pool_of_the_deployments() -> None:
    (pool,) = {
        found["work_pool"]["name"] for found in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    command = shlex.split(SERVICES["worker"]["command"][2])
    assert command[command.index("--pool") + 1] == pool


def test_its_image_has_the_extras_for_these_stores() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert "[postgres,s3]" in dockerfile
    python = re.search(r"FROM python:(3\.\d+)", dockerfile)
    assert python is not None
    assert python[1] in {"3.11", "3.12"}
