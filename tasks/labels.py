"""The table of labels: which class each file belongs to, and whose film it is where the file does not say."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from tasks.errors import UserError

CLASS_NAME = re.compile(r"\w[\w .-]*")  # classes name folders, metrics and columns


@dataclass(frozen=True)
class Entry:
    """What the table says of one file: its classes and its patients; more than one is a conflict."""

    labels: frozenset[str]
    patients: frozenset[str]


def read_labels(path: Path) -> dict[str, Entry]:
    """Entries by path relative to the source folder.

    `path` is a CSV with the columns `path` and `label`, and `patient_id` for files that don't carry a PatientID.
    Raises UserError when there is no such file or column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(
            f"no labels file at {path}; write one with the columns path,label or set ingest.labels"
        ) from None
    except PermissionError:
        raise UserError(f"no permission to read the labels file {path}; change its rights") from None
    except (ValueError, OSError) as error:
        raise UserError(f"the labels file {path} cannot be read as CSV: {error}") from None
    missing = {"path", "label"} - set(table.columns)
    if missing:
        raise UserError(f"{path} has no column {' and no column '.join(sorted(missing))}; needed are path,label")
    table["path"] = [PurePosixPath(p.replace("\\", "/")).as_posix() for p in table["path"]]
    for label in table["label"].unique():
        if label.strip() and not CLASS_NAME.fullmatch(label.strip()):
            raise UserError(
                f"{path}: the label {label!r} is no class name; use letters, digits, '_', '-', '.' and blanks"
            )
    patients = table.get("patient_id", pd.Series("", index=table.index))
    table = table.assign(label=table["label"].str.strip(), patient_id=patients.str.strip())
    return {
        str(name): Entry(frozenset(rows["label"]) - {""}, frozenset(rows["patient_id"]) - {""})
        for name, rows in table.groupby("path", sort=False)
    }
