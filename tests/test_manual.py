"""README and docs/: its commands can be typed as they stand, its picture of the DAG is dvc.yaml's, its links lead
somewhere, and the messages that it explains are those that the code gives."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import networkx as nx
import numpy as np
import pytest
import typer
import yaml
from dvc.cli.parser import get_main_parser
from PIL import Image

from flows.project import _apply
from tasks.cli import app
from tasks.image_set import load
from tasks.ingest import stage as ingest
from tasks.params import Ingest
from tasks.params import load as load_params

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORDS = 25  # of a sentence in README
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHERS = {"apt", "curl", ".", ".venv/bin/pre-commit"}  # programs that are not the project's
COMMAND = re.compile(r"(?:make|xraysynth|dvc|mlflow|torchrun|python -m) ")
NAMES = {"STAGE", "KERMANY224"}  # that stand for something in a command
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
    """Each command of the manual with its page: of blocks that hold commands, and those in a line of prose."""
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        of_page = [line for block in blocks(page) for line in lines(block)]
        wanted = [line for line in of_page if COMMAND.match(line) or line.split()[0] in OTHERS]
        inline = [code for code in re.findall(r"`([^`\n]+)`", prose(page)) if COMMAND.match(code)]
        yield from ((name, line) for line in wanted + inline)


COMMANDS = sorted({line: name for name, line in commands() if "..." not in line and " | " not in line}.items())


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


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


@pytest.mark.parametrize(("line", "page"), COMMANDS)
def test_every_command_can_be_typed(line: str, page: str, tmp_path: Path) -> None:
    program, *arguments = shlex.split(line.replace("${item}", "msg_gan"))
    if program == "make":
        assert {word for word in arguments if "=" not in word} <= make_targets()
    elif program == "torchrun":
        assert arguments[arguments.index("--no-python") + 1] == "xraysynth"
        parse(typer.main.get_command(app), arguments[arguments.index("--no-python") + 2 :])
    elif program == "xraysynth" and not NAMES & set(arguments):
        parse(typer.main.get_command(app), arguments)
    elif program == "mlflow":
        from mlflow.cli import cli  # takes seconds

        parse(cli, arguments)
    elif program == "python":
        module, *options = arguments[1:]
        found = importlib.util.find_spec(module)
        assert found is not None
        assert found.origin is not None
        folder = Path(found.origin)
        sources = folder.parent.glob("*.py") if folder.name == "__init__.py" else [folder]
        source = "\n".join(file.read_text(encoding="utf-8") for file in sources)
        for name in (word for word in options if word.startswith("--")):
            of_typer = f"{name[2:].replace('-', '_')}: Annotated["
            assert f'"{name}"' in source or of_typer in source, name
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


def test_the_table_of_labels_is_complete(tmp_path: Path) -> None:
    """The five lines as they stand, with films of those names, are taken."""
    (table,) = blocks(README, "csv")
    assert len(table.splitlines()) == 5
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    rng = np.random.default_rng(0)
    for line in table.splitlines()[1:]:
        file = tmp_path / line.split(",")[0]
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(file)
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
