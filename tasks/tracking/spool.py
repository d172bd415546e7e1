"""What MLflow has not taken yet, on disk: one folder an MLflow run, one file a record, in their order.

Nothing here knows MLflow; `runs` brings the records there. A folder is locked by the process that
writes it, and a lock ends with its process: what lies here unlocked was left by one that has ended.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from filelock import FileLock, Timeout

FOLDER = Path(".xraysynth/tracking")
LIMIT = 64 * 2**20  # bytes on disk of all that waits; what comes then is left out, and the caller says so
BLOCK = 4096  # what a small file takes
HEAD = "head.json"

Record = dict[str, Any]


class SpoolFull(OSError):
    """There is no room within LIMIT."""


class Spool:
    """The records of one run that wait. `head` is what the run is opened with."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        self.head: Record = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        self._count = max((int(path.stem) for path in self.waiting()), default=0)

    @classmethod
    def new(cls, head: Record) -> "Spool":
        """A folder of this process, named by a new `record_id`, which is added to the head."""
        name = uuid.uuid4().hex
        folder = FOLDER / name
        FOLDER.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock_file(folder))
        lock.acquire(timeout=0)
        folder.mkdir()
        _write(folder / HEAD, json.dumps({**head, "record_id": name}).encode())
        return cls(folder, lock)

    @classmethod
    def left(cls) -> Iterator["Spool"]:
        """Those of processes that have ended, oldest first; each is this process's until it is released."""
        for head in sorted(FOLDER.glob(f"*/{HEAD}"), key=_time):
            lock = FileLock(_lock_file(head.parent))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                if head.exists():  # else its process has removed it in between
                    yield cls(head.parent, lock)
            finally:
                lock.release()

    def exists(self) -> bool:
        """Whether the end of the run is not yet in MLflow."""
        return (self.folder / HEAD).exists()

    def waiting(self) -> list[Path]:
        """The files of the records, in their order."""
        return sorted(path for path in self.folder.glob("*.json") if path.name != HEAD)

    def put(self, record: Record, content: bytes = b"") -> None:
        """Keep a record, whole or not at all. Raises SpoolFull, or OSError where the disk takes nothing."""
        text = json.dumps(record).encode()
        if _size() + len(text) + len(content) > LIMIT:
            raise SpoolFull(f"{LIMIT >> 20} MiB of records wait in {FOLDER}")
        path = self.folder / f"{self._count + 1:06d}.json"
        if content:
            _write(path.with_suffix(".content"), content)
        _write(path, text)
        self._count += 1

    def read(self, path: Path) -> tuple[Record, bytes]:
        """A record and its content."""
        content = path.with_suffix(".content")
        return json.loads(path.read_text(encoding="utf-8")), content.read_bytes() if content.exists() else b""

    def forget(self, path: Path) -> None:
        """MLflow has this one."""
        path.unlink()
        path.with_suffix(".content").unlink(missing_ok=True)

    def seen_alive(self) -> None:
        """Remember the time, from which one can tell when a killed process ended."""
        with suppress(OSError):
            (self.folder / HEAD).touch()

    def last_seen(self) -> float:
        """Seconds since 1970."""
        return _time(self.folder / HEAD)

    def release(self) -> None:
        """Leave it to the next stage."""
        self._lock.release()

    def remove(self) -> None:
        """All is in MLflow."""
        rmtree(self.folder, ignore_errors=True)
        _lock_file(self.folder).unlink(missing_ok=True)
        self._lock.release()


def waiting_runs() -> int:
    """How many runs wait for MLflow, those of stages that run now left out."""
    return sum(1 for _ in Spool.left())


def _lock_file(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _size() -> int:
    return sum(max(_length(path), BLOCK) for path in FOLDER.glob("*/*"))


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process has just brought it to MLflow
        return 0


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
