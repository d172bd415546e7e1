"""Nothing that the pipeline writes says who is on a film: known strings in every place for text, and none comes out.

The archive is that of `tests.canaries`; the whole pipeline has run on it (`tiny_project`). Then every byte that it
wrote is searched, in every packing known here. What DVC keeps of the archive is the archive.
"""

import base64
import binascii
import bz2
import gzip
import hashlib
import io
import lzma
import re
import shutil
import sqlite3
import subprocess
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image
from pyarrow import parquet  # type: ignore[import-untyped]

from tasks import image_set
from tasks.errors import UserError
from tasks.ingest.labels import read_labels
from tests import canaries
from tests.canaries import DATE, DIGITS, MARK, PATH_MARK, TIME
from tests.conftest import ROOT, TinyProject

DEPTH = 4  # of one packing within another

# --- the search


def _patterns() -> Iterator[str]:
    """In small letters; each starts with plain text, for speed."""
    for gap in (0, 1, 3):  # between the letters, in UTF-8, and in UTF-16 or -32 of either byte order
        nul = r"\x00" * gap
        for mark in (MARK, PATH_MARK):  # with the four digits after it: the first eight characters of a canary
            yield nul.join(mark.lower()) + rf"(?:{nul}[0-9a-f]){{4}}"
        yield nul.join(DIGITS)
    yield "[57]a[57]137[57][08](?:3[0-9]|[46][1-6]){4}"  # the marks in hexadecimal digits
    for date in (DATE, "1731-09-27", "27 sep 1731", "27 september 1731", TIME[:10], "17:59:43"):
        # Eight digits may be there by chance: they must stand alone.
        yield rf"{re.escape(date)}(?<![0-9.]{re.escape(date)})(?![0-9]{{3}})"


PATTERNS = [re.compile(pattern.encode()) for pattern in _patterns()]


def found(content: bytes) -> set[str]:
    """Every canary in `content`, in small letters and as far as it is there."""
    views_of_it = (view.lower() for view in views(content))
    matches = {match for view in views_of_it for pattern in PATTERNS for match in pattern.findall(view)}
    return {match.replace(b"\0", b"").decode() for match in matches}


def names_only(canaries: set[str]) -> set[str]:
    """Those of them that come from names of files and folders."""
    return {name for name in canaries if name.startswith((PATH_MARK.lower(), PATH_MARK.lower().encode().hex()))}


def views(content: bytes, depth: int = DEPTH) -> Iterator[bytes]:
    """`content`, and all that it unpacks to."""
    yield content
    if not depth:
        return
    try:
        parts = list(_unpacked(content))
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, sqlite3.Error):
        if depth == DEPTH:  # a file that cannot be looked into, not what looks like one by chance
            raise
        parts = []
    for part in (*parts, *_decoded(content)):
        yield from views(part, depth - 1)


def _unpacked(content: bytes) -> Iterator[bytes]:
    assert not content.startswith((b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")), "Zstandard or LZ4: unpack it here"
    if content.startswith(b"SQLite format 3\0"):
        yield from _rows(content)
    elif content.startswith(b"PAR1"):
        yield repr(parquet.read_table(io.BytesIO(content)).to_pydict()).encode()
    elif content.startswith(b"\x89PNG"):
        chunks = list(_png_chunks(content))
        yield from _inflated(b"".join(chunk for kind, chunk in chunks if kind == b"IDAT"))
        for _, chunk in [c for c in chunks if c[0] != b"IDAT"]:
            for start in re.finditer(b"\x78", chunk):
                yield from _inflated(chunk[start.start() :])
    elif content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from (name.encode(), archive.read(name))
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    elif content.startswith(b"BZh"):
        yield bz2.decompress(content)
    elif content.startswith(b"\xfd7zXZ"):
        yield lzma.decompress(content)
    elif content.startswith(b"\x78"):
        yield from _inflated(content)


def _decoded(content: bytes) -> Iterator[bytes]:
    if b"\\u" in content:
        yield re.sub(rb"\\u00([0-9a-fA-F]{2})", lambda match: bytes.fromhex(match[1].decode()), content)
    for run in re.findall(rb"[A-Za-z0-9+/_-]{14,}", content):
        for start in range(4):  # a run may begin with letters that are not of it
            part = run[start:].translate(bytes.maketrans(b"-_", b"+/"))
            with suppress(binascii.Error):
                yield base64.b64decode(part[: len(part) // 4 * 4])


def _inflated(content: bytes) -> Iterator[bytes]:
    with suppress(zlib.error):
        yield zlib.decompressobj().decompress(content)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 8 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        yield content[at + 4 : at + 8], content[at + 8 : end]
        at = end + 4


def _rows(content: bytes) -> Iterator[bytes]:
    """The values of an SQLite file, which its pages cut in pieces."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.text_factory = bytes
        database.deserialize(content[:18] + b"\1\1" + content[20:])  # not in write-ahead mode
        for (name,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in database.execute(f'select * from "{name.decode()}"'):
                yield from (value for value in row if isinstance(value, bytes))


def leaks(folder: Path, inputs: Collection[str] = ()) -> dict[str, set[str]]:
    """By file below `folder` the canaries in its name and content; files whose MD5 is among `inputs` are passed."""
    result: dict[str, set[str]] = {}
    known: dict[str, set[str]] = {}  # by MD5: what DVC keeps is there twice
    for path in sorted(folder.rglob("*")):
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        digest = _md5(content)
        if path.is_file() and digest in inputs:
            continue
        if digest not in known:
            known[digest] = found(content)
        name = path.relative_to(folder).as_posix()
        log = path.with_name(f"{path.name}-wal")
        whole = _with_log(path, log) if log.is_file() else b""
        if canaries_there := found(name.encode()) | known[digest] | found(whole):
            result[name] = canaries_there
    return result


def _with_log(path: Path, log: Path) -> bytes:
    """An SQLite file with what is in its write-ahead log, in a copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        shutil.copy(log, folder)
        with closing(sqlite3.connect(copy)) as database:
            database.execute("pragma wal_checkpoint(truncate)")
        return copy.read_bytes()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# --- the search finds


def _database(content: bytes) -> bytes:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table logs (message blob)")
        database.execute("insert into logs values (?)", (content,))
        database.commit()
        return database.serialize()


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.txt", content)
    return file.getvalue()


def _parquet(content: bytes) -> bytes:
    file = io.BytesIO()
    pd.DataFrame({"message": [content.decode(errors="replace")] * 9}).to_parquet(file)
    return file.getvalue()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "small letters": bytes.lower,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "UTF-16 BE": lambda content: content.decode().encode("utf-16-be"),
    "UTF-32": lambda content: content.decode().encode("utf-32"),
    "hexadecimal": lambda content: content.hex().encode(),
    "JSON": lambda content: "".join(f"\\u{byte:04x}" for byte in content).encode(),
    "base64": lambda content: b'{"picture": "data:image/png;base64,' + base64.b64encode(content),
    "base64 of a URL": lambda content: b"https://example/x" + base64.urlsafe_b64encode(b"\xff\xfe" + content),
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": _zip,
    "parquet": _parquet,
    "SQLite": lambda content: _database(b"-" * 4000 + content * 300),
    "base64 in zip in SQLite": lambda content: _database(_zip(base64.b64encode(content))),
}
TRACES = [
    f"{MARK}0012AB",
    f"{MARK}0012"[:8],
    f"Dr {MARK}FE001A^Jane",
    f"{DIGITS}18",
    f"{DIGITS}.18263",
    DATE,
    "1731-09-27",
]


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_search_finds_a_canary(packing: str, tmp_path: Path) -> None:
    for trace in TRACES[:3]:
        (tmp_path / "log").write_bytes(PACKINGS[packing](f"film of {trace}, refused".encode()))
        assert leaks(tmp_path).keys() == {"log"}, trace


def test_the_search_looks_into_a_write_ahead_log(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table logs (message text)")
        database.execute("insert into logs values (?)", (base64.b64encode(TRACES[0].encode() * 999),))
        database.commit()
        assert "db" in leaks(tmp_path)


@pytest.mark.parametrize("trace", TRACES)
def test_the_search_finds_a_trace_in_a_name_and_in_a_link(trace: str, tmp_path: Path) -> None:
    (tmp_path / f"film-{trace}.log").touch()
    (tmp_path / "link").symlink_to(f"/films/{trace}")
    assert leaks(tmp_path).keys() == {f"film-{trace}.log", "link"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_the_search_finds_the_texts_of_a_picture(kind: str) -> None:
    texts = found(canaries.picture(Image.new("L", (8, 8)), kind, 7))
    assert texts == {f"{MARK}0700".lower()}


def test_the_search_finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(range(256)) * 99 + b"ZQ7 X0012 ZQ7Xylophone 1731 20170927")
    assert leaks(tmp_path) == {}


# --- the pipeline


@pytest.fixture(scope="module")
def traces(tiny_project: TinyProject) -> dict[str, set[str]]:
    """`leaks` of all that was written: sets, shards, models, reports, MLflow, Prefect, DVC, git, temporary files.

    Passed are the archive, labels included, and what DVC keeps of it: the same files and the list of their names.
    """
    listed = yaml.safe_load((tiny_project.path / "data/raw.dvc").read_text())["outs"][0]["md5"]
    archive = [path.read_bytes() for path in (tiny_project.path / "data/raw").rglob("*") if path.is_file()]
    there = leaks(tiny_project.path.parent, {listed.removesuffix(".dir"), *map(_md5, archive)})
    return {name: canaries for name, canaries in there.items() if not name.startswith("project/data/raw/")}


def test_the_archive_is_full_of_canaries_and_goes_every_way(tiny_project: TinyProject) -> None:
    """Films, pictures and labels have them, all that should be is taken, and the rest is refused for every reason."""
    planted, folder = tiny_project.archive, tiny_project.path / "data/curated"
    texts = Counter(len(set(re.findall(MARK.encode() + b"[0-9A-F]{6}", path.read_bytes()))) for path in planted.films)
    assert sum(count for number, count in texts.items() if number > 100) > 50
    assert max(texts) > 3000
    refused = pd.read_csv(folder / "quarantine.csv")
    assert len(image_set.load(folder).manifest) == planted.taken
    assert set(refused["reason"]) == planted.refused
    assert len(refused) == len(planted.films) - planted.taken


def test_nothing_that_was_written_holds_a_canary(tiny_project: TinyProject, traces: dict[str, set[str]]) -> None:
    written = {path.name for path in tiny_project.path.rglob("*") if path.is_file()}
    assert {"manifest.csv", "images-00000.npy", "report.html", "mlflow.db", "prefect.db", "decoded.sqlite"} <= written
    assert {name: there for name, canaries in traces.items() if (there := canaries - names_only(canaries))} == {}


def test_nothing_that_was_said_holds_a_canary(tiny_project: TinyProject) -> None:
    said = tiny_project.flow.stdout + tiny_project.flow.stderr
    assert "inputs = " in said
    assert found(said.encode()) == set()


def test_names_of_files_are_in_the_quarantine_alone(tiny_project: TinyProject, traces: dict[str, set[str]]) -> None:
    """There a person must find the file, and docs/ingest.md says so."""
    quarantine = tiny_project.path / "data/curated/quarantine.csv"
    md5 = _md5(quarantine.read_bytes())
    assert traces.keys() == {"project/data/curated/quarantine.csv", f"project/.dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"}
    others = pd.read_csv(quarantine).drop(columns="path")
    assert found(others.to_csv().encode()) == set()


# --- ingest by other labels


@pytest.fixture
def elsewhere(tiny_project: TinyProject, tmp_path: Path) -> TinyProject:
    """A folder with params and store alone, for `xraysynth ingest` of the same archive."""
    shutil.copytree(tiny_project.path / ".xraysynth", tmp_path / "project/.xraysynth")  # nothing is decoded twice
    shutil.copy(tiny_project.path / "params.yaml", tmp_path / "project")
    return replace(tiny_project, path=tmp_path / "project")


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        ("SOPInstanceUID", ["normal", "effusion"]),
        ("PatientID", ["normal", "effusion"]),
        ("SOPInstanceUID", ["normal", "effusion", f"effusion|pneumonia|{MARK}FB0001"]),
    ],
)
def test_nothing_comes_of_labels_that_are_keyed_by_identifiers(
    key: str, labels: list[str], tiny_project: TinyProject, elsewhere: TinyProject, tmp_path: Path
) -> None:
    """Of several findings those that are no class may be anything."""
    names = tiny_project.archive.identifiers(key)
    classes = sorted({name for label in labels for name in label.split("|")[:2]})
    labels = [labels[k % len(labels)] for k in range(len(names))]
    table = pd.DataFrame({key: names, "label": labels, "PatientName": f"{MARK}FE0001^Jane"})
    table.to_parquet(tmp_path / "labels.parquet")
    elsewhere.edit_params({"ingest": {"classes": classes}})
    raw = str(tiny_project.path / "data/raw")
    done = elsewhere.run("xraysynth", "ingest", raw, "curated", "--labels", str(tmp_path / "labels.parquet"))
    manifest = pd.read_csv(elsewhere.path / "curated/manifest.csv")
    assert len(manifest) == len(tiny_project.archive.simulated)
    assert ("effusion|pneumonia" in set(manifest["label"])) == (len(classes) == 3)
    assert leaks(elsewhere.path).keys() == {"curated/quarantine.csv"}
    assert found((elsewhere.path / "curated/quarantine.csv").read_bytes()) == names_only(
        found((elsewhere.path / "curated/quarantine.csv").read_bytes())
    )
    assert found((done.stdout + done.stderr).encode()) == set()


def test_an_element_that_is_no_class_is_not_kept(tiny_project: TinyProject, elsewhere: TinyProject) -> None:
    """The label is taken from an element that turns out to hold something else: a wrong tag, or a free text."""
    elsewhere.edit_params({"ingest": {"label_format": "dicom_tag", "label_tag": "StudyDescription"}})
    raw = str(tiny_project.path / "data/raw")
    done = elsewhere.run("xraysynth", "ingest", raw, "curated", "--labels", raw, check=False)
    assert done.returncode == 2
    there = leaks(elsewhere.path)
    assert {name: values for name, canaries in there.items() if (values := canaries - names_only(canaries))} == {}
    assert found((done.stdout + done.stderr).encode()) == set()


@pytest.mark.parametrize(
    ("label_format", "table"),
    [
        ("table", f"path,label\na.png,{MARK}0001^Jane\n"),
        ("table", f'path,label\na.png,"{MARK}0001, Jane"\n'),
        ("table", f"path,label\na.png,{MARK}0001/{DIGITS}\na.png,{MARK}0001+{DIGITS}\n"),
        ("table", f"{MARK}0001^Jane,{DIGITS}\n{MARK}0002^Joe,normal\n"),  # without a header
        ("table", f"path,{MARK}0001\na.png,normal\n"),
        ("table", f"path,label\na.png,normal,{MARK}0001^Jane\n"),
        ("table", f'path,label\na.png,"{MARK}0001^Jane\n'),
        ("table", f'path,label\na.png,"{MARK}0001"^Jane\n'),
        ("vindr", f"image_id,rad_id,Edema\na,R1,{MARK}0001^Jane\n"),
        ("chestxray14", f"Image Index,Finding Labels,{MARK}0001\na.png,No Finding,1\n"),
    ],
)
def test_a_sentence_about_the_labels_cites_nothing_of_them(label_format: str, table: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UserError) as refused:
        read_labels(tmp_path / "labels.csv", label_format, ["a.png"], lambda kind, name: "pseudonym")
    assert found(str(refused.value).encode()) == set()


def test_a_table_of_labels_beside_the_code_goes_into_no_commit() -> None:
    """`dvc exp run` commits what git does not ignore."""
    tables = ["my_labels.csv", "labels.tsv", "Films.xlsx", "films.xls", "films.ods"]
    ignored = subprocess.run(["git", "check-ignore", *tables], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == tables


def test_a_look_beforehand_says_and_writes_no_canary(
    tiny_project: TinyProject, elsewhere: TinyProject, tmp_path: Path
) -> None:
    """By a table whose paths are those of another machine, with half of its rows about nothing that is here."""
    rows = [f"D:\\{PATH_MARK}0001\\{path}" for path in ("a.png", *map(str, tiny_project.archive.films[:9]))]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{row},normal\n" for row in rows))
    before = sorted(elsewhere.path.rglob("*"))
    raw = str(tiny_project.path / "data/raw")
    options = ("--check", "--labels", str(tmp_path / "labels.csv"))
    done = elsewhere.run("xraysynth", "ingest", raw, "curated", *options, check=False)
    assert "films by class:" in done.stdout
    assert found((done.stdout + done.stderr).encode()) == set()
    assert sorted(elsewhere.path.rglob("*")) == before
