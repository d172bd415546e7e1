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
