"""The curated set that a generator learnt from: what data/curated holds now, or what DVC's cache still holds of then.

An ingest since then changes data/curated. The dvc.lock of that time names the set, and DVC keeps it in its cache until
somebody clears that (`dvc gc`).
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tasks import paths
from tasks.synthesize.generator import learnt_from

FOLDER_DIGEST = re.compile(r"[0-9a-f]{32}\.dir")


@contextmanager
def of(model_folder: Path, lock: Path) -> Iterator[Path | None]:
    """The set that the generator learnt from, whose dvc.lock is `lock`; None where it is not here any more.

    It is data/curated, or a temporary folder of links into DVC's cache. Whether it is that set its digest says.
    Raises UserError for a folder without a usable generator.
    """
    if learnt_from(model_folder, paths.CURATED):
        yield paths.CURATED
        return
    with tempfile.TemporaryDirectory() as temporary:
        digests = _digests(lock)
        cache = _cache() if digests else None
        folders = [Path(temporary) / digest for digest in digests]
        yield next((f for f in folders if cache and _linked(cache, f.name, f) and learnt_from(model_folder, f)), None)


def _digests(lock: Path) -> list[str]:
    """By which DVC knows data/curated: the set that a stage learnt from is its dependency, later ones are not."""
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].values()
    except (FileNotFoundError, TypeError, KeyError):
        return []
    files = [file for stage in stages for file in (*stage.get("outs", ()), *stage.get("deps", ()))]
    found = [str(file.get("md5")) for file in files if file["path"] == paths.CURATED.as_posix()]
    return [digest for digest in dict.fromkeys(found) if FOLDER_DIGEST.fullmatch(digest)]


def _cache() -> Path | None:
    """The folder of DVC's cache; None outside a DVC project."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()).resolve() if done.returncode == 0 else None


def _linked(cache: Path, digest: str, folder: Path) -> bool:
    """Fill `folder` with links to what the cache holds of a folder; whether it holds all of it.

    A folder is in the cache as a JSON list of its files: each with "relpath", and "md5", under which the file is there.
    """
    listing = _cached(cache, digest)
    if not listing.is_file():
        return False
    for file in json.loads(listing.read_text(encoding="utf-8")):
        kept, place = _cached(cache, file["md5"]), folder / file["relpath"]
        if not kept.is_file():
            return False
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(kept)
    return True


def _cached(cache: Path, digest: str) -> Path:
    return cache / "files/md5" / digest[:2] / digest[2:]
