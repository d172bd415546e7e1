"""The whole pipeline on an archive whose films have two findings at once: from a table of labels to the verdict by
finding, and on to the registry. What each stage makes of them is tested beside the stage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from tasks import cli, image_set
from tasks.paths import CHALLENGE, CURATED, DOWNSTREAM, IMBALANCE, REPORT, SYNTHETIC, VERDICT
from tasks.simulate.disease import BOTH
from tasks.simulate.stage import simulate

GANS = ("msg_gan", "msg_sagan")
STAGES = [
    ["ingest"],
    ["imbalance"],
    ["encoder"],
    *(["train", name] for name in GANS),
    *(["synthesize", name] for name in GANS),
    ["phantom"],
    *(["quality", name] for name in GANS),
    ["classify"],
    ["report"],
]
PARAMS = {
    "ingest": {"size": 16, "workers": 1},
    "models": {"msg_sagan": {"attention_resolutions": [8]}},
    "train": {"width": 8, "kimg": 0.03, "head_start": "none"},
    "encoder": {"steps": 5},
    "synthesize": {"max_copies": 0.9},
    "quality": {"pairs": 10, "repeats": 2, "two_sample_steps": 2},
    "classify": {
        "arms": ["real", "duplicate", "classic", "msg_gan", "two_stage_msg_sagan"],
        **{"steps": 4, "max_cycles": 2, "batch": 8, "bootstrap": 100, "workers": 1},
    },
    "report": {"examples": 4},
}
CLASSES = ["effusion", "normal", "pneumonia"]


def command(*arguments: str) -> str:
    """What `xraysynth` prints, run in the working folder."""
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exception is None, f"{arguments}: {done.exception!r}\n{done.output}"
    return done.output


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "raw"
    simulate(out, 80, 3, size=64, workers=1, both=0.6)
    return out


@pytest.fixture(scope="module")
def project(archive: Path, mlflow_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("XRAYSYNTH_PSEUDONYM_KEY", "the same patients in every split of this test")
        shutil.copy(mlflow_store, "mlflow.db")
        shutil.copytree(archive, "data/raw")
        Path("params.yaml").write_text(yaml.safe_dump(PARAMS))
        said = [command(*stage) for stage in STAGES]
        Path("said.txt").write_text("\n".join(said))
    return folder


@pytest.fixture
def read(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda path: json.loads(path.read_text(encoding="utf-8"))


def test_a_film_keeps_both_findings_and_counts_in_each(read: Callable[[Path], Any]) -> None:
    films = image_set.load(CURATED)
    table = pd.read_csv("data/raw/labels.csv")
    assert films.classes == CLASSES
    assert films.manifest["label"].value_counts().to_dict() == table["label"].value_counts().to_dict()
    both = films.keep((films.manifest["label"] == BOTH).to_numpy())
    assert len(both.images) > 5
    assert (both.labels == [1, 0, 1]).all()
    imbalance = read(IMBALANCE)
    train = films.where(split="train")
    assert imbalance["together"]["effusion"]["pneumonia"] == (train.manifest["label"] == BOTH).sum()
    assert imbalance["rare"] == ["effusion", "pneumonia"]
    assert set(imbalance["draw"]) == set(CLASSES)


@pytest.mark.parametrize("name", GANS)
def test_images_are_drawn_with_the_findings_that_the_plan_says(name: str, read: Callable[[Path], Any]) -> None:
    drawn, imbalance = image_set.load(SYNTHETIC / name), read(IMBALANCE)
    for label in CLASSES:
        sets, images = imbalance["sets"][label], drawn.where(label=label)
        assert len(images.images) == imbalance["draw"][label]
        shares = images.manifest["label"].value_counts(normalize=True)
        for names, n in sets.items():
            assert shares.get(names, 0) == pytest.approx(n / sum(sets.values()), abs=0.1)
    assert (drawn.labels.sum(1) == 2).any()


def test_the_verdict_is_by_finding(read: Callable[[Path], Any]) -> None:
    verdict, downstream = read(VERDICT), read(DOWNSTREAM)
    assert set(verdict["words"]) == set(verdict["by_class"]) == {"effusion", "pneumonia"}
    assert downstream["classes"] == CLASSES
    assert set(downstream["fidelity"]["msg_gan"]) == set(CLASSES)
    films = image_set.load(CURATED).where(split="test")
    counted = {label: len(films.where(label=label).images) for label in CLASSES}
    assert downstream["test"]["by_class"] == counted
    assert sum(counted.values()) > downstream["test"]["images"]  # those with both count twice
    predictions = pd.read_csv("reports/predictions.csv")
    of_films = predictions[predictions["split"].isin(["val", "test"])]
    assert np.array_equal(of_films["finding_pneumonia"] == 1, of_films["label"].str.contains("pneumonia"))


def test_the_page_shows_which_findings_come_together(read: Callable[[Path], Any]) -> None:
    page, together = REPORT.read_text(encoding="utf-8"), read(IMBALANCE)["together"]
    assert "Which findings come together" in page
    both, of_finding = together["pneumonia"]["effusion"], together["pneumonia"]["pneumonia"]
    assert f"{100 * both / of_finding:.0f}\N{NO-BREAK SPACE}% <small>({both})</small>" in page
    assert "a row need not add up to 100 %" in page


def test_the_log_names_no_patient(project: Path) -> None:
    said = (project / "said.txt").read_text()
    assert "films with several findings, counted in each of them: " in said
    assert "effusion: " in said
    assert "PA0" not in said  # the folder of a patient


def test_the_registry_takes_its_generators(read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("models", "register", "msg_gan").startswith("version 1")
    command("models", "promote")
    assert "No sign of drift" in command("models", "drift")
    command("models", "register", "msg_sagan")
    assert "promoted: " in command("models", "challenge", "--seeds", "2")
    assert set(read(CHALLENGE)["gates"]) <= {"memorisation", "diversity", "fidelity"}
    assert "7 images" in command("synthesize", "champion", "drawn", "--label", "pneumonia", "--count", "7")
    drawn = image_set.load(Path("drawn"))
    assert (drawn.manifest["finding_pneumonia"] == "1").all()
    assert (drawn.manifest["finding_effusion"] == "1").any()
