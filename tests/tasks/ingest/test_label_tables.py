"""Tables as Excel, a RIS and old programs write them, in whatever form, are the same table."""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import openpyxl
import pytest

from tasks.errors import UserError
from tasks.ingest.label_tables import open_table

ROWS = [["path", "label", "patient_id"], ["a/one.png", "Lungenödem", "17"], ["a/two.dcm", "normal|mass", "007"]]


def text(delimiter: str = ",", end: str = "\n") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows(ROWS)
    return out.getvalue()


def workbook(path: Path, *sheets: Sequence[Sequence[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


WAYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "UTF-8": (lambda: text().encode(), ""),
    "UTF-8 with a mark": (lambda: text().encode("utf-8-sig"), ""),
    "UTF-16": (lambda: text(end="\r\n").encode("utf-16"), "read as UTF-16"),
    "UTF-16, big-endian": (lambda: b"\xfe\xff" + text().encode("utf-16-be"), "read as UTF-16"),
    "UTF-16 with tabs, Excel's Unicode text": (lambda: text("\t").encode("utf-16"), "read as UTF-16"),
    "UTF-16 with sep": (lambda: ("sep=;\r\n" + text(";", "\r\n")).encode("utf-16"), "read as UTF-16"),
    "Windows-1252": (lambda: text().encode("cp1252"), "read as Windows-1252, for it is not UTF-8"),
    "Latin-1": (lambda: text().encode("latin-1") + b"a/3,\x81,8\n", "read as Latin-1"),
    "semicolons": (lambda: text(";").encode(), ""),
    "sep": (lambda: ("sep=;\n" + text(";")).encode(), ""),
    "SEP in quotes with a mark": (lambda: ('"SEP=|"\r\n' + text("|", "\r\n")).encode("utf-8-sig"), ""),
    "sep of an odd sign": (lambda: ("sep=~\n" + text("~")).encode(), ""),
    "pipes": (lambda: text("|").encode(), ""),
    "tabs": (lambda: text("\t").encode(), ""),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_form_of_text_is_the_same_table(way: str, tmp_path: Path) -> None:
    content, said = WAYS[way]
    (tmp_path / "labels.csv").write_bytes(content())
    table = open_table(tmp_path / "labels.csv")
    assert list(table.columns) == ROWS[0]
    assert [list(row) for row in table.rows(*table.columns)][:2] == ROWS[1:]
    assert table.said == said


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.csv"])
def test_a_workbook_is_the_same_table(name: str, tmp_path: Path) -> None:
    """Numbers of a cell have no `.0`, rows and columns without content are passed over, and a short row is filled."""
    rows: list[list[object]] = [[None], ["path", "label", "patient_id", None], ["a/one.png", "Lungenödem", 17.0]]
    rows += [[None, None], ["a/two.dcm", " normal|mass ", "007"], ["a/three.dcm", date(2020, 1, 2)]]
    path = workbook(tmp_path / "labels.xlsx", rows).rename(tmp_path / name)
    table = open_table(path)
    assert list(table.columns)[:3] == ROWS[0]
    assert [list(row) for row in table.rows(*table.columns[:3])] == [
        *ROWS[1:],
        ["a/three.dcm", "2020-01-02 00:00:00", ""],
    ]
    assert table.said == ""


def test_the_first_of_several_sheets_is_read_and_that_is_said(tmp_path: Path) -> None:
    table = open_table(workbook(tmp_path / "labels.xlsx", ROWS, [["other"]]))
    assert list(table.columns) == ROWS[0]
    assert table.said == "read from the first of the 2 sheets of a workbook"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("labels.xlsx", b"path,label\n", "cannot be read as Excel: File is not a zip file"),
        ("labels.csv", b"PK\x03\x04 broken", "cannot be read as Excel: "),
        (
            "labels.xls",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            "old Excel, or has a password; save it as .xlsx",
        ),
        ("labels.csv", b"\x01\x02\x00\xff\xfe,label\n", "it holds bytes that no text has"),
        ("labels.csv", b"sep=;\n", "is empty; its first line must name its columns"),
        ("labels.csv", b"sep=;\npath;label\na;b;c\n", "line 3 of"),
    ],
)
def test_what_is_no_table_is_one_sentence(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    def read() -> None:
        table = open_table(tmp_path / name)
        list(table.rows(*table.columns))

    with pytest.raises(UserError) as refused:
        read()
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_workbook_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty; its first line must name its columns"):
        open_table(workbook(tmp_path / "labels.xlsx", []))


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("SOP Instance UID", "SOPInstanceUID"),
        ("Patient ID", "PatientID"),
        ("patient-id", "PatientID"),
        ("ACCESSION_NUMBER", "AccessionNumber"),
        (" File Name ", "file_name"),
        ("Label", "label"),
    ],
)
def test_columns_are_known_however_they_are_spelled(written: str, asked: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"other,{written}\na,b\n")
    table = open_table(tmp_path / "labels.csv")
    column = table.column(asked)
    assert column == written.strip()
    assert list(table.rows(column)) == [("b",)]


def damaged(path: Path, pattern: str, becomes: str) -> Path:
    """The workbook with another text in its first sheet."""
    other = path.with_name(f"other-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "xl/worksheets/sheet1.xml":
                content, count = re.subn(pattern.encode(), becomes.encode(), content)
                assert count
            new.writestr(name, content)
    return other


@pytest.mark.parametrize("size", ["A1", "A1:B2", "A1:Z99"])
def test_a_workbook_that_says_another_size_is_read_to_its_end(size: str, tmp_path: Path) -> None:
    """Programs that are no Excel write what they like there, and rows beyond it would be lost in silence."""
    path = workbook(tmp_path / "labels.xlsx", [["path", "label"], *([f"{k}.png", "x"] for k in range(50))])
    table = open_table(damaged(path, '<dimension ref="[^"]*"', f'<dimension ref="{size}"'))
    assert len(list(table.rows("path", "label"))) == 50


@pytest.mark.parametrize(
    ("pattern", "becomes"),
    [
        ('<c r="A2"[^>]*>.*?</c>', '<c r="A2" t="n"><v>Mueller^Anna</v></c>'),
        ('<c r="A2"[^>]*>.*?</c>', '<c r="A2" t="d"><v>Mueller^Anna</v></c>'),
        ('<c r="A2"[^>]*>.*?</c>', '<c r="A2" t="s"><v>9999</v></c>'),
        ('<c r="A2"[^>]*>.*?</c>', '<c r="A2"><v>Mueller^Anna'),
    ],
)
def test_a_damaged_workbook_is_one_sentence_that_quotes_nothing(pattern: str, becomes: str, tmp_path: Path) -> None:
    path = damaged(workbook(tmp_path / "labels.xlsx", [["path", "label"], ["a.png", "x"]]), pattern, becomes)
    with pytest.raises(UserError, match=r"cannot be read as Excel: a damaged part \(\w+\)$"):
        list(open_table(path).rows("path", "label"))
