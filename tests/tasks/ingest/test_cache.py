"""The store of decoded films: right or empty, never wrong."""

import os
import sqlite3
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.ingest import cache

IMAGE = np.arange(16, dtype=np.uint8).reshape(4, 4)


@pytest.fixture
def store_file(tmp_path: Path) -> Path:
    return tmp_path / "private" / "decoded.sqlite"


def fill(path: Path, settings: str = "a") -> None:
    with cache.opened(settings, path) as store:
        store.put("film", "state", "digest", {"label": "x"}, IMAGE)
        store.put("text", "state", "other", {"reason": "not_dicom"}, None)
        store.commit()


def test_what_was_put_comes_back(store_file: Path) -> None:
    fill(store_file)
    with cache.opened("a", store_file) as store:
        assert store.digest("film", "state") == "digest"
        assert store.record("digest")["label"] == "x"
        np.testing.assert_array_equal(store.image("digest", 4), IMAGE)
        assert store.record("other") == {"reason": "not_dicom", "picture": ""}
    assert stat.S_IMODE(store_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("settings", "path", "state"),
    [("b", "film", "state"), ("a", "film", "changed"), ("a", "new", "state"), ("a", "film", "")],
)
def test_other_settings_a_changed_file_and_an_unsure_state_are_unknown(
    store_file: Path, settings: str, path: str, state: str
) -> None:
    fill(store_file)
    with cache.opened(settings, store_file) as store:
        assert store.digest(path, state) is None


def test_what_is_not_committed_is_not_there(store_file: Path) -> None:
    with cache.opened("a", store_file) as store:
        store.put("film", "state", "digest", {}, IMAGE)
    with cache.opened("a", store_file) as store:
        assert store.digest("film", "state") is None


def test_a_damaged_store_starts_anew(store_file: Path) -> None:
    fill(store_file)
    store_file.write_bytes(b"no database " * 1000)
    with cache.opened("a", store_file) as store:
        assert store.digest("film", "state") is None
    fill(store_file)
    assert stat.S_IMODE(store_file.stat().st_mode) == 0o600


def test_a_store_that_another_ingest_holds_is_a_sentence(store_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_file)
    monkeypatch.setattr(cache, "SECONDS_FOR_ANOTHER", 0.2)
    holder = sqlite3.connect(store_file, isolation_level=None)
    holder.execute("begin immediate")
    with pytest.raises(UserError, match="another ingest"):
        fill(store_file)
    holder.close()


def test_entries_that_nobody_uses_are_dropped(store_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_file, "old")
    later = time.time() + (cache.UNUSED_DAYS + 1) * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    with cache.opened("a", store_file) as store:
        store.put("film", "state", "digest", {}, IMAGE)
        store.tidy(["digest"])
        assert store.digest("film", "state") == "digest"
    with cache.opened("old", store_file) as store:
        assert store.digest("film", "state") is None
        assert store.digest("text", "state") is None


def test_the_state_of_a_file_changes_with_the_file(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"1")
    assert cache.state(film.stat()) == ""  # it may change again within the clock's resolution
    os.utime(film, ns=(0, 0))
    first = cache.state(film.stat())
    film.write_bytes(b"2")
    os.utime(film, ns=(0, 0))  # the same size and time: the inode's own time tells
    assert "" != first != cache.state(film.stat())


def test_a_store_damaged_in_its_middle_is_removed_with_a_sentence(store_file: Path) -> None:
    with cache.opened("a", store_file) as store:
        for k in range(400):
            store.put(f"film{k}", "state", f"digest{k}", {"label": "x" * 200}, IMAGE)
        store.commit()
    content = bytearray(store_file.read_bytes())
    content[16384:-4096] = b"?" * (len(content) - 20480)
    store_file.write_bytes(content)
    with pytest.raises(UserError, match="was damaged"), cache.opened("a", store_file) as store:
        [store.record(f"digest{k}") for k in range(400)]
    with cache.opened("a", store_file) as store:
        assert store.is_empty()
