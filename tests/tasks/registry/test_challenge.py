"""Only a challenger that is surely better is promoted: planted ones that are better, worse, equal, or not measured."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from model.gan import sampling
from model.gan.networks import Generator
from tasks import cli, image_set, imbalance, paths
from tasks.classify.arms import TrainingSet
from tasks.errors import UserError
from tasks.image_set import ImageSet
from tasks.params import Classify, Params, Quality
from tasks.registry import challenge, register, versions
from tasks.synthesize import stage
from tasks.synthesize.generator import read_generator
from tests.tasks import projects
from tests.tasks.sets import NORMAL_DISC, film, write_findings

PASSED = {
    "memorisation": {"passed": True, "why": "None."},
    "diversity": {"passed": True, "why": "As varied."},
    "fidelity": {"passed": True, "why": "Recognised."},
}
CLOSED = PASSED | {"diversity": {"passed": False, "why": "All alike."}}
RARE, DISC = 1, 45.0  # the number of the class, and the disc of a film of it
PARAMS = Params(classify=Classify(bootstrap=200), quality=Quality(pairs=100))

Draw = Callable[[np.random.Generator, int], np.ndarray]


@pytest.mark.parametrize(("promote", "words"), [(True, "To be promoted"), (False, "Not to be promoted")])
def test_the_command_says_what_is_to_be_done_for_it_does_nothing(
    promote: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(challenge, "run", lambda *_: {"promote": promote, "reason": "The reason."})
    assert CliRunner().invoke(cli.app, ["models", "challenge"]).output == f"{words}: The reason.\n"


def difference(mean: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"mean": mean, "low": low, "high": high}


NAN = float("nan")


@pytest.mark.parametrize(
    ("found", "margin", "gates", "promote", "words"),
    [
        (difference(0.05, 0.01, 0.09), 0.0, PASSED, True, "all of it above the margin of 0"),
        (difference(0.05, 0.0, 0.1), 0.0, PASSED, False, "not all of it above the margin of 0"),
        (difference(0.05, 0.01, 0.09), 0.02, PASSED, False, "not all of it above the margin of 0.02"),
        (difference(-0.05, -0.09, -0.01), 0.0, PASSED, False, "not all of it above"),
        (difference(0.05, 0.01, 0.09), 0.0, CLOSED, False, "All alike."),
        (difference(0.05, 0.01, 0.09), 0.0, {}, False, "Its gates were not measured"),
        (difference(0.05, None, None), 0.0, PASSED, False, "has no interval"),
        (difference(None, None, None), 0.0, PASSED, False, "could not be measured"),
        (difference(NAN, NAN, NAN), 0.0, PASSED, False, "not all of it above"),
        (None, 0.0, PASSED, False, "could not be measured"),
    ],
)
def test_what_is_not_surely_better_is_not_promoted(
    found: Any, margin: float, gates: Any, promote: bool, words: str
) -> None:
    decision, reason = challenge.decide(found, margin, gates, "helps", champion=1)
    assert decision is promote
    assert words in reason
    assert reason[0].isupper()
    assert "romoted" not in reason  # it stands after "was promoted" and "To be promoted"


@pytest.mark.parametrize(
    ("verdict", "gates", "promote"),
    [
        ("helps", PASSED, True),
        ("no evidence", PASSED, True),
        ("harms", PASSED, False),
        ("not measured", PASSED, False),
        ("", PASSED, False),
        ("helps", CLOSED, False),
        ("helps", {}, False),
    ],
)
def test_the_first_champion_must_do_no_harm(verdict: str, gates: Any, promote: bool) -> None:
    assert challenge.decide(None, 0.0, gates, verdict, champion=None)[0] is promote


def test_a_champion_that_cannot_take_part_is_replaced_by_nobody_but_a_person() -> None:
    why_not = "it cannot make rare, which the plan asks for"
    decision, reason = challenge.decide(None, 0.0, PASSED, "helps", 4, why_not)
    assert not decision
    assert "Version 4, the champion, is not comparable (it cannot make rare, which the plan asks for)" in reason
    assert "`xraysynth models promote`" in reason
    assert not challenge.decide(None, 0.0, CLOSED, "helps", 4, why_not)[0]


def test_without_a_rare_class_there_is_no_contest() -> None:
    decision, reason = challenge.decide(None, 0.0, {}, "helps", None, planned=False)
    assert not decision
    assert "No class is rare" in reason


# --- with a registry, generators whose images are planted, and classifiers that are as good as these


def true_films(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.stack([film(rng, projects.SIDE, DISC) for _ in range(count)])


def common_films(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.stack([film(rng, projects.SIDE, NORMAL_DISC) for _ in range(count)])


def fainter(rng: np.random.Generator, count: int) -> np.ndarray:
    """Films of the class, whose discs are not as bright."""
    return np.stack([film(rng, projects.SIDE, 0.9 * DISC) for _ in range(count)])


def mixed_up(rng: np.random.Generator, count: int) -> np.ndarray:
    """Films of the common class, called rare, with contrast enough to look as varied as rare ones."""
    common = common_films(rng, count).astype(float)
    return np.clip(80 + (common - 80) * rng.uniform(0.6, 1.6, (count, 1, 1)), 0, 255).astype(np.uint8)


def all_alike(rng: np.random.Generator, count: int) -> np.ndarray:
    one = film(rng, projects.SIDE, DISC).astype(float)
    return np.clip(one + rng.normal(0, 1, (count, *one.shape)), 0, 255).astype(np.uint8)


def discs(images: np.ndarray) -> np.ndarray:
    """(N,) how bright the disc of each image (N, H, W) is, with its noise."""
    return np.quantile(images.reshape(len(images), -1), 0.95, axis=1) - np.median(images, axis=(1, 2))


def told(chosen: TrainingSet, real: ImageSet, images: np.ndarray, params: Classify, seed: int) -> np.ndarray:
    """What `train_and_predict` says where nothing is trained: the nearer the rare images that it was shown are to rare
    films, the surer it tells them; which films are hard is the same for all."""
    true, other = (discs(real.where(split="train", label=label).images).mean() for label in ("rare", "normal"))
    strength = 3 * (discs(chosen.images[chosen.labels == RARE]).mean() - other) / (true - other)
    hard = np.random.default_rng(0).normal(0, 1, len(images))
    luck = np.random.default_rng([seed, len(chosen.images)]).normal(0, 0.1, len(images))
    found = 1 / (1 + np.exp(2 - strength * (discs(images) - other) / (true - other) - hard - luck))
    return np.stack([1 - found, found], axis=1)


@pytest.fixture
def project(mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(mlflow_store, "mlflow.db")
    projects.write_data(images=300, disc=DISC)
    projects.write_versioned()
    return tmp_path


@pytest.fixture
def plant(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Draw], int]:
    """Registers a generator whose images of rare come from `draw`, and returns its version."""
    drawers: dict[bytes, Draw] = {}

    def identity(generator: Generator) -> bytes:
        return next(generator.parameters()).detach().numpy().tobytes()

    def batches(generator: Generator, label: int, count: int, seed: int, truncation: float) -> Iterator[np.ndarray]:
        rng = np.random.default_rng([seed, 1, label])  # another stream than that of the films
        yield drawers[identity(generator)](rng, count) if label == RARE else common_films(rng, count)

    def planted(draw: Draw) -> int:
        projects.write_generator("msg_gan", seed=len(drawers) + 1)
        number = register.register("msg_gan")
        drawers[identity(read_generator(paths.MODELS / "msg_gan")[0])] = draw
        return number

    def either(
        generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0
    ) -> Iterator[np.ndarray]:
        if identity(generator) in drawers:
            return batches(generator, label, count, seed, truncation)
        return sampling.batches(generator, label, count, seed, truncation)

    monkeypatch.setattr(stage, "batches", either)
    monkeypatch.setattr("tasks.classify.stage.train_and_predict", told)
    return planted


def run(**options: Any) -> dict[str, Any]:
    result = challenge.run(paths.CURATED, paths.CHALLENGE, PARAMS, **options)
    assert json.loads(paths.CHALLENGE.read_text()) == result
    keys = "champion challenger measure difference margin gates promote reason"
    assert list(result) == keys.split()
    return result


def test_a_better_challenger_is_promoted_and_a_worse_one_is_not(plant: Callable[[Draw], int]) -> None:
    plant(mixed_up)
    versions.promote()
    plant(true_films)
    better = run()
    assert (better["champion"], better["challenger"], better["measure"]) == (1, 2, "rare_auprc")
    assert better["difference"], better["reason"]
    assert better["difference"]["low"] > 0, better
    assert better["promote"], better["reason"]
    assert {name: gate["passed"] for name, gate in better["gates"].items()} == dict.fromkeys(PASSED, True)
    versions.promote()

    plant(fainter)
    worse = run()
    assert worse["difference"], worse["reason"]
    assert (worse["champion"], worse["challenger"]) == (2, 3)
    assert worse["difference"]["mean"] < 0
    assert not worse["promote"]
    assert all(gate["passed"] for gate in worse["gates"].values())  # it is the difference that stands in the way


def test_images_of_another_class_are_not_promoted_whoever_is_champion(plant: Callable[[Draw], int]) -> None:
    plant(mixed_up)
    first = run()
    versions.promote()
    plant(mixed_up)
    for found in (first, run()):
        assert not found["promote"]
        assert [name for name, gate in found["gates"].items() if not gate["passed"]] == ["fidelity"]
        assert found["reason"] == found["gates"]["fidelity"]["sentence"]
        assert "Images of rare by the challenger are recognised as rare" in found["reason"]
        assert "more than 15 percentage points below" in found["reason"]


def test_the_first_one_is_promoted_unless_its_images_are_all_alike(plant: Callable[[Draw], int]) -> None:
    with pytest.raises(UserError, match="no challenger is in the registry"):
        run()
    plant(all_alike)
    alike = run()
    assert alike["champion"] is None
    assert not alike["promote"]
    assert not alike["gates"]["diversity"]["passed"]
    plant(true_films)
    assert run()["promote"]


def test_a_generator_of_copies_is_not_promoted(plant: Callable[[Draw], int]) -> None:
    train = image_set.load(paths.CURATED).where(split="train", label="rare").images
    plant(lambda rng, count: train[rng.integers(len(train), size=count)])
    result = run()
    assert not result["promote"]
    assert "are copies of training films" in result["gates"]["memorisation"]["sentence"]


def test_a_champion_that_does_not_know_a_class_is_not_compared_with(plant: Callable[[Draw], int]) -> None:
    projects.write_generator("msg_gan", seed=50, classes=["normal", "other"])
    register.register("msg_gan")
    with pytest.raises(UserError, match="challenger 1 is of no use here: it cannot make rare"):
        run()
    versions.promote()
    plant(true_films)
    result = run()
    assert (result["promote"], result["difference"]) == (False, None)
    assert "it cannot make rare, which the plan asks for" in result["reason"]


def test_a_generator_of_single_classes_is_of_no_use_for_films_with_several_findings(project: Path) -> None:
    shutil.rmtree(paths.CURATED)
    write_findings(paths.CURATED, side=projects.SIDE)
    imbalance.run(paths.CURATED, paths.IMBALANCE, paths.IMBALANCE_PLOTS, PARAMS.imbalance)
    projects.write_generator("msg_gan", seed=1)
    register.register("msg_gan")
    with pytest.raises(UserError, match="it learnt from films with one class each, and the films here have several"):
        run()
