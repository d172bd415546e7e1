"""The labels of public sets, in the form in which their publishers hand them out.

- `chestxray14`: `Data_Entry_2017.csv` of Wang et al., CVPR 2017
- `chexpert`: `train.csv` or `valid.csv` of CheXpert (Irvin et al., AAAI 2019), a column a finding; the patient is in
  the path, and lateral views are left out
- `padchest`: `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` (Bustos et al., Medical Image Analysis 2020), whose
  films have no header: what its Projection does not call PA or AP is left out, as are those that it excludes
- `rsna`: `stage_2_detailed_class_info.csv` of the RSNA Pneumonia Detection Challenge 2018, a row a box; its `patientId`
  stands for one film (RSNA's mapping leads to films of ChestX-ray14, where a person has several)
- `vindr`: `image_labels_*.csv` or `annotations_*.csv` of VinDr-CXR (Nguyen et al., Scientific Data 2022), or the
  `train.csv` that VinBigData gave to Kaggle
- `covid19_radiography`: the folders of the COVID-19 Radiography Database (Chowdhury et al., IEEE Access 2020)
- `kermany`: the folders of Kermany et al., Cell 2018, in the second and in the third version of their archive

A slash in the name of a finding, which no class name may have, becomes a dash: "Nodule-Mass".
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import PurePosixPath

from tasks.errors import UserError
from tasks.ingest.label_tables import Row, Table
from tasks.params import Uncertain

COLUMNS = {  # of the film, the label and the patient
    "chestxray14": ("Image Index", "Finding Labels", "Patient ID"),
    "rsna": ("patientId", "class", "patientId"),
}
NO_FINDING = "No finding"  # VinDr's name for it
CHEXPERT_FACTS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")  # all other columns are findings
CHEXPERT_PATIENT = re.compile(r"(?:^|/)(patient\d+)/")
CHEXPERT_NONE = "No Finding"
PADCHEST_COLUMNS = ("ImageID", "Labels", "PatientID", "Projection")
PADCHEST_FRONTAL = ("PA", "AP", "AP_horizontal")
PADCHEST_EXCLUDED, PADCHEST_NO_FINDINGS = {"exclude", "suboptimal study"}, {"unchanged", ""}  # words among its labels
COVID_CLASSES = {name.casefold(): name for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")}
KERMANY_NAMES = [
    re.compile(r"(?P<patient>person\d+)_(?P<kind>bacteria|virus)_\d+(_\d+)*"),
    re.compile(r"(?P<kind>BACTERIA|VIRUS|NORMAL)-(?P<patient>\d+)-\d+"),
    re.compile(r"(?P<patient>(?P<kind>IM|NORMAL2-IM)-\d+)-\d+(-\d+)?"),
]
KERMANY_CLASSES = {"bacteria": "bacterial_pneumonia", "virus": "viral_pneumonia"}  # all others are normal

Said = tuple[tuple[str, ...], str, bool]  # findings, patient or "", whether the labels contradict themselves


def rows(table: Table, label_format: str, uncertain: Uncertain = "ignore") -> tuple[str, Iterator[Row]]:
    """The column that names the film's file (with or without its extension), and what is said of each film.

    `label_format` is chestxray14, chexpert, padchest, rsna or vindr; `uncertain` is `ingest.uncertain`, for chexpert.
    Raises UserError when `table` lacks a column.
    """
    if label_format == "vindr":
        return _vindr(table)
    if label_format == "chexpert":
        return _chexpert(table, uncertain)
    if label_format == "padchest":
        return _padchest(table)
    needed = COLUMNS[label_format]
    key, label, patient = (table.needed(name, ", ".join(dict.fromkeys(needed))) for name in needed)
    said = table.labelled_rows(key, label, patient)
    return key, (row._replace(findings=_without_slash(row.findings)) for row in said)


def _without_slash(findings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace("/", "-") for name in findings)


def _vindr(table: Table) -> tuple[str, Iterator[Row]]:
    """A row a reader and image with a column of 0 and 1 a finding, or a row a finding (class_name).

    A finding counts when more than half of the readers of that image named it; where no finding is left, "No finding"
    does by the same rule. Where no majority says anything, the readers contradict each other. Without rad_id (the test
    set, labelled by consensus) there is one reader.
    """
    needed = "image_id and class_name, or image_id and a column of 0 and 1 for each finding"
    image, reader, name = table.needed("image_id", needed), table.column("rad_id"), table.column("class_name")
    wide = [] if name else [column for column in table.columns if column and column not in (image, reader)]
    if not (name or wide):
        table.refuse("no findings", needed)
    said: dict[tuple[str, str, str], None] = {}  # image, reader, finding or ""; in the order of the file
    for image_id, rad_id, *cells in table.rows(image, reader or image, *([name] if name else wide)):
        named = cells if name else [finding for finding, cell in zip(wide, cells, strict=True) if _is_one(table, cell)]
        said.update(dict.fromkeys((image_id, rad_id, finding) for finding in named or [""]))
    return image, _votes(said)


def _votes(said: Iterable[tuple[str, str, str]]) -> Iterator[Row]:
    """What the majority of the readers says of each image; `said` are its (image, reader, finding or "")."""
    for image, group in groupby(sorted(said, key=itemgetter(0)), key=itemgetter(0)):
        opinions = list(group)
        readers = len({reader for _, reader, _ in opinions})
        agreed = [name for name, n in Counter(name for *_, name in opinions).items() if 2 * n > readers]
        findings = [name for name in agreed if name not in ("", NO_FINDING)] or [n for n in agreed if n == NO_FINDING]
        yield Row(image, _without_slash(tuple(findings)), conflict=not agreed)


def _chexpert(table: Table, uncertain: Uncertain) -> tuple[str, Iterator[Row]]:
    """A column a finding: 1, 0, -1 (uncertain), or empty where the report does not mention it.

    What is not mentioned is not there, as in the table of the paper (its negatives are all that is neither positive nor
    uncertain) and in the models of it: `ingest.uncertain` is about -1 alone. "No Finding" may stand beside "Support
    Devices": then that is what the film shows, and of the others none.
    """
    needed = ", ".join([*CHEXPERT_FACTS[:1], CHEXPERT_FACTS[3], "and a column for each finding"])
    path, view = table.needed(CHEXPERT_FACTS[0], needed), table.needed(CHEXPERT_FACTS[3], needed)
    facts = {column for name in CHEXPERT_FACTS if (column := table.column(name))}
    findings = {column: column.replace("/", "-") for column in table.columns if column and column not in facts}
    if not findings:
        table.refuse("no findings", needed)

    def frontal() -> Iterator[Row]:
        said = table.rows_of_columns(path, findings, None, uncertain, CHEXPERT_NONE, empty_is_negative=True)
        for row, (seen,) in zip(said, table.rows(view), strict=True):
            if seen.casefold() != "lateral":
                match = CHEXPERT_PATIENT.search(row.key.replace("\\", "/"))
                yield row._replace(patient=match[1] if match else "")

    return path, frontal()


def _padchest(table: Table) -> tuple[str, Iterator[Row]]:
    """Labels are written as a list in Python: ['pleural effusion', 'cardiomegaly']."""
    image, label, patient, projection = (table.needed(name, ", ".join(PADCHEST_COLUMNS)) for name in PADCHEST_COLUMNS)

    def frontal() -> Iterator[Row]:
        for name, text, whose, seen in table.rows(image, label, patient, projection):
            found = tuple(dict.fromkeys(part.strip() for part in re.findall(r"'([^']*)'", text)))
            if seen in PADCHEST_FRONTAL and not PADCHEST_EXCLUDED.intersection(found):
                there = tuple(finding for finding in found if finding not in PADCHEST_NO_FINDINGS)
                yield Row(name, _without_slash(there), whose)

    return image, frontal()


def _is_one(table: Table, cell: str) -> bool:
    if cell not in ("0", "1"):
        raise UserError(f"{table.path} has another value where VinDr-CXR has 0 or 1; take its file as it was published")
    return cell == "1"


def covid19_radiography(path: PurePosixPath) -> Said | None:
    """What the path says: the folder above `images`, or in the first versions above the file; `masks` are no films."""
    folder = path.parent.parent.name if path.parent.name == "images" else path.parent.name
    name = COVID_CLASSES.get(folder.casefold())
    return ((name,), "", False) if name else None


def kermany(path: PurePosixPath) -> Said | None:
    """What the file's name says; it contradicts itself where the folder, NORMAL or PNEUMONIA, says otherwise.

    The name's number of a person is the best key to a patient that there is.
    """
    match = next(filter(None, (pattern.fullmatch(path.stem) for pattern in KERMANY_NAMES)), None)
    if match is None:
        return None
    finding = KERMANY_CLASSES.get(match["kind"].lower(), "normal")
    contradicts = path.parent.name == ("PNEUMONIA" if finding == "normal" else "NORMAL")
    return (finding,), match["patient"], contradicts
