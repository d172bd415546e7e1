"""A champion's images are screened against the films that it learnt from, also when data/curated holds others."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from model.gan import sampling
from model.gan.networks import Generator
from tasks import cli, image_set, paths
from tasks.errors import UserError
from tasks.params import PARAMS_FILE
from tasks.registry import CHAMPION, films, register, versions
from tasks.synthesize import stage
from tests.tasks import projects

DRAW = ("synthesize", CHAMPION, "out", "--label", "rare", "--count", "40")
CACHE = Path(".dvc/cache")


def digest(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def kept(content: bytes, ending: str = "") -> str:
    """Put a file, or the list of a folder's files, where DVC would; its digest."""
    name = digest(content) + ending
    place = CACHE / "files/md5" / name[:2] / name[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return name


def ingested() -> str:
    """Let DVC's cache and dvc.lock know data/curated as it is now, as stage ingest of `dvc repro` does."""
    files = sorted(paths.CURATED.iterdir())
    listing = [{"md5": kept(file.read_bytes()), "relpath": file.name} for file in files]
    name = kept(json.dumps(listing).encode(), ".dir")
    lock = yaml.safe_load(paths.DVC_LOCK.read_text())
    lock["stages"]["ingest"]["outs"] = [{"path": "data/curated", "hash": "md5", "md5": name}]
    paths.DVC_LOCK.write_text(yaml.safe_dump(lock))
    return name


def another_ingest() -> None:
    shutil.rmtree(paths.CURATED)
    projects.write_data(seed=5)
    ingested()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder .dvc of a new project."""
    project = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=project, check=True)
    return project / ".dvc"


@pytest.fixture
def learnt(empty: Path, mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A project whose champion repeats a film that it learnt from, one image of ten; the train films."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(mlflow_store, "mlflow.db")
    shutil.copytree(empty, ".dvc")
    projects.write_data()
    projects.write_versioned()
    ingested()
    projects.write_generator("msg_gan", seed=1)
    register.register("msg_gan")
    versions.promote()
    train = image_set.load(paths.CURATED).where(split="train").images

    def batches(generator: Generator, label: int, count: int, seed: int, truncation: float) -> Iterator[np.ndarray]:
        first = 0
        for part in sampling.batches(generator, label, count, seed, truncation):
            for k in range(-first % 10, len(part), 10):
                part[k] = train[(first + k) // 10 % len(train)]
            yield part
            first += len(part)

    monkeypatch.setattr(stage, "batches", batches)
    return train


def draw(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments or DRAW))


def copies(train: np.ndarray) -> int:
    drawn = {image.tobytes() for image in image_set.load(Path("out")).images}
    return len(drawn & {film.tobytes() for film in train})


def test_after_another_ingest_copies_are_still_left_out(learnt: np.ndarray) -> None:
    another_ingest()
    done = draw()
    assert done.exit_code == 0, done.output
    assert "40 images in out, without 5 copies of films" in done.output
    assert copies(learnt) == 0
    assert "another set" not in done.output


def test_so_are_those_of_a_model_folder_that_was_not_trained_again(learnt: np.ndarray) -> None:
    """Its own dvc.lock names the set as what stage train depends on; that of ingest is a later one."""
    lock = yaml.safe_load(paths.DVC_LOCK.read_text())
    (out,) = lock["stages"]["ingest"]["outs"]
    lock["stages"]["train@msg_gan"] = {"cmd": "xraysynth train msg_gan", "deps": [out]}
    paths.DVC_LOCK.write_text(yaml.safe_dump(lock))
    another_ingest()
    done = draw("synthesize", "msg_gan", *DRAW[2:])
    assert done.exit_code == 0, done.output
    assert "without 5 copies" in done.output
    assert copies(learnt) == 0


@pytest.mark.parametrize("lost", ["all", "a shard", "the lock's entry"])
def test_where_the_set_is_lost_the_first_line_says_so(learnt: np.ndarray, lost: str) -> None:
    if lost == "the lock's entry":
        (entry,) = Path("mlruns").rglob("record/dvc.lock")
        entry.write_text("schema: '2.0'\nstages: {}\n")
    another_ingest()
    if lost == "all":
        shutil.rmtree(CACHE)
    elif lost == "a shard":
        shard = digest(_npy(learnt))
        (CACHE / "files/md5" / shard[:2] / shard[2:]).unlink()
    done = draw()
    assert done.exit_code == 0, done.output
    assert done.output.startswith("not screened for copies of training films: ")
    assert not json.loads(Path("out/dataset.json").read_text())["screening"]["screened"]
    assert copies(learnt) == 4


def _npy(train: np.ndarray) -> bytes:
    """The one shard of the set that was learnt from, by the films in it."""
    for file in CACHE.rglob("*"):
        if file.is_file() and file.read_bytes().startswith(b"\x93NUMPY"):
            shard = np.load(file)
            if (shard == train[0]).all((1, 2)).any():
                return file.read_bytes()
    raise AssertionError("no such shard")


def test_what_another_folder_of_the_cache_holds_is_not_taken_for_the_set(learnt: np.ndarray) -> None:
    another_ingest()
    shutil.copy(paths.DVC_LOCK, next(Path("mlruns").rglob("record/dvc.lock")))
    assert draw().output.startswith("not screened")
    assert copies(learnt) == 4


class TestRequired:
    """synthesize.screening: required."""

    @pytest.fixture(autouse=True)
    def required(self, learnt: np.ndarray) -> None:
        content = yaml.safe_load(PARAMS_FILE.read_text())
        PARAMS_FILE.write_text(yaml.safe_dump({**content, "synthesize": {"screening": "required"}}))
        another_ingest()

    def refused(self, *arguments: str) -> str:
        done = draw(*arguments)
        assert isinstance(done.exception, UserError)
        assert done.exception.exit_code == 2
        assert not done.output
        assert not Path("out").exists()
        return str(done.exception)

    def test_draws_where_the_set_is_at_hand(self) -> None:
        assert "without 5 copies" in draw().output

    def test_refuses_where_it_is_lost(self) -> None:
        shutil.rmtree(CACHE)
        said = self.refused()
        assert said.startswith("nothing is drawn, for synthesize.screening is required")
        assert "\n" not in said

    def test_refuses_another_set(self) -> None:
        assert "against another set than" in self.refused(*DRAW, "--curated", "data/curated")


def test_it_is_read_from_where_dvc_itself_keeps_it(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(empty, ".dvc")
    projects.write_data()
    projects.write_generator("msg_gan", seed=1)
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data/curated"], check=True)
    (out,) = yaml.safe_load(Path("data/curated.dvc").read_text())["outs"]
    stages = {"train@msg_gan": {"deps": [{"path": "data/curated", "md5": out["md5"]}]}}
    paths.DVC_LOCK.write_text(yaml.safe_dump({"stages": stages}))
    before = image_set.load(paths.CURATED)
    shutil.rmtree(paths.CURATED)
    with films.of(paths.MODELS / "msg_gan", paths.DVC_LOCK) as folder:
        assert folder is not None
        found = image_set.load(folder)
    assert found.digest == before.digest
    np.testing.assert_array_equal(found.images, before.images)
