"""Data, params and results are versioned: what is stale, what is not, and all of it comes back by a pull."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import yaml
from dvc.repo import Repo

from tests.conftest import ROOT, TinyProject
from tests.services import s3_server
from tests.tasks.report.test_page_in_chromium import CHROMIUM, chromium

OUTPUTS = ("data", "models", "reports")
# section -> (a change, the stages that have to run because of it; all below them will follow)
CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "ingest": ({"seed": 7}, {"ingest", "phantom"}),
    "imbalance": ({"beta": 0.99}, {"imbalance"}),
    "train": ({"seed": 7}, {"train@msg_gan", "train@msg_sagan"}),
    "models": ({"msg_gan": {"attention_resolutions": [4]}}, {"train@msg_gan"}),
    "phantom": ({"seed": 7}, {"phantom"}),
    "encoder": ({"steps": 6}, {"encoder"}),
    "synthesize": ({"truncation": 0.9}, {"synthesize@msg_gan", "synthesize@msg_sagan"}),
    "quality": ({"pairs": 11}, {"quality@msg_gan", "quality@msg_sagan"}),
    "classify": ({"steps": 5}, {"classify"}),
    "report": ({"examples": 3}, {"report"}),
}


@pytest.fixture
def project(tiny_project: TinyProject, tmp_path: Path) -> TinyProject:
    """A copy of the finished project, to be changed."""
    assert tiny_project.flow.returncode == 0, tiny_project.flow.stderr
    return tiny_project.copy(tmp_path / "project")


def test_git_ignores_every_output_from_the_start() -> None:
    """Else DVC adds it to a .gitignore, and a first run leaves the clone changed."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outputs = [
        output.replace("${item}", item)
        for stage in stages.values()
        for item in stage.get("foreach", [""])
        for output in stage.get("do", stage)["outs"]
    ]
    assert "data/synthetic/phantom" in outputs
    ignored = subprocess.run(["git", "check-ignore", *outputs], cwd=ROOT, capture_output=True, text=True)
    assert sorted(ignored.stdout.split()) == sorted(outputs)


def digests(project: Path) -> dict[str, str]:
    """Of every file below the output folders."""
    files = [file for folder in OUTPUTS for file in (project / folder).rglob("*") if file.is_file()]
    return {str(f.relative_to(project)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_dag_is_the_designs(tiny_project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_project.path)
    with Repo() as repo:
        graph = repo.index.graph  # its edges point from a stage to what it needs
        below = {stage.addressing: {s.addressing for s in graph.predecessors(stage)} for stage in graph}
    both = {name: {f"{name}@msg_gan", f"{name}@msg_sagan"} for name in ("train", "synthesize", "quality")}
    assert below["data/raw.dvc"] == {"ingest"}
    assert below["ingest"] >= {"imbalance", *both["train"], *both["synthesize"], "encoder", "classify"}
    assert below["imbalance"] >= {*both["synthesize"], "classify", "report"}
    for name in ("msg_gan", "msg_sagan"):
        assert f"synthesize@{name}" in below[f"train@{name}"]
        assert {f"quality@{name}", "classify"} <= below[f"synthesize@{name}"]
        assert below[f"quality@{name}"] == {"report"}
    assert below["classify"] == {"report"}
    assert below["report"] == set()


def test_a_second_repro_does_nothing(project: TinyProject) -> None:
    project.run("dvc", "repro")  # a copy's files are looked at once more
    start = sum(os.times()[2:4])  # what programs that have ended took of the processors, whatever else runs
    assert project.run("dvc", "repro").stdout.endswith("Data and pipelines are up to date.\n")
    assert sum(os.times()[2:4]) - start < 10  # about 1 s


def test_nor_does_a_second_flow(project: TinyProject) -> None:
    """No server is started for it, for nobody would look at the run."""
    project.run("dvc", "repro")
    memory = project.path / ".prefect/prefect.db"
    before, start = memory.read_bytes(), sum(os.times()[2:4])
    assert project.run("python", "-m", "flows.pipeline").stdout == "13 stages are up to date\n"
    assert sum(os.times()[2:4]) - start < 15  # about 3 s
    assert memory.read_bytes() == before


@pytest.fixture(params=["folder", "s3"])
def remote(request: pytest.FixtureRequest, project: TinyProject) -> Iterator[TinyProject]:
    """The project with its data to go to an empty folder, or to an S3 server on loopback."""
    with ExitStack() as servers:
        environment = servers.enter_context(s3_server()) if request.param == "s3" else {}
        url = "s3://films/dvc" if environment else str(project.path.parent / "remote")
        project.run("dvc", "remote", "modify", "--local", "storage", "url", url)
        yield replace(project, env={**project.env, **environment})


def test_pushed_wiped_and_pulled_there_is_nothing_to_do(remote: TinyProject) -> None:
    project = remote
    before = digests(project.path)
    assert {"data/raw/labels.csv", "reports/report.html", "reports/verdict.json"} <= before.keys()

    project.run("dvc", "push")
    for folder in (*OUTPUTS, ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(project.path / folder)
    project.git("checkout", "--", *OUTPUTS)  # data/raw.dvc and what git is to ignore: all that git keeps there
    assert digests(project.path).keys() < before.keys()

    project.run("dvc", "pull")
    assert digests(project.path) == before
    assert project.run("dvc", "repro").stdout.endswith("Data and pipelines are up to date.\n")


@pytest.mark.parametrize("section", CHANGES)
def test_a_section_makes_its_stages_and_those_below_stale(
    section: str, tiny_project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, stages = CHANGES[section]
    file = tiny_project.path / "params.yaml"
    before = file.read_text()
    monkeypatch.chdir(tiny_project.path)
    tiny_project.edit_params({section: change})
    try:
        with Repo() as repo:
            stale = set(repo.status())
            graph = repo.index.graph.reverse()
            nodes = {stage.addressing: stage for stage in graph}
            below = {s.addressing for name in stages for s in nx.descendants(graph, nodes[name])}
    finally:
        file.write_text(before)
    assert stages <= stale
    assert stale <= stages | below


def test_a_change_runs_only_what_it_must(project: TinyProject) -> None:
    project.edit_params({"report": CHANGES["report"][0]})
    said = project.run("dvc", "repro").stdout
    assert [line for line in said.splitlines() if line.startswith("Running stage")] == ["Running stage 'report':"]
    assert project.json("status") == {}


def test_params_diff_says_what_changed(project: TinyProject) -> None:
    project.edit_params({"train": {"seed": 7}})
    assert project.json("params", "diff") == {"params.yaml": {"train.seed": {"old": 0, "new": 7, "diff": 7}}}


def test_metrics_show_has_the_numbers_that_matter(tiny_project: TinyProject) -> None:
    shown = tiny_project.json("metrics", "show")[""]["data"]["reports/metrics.json"]["data"]
    assert shown["imbalance_ratio"] > 1
    assert set(shown["rare_auprc"]) == {"synthetic", "control"}
    assert "mean" in shown["difference"]  # of so few patients there is no interval, and DVC shows no nulls
    table = tiny_project.run("dvc", "metrics", "show").stdout
    assert max(map(len, table.splitlines())) < 300  # it fits on a screen


def test_plots_show_makes_a_page_that_draws_itself_without_a_network(project: TinyProject) -> None:
    project.run("dvc", "plots", "show", "--out", "plots")
    page = project.path / "plots/index.html"
    text = page.read_text()
    assert "ROC of each rare class and arm" in text
    assert "Change of the area under the precision-recall curve, rare classes" in text
    assert len(list(page.parent.rglob("*.png"))) == 2  # the sample grids
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert "default-src 'none'" in text
    drawn = [plot for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] if isinstance(plot, dict)]
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    done = chromium(page)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "WARN" not in line]
    assert not [
        line for line in said if "current version is" not in line
    ]  # of Vega: newer than the templates' language
    assert len(re.findall("<svg[^>]*marks", done.stdout)) == len(drawn)


def test_plots_name_their_axes_and_draw_intervals() -> None:
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    described = {name: plot for entry in plots if isinstance(entry, dict) for name, plot in entry.items()}
    for name, plot in described.items():
        assert "x_label" in plot, name
        assert "y_label" in plot or plot["template"] == "intervals", name  # there a row says what it is
    for template in {plot["template"] for plot in described.values()} & {"intervals", "curves"}:
        layers = json.loads((ROOT / f".dvc/plots/{template}.json").read_text())
        layers = layers.get("spec", layers)["layer"]
        ends = [set(re.findall(r"'field': '(low|high)'", str(layer["encoding"]))) for layer in layers]
        assert {"low", "high"} in ends, template
