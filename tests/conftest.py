"""Shared fixtures. The dear one is `tiny_project`: the whole pipeline, once a session, for all who look at it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.simulate.stage import simulate
from tests.canaries import Archive

ROOT = Path(__file__).resolve().parents[1]
GUARD = ROOT / "tests" / "guard"
PROJECT_FILES = (
    *("flows", "tasks", "model", "dvc.yaml", "params.yaml", "prefect.yaml", "pyproject.toml"),
    *(".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots"),
)
SHARED = ("tiny_project", "prefect_api")  # fixtures that are made once for several files
# What takes longest, in this order: begun first, so that two cores end together. The others follow as they come.
FIRST = (
    "tests/flows/test_deployed.py",
    *("tiny_project", "prefect_api", "tests/flows/test_serve.py"),
    *("tests/model/training/test_loop.py", "tests/tasks/ingest/test_stage.py", "tests/tasks/tracking/test_runs.py"),
    *("tests/tasks/registry/test_mlflow_model.py", "tests/flows/test_postgres.py", "tests/tasks/quality/test_stage.py"),
)
TINY = {  # what the sections of params.yaml become: seconds instead of minutes
    "ingest": {"size": 16, "classes": ["normal", "effusion", "pneumonia"], "max_quarantined": 0.8, "workers": 1},
    "models": {"msg_sagan": {"attention_resolutions": [8]}},
    "train": {"width": 8, "kimg": 0.03, "batch": 4},
    "encoder": {"steps": 5},
    "quality": {"pairs": 10, "repeats": 2, "two_sample_steps": 2},
    "classify": {"steps": 4, "max_cycles": 2, "batch": 8, "bootstrap": 100, "workers": 1},
    "report": {"examples": 4},
}


@pytest.fixture
def one_core_of_many(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine has 64 cores, and this process may use one of them, as under taskset or in a container."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind a process to cores")
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@cache
def group(file: str) -> str:
    """What a file's tests are run together with: on several cores those that share a dear fixture stay together."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return next((fixture for fixture in SHARED if fixture in text), file)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(group(item.nodeid.split("::")[0]), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, for its fixtures are dear, and so do those of a SHARED one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.split("::")[0])

    return ByFixtures(config, log)


@pytest.fixture
def at_a_prompt() -> Iterator[None]:
    """Ctrl-C reaches this process and what it starts, although the shell that started the tests may ignore it.

    What a script or nohup starts with `&`, and many a CI system, passes the ignored signal on to all below it.
    """
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@dataclass(frozen=True)
class Project:
    """A copy of the project, git and DVC repository."""

    path: Path
    env: dict[str, str]  # of a user who has configured nothing; no network but loopback
    attempts: Path  # to reach the network, one a line; absent if there were none

    def run(self, *command: str, check: bool = True, activated: bool = True) -> subprocess.CompletedProcess[str]:
        """A program of the virtual environment, run in the project; a failure shows what was said."""
        program = Path(sys.executable).with_name(command[0])
        env = {**self.env, "PATH": f"{program.parent}{os.pathsep}{self.env['PATH']}"} if activated else self.env
        done = subprocess.run([program, *command[1:]], cwd=self.path, env=env, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *command: str) -> Any:
        """What `dvc COMMAND --json` prints."""
        return json.loads(self.run("dvc", *command, "--json").stdout)

    def git(self, *command: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *command], cwd=self.path, check=True, capture_output=True)

    def edit_params(self, changes: dict[str, Any]) -> None:
        """Merge `changes` into params.yaml."""
        file = self.path / "params.yaml"
        file.write_text(yaml.safe_dump(_merged(yaml.safe_load(file.read_text()), changes), sort_keys=False))


@dataclass(frozen=True)
class TinyProject(Project):
    """With a small simulated archive full of canaries."""

    archive: Archive
    flow: subprocess.CompletedProcess[str] = field(
        default_factory=lambda: subprocess.CompletedProcess([], 1)
    )  # `python -m flows.pipeline`, the first run

    def copy(self, to: Path) -> "TinyProject":
        """The same at another place, to be changed at will."""
        shutil.copytree(self.path, to, symlinks=True)
        return TinyProject(to, self.env, self.attempts, self.archive, self.flow)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def guarded_environment(home: Path, attempts: Path) -> dict[str, str]:
    """A bare environment: what keeps the pipeline silent must be the project's own configuration.

    Not even `CI` is kept, by which Prefect would know to keep silent, nor the environment's `bin` folder.
    """
    here = str(Path(sys.executable).parent)
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != here]
    return {
        "PATH": os.pathsep.join(path),
        "HOME": str(home),
        "TMPDIR": str(home),  # what is left there is searched too
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),  # matplotlib's fonts
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(GUARD),
        "NETWORK_ATTEMPTS": str(attempts),
        "OMP_NUM_THREADS": "1",  # steps this small only lose by sharing
    }


def copy_project(path: Path) -> None:
    """What a clone of the project has, but for its tests and docs."""
    for name in PROJECT_FILES:
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """The project after a first `python -m flows.pipeline` on 14 simulated patients, and on films of all other kinds.

    Don't change it: copy.
    """
    base = tmp_path_factory.mktemp("tiny")
    (base / "home").mkdir()
    attempts = base / "attempts"
    path, environment = base / "project", guarded_environment(base / "home", attempts)
    copy_project(path)
    simulate(path / "data/raw", patients=14, seed=1, size=96, workers=1)
    project = TinyProject(path, environment, attempts, Archive(path / "data/raw"))
    project.edit_params(TINY)
    project.git("init", "--quiet", "--initial-branch=main")
    project.run("dvc", "add", "--quiet", "data/raw")
    done = project.run("python", "-m", "flows.pipeline", check=False, activated=False)
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "first run")
    return replace(project, flow=done)
