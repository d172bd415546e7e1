"""Paths as people's tables write them: what can mean one film alone means it, and nothing is guessed."""

import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from tasks.ingest.labels import Entry, Labels, read_labels
from tasks.ingest.matching import Places, outermost
from tests.tasks.ingest.test_labels import by_path, csv_file, pseudonym

FILES = ["x/a/one.png", "x/a/two.dcm", "x/b/three", "Übersicht.png"]
NFD = unicodedata.normalize("NFD", "Übersicht.png")


def read(tmp_path: Path, keys: list[str], files: list[str] = FILES, column: str = "path") -> Labels:
    rows = "".join(f'"{key}",{"xyz"[k % 3]}\n' for k, key in enumerate(keys))
    return read_labels(csv_file(tmp_path / "labels.csv", f"{column},label\n{rows}"), "table", files, pseudonym)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["/data/films/x/a/one.png", "/data/films/x/a/two.dcm"], "2 without the folders that the table writes before"),
        (["D:\\films\\x\\a\\one.png", "D:\\films\\x\\a\\two.dcm"], "2 without the folders"),
        (["\\\\server\\share\\x\\a\\one.png", "\\\\server\\share\\x\\a\\two.dcm"], "2 without the folders"),
        (["src/x/a/one.png", "src/x/a/two.dcm"], "2 without the folders"),
        (["file:///src/x/a/one.png", "file:///src/x/a/two.dcm"], "2 without the folders"),
        (["one.png", "two.dcm"], "2 by the end of the path alone"),
        (["a/one.png", "a/two.dcm"], "2 by the end of the path alone"),
        (["x/a/one.PNG", "X/A/Two.dcm"], "2 by a name whose capitals or accents are written otherwise"),
        (["C:\\X\\A\\ONE.PNG", "C:\\X\\A\\TWO.DCM"], "2 without the folders"),
    ],
)
def test_a_path_that_means_one_film_is_matched_and_that_is_said(keys: list[str], said: str, tmp_path: Path) -> None:
    labels = read(tmp_path, keys)
    assert by_path(labels, "x/a/one.png") == Entry(("x",))
    assert by_path(labels, "x/a/two.dcm") == Entry(("y",))
    assert by_path(labels, "x/b/three") is None
    assert said in labels.sentence
    assert labels.warnings == []


@pytest.mark.parametrize("column", ["path", "file_name"])
@pytest.mark.parametrize(("written", "file"), [(NFD, FILES[3]), (FILES[3], NFD)])
def test_accents_in_either_form_are_the_same(column: str, written: str, file: str, tmp_path: Path) -> None:
    labels = read(tmp_path, [written], [*FILES[:3], file], column)
    assert by_path(labels, file) == Entry(("x",))
    assert "1 by a name whose capitals or accents" in labels.sentence


@pytest.mark.parametrize("key", ["ONE.PNG", "one", "One", "D:\\films\\x\\a\\one.png", "a/one.png"])
def test_names_are_matched_so_too(key: str, tmp_path: Path) -> None:
    assert by_path(read(tmp_path, [key], column="image"), "x/a/one.png") == Entry(("x",))


def test_what_can_mean_two_films_means_none(tmp_path: Path) -> None:
    files = ["x/1.png", "y/1.png", "z/2.png", "3.png", "x/3.PNG"]
    labels = read(tmp_path, ["1.png", "D:/1.png", "D:/x/3.png"], files)
    assert [by_path(labels, file) for file in files[:2]] == [Entry((), conflict=True)] * 2
    assert by_path(labels, "x/3.PNG") == Entry(("z",))
    assert by_path(labels, "3.png") is None


def test_two_paths_that_would_mean_one_film_are_a_conflict(tmp_path: Path) -> None:
    """Of two archives, of which one is here: nobody knows which."""
    labels = read(tmp_path, ["D:/old/one.png", "D:/new/one.png"], ["one.png", "two.png"])
    assert by_path(labels, "one.png") == Entry((), conflict=True)


def test_a_film_deeper_in_the_archive_of_the_table_is_not_one_at_the_top_of_the_source(tmp_path: Path) -> None:
    """IM1 of a study that is not here has the name of a film that is: no label comes of it."""
    labels = read(tmp_path, ["/pacs/s1/IM1", "/pacs/s2/IM1", "/pacs/s3/IM1"], ["s1/IM1", "s2/IM1", "IM1"])
    assert [by_path(labels, file) for file in ("s1/IM1", "s2/IM1", "IM1")] == [Entry(("x",)), Entry(("y",)), None]
    assert "1 for no file of the source" in labels.sentence
    assert labels.unmatched() == {"z": 1}


def test_the_nearest_miss_is_named_by_its_entry(tmp_path: Path) -> None:
    """No path of the table goes into the log: it may say whose film it is."""
    labels = read(tmp_path, ["nowhere.png", "D:/other/one.png", "x/b/three.jpg"])
    assert [by_path(labels, file) for file in FILES] == [None] * 4
    assert labels.sentence == "labels: table, matched by path; 3 entries, 3 for no file of the source"
    assert labels.warnings == [
        "2 of the 3 entries for no file name one that is there in another folder or with another extension, entry 2 "
        "for one; quarantine.csv names the nearest entry beside each file"
    ]
    near = "; entry {} names a file like it, in another folder or with another extension"
    assert labels.nothing_said("x/a/one.png") == "the labels say nothing of this file" + near.format(2)
    assert labels.nothing_said("x/b/three") == "the labels say nothing of this file" + near.format(3)
    assert labels.nothing_said("x/a/two.dcm") == "the labels say nothing of this file"
    assert labels.unmatched() == {"x": 1, "y": 1, "z": 1}


def test_of_folders_within_each_other_those_with_more_rows_are_the_source() -> None:
    assert outermost(Counter({("d:", "f"): 9, ("d:", "f", "s"): 1, ("e:",): 2})) == {("d:", "f"), ("e:",)}
    assert outermost(Counter({("d:",): 1, ("d:", "f"): 9})) == {("d:", "f")}


def test_folders_beside_the_source_name_no_film_in_it(tmp_path: Path) -> None:
    """Where paths are written from the source on, s3/IM1 is not the film IM1, and takes nothing from its own label."""
    files = ["s1/IM1", "s1/IM2", "s2/IM1", "IM1"]
    labels = read(tmp_path, ["s1/IM1", "s1/IM2", "s2/IM1", "s3/IM1"], files)
    assert by_path(labels, "IM1") is None
    assert labels.unmatched() == {"x": 1}
    labels = read(tmp_path, ["s1/IM1", "IM1", "s2/IM1", "s3/IM1", "s4/IM1"], files)
    assert by_path(labels, "IM1") == Entry(("y",))


def test_paths_of_a_whole_machine_stand_beside_those_from_the_source_on(tmp_path: Path) -> None:
    labels = read(tmp_path, ["x/a/one.png", "x/b/three", "D:\\films\\x\\a\\two.dcm", "/films/Übersicht.png"])
    assert [by_path(labels, file) for file in FILES] == [Entry((name,)) for name in ("x", "z", "y", "x")]


def test_a_name_of_several_films_takes_nothing_from_those_whose_path_is_given(tmp_path: Path) -> None:
    labels = read(tmp_path, ["s1/IM1", "s2/IM1", "IM1"], ["s1/IM1", "s2/IM1", "s3/IM1"])
    assert [by_path(labels, f"s{k}/IM1") for k in (1, 2, 3)] == [Entry(("x",)), Entry(("y",)), Entry((), conflict=True)]


def test_a_path_that_is_the_end_of_very_many_means_none() -> None:
    files = ["x/1.png", *(f"{k}/p/x/1.png" for k in range(100))]
    assert Places("path", files).find("p/x/1.png").place is None
    assert Places("path", files).find("7/p/x/1.png").place == "7/p/x/1.png"
    assert Places("path", files).find("D:/7/p/x/1.png").place == "7/p/x/1.png"


def test_twenty_thousand_films_of_one_name_take_seconds(tmp_path: Path) -> None:
    """As in an archive of study/DICOM/IM1: neither what is missed nor what is moved is compared with all the others."""
    start = time.perf_counter()
    read(tmp_path, [f"old/{k}/DICOM/IM1" for k in range(20_000)], [f"new{k}/DICOM/IM1" for k in range(20_000)])
    moved = read(tmp_path, [f"/pacs/{k}/IM{k}" for k in range(20_000)], [f"IM{k}" for k in range(20_000)])
    assert time.perf_counter() - start < 8  # quadratic, it took over a minute
    assert by_path(moved, "IM7") == Entry(("y",))


def test_keys_of_one_table_are_read_together() -> None:
    found = Places("path", ["s1/IM1", "s2/IM1", "IM1", "one.png"]).find_all(
        ["s1/IM1", "s2/IM1", "s3/IM1", "D:/old/one.png", "D:/new/one.png"]
    )
    assert [meant.place for meant in found.values()] == ["s1/IM1", "s2/IM1", "", None, None]
