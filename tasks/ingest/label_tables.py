"""Tables of labels on disk, CSV, Excel or parquet, read row by row: a table of any length takes no memory here."""

import csv
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from zipfile import BadZipFile

from tasks.errors import UserError
from tasks.params import Uncertain

UTF_8, WINDOWS, LATIN = "utf-8-sig", "cp1252", "latin-1"
ENCODINGS = {UTF_8: "UTF-8", "utf-16": "UTF-16", WINDOWS: "Windows-1252, for it is not UTF-8", LATIN: "Latin-1"}
DELIMITERS = ",;\t|"
SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's own first line, above that of the columns
EMPTY = {"", "na", "n/a", "nan"}  # of a column of a finding
OLD_EXCEL, NEW_EXCEL = b"\xd0\xcf\x11\xe0", b"PK\x03\x04"  # first bytes of workbooks


class Row(NamedTuple):
    """What one row says of a film, or all rows together where the form of a public set asks for that."""

    key: str
    findings: tuple[str, ...]
    patient: str = ""
    conflict: bool = False  # it contradicts itself
    unknown: tuple[str, ...] = ()  # findings of which it does not say whether they are there


@dataclass(frozen=True)
class Table:
    """A file whose columns are known and whose rows have not been read; made by `open_table`.

    `said`: how it is read, for the log, where that is not as usual.
    """

    path: Path
    columns: tuple[str, ...]  # as the file names them, without blanks around
    delimiter: str = ","
    encoding: str = UTF_8
    marked: bool = False  # the first line is Excel's `sep=`, and the second one names the columns
    said: str = ""

    def column(self, *names: str) -> str | None:
        """The column with the first of `names` that the table has, in whatever `plain` spelling."""
        known = {plain(column): column for column in reversed(self.columns)}
        return next((known[plain(name)] for name in names if plain(name) in known), None)

    def needed(self, name: str, needed: str) -> str:
        """Like `column`, but raises UserError with what is `needed`."""
        if column := self.column(name):
            return column
        self.refuse(f"no column {name}", needed)

    def refuse(self, lack: str, needed: str) -> NoReturn:
        """Raises UserError: what the table lacks and what is needed.

        What stands in its first line is not said: without a header that is somebody's row.
        """
        raise UserError(f"{self.path} has {lack} among its {len(self.columns)} columns; needed are {needed}")

    def rows(self, *columns: str) -> Iterator[tuple[str, ...]]:
        """The values of `columns`, a tuple a row, without blanks around; a missing value is ''.

        Raises UserError when the file ends or breaks off where it should not.
        """
        at = [self.columns.index(column) for column in columns]
        kind = kind_of(self.path)
        with _readable(self.path, self.encoding):
            if kind == "parquet":
                yield from _parquet_rows(self.path, at)
            elif kind == "Excel":
                yield from _excel_rows(self.path, at)
            else:
                yield from self._csv_rows(at)

    def labelled_rows(self, key: str, label: str, patient: str | None) -> Iterator[Row]:
        """The rows of a table with one label a row; it may hold several findings, separated by | or ;"""

        @cache  # few texts, many rows
        def findings(text: str) -> tuple[str, ...]:
            return tuple(dict.fromkeys(part.strip() for part in re.split("[|;]", text) if part.strip()))

        for name, text, *patients in self.rows(key, label, *([patient] if patient else [])):
            yield Row(name, findings(text), "".join(patients))

    def rows_of_columns(
        self,
        key: str,
        findings: Mapping[str, str],
        patient: str | None,
        uncertain: Uncertain,
        none: str = "",
        empty_is_negative: bool = False,
    ) -> Iterator[Row]:
        """The rows of a table with a column a finding, `findings` by column: 1, 0, -1 (uncertain) or empty.

        `uncertain` "ignore": what is uncertain is not known, and what is empty neither, unless `empty_is_negative`;
        "positive", "negative": what is uncertain is that, and what is empty is not there. `none` is the finding of
        films that have none, whether or not it has a column: of a film without any in all columns. Raises UserError
        for another value.
        """
        patients = [patient] if patient else []
        unsure = {-1: uncertain == "ignore", None: uncertain == "ignore" and not empty_is_negative}
        for name, *cells in self.rows(key, *patients, *findings):
            said = {
                finding: self._number(cell)
                for finding, cell in zip(findings.values(), cells[len(patients) :], strict=True)
            }
            there = [name for name, value in said.items() if value == 1 or (value == -1 and uncertain == "positive")]
            unknown = [name for name, value in said.items() if unsure.get(value) and name != none]
            if none in there:
                there, unknown = [name for name in there if name != none] or [none], []
            elif none and not (there or unknown) and said.get(none) != 0:
                there = [none]
            yield Row(name, tuple(there), "".join(cells[: len(patients)]), unknown=tuple(unknown))

    def _number(self, cell: str) -> int | None:
        if cell.casefold() in EMPTY:
            return None
        if cell.removesuffix(".0") not in ("0", "1", "-1"):
            raise UserError(f"{self.path} has another value where a column of a finding has 1, 0, -1 or nothing")
        return int(cell.removesuffix(".0"))

    def _csv_rows(self, at: Sequence[int]) -> Iterator[tuple[str, ...]]:
        width = len(self.columns)
        with self.path.open(newline="", encoding=self.encoding) as file:
            if self.marked:
                file.readline()
            reader = csv.reader(file, strict=True, delimiter=self.delimiter)
            next(reader)
            for row in reader:
                if not row:
                    continue
                if len(row) < width or any(row[width:]):  # ChestX-ray14 ends its rows, not its header, with a comma
                    raise UserError(
                        f"line {reader.line_num + self.marked} of {self.path} has {len(row)} values, but the header "
                        f"has {width}; mend the line (a value with a comma needs quotation marks)"
                    )
                yield tuple(row[k].strip() for k in at)


def open_table(path: Path) -> Table:
    """The columns of a CSV, of the first sheet of an Excel workbook (.xlsx), or of a parquet file (.parquet).

    A CSV is UTF-8, UTF-16 or Windows-1252, whichever it can be. Commas part its values; where its first line has none,
    semicolons, tabs or bars, or what Excel's line `sep=` names.

    Raises UserError when there is no such file, or when it can't be read.
    """
    with _readable(path):
        kind = kind_of(path)
    if kind == "CSV":
        return _open_csv(path)
    with _readable(path):
        if kind == "parquet":
            from pyarrow import parquet  # type: ignore[import-untyped]  # 60 MB that CSV does not need

            names, said = parquet.read_schema(path).names, ""
        else:
            with closing(workbook(path)) as book:
                names = [_text(value) for value in next(_filled(book), ())]
                sheets = len(book.worksheets)
            said = f"read from the first of the {sheets} sheets of a workbook" if sheets > 1 else ""
    return Table(path, _named(path, names), said=said)


def plain(name: str) -> str:
    """The name of a column without what people spell in different ways: capitals, blanks, dashes and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def kind_of(path: Path) -> str:
    """CSV, Excel or parquet. Raises UserError for a workbook that cannot be read, OSError for a file that cannot."""
    if path.suffix.lower() == ".parquet":
        return "parquet"
    with path.open("rb") as file:
        start = file.read(4)
    if start == OLD_EXCEL:
        raise UserError(f"{path} is a workbook of an old Excel, or has a password; save it as .xlsx without one")
    return "Excel" if start == NEW_EXCEL or path.suffix.lower() in (".xlsx", ".xlsm") else "CSV"


def _open_csv(path: Path) -> Table:
    encoding = _encoding(path)
    with _readable(path, encoding), path.open(newline="", encoding=encoding) as file:
        header = file.readline()
        if marked := SEP.fullmatch(header):
            start, header = file.tell(), file.readline()
        else:
            start = 0
        if "\0" in header:
            raise ValueError("it holds bytes that no text has")
        delimiter = marked[1] if marked else next((sign for sign in DELIMITERS if sign in header), ",")
        file.seek(start)
        names = next(csv.reader(file, strict=True, delimiter=delimiter), [])
    said = "" if encoding == UTF_8 else f"read as {ENCODINGS[encoding]}"
    return Table(path, _named(path, names), delimiter, encoding, marked is not None, said)


def _named(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    if not any(names):
        raise UserError(f"the labels file {path} is empty; its first line must name its columns")
    return tuple(name.strip() for name in names)


def _encoding(path: Path) -> str:
    """UTF-8 or UTF-16 if it can be that; any bytes are Latin-1, and most of what people have so is Windows-1252."""
    with _readable(path):
        with path.open("rb") as file:
            start = file.read(2)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
        for encoding in (UTF_8, WINDOWS):
            try:
                with path.open(encoding=encoding, newline="") as file:
                    for _ in file:
                        pass
                return encoding
            except UnicodeDecodeError:
                continue
    return LATIN


def workbook(path: Path, whole: bool = False) -> Any:
    """The opened workbook, with values in the place of formulas; `whole` to change and save it, formulas kept."""
    import openpyxl  # slow to import, and most tables are CSV

    warnings.filterwarnings("ignore", module=r"openpyxl\.")  # it quotes what it warns of, which can be a name
    content = io.BytesIO(path.read_bytes())  # a path must end as openpyxl likes it
    return openpyxl.load_workbook(content, read_only=not whole, data_only=not whole)


def _filled(book: Any) -> Iterator[tuple[object, ...]]:
    """The rows of the first sheet in which anything stands, whatever size the file says that it has."""
    sheet = book.worksheets[0]
    sheet.reset_dimensions()
    return (row for row in sheet.iter_rows(values_only=True) if any(value not in (None, "") for value in row))


def _excel_rows(path: Path, at: Sequence[int]) -> Iterator[tuple[str, ...]]:
    with closing(workbook(path)) as book:
        rows = _filled(book)
        next(rows)
        for row in rows:
            yield tuple(_text(row[k]) if k < len(row) else "" for k in at)


def _parquet_rows(path: Path, at: Sequence[int]) -> Iterator[tuple[str, ...]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = [file.schema_arrow.names[k] for k in at]
        for batch in file.iter_batches(columns=names):
            yield from zip(*([_text(value) for value in batch.column(name).to_pylist()] for name in names), strict=True)


def _text(value: object) -> str:
    """A value of parquet or Excel as CSV would have it; a list is several findings."""
    if value is None or value != value:  # NaN, with which pandas fills in
        return ""
    if isinstance(value, list):
        return "|".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():  # integers beside a missing one are floats in pandas
        return str(int(value))
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


@contextmanager
def _readable(path: Path, encoding: str = UTF_8) -> Iterator[None]:
    """What goes wrong in reading `path`, as one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"no labels file at {path}; write a CSV with the columns path,label (and patient_id, which pictures need "
            "unless ingest.patients is per_file), or set ingest.labels; where folders are named after classes, "
            "ingest.label_format: folder needs none"
        ) from None
    except PermissionError:
        raise UserError(f"no permission to read the labels file {path}; change its rights") from None
    except UserError:
        raise
    except Exception as error:
        kind = kind_of(path)
        if kind != "Excel" and not isinstance(error, (ValueError, OSError, csv.Error, NotImplementedError, KeyError)):
            raise  # pyarrow's errors are among these; openpyxl's are as many as the ways to damage a workbook,
        name = f"CSV in {ENCODINGS[encoding].partition(',')[0]}" if kind == "CSV" else kind
        quotes = kind == "Excel" and not isinstance(error, (BadZipFile, OSError))  # and quote cells, which can be names
        reason = f"a damaged part ({type(error).__name__})" if quotes else " ".join(str(error).split())
        raise UserError(f"the labels file {path} cannot be read as {name}: {reason}") from None
