"""What flows change of a project before a stage runs: params, snapshot of the films, and one at a time."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import flows  # noqa: F401

from flows import project, snapshot  # isort: skip
from flows.pipeline import pipeline
from flows.retrain import retrain, story
from tasks.errors import UserError
from tasks.places import RAW_DVC
from tasks.provenance import raw_digest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestParams:
    """Overrides as `dvc exp run -S` takes them."""

    def test_are_written_and_comments_stay(self, here: Path) -> None:
        project.set_params("/films/it's, new", None, ["train.kimg=2.5", "classify.seeds=[1,2,3]"])
        text = (here / "params.yaml").read_text()
        params = yaml.safe_load(text)
        assert params["train"]["kimg"] == 2.5
        assert params["classify"]["seeds"] == [1, 2, 3]
        assert params["ingest"]["source"] == "/films/it's, new"
        assert params["ingest"]["labels"] == "/films/it's, new/labels.csv"
        assert "# One section a stage." in text

    def test_labels_are_the_source_where_no_table_is_needed(self, here: Path) -> None:
        project.set_params("/films", None, ["ingest.label_format=folder", "ingest.classes=[a,b]"])
        assert yaml.safe_load((here / "params.yaml").read_text())["ingest"]["labels"] == "/films"

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("train.kimg=-1", "overrides: 'train.kimg' should be greater than 0, but is -1"),
            ("train.kimgs=1", "kimgs"),
            ("train.kimg=[", "cannot be used"),
            ("models.msg_sagan.attention_resolutions=[128]", "is above ingest.size"),
        ],
    )
    def test_that_cannot_be_are_refused_and_nothing_is_changed(self, here: Path, override: str, said: str) -> None:
        before = (here / "params.yaml").read_bytes()
        with pytest.raises(UserError, match=said.replace("[", r"\[")):
            project.set_params(None, None, ["train.batch=8", override])
        assert (here / "params.yaml").read_bytes() == before
        assert not list(Path(".xraysynth").iterdir())


def test_films_that_are_not_there_are_one_sentence(here: Path) -> None:
    state = pipeline(return_state=True)
    assert state.is_failed()
    assert (
        state.message == "there is no folder data/raw; put films there, name another, or let `make raw` fill data/raw"
    )


def test_two_flows_do_not_interleave(make_project: Callable[..., Path]) -> None:
    folder = make_project(slow={"cmd": "touch out", "deps": ["raw"], "outs": ["out"]})
    (folder / "params.yaml").write_text("ingest: {source: raw}\n")
    code = "from flows.project import held_alone\nwith held_alone():\n  print('held', flush=True); input()"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        states = [pipeline(return_state=True), retrain(return_state=True)]
        other.communicate("\n")
    for state in states:
        assert state.is_failed()
        assert state.name == "BadInput"
        assert state.message == "another flow is at work in this project; wait until it has ended, or cancel it"
    assert not (folder / "out").exists()
    assert pipeline(return_state=True).is_completed()  # the lock is gone with who held it


class TestTheSnapshot:
    """What a source holds beyond data/raw as DVC tracks it."""

    @pytest.fixture
    def source(self, make_project: Callable[..., Path], tmp_path: Path) -> Path:
        make_project()
        raw = Path("data/raw")
        (raw / "a").mkdir(parents=True)
        (raw / "a/1.png").write_bytes(b"one")
        (raw / "labels.csv").write_text("path,label\n")
        subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data/raw"], check=True)
        shutil.copytree(raw, tmp_path / "source")
        return tmp_path / "source"

    def test_has_what_it_was_made_of(self, source: Path) -> None:
        assert snapshot.changes(source, source / "labels.csv") == snapshot.Changes([], False)
        assert snapshot.changes(Path("data/raw"), Path("data/raw/labels.csv")) == snapshot.Changes([], False)
        assert raw_digest(RAW_DVC).endswith(".dir")

    def test_lacks_what_is_new_or_of_another_size(self, source: Path, tmp_path: Path) -> None:
        (source / "a/1.png").write_bytes(b"one and more")
        (source / "b").mkdir()
        (source / "b/2.png").write_bytes(b"two")
        (source / ".partial").write_bytes(b"half")
        (tmp_path / "outside.png").write_bytes(b"not of the source")
        (source / "link.png").symlink_to(tmp_path / "outside.png")
        (source / "labels.csv").write_text("path,label\nb/2.png,x\n")
        found = snapshot.changes(source, source / "labels.csv")
        assert found == snapshot.Changes(["a/1.png", "b/2.png"], True)
        snapshot.take(source, source / "labels.csv", found)
        assert Path("data/raw/b/2.png").read_bytes() == b"two"
        assert Path("data/raw/a/1.png").read_bytes() == b"one and more"
        assert (Path("data/raw/labels.csv")).read_text().endswith("x\n")
        assert not Path("data/raw/.partial").exists()
        assert not Path("data/raw/link.png").exists()

    def test_needs_its_list_of_files(self, source: Path) -> None:
        shutil.rmtree(".dvc/cache")
        with pytest.raises(UserError, match=r"run `dvc pull data/raw\.dvc`"):
            snapshot.changes(source, None)

    def test_needs_a_source_and_its_labels(self, source: Path) -> None:
        with pytest.raises(UserError, match="there is no folder nowhere"):
            snapshot.changes(Path("nowhere"), None)
        with pytest.raises(UserError, match="there is no table of labels"):
            snapshot.changes(source, source / "other.csv")

    def test_of_a_film_that_cannot_be_taken_the_name_goes_nowhere(
        self, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (source / "Jones").mkdir()
        (source / "Jones/film-of-Jones.png").write_bytes(b"film")
        Path("data/raw/Jones").write_bytes(b"in its way")
        monkeypatch.setattr("flows.retrain._unfinished", lambda: "")
        state = retrain(str(source), min_new_images=1, push=False, return_state=True)
        assert state.name == "BadInput"
        assert state.message is not None
        assert state.message.startswith(f"a file cannot be copied from {source} to data/raw (File exists); free some")
        assert "Jones" not in state.message + caplog.text
        assert "1 new or changed films" in caplog.text

    def test_nothing_is_left_of_a_film_for_which_there_is_no_room(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def half_of(file: Path, target: Path) -> None:
            target.write_bytes(file.read_bytes()[:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

        monkeypatch.setattr(shutil, "copyfile", half_of)
        (source / "Jones.png").write_bytes(b"film")
        with pytest.raises(UserError, match=r"\(No space left on device\)") as raised:
            snapshot.take(source, None, snapshot.changes(source, None))
        assert "Jones" not in str(raised.value)
        assert not list(Path(".xraysynth").iterdir())
        assert not Path("data/raw/Jones.png").exists()

    def test_films_that_vanish_meanwhile_are_left_for_the_next_time(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (source / "2.png").write_bytes(b"two")
        (source / "itself.png").symlink_to("itself.png")
        monkeypatch.setattr(snapshot, "_files", lambda *_, listed=snapshot._files: ["0.png", *listed(*_)])
        assert snapshot.changes(source, source / "labels.csv") == snapshot.Changes(["2.png"], False)
        snapshot.take(source, None, snapshot.Changes(["0.png", "2.png"], False))
        assert Path("data/raw/2.png").read_bytes() == b"two"


@pytest.mark.usefixtures("here")
def test_the_story_escapes_what_comes_from_the_data() -> None:
    gate = {"passed": False, "sentence": "copies of <img src=x>"}
    contest = {
        "champion": 1,
        "challenger": 2,
        "measure": "rare_auprc",
        "difference": {"mean": 0.1, "low": 0.05, "high": 0.15},
        "margin": 0.0,
        "gates": {"memorisation": gate},
        "promote": True,
        "reason": "Promoted: [x](http://x)",
    }
    drift = {"sentence": "Drift of <b>.", "warnings": ["![x](y)"]}
    text = story(7, drift, {"sentence": "No evidence."}, contest, "version 2 was promoted", "done")
    assert "<" not in text.replace(r"\<", "")
    assert "](" not in text
    assert "+0.100 (interval +0.050 to +0.150, margin 0)" in text
    assert "`xraysynth models rollback`" in text
