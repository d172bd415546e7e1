"""An experiment in a workspace of its own has the pseudonyms and the MLflow store of the project that started it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.ingest.pseudonyms import KEY_FILE, load_key
from tasks.paths import home
from tasks.tracking.runs import store_uri

ROOT = Path(__file__).resolve().parents[2]
WHO = """
import hashlib, json
from tasks.ingest.pseudonyms import load_key
from tasks.tracking.runs import store_uri
json.dump({"key": hashlib.sha256(load_key()).hexdigest(), "store": store_uri()}, open("who.json", "w"))
"""


def test_a_workspace_of_dvc_has_the_home_of_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert home() == Path()
    key, store = load_key(), store_uri()
    for place in (".dvc/tmp/exps/tmpabc", ".dvc/tmp/exps/standalone/tmpabc"):
        (tmp_path / place).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        assert (home(), load_key(), store_uri()) == (tmp_path, key, store)
        assert not KEY_FILE.exists()


def test_an_experiment_beside_the_workspace_splits_patients_as_the_workspace_does(tmp_path: Path) -> None:
    stage = {"cmd": f"{sys.executable} who.py", "params": ["a"], "outs": ["who.json"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"who": stage}}))
    (tmp_path / "params.yaml").write_text("a: 1\n")
    (tmp_path / "who.py").write_text(WHO)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc, git = (sys.executable, "-m", "dvc"), ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
    run("git", "init", "--quiet")
    run(*dvc, "init", "--quiet")
    run(*dvc, "repro", "--quiet")
    here = json.loads((tmp_path / "who.json").read_text())
    run("git", "add", "--all")
    run(*git, "commit", "--quiet", "--message", "first run")
    run(*dvc, "exp", "run", "--quiet", "--temp", "--name", "beside", "-S", "a=2")
    run(*dvc, "exp", "apply", "beside")
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == {"a": 2}  # it is that experiment
    assert json.loads((tmp_path / "who.json").read_text()) == here
    assert here["store"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
