"""What the labels say of each file, for every format; made-up rows under the columns that the publishers use."""

import re
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from tasks.errors import UserError
from tasks.ingest import labels
from tasks.ingest.labels import Entry, Labels, decide, read_labels
from tasks.params import LabelFormat, Uncertain, needs_table

FILES = ["a/one.png", "a/two.dcm", "b/three", "b/1.2.3.dcm"]


def pseudonym(kind: str, identifier: str) -> str:
    return f"<{kind}:{identifier}>"


def patient(*identifiers: str) -> frozenset[str]:
    return frozenset(pseudonym("patient_id", identifier) for identifier in identifiers)


def csv_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Labels]:
    """Labels from the text of a CSV, or for formats without a table from a folder."""

    def read(text: str | None, label_format: str = "table", files: list[str] = FILES) -> Labels:
        path = tmp_path if text is None else csv_file(tmp_path / "labels.csv", text)
        return read_labels(path, label_format, files, pseudonym)

    return read


def by_path(labels: Labels, path: str) -> Entry | None:
    return labels.find(path, {}, "")


def test_key_path(read: Callable[..., Labels]) -> None:
    labels = read("Path,LABEL,Patient_ID\n./a/one.png,x,P1\na\\two.dcm, y ,\nelsewhere.png,x,P2\n")
    assert by_path(labels, "a/one.png") == Entry(("x",), patient("P1"))
    assert by_path(labels, "a/two.dcm") == Entry(("y",))
    assert by_path(labels, "b/three") is None
    assert by_path(labels, "elsewhere.png") is None
    assert labels.sentence == "labels: table, matched by Path; 3 entries, 1 for no file of the source"


@pytest.mark.parametrize("column", ["file_name", "filename", "FILE", "Image", "image_id"])
def test_key_file_name_with_and_without_extension(column: str, read: Callable[..., Labels]) -> None:
    labels = read(f"patientid,label,{column}\nP1,x,one\nP2,y,two.dcm\nP3,x,three\nP4,y,1.2.3\nP5,x,b/1.2.3.dcm\n,x,\n")
    assert by_path(labels, "a/one.png") == Entry(("x",), patient("P1"))
    assert by_path(labels, "a/two.dcm") == Entry(("y",), patient("P2"))
    assert by_path(labels, "b/three") == Entry(("x",), patient("P3"))
    assert by_path(labels, "b/1.2.3.dcm") == Entry(("y",), patient("P4", "P5"), conflict=True)
    assert "1 for no file" in labels.sentence


@pytest.mark.parametrize("column", ["SOPInstanceUID", "sop_instance_uid"])
def test_key_instance(column: str, read: Callable[..., Labels]) -> None:
    labels = read(f"{column},label,patient_id\n1.2.3,x,P1\n,y,P2\n")
    assert labels.find("anything", {"instance": "<instance_id:1.2.3>"}, "") == Entry(("x",), patient("P1"))
    assert labels.find("1.2.3", {}, "") is None
    specific = " (more specific than patient_id)"
    assert labels.sentence == f"labels: table, matched by {column}{specific}; 2 entries, 1 without an identifier"


@pytest.mark.parametrize("column", ["PatientID", "patient_id"])
def test_key_patient(column: str, read: Callable[..., Labels]) -> None:
    labels = read(f"label,{column}\nx,P1\ny,P2\nx,P1\nx,P2\n")
    assert labels.find("anything", {"patient": "<patient_id:P1>"}, "") == Entry(("x",), patient("P1"))
    entry = labels.find("anything", {"patient": "<patient_id:P2>"}, "")
    assert entry is not None
    assert entry.conflict
    assert labels.find("anything", {}, "") is None


def test_keys_are_taken_in_order(read: Callable[..., Labels]) -> None:
    labels = read("PatientID,SOPInstanceUID,image_id,path,label\nP1,1.2,two,a/one.png,x\n")
    assert by_path(labels, "a/one.png") == Entry(("x",), patient("P1"))
    assert by_path(labels, "a/two.dcm") is None
    assert labels.find("", {"instance": "<instance_id:1.2>", "patient": "<patient_id:P1>"}, "") is None


def test_a_name_of_several_files_is_never_guessed(read: Callable[..., Labels]) -> None:
    files = ["a/1.png", "b/1.png", "a/2.png", "a/2.txt", "a/3.png"]
    labels = read("image,label\n1.png,x\n2,y\n3.png,x\n", files=files)
    for file in files[:4]:
        assert by_path(labels, file) == Entry((), conflict=True)
    assert by_path(labels, "a/3.png") == Entry(("x",))
    assert labels.sentence == "labels: table, matched by image; 3 entries, 2 names of several files"
    labels = read("image,label\nb/1.png,x\n2.png,y\n", files=files)
    assert by_path(labels, "b/1.png") == Entry(("x",))
    assert by_path(labels, "a/2.png") == Entry(("y",))
    assert by_path(labels, "a/1.png") is None
    uids = ["1.2.3", "1.2.3.1", "1.2.3.2"]  # without an extension: what looks like one is part of the name
    labels = read("image,label\n1.2.3,x\n1.2.3.1,y\n1.2.3.2,x\n", files=uids)
    assert [by_path(labels, uid) for uid in uids] == [Entry(("x",)), Entry(("y",)), Entry(("x",))]


def test_rows_about_one_file(read: Callable[..., Labels]) -> None:
    rows = ["a/one.png,x,P1", "a/one.png,,P1", "a/two.dcm,x|y,P1", "a/two.dcm,y;x,P2", "b/three,x,", "b/three,y,"]
    labels = read("\n".join(["path,label,patient_id", *rows]) + "\n")
    assert by_path(labels, "a/one.png") == Entry(("x",), patient("P1"))
    assert by_path(labels, "a/two.dcm") == Entry(("x", "y"), patient("P1", "P2"))
    conflict = by_path(labels, "b/three")
    assert conflict is not None
    assert conflict.conflict
    assert by_path(labels, "b/1.2.3.dcm") is None


def test_findings_keep_their_order_without_repeats(read: Callable[..., Labels]) -> None:
    entry = by_path(read("path,label\na/one.png, Mass|Effusion ;Mass||\n"), "a/one.png")
    assert entry == Entry(("Mass", "Effusion"))


def test_excel_writes_a_mark_and_quotes(read: Callable[..., Labels]) -> None:
    labels = read(
        '\ufeff"path","label"\r\n"a/one.png","x"\r\n\r\n"odd, name.png","y"\r\n', files=[*FILES, "odd, name.png"]
    )
    assert by_path(labels, "a/one.png") == Entry(("x",))
    assert by_path(labels, "odd, name.png") == Entry(("y",))


def test_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "image_id": pd.Categorical(["one", "two", "three", "1.2.3"]),
            "label": [["x", "y"], ["x"], None, ["y"]],
            "patient_id": [17, 18, float("nan"), 20],  # which makes them 17.0, 18.0, ...
            "unused": [object.__name__] * 4,
        }
    )
    table.to_parquet(tmp_path / "labels.PARQUET")
    labels = read_labels(tmp_path / "labels.PARQUET", "table", FILES, pseudonym)
    assert by_path(labels, "a/one.png") == Entry(("x", "y"), patient("17"))
    assert by_path(labels, "a/two.dcm") == Entry(("x",), patient("18"))
    assert by_path(labels, "b/three") == Entry(())
    assert by_path(labels, "b/1.2.3.dcm") == Entry(("y",), patient("20"))


def test_parquet_of_texts_is_read_like_csv(tmp_path: Path, read: Callable[..., Labels]) -> None:
    text = "path,label,patient_id\na/one.png,x|y,007\na/two.dcm, z ,\n"
    csv_file(tmp_path / "t.csv", text)
    pd.read_csv(tmp_path / "t.csv", dtype=str).to_parquet(tmp_path / "t.parquet")
    labels = read_labels(tmp_path / "t.parquet", "table", FILES, pseudonym)
    for file in FILES:
        assert by_path(labels, file) == by_path(read(text), file)
    assert by_path(labels, "a/one.png") == Entry(("x", "y"), patient("007"))


def test_folder(read: Callable[..., Labels]) -> None:
    labels = read(None, "folder")
    assert by_path(labels, "study/viral pneumonia/1.png") == Entry(("viral pneumonia", "study"))
    assert by_path(labels, "1.png") is None
    assert by_path(labels, "normal/.cache/1.png") == Entry(("normal",))


def test_dicom_tag(read: Callable[..., Labels]) -> None:
    labels = read(None, "dicom_tag")
    assert labels.find("folder/1", {}, "NORMAL") == Entry(("NORMAL",))
    assert labels.find("folder/1", {}, "Mass\\Effusion") == Entry(("Mass", "Effusion"))
    assert labels.find("folder/1", {}, "") is None


@pytest.mark.parametrize("trailing", ["", ","])
def test_chestxray14(trailing: str, read: Callable[..., Labels]) -> None:
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage"
    rows = [
        f"{header}[Width,Height],OriginalImagePixelSpacing[x,y]{trailing}",
        "00000001_000.png,Cardiomegaly|Pleural_Thickening,0,1,58,M,PA,2682,2749,0.143,0.143,",
        "00000002_000.png,No Finding,0,2,81,M,PA,2500,2048,0.171,0.171,",
    ]
    labels = read("\n".join(rows) + "\n", "chestxray14", ["images_001/images/00000001_000.png", "00000002_000.png"])
    assert by_path(labels, "images_001/images/00000001_000.png") == Entry(
        ("Cardiomegaly", "Pleural_Thickening"), patient("1")
    )
    assert by_path(labels, "00000002_000.png") == Entry(("No Finding",), patient("2"))
    assert labels.sentence == "labels: chestxray14, matched by Image Index; 2 entries"


CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Lung Opacity,Pneumonia,Pleural Effusion,Support Devices
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,1.0
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,-1.0,-1.0,1.0,
CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Female,87,Lateral,,,-1.0,-1.0,1.0,
CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Male,41,Frontal,PA,,,-1.0,0.0,
CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg,Male,20,Frontal,PA,1.0,0.0,,,
CheXpert-v1.0-small/train/patient00005/study1/view1_frontal.jpg,Male,33,Frontal,PA,,1.0,,,
CheXpert-v1.0-small/train/patient00006/study1/view1_frontal.jpg,Female,52,Frontal,AP,,,,,
"""
CHEXPERT_FILES = [
    *(f"train/patient0000{k}/study{study}/view1_frontal.jpg" for k, study in ((1, 1), (2, 2), (3, 1), (4, 1))),
    *(f"train/patient0000{k}/study1/view1_frontal.jpg" for k in (5, 6)),
    "train/patient00002/study2/view2_lateral.jpg",
]


@pytest.mark.parametrize(
    ("uncertain", "second", "third"),
    [
        ("ignore", Entry(("Pleural Effusion",), patient("patient00002")), Entry((), patient("patient00003"))),
        (
            "positive",
            Entry(("Lung Opacity", "Pneumonia", "Pleural Effusion"), patient("patient00002")),
            Entry(("Pneumonia",), patient("patient00003")),
        ),
        (
            "negative",
            Entry(("Pleural Effusion",), patient("patient00002")),
            Entry(("No Finding",), patient("patient00003")),
        ),
    ],
)
def test_chexpert_by_each_policy_of_what_is_uncertain(
    uncertain: Uncertain, second: Entry, third: Entry, tmp_path: Path
) -> None:
    """The policy is about -1; what a report does not mention, an empty cell, is not there by any of them."""
    path = csv_file(tmp_path / "train.csv", CHEXPERT)
    labels = read_labels(path, "chexpert", CHEXPERT_FILES, pseudonym, uncertain=uncertain)
    unknown: list[tuple[str, ...]] = [("Lung Opacity", "Pneumonia"), ("Pneumonia",)]
    if uncertain != "ignore":
        unknown = [(), ()]
    found = [by_path(labels, file) for file in CHEXPERT_FILES]
    assert found[0] == Entry(("Support Devices",), patient("patient00001"))  # devices are no disease: the rest is known
    assert found[1:3] == [replace(one, unknown=names) for one, names in zip((second, third), unknown, strict=True)]
    assert found[3] == Entry(("No Finding",), patient("patient00004"))
    assert found[4] == Entry(("Lung Opacity",), patient("patient00005"))
    assert found[5] == Entry(("No Finding",), patient("patient00006"))  # neither present nor uncertain
    assert found[6] is None  # lateral
    assert "lateral views are left out" in labels.sentence
    assert "patient0" not in labels.sentence


def test_padchest(read: Callable[..., Labels]) -> None:
    header = ",ImageID,ImageDir,StudyID,PatientID,PatientBirth,Projection,MethodProjection,Report,MethodLabel,Labels"
    rows = [
        "0,1_a.png,0,5,839860488694292331637988235681460987,1930,PA,Manual,texto,RNN_model,\"['normal']\"",
        "1,2_b.png,0,6,77,1940,AP_horizontal,Manual,a,RNN,\"['pleural effusion', 'aortic elongation', 'unchanged']\"",
        "2,3_c.png,0,7,78,1950,L,Manual,texto,Physician,\"['pleural effusion']\"",
        "3,4_d.png,0,8,79,1950,PA,Manual,texto,Physician,\"['exclude']\"",
        "4,5_e.png,0,9,80,1950,PA,Manual,texto,Physician,\"['unchanged']\"",
        "5,6_f.png,0,9,80,1950,PA,Manual,texto,Physician,",
    ]
    files = [f"0/{k}_{name}.png" for k, name in enumerate("abcdef", start=1)]
    labels = read("\n".join([header, *rows]) + "\n", "padchest", files)
    assert by_path(labels, files[0]) == Entry(("normal",), patient("839860488694292331637988235681460987"))
    assert by_path(labels, files[1]) == Entry(("pleural effusion", "aortic elongation"), patient("77"))
    assert [by_path(labels, file) for file in files[2:4]] == [None, None]
    assert [by_path(labels, file) for file in files[4:]] == [Entry((), patient("80"))] * 2


WIDE_TABLE = """path,PatientID,Pneumonia,Pleural Effusion,Nodule/Mass
a/one.png,P1,1,1,0
a/two.dcm,P2,0,0,0
b/three,P3,-1,0,1.0
b/1.2.3.dcm,P4,,0,
"""


def test_a_column_a_finding_whose_names_are_the_classes(tmp_path: Path) -> None:
    path, classes = csv_file(tmp_path / "t.csv", WIDE_TABLE), ["Pneumonia", "Pleural Effusion", "Nodule-Mass"]
    labels = read_labels(path, "table", FILES, pseudonym, ["no_finding", *classes])
    assert [by_path(labels, file) for file in FILES] == [
        Entry(("Pneumonia", "Pleural Effusion"), patient("P1")),
        Entry(("no_finding",), patient("P2")),  # 0 in all columns
        Entry(("Nodule-Mass",), patient("P3"), unknown=("Pneumonia",)),
        Entry((), patient("P4"), unknown=("Pneumonia", "Nodule-Mass")),
    ]
    assert by_path(read_labels(path, "table", FILES, pseudonym, classes), "a/two.dcm") == Entry((), patient("P2"))
    for lacking in ([], ["Pneumonia", "Hernia"]):
        with pytest.raises(UserError, match=r"no column label .*needed are label and one of path"):
            read_labels(path, "table", FILES, pseudonym, lacking)
    wrong = csv_file(tmp_path / "w.csv", WIDE_TABLE.replace("1,1,0", "SECRET,1,0"))
    with pytest.raises(UserError, match="another value where a column of a finding has 1, 0, -1 or nothing") as said:
        read_labels(wrong, "table", FILES, pseudonym, classes)
    assert "SECRET" not in str(said.value)


def test_rows_about_one_film_are_its_findings_together_where_all_are_asked_for(tmp_path: Path) -> None:
    rows = ["a/one.png,x,P1", "a/one.png,y,P1", "a/one.png,x,P1", "a/two.dcm,normal,P2", "a/two.dcm,x,P2"]
    path = csv_file(tmp_path / "t.csv", "\n".join(["path,label,patient_id", *rows]) + "\n")
    labels = read_labels(path, "table", FILES, pseudonym, together=True)
    assert by_path(labels, "a/one.png") == Entry(("x", "y"), patient("P1"))
    both = by_path(labels, "a/two.dcm")
    assert both is not None
    assert decide(both, [], "all")[0] == "conflicting_labels"  # nothing and something
    for column, kind, conflict in (("AccessionNumber", "accession", False), ("PatientID", "patient", True)):
        path = csv_file(tmp_path / "t.csv", f"{column},label\nE1,x\nE1,y\n")
        of_exam = read_labels(path, "table", FILES, pseudonym, together=True)
        found = of_exam.find("any", {kind: pseudonym(f"{kind}_id", "E1")}, "")
        assert found is not None
        assert found.conflict is conflict  # a patient may have had them at different times


def test_rsna(read: Callable[..., Labels]) -> None:
    rows = ["patientId,class", "aa-1,Lung Opacity", "aa-1,Lung Opacity", "bb-2,No Lung Opacity / Not Normal"]
    files = ["stage_2_train_images/aa-1.dcm", "stage_2_train_images/bb-2.dcm"]
    labels = read("\n".join(rows) + "\n", "rsna", files)
    assert by_path(labels, files[0]) == Entry(("Lung Opacity",), patient("aa-1"))
    assert by_path(labels, files[1]) == Entry(("No Lung Opacity - Not Normal",), patient("bb-2"))
    assert "a person may have several" in labels.sentence


VINDR_FILES = [f"train/{name}.dicom" for name in ("agree", "major", "torn", "clear", "blank")]
WIDE = """image_id,rad_id,Nodule/Mass,Pneumonia,No finding
agree,R1,1,0,0
major,R1,1,1,0
torn,R1,1,0,0
clear,R1,0,0,1
blank,R1,0,0,0
agree,R2,1,0,0
major,R2,1,0,0
torn,R2,0,1,0
clear,R2,0,1,0
agree,R3,1,0,0
major,R3,0,0,1
torn,R3,0,0,1
clear,R3,0,0,1
"""
LONG = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
agree,Nodule/Mass,8,R1,1,2,3,4
agree,Nodule/Mass,8,R2,1,2,3,4
agree,Nodule/Mass,8,R3,1,2,3,4
major,Nodule/Mass,8,R1,1,2,3,4
major,Nodule/Mass,8,R1,5,6,7,8
major,Pneumonia,7,R1,1,2,3,4
major,Nodule/Mass,8,R2,1,2,3,4
major,No finding,14,R3,,,,
torn,Nodule/Mass,8,R1,1,2,3,4
torn,Nodule/Mass,8,R1,5,6,7,8
torn,Pneumonia,7,R2,1,2,3,4
torn,No finding,14,R3,,,,
clear,No finding,14,R1,,,,
clear,Pneumonia,7,R2,1,2,3,4
clear,No finding,14,R3,,,,
"""


@pytest.mark.parametrize("text", [WIDE, LONG], ids=["wide", "long"])
def test_vindr_by_majority_of_the_readers(text: str, read: Callable[..., Labels]) -> None:
    labels = read(text, "vindr", VINDR_FILES)
    assert by_path(labels, "train/agree.dicom") == Entry(("Nodule-Mass",))
    assert by_path(labels, "train/major.dicom") == Entry(("Nodule-Mass",))
    assert by_path(labels, "train/torn.dicom") == Entry((), conflict=True)
    assert by_path(labels, "train/clear.dicom") == Entry(("No finding",))
    blank = by_path(labels, "train/blank.dicom")
    assert blank == (Entry(()) if text == WIDE else None)
    assert labels.own_patients
    assert "every image counts as its own patient" in labels.sentence


def test_vindr_test_set_has_one_reader(read: Callable[..., Labels]) -> None:
    labels = read("image_id,Nodule/Mass,Pneumonia,No finding\nagree,1,1,0\nclear,0,0,1\n", "vindr", VINDR_FILES)
    assert by_path(labels, "train/agree.dicom") == Entry(("Nodule-Mass", "Pneumonia"))
    assert by_path(labels, "train/clear.dicom") == Entry(("No finding",))


def test_vindr_half_of_the_readers_is_no_majority(read: Callable[..., Labels]) -> None:
    labels = read("image_id,rad_id,Pneumonia,No finding\nagree,R1,1,0\nagree,R2,0,1\n", "vindr", VINDR_FILES)
    assert by_path(labels, "train/agree.dicom") == Entry((), conflict=True)


@pytest.mark.parametrize("label_format", get_args(LabelFormat))
@pytest.mark.parametrize("sentence", ["", "reworded", labels._OWN_PATIENT])
def test_the_words_of_the_log_do_not_decide_whose_film_it_is(
    sentence: str, label_format: str, read: Callable[..., Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(labels.FORMATS, label_format, replace(labels.FORMATS[label_format], sentence=sentence))
    rows = {
        "table": "path,label\na/one.png,x\n",
        "chestxray14": "Image Index,Finding Labels,Patient ID\none.png,No Finding,1\n",
        "chexpert": "Path,Frontal/Lateral,No Finding\npatient1/one.png,Frontal,1\n",
        "padchest": "ImageID,Labels,PatientID,Projection\none.png,['normal'],1,PA\n",
        "rsna": "patientId,class\none,Normal\n",
        "vindr": "image_id,rad_id,Pneumonia,No finding\none,R1,1,0\n",
    }
    found = read(rows.get(label_format), label_format)
    assert found.own_patients == (label_format in ("vindr", "covid19_radiography"))
    assert sentence in found.sentence


def test_covid19_radiography(read: Callable[..., Labels]) -> None:
    labels = read(None, "covid19_radiography")
    base = "COVID-19_Radiography_Dataset"
    found = by_path(labels, f"{base}/Viral Pneumonia/images/Viral Pneumonia-1.png")
    assert found == Entry(("Viral Pneumonia",))
    for folder in ("COVID", "Lung_Opacity", "Normal"):
        entry = by_path(labels, f"{folder}/images/{folder}-7.png")
        assert entry == Entry((folder,))
    assert by_path(labels, "NORMAL/NORMAL (1).png") == Entry(("Normal",))
    assert by_path(labels, f"{base}/COVID/masks/COVID-1.png") is None
    assert by_path(labels, f"{base}/COVID.metadata.xlsx") is None
    assert labels.own_patients
    assert "every image counts as its own patient" in labels.sentence


@pytest.mark.parametrize(
    ("name", "finding", "whose"),
    [
        ("train/PNEUMONIA/person1_bacteria_1.jpeg", "bacterial_pneumonia", "person1"),
        ("train/PNEUMONIA/person447_virus_921_1.jpeg", "viral_pneumonia", "person447"),
        ("PNEUMONIA/BACTERIA-1008087-0001.jpeg", "bacterial_pneumonia", "1008087"),
        ("PNEUMONIA/VIRUS-614452-0010.jpeg", "viral_pneumonia", "614452"),
        ("NORMAL/NORMAL-1003233-0001.jpeg", "normal", "1003233"),
        ("NORMAL/IM-0115-0001.jpeg", "normal", "IM-0115"),
        ("NORMAL/IM-0429-0001-0001.jpeg", "normal", "IM-0429"),
        ("test/NORMAL/NORMAL2-IM-0383-0001.jpeg", "normal", "NORMAL2-IM-0383"),
        ("images/person1_bacteria_1.jpeg", "bacterial_pneumonia", "person1"),
    ],
)
def test_kermany(name: str, finding: str, whose: str, read: Callable[..., Labels]) -> None:
    assert by_path(read(None, "kermany"), name) == Entry((finding,), patient(whose))


def test_kermany_where_name_and_folder_disagree(read: Callable[..., Labels]) -> None:
    labels = read(None, "kermany")
    for path in ("NORMAL/person1_virus_1.jpeg", "PNEUMONIA/IM-0115-0001.jpeg"):
        entry = by_path(labels, path)
        assert entry is not None
        assert entry.conflict
    for path in ("NORMAL/._IM-0115-0001.jpeg", "NORMAL/notes.txt", "CNV/CNV-1016042-1.jpeg"):
        assert by_path(labels, path) is None


@pytest.mark.parametrize(
    ("entry", "classes", "multi_label", "verdict"),
    [
        (None, [], "leave_out", "no_label"),
        (Entry(()), ["a"], "first", "no_label"),
        (Entry((), conflict=True), [], "leave_out", "conflicting_labels"),
        (Entry(("a",), conflict=True), ["a"], "first", "conflicting_labels"),
        (Entry(("a",)), [], "leave_out", ("a",)),
        (Entry(("a", "b")), [], "leave_out", "several_labels"),
        (Entry(("a", "b")), ["b", "c"], "leave_out", ("b",)),
        (Entry(("a", "b")), ["b", "a"], "first", ("b",)),
        (Entry(("a", "b")), ["b", "a"], "leave_out", "several_labels"),
        (Entry(("a", "b")), ["c"], "first", "other_class"),
        (Entry(("b", "a")), [], "all", ("a|b",)),
        (Entry(("b", "a", "c")), ["c", "b"], "all", ("b|c",)),
        (Entry(("a",)), ["a"], "all", ("a",)),
        (Entry(("a", "b")), ["c"], "all", "other_class"),
        (Entry(("No Finding",)), [], "all", ("No Finding",)),
        (Entry(("a", "normal")), [], "all", "conflicting_labels"),
        (Entry(("a", "normal")), ["a"], "all", ("a",)),
        (Entry((), unknown=("a",)), [], "all", "uncertain"),
        (Entry((), unknown=("a",)), [], "leave_out", "uncertain"),
        (Entry(("b",), unknown=("a",)), [], "all", ("b",)),
    ],
)
def test_decide(entry: Entry | None, classes: list[str], multi_label: str, verdict: str | tuple[str]) -> None:
    decision = decide(entry, classes, multi_label)
    if isinstance(verdict, tuple):
        assert (decision,) == verdict
    else:
        assert decision[0] == verdict


def test_sentences_hold_counts_and_no_values() -> None:
    entry = Entry(("SECRET", "HIDDEN"), patient("P1"))
    assert decide(entry, ["a"], "first") == (
        "other_class",
        "none of its 2 findings is among the 1 ingest.classes",
    )
    assert decide(entry, [], "leave_out") == (
        "several_labels",
        "the labels give 2 classes, and ingest.multi_label leaves such files out (all takes every finding)",
    )


TABLE_NEEDS = (
    "needed are label and one of path, file_name, file, image, image_id, SOPInstanceUID, SeriesInstanceUID, "
    "StudyInstanceUID, AccessionNumber, PatientID"
)
IS_TEXT = "use letters, digits, '_', '-', '.' and blanks"


@pytest.mark.parametrize(
    ("label_format", "text", "sentence"),
    [
        ("table", "path,finding\na,b\n", f"LABELS has no column label among its 2 columns; {TABLE_NEEDS}"),
        (
            "table",
            "scan,label\na,b\n",
            f"LABELS has no column that says which file a row is about among its 2 columns; {TABLE_NEEDS}",
        ),
        ("table", "path,label\nx,../../etc\n", f"LABELS: the label of entry 1 is no class name; {IS_TEXT}"),
        ("table", "path,label\nx,Nodule^Mass\n", f"LABELS: the label of entry 1 is no class name; {IS_TEXT}"),
        (
            "table",
            "path,label\na,x\nb, with a comma,x\n",
            "line 3 of LABELS has 3 values, but the header has 2; mend the line (a value with a comma needs quotation "
            "marks)",
        ),
        (
            "table",
            "path,label\na",
            "line 2 of LABELS has 1 values, but the header has 2; mend the line (a value with a comma needs quotation "
            "marks)",
        ),
        ("table", "", "the labels file LABELS is empty; its first line must name its columns"),
        (
            "table",
            'path,label\n"a,x\n',
            "the labels file LABELS cannot be read as CSV in UTF-8: unexpected end of data",
        ),
        (
            "chestxray14",
            "path,label\na,x\n",
            "LABELS has no column Image Index among its 2 columns; needed are Image Index, Finding Labels, Patient ID",
        ),
        (
            "rsna",
            "patientId,x,y,width,height,Target\na,,,,,0\n",
            "LABELS has no column class among its 6 columns; needed are patientId, class",
        ),
        (
            "vindr",
            "image,rad_id\na,R1\n",
            "LABELS has no column image_id among its 2 columns; needed are image_id and class_name, or "
            "image_id and a column of 0 and 1 for each finding",
        ),
        (
            "vindr",
            "image_id,rad_id\na,R1\n",
            "LABELS has no findings among its 2 columns; needed are image_id and class_name, or image_id "
            "and a column of 0 and 1 for each finding",
        ),
        (
            "vindr",
            "image_id,rad_id,Mass\na,R1,maybe\n",
            "LABELS has another value where VinDr-CXR has 0 or 1; take its file as it was published",
        ),
        (
            "table",
            ",".join(f"c{k}" for k in range(30)) + "\n",
            f"LABELS has no column label among its 30 columns; {TABLE_NEEDS}",
        ),
    ],
)
def test_a_bad_table_is_one_sentence(label_format: str, text: str, sentence: str, tmp_path: Path) -> None:
    path = csv_file(tmp_path / "labels.csv", text)
    with pytest.raises(UserError) as error:
        read_labels(path, label_format, FILES, pseudonym)
    assert str(error.value).replace(str(path), "LABELS") == sentence


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no labels file at .*nowhere.csv; write a CSV with the columns path,label"):
        read_labels(tmp_path / "nowhere.csv", "table", FILES, pseudonym)
    no_parquet = csv_file(tmp_path / "csv.parquet", "path,label\na,x\n")
    with pytest.raises(UserError, match=r"^the labels file .*csv.parquet cannot be read as parquet: ") as error:
        read_labels(no_parquet, "table", FILES, pseudonym)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label_format", ["folder", "dicom_tag", "covid19_radiography", "kermany"])
def test_a_file_for_a_format_without_a_table(label_format: str, tmp_path: Path) -> None:
    path = csv_file(tmp_path / "labels.csv", "path,label\n")
    sentence = (
        f"{path} is no folder, but format {label_format} takes labels from the films themselves; set ingest.labels to "
        "the folder of films, as ingest.source"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        read_labels(path, label_format, FILES, pseudonym)


@pytest.mark.parametrize("label_format", ["table", "chestxray14", "rsna", "vindr"])
def test_a_folder_for_a_format_with_a_table(label_format: str, tmp_path: Path) -> None:
    sentence = f"{tmp_path} is a folder, but format {label_format} takes a table; set ingest.labels to that file"
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        read_labels(tmp_path, label_format, FILES, pseudonym)


@pytest.mark.parametrize("column", ["path", "image", "SOPInstanceUID"])
def test_hundred_thousand_rows(column: str, tmp_path: Path) -> None:
    """A patient a row, the worst case; generous bounds, which a groupby with a call a row breaks."""
    files = [f"study{k // 100:05d}/series/film{k:06d}.dcm" for k in range(100_000)]
    names = {"path": files, "image": [file.split("/")[-1] for file in files], "SOPInstanceUID": files}[column]
    rows = (f"{name},{'ab'[k % 2]}|c,PATIENT{k:06d}" for k, name in enumerate(names))
    path = csv_file(tmp_path / "labels.csv", "\n".join([f"{column},label,patient_id", *rows]) + "\n")
    start = time.perf_counter()
    read_labels(path, "table", files, pseudonym)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    try:
        labels = read_labels(path, "table", files, pseudonym)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    entry = labels.find(files[-1], {"instance": pseudonym("instance_id", files[-1])}, "")
    assert entry == Entry(("b", "c"), patient("PATIENT099999"))
    assert seconds < 10, seconds
    assert peak < 120e6, peak


@pytest.mark.parametrize("label_format", get_args(LabelFormat))
def test_params_know_which_formats_need_a_table(label_format: str) -> None:
    assert needs_table(label_format) == (labels.FORMATS[label_format].rule is None)


def test_folders_that_differ_in_signs_alone_are_not_one_class(tmp_path: Path) -> None:
    files = ["Nodule&Mass/1.png", "Nodule-Mass/2.png", "Doe (Jane)/3.png", "Doe Jane/4.png"]
    read_labels(tmp_path, "folder", files, pseudonym, ["normal"])
    with pytest.raises(UserError, match="folders of 2 names become class 'Nodule-Mass'"):
        read_labels(tmp_path, "folder", files, pseudonym, ["Nodule-Mass"])
