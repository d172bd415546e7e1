"""What flows change of a project before a stage runs: params, snapshot of the films, and one at a time."""

import dataclasses
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import flows  # noqa: F401

from prefect.client.schemas.objects import State  # isort: skip
from prefect.states import Completed, Failed  # isort: skip

from flows import project, snapshot  # isort: skip
from flows.artifacts import story, where_to_read_on
from flows.commands import Commands
from flows.deliveries import Film
from flows.pipeline import pipeline
from flows.retrain import retrain
from tasks.errors import Unavailable, UserError
from tasks.files import write_json
from tasks.paths import CHALLENGE, RAW, RAW_DVC, REPORT, VERDICT
from tasks.registry import versions
from tasks.tracking.provenance import raw_digest

pytestmark = pytest.mark.usefixtures("prefect_api")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestParams:
    """Overrides as `dvc exp run -S` takes them."""

    @pytest.fixture
    def films(self, here: Path) -> Path:
        """A folder with a name that has a meaning in overrides."""
        (here / "it's, new").mkdir()
        (here / "it's, new/labels.csv").write_text("path,label\n")
        return here / "it's, new"

    @pytest.mark.parametrize("keep", [False, True])
    def test_hold_for_the_run_and_only_what_changes_is_another(self, here: Path, films: Path, keep: bool) -> None:
        before = (here / "params.yaml").read_text()
        overrides = ["train.kimg=2.5", "classify.seeds=[1,2,3]"]
        with project.params_of_run(str(films), None, overrides, keep):
            during = (here / "params.yaml").read_text()
        params = yaml.safe_load(during)
        assert params["train"]["kimg"] == 2.5
        assert params["classify"]["seeds"] == [1, 2, 3]
        assert params["ingest"]["source"] == str(films)
        assert params["ingest"]["labels"] == f"{films}/labels.csv"
        changed = [new for old, new in zip(before.splitlines(), during.splitlines(), strict=True) if old != new]
        assert [line.split(":")[0].strip() for line in changed] == ["source", "labels", "kimg", "seeds"]
        assert "  seeds: [1, 2, 3]              # more of them" in during  # in brackets, with its comment
        assert (here / "params.yaml").read_text() == (during if keep else before)
        assert not list(Path(".xraysynth").iterdir())

    def test_labels_are_the_source_where_no_table_is_needed(self, here: Path, films: Path) -> None:
        with project.params_of_run(str(films), None, ["ingest.label_format=folder", "ingest.classes=[a,b]"]):
            assert yaml.safe_load((here / "params.yaml").read_text())["ingest"]["labels"] == str(films)

    @pytest.mark.parametrize("edited", [False, True])
    def test_of_a_killed_run_are_put_back_by_the_next_unless_somebody_edited_them(
        self, here: Path, films: Path, edited: bool
    ) -> None:
        before = (here / "params.yaml").read_text()
        code = (
            "import os, sys\nfrom flows import project\n"
            "with project.params_of_run(sys.argv[1], None, ['train.kimg=2.5']):\n  os.kill(os.getpid(), 9)"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code, str(films)], env=environment, check=False)
        left = (here / "params.yaml").read_text()
        assert "kimg: 2.5" in left
        if edited:
            (here / "params.yaml").write_text(f"{left}# a word\n")
        with project.held_alone():
            assert (here / "params.yaml").read_text() == (f"{left}# a word\n" if edited else before)
            with project.params_of_run(str(films), None, ["train.kimg=3"]), project.held_alone():  # a flow within one
                assert "kimg: 3" in (here / "params.yaml").read_text()

    def test_a_source_that_is_kept_outlives_the_overrides_of_its_run(self, here: Path, films: Path) -> None:
        with project.params_of_run(None, None, ["train.kimg=2.5"], films=False):
            project.keep_source(str(films), f"{films}/labels.csv")
            assert "kimg: 2.5" in (here / "params.yaml").read_text()
        params = yaml.safe_load((here / "params.yaml").read_text())
        assert (params["ingest"]["source"], params["train"]["kimg"]) == (str(films), 0.0)

    @pytest.mark.parametrize(("source", "labels"), [("/nonexistent", None), (None, "nowhere.csv")])
    def test_films_or_a_table_that_are_not_there_change_nothing(
        self, here: Path, films: Path, source: str | None, labels: str | None
    ) -> None:
        before = (here / "params.yaml").read_bytes()
        state = pipeline(source or str(films), labels, overrides=["train.kimg=2.5"], return_state=True)
        assert state.name == "BadInput"
        assert str(state.message).startswith(
            f"there is no {'folder /nonexistent' if source else 'table of labels now'}"
        )
        assert (here / "params.yaml").read_bytes() == before

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("train.kimg=-1", "overrides: 'train.kimg' should be greater than or equal to 0, but is -1"),
            ("train.kimgs=1", "overrides: unknown key 'train.kimgs' (known here: "),
            ("trains.kimg=1", "overrides: unknown key 'trains'"),
            ("train.kimg=[", "the override 'train.kimg=[' cannot be used; write section.key=value, as in params.yaml"),
            ("models.msg_sagan.attention_resolutions=[256]", "is above ingest.size"),
        ],
    )
    def test_that_cannot_be_are_refused_and_nothing_is_changed(self, here: Path, override: str, said: str) -> None:
        before = (here / "params.yaml").read_bytes()
        refused = pytest.raises(UserError, match=re.escape(said))
        with refused, project.params_of_run(None, None, ["train.batch=8", override], films=False):
            pass
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


@pytest.mark.parametrize("left", ["", '{"read": {'])
def test_what_a_dvc_left_half_written_stops_no_flow(left: str, make_project: Callable[..., Path]) -> None:
    """As one does that is ended in the moment in which it writes who reads and writes what."""
    readers = make_project() / project.READERS
    readers.parent.mkdir(parents=True, exist_ok=True)
    readers.write_text(left)
    assert pipeline(return_state=True).is_completed()
    readers.write_text('{"read": {}, "write": {}}')
    with project.held_alone():
        assert readers.exists()


class TestTheSnapshot:
    """What a source holds beyond data/raw as DVC tracks it."""

    @pytest.fixture
    def source(self, make_project: Callable[..., Path], tmp_path: Path) -> Path:
        make_project()
        raw = Path("data/raw")
        (raw / "a").mkdir(parents=True)
        (raw / "a/1.png").write_bytes(b"one")
        (raw / "labels.csv").write_text("path,label\na/1.png,z\n")
        subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data/raw"], check=True)
        shutil.copytree(raw, tmp_path / "source")
        return tmp_path / "source"

    def test_has_what_it_was_made_of(self, source: Path) -> None:
        table = RAW / "labels.csv"
        for folder in (source, RAW):
            found = snapshot.changes(folder, folder / "labels.csv", table)
            assert (found.new, found.labels) == (0, False)
        assert raw_digest(RAW_DVC).endswith(".dir")

    def test_gets_what_is_new_by_content_and_loses_nothing(self, source: Path, tmp_path: Path) -> None:
        (source / "a/1.png").write_bytes(b"ONE")  # as long as the film of that name in the snapshot
        (source / "again.png").write_bytes(b"one")
        (source / "b").mkdir()
        (source / "b/2.png").write_bytes(b"two")
        (source / ".partial").write_bytes(b"half")
        (tmp_path / "outside.png").write_bytes(b"not of the source")
        (source / "link.png").symlink_to(tmp_path / "outside.png")
        (source / "labels.csv").write_text("path,label\nb/2.png,x\na/1.png,y\n")
        found = snapshot.changes(source, source / "labels.csv", RAW / "labels.csv")
        (other,) = (film.place for film in found.films if film.path == "a/1.png")
        assert re.fullmatch(r"a/1-[0-9a-f]{8}\.png", other)
        assert {film.place for film in found.films if film.new} == {other, "b/2.png"}
        assert (found.new, found.labels) == (2, True)
        snapshot.take(source, source / "labels.csv", found)
        assert Path("data/raw/b/2.png").read_bytes() == b"two"
        assert Path("data/raw/a/1.png").read_bytes() == b"one"
        assert (RAW / other).read_bytes() == b"ONE"
        assert not Path("data/raw/again.png").exists()
        assert Path("data/raw/labels.csv").read_text() == f"path,label\na/1.png,z\nb/2.png,x\n{other},y\n"
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
        assert "1 new films" in caplog.text

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
        found = snapshot.changes(source, source / "labels.csv", RAW / "labels.csv")
        assert [film.path for film in found.films if film.new] == ["2.png"]
        gone = Film("0.png", "0.png", new=True)
        snapshot.take(source, None, snapshot.Changes([gone, *found.films]))
        assert Path("data/raw/2.png").read_bytes() == b"two"


def named_in_params(source: str, labels: str) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": {"source": source, "labels": labels}}))


class TestTheFilmsOfTheProject:
    """What retrain learns from where params.yaml and its own form name folders."""

    @pytest.fixture
    def films(self, make_project: Callable[..., Path], tmp_path: Path) -> Path:
        """A project that takes its films from elsewhere, and that folder."""
        project = make_project()
        (tmp_path / "films").mkdir()
        (tmp_path / "films/1.png").write_bytes(b"one")
        (tmp_path / "table.csv").write_text("path,label\n")
        ingest = {"source": str(tmp_path / "films"), "labels": str(tmp_path / "table.csv")}
        (project / "params.yaml").write_text(yaml.safe_dump({"ingest": ingest}))
        return tmp_path / "films"

    @pytest.mark.parametrize("named", ["nothing", "the films", "data/raw"])
    def test_others_in_data_raw_are_not_mixed_in(
        self, films: Path, named: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        Path("data/raw").mkdir(parents=True)
        Path("data/raw/simulated.png").write_bytes(b"simulated")
        before = Path("params.yaml").read_bytes()
        source = {"nothing": None, "the films": str(films), "data/raw": "data/raw"}[named]
        state = retrain(source, str(films.with_name("table.csv")), min_new_images=1, push=False, return_state=True)
        assert state.name == "BadInput"
        assert f"params.yaml takes films from {films}, and data/raw holds others" in str(state.message)
        assert Path("params.yaml").read_bytes() == before
        assert [file.name for file in Path("data/raw").iterdir()] == ["simulated.png"]

    def test_are_where_params_say(self, films: Path, house: "House") -> None:
        assert retrain(min_new_images=1, push=False, return_state=True).is_completed()
        assert Path("data/raw/1.png").read_bytes() == b"one"
        assert house.piped == [("data/raw", "data/raw/table.csv")]

    @pytest.mark.parametrize("named", [True, False])
    def test_are_looked_for_where_they_came_from_the_time_before(
        self, films: Path, house: "House", named: bool
    ) -> None:
        if named:
            named_in_params("data/raw", "data/raw/table.csv")
        source, table = (str(films), str(films.with_name("table.csv"))) if named else (None, None)
        assert retrain(source, table, min_new_images=1, push=False, return_state=True).is_completed()
        (films / "2.png").write_bytes(b"two")
        assert retrain(min_new_images=1, push=False, return_state=True).is_completed()
        assert Path("data/raw/2.png").read_bytes() == b"two"
        assert house.piped == [("data/raw", "data/raw/table.csv")] * 2

    def test_are_in_data_raw_once_params_name_another_table(self, films: Path, house: "House") -> None:
        assert retrain(min_new_images=1, push=False, return_state=True).is_completed()
        Path("data/raw/2.png").write_bytes(b"two")
        Path("data/raw/better.csv").write_text("path,label\n")
        named_in_params("data/raw", "data/raw/better.csv")
        assert retrain(min_new_images=1, push=False, return_state=True).is_completed()
        assert house.piped[1:] == [("data/raw", "data/raw/better.csv")]

    def test_a_copy_that_was_cut_off_is_gone_on_with(self, films: Path, house: "House") -> None:
        (films / "2.png").write_bytes(b"two")
        snapshot.take(films, None, snapshot.Changes([Film("2.png", "2.png", new=True)]))
        assert retrain(min_new_images=1, push=False, return_state=True).is_completed()
        assert {file.name for file in Path("data/raw").iterdir()} == {"1.png", "2.png", "table.csv"}

    def test_a_table_that_lies_elsewhere_comes_to_those_in_data_raw(self, films: Path, house: "House") -> None:
        shutil.copytree(films, "data/raw")
        named_in_params("data/raw", str(films.with_name("table.csv")))
        assert retrain(min_new_images=1, push=False, return_state=True).is_completed()
        assert Path("data/raw/table.csv").is_file()


class House:
    """In place of what takes long: the pipeline, and the commands of retrain but for `dvc add`."""

    def __init__(self) -> None:
        self.piped: list[tuple[str, str]] = []
        self.steps: list[list[str]] = []
        self.fails = ""  # the step that does
        self.dies = False  # the pipeline, with the flow
        self.challenge: dict[str, object] = {"champion": 1, "promote": True, "reason": "Better.", "margin": 0.0}
        self.versions: list[versions.Version] = []
        self.stories: list[str] = []

    def pipeline(self, **_: object) -> State[None]:
        ingest = yaml.safe_load(Path("params.yaml").read_text())["ingest"]
        self.piped.append((ingest["source"], ingest["labels"]))
        if self.dies:
            raise MemoryError
        return Completed()

    def run_step(self, name: str, command: list[str], *_: object, **__: object) -> State[None]:
        self.steps.append(command)
        if name == self.fails:
            return Failed(message=f"{name}: error: it failed")
        if name == "dvc add":
            subprocess.run(command, check=True)
        elif name == "register":
            number, tags = len(self.versions) + 2, {"raw_digest": raw_digest(RAW_DVC)}
            self.versions.insert(0, versions.Version(number, ("challenger",), datetime.now(UTC), tags))
        elif name == "challenge":
            new = {"challenger": self.versions[0].number, "measure": "rare_auprc", "difference": None, "gates": {}}
            write_json(CHALLENGE, self.challenge | new)
        elif name == "promote":
            self.versions[0] = dataclasses.replace(self.versions[0], aliases=("champion",))
        return Completed()

    def did(self) -> list[str]:
        """The steps since the last call, in short."""
        known = ("add", "register", "drift", "challenge", "promote", "push")
        steps, self.steps = self.steps, []
        return [next(word for word in known if word in step) for step in steps]


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    house = House()
    for name in ("pipeline", "run_step"):
        monkeypatch.setattr(f"flows.retrain.{name}", getattr(house, name))
    monkeypatch.setattr("flows.retrain.create_markdown_artifact", lambda text, **_: house.stories.append(text))
    monkeypatch.setattr(versions, "versions", lambda: house.versions)
    return house


class TestARun:
    """What retrain does and in which order; House stands for the pipeline and the commands."""

    @pytest.fixture(autouse=True)
    def delivered(self, make_project: Callable[..., Path]) -> None:
        make_project()
        Path("data/raw").mkdir(parents=True)
        Path("data/raw/1.png").write_bytes(b"one")
        Path("data/raw/labels.csv").write_text("path,label\n")
        Path("params.yaml").write_text("ingest: {source: data/raw, labels: data/raw/labels.csv}\n")

    def says(self, verdict: dict[str, str]) -> None:
        Path("reports").mkdir(exist_ok=True)
        write_json(VERDICT, verdict)

    def test_promotes_against_the_version_that_was_compared_with_and_pushes(self, house: House) -> None:
        self.says({"verdict": "helps", "sentence": "Yes.", "candidate": "msg_gan"})
        state = retrain(min_new_images=1, return_state=True)
        assert state.message == "version 2 was promoted: Better."
        assert ["xraysynth", "models", "promote", "2", "--instead-of", "1"] in house.steps
        assert house.did() == ["add", "drift", "register", "challenge", "promote", "push"]
        assert str(retrain(min_new_images=1, return_state=True).message).startswith("skipped: 0 new")
        assert house.did() == []

    def test_promotes_the_first_only_while_there_is_no_champion(self, house: House) -> None:
        self.says({"verdict": "helps", "sentence": "Yes.", "candidate": "msg_gan"})
        house.challenge["champion"] = None
        assert retrain(min_new_images=1, return_state=True).is_completed()
        assert ["xraysynth", "models", "promote", "2", "--instead-of", "0"] in house.steps

    def test_where_no_class_is_rare_registers_nothing_says_so_and_is_done(self, house: House) -> None:
        self.says({"verdict": "not needed", "headline": "No class is rare enough"})
        state = retrain(min_new_images=1, return_state=True)
        assert state.is_completed()
        assert state.message == "nothing was registered: No class is rare enough"
        assert house.did() == ["add", "drift", "push"]
        (story,) = house.stories
        assert story.startswith("# Nothing was registered\n")
        assert "No class is rare enough" in story
        assert "Challenger" not in story
        assert str(retrain(min_new_images=1, return_state=True).message).startswith("skipped: 0 new")
        assert house.did() == []
        Path("data/raw/2.png").write_bytes(b"two")
        self.says({"verdict": "helps", "sentence": "Yes.", "candidate": "msg_gan"})
        assert retrain(min_new_images=1, return_state=True).message == "version 2 was promoted: Better."

    @pytest.mark.parametrize("candidate", [{"candidate": "msg_gan"}, {}])
    def test_that_could_not_push_leaves_that_alone_to_the_next(self, house: House, candidate: dict[str, str]) -> None:
        self.says({"verdict": "no evidence", "sentence": "No.", **candidate})
        house.fails = "push"
        state = retrain(min_new_images=1, return_state=True)
        assert state.is_failed()
        assert str(state.message).endswith("But `dvc push` failed: run it again by hand, or let the next run do it.")
        house.did()
        assert str(retrain(min_new_images=1, push=False, return_state=True).message).startswith("skipped: 0 new")
        assert retrain(min_new_images=1, return_state=True).is_failed()
        house.fails = ""
        assert house.did() == ["push"]
        state = retrain(min_new_images=1, return_state=True)
        assert state.is_completed()
        assert state.message == "skipped: 0 new; 1 are asked for. What an earlier run had not pushed now is."
        assert house.did() == ["push"]
        retrain(min_new_images=1, return_state=True)
        assert house.did() == []

    def test_that_ended_before_its_push_owes_it(self, house: House) -> None:
        self.says({"verdict": "helps", "sentence": "Yes.", "candidate": "msg_gan"})
        house.fails = "promote"
        assert retrain(min_new_images=1, return_state=True).is_failed()
        house.fails = ""
        versions.versions()[0] = dataclasses.replace(versions.versions()[0], aliases=("champion",))  # by hand
        house.did()
        assert retrain(min_new_images=1, return_state=True).is_completed()
        assert house.did() == ["push"]

    def test_meets_a_registry_that_is_away(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says({"verdict": "not needed", "headline": "No"})
        subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data/raw"], check=True)

        def away() -> None:
            raise Unavailable("MLflow's registry cannot be used")

        monkeypatch.setattr(versions, "versions", away)
        assert retrain(min_new_images=1, return_state=True).name == "Failed"  # not BadInput: it may pass


class TestAQuarter:
    """Twelve weekly deliveries, one after the other; House stands for the pipeline and the commands."""

    PARAMS = (
        "# of this hospital\ningest: {source: data/raw, labels: data/raw/labels.csv}\ntrain: {kimg: 6.0} # enough\n"
    )

    @pytest.fixture(autouse=True)
    def first_films(self, make_project: Callable[..., Path], tmp_path: Path, house: House) -> None:
        make_project()
        self.house, self.delivery, self.archive = house, tmp_path / "delivery", dict[str, bytes]()
        Path("data/raw").mkdir(parents=True)
        for name in ("1", "2"):
            Path(f"data/raw/{name}.png").write_bytes(f"film {name}".encode())
        Path("data/raw/labels.csv").write_text("path,label\n1.png,a\n2.png,b\n")
        Path("params.yaml").write_text(self.PARAMS)
        Path("reports").mkdir()
        write_json(VERDICT, {"verdict": "helps", "sentence": "Yes.", "candidate": "msg_gan"})

    def deliver(self, films: dict[str, str], table: str) -> None:
        """All that the delivery holds from now on."""
        shutil.rmtree(self.delivery, ignore_errors=True)
        self.delivery.mkdir()
        for name, content in films.items():
            (self.delivery / name).write_bytes(content.encode())
        (self.delivery / "labels.csv").write_text(table)

    def week(self, source: Path | None = None, **asked: Any) -> str:
        """What a run says; it has added to the archive or left it as it was, and params.yaml is as before."""
        found = retrain(str(source) if source else None, min_new_images=2, return_state=True, **asked)
        after = {path.name: path.read_bytes() for path in Path("data/raw").glob("*.png")}
        assert self.archive.items() <= after.items()
        self.archive = after
        assert Path("params.yaml").read_text() == self.PARAMS
        return f"{found.name}: {found.message}"

    def table(self) -> str:
        return Path("data/raw/labels.csv").read_text()

    def test_nothing_is_lost_and_every_week_ends_as_the_docs_say(self) -> None:
        trained = ["add", "drift", "register", "challenge", "promote", "push"]
        assert self.week() == "Completed: version 2 was promoted: Better."
        assert self.house.did() == trained

        self.deliver(
            {"1.png": "film 1", "3.png": "film 3", "4.png": "film 4"}, "path,label\n1.png,a\n3.png,b\n4.png,a\n"
        )
        assert self.week(self.delivery) == "Completed: version 3 was promoted: Better."
        assert self.house.did() == trained
        assert self.table() == "path,label\n1.png,a\n2.png,b\n3.png,b\n4.png,a\n"

        assert self.week() == "Completed: skipped: 0 new; 2 are asked for"

        self.deliver({"1.png": "film 5", "3.png": "film 6"}, "path,label\n1.png,b\n3.png,a\n")
        assert self.week() == "Completed: version 4 was promoted: Better."
        assert self.house.did() == trained
        assert len(self.archive) == 6
        (named,) = (name for name, content in self.archive.items() if content == b"film 5")
        assert re.fullmatch(r"1-[0-9a-f]{8}\.png", named)
        assert f"\n{named},b\n" in self.table()
        table = self.table()

        self.deliver(
            {"1.png": "film 1", "7.png": "film 7", "8.png": "film 8"}, "path,label\n7.png,a\n8.png,a\n1.png,b\n"
        )
        said = self.week()
        assert said.startswith("BadInput: row 3 of ")
        assert "says otherwise of its film than row 1 of the archive's table data/raw/labels.csv" in said

        self.deliver({"7.png": "film 7", "8.png": "film 8"}, "path,label\n7.png,a,left\n8.png,a\n")
        assert self.week().startswith("BadInput: line 2 of ")
        self.deliver({"7.png": "film 7", "8.png": "film 8"}, "")
        assert self.week().startswith("BadInput: the labels file ")
        assert self.week(self.delivery / "nowhere").startswith("BadInput: there is no folder ")
        assert self.week(overrides=["train.kimgs=1"]).startswith("BadInput: overrides: unknown key 'train.kimgs'")
        assert self.house.did() == []
        assert (self.table(), len(self.archive)) == (table, 6)

        self.deliver({"seven.png": "film 7", "again.png": "film 1"}, "path,label\nseven.png,a\nagain.png,a\n")
        assert self.week() == "Completed: skipped: 1 new, and other labels; 2 are asked for"
        assert (self.table(), len(self.archive)) == (table, 6)

        self.deliver({"7.png": "film 7", "8.png": "film 8"}, "path,label\n7.png,a\n8.png,a\n")
        self.house.dies = True
        assert not self.week(overrides=["train.kimg=7"]).startswith("Completed")
        assert len(self.archive) == 8
        self.house.dies = False
        assert self.week() == "Completed: version 5 was promoted: Better."  # of films not learnt from
        assert self.house.did() == ["add", *trained]

        table = self.table().replace("2.png,b", "2.png,a")
        Path("data/raw/labels.csv").unlink()  # a link into DVC's cache may be there
        Path("data/raw/labels.csv").write_text(table)
        self.deliver({"9.png": "film 9", "10.png": "film 10"}, "path,label\n9.png,a\n10.png,b\n")
        assert self.week() == "Completed: version 6 was promoted: Better."
        assert self.table() == table + "9.png,a\n10.png,b\n"
        assert {path.name for path in Path("data/raw").iterdir()} == {*self.archive, "labels.csv"}
        assert sorted(self.archive.values()) == sorted(f"film {k}".encode() for k in range(1, 11))
        assert [version.number for version in self.house.versions] == [6, 5, 4, 3, 2]


def test_a_command_whose_registry_is_away_is_worth_retrying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri, may_pass in (("http://127.0.0.1:1", True), ("nonsense://nowhere", False)):
        commands = Commands({"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
        outcome = commands.run(["xraysynth", "models", "promote"], lambda _: None)
        assert outcome.reason.startswith("error: MLflow's registry cannot be used")
        assert outcome.worth_retrying == may_pass


@pytest.mark.usefixtures("here")
def test_the_link_to_mlflow_goes_to_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tracking.runs.find_experiment", {"http://mlflow.example": "7"}.get)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    page = "http://mlflow.example/#/experiments/7/runs?workflowType=machine_learning"
    assert where_to_read_on().endswith(f"- [runs and models in MLflow]({page})")
    monkeypatch.setattr("tasks.tracking.runs.find_run", lambda *_: "experiments/7/runs/ab")
    REPORT.parent.mkdir()
    REPORT.touch()
    page = "http://mlflow.example/#/experiments/7/runs/ab/artifacts/report.html?workflowType=machine_learning"
    assert where_to_read_on().startswith(f"- [the report]({page}): `reports/report.html`, in the project's folder\n")
    assert page not in where_to_read_on(of_this_run=False)


@pytest.mark.usefixtures("here")
def test_the_story_escapes_what_comes_from_the_data() -> None:
    gate = {"passed": False, "sentence": "copies of <img src=x>"}
    challenge = {
        "champion": 1,
        "challenger": 2,
        "measure": "rare_auprc",
        "difference": {"mean": 0.1, "low": 0.05, "high": 0.15},
        "margin": 0.0,
        "gates": {"memorisation": gate},
        "promote": True,
        "reason": "Better. [x](http://x)",
    }
    drift = {"sentence": "Drift of <b>.", "warnings": ["![x](y)"]}
    text = story(
        7,
        drift,
        {"headline": "No evidence – so far", "lines": ["On 12 – <i>."]},
        challenge,
        "version 2 was promoted",
        "done",
    )
    assert "**No evidence – so far**" in text
    assert "- On 12 – " in text  # markdown would show a backslash before the dash
    assert "<" not in text.replace(r"\<", "")
    assert "](" not in text
    assert "+0.100 (interval +0.050 to +0.150, margin 0)" in text
    assert "`xraysynth models rollback`" in text
    stays = story(7, drift, {"sentence": ""}, {**challenge, "promote": False}, "version 2 was not promoted", "done")
    assert "The champion stays; nothing is to be done." in stays
