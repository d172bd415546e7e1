"""What lies in the folder of films."""

import os
from pathlib import Path

from tasks.errors import UserError
from tasks.ingest.films.decode import Quarantined


def list_files(source: Path, labels: Path) -> tuple[list[str], list[Quarantined]]:
    """Relative paths of all files below `source`, sorted, without the table of labels; and what cannot be one."""
    if not source.is_dir():
        raise UserError(f"no folder {source}; put films there or set ingest.source")

    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}); change its rights")

    root, table = source.resolve(), labels.resolve()
    files: list[str] = []
    refused: list[Quarantined] = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):  # pathlib would pass over what it may not read
        links = [name for name in subfolders if Path(folder, name).is_symlink()]  # others are walked in their turn
        for path in (Path(folder, name) for name in [*names, *links]):
            relative = path.relative_to(root).as_posix()
            try:
                target = path.resolve() if path.is_symlink() else path
                regular = target.is_file()
            except (OSError, RuntimeError):  # a link to itself
                refused.append(Quarantined(relative, "unreadable", "a symbolic link that leads nowhere"))
                continue
            if target == table:
                continue
            if not target.is_relative_to(root):
                refused.append(Quarantined(relative, "outside_source", "a symbolic link that leads out of the source"))
            elif regular:
                files.append(relative)
            elif not target.is_dir():
                refused.append(Quarantined(relative, "unreadable", "neither a file nor a folder"))
    if not files and not refused:
        raise UserError(f"the folder {source} holds no films; put DICOM or picture files there or set ingest.source")
    return sorted(files), refused
