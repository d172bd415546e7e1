"""A stage must become stale when its code changes: dvc.yaml names every module of ours that a stage imports."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# What they say, track and check changes no output; params are tracked by value.
WITHOUT_EFFECT = {
    *("tasks/errors.py", "tasks/params.py", "tasks/progress.py"),
    *("tasks/spool.py", "tasks/store.py", "tasks/tracking.py"),
}
# A stage whose output is a plot may depend on it, but no training is to be repeated for a colour.
OPTIONAL = {"tasks/plots.py"}


def modules(path: str, seen: set[str]) -> set[str]:
    """The files of this project that `path` imports, and those that they import."""
    seen.add(path)
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            candidates = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in candidates:
                file = f"{name.replace('.', '/')}.py"
                if (ROOT / file).is_file() and file not in seen | WITHOUT_EFFECT | OPTIONAL:
                    modules(file, seen)
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_of_a_stage_is_a_dependency(stage: str) -> None:
    deps = STAGES[stage].get("do", STAGES[stage])["deps"]
    assert {dep for dep in deps if dep.endswith(".py")} - OPTIONAL == modules(f"tasks/{stage}.py", set())
