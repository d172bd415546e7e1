"""One file to one curated image, in a worker process: it imports little, for every worker pays for that in memory."""

import hashlib
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.ingest import cache
from tasks.ingest.films.dicom import look_at_dicom, read_dicom
from tasks.ingest.films.film import Film, Reading, Refused
from tasks.ingest.films.pictures import look_at_picture, picture_kind, read_picture
from tasks.ingest.films.resize import to_square

HEADER_BYTES = 1 << 24  # what a file may hold beside four bytes a pixel
UNFORESEEN = "the film is damaged in a way that no check foresaw"


@dataclass(frozen=True)
class Quarantined:
    """A file that is not taken; the first fields are the columns of quarantine.csv. No digest: it was not read."""

    path: str
    reason: str
    sentence: str
    digest: str = ""
    classes: tuple[str, ...] = ()  # that it is labelled with, and is lost to; no column

    def columns(self) -> tuple[str, ...]:
        """The row as it is written; a file's name need not be UTF-8."""
        path = self.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return path, self.reason, self.sentence, self.digest


@dataclass(frozen=True)
class Decoded:
    """A file that was read: SHA-256 `digest`, `state` of its status, and `image` (size, size) uint8 or the refusal."""

    path: str
    state: str
    digest: str
    image: np.ndarray | None = None
    refusal: tuple[str, str] = ("", "")
    ids: dict[str, str] = field(default_factory=dict)  # as in Film
    label: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Digested:
    """A file that was read but not decoded."""

    path: str
    state: str
    digest: str


@dataclass(frozen=True)
class Looked:
    """A file of which the header was read; the fields are as in Decoded."""

    path: str
    refusal: tuple[str, str] = ("", "")
    ids: dict[str, str] = field(default_factory=dict)
    label: str = ""


def digest_file(source: Path, how: Reading, path: str) -> Digested | None:
    """SHA-256 of a file, to find out whether it was decoded before; None for one that `decode_file` would not read."""
    try:
        with (source / path).open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > _most_bytes(how):
                return None
            return Digested(path, cache.state(status), hashlib.file_digest(file, "sha256").hexdigest())
    except OSError:
        return None


def _most_bytes(how: Reading) -> int:
    return 4 * how.max_pixels + HEADER_BYTES


def decode_file(source: Path, how: Reading, clahe_clip: float, path: str) -> Decoded | Quarantined:
    """Read one file: parsed once, decoded once, no larger than needed. `path` is relative to `source`."""
    try:
        with (source / path).open("rb") as file:
            status = os.fstat(file.fileno())
            state = cache.state(status)
            limit = _most_bytes(how)
            if status.st_size > limit:
                return Quarantined(path, "too_large", f"{status.st_size:,} bytes, not read; the limit is {limit:,}")
            content = file.read()
    except OSError as error:
        return Quarantined(path, "unreadable", f"the file cannot be read: {error.strerror}")
    except MemoryError:
        return Quarantined(path, "too_large", "reading needs more memory than a worker may use")
    digest = hashlib.sha256(content).hexdigest()
    try:
        film = read_film(content, how)
        image = to_square(film, how.size or max(film.shape), how.fit, clahe_clip)
        if image.min() == image.max():
            raise Refused("blank", "every pixel looks the same")
    except Refused as refused:
        return Decoded(path, state, digest, refusal=(refused.reason, refused.sentence), ids=refused.ids)
    except MemoryError:
        return Decoded(path, state, digest, refusal=("too_large", "decoding needs more memory than a worker may use"))
    except Exception as error:  # no file, whatever is in it, ends a run
        return Decoded(path, state, digest, refusal=("decode_failed", f"{UNFORESEEN}: {type(error).__name__}"))
    return Decoded(path, state, digest, image, ("", ""), film.ids, film.label, film.facts)


def look_at_file(source: Path, how: Reading, path: str) -> Looked:
    """What `decode_file` would find by names and headers alone. `path` is relative to `source`."""
    try:
        with (source / path).open("rb") as file:
            if os.fstat(file.fileno()).st_size > _most_bytes(how):
                return Looked(path, ("too_large", f"the limit is {_most_bytes(how):,} bytes"))
            start = file.read(132)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as in read_film
                if kind := picture_kind(start):
                    look_at_picture(file, kind, how)
                    return Looked(path)
                ids, label = look_at_dicom(file, how)
                return Looked(path, ids=ids, label=label)
    except Refused as refused:
        return Looked(path, (refused.reason, refused.sentence), refused.ids)
    except OSError as error:
        return Looked(path, ("unreadable", f"the file cannot be read: {error.strerror}"))
    except MemoryError:
        return Looked(path, ("too_large", "reading needs more memory than a worker may use"))
    except Exception as error:  # as in decode_file
        return Looked(path, ("decode_failed", f"{UNFORESEEN}: {type(error).__name__}"))


def crashed(source: Path, path: str) -> Quarantined:
    """The row of a file that ended its worker."""
    sentence = "its decoder crashed, or took too long or too much memory"
    try:
        with (source / path).open("rb") as file:
            return Quarantined(path, "decoder_crashed", sentence, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError:
        return Quarantined(path, "decoder_crashed", sentence)


def read_film(content: bytes, how: Reading = Reading()) -> Film:
    """The bytes of one file (DICOM, PNG, JPEG or TIFF) to grey levels in [0, 1].

    Raises Refused with the reason, and MemoryError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries quote what they warn of, which can be a name
        if kind := picture_kind(content):
            return read_picture(content, kind, how)
        return read_dicom(content, how)
