"""From a curated set to a generator, its images, and the runs in MLflow; interruptions on the way."""

import dataclasses
import io
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image

from model.gan.networks import Generator, NetworkConfig
from model.gan.sampling import attention_blocks, latents, render
from model.gan.storage import load_generator
from model.training.guard import CollapseGuard, Reading
from model.training.loop import TrainConfig, Trainer
from tasks import image_set
from tasks.errors import UserError
from tasks.params import Model, Synthesize, Train
from tasks.synthesize import stage as synthesize_stage
from tasks.synthesize.generator import weights_digest
from tasks.tracking import runs as tracking
from tasks.train import card as train
from tasks.train import stage as train_stage
from tests.tasks.sets import write_set

PARAMS = Train(width=8, kimg=0.04, batch=4)
SAGAN = Model(attention_resolutions=[8])
SHOWN = {"samples.png", "interpolation.png", "attention.png", "card.md"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_set(folder / "curated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv(tracking.PIPELINE_VARIABLE, "one-execution")
        train_stage.run("msg_sagan", folder / "curated", folder / "models/msg_sagan", PARAMS, SAGAN)
    return folder


def test_a_model_folder_holds_what_the_design_says(trained: Path) -> None:
    folder = trained / "models/msg_sagan"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "generator.safetensors",
        "discriminator.safetensors",
        "config.json",
        "history.csv",
        "samples",
        *SHOWN,
    }
    history = pd.read_csv(folder / "history.csv")
    assert history["kimg"].iloc[-1] == pytest.approx(0.04)
    assert any(str(column).startswith("gamma.") for column in history)
    assert len(list((folder / "samples").iterdir())) == len(history)
    assert Image.open(folder / "samples.png").height == 2 * 32 + 3 * 2  # two classes, a row each
    card = (folder / "card.md").read_text()
    assert image_set.load(trained / "curated").digest in card
    assert "Not for" in card
    assert "collapse guard: no alarm" in card
    last = history.iloc[-1]
    assert f"{last['frechet']:.3g} from the real images,\n  {last['frechet_floor']:.3g} between" in card
    assert f"time of training: {last['seconds']:.0f} s on cpu" in card
    n = len(image_set.load(trained / "curated").where(split="train", label="rare").images)
    assert f"| rare | {n} | {last['ms_ssim.rare']:.3f} | {last['ms_ssim_real.rare']:.3f} |\n" in card
    assert all(f"({name})" in card for name in SHOWN if name.endswith(".png"))
    assert list((trained / train_stage.CHECKPOINTS).iterdir()) == []


def test_the_pictures_show_what_the_generator_does(trained: Path) -> None:
    generator, config = load_generator(trained / "models/msg_sagan")
    strip = np.asarray(Image.open(trained / "models/msg_sagan/interpolation.png"))
    assert strip.shape == (2 * 34 + 2, 10 * 34 + 2)
    ends = np.concatenate([strip[36:68, 2:34], strip[36:68, -34:-2]]).reshape(2, 32, 32)  # of class 1
    drawn = render(generator, latents(0, 0, 2, seed=0, dim=generator.config.inputs), torch.ones(2, dtype=torch.int64))
    assert np.abs(ends.astype(int) - drawn).max() <= 1
    before = np.asarray(Image.open(trained / "models/msg_sagan/attention.png"))
    assert min(before.shape[:2]) > 2 * 160
    block = attention_blocks(generator)[8]
    block.query.mul_(20)
    after = np.asarray(Image.open(io.BytesIO(train.pictures(generator, config["classes"])["attention.png"])))
    assert not np.array_equal(after, before)


def test_a_training_goes_on_from_an_earlier_one_and_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a step so small that nothing is learnt, it draws what the earlier one drew."""
    monkeypatch.chdir(tmp_path)
    params = PARAMS.model_copy(update={"head_start": str(trained / "models"), "learning_rate": 1e-9})
    train_stage.run("msg_sagan", trained / "curated", tmp_path / "out", params, SAGAN)
    said = "100 % of its weights from the head start models"
    assert f"msg_sagan: begins with {said}; 0.04 thousand images\n" in capsys.readouterr().out
    assert f"began with {said}\n" in (tmp_path / "out/card.md").read_text()
    written = (tmp_path / "out/card.md").read_text() + (tmp_path / "out/config.json").read_text()
    assert str(trained) not in written  # no place of this machine goes with a generator
    before, after = (load_generator(folder)[0] for folder in (trained / "models/msg_sagan", tmp_path / "out"))
    for weight, same in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(weight, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("head_start", "width", "sentence"),
    [
        ("nowhere", 8, "cannot begin with train.head_start: nowhere/msg_sagan has no generator.safetensors"),
        ("models", 16, "cannot begin with train.head_start: it has width 8, not 16"),
    ],
)
def test_a_head_start_that_is_not_there_or_does_not_fit_is_a_sentence(
    trained: Path, monkeypatch: pytest.MonkeyPatch, head_start: str, width: int, sentence: str
) -> None:
    monkeypatch.chdir(trained)
    params = PARAMS.model_copy(update={"head_start": head_start, "width": width})
    with pytest.raises(UserError, match=sentence):
        train_stage.run("msg_sagan", trained / "curated", trained / "out", params, SAGAN)
    assert not (trained / "out").exists()


def test_networks_of_another_width_than_the_packages_begin_with_random_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = PARAMS.model_copy(update={"head_start": "phantom"})
    train_stage.run("msg_gan", trained / "curated", tmp_path / "out", params, Model())
    assert "begins with random weights: the head start does not fit, it has width 64, not 8" in capsys.readouterr().out


def test_without_attention_there_is_no_picture_of_it() -> None:
    generator = Generator(NetworkConfig(16, width=8)).eval()
    assert train.pictures(generator, ["normal"]).keys() == {"samples.png", "interpolation.png"}


def runs(trained: Path, pipeline_id: str) -> tuple[MlflowClient, list[Run]]:
    """The runs of one execution, oldest first."""
    client = MlflowClient(f"sqlite:///{trained / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    mine = f"tags.pipeline_id = '{pipeline_id}'"
    return client, list(client.search_runs([experiment.experiment_id], mine, order_by=["attributes.start_time"]))


def test_the_run_is_in_mlflow_with_params_metrics_picture_and_digest(trained: Path) -> None:
    client, (run,) = runs(trained, "one-execution")
    assert run.info.status == "FINISHED"
    assert run.data.params["attention_resolutions"] == "[8]"
    assert run.data.tags["pipeline_id"] == "one-execution"
    assert run.data.tags["data_digest"] == image_set.load(trained / "curated").digest
    assert run.data.tags["weights"] == weights_digest(trained / "models/msg_sagan")  # by which the registry finds it
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "loss_generator")]
    assert steps == sorted(set(steps))
    assert len(steps) > 2
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == SHOWN


def test_only_the_train_split_is_learnt_from(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spy(images: np.ndarray, *_: object, **__: object) -> None:
        seen["images"] = images
        raise KeyboardInterrupt

    monkeypatch.chdir(trained)
    monkeypatch.setattr(train_stage, "train", spy)
    with pytest.raises(KeyboardInterrupt):
        train_stage.run("msg_gan", trained / "curated", trained / "models/spied", PARAMS, Model())
    np.testing.assert_array_equal(seen["images"], image_set.load(trained / "curated").where(split="train").images)
    assert not (trained / "models/spied").exists()


def test_params_that_do_not_fit_are_one_sentence(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    with pytest.raises(UserError, match="attention_resolutions"):
        train_stage.run("msg_sagan", trained / "curated", trained / "m", PARAMS, Model(attention_resolutions=[128]))


class Killed(BaseException):
    """In place of SIGKILL: nothing in the code catches it."""


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own with the same curated set; a checkpoint after every tick, which is every step."""
    shutil.copytree(trained / "curated", tmp_path / "curated")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained / 'mlflow.db'}")  # to make one takes seconds
    monkeypatch.setenv(tracking.PIPELINE_VARIABLE, tmp_path.name)
    monkeypatch.setattr("model.training.checkpoint.COST", math.inf)
    return tmp_path


def start() -> pd.DataFrame:
    return train_stage.run("msg_sagan", Path("curated"), Path("models/msg_sagan"), PARAMS, SAGAN)


def interrupt(at: int, expected: type[BaseException], action: Callable[[Trainer], None]) -> BaseException:
    """Start a training, act before step `at` of it, and return how it ended."""
    original = Trainer.step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        if self.steps == at:
            action(self)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(expected) as end:
            start()
    assert not Path("models/msg_sagan").exists()
    return end.value


def kill(trainer: Trainer) -> None:
    raise Killed


def test_an_interrupted_training_ends_as_an_undisturbed_one(
    trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(4, Killed, kill)
    interrupt(7, Killed, kill)
    capsys.readouterr()
    history = start()
    assert "msg_sagan: resumed at 0.03 kimg\n" in capsys.readouterr().out
    ours, expected = place / "models/msg_sagan", trained / "models/msg_sagan"
    for path in [*expected.rglob("*.png"), expected / "generator.safetensors"]:
        assert (ours / path.relative_to(expected)).read_bytes() == path.read_bytes(), path
    cards = ((folder / "card.md").read_text().splitlines() for folder in (ours, expected))
    assert [pair for pair in zip(*cards, strict=True) if pair[0] != pair[1] and "- time of" not in pair[0]] == []
    times = ["seconds", "images_per_second"]
    undisturbed = pd.read_csv(expected / "history.csv").drop(columns=times)
    pd.testing.assert_frame_equal(pd.read_csv(ours / "history.csv").drop(columns=times), undisturbed)
    assert len(history) == len(undisturbed)
    assert list(train_stage.CHECKPOINTS.iterdir()) == []

    client, parts = runs(trained, place.name)
    assert [run.data.tags.get("resumed_at_kimg") for run in parts] == [None, "0.016", "0.028"]
    steps = [m.step for m in client.get_metric_history(parts[-1].info.run_id, "loss_generator")]
    assert steps == [round(kimg * 1000) for kimg in history["kimg"]]


@pytest.mark.usefixtures("at_a_prompt")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_gives_a_sentence_its_exit_code_and_a_checkpoint(
    number: int, code: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = interrupt(3, SystemExit, lambda trainer: os.kill(os.getpid(), number))
    assert isinstance(end, SystemExit)
    assert end.code == code
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"msg_sagan: stopped by {signal.Signals(number).name} at 0.02 kimg; the same command")
    start()
    assert "resumed at 0.02 kimg" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_a_line_of_warning(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(5, Killed, kill)
    for file in train_stage.CHECKPOINTS.glob("*/*.safetensors"):
        file.write_bytes(b"torn")
    capsys.readouterr()
    start()
    said = capsys.readouterr()
    warned = said.err.splitlines()
    assert len(warned) == 3
    assert all(line.startswith("warning: ") for line in warned)
    assert warned[-1].endswith("the training starts anew")
    assert "resumed" not in said.out


def test_few_interrupted_trainings_are_kept(place: Path) -> None:
    others = [train_stage.CHECKPOINTS / name for name in ("msg_sagan-a", "msg_sagan-b", "msg_sagan-c", "msg_gan-d")]
    for age, folder in enumerate(others):
        folder.mkdir(parents=True)
        os.utime(folder, (1000 - age, 1000 - age))
    interrupt(5, Killed, kill)
    left = {folder.name for folder in train_stage.CHECKPOINTS.iterdir()} - {folder.name for folder in others}
    assert len(left) == 1
    assert [folder.exists() for folder in others] == [True, True, False, True]
    start()
    assert [folder.exists() for folder in others] == [True, True, False, True]


def test_a_diverged_training_is_a_sentence_and_not_tried_again(trained: Path, place: Path) -> None:
    def poison(trainer: Trainer) -> None:
        with torch.no_grad():
            next(trainer.generator.parameters()).fill_(math.nan)

    end = interrupt(0, UserError, poison)
    assert "msg_sagan: training diverged by 0.00 kimg" in str(end)
    assert "train.learning_rate" in str(end)
    _, (run,) = runs(trained, place.name)
    assert run.info.status == "FAILED"
    assert run.data.tags["alarm"].startswith("training diverged by 0.00 kimg")
    assert list(train_stage.CHECKPOINTS.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes."),
    ],
)
def test_too_little_memory_is_a_sentence(place: Path, error: Exception) -> None:
    def out_of_memory(trainer: Trainer) -> None:
        raise error

    assert "lower train.batch or train.width" in str(interrupt(1, UserError, out_of_memory))


def test_other_errors_are_shown_as_they_are(place: Path) -> None:
    def broken(trainer: Trainer) -> None:
        raise RuntimeError("a mistake of ours")

    assert str(interrupt(1, RuntimeError, broken)) == "a mistake of ours"


@pytest.mark.parametrize(("kimg", "tick"), [(6.0, 0.6), (1000.0, 20.0)])
def test_ticks_are_never_far_apart(kimg: float, tick: float, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spy(*arguments: object, **_: object) -> None:
        (config,) = (each for each in arguments if isinstance(each, TrainConfig))
        seen.append(config.tick_kimg)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_stage, "train", spy)
    with pytest.raises(KeyboardInterrupt):
        train_stage.run("msg_gan", Path("curated"), Path("models/x"), PARAMS.model_copy(update={"kimg": kimg}), Model())
    assert seen == [pytest.approx(tick)]


@pytest.mark.parametrize(("kimg", "head_start", "length"), [(0.0, True, 1.5), (0.0, False, 6.0), (2.0, True, 2.0)])
def test_a_head_start_makes_a_training_shorter_unless_params_say_how_long(
    kimg: float, head_start: bool, length: float
) -> None:
    assert train_stage.length(Train(kimg=kimg), head_start) == length


def test_an_alarm_of_the_guard_is_said_and_in_history_card_and_run(
    trained: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = CollapseGuard.check

    def alarmed(self: CollapseGuard, generator: Generator, kimg: float) -> Reading:
        alarm = "it repeats itself" if kimg > 0.01 else None
        return dataclasses.replace(check(self, generator, kimg), alarm=alarm, best=not alarm)

    monkeypatch.setattr(CollapseGuard, "check", alarmed)
    history = start()
    assert "warning: msg_sagan: it repeats itself; the training ends with" in capsys.readouterr().err
    assert len(history) == 3
    assert history["alarm"].dropna().tolist() == ["it repeats itself"]
    assert {"near_duplicates.normal", "near_duplicates.rare"} <= set(history)
    _, (run,) = runs(trained, place.name)
    assert run.data.tags["alarm"] == "it repeats itself"
    card = Path("models/msg_sagan/card.md").read_text()
    assert "collapse guard: it repeats itself; this is" in card
    learnt = image_set.load(Path("curated")).where(split="train")
    kept, _ = load_generator("models/msg_sagan")
    reading = check(CollapseGuard(learnt.images, learnt.labels, learnt.classes), kept, 0)
    assert f": {reading.frechet:.3g} from the real images" in card
    assert reading.frechet != pytest.approx(history["frechet"].iloc[-1], rel=0.001)
    assert {"frechet", "ms_ssim.rare", "ms_ssim_real.rare"} <= set(pd.read_csv("models/msg_sagan/history.csv"))


def test_a_class_without_films_is_one_sentence(place: Path) -> None:
    manifest = pd.read_csv("curated/manifest.csv")
    manifest.loc[manifest["label"] == "rare", "split"] = "test"
    manifest.to_csv("curated/manifest.csv", index=False)
    with pytest.raises(UserError, match="msg_sagan cannot learn from curated: no images of class 'rare'"):
        start()


def test_synthesis_repeats_and_does_not_depend_on_the_count(trained: Path) -> None:
    for name, count in (("few", 3), ("many", 80)):
        synthesize_stage.run(trained / "models/msg_sagan", trained / name, {"rare": count}, Synthesize(seed=4))
    few, many = (image_set.load(trained / name) for name in ("few", "many"))
    np.testing.assert_array_equal(few.images, many.images[:3])
    assert many.manifest["label"].unique().tolist() == ["rare"]
    assert many.manifest["image_id"].is_unique


def test_pngs(trained: Path) -> None:
    synthesize_stage.run(trained / "models/msg_sagan", trained / "png", {"normal": 2, "rare": 3}, Synthesize(), "png")
    assert len(list((trained / "png/rare").glob("*.png"))) == 3
    picture = np.asarray(Image.open(trained / "png/normal/000000.png"))
    assert picture.shape == (32, 32)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(("plan", "words"), [({"cat": 3}, "no class 'cat'; it has normal, rare")])
def test_an_unknown_class_is_one_sentence(plan: dict[str, int], words: str, trained: Path) -> None:
    with pytest.raises(UserError, match=words):
        synthesize_stage.run(trained / "models/msg_sagan", trained / "cats", plan, Synthesize())
    assert not (trained / "cats").exists()


def test_no_generator_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="xraysynth train"):
        synthesize_stage.run(tmp_path, tmp_path / "out", {"rare": 1}, Synthesize())
