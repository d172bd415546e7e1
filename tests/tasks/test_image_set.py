"""Sets on disk: whole or not there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks import image_set
from tasks.errors import UserError
from tasks.files import written_whole


def test_images_come_back_in_the_order_of_the_manifest_across_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_set, "SHARD_BYTES", 3 * 16)
    writer = image_set.ShardWriter(tmp_path)
    images = np.arange(8, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    rows = [["a" if k < 5 else "b", *writer.add(image)] for k, image in enumerate(images)]
    manifest = pd.DataFrame(rows, columns=["label", "shard", "row"])
    image_set.save_index(tmp_path, manifest, ["a", "b"], 4, writer)
    assert len(list(tmp_path.glob("images-*.npy"))) > 1
    loaded = image_set.load(tmp_path)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.where(label="b").images, images[5:])
    assert loaded.labels.tolist() == [0] * 5 + [1] * 3


def test_an_empty_set_is_a_set(tmp_path: Path) -> None:
    empty = pd.DataFrame(columns=["label", "shard", "row"])
    image_set.save_index(tmp_path, empty, ["a"], 16, image_set.ShardWriter(tmp_path))
    assert image_set.load(tmp_path).images.shape == (0, 16, 16)


def test_a_failure_inside_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "set"
    out.mkdir()
    (out / "dataset.json").touch()

    def fail_half_way() -> None:
        with written_whole(out) as folder:
            folder.mkdir()
            (folder / "new").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert [p.name for p in tmp_path.rglob("*")] == ["set", "dataset.json"]


def test_a_folder_of_somebody_else_s_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "film.dcm").touch()
    with pytest.raises(UserError, match="not an earlier output"), written_whole(tmp_path / "films"):
        pass
    assert (tmp_path / "films" / "film.dcm").exists()


def test_an_earlier_output_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with written_whole(tmp_path / "set") as folder:
            folder.mkdir()
            (folder / "dataset.json").write_text("{}")
            (folder / content).touch()
    assert {p.name for p in tmp_path.rglob("*")} == {"set", "dataset.json", "second"}


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".set.tmp").mkdir()
    (tmp_path / ".set.tmp" / "half").touch()
    with written_whole(tmp_path / "set") as folder:
        folder.mkdir()
    assert list((tmp_path / "set").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), written_whole(tmp_path / "file" / "set"):
        pass


def test_no_set_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an image set"):
        image_set.load(tmp_path)


CLASSES = ["effusion", "mass", "normal"]
SETS = [("effusion|mass", ""), ("normal", "mass"), ("effusion", "mass"), ("mass", "")]


def write_findings(folder: Path, unknown: bool = True) -> image_set.ImageSet:
    folder.mkdir()
    writer, rows = image_set.ShardWriter(folder), []
    for k, (label, unsure) in enumerate(SETS):
        columns = image_set.with_findings(label, unsure if unknown else "", CLASSES)
        shard, row = writer.add(np.full((4, 4), k, np.uint8))
        split = ("train", "test")[k % 2]
        rows.append({"patient_id": f"{k}", "label": label, **columns, "split": split, "shard": shard, "row": row})
    image_set.save_index(folder, pd.DataFrame(rows), CLASSES, 4, writer)
    return image_set.load(folder)


def test_several_findings_come_back_as_a_matrix(tmp_path: Path) -> None:
    films = write_findings(tmp_path / "set")
    assert films.several
    assert films.labels.dtype == np.int8
    assert films.labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, -1, 0], [0, 1, 0]]  # of no finding none is unknown
    assert films.where(label="effusion").images[:, 0, 0].tolist() == [0, 2]
    assert films.where(label="mass", split="train").images[:, 0, 0].tolist() == [0]
    assert films.counts() == {
        "train": {"effusion": 2, "mass": 1, "normal": 0},
        "test": {"effusion": 0, "mass": 1, "normal": 1},
    }
    assert image_set.known(films.manifest, "mass").tolist() == [True, True, False, True]
    assert image_set.sets_of_findings(films.manifest, CLASSES) == {
        "effusion": {"effusion": 1, "effusion|mass": 1},
        "mass": {"effusion|mass": 1, "mass": 1},
        "normal": {"normal": 1},
    }
    text = (tmp_path / "set/manifest.csv").read_text().splitlines()
    assert text[0] == "patient_id,label,finding_effusion,finding_mass,finding_normal,split,shard,row"
    assert text[3].startswith("2,effusion,1,,0,train,")


def test_what_is_not_known_is_part_of_the_digest(tmp_path: Path) -> None:
    assert write_findings(tmp_path / "a").digest != write_findings(tmp_path / "b", unknown=False).digest


def test_an_image_drawn_for_a_finding_is_of_that_one(tmp_path: Path) -> None:
    films = write_findings(tmp_path / "set")
    drawn = image_set.ImageSet(
        films.images, films.manifest.assign(drawn_for=["mass", "normal", "effusion", "mass"]), CLASSES, ""
    )
    assert drawn.where(label="mass").images[:, 0, 0].tolist() == [0, 3]
    assert drawn.where(label="effusion").images[:, 0, 0].tolist() == [2]


@pytest.mark.parametrize(
    ("name", "none"),
    [("No Finding", True), ("no_finding", True), ("NORMAL", True), ("abnormal", False), ("No Lung Opacity", False)],
)
def test_names_of_no_finding(name: str, none: bool) -> None:
    assert image_set.none_there(name) is none
