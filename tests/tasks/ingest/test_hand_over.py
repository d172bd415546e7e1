"""Labels and films as a hospital hands them over: nothing is dropped or relabelled without a word."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks import kills
from tasks import cli, image_set
from tasks.errors import UserError
from tasks.files import written_whole
from tasks.ingest import pseudonyms, stage, workers
from tasks.params import Ingest, load
from tests.tasks.films import ramp, write_film

Said = Callable[[], str]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, and the work in this process: it is the labels that are tested."""
    monkeypatch.chdir(tmp_path)

    def each(work: Callable[[Any], Any], items: Sequence[Any], *_: Any) -> Iterator[Any]:
        return map(work, items)

    monkeypatch.setattr(workers, "each", each)
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return lambda: capsys.readouterr().out


def film(path: str, k: int, patient: str | None = None, **elements: Any) -> Path:
    """A film like no other, of a patient of its own."""
    pixels = np.random.default_rng(k).integers(0, 4096, (32, 32), dtype=np.uint16)
    return write_film(Path("raw") / path, pixels, patient=f"P{k}" if patient is None else patient, **elements)


def curate(rows: Sequence[str], header: str = "path,label", check: bool = False, **how: Any) -> dict[str, Any]:
    Path("labels.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    do = stage.check if check else stage.run
    return do(Path("raw"), Path("labels.csv"), Path("curated"), Ingest(**{"size": 32, "max_quarantined": 1.0, **how}))


def labels_taken() -> dict[str, int]:
    return dict(image_set.load(Path("curated")).manifest["label"].value_counts())


class TestKeys:
    @pytest.mark.parametrize(
        ("column", "keyword"),
        [
            ("AccessionNumber", "AccessionNumber"),
            ("accession number", "AccessionNumber"),
            ("StudyInstanceUID", "StudyInstanceUID"),
            ("Series Instance UID", "SeriesInstanceUID"),
            ("SOP Instance UID", "SOPInstanceUID"),
            ("Patient ID", "PatientID"),
        ],
    )
    def test_an_identifier_is_a_key(self, column: str, keyword: str, said: Said) -> None:
        rows = []
        for k in range(8):
            path = film(f"{k}", k, AccessionNumber=f"A{k}", StudyInstanceUID=f"1.2.{k}", SeriesInstanceUID=f"1.3.{k}")
            rows.append(f"{pydicom.dcmread(path)[keyword].value},{'ab'[k % 2]}")
        assert curate(rows, f"{column},label")["curated"] == 8
        assert f"matched by {column}; 8 entries" in said()
        assert labels_taken() == {"a": 4, "b": 4}

    def test_the_most_specific_key_wins_and_is_said(self, said: Said) -> None:
        """Two exams a patient, of which one is labelled: the other has no label, and does not borrow one."""
        for k in range(16):
            film(f"{k:02}", k, f"P{k // 2}", AccessionNumber=f"A{k}")
        counts = curate([f"A{k},P{k // 2},{'ab'[k // 8]}" for k in range(0, 16, 2)], "AccessionNumber,PatientID,label")
        assert (counts["curated"], counts["reasons"]) == (8, {"no_label": 8})
        assert "matched by AccessionNumber (more specific than PatientID); 8 entries" in said()

    @pytest.mark.parametrize("keyword", ["PatientID", "AccessionNumber"])
    @pytest.mark.parametrize("lost_by", ["table", "films"])
    def test_leading_zeros_that_were_lost_are_hinted_at(self, keyword: str, lost_by: str, said: Said) -> None:
        for k in range(8):
            number = f"{k + 1}" if lost_by == "films" and k > 3 else f"00{k + 1}"
            film(f"{k}", k, **{"patient" if keyword == "PatientID" else keyword: number})
        rows = [
            f"{k + 1},{'ab'[k % 2]}" if lost_by == "table" and k > 3 else f"00{k + 1},{'ab'[k % 2]}" for k in range(8)
        ]
        counts = curate([*rows, "999,a"], f"{keyword},label")
        assert counts["curated"] == 4
        assert (
            f"warning: 5 of the 9 {keyword}s in the table are those of no film; 4 films without a label have one that "
            "differs in leading zeros alone, which spreadsheets take away: make the column text, as the header has it"
        ) in said()
        assert counts["losses"] == {"a": {"no_film": 3}, "b": {"no_film": 2}}


class TestClassNames:
    def films(self, labels: Sequence[str], folder: str = "") -> list[str]:
        for k, _ in enumerate(labels):
            film(f"{folder}{k}", k)
        return [f"{k},{label}" for k, label in enumerate(labels)]

    def test_na_is_no_class_and_is_said(self, said: Said) -> None:
        rows = self.films(["a", "a", "b", "b", "NA", "n/a", "NaN"])
        counts = curate(rows)
        assert (labels_taken(), counts["reasons"]) == ({"a": 2, "b": 2}, {"no_label": 3})
        assert "warning: 3 entries say NA or the like, which is read as no label" in said()

    def test_na_is_a_class_where_it_is_asked_for(self, said: Said) -> None:
        curate(self.films(["a", "a", "NA", "NA"]), classes=["a", "NA"])
        assert labels_taken() == {"a": 2, "NA": 2}
        assert "NA or the like" not in said()

    def test_classes_that_differ_in_capitals_are_said(self, said: Said) -> None:
        curate(self.films(["Pneumonia", "Pneumonia", "pneumonia", "pneumonia", "normal", "normal"]))
        assert "different classes: 'Pneumonia' of 2 films, 'pneumonia' of 2 films" in said()

    def test_films_of_a_class_in_other_capitals_are_said_to_be_left_out(self, said: Said) -> None:
        rows = self.films(["Pneumonia", "pneumonia", "pneumonia", "normal", "normal"])
        assert curate(rows, classes=["normal", "pneumonia"])["reasons"] == {"other_class": 1}
        assert "are left out: 'Pneumonia' of 1 films, 'pneumonia' of 2 films" in said()

    @pytest.mark.parametrize("form", ["table", "folder", "dicom_tag"])
    def test_a_class_in_other_capitals_than_all_films_is_an_error(self, form: Any) -> None:
        for k in range(8):
            name = ["Pneumonia", "normal"][k % 2]
            film(f"{name}/{k}", k, StudyDescription=name.upper() if k % 2 == 0 else name)
        rows = [f"{['Pneumonia', 'normal'][k % 2]}/{k},{['Pneumonia', 'normal'][k % 2]}" for k in range(8)]
        how = {"classes": ["normal", "pneumonia"], "label_format": form}
        how |= {"label_tag": "StudyDescription"} if form == "dicom_tag" else {}
        table = Path("labels.csv") if form == "table" else Path("raw")
        Path("labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
        with pytest.raises(UserError) as error:
            stage.run(Path("raw"), table, Path("curated"), Ingest(size=32, **how))
        meant = "PNEUMONIA" if form == "dicom_tag" else "Pneumonia"
        assert str(error.value) == (
            "ingest.classes names 'pneumonia', and no film is labelled so; correct it or leave it out: is "
            f"'{meant}' meant, as the labels say of 4 films?"
        )

    def test_a_typo_in_classes_is_an_error_with_what_may_be_meant(self) -> None:
        rows = self.films(["pneumonia", "pneumonia", "normal", "normal"])
        with pytest.raises(
            UserError, match=r"names 'pnuemonia', and no film.* is 'pneumonia' meant, as the labels say"
        ):
            curate(rows, classes=["normal", "pnuemonia"])
        with pytest.raises(UserError, match=r"none of the 4 files.*4 other_class.*names 'norml'.*is 'normal' meant"):
            curate(rows, classes=["norml"])

    def test_a_typo_names_no_folder(self) -> None:
        """Its name could be a patient's."""
        for k in range(4):
            film(f"{['normal', 'pneumonias'][k % 2]}/{k}", k)
        how = Ingest(size=32, label_format="folder", classes=["normal", "pneumonia"])
        with pytest.raises(
            UserError, match=r"names 'pneumonia', and no film is labelled so; correct it or leave it out$"
        ):
            stage.run(Path("raw"), Path("raw"), Path("curated"), how)

    def test_a_class_whose_films_are_all_refused_is_an_error(self) -> None:
        for k in range(4):
            film(f"{k}", k, ViewPosition="LL" if k > 1 else "PA")
        with pytest.raises(UserError, match="names 'b', and none of the 2 films that are labelled so can be taken"):
            curate(["0,a", "1,a", "2,b", "3,b"], classes=["a", "b"])

    def test_names_are_made_safe_and_that_is_said(self, said: Said) -> None:
        rows = self.films([*["Pneumonia (suspected)", "Pneumonia/Infiltrate", "normal"] * 2, "odd / one"])
        curate(rows, classes=["normal", "Pneumonia/Infiltrate", "Pneumonia (suspected)"])
        assert labels_taken() == {"Pneumonia suspected": 2, "Pneumonia-Infiltrate": 2, "normal": 2}
        assert (
            "warning: no class name may have slashes, brackets and the like; taken without them are Pneumonia "
            "suspected (entry 1), Pneumonia-Infiltrate (entry 2)\n"
        ) in said()

    def test_two_names_that_would_become_one_are_an_error(self) -> None:
        rows = self.films(["a/b", "a/b", "a-b", "a-b"])
        with pytest.raises(UserError, match="the labels of entries 1 and 3 differ in slashes, brackets or the like"):
            curate(rows)
        with pytest.raises(UserError, match=r"ingest.classes: 'a/b' and 'a\+b' become the same name"):
            curate(rows, classes=["a/b", "a+b"])

    def test_one_class_alone_is_said(self, said: Said) -> None:
        curate(self.films(["a", "a", "a"]))
        assert "warning: all films are of one class, a; there is nothing to tell it from" in said()


class TestPatients:
    def test_one_patient_for_all_films_is_said_with_what_to_set(self, said: Said) -> None:
        for k in range(8):
            film(f"{k}", k, "ANONYMOUS")
        rows = [f"{k},{'ab'[k % 2]}" for k in range(8)]
        with pytest.raises(UserError) as error:
            curate(rows)
        assert str(error.value) == (
            "one PatientID holds 8 of 8 films, as where an archive was anonymised; say in a column patient_id of the "
            "labels whose they are, or set ingest.patients: ignored, and every film is its own patient"
        )
        curate(rows, patients="ignored")
        assert image_set.load(Path("curated")).manifest["patient_id"].nunique() == 8
        assert "warning: ingest.patients is ignored" in said()
        curate([f"{row},p{k}" for k, row in enumerate(rows)], "path,label,patient_id")
        assert image_set.load(Path("curated")).manifest["patient_id"].nunique() == 8

    def test_one_patient_for_most_films_is_a_warning(self, said: Said) -> None:
        for k in range(12):
            film(f"{k:02}", k, "ANONYMOUS" if k > 3 else None)
        curate([f"{k:02},{'ab'[k % 2]}" for k in range(12)])
        assert "warning: one PatientID holds 8 of 12 films" in said()

    def test_pictures_without_labels_and_patients_are_one_sentence(self) -> None:
        Path("raw").mkdir()
        for k in range(4):
            Image.fromarray(np.random.default_rng(k).integers(0, 255, (40, 40), dtype=np.uint8)).save(f"raw/{k}.png")
        with pytest.raises(UserError) as error:
            stage.run(Path("raw"), Path("raw/labels.csv"), Path("curated"), Ingest(size=32))
        for word in ("no labels file at raw/labels.csv", "path,label", "patient_id", "ingest.patients is per_file"):
            assert word in str(error.value)
        with pytest.raises(UserError, match=r"4 no_patient\); pictures name no patient: .*ingest.patients: per_file"):
            curate([f"{k}.png,{'ab'[k % 2]}" for k in range(4)])

    def test_a_split_far_from_what_was_asked_for_is_said(self, said: Said) -> None:
        for k in range(60):
            film(f"{k:02}", k, f"P{max(k, 20)}")  # one of them has 21 films
        curate([f"{k:02},{'ab'[k % 2]}" for k in range(60)])
        manifest = image_set.load(Path("curated")).manifest
        shares = manifest["split"].value_counts(normalize=True)
        output = said()
        for split, asked in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
            assert (f"warning: the {split} split has" in output) == (abs(shares.get(split, 0) - asked) > 0.05)
        assert "warning: the" in output


class TestBeforeTheWork:
    def test_foreign_files_in_out_are_refused_before_decoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        film("0", 0)
        Path("curated").mkdir()
        Path("curated/thesis.txt").write_text("mine")
        monkeypatch.setattr(stage, "list_files", None)  # nothing is looked at
        with pytest.raises(UserError, match="holds files that are not an earlier output"):
            curate(["0,a"])
        with pytest.raises(UserError, match="holds files"), written_whole(Path("curated")):
            pass

    def test_first_of_no_classes_is_one_sentence_about_that(self) -> None:
        Path("params.yaml").write_text("ingest: {multi_label: first, source: /secret/place}")
        with pytest.raises(UserError) as error:
            load(Path("params.yaml"))
        assert str(error.value) == (
            "params.yaml: 'ingest': multi_label first needs classes: their order says which finding wins"
        )


SEVERAL = "several findings a film: 2 of 13 films have more than one in their label, and each of them counts; "
ONE = "one class a film, for no label of a film says several findings; ingest.multi_label: all would take all rows"


class TestWhetherFilmsHaveSeveralFindings:
    @pytest.mark.parametrize(
        ("odd", "classes", "sentence"),
        [
            ([["a|b"], ["b;a"]], [], SEVERAL),
            ([["a|b"], ["a|b", "a"]], ["a", "b"], SEVERAL.replace("2 of", "1 of")),  # one contradicts itself
            ([["a|c"], ["b|c"]], ["a", "b"], ONE),  # of what is asked for one each
            ([["a|normal"], ["a", "b"]], [], ONE),  # contradictions, in a row and between rows
            ([["1,1,0"], ["1,1,"]], ["a", "b"], SEVERAL),
            ([["1,0,1"], ["0,1,-1"]], ["a", "b"], ONE),
        ],
        ids=["cells", "with contradictions", "other classes", "contradictions", "columns", "other columns"],
    )
    def test_one_label_that_says_several_decides_and_rows_that_differ_do_not(
        self, odd: list[list[str]], classes: list[str], sentence: str, said: Said
    ) -> None:
        """A slip in a long table of single classes must not change what the whole set is."""
        wide = "," in odd[0][0]
        plain = ["1,0,0", "0,1,0"] if wide else ["a", "b"]
        labels = [*odd, *([plain[k % 2]] for k in range(10))]
        for k in range(len(labels)):
            film(f"{k}", k)
        film("lateral", 99, ViewPosition="LL")
        film("twice", 11)
        rows = [f"{k},{label}" for k, row in enumerate(labels) for label in row]
        rows += [f"lateral,{'1,1,1' if wide else 'a|b|c'}", f"twice,{plain[1]}"]  # of which neither is taken
        header = "path,a,b,c" if wide else "path,label"
        curate(rows, header, classes=classes, check=True)
        assert f"\n{sentence}" in said()
        curate(rows, header, classes=classes)
        assert f"\n{sentence}" in said()
        films, auto = image_set.load(Path("curated")), kills.files(Path("curated"))
        assert films.several == ("a|b" in set(films.manifest["label"])) == (sentence != ONE)

        curate(rows, header, classes=classes, multi_label="leave_out" if sentence == ONE else "all")
        assert "would" not in said()
        joined = sentence != ONE and len(odd[1]) > 1  # all takes them together, auto leaves them out
        assert (kills.files(Path("curated")) == auto) != joined

    def test_a_finding_that_no_film_is_known_to_be_without_is_said(self, said: Said) -> None:
        for k in range(12):
            film(f"{k}", k)
        rows = [f"{k},{('1,,0', ',1,', '1,1,1', '1,,')[k % 4]}" for k in range(12)]  # of a and b ones alone
        curate(rows, "path,a,b,c", classes=["a", "b", "c"])
        warned = [line for line in said().splitlines() if "no film is known to be without" in line]
        assert [line.split(",")[0][-1] for line in warned] == ["a", "b"]
        curate(rows, "path,a,b,c", classes=["a", "b", "c"], uncertain="negative")
        assert "known to be without" not in said()

    def test_values_of_an_element_do_and_folders_within_folders_do_not(self, said: Said) -> None:
        for k in range(9):
            film(f"{'a/b' if k > 6 else 'ab'[k % 2]}/{k}", k, StudyDescription=["a", "b", ["a", "b"]][k % 3])
        raw, out, params = Path("raw"), Path("curated"), Ingest(label_format="folder", classes=["a", "b"])
        assert stage.check(raw, raw, out, params)["reasons"] == {"several_labels": 2}
        assert "one class a film, as label_format folder has it" in said()
        by_tag = params.model_copy(update={"label_format": "dicom_tag", "label_tag": "StudyDescription"})
        assert stage.check(raw, raw, out, by_tag)["reasons"] == {}
        assert "several findings a film: 3 of 9 films" in said()


class TestLosses:
    def test_losses_by_class_and_reason_are_said_and_kept(self, said: Said) -> None:
        for k in range(10):
            film(f"{k}", k, ViewPosition="LL" if k in (4, 5) else "PA")
        film("twice", 0)
        rows = [f"{k},{'ab'[k % 2]}" for k in range(8)]
        counts = curate([*rows, "8,a|b", "twice,a", "gone,b"], multi_label="leave_out")
        assert counts["losses"] == {
            "a": {"duplicate": 1, "lateral_view": 1, "several_labels": 1},
            "b": {"lateral_view": 1, "no_film": 1, "several_labels": 1},
        }
        assert json.loads(Path("curated/dataset.json").read_text())["losses"] == counts["losses"]
        assert (
            "films by class:\n"
            "  a: 3 taken; not taken: 1 duplicate, 1 lateral_view, 1 several_labels\n"
            "  b: 3 taken; not taken: 1 lateral_view, 1 no_film, 1 several_labels\n"
        ) in said()

    def test_a_film_that_is_refused_by_its_header_is_not_missing_from_the_table(self) -> None:
        for k in range(6):
            film(f"{k}", k, AccessionNumber=f"A{k}", ViewPosition="LL" if k == 4 else "PA")
        counts = curate([f"A{k},{'ab'[k % 2]}" for k in range(6)], "AccessionNumber,label")
        assert counts["losses"] == {"a": {"lateral_view": 1}}


class TestCheck:
    @pytest.fixture
    def archive(self) -> list[str]:
        for k in range(12):
            film(f"{k:02}", k, **({"Modality": "CT"} if k == 3 else {"ViewPosition": "LL"} if k == 4 else {}))
        Path("raw/notes.txt").write_text("no film")
        Image.fromarray(ramp(40, 255).astype(np.uint8)).save("raw/picture.png")
        return [*(f"{k:02},{'ab'[k % 2]}" for k in range(11)), "gone,b"]

    def test_it_finds_what_the_run_finds_and_writes_nothing(self, archive: list[str], said: Said) -> None:
        before = sorted(Path().rglob("*"))
        looked = curate(archive, check=True)
        assert [path for path in sorted(Path().rglob("*")) if path not in before] == [Path("labels.csv")]
        told = said()
        done = curate(archive)
        assert {key: done[key] for key in looked} == looked
        assert looked["losses"] == {"a": {"lateral_view": 1}, "b": {"no_film": 1, "not_a_radiograph": 1}}
        told_then = said()
        for line in ("films by class:", "  a: 5 taken; not taken: 1 lateral_view", "labels: table, matched by path"):
            assert line in told
            assert line in told_then

    def test_it_splits_as_the_run_does(self, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a key is there: with another one other patients would be tested on, and the warnings be others."""
        monkeypatch.setenv(pseudonyms.KEY_VARIABLE, "a key of these patients")
        rows = []
        for k in range(60):
            film(f"{k}", k, "P0" if k < 24 else None)
            rows.append(f"{k},{'b' if k < 24 else 'ab'[k % 2]}")

        def warned(check: bool) -> list[str]:
            curate(rows, check=check)
            return [line for line in said().splitlines() if "of the patients were asked for" in line]

        assert warned(check=False) != []
        assert [warned(check=True) for _ in range(4)] == [warned(check=False)] * 4

    def test_it_reads_no_pixels(self, archive: list[str]) -> None:
        for path in Path("raw").glob("0[0-2]"):
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
        assert curate(archive, check=True)["reasons"].keys() == {
            "not_dicom",
            "lateral_view",
            "not_a_radiograph",
            "no_label",
        }

    def test_it_fails_as_the_run_would(self, archive: list[str]) -> None:
        with pytest.raises(UserError, match="names 'c', and no film is labelled so"):
            curate(archive, check=True, classes=["a", "b", "c"])
        with pytest.raises(UserError, match=r"ingest.max_quarantined allows 10 %; nothing was written"):
            curate(archive, check=True, max_quarantined=0.1)
        assert not list(Path().glob("curated*"))

    def test_the_command(self, archive: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        each = workers.each

        def noted(work: Any, items: Any, died: Any, executor: Any, count: int = 0) -> Any:
            asked.append(count)
            return each(work, items, died, executor, count)

        monkeypatch.setattr(workers, "each", noted)
        Path("labels.csv").write_text("\n".join(["path,label", *archive]) + "\n")
        command = ["ingest", "raw", "out", "--labels", "labels.csv", "--workers", "1"]
        looked = CliRunner().invoke(cli.app, [*command, "--check"])
        assert "14 inputs = 9 to be curated + 5 to be quarantined" in looked.output
        assert not Path("out").exists()
        done = CliRunner().invoke(cli.app, command)
        assert "14 inputs = 9 curated + 5 quarantined" in done.output
        assert len(pd.read_csv("out/manifest.csv")) == 9
        assert asked == [1, 1]


@pytest.mark.parametrize("mixed", [False, True])
def test_a_class_that_comes_in_a_form_of_its_own_is_said(mixed: bool, said: Said) -> None:
    """Where one class is PNG and the other DICOM, telling the forms apart is easier than the classes."""
    rows = []
    for k in range(48):
        label = "ab"[k % 2]
        if (label == "a") != (mixed and k < 16):
            Path("raw").mkdir(exist_ok=True)
            Image.fromarray(np.random.default_rng(k).integers(0, 255, (40, 40), dtype=np.uint8)).save(f"raw/{k}.png")
            rows.append(f"{k}.png,{label},P{k}")
        else:
            film(f"{k}", k)
            rows.append(f"{k},{label},P{k}")
    curate(rows, "path,label,patient_id")
    warning = "warning: 24 of 24 films of a are PNG, as stored, and 0 of the 24 others: what differs between"
    assert (warning in said()) != mixed
