"""Tables of labels on disk, CSV or parquet, read row by row: a table of any length takes no memory here."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

from tasks.errors import UserError

Row = tuple[str, tuple[str, ...], str, bool]  # key, findings, patient or "", whether the labels contradict themselves


@dataclass(frozen=True)
class Table:
    """A file whose columns are known and whose rows have not been read; made by `open_table`."""

    path: Path
    columns: tuple[str, ...]  # as the file names them, without blanks around
    delimiter: str = ","

    def column(self, *names: str) -> str | None:
        """The column with the first of `names` that the table has; upper and lower case are the same."""
        known = {column.casefold(): column for column in reversed(self.columns)}
        return next((known[name.casefold()] for name in names if name.casefold() in known), None)

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
        with _readable(self.path):
            yield from _parquet_rows(self.path, at) if _is_parquet(self.path) else self._csv_rows(at)

    def labelled_rows(self, key: str, label: str, patient: str | None) -> Iterator[Row]:
        """The rows of a table with one label a row; it may hold several findings, separated by | or ;"""

        @cache  # few texts, many rows
        def findings(text: str) -> tuple[str, ...]:
            return tuple(dict.fromkeys(part.strip() for part in re.split("[|;]", text) if part.strip()))

        for name, text, *patients in self.rows(key, label, *([patient] if patient else [])):
            yield name, findings(text), "".join(patients), False

    def _csv_rows(self, at: Sequence[int]) -> Iterator[tuple[str, ...]]:
        width = len(self.columns)
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, delimiter=self.delimiter)
            next(reader)
            for row in reader:
                if not row:
                    continue
                if len(row) < width or any(row[width:]):  # ChestX-ray14 ends its rows, not its header, with a comma
                    raise UserError(
                        f"line {reader.line_num} of {self.path} has {len(row)} values, but the header has {width}; "
                        "mend the line (a value with a comma needs quotation marks)"
                    )
                yield tuple(row[k].strip() for k in at)


def open_table(path: Path) -> Table:
    """The columns of a CSV (UTF-8) or, by its extension .parquet, of a parquet file.

    Commas part the values of a CSV; where its first line has none, semicolons or tabs, as in European spreadsheets.

    Raises UserError when there is no such file, or when it can't be read.
    """
    delimiter = ","
    with _readable(path):
        if _is_parquet(path):
            from pyarrow import parquet  # type: ignore[import-untyped]  # 60 MB that CSV does not need

            names = parquet.read_schema(path).names
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header = file.readline()
                delimiter = next((sign for sign in ",;\t" if sign in header), ",")
                file.seek(0)
                names = next(csv.reader(file, strict=True, delimiter=delimiter), [])
    if not names:
        raise UserError(f"the labels file {path} is empty; its first line must name its columns")
    return Table(path, tuple(name.strip() for name in names), delimiter)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _parquet_rows(path: Path, at: Sequence[int]) -> Iterator[tuple[str, ...]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = [file.schema_arrow.names[k] for k in at]
        for batch in file.iter_batches(columns=names):
            yield from zip(*([_text(value) for value in batch.column(name).to_pylist()] for name in names), strict=True)


def _text(value: object) -> str:
    """A value of parquet as CSV would have it; a list is several findings."""
    if value is None or value != value:  # NaN, with which pandas fills in
        return ""
    if isinstance(value, list):
        return "|".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():  # integers beside a missing one are floats in pandas
        return str(int(value))
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong in reading `path`, as one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"no labels file at {path}; write a CSV with the columns path,label or set ingest.labels"
        ) from None
    except PermissionError:
        raise UserError(f"no permission to read the labels file {path}; change its rights") from None
    except (ValueError, OSError, csv.Error, NotImplementedError) as error:  # pyarrow's errors are among them
        kind = "parquet" if _is_parquet(path) else "CSV in UTF-8"
        reason = " ".join(str(error).split())
        raise UserError(f"the labels file {path} cannot be read as {kind}: {reason}") from None
