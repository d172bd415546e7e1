"""What was decoded before: films by the digest of their file, in a private SQLite file outside DVC's outputs.

It makes a second ingest fast and a killed one cheap to repeat. It holds what the curated set holds, images and
pseudonyms, and may be deleted at any time.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.files import private_folder

STORE_FILE = Path(".xraysynth/decoded.sqlite")
FORM = ("source_format", "transfer_syntax", "bits", "coding")  # facts: what a film is encoded as
UNUSED_DAYS = 30  # after which an entry is dropped
ROWS_A_COMMIT = 256
SECONDS_FOR_ANOTHER = 60.0  # ingest to commit
YOUNG = 2_000_000_000  # nanoseconds: a file changed that recently may change again within the clock's resolution
TABLES = """
    create table if not exists files (path text primary key, state text, digest text);
    create table if not exists films (digest text, settings text, used real, record text, image blob,
                                      primary key (digest, settings));
"""


class DecodedFiles:
    """Films by digest, decoded with the same `settings`; paths by their pseudonym, with the state last seen."""

    def __init__(self, connection: sqlite3.Connection, settings: str) -> None:
        self._connection, self._settings, self._pending = connection, settings, 0

    def digest(self, path: str, state: str) -> str | None:
        """The digest of a file that was decoded with these settings and has not been touched since."""
        if not state:
            return None
        row = self._connection.execute(
            "select digest from files join films using (digest) where path = ? and state = ? and settings = ?",
            (path, state, self._settings),
        ).fetchone()
        return row[0] if row else None

    def has(self, digest: str) -> bool:
        """Whether a file with these bytes was decoded with these settings."""
        return self._row("1", digest) is not None

    def is_empty(self) -> bool:
        """Whether nothing was decoded with these settings."""
        query = "select 1 from films where settings = ? limit 1"
        return self._connection.execute(query, (self._settings,)).fetchone() is None

    def note(self, path: str, state: str, digest: str) -> None:
        """Keep that the file at `path` has this digest."""
        self._connection.execute("insert or replace into files values (?, ?, ?)", (path, state, digest))

    def put(self, path: str, state: str, digest: str, record: dict[str, Any], image: np.ndarray | None) -> None:
        """Keep a film: `record` is JSON; `image` (size, size) uint8, None for a refused one."""
        content = None if image is None else image.tobytes()
        picture = "" if content is None else hashlib.blake2b(content, digest_size=16).hexdigest()
        self.note(path, state, digest)
        self._connection.execute(
            "insert or replace into films values (?, ?, ?, ?, ?)",
            (digest, self._settings, time.time(), json.dumps({**record, "picture": picture}), content),
        )
        self._pending += 1
        if self._pending >= ROWS_A_COMMIT:
            self.commit()

    def commit(self) -> None:
        """Make what was put so far survive a crash."""
        self._connection.commit()
        self._pending = 0

    def record(self, digest: str) -> dict[str, Any]:
        """What was put for `digest`, with the digest of its image as `picture` ("" for a refused film)."""
        record: dict[str, Any] = json.loads(self._row("record", digest)[0])
        return record

    def has_forms(self) -> bool:
        """Whether films of different encodings are there."""
        facts = ", ".join(f"json_extract(record, '$.facts.{name}')" for name in FORM)
        query = f"select distinct {facts} from films where settings = ? and image is not null limit 2"
        return len(self._connection.execute(query, (self._settings,)).fetchall()) > 1

    def image(self, digest: str, size: int) -> np.ndarray:
        """(size, size) uint8."""
        return np.frombuffer(self._row("image", digest)[0], dtype=np.uint8).reshape(size, size)

    def tidy(self, digests: list[str]) -> None:
        """Note that `digests` were used, and drop what nobody used for a month."""
        now = time.time()
        self._connection.executemany(
            "update films set used = ? where digest = ? and settings = ?",
            ((now, digest, self._settings) for digest in digests),
        )
        self._connection.execute("delete from films where used < ?", (now - UNUSED_DAYS * 86400,))
        self._connection.execute("delete from files where digest not in (select digest from films)")
        self.commit()

    def _row(self, columns: str, digest: str) -> Any:
        query = f"select {columns} from films where digest = ? and settings = ?"
        return self._connection.execute(query, (digest, self._settings)).fetchone()


@contextmanager
def opened(settings: str, path: Path = STORE_FILE) -> Iterator[DecodedFiles]:
    """The store at `path`, made with mode 600; a damaged one is replaced, for it can be made anew.

    Raises UserError when it cannot be written or another ingest holds it.
    """
    try:
        connection = _connect(path)
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"cannot use {path} ({error}); let another ingest end first, or correct its rights") from None
    try:
        yield DecodedFiles(connection, settings)
    except sqlite3.OperationalError as error:
        raise UserError(f"cannot write {path} ({error}); free some room, or let another ingest end first") from None
    except sqlite3.DatabaseError as error:
        connection.close()
        path.unlink()
        raise UserError(f"{path} was damaged ({error}) and is removed; run again, it is made anew") from None
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    private_folder(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    try:
        return _prepared(path)
    except sqlite3.OperationalError:  # locked or read-only, not damaged
        raise
    except sqlite3.DatabaseError:
        path.unlink()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return _prepared(path)


def _prepared(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=SECONDS_FOR_ANOTHER)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.executescript(TABLES)
    return connection


def state(status: os.stat_result) -> str:
    """What changes when a file changes; "" when it is too young to tell."""
    if time.time_ns() - status.st_mtime_ns < YOUNG:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
