"""From a curated set to a generator, its images, and the runs in MLflow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from PIL import Image

from tasks import curated, synthesize, tracking, train
from tasks.errors import UserError
from tasks.params import Model, Synthesize, Train
from tests.tasks.sets import write_set

PARAMS = Train(width=8, kimg=0.04, batch=4)
SAGAN = Model(attention_resolutions=[8])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_set(folder / "curated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv(tracking.PIPELINE_VARIABLE, "one-execution")
        train.run("msg_sagan", folder / "curated", folder / "models/msg_sagan", PARAMS, SAGAN)
    return folder


def test_a_model_folder_holds_what_the_design_says(trained: Path) -> None:
    folder = trained / "models/msg_sagan"
    names = {path.name for path in folder.iterdir()}
    assert names == {"generator.safetensors", "config.json", "history.csv", "samples.png", "samples", "card.md"}
    history = pd.read_csv(folder / "history.csv")
    assert history["kimg"].iloc[-1] == pytest.approx(0.04)
    assert any(str(column).startswith("gamma.") for column in history)
    assert len(list((folder / "samples").iterdir())) == len(history)
    assert Image.open(folder / "samples.png").height == 2 * 32 + 3 * 2  # two classes, a row each
    card = (folder / "card.md").read_text()
    assert curated.load(trained / "curated").digest in card
    assert "Not for" in card


def test_the_run_is_in_mlflow_with_params_metrics_picture_and_digest(trained: Path) -> None:
    client = MlflowClient(f"sqlite:///{trained / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["attention_resolutions"] == "[8]"
    assert run.data.tags["pipeline_id"] == "one-execution"
    assert run.data.tags["data_digest"] == curated.load(trained / "curated").digest
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "loss_generator")]
    assert steps == sorted(set(steps))
    assert len(steps) > 2
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"samples.png", "card.md"}


def test_only_the_train_split_is_learnt_from(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spy(images: np.ndarray, *_: object, **__: object) -> None:
        seen["images"] = images
        raise KeyboardInterrupt

    monkeypatch.chdir(trained)
    monkeypatch.setattr(train, "train", spy)
    with pytest.raises(KeyboardInterrupt):
        train.run("msg_gan", trained / "curated", trained / "models/spied", PARAMS, Model())
    np.testing.assert_array_equal(seen["images"], curated.load(trained / "curated").where(split="train").images)
    assert not (trained / "models/spied").exists()


def test_params_that_do_not_fit_are_one_sentence(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    with pytest.raises(UserError, match="attention_resolutions"):
        train.run("msg_sagan", trained / "curated", trained / "m", PARAMS, Model(attention_resolutions=[128]))


def test_synthesis_repeats_and_does_not_depend_on_the_count(trained: Path) -> None:
    for name, count in (("few", 3), ("many", 80)):
        synthesize.run(trained / "models/msg_sagan", trained / name, {"rare": count}, Synthesize(seed=4))
    few, many = (curated.load(trained / name) for name in ("few", "many"))
    np.testing.assert_array_equal(few.images, many.images[:3])
    assert many.manifest["label"].unique().tolist() == ["rare"]
    assert many.manifest["image_id"].is_unique


def test_pngs(trained: Path) -> None:
    synthesize.run(trained / "models/msg_sagan", trained / "png", {"normal": 2, "rare": 3}, Synthesize(), "png")
    assert len(list((trained / "png/rare").glob("*.png"))) == 3
    picture = np.asarray(Image.open(trained / "png/normal/000000.png"))
    assert picture.shape == (32, 32)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(("plan", "words"), [({"cat": 3}, "no class 'cat'; it has normal, rare")])
def test_an_unknown_class_is_one_sentence(plan: dict[str, int], words: str, trained: Path) -> None:
    with pytest.raises(UserError, match=words):
        synthesize.run(trained / "models/msg_sagan", trained / "cats", plan, Synthesize())
    assert not (trained / "cats").exists()


def test_no_generator_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="xraysynth train"):
        synthesize.run(tmp_path, tmp_path / "out", {"rare": 1}, Synthesize())


def test_an_mlflow_that_fails_on_the_way_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.tracked("stage", {}, "0" * 64) as run:
        monkeypatch.setattr(MlflowClient, "log_batch", _down)
        run.metrics({"a": 1.0})
    assert "warning: MLflow did not take a record: the store is down" in capsys.readouterr().err


def test_an_mlflow_that_cannot_be_used_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", _down)
    with pytest.raises(UserError, match="MLflow's store cannot be used"), tracking.tracked("stage", {}, "0" * 64):
        pass


def _down(*_: object, **__: object) -> None:
    raise MlflowException("the store is down")
