"""From files and labels to a curated set: nothing lost, nobody named, refusals in one sentence."""

import os
import re
import shutil
import stat
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import psutil
import pydicom
import pytest
from PIL import Image

from benchmarks import kills
from tasks import image_set
from tasks.errors import UserError
from tasks.ingest import cache, pseudonyms, stage, workers
from tasks.ingest.films import decode
from tasks.ingest.films.film import Film
from tasks.ingest.films.resize import to_square
from tasks.params import Fit, Ingest
from tests.tasks.films import ramp, write_film

PARAMS = Ingest(size=32)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_labels(path: Path, rows: Sequence[tuple[str, ...]], header: str = "path,label") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def archive(in_tmp: Path) -> Path:
    """Twelve films of six patients in two classes, and files of every refused kind."""
    raw, rows = in_tmp / "raw", []
    rng = np.random.default_rng(0)
    for k in range(12):
        name = f"study{k % 3}/film{k}"
        write_film(raw / name, rng.integers(0, 4096, (40, 30), dtype=np.uint16), patient=f"SECRET-{k // 2}")
        rows.append((name, "normal" if k < 8 else "rare"))
    write_film(raw / "ct", ramp(), Modality="CT")
    write_film(raw / "unlabelled", ramp(), patient="SECRET-9")
    write_film(raw / "conflict", ramp(32, 2000), patient="SECRET-9")
    write_film(raw / "nobody", ramp(32, 1000), patient="")
    (raw / "copy").write_bytes((raw / "study0/film0").read_bytes())
    (raw / "notes.txt").write_text("SECRET-1 was here")
    rows += [("ct", "normal"), ("conflict", "normal"), ("conflict", "rare"), ("copy", "normal"), ("nobody", "normal")]
    write_labels(raw / "labels.csv", rows)
    return raw


def test_inputs_are_curated_or_quarantined(archive: Path, in_tmp: Path) -> None:
    out = in_tmp / "curated"
    counts = stage.run(archive, archive / "labels.csv", out, PARAMS)
    quarantine = pd.read_csv(out / "quarantine.csv").set_index("path")["reason"].to_dict()
    files = [p for p in archive.rglob("*") if p.is_file() and p.name != "labels.csv"]
    assert counts["inputs"] == len(files) == counts["curated"] + counts["quarantined"]
    # The files are taken in the order of their paths: of two equal ones the first stays.
    assert quarantine == {
        "conflict": "conflicting_labels",
        "ct": "not_a_radiograph",
        "nobody": "no_patient",
        "notes.txt": "not_dicom",
        "study0/film0": "duplicate",
        "unlabelled": "no_label",
    }
    images = image_set.load(out)
    assert images.images.shape == (12, 32, 32)
    assert images.classes == ["normal", "rare"]
    assert images.manifest["label"].value_counts().to_dict() == {"normal": 8, "rare": 4}


def test_the_pixels_are_those_of_the_file(archive: Path, in_tmp: Path) -> None:
    write_film(archive / "ramp", ramp(32, 4095), patient="SECRET-0", WindowCenter=2048, WindowWidth=4096)
    with (archive / "labels.csv").open("a") as labels:
        labels.write("ramp,normal\n")
    stage.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)
    images = image_set.load(in_tmp / "curated").images
    closest = np.abs(images.astype(int) - np.rint(ramp(32, 4095) / 4095 * 255)).max((1, 2)).min()
    assert closest <= 1


def test_no_identifier_in_what_is_written(archive: Path, in_tmp: Path) -> None:
    stage.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)
    written = b"".join(p.read_bytes() for p in (in_tmp / "curated").iterdir())
    assert b"SECRET" not in written
    assert b"DOE" not in written


def test_pseudonyms_stay_and_depend_on_the_key(archive: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def patients() -> list[str]:
        stage.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)
        return list(image_set.load(in_tmp / "curated").manifest["patient_id"])

    first = patients()
    assert stat.S_IMODE(pseudonyms.KEY_FILE.stat().st_mode) == 0o600
    assert patients() == first
    monkeypatch.setenv(pseudonyms.KEY_VARIABLE, "another key")
    assert not set(patients()) & set(first)


def test_pictures_take_the_patient_from_the_labels(in_tmp: Path) -> None:
    raw, rows = in_tmp / "raw", []
    raw.mkdir()
    rng = np.random.default_rng(0)
    for k in range(8):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(raw / f"{k}.png")
        rows.append((f"{k}.png", "ab"[k % 2], f"p{k // 2 * 2 + k % 2}"))
    labels = write_labels(in_tmp / "labels.csv", rows, "path,label,patient_id")
    counts = stage.run(raw, labels, in_tmp / "curated", PARAMS)
    assert counts["curated"] == 8


@pytest.mark.parametrize(
    ("fit", "shape", "black"),
    [("pad", (40, 20), 16 * 32), ("crop", (40, 20), 0), ("stretch", (40, 20), 0), ("pad", (8, 8), 0)],
)
def test_fit(fit: Fit, shape: tuple[int, int], black: int) -> None:
    image = to_square(Film(np.ones(shape, dtype=np.float32), shape), 32, fit)
    assert image.shape == (32, 32)
    assert (image == 0).sum() == black
    assert set(np.unique(image)) <= {0, 255}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("no folder", "no folder"),
        ("empty", "holds no films"),
        ("no labels", "no labels file"),
        ("columns", "has no column label"),
        ("one patient", "class 'rare' has 1 patient"),
        ("nothing fits", "none of the 18 files"),
        ("class name", "is no class name"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(damage: str, sentence: str, archive: Path, in_tmp: Path) -> None:
    source, labels, out = archive, archive / "labels.csv", in_tmp / "curated"
    if damage == "no folder":
        source = in_tmp / "nowhere"
    elif damage == "empty":
        source = in_tmp / "empty"
        source.mkdir()
    elif damage == "no labels":
        labels = in_tmp / "nowhere.csv"
    elif damage == "columns":
        write_labels(labels, [("a", "b")], "path,finding")
    elif damage == "one patient":
        write_labels(labels, [(f"study{k % 3}/film{k}", "rare" if k > 9 else "normal") for k in range(12)])
    elif damage == "nothing fits":
        write_labels(labels, [("elsewhere.dcm", "normal")])
    elif damage == "class name":
        write_labels(labels, [("ct", "../../etc")])
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        stage.run(source, labels, out, PARAMS)
    assert "\n" not in str(error.value)
    assert not out.exists()
    assert not list(in_tmp.glob(".*tmp"))


def test_a_failed_run_leaves_the_old_set(archive: Path, in_tmp: Path) -> None:
    out = in_tmp / "curated"
    stage.run(archive, archive / "labels.csv", out, PARAMS)
    before = (out / "manifest.csv").read_bytes()
    write_labels(archive / "labels.csv", [("elsewhere.dcm", "normal")])
    with pytest.raises(UserError):
        stage.run(archive, archive / "labels.csv", out, PARAMS)
    assert (out / "manifest.csv").read_bytes() == before


def grown_old(folder: Path) -> None:
    """Files that were changed a moment ago are decoded again; these are of yesterday."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 86400,) * 2)


def test_unchanged_files_are_not_decoded_again(archive: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown_old(archive)
    out = in_tmp / "curated"
    first = stage.run(archive, archive / "labels.csv", out, PARAMS)
    assert first.pop("unchanged") == 0
    before = kills.files(out)
    work: list[str] = []
    each = workers.each

    def noted(do: Any, items: Sequence[str], *more: Any) -> Any:
        work.extend(items if do.func is decode.decode_file else [])
        return each(do, items, *more)

    monkeypatch.setattr(workers, "each", noted)
    second = stage.run(archive, archive / "labels.csv", out, PARAMS)
    assert (second.pop("unchanged"), second, kills.files(out), work) == (first["inputs"], first, before, [])
    write_film(archive / "study1/film1", ramp(40, 3000), patient="SECRET-0")
    stage.run(archive, archive / "labels.csv", out, PARAMS)
    assert work == ["study1/film1"]
    assert kills.files(out) != before
    work.clear()
    stage.run(archive, archive / "labels.csv", out, PARAMS.model_copy(update={"fit": "crop"}))
    assert len(work) == first["inputs"]


def test_added_files_leave_most_shards_as_they_were(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC stores shards by their content: what did not change is neither stored nor sent again."""
    monkeypatch.setattr(image_set, "SHARD_BYTES", 16 * 32 * 32)
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    raw.mkdir()
    names = [f"2026-{week:02}/film{k}" for week in range(20) for k in range(20)]
    for name in [*names, "2026-99/new0", "2026-99/new1", "2026-07/new2"]:
        write_film(raw / name, rng.integers(0, 4096, (32, 32), dtype=np.uint16), patient=name)

    def shards(rows: Sequence[tuple[str, ...]]) -> set[bytes]:
        stage.run(raw, write_labels(in_tmp / "labels.csv", rows), in_tmp / "curated", PARAMS)
        return {path.read_bytes() for path in (in_tmp / "curated").glob("images-*.npy")}

    old = [(name, "ab"[k % 2]) for k, name in enumerate(names)]
    before = shards(old)
    assert len(before) > 10
    assert len(shards([*old, ("2026-99/new0", "a"), ("2026-99/new1", "b")]) - before) == 1
    assert len(shards([*old, ("2026-07/new2", "a")]) - before) <= 2


def test_the_same_picture_is_taken_once_and_never_under_two_names(in_tmp: Path) -> None:
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (6, 32, 32), dtype=np.uint16)
    rows = []
    for name, picture, patient, label in [
        *((f"p{k}", k, f"P{k}", "ab"[k % 2]) for k in range(4)),
        ("copy", 0, "P0", "a"),  # another SOPInstanceUID, the same picture
        ("x0", 4, "P4", "a"), ("x1", 4, "P4", "b"),  # which label is right?
        ("y0", 5, "P5", "a"), ("y1", 5, "P6", "a"),  # whose is it?
    ]:  # fmt: skip
        write_film(raw / name, pixels[picture], patient=patient)
        rows.append((name, label))
    lenient = PARAMS.model_copy(update={"max_quarantined": 1})
    counts = stage.run(raw, write_labels(in_tmp / "l.csv", rows), in_tmp / "curated", lenient)
    assert counts["curated"] == 4
    reasons = pd.read_csv(in_tmp / "curated" / "quarantine.csv").set_index("path")["reason"].to_dict()
    two = {"x0": "conflicting_labels", "x1": "conflicting_labels"}
    assert reasons == {"p0": "duplicate", **two, "y0": "conflicting_patients", "y1": "conflicting_patients"}


def test_too_many_refusals_fail_with_the_reasons_and_the_quarantine(archive: Path, in_tmp: Path) -> None:
    out = in_tmp / "curated"
    limited = PARAMS.model_copy(update={"max_quarantined": 0.2})
    with pytest.raises(UserError, match=r"27\.8 % of the 18 files .* \(1 .*not_dicom.*allows 20 %") as error:
        stage.run(archive, archive / "labels.csv", out, limited)
    assert "curated.quarantine.csv" in str(error.value)
    assert not out.exists()
    assert len(pd.read_csv(in_tmp / "curated.quarantine.csv")) == 6
    stage.run(archive, archive / "labels.csv", out, PARAMS)
    assert not (in_tmp / "curated.quarantine.csv").exists()


def test_links_that_lead_out_and_odd_names(archive: Path, in_tmp: Path) -> None:
    outside = write_film(in_tmp / "elsewhere" / "film", ramp(32, 500))
    (archive / "link").symlink_to(outside)
    (archive / "folder").symlink_to(outside.parent)
    (archive / "within").symlink_to(archive / "study1")
    (archive / "broken").symlink_to(archive / "nothing")
    os.mkfifo(archive / "pipe")
    odd = os.fsdecode(b"film-\xff\xfe")
    write_film(archive / odd, ramp(32, 3000))
    counts = stage.run(
        archive, archive / "labels.csv", in_tmp / "curated", PARAMS.model_copy(update={"max_quarantined": 1})
    )
    assert counts["inputs"] == 18 + 5
    reasons = pd.read_csv(in_tmp / "curated" / "quarantine.csv").set_index("path")["reason"].to_dict()
    assert (reasons["link"], reasons["folder"]) == ("outside_source", "outside_source")
    assert (reasons["broken"], reasons["pipe"]) == ("unreadable", "unreadable")
    assert reasons[r"film-\xff\xfe"] == "no_label"


def test_a_link_to_itself_and_a_source_of_links_alone(archive: Path, in_tmp: Path) -> None:
    (archive / "loop").symlink_to(archive / "loop")
    stage.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)
    reasons = pd.read_csv(in_tmp / "curated" / "quarantine.csv").set_index("path")["reason"].to_dict()
    assert reasons["loop"] == "unreadable"
    (in_tmp / "links").mkdir()
    for path in archive.glob("study0/*"):
        (in_tmp / "links" / path.name).symlink_to(path)
    with pytest.raises(UserError, match=r"none of the 4 files .* \(4 outside_source\)"):
        stage.run(in_tmp / "links", archive / "labels.csv", in_tmp / "none", PARAMS)


def test_moved_films_are_known_by_their_bytes(archive: Path, in_tmp: Path) -> None:
    first = stage.run(archive, archive / "labels.csv", in_tmp / "first", PARAMS)
    shutil.copytree(archive, in_tmp / "elsewhere")
    second = stage.run(in_tmp / "elsewhere", archive / "labels.csv", in_tmp / "second", PARAMS)
    assert second["unchanged"] == first["inputs"] == second["inputs"] - 1  # there the table is a file like others
    assert kills.files(in_tmp / "second")["manifest.csv"] == kills.files(in_tmp / "first")["manifest.csv"]


def test_an_output_inside_the_source_is_refused(archive: Path) -> None:
    with pytest.raises(UserError, match="lies in"):
        stage.run(archive, archive / "labels.csv", archive / "curated", PARAMS)


def test_pictures_in_folders_of_classes(in_tmp: Path) -> None:
    """Without a patient each file is refused, unless the params say that it may stand for one."""
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    for k in range(8):
        (raw / "ab"[k % 2] / "week1").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(raw / "ab"[k % 2] / "week1" / f"{k}.png")
    shutil.copy(raw / "a" / "week1" / "0.png", raw / "a" / "copy.png")
    how = Ingest(size=32, label_format="folder", classes=["a", "b"])
    with pytest.raises(UserError, match="9 no_patient"):
        stage.run(raw, raw, in_tmp / "curated", how)
    counts = stage.run(raw, raw, in_tmp / "curated", how.model_copy(update={"patients": "per_file"}))
    assert (counts["curated"], counts["reasons"]) == (8, {"duplicate": 1})
    assert image_set.load(in_tmp / "curated").manifest["patient_id"].nunique() == 8


def test_films_of_other_classes_are_no_sign_of_damage(in_tmp: Path) -> None:
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    rows = []
    for k in range(20):
        write_film(raw / f"{k}", rng.integers(0, 4096, (32, 32), dtype=np.uint16), patient=f"P{k}")
        rows.append((f"{k}", "abcde"[k % 5]))
    how = Ingest(size=32, classes=["a", "b"], max_quarantined=0.1)
    labels = write_labels(in_tmp / "labels.csv", rows)
    counts = stage.run(raw, labels, in_tmp / "curated", how)
    assert (counts["curated"], counts["reasons"]) == (8, {"other_class": 12})
    thinner = how.model_copy(update={"thin_train": {"b": 0.5}})
    counts = stage.run(raw, labels, in_tmp / "thinned", thinner)
    assert (counts["curated"], counts["reasons"]) == (7, {"other_class": 12, "thinned": 1})
    whole, rest = (image_set.load(in_tmp / name).manifest for name in ("curated", "thinned"))
    gone = whole[~whole["image_id"].isin(rest["image_id"])]
    assert gone[["label", "split"]].to_numpy().tolist() == [["b", "train"]]
    refused = pd.read_csv(in_tmp / "thinned/quarantine.csv").set_index("reason").loc["thinned"]
    assert (rows[int(str(refused["path"]))][1], len(str(refused["digest"]))) == ("b", 64)


def test_a_key_that_was_cut_short_is_refused(archive: Path, in_tmp: Path) -> None:
    pseudonyms.load_key()
    pseudonyms.KEY_FILE.write_bytes(b"")
    with pytest.raises(UserError, match="cut short"):
        stage.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)


def test_sizes_hold_before_reading(archive: Path, in_tmp: Path) -> None:
    with (archive / "huge").open("wb") as file:
        file.truncate(1 << 34)
    small = PARAMS.model_copy(update={"max_megapixels": 0.001})
    write_film(archive / "tiny", ramp(20), patient="T1")
    write_film(archive / "tiny2", ramp(20).T, patient="T2")
    write_labels(archive / "labels.csv", [("tiny", "a"), ("tiny2", "a"), ("huge", "a")])
    counts = stage.run(
        archive, archive / "labels.csv", in_tmp / "curated", small.model_copy(update={"max_quarantined": 1})
    )
    assert (counts["curated"], counts["reasons"]["too_large"]) == (2, 17)


@pytest.mark.parametrize("label_format", ["folder", "dicom_tag"])
def test_labels_from_the_films_themselves(in_tmp: Path, label_format: Literal["folder", "dicom_tag"]) -> None:
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    for k in range(8):
        pixels = rng.integers(0, 4096, (32, 32), dtype=np.uint16)
        write_film(raw / "ab"[k % 2] / f"{k}", pixels, patient=f"P{k}", StudyDescription="cd"[k % 2])
    tag = "StudyDescription" if label_format == "dicom_tag" else ""
    how = Ingest(size=32, label_format=label_format, label_tag=tag, classes=["c", "d"] if tag else ["a", "b"])
    stage.run(raw, raw, in_tmp / "curated", how)
    assert image_set.load(in_tmp / "curated").classes == (["c", "d"] if tag else ["a", "b"])


@pytest.mark.parametrize("key", ["SOPInstanceUID", "PatientID", "file_name"])
def test_labels_by_what_is_in_the_header(archive: Path, in_tmp: Path, key: str) -> None:
    rows = []
    for path in sorted(archive.glob("study*/*")):
        header = pydicom.dcmread(path)
        rows.append((path.name if key == "file_name" else str(header[key].value), "ab"[int(header.PatientID[-1]) % 2]))
    labels = write_labels(in_tmp / "table.csv", list(dict.fromkeys(rows)), f"{key},label")
    counts = stage.run(archive, labels, in_tmp / "curated", PARAMS)
    assert counts["curated"] == 12


def test_several_findings_are_settled_by_the_params(in_tmp: Path) -> None:
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    rows = []
    for k, label in enumerate(["a", "a", "b", "b", "a|b", "c", "b;c"]):
        write_film(raw / f"{k}", rng.integers(0, 4096, (32, 32), dtype=np.uint16), patient=f"P{k}")
        rows.append((f"{k}", label))
    labels = write_labels(in_tmp / "labels.csv", rows)

    def curate(**how: Any) -> tuple[dict[str, int], dict[str, int]]:
        counts = stage.run(raw, labels, in_tmp / "curated", Ingest(size=32, **how))
        return dict(Counter(image_set.load(in_tmp / "curated").manifest["label"])), counts["reasons"]

    left_out = {"a": 2, "b": 3}, {"several_labels": 1, "other_class": 1}
    assert curate(classes=["a", "b"], multi_label="leave_out") == left_out
    assert curate(classes=["b", "a"], multi_label="first") == ({"a": 2, "b": 4}, {"other_class": 1})
    assert curate(classes=["b", "a"], multi_label="all") == ({"a": 2, "b": 3, "a|b": 1}, {"other_class": 1})
    films = image_set.load(in_tmp / "curated")
    assert films.classes == ["a", "b"]
    assert films.manifest.loc[films.manifest["label"] == "a|b", ["finding_a", "finding_b"]].to_numpy().tolist() == [
        ["1", "1"]
    ]


def test_a_table_without_several_findings_gives_the_same_bytes_whatever_is_asked_for(
    archive: Path, in_tmp: Path
) -> None:
    names: list[Literal["leave_out", "auto", "all"]] = ["leave_out", "auto", "all"]
    for name in names:
        if name == "all":
            (archive / "conflict").unlink()  # of which two rows say different things
        params = Ingest(size=32, multi_label=name, uncertain="positive")
        stage.run(archive, archive / "labels.csv", in_tmp / name, params)
    before, after, whatever = (kills.files(in_tmp / name) for name in names)
    assert before == after
    assert before["manifest.csv"] == whatever["manifest.csv"]
    assert "finding" not in before["manifest.csv"].decode()


CHESTXRAY14 = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"


def test_all_findings_of_chestxray14_are_taken_and_nobody_is_named(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, rng, rows = in_tmp / "images", np.random.default_rng(0), [CHESTXRAY14]
    raw.mkdir()
    labels = ["No Finding", "Hernia", "Effusion|Pneumonia", "Effusion", "Effusion|Hernia|Pneumonia"]
    for k in range(40):
        name = f"{90210 + k:08d}_000.png"
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(raw / name)
        rows.append(f"{name},{labels[k % 5]},0,{90210 + k},58,M,PA")
    table = in_tmp / "Data_Entry_2017.csv"
    table.write_text("\n".join(rows) + "\n")

    def curate(multi_label: Literal["leave_out", "all"]) -> dict[str, Any]:
        params = Ingest(size=16, label_format="chestxray14", multi_label=multi_label, max_quarantined=1)
        return stage.run(raw, table, in_tmp / "curated", params)

    assert curate("leave_out")["curated"] == 24  # of 40
    capsys.readouterr()
    counts = curate("all")
    said = capsys.readouterr().out
    films = image_set.load(in_tmp / "curated")
    assert counts["curated"] == 40
    assert films.classes == ["Effusion", "Hernia", "No Finding", "Pneumonia"]
    assert films.labels.sum(0).tolist() == [24, 16, 8, 16]
    assert set(films.manifest["label"]) == set(labels)
    assert "films with several findings, counted in each of them: 16" in said
    assert "  Effusion: 24 taken" in said
    assert "9021" not in said + (in_tmp / "curated/manifest.csv").read_text()
    for label in films.classes:
        assert {"train", "test"} <= set(films.where(label=label).manifest["split"])


def test_what_labels_do_not_know_is_left_open_in_the_manifest(in_tmp: Path) -> None:
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    cells = ["1,0,0", "0,1,-1", ",1,1", "-1,,", "0,0,0", "1,-1,"]
    rows = []
    for k in range(36):
        write_film(raw / f"{k}", rng.integers(0, 4096, (32, 32), dtype=np.uint16), patient=f"P{k}")
        rows.append((f"{k}", cells[k % 6]))
    table = write_labels(in_tmp / "labels.csv", rows, "path,Mass,Effusion,Hernia")
    classes = ["normal", "Mass", "Effusion", "Hernia"]
    params = Ingest(size=32, multi_label="all", classes=classes)
    counts = stage.run(raw, table, in_tmp / "curated", params)
    assert counts["reasons"] == {"uncertain": 6}
    films = image_set.load(in_tmp / "curated")
    assert films.classes == sorted(classes)
    found = {label: row.tolist() for label, row in zip(films.manifest["label"], films.labels, strict=True)}
    assert found["normal"] == [0, 0, 0, 1]
    assert found["Effusion|Hernia"] == [1, 1, -1, 0]
    assert [row.tolist() for row in films.labels].count([1, -1, 0, 0]) == 6
    assert [row.tolist() for row in films.labels].count([-1, -1, 1, 0]) == 6
    for policy, curated in (("positive", 36), ("negative", 36)):
        again = params.model_copy(update={"uncertain": policy})
        assert stage.run(raw, table, in_tmp / "curated", again)["curated"] == curated
        assert (image_set.load(in_tmp / "curated").labels >= 0).all()


def test_the_same_picture_with_other_findings_is_a_conflict(in_tmp: Path) -> None:
    raw, rng = in_tmp / "raw", np.random.default_rng(0)
    rows = []
    for k in range(20):
        write_film(raw / f"{k:02}", rng.integers(0, 4096, (32, 32), dtype=np.uint16), patient=f"P{k}")
        rows.append((f"{k:02}", ("a", "a|b", "b", "normal")[k % 4]))
    for k, label in ((0, "a|b"), (1, "b;a")):
        shutil.copy(raw / f"{k:02}", raw / f"copy{k}")
        rows.append((f"copy{k}", label))
    labels = write_labels(in_tmp / "labels.csv", rows)
    counts = stage.run(raw, labels, in_tmp / "curated", Ingest(size=32, multi_label="all"))
    assert counts["reasons"] == {"conflicting_labels": 2, "duplicate": 1}  # the order of findings says nothing
    assert counts["losses"]["b"] == {"conflicting_labels": 1, "duplicate": 1}


@pytest.fixture
def larger_archive(in_tmp: Path) -> Path:
    raw, rng = in_tmp / "larger", np.random.default_rng(0)
    rows = [(f"{k:03}", "ab"[k % 2]) for k in range(300)]
    for name, _ in rows:
        write_film(raw / name, rng.integers(0, 4096, (128, 128), dtype=np.uint16), patient=name)
    write_labels(raw / "labels.csv", rows)
    grown_old(raw)
    return raw


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Its worker processes that are about to take their first films, or have."""
    with suppress(psutil.NoSuchProcess):
        found = [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]
        return [child for child in found if child.num_threads() > 1]  # one waits for the parent's end
    return []


def a_worker_is_there(_: Path) -> bool:
    return any(workers_of(child) for child in psutil.Process().children())


def films_are_kept(_: Path) -> bool:
    """The first of them, in the store: the others are still to be decoded."""
    return sum(file.stat().st_size for file in cache.STORE_FILE.parent.glob("*.sqlite*")) > 256 * 4096


def the_set_is_being_written(out: Path) -> bool:
    return out.with_name(f".{out.name}.tmp").exists()


def test_killed_and_run_again(larger_archive: Path) -> None:
    """After kill -9 there is either no set or a whole one, no worker lives on, and the next run is as the first.

    At any moment: `benchmarks/kills.py`.
    """
    seen = kills.ingest_killed(larger_archive, [a_worker_is_there, films_are_kept, the_set_is_being_written])
    assert seen > 0


def test_a_worker_killed_from_outside_costs_no_film(larger_archive: Path, in_tmp: Path) -> None:
    process = kills.ingest(larger_archive, in_tmp / "out")
    victims: list[psutil.Process] = []
    while not victims and process.poll() is None:
        victims = workers_of(psutil.Process(process.pid))
    victims[0].kill()
    assert process.wait() == 0
    assert len(image_set.load(in_tmp / "out").manifest) == 300


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_set(archive: Path, in_tmp: Path, cluster: str) -> None:
    import dask

    stage.run(archive, archive / "labels.csv", in_tmp / "here", PARAMS)
    Path(".xraysynth/decoded.sqlite").unlink()
    with dask.config.set({"scheduler-address": cluster}):
        there = PARAMS.model_copy(update={"executor": "dask"})
        counts = stage.run(archive, archive / "labels.csv", in_tmp / "there", there)
    assert counts["unchanged"] == 0
    assert kills.files(in_tmp / "there") == kills.files(in_tmp / "here")
