"""README and docs/: its commands are run, or can be typed and are held by another test; its picture of the DAG is
dvc.yaml's, its links lead somewhere, and the messages that it explains are those that the code gives."""

import argparse
import ast
import importlib
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from dvc.cli import main as dvc
from dvc.cli.parser import get_main_parser
from PIL import Image
from typer.testing import CliRunner

from flows.project import _apply
from tasks import paths
from tasks.cli import app
from tasks.files import write_json
from tasks.image_set import load
from tasks.ingest import stage as ingest
from tasks.params import Ingest
from tasks.params import load as load_params
from tests.tasks import projects

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORDS = 25  # of a sentence in README
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:make|xraysynth|dvc|mlflow|torchrun|python|pip|prefect|docker|git) ")
BEFORE = re.compile(r"^(?:time|OMP_NUM_THREADS=1) ")
RUN = (  # as they stand, in a small project
    *("dvc dag --mermaid", "dvc metrics show", "xraysynth doctor", "xraysynth verdict"),
    "xraysynth ingest /my/films --labels /my/films/labels.csv --check",
    "xraysynth ingest /my/films --labels /my/labels.xlsx --check",
    "xraysynth ingest /my/films /my/curated --labels /my/labels.xlsx",
    "xraysynth synthesize msg_sagan OUT --label pneumonia --count 500 --format png",
    "xraysynth synthesize msg_gan OUT --label pneumonia --count 500 --format png",
)
CYCLE, SERVED = "tests/tasks/registry/test_versions.py::", "tests/tasks/registry/test_mlflow_model.py::"
HELD = {  # what begins so is not run, why, and which test holds it; the longest beginning counts
    **dict.fromkeys(("apt ", ". ", ".venv/bin/pre-commit ", "git ", "pip freeze"), ("not the project's", "")),
    "pip install ": ("a network", "tests/test_manual.py::test_every_command_can_be_typed"),
    "docker ": ("a Docker engine", "tests/test_compose.py::test_what_it_names_is_there"),
    "prefect ": ("a server", "tests/flows/test_deployed.py::test_somebody_can_be_told_of_a_week_that_failed"),
    "make ": ("minutes, servers or a network", "tests/test_manual.py::test_make_knows_what_to_do"),
    "python -m benchmarks.": ("minutes to hours", "tests/test_manual.py::test_every_command_can_be_typed"),
    "python benchmarks/": ("minutes to hours", "tests/test_manual.py::test_every_command_can_be_typed"),
    "python -m flows.pipeline": (
        "minutes of training",
        "tests/test_offline.py::test_the_pipeline_runs_without_a_network",
    ),
    "xraysynth STAGE": ("it stands for all stages", "tests/test_offline.py::test_the_pipeline_runs_without_a_network"),
    "torchrun ": (
        "trainings",
        "tests/model/training/test_distributed.py::test_two_processes_train_what_one_does",
    ),
    "dvc exp run": (
        "trainings",
        "tests/tasks/test_paths.py::test_an_experiment_beside_the_workspace_splits_patients_as_the_workspace_does",
    ),
    "dvc repro": ("trainings", "tests/test_versioning.py::test_a_second_repro_does_nothing"),
    "dvc pu": ("a remote", "tests/test_versioning.py::test_pushed_wiped_and_pulled_there_is_nothing_to_do"),
    "dvc plots show": (
        "results of a whole run",
        "tests/test_versioning.py::test_plots_show_makes_a_page_that_draws_itself_without_a_network",
    ),
    "mlflow ui": ("a server", "tests/flows/test_serve.py::test_it_says_where_things_are_and_they_answer"),
    "mlflow models serve": ("a server", f"{SERVED}test_a_request_for_images_is_answered_with_pngs"),
    "curl ": ("a server", f"{SERVED}test_a_request_for_images_is_answered_with_pngs"),
    "xraysynth models ": ("a registry", f"{CYCLE}test_the_life_cycle_over_the_command_line"),
    "xraysynth models register best": ("a registry", f"{CYCLE}test_best_is_the_generator_that_the_verdict_is_about"),
    "xraysynth synthesize champion": ("a registry", f"{CYCLE}test_synthesize_draws_from_the_champion"),
    "xraysynth models drift": (
        "a registry",
        "tests/tasks/registry/test_drift.py::test_against_the_champion_of_the_registry",
    ),
    "xraysynth models challenge": (
        "trainings",
        "tests/tasks/registry/test_challenge.py::test_a_better_challenger_is_promoted_and_a_worse_one_is_not",
    ),
    "xraysynth models reproduce": (
        "a training",
        "tests/tasks/registry/test_reproduce.py::test_a_version_is_reproduced_to_the_bit",
    ),
    "xraysynth simulate": (
        "hundreds of films",
        "tests/tasks/simulate/test_stage.py::test_two_findings_at_once_change_the_films_of_their_patients_alone",
    ),
    "xraysynth ingest --workers": (
        "it starts processes",
        "tests/tasks/ingest/test_hand_over.py::test_the_command",
    ),
}
DELETES = re.compile(r"\b(rm|rmdir|unlink|clean|gc|prune|destroy|remove|reset)\b|--force|-f\b")


def blocks(page: Path, language: str = "") -> list[str]:
    return [text for of, text in BLOCK.findall(page.read_text(encoding="utf-8")) if of == language]


def prose(page: Path) -> str:
    return BLOCK.sub("\n\n", page.read_text(encoding="utf-8"))


def lines(text: str) -> list[str]:
    """Those of a block, without comments; one that ends in a backslash goes on in the next."""
    whole = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line.strip() for line in (re.sub(r"(^|\s)# .*", "", line) for line in whole) if line.strip()]


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the manual with its page: all lines of blocks without a language, and those in a line of prose.

    Of alternatives, `this | that`, the first; what stands for more, `...`, is left out.
    """
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        of_page = [line for block in blocks(page) for line in lines(block)]
        inline = [BEFORE.sub("", code) for code in re.findall(r"`([^`\n]+)`", prose(page))]
        found = of_page + [code for code in inline if COMMAND.match(code)]
        yield from ((name, line.split(" | ")[0]) for line in found if "..." not in line)


COMMANDS = sorted({line: name for name, line in commands()}.items())


def parse(command: Any, arguments: list[str]) -> None:
    """As click, or typer's own copy of it, does before it runs a command; it raises what a user would read."""
    while hasattr(command, "get_command"):
        name, *arguments = arguments
        found = command.get_command(command.context_class(command), name)
        assert found is not None, name
        command = found
    command.make_context(str(command.name), arguments)


def test_a_command_that_cannot_be_typed_is_found() -> None:
    for wrong in (["ingest", "--nonsense"], ["nonsense"], ["synthesize"], ["models", "promote", "--to"]):
        with pytest.raises((click.ClickException, typer._click.ClickException, AssertionError)):
            parse(typer.main.get_command(app), wrong)


def held(line: str) -> str:
    """The entry of HELD that a command falls under; "" without one."""
    return max((beginning for beginning in HELD if line.startswith(beginning)), key=len, default="")


def test_every_command_is_run_or_held_by_a_test() -> None:
    shown = [line for line, _ in COMMANDS]
    assert [line for line in shown if (line in RUN) == bool(held(line))] == []
    assert set(RUN) <= set(shown)
    assert {held(line) for line in shown} - {""} == HELD.keys()
    for _, test in HELD.values():
        file, _, name = test.partition("::")
        assert not test or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with films, curated images and untrained generators, which becomes the working folder; `my` is /my."""
    folder = tmp_path_factory.mktemp("manual")
    (folder / "project/.dvc").mkdir(parents=True)
    for name in ("dvc.yaml", ".dvc/config"):
        shutil.copy(ROOT / name, folder / "project" / name)
    subprocess.run(["git", "init", "--quiet", folder / "project"], check=True)
    films_of_readme(folder / "my/films")
    pd.read_csv(folder / "my/films/labels.csv").to_excel(folder / "my/labels.xlsx", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "project")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["ingest"]["workers"] = 1
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        projects.write_data()
        for name in ("msg_gan", "msg_sagan"):
            projects.write_generator(name, seed=1)
        write_json(paths.METRICS, {"imbalance_ratio": 4.0})
        yield folder


@pytest.mark.parametrize("line", RUN)
def test_it_runs(line: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders and the class are those of the project here."""
    here = line.replace("/my/", f"{project}/my/").replace("pneumonia", "rare")
    program, *arguments = shlex.split(here.replace("OUT", f"out{RUN.index(line)}"))
    if program == "dvc":
        assert dvc(arguments) == 0
        assert capsys.readouterr().out
    else:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert done.output


def test_make_knows_what_to_do() -> None:
    """Of each command what it would do, without doing it."""
    targets = [shlex.split(line)[1:] for line, _ in COMMANDS if line.startswith("make ")]
    assert len(targets) > 5
    for arguments in targets:
        done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class Parsed(Exception):
    """A program has taken its arguments; what it would do with them takes too long."""


def starts(module: str, options: list[str], patch: pytest.MonkeyPatch) -> None:
    """It is imported, and its own parser takes `options`; then it is stopped."""
    take = argparse.ArgumentParser.parse_args

    def stopped(self: argparse.ArgumentParser, *_: Any) -> None:
        take(self, options)
        raise Parsed

    found = importlib.import_module(f"{module}.__main__" if module.endswith("fuzz_ingest") else module)
    program = getattr(found, "app", None)
    if program is None and hasattr(found, "typer"):  # of one command
        program = typer.Typer()
        program.command()(found.main)
    if program is not None:
        parse(typer.main.get_command(program), options)
    elif hasattr(found, "argparse"):
        patch.setattr(argparse.ArgumentParser, "parse_args", stopped)
        with pytest.raises(Parsed):
            found.main()
    else:
        assert found.main
        assert options == []


@pytest.mark.parametrize(("line", "page"), [command for command in COMMANDS if command[0] not in RUN])
def test_every_command_can_be_typed(line: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(line.replace("${item}", "msg_gan"))
    if program == "torchrun":
        assert arguments[arguments.index("--no-python") + 1] == "xraysynth"
        parse(typer.main.get_command(app), arguments[arguments.index("--no-python") + 2 :])
    elif program == "xraysynth" and arguments != ["STAGE"]:
        parse(typer.main.get_command(app), arguments)
    elif program == "mlflow":
        from mlflow.cli import cli  # takes seconds

        parse(cli, arguments)
    elif program == "python" and arguments[0] == "-m":
        starts(arguments[1], arguments[2:], monkeypatch)
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()
    elif line.startswith("pip install") and "[" in line:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert arguments[-1].removeprefix("xraysynth[").removesuffix("]") in project["optional-dependencies"]
    elif program == "dvc":
        options = get_main_parser().parse_args(arguments)
        params = tmp_path / "params.yaml"
        params.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        _apply(params, getattr(options, "set_param", None) or [])
        load_params(params)


def test_there_are_commands_and_none_deletes_anything() -> None:
    assert len(COMMANDS) > 40
    assert [line for line, _ in COMMANDS if DELETES.search(line)] == []


def test_the_picture_of_the_dag_is_that_of_dvc_yaml() -> None:
    """A stage of several generators is one node, and an edge that follows from others is left out."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    graph, made_by = nx.DiGraph(), {}
    for name, stage in stages.items():
        for item in stage.get("foreach", [""]):
            for out in stage.get("do", stage)["outs"]:
                made_by[out.replace("${item}", item)] = name
    for name, stage in stages.items():
        for item in stage.get("foreach", [""]):
            needed = [dep.replace("${item}", item) for dep in stage.get("do", stage)["deps"]]
            graph.add_edges_from((made_by[dep], name) for dep in needed if dep in made_by)
    (drawn,) = blocks(README, "mermaid")
    edges = re.findall(r"(\w+) --> (\w+)", drawn)
    assert len(edges) == len(set(edges))
    assert set(edges) == set(nx.transitive_reduction(graph).edges)
    assert {name for edge in edges for name in edge} == set(stages)


def films_of_readme(folder: Path) -> None:
    """README's table of labels, and films of those names."""
    (table,) = blocks(README, "csv")
    assert len(table.splitlines()) == 5
    rng = np.random.default_rng(0)
    for line in table.splitlines()[1:]:
        file = folder / line.split(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(file)
    (folder / "labels.csv").write_text(table, encoding="utf-8")


def test_the_table_of_labels_is_complete(tmp_path: Path) -> None:
    """The five lines as they stand, with films of those names, are taken."""
    films_of_readme(tmp_path)
    params = Ingest(size=32, workers=1)
    counts = ingest.run(tmp_path, tmp_path / "labels.csv", tmp_path.with_name("curated"), params)
    assert counts["curated"] == 4
    assert load(tmp_path.with_name("curated")).classes == ["normal", "pneumonia"]


def sentences(text: str) -> list[str]:
    """Of prose in Markdown: cells of tables, points and headings are sentences of their own."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)  # of a link its words
    text = re.sub(r"`[^`\n]*`", "x", text)  # of a command one word
    text = re.sub(r"^(?:#+|\||[-*]) ?", "\n\n", text, flags=re.MULTILINE).replace("|", "\n\n")
    parts = [part for block in re.split(r"\n\s*\n", text) for part in re.split(r"(?<=[.?!:])[*)]*\s", block)]
    return [" ".join(part.split()) for part in parts if part.strip()]


def test_readme_has_no_long_sentence() -> None:
    found = sentences(prose(README))
    assert len(found) > 40
    assert [sentence for sentence in found if len(sentence.split()) > WORDS] == []
    long = "One. " + "word " * (WORDS + 1) + "end. Two."
    assert max(len(sentence.split()) for sentence in sentences(long)) > WORDS


def slug(heading: str) -> str:
    """The anchor that GitHub gives it."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(found), re.MULTILINE)
            assert anchor in map(slug, headings), target


@cache
def messages() -> list[str]:
    """All texts of the code, those with values in them with an ellipsis for each value."""
    found = []
    for file in (file for folder in ("tasks", "flows", "model") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    found += [(ROOT / "Makefile").read_text(encoding="utf-8")]
    return found


def quoted() -> list[str]:
    return re.findall(r"^### `(.+)`$", (ROOT / "docs/common-problems.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("message", quoted())
def test_every_message_explained_is_one_of_the_code(message: str) -> None:
    """Its fixed parts, those between ellipses, stand in one text of the code in this order."""
    parts = [part.strip() for part in message.split("…") if part.strip()]
    assert max(map(len, parts)) >= 12
    pattern = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    assert any(pattern.search(text) for text in messages())


def test_twenty_messages_are_explained_once() -> None:
    assert len(quoted()) == len(set(quoted())) >= 20
