"""A stage becomes stale when its code changes, and only then: dvc.yaml names the files that a stage imports."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import TinyProject

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ENTRIES = {
    "imbalance": "tasks/imbalance.py",
    "encoder": "tasks/quality/encoder.py",
    "phantom": "tasks/phantom.py",
}  # of the others: the wing's stage.py
# How results are written, shown, tracked and checked changes none of them; params are tracked by value.
WITHOUT_EFFECT = {
    *("tasks/errors.py", "tasks/files.py", "tasks/params.py", "tasks/paths.py", "tasks/progress.py"),
    *("tasks/shown/numbers.py", "tasks/shown/pictures.py", "tasks/shown/plots.py"),
    *("tasks/tracking/runs.py", "tasks/tracking/spool.py", "tasks/tracking/store.py"),
    "tasks/train/card.py",  # no training is to be repeated for a word in the card
}
EDITS = {  # of one module, and the stages that it makes stale
    "tasks/ingest/split.py": {"ingest", "phantom"},
    "tasks/ingest/films/resize.py": {"ingest", "phantom"},
    "tasks/imbalance.py": {"imbalance"},
    "tasks/train/stage.py": {"train@msg_gan", "train@msg_sagan"},
    "tasks/train/card.py": set(),
    "tasks/quality/encoder.py": {"encoder", "quality@msg_gan", "quality@msg_sagan"},
    "tasks/quality/stage.py": {"quality@msg_gan", "quality@msg_sagan"},
    "tasks/synthesize/screening.py": {"synthesize@msg_gan", "synthesize@msg_sagan"},
    "tasks/classify/arms.py": {"classify"},
    "tasks/report/page.py": {"report"},
    "tasks/report/templates/style.css": {"report"},
    "tasks/tracking/provenance.py": {"report"},
    "tasks/simulate/thorax.py": {"phantom"},
    "tasks/registry/challenge.py": set(),
    "tasks/tracking/runs.py": set(),
    "tasks/files.py": set(),
    "tasks/shown/numbers.py": set(),
    "model/gan/layers.py": {"train@msg_gan", "train@msg_sagan", "synthesize@msg_gan", "synthesize@msg_sagan"},
    "model/head_start/transfer.py": {"train@msg_gan", "train@msg_sagan"},
    "model/training/losses.py": {"train@msg_gan", "train@msg_sagan"},
    "model/measures/similarity.py": {"train@msg_gan", "train@msg_sagan", "quality@msg_gan", "quality@msg_sagan"},
    "model/measures/manifold.py": {"quality@msg_gan", "quality@msg_sagan"},
    "model/measures/encoder.py": {"encoder", "quality@msg_gan", "quality@msg_sagan"},
    "model/memorisation.py": {"synthesize@msg_gan", "synthesize@msg_sagan", "classify"},
    "model/classifier.py": {"train@msg_gan", "train@msg_sagan", "classify"},
}
STATUS = """
import json, sys
from pathlib import Path
from dvc.repo import Repo
found = {}
for name in sys.argv[1:]:
    file = Path(name)
    before = file.read_bytes()
    file.write_bytes(before + b"\\n")
    with Repo() as repo:
        found[name] = sorted(repo.status())
    file.write_bytes(before)
print(json.dumps(found))
"""


def modules(path: str, seen: set[str]) -> set[str]:
    """The files of this project that `path` imports, and those that they import."""
    seen.add(path)
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                file = f"{name.replace('.', '/')}.py"
                if (ROOT / file).is_file() and file not in seen | WITHOUT_EFFECT:
                    modules(file, seen)
    return seen


def code(dep: str) -> Iterator[str]:
    """The modules of a dependency; the __init__.py of a wing holds no code."""
    files = [ROOT / dep] if dep.endswith(".py") else (ROOT / dep).rglob("*.py")
    yield from (file.relative_to(ROOT).as_posix() for file in files if file.name != "__init__.py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_modules_that_it_imports_and_on_no_other(stage: str) -> None:
    deps = [dep for dep in STAGES[stage].get("do", STAGES[stage])["deps"] if dep.startswith(("tasks/", "model/"))]
    named = {file for dep in deps for file in code(dep)}
    assert named == modules(ENTRIES.get(stage, f"tasks/{stage}/stage.py"), set())


def test_an_edit_makes_stale_what_it_should_and_nothing_else(
    tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = tiny_project.copy(tmp_path_factory.mktemp("stale") / "project")
    said = project.run("python", "-c", STATUS, *EDITS).stdout
    assert {name: set(stages) for name, stages in json.loads(said).items()} == EDITS


def test_every_wing_is_edited() -> None:
    wings = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("tasks/*/__init__.py")}
    wings |= {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("model/*/__init__.py")}
    assert {wing for wing in wings if not any(name.startswith(f"{wing}/") for name in EDITS)} == set()
