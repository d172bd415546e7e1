"""Make a registered generator once more: its git revision, its params, its data; the weights must be equal to the bit.

That holds on the same kind of CPU with the same libraries and the number of threads that the entry names. The copy of
the project has a cache of its own, so that DVC cannot answer from what it remembers of the first time.
"""

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks import paths
from tasks.errors import UserError
from tasks.files import private_folder
from tasks.ingest.pseudonyms import KEY_FILE
from tasks.params import PARAMS_FILE
from tasks.registry import versions
from tasks.synthesize.generator import read_generator, weights_digest

RESTORED = {file.name: file for file in (paths.DVC_LOCK, paths.DVC_YAML, PARAMS_FILE, paths.RAW_DVC)}
CONFIG, LOCAL_CONFIG = Path(".dvc/config"), Path(".dvc/config.local")
CACHE = "xraysynth-cache"  # name, in the copy, of this project's DVC cache as a remote


def run(number: int, folder: Path) -> tuple[bool, str]:
    """Make version `number` again in the new or empty `folder`; whether the weights are equal, and a sentence.

    Raises UserError where the entry does not say enough, or a step fails.
    """
    one = versions.version(number)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name a new one")
    for tag, words in (("git_revision", "git revision"), ("raw_digest", "archive under DVC's care")):
        if not one.tags.get(tag):
            raise UserError(f"version {number} was registered without a {words}; it cannot be made again")
    with versions.fetched(one) as entry:
        threads = read_generator(entry / versions.GENERATOR)[1]["extra"].get("threads")
        _clone(one.tags["git_revision"], folder)
        for name, place in RESTORED.items():
            shutil.copy(entry / versions.RECORD / name, folder / place)
    environment = _environment(folder, threads)
    _take_data(folder, environment)
    stage = f"train@{one.tags['model']}"
    _do("dvc", "repro", stage, folder=folder, env=environment, what=f"`dvc repro {stage}` in {folder}")
    made = weights_digest(folder / paths.MODELS / one.tags["model"])
    code = " (registered from code that was not committed)" * (one.tags.get("git_dirty") == "true")
    if made == one.tags["weights"]:
        return True, f"version {number} is reproduced: the weights are equal to the bit, SHA-256 {made[:12]}{code}"
    return False, f"version {number} is not reproduced: SHA-256 {made[:12]}, not {one.tags['weights'][:12]}{code}"


def _clone(revision: str, folder: Path) -> None:
    top = _do("git", "rev-parse", "--show-toplevel", folder=Path(), what="finding the git repository").strip()
    _do("git", "clone", "--quiet", "--no-checkout", top, str(folder), folder=Path(), what="cloning the repository")
    _do("git", "checkout", "--quiet", "--detach", revision, folder=folder, what=f"finding revision {revision[:12]}")


def _take_data(folder: Path, env: Mapping[str, str]) -> None:
    """The archive from this project's DVC cache, else from the remotes; and the key of its pseudonyms."""
    if KEY_FILE.exists():
        private_folder((folder / KEY_FILE).parent)
        shutil.copy2(KEY_FILE, folder / KEY_FILE)
    if LOCAL_CONFIG.exists():  # addresses and credentials, which git must not have
        shutil.copy2(LOCAL_CONFIG, folder / LOCAL_CONFIG)
    for name, place in _remotes_in_folders().items():  # relative ones would be elsewhere in the copy
        url = ("remote", "modify", "--local", name, "url", str(place))
        _do("dvc", *url, folder=folder, env=env, what="setting a remote")
    cache = _do("dvc", "cache", "dir", folder=Path(), env=env, what="`dvc cache dir`").strip()
    _do("dvc", "remote", "add", "--local", CACHE, cache, folder=folder, env=env, what="setting the cache")
    data = str(paths.RAW_DVC)
    pull = ("dvc", "pull", "--quiet", data)
    try:
        _do(*pull, "--remote", CACHE, folder=folder, env=env, what="taking the films")
    except UserError:  # not all of it is there any more
        try:
            _do(*pull, folder=folder, env=env, what="taking the films")
        except UserError:
            raise UserError("the films it learnt from are neither in DVC's cache nor in its remote any more") from None


def _remotes_in_folders() -> dict[str, Path]:
    """Those of this project's DVC remotes that are folders. (`dvc remote list` breaks long lines.)"""
    found: dict[str, Path] = {}
    for file in (CONFIG, LOCAL_CONFIG):
        sections = configparser.ConfigParser(interpolation=None)
        sections.read(file, encoding="utf-8")
        for section in sections.sections():
            name, url = re.fullmatch(r"'remote \"(.+)\"'", section), sections[section].get("url", "")
            if name and url and "://" not in url:
                found[name[1]] = (file.parent / url).resolve()
    return found


def _environment(folder: Path, threads: int | None) -> dict[str, str]:
    """The copy's own code comes first, and what it tracks stays with it."""
    own = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join([str(folder.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if threads:
        own["OMP_NUM_THREADS"] = str(threads)
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | own


def _do(*command: str, folder: Path, what: str, env: Mapping[str, str] | None = None) -> str:
    """What a program prints. Raises UserError with its last line where it fails."""
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"no `{command[0]}` on the path: activate .venv") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(f"{what} failed: {said[-1].strip() if said else f'exit code {done.returncode}'}")
    return done.stdout
