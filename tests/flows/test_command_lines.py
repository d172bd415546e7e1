"""What `python -m flows.NAME` says without doing anything, and with which exit code it ends; no server, no stage."""

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from filelock import FileLock
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import pipeline as pipeline_module
from flows import serve
from flows.pipeline import Runs, _verdict
from flows.services import GivenUp
from flows.steps import BAD_INPUT


@pytest.fixture(autouse=True)
def signals_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.parametrize("name", ["pipeline", "retrain", "serve", "synthesize"])
def test_help_says_what_it_is_and_starts_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"flows.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    if name == "serve":
        monkeypatch.setattr(module, "serve", lambda: pytest.fail("it serves"))
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert f"usage: python -m flows.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["retrain", "synthesize"])
def test_what_only_a_deployment_runs_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"flows.{name}").main()
    assert ended.value.code == 2
    assert f"prefect deployment run {name}/{name}" in capsys.readouterr().err


def runs(**states: State[Any]) -> Runs:
    return cast(Runs, {name: SimpleNamespace(state=state, wait=lambda: None) for name, state in states.items()})


BAD: State[Any] = Failed(name=BAD_INPUT, message="error: no labels")
CRASHED: State[Any] = Failed(message="killed")


@pytest.mark.parametrize(
    ("states", "name"),
    [({"a": BAD}, BAD_INPUT), ({"a": BAD, "b": BAD}, BAD_INPUT), ({"a": BAD, "b": CRASHED}, "Failed")],
)
def test_a_pipeline_of_which_only_the_input_is_bad_says_so(states: dict[str, State[Any]], name: str) -> None:
    assert _verdict(runs(first=Completed(), **states)).name == name


@pytest.mark.parametrize(("state", "code"), [(Completed(), 0), (BAD, 2), (CRASHED, 1)])
def test_the_exit_code_of_the_pipeline(state: State[Any], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pipeline"])
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(pipeline_module, "_nothing_to_do", lambda _: False)  # as it is here after `make run`
    monkeypatch.setattr(pipeline_module, "pipeline", lambda **_: state)
    assert pipeline_module.main() == code


class TestServe:
    """`python -m flows.serve`."""

    @pytest.fixture
    def main(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
        """In a project's folder, with no services to start."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["serve"])
        Path("prefect.yaml").touch()
        monkeypatch.setattr(serve, "_services", lambda: ({}, []))
        return serve.main

    def test_a_second_one_in_the_folder_is_refused(
        self, main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        watched: list[bool] = []
        monkeypatch.setattr(serve, "_watch", lambda *_: watched.append(True))
        serve.LOCK_FILE.parent.mkdir()
        with FileLock(serve.LOCK_FILE.resolve()):
            assert main() == 2
        assert capsys.readouterr().err.startswith("error: `make serve` is at work in this folder already")
        assert not watched
        assert main() == 0
        assert watched

    def test_a_service_that_does_not_stay_ends_it_with_1(
        self, main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def dies(*_: object) -> None:
            raise GivenUp("mlflow has ended 20 times in a row; mlflow.log says why")

        monkeypatch.setattr(serve, "_watch", dies)
        assert main() == 1
        assert capsys.readouterr().err == "error: mlflow has ended 20 times in a row; mlflow.log says why\n"
