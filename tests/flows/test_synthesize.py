"""The flow `synthesize` without a server: what its contact sheet and its message say of the screening for copies."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed
from typer.testing import CliRunner

from flows.synthesize import synthesize
from tasks import cli, paths
from tests.tasks import projects

Draw = Callable[[], tuple[State[Any], dict[str, str]]]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Runs the flow on a project whose msg_gan stands for the champion; how it ended, and the contact sheet."""
    monkeypatch.chdir(tmp_path)
    projects.write_data()
    projects.write_generator("msg_gan", seed=1)
    sheets: list[dict[str, str]] = []

    def step(_: str, command: list[str], *__: Any, **___: Any) -> State[Any]:
        done = CliRunner().invoke(cli.app, ["msg_gan" if word == "champion" else word for word in command[1:]])
        assert done.exit_code == 0, done.output
        return Completed()

    monkeypatch.setattr("flows.synthesize.run_step", step)
    monkeypatch.setattr(
        "flows.synthesize.create_markdown_artifact", lambda text, **also: sheets.append({"text": text, **also})
    )

    def run() -> tuple[State[Any], dict[str, str]]:
        return synthesize.fn(label="rare", count=4), sheets.pop()

    return run


def test_it_says_that_images_were_screened(draw: Draw) -> None:
    state, sheet = draw()
    assert sheet["text"].startswith("Screened for copies of training films: 0 left out")
    assert sheet["description"].startswith("Synthetic images of rare: 4")
    assert str(state.message).startswith("4 images in exports/")


def test_it_says_first_that_they_were_not(draw: Draw) -> None:
    shutil.rmtree(paths.CURATED)
    state, sheet = draw()
    assert sheet["text"].splitlines()[0].startswith("**NOT SCREENED for copies of training films**")
    assert sheet["description"].startswith("NOT SCREENED for copies of training films. Synthetic images of rare")
    assert str(state.message).startswith("NOT SCREENED for copies of training films. 4 images in exports/")
