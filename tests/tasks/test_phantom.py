"""Simulated films in place of a generator's images: of which classes, through the same ingest, and none unasked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import cli, image_set, phantom
from tasks.errors import UserError
from tasks.files import write_json
from tasks.params import PHANTOM, Ingest, Phantom
from tasks.simulate.stage import simulate
from tests.tasks.sets import write_findings, write_set

SETTINGS = Ingest(size=32, workers=1)
COUNTS = {"viral": 3, "bacterial": 2, "normal": 2}
OF = Phantom(of={"viral": "pneumonia", "bacterial": "pneumonia"})


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "data/curated")


def test_films_are_drawn_for_every_class_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def noted(out: Path, patients: int, seed: int, **others: Any) -> None:
        seeds.append(seed)
        simulate(out, patients, seed, **others)

    monkeypatch.setattr("tasks.phantom.simulate", noted)
    phantom.run(Path("data/curated"), Path("drawn"), COUNTS, SETTINGS, OF)
    drawn = image_set.load(Path("drawn"))
    assert drawn.manifest["label"].value_counts().to_dict() == COUNTS
    assert drawn.images.shape == (7, 32, 32)
    assert len({image.tobytes() for image in drawn.images}) == 7
    assert drawn.images.std(axis=(1, 2)).min() > 20  # films, and no empty pictures
    assert seeds == [2_000_000]  # no archive that a user can simulate has these films
    assert not list(Path(".xraysynth").glob("tmp*"))
    phantom.run(Path("data/curated"), Path("again"), COUNTS, SETTINGS, OF)
    np.testing.assert_array_equal(image_set.load(Path("again")).images, drawn.images)


def test_a_class_without_a_counterpart_is_a_sentence_before_anything_is_drawn() -> None:
    with pytest.raises(UserError, match=r"do not know what to take for viral, bacterial; say it in phantom\.of"):
        phantom.run(Path("data/curated"), Path("drawn"), COUNTS, SETTINGS, Phantom())
    assert not Path("drawn").exists()


@pytest.mark.parametrize(("arms", "count"), [("classic, classic+msg_gan", 0), ("classic, two_stage_phantom", 4)])
def test_none_are_drawn_unless_an_arm_asks_for_them(
    arms: str, count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("params.yaml").write_text(
        f"ingest: {{size: 32, workers: 1}}\nphantom: {{of: {{rare: effusion}}}}\nclassify: {{arms: [{arms}]}}\n"
    )
    write_json(Path("reports/imbalance.json"), {"plan": {"rare": 2}, "draw": {"normal": 2, "rare": 2}})
    monkeypatch.setattr("sys.argv", ["xraysynth", "phantom"])
    cli.app(["phantom"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines()[-1] == f"{count} simulated films in data/synthetic/{PHANTOM}"
    drawn = image_set.load(Path("data/synthetic/phantom"))
    assert len(drawn.images) == count
    assert drawn.classes == ["normal", "rare"]


def test_films_with_several_findings_have_no_simulated_counterpart(tmp_path: Path) -> None:
    curated = write_findings(tmp_path / "findings")
    with pytest.raises(UserError, match=r"films in .* may have several findings, and the arms of phantom draw"):
        phantom.run(curated, Path("drawn"), {"left": 2}, SETTINGS, Phantom(of={"left": "effusion"}))
    phantom.run(curated, Path("drawn"), {}, SETTINGS, Phantom())  # no arm asks for any
    assert len(image_set.load(Path("drawn")).images) == 0
