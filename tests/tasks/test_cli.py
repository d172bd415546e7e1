"""The command line as a user meets it: one sentence and exit code 2 for bad input, never a traceback."""

import errno
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tasks import cli, paths
from tests.tasks import projects


def xraysynth(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("xraysynth")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("reports/metrics.json", True),
        ("{here}/models/msg_gan", True),
        ("/mnt/out.zip", True),  # an argument
        ("/mnt/films/DOE^JOHN.dcm", False),
        ("data/raw/DOE^JOHN.dcm", False),
        ("films/DOE^JOHN.dcm", False),
        ("data/curated/shard-00000.npy", True),
        ("{here}/data/raw/DOE^JOHN.dcm", False),
    ],
)
def test_a_file_that_cannot_be_used_is_named_unless_it_may_be_a_film(
    file: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file.format(here=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["xraysynth", "synthesize", "/mnt/out.zip"])

    def refused() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", file)

    monkeypatch.setattr(cli, "app", refused)
    with pytest.raises(SystemExit):
        cli.main()
    said = file if named else "a film, or a file outside of the project"
    assert capsys.readouterr().err == f"error: Permission denied: {said}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ingest", "nowhere"), "no folder nowhere"),
        (("ingest", "empty", "out", "--labels", "nowhere.csv"), "the folder empty holds no films"),
        (("ingest", "--params", "nowhere.yaml"), "no params file nowhere.yaml"),
        (("ingest", "--params", "wrong.yaml"), "unknown key 'ingest.sise'"),
        (("imbalance",), "data/curated is not an image set"),
        (("train", "msg_gan"), "data/curated is not an image set"),
        (("synthesize", "msg_gan"), "reports/imbalance.json"),
        (("synthesize", "nowhere", "--label", "a"), "nowhere has no generator.safetensors"),
        (("report",), "data/curated is not an image set"),
        (("verdict",), "no reports/verdict.json here"),
        (("models", "register", "best"), "reports/verdict.json names no generator"),
        (("models", "register", "msg_gan"), "models/msg_gan has no generator.safetensors"),
        (("simulate", "wrong.yaml"), "wrong.yaml is not an empty folder"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.yaml").write_text("ingest: {sise: 64}")
    done = xraysynth(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "wrong.yaml"]


@pytest.mark.parametrize("command", [(), ("ingest",), ("synthesize",), ("models",), ("models", "promote")])
def test_help_says_the_defaults_and_no_line_is_cut(command: tuple[str, ...]) -> None:
    said = CliRunner().invoke(cli.app, [*command, "-h"]).output
    assert said == CliRunner().invoke(cli.app, [*command, "--help"]).output
    assert "..." not in said.partition("Commands:")[2]
    assert "<bool>" not in said
    defaults = {
        "ingest": ["ingest.source", "SOURCE/labels.csv"],
        "synthesize": ["data/synthetic/MODEL", "100", "synthesize.seed", "synthesize.truncation", "data/curated"],
        "promote": ["the challenger"],
    }
    for default in defaults.get(command[-1] if command else "", []):
        assert f"[default: {default}" in " ".join(said.split())


def test_a_look_at_the_registry_makes_none(tmp_path: Path) -> None:
    assert xraysynth(tmp_path, "models", "list").stdout.startswith("no version is registered")
    assert "no challenger is in the registry" in xraysynth(tmp_path, "models", "promote").stderr
    assert not list(tmp_path.iterdir())


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).output == f"xraysynth {version('xraysynth')}\n"


class TestWhereDrawnImagesGo:
    """Only the plan of the pipeline is written where the pipeline looks for it."""

    @pytest.fixture(autouse=True)
    def drawn_by_the_pipeline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        projects.write_data()
        projects.write_generator("msg_gan", seed=1)

    def draw(self, *options: str) -> str:
        done = CliRunner().invoke(cli.app, ["synthesize", "msg_gan", *options])
        assert done.exit_code == 0, done.output
        return done.output

    @pytest.mark.parametrize(
        ("options", "place"),
        [
            (("--label", "rare", "--count", "5"), "exports/msg_gan-rare-5-shards"),
            (("--seed", "3"), "exports/msg_gan-shards"),
            (("--format", "png"), "exports/msg_gan-png"),
            (("elsewhere", "--label", "rare"), "elsewhere"),
        ],
    )
    def test_any_other_draw_goes_elsewhere(self, options: tuple[str, ...], place: str) -> None:
        kept = paths.SYNTHETIC / "msg_gan"
        before = {file: file.read_bytes() for file in kept.iterdir()}
        assert f" in {place}" in self.draw(*options)
        assert (Path(place) / "dataset.json").is_file()
        assert {file: file.read_bytes() for file in kept.iterdir()} == before

    def test_the_plan_goes_where_the_pipeline_looks(self) -> None:
        assert " in data/synthetic/msg_gan" in self.draw()
        assert not paths.EXPORTS.exists()


def test_doctor_names_every_part(tmp_path: Path) -> None:
    done = xraysynth(tmp_path, "doctor")
    assert done.returncode == 0
    for part in ("device", "JPEG 2000", "RLE", "MLflow", "Prefect", "DVC remote"):
        assert part in done.stdout
