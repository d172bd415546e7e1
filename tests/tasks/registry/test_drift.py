"""Planted changes of the data are found, and where nothing has changed nothing is said."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from tasks import image_set, paths
from tasks.image_set import ImageSet
from tasks.registry import drift, register, versions
from tasks.registry.data_summary import statistics, summarise
from tests.tasks import projects
from tests.tasks.sets import film


def films(counts: dict[str, int], seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    labels = [label for label, count in counts.items() for _ in range(count)]
    images = np.stack([film(rng, 32, float(rng.uniform(20, 60))) for _ in labels])
    return ImageSet(images, pd.DataFrame({"label": labels}), list(counts), "d")


def changed(images: ImageSet, pixels: np.ndarray) -> ImageSet:
    return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), images.manifest, images.classes, images.digest)


COUNTS = {"normal": 120, "rare": 40}


@pytest.mark.parametrize("seed", range(5))
def test_other_films_of_the_same_kind_are_no_drift(seed: int) -> None:
    found = drift.compare(summarise(films(COUNTS)), films({"normal": 130, "rare": 38}, seed + 1))
    assert found["warnings"] == []
    assert found["sentence"].startswith("No sign of drift")
    assert found["images"]["rare"]["contrast"]["p"] > 0.001


@pytest.mark.parametrize("statistic", ["mean grey", "contrast", "sharpness"])
def test_a_planted_change_of_the_images_is_named(statistic: str) -> None:
    now = films(COUNTS, seed=1)
    pixels = now.images.astype(float)
    planted = {
        "mean grey": pixels + 15,
        "contrast": 80 + (pixels - 80) * 1.6,
        "sharpness": gaussian_filter(pixels, (0, 0.5, 0.5)),
    }
    found = drift.compare(summarise(films(COUNTS)), changed(now, planted[statistic]))
    assert any(f"The {statistic} of normal has moved from" in warning for warning in found["warnings"])
    assert any(f"The {statistic} of rare has moved from" in warning for warning in found["warnings"])
    assert found["sentence"].startswith(f"{len(found['warnings'])} signs of drift: The ")


def joined(*sets: ImageSet) -> ImageSet:
    manifest = pd.concat([images.manifest for images in sets], ignore_index=True)
    return ImageSet(np.concatenate([images.images for images in sets]), manifest, sets[0].classes, "d")


@pytest.mark.parametrize("seed", range(5))
def test_a_small_delivery_of_the_same_kind_is_no_drift(seed: int) -> None:
    old = films({"normal": 400, "rare": 120}, seed)
    found = drift.compare(summarise(old), joined(old, films({"normal": 28, "rare": 8}, seed + 100)))
    assert found["warnings"] == []
    assert found["new"]["films"] == 36
    assert found["new"]["images"]["rare"]["films"] == {"before": 120, "now": 8}


def test_a_small_delivery_that_differs_is_named_though_the_whole_has_hardly_moved() -> None:
    old, delivery = films({"normal": 400, "rare": 120}), films({"normal": 30}, seed=1)
    found = drift.compare(summarise(old), joined(old, changed(delivery, delivery.images.astype(float) + 15)))
    assert [warning.split(" of ")[0] for warning in found["warnings"]] == [
        "In the 30 new films the class balance has moved by 23.1 %",
        "In the 30 new films the mean grey",
    ]
    assert found["images"]["normal"]["mean_grey"]["psi"] < drift.LARGE_PSI


def test_films_whose_labels_were_changed_are_new() -> None:
    old = films({"normal": 100, "rare": 100})
    other = old.manifest.assign(label=["rare" if k < 30 else label for k, label in enumerate(old.manifest["label"])])
    found = drift.compare(summarise(old), ImageSet(old.images, other, old.classes, "d"))
    assert found["new"]["films"] == 30
    assert any("30 new films the class balance" in warning for warning in found["warnings"])


def test_without_new_films_and_without_old_ones_there_is_one_comparison() -> None:
    old = films(COUNTS)
    assert drift.compare(summarise(old), old)["new"] == {}
    assert drift.compare(summarise(old), films(COUNTS, seed=1))["new"] == {}
    unmarked = {name: value for name, value in summarise(old).items() if name != "seen"}
    assert drift.compare(unmarked, old)["new"] == {}


def test_sharpness_does_not_take_contrast_for_itself() -> None:
    images = films({"normal": 20}).images
    flat = (80 + (images.astype(float) - 80) * 0.6).round().astype(np.uint8)
    np.testing.assert_allclose(statistics(images)["sharpness"], statistics(flat)["sharpness"], atol=0.03)


def test_a_change_of_the_class_balance_is_named() -> None:
    before = summarise(films(COUNTS))
    found = drift.compare(before, films({"normal": 100, "rare": 100}, seed=1))
    assert found["classes"]["total_variation"] == 0.25
    assert found["classes"]["p"] < 1e-4
    assert any("class balance has moved by 25 % of the films" in warning for warning in found["warnings"])
    few = drift.compare(before, films({"normal": 3, "rare": 3}, seed=1))  # no more than chance
    assert few["warnings"] == []


def of_sets(counts: dict[str, int], seed: int = 0) -> ImageSet:
    images = films(counts, seed)
    classes = sorted({name for names in counts for name in names.split("|")})
    columns = [image_set.with_findings(names, "", classes) for names in images.manifest["label"]]
    return ImageSet(images.images, images.manifest.join(pd.DataFrame(columns)), classes, "d")


SETS = {"normal": 300, "a": 60, "b": 60, "a|b": 20, "c": 20, "a|c": 8, "b|c": 7, "a|b|c": 3}


@pytest.mark.parametrize("seed", range(5))
def test_films_with_the_same_sets_of_findings_are_no_drift(seed: int) -> None:
    old = of_sets(SETS)
    drawn = pd.Series(list(SETS)).sample(40, replace=True, weights=list(SETS.values()), random_state=seed)
    delivery = of_sets(dict(Counter(drawn)), seed + 1)
    found = drift.compare(summarise(old), joined(old, delivery))
    assert found["warnings"] == []
    assert found["classes"]["counts"]["c"] == {"before": 38, "now": 38 + int(drawn.str.contains("c").sum())}
    assert found["images"]["c"]["contrast"]["psi"] < 0.1


def test_small_deliveries_of_the_same_sets_rarely_differ_by_chance() -> None:
    """Of few films many sets have one or none, and by the distribution of chi-square 8 of these would differ."""
    old = {"normal": 1500, "a": 300, "b": 300, "a|b": 60, "c": 60, "a|c": 12, "b|c": 10, "a|b|c": 6}
    share = np.array(list(old.values())) / sum(old.values())
    drawn = np.random.default_rng(0).multinomial(36, share, size=200)
    deliveries = [dict(zip(old, counts.tolist(), strict=True)) for counts in drawn]
    found = [drift.class_balance(old, now, drift.RESAMPLES)["p"] for now in deliveries]
    assert sum(p < drift.UNLIKELY for p in found) <= 4


def test_findings_that_come_together_more_often_are_drift_though_each_is_as_frequent() -> None:
    now = of_sets({**SETS, "normal": 340, "a": 20, "b": 20, "a|b": 60}, seed=1)
    found = drift.compare(summarise(of_sets(SETS)), now)
    assert {name: count["now"] for name, count in found["classes"]["counts"].items()} == {
        name: count["before"] + 40 * (name == "normal") for name, count in found["classes"]["counts"].items()
    }
    assert found["warnings"] == [
        "The sets of findings have moved by 16.7 % of the films, most of all a, from 12.6 % to 4.2 %."
    ]


def test_a_summary_tells_of_no_rare_set_of_findings() -> None:
    assert summarise(of_sets(SETS))["sets"] == {**{names: n for names, n in SETS.items() if n >= 5}, "": 3}
    assert "sets" not in summarise(films(COUNTS))


def test_that_films_have_several_findings_now_is_said_first() -> None:
    single, several = films({"normal": 100, "a": 40, "b": 40}), of_sets({"normal": 100, "a": 40, "b": 39, "a|b": 1}, 1)
    there, back = (
        drift.compare(summarise(old), now)["warnings"] for old, now in ((single, several), (several, single))
    )
    assert there == ["The champion learnt from films with one class each, and the films now have several findings."]
    assert back == ["The champion learnt from films with several findings each, and the films now have one class."]


def test_new_and_lost_classes_are_named() -> None:
    found = drift.compare(summarise(films(COUNTS)), films({"normal": 120, "effusion": 9}, seed=1))
    assert "The class effusion is new, with 9 films." in found["warnings"]
    assert "The class rare has gone, of which there were 40 films." in found["warnings"]
    assert list(found["images"]) == ["normal"]


def test_images_of_another_size_are_not_compared() -> None:
    now = films(COUNTS, seed=1)
    found = drift.compare(summarise(films(COUNTS)), changed(now, np.kron(now.images, np.ones((1, 2, 2)))))
    assert found["images"] == {}
    assert found["warnings"] == ["The images had 32 pixels a side and have 64: their statistics are not compared."]


def test_a_summary_tells_of_no_single_film() -> None:
    images = films({"normal": 60, "rare": 4})
    summary = summarise(images)
    assert list(summary["images"]) == ["normal"]  # four films are too few
    for name in ("mean_grey", "contrast", "sharpness"):
        shares = summary["images"]["normal"][name]["shares"]
        assert min(shares) * 60 >= 5
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert len(summary["seen"]) == 64
    assert {len(mark) for mark in summary["seen"]} == {8}
    assert summary["seen"] == sorted(summary["seen"])  # not in the order of the films
    assert len(json.dumps(summary | {"seen": []})) < 3000  # whatever the number of films


def test_against_the_champion_of_the_registry(
    mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(mlflow_store, "mlflow.db")
    projects.write_data(images=150)
    projects.write_versioned()
    nobody = drift.run(paths.CURATED, paths.DRIFT)
    assert (nobody["champion"], nobody["warnings"]) == (None, [])
    projects.write_generator("msg_gan", seed=1)
    register.register("msg_gan")
    versions.promote()
    same = drift.run(paths.CURATED, paths.DRIFT)
    assert (same["champion"], same["warnings"], same["classes"]["total_variation"]) == (1, [], 0)
    shutil.rmtree(paths.CURATED)
    projects.write_data(images=150, disc=10, seed=1)
    other = drift.run(paths.CURATED, paths.DRIFT)
    assert any("of rare has moved" in warning for warning in other["warnings"])
    assert json.loads(paths.DRIFT.read_text()) == other
