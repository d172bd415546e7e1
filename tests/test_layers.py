"""Dependencies point one way: flows -> tasks -> model, each layer knows its own libraries only, and no wing another."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL_MAY_IMPORT = {"torch", "numpy", "safetensors", "model"} | sys.stdlib_module_names
FORBIDDEN = {
    "tasks": {"prefect", "dvc", "flows"},  # stage code never takes DVC's locks a second time
    "model": {"prefect", "dvc", "flows", "tasks", "mlflow", "pydicom", "pandas"},
}


WINGS = ("simulate", "ingest", "train", "synthesize", "quality", "classify", "report")  # one a stage; registry is above
GROUND = {"tasks.errors"}  # what tasks/params.py may import: everything stands on it


def sources(layer: str) -> list[Path]:
    found = sorted((ROOT / layer).rglob("*.py"))
    assert len(found) > 3, f"{layer}/ is not where this test looks for it"
    return found


def imports(file: Path) -> Iterator[str]:
    """Names of the top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield file.relative_to(ROOT).parts[0] if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(a.value).partition(".")[0] for a in node.args if isinstance(a, ast.Constant))


@pytest.mark.parametrize(("layer", "forbidden"), FORBIDDEN.items())
def test_a_layer_does_not_look_up(layer: str, forbidden: set[str]) -> None:
    found = {str(file.relative_to(ROOT)): forbidden & set(imports(file)) for file in sources(layer)}
    assert {file: names for file, names in found.items() if names} == {}


def test_only_flows_imports_prefect() -> None:
    assert any("prefect" in set(imports(file)) for file in sources("flows"))  # this test can see one


def test_model_names_nothing_but_its_libraries() -> None:
    found = {str(file.relative_to(ROOT)): set(imports(file)) - MODEL_MAY_IMPORT for file in sources("model")}
    assert {file: names for file, names in found.items() if names} == {}


def test_model_imports_where_nothing_else_is_installed() -> None:
    """Every other package of the project is blocked, as if it were not there."""
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sources("model")]
    blocked = [
        *("flows", "tasks", "prefect", "dvc", "mlflow", "pydicom", "pandas", "albumentations", "cv2", "PIL"),
        *("scipy", "sklearn", "matplotlib", "typer", "pydantic", "yaml", "jinja2", "tqdm"),
    ]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"[importlib.import_module(name) for name in {modules!r}]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def project_imports(file: Path) -> set[str]:
    """Modules of this project that a file names in imports, anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    named = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} | {str(n.module) for n in nodes}
    return {name for name in named if name.partition(".")[0] in ("flows", "tasks", "model")}


@pytest.mark.parametrize("wing", WINGS)
def test_no_stage_wing_imports_another_one_nor_what_stands_above(wing: str) -> None:
    others = {f"tasks.{other}" for other in (*WINGS, "registry", "cli", "doctor", "phantom") if other != wing}
    found = {
        str(file.relative_to(ROOT)): [name for name in project_imports(file) if ".".join(name.split(".")[:2]) in others]
        for file in (ROOT / "tasks" / wing).rglob("*.py")
    }
    assert len(found) > 1
    assert {file: names for file, names in found.items() if names} == {}


def test_params_stand_on_the_ground() -> None:
    found = project_imports(ROOT / "tasks/params.py")
    assert found >= GROUND  # this test can see one
    assert {name for name in found if not name.startswith(tuple(GROUND))} == set()


def test_the_init_of_a_wing_imports_nothing() -> None:
    """A worker process would pay for it in memory, and `xraysynth --help` in time."""
    found = [file for layer in ("tasks", "model") for file in (ROOT / layer).rglob("*/__init__.py")]
    assert len(found) > 10
    assert {str(file.relative_to(ROOT)): list(imports(file)) for file in found if list(imports(file))} == {}


@pytest.mark.parametrize("layer", ["tasks", "model", "flows"])
def test_no_wing_has_more_than_a_dozen_rooms(layer: str) -> None:
    folders = {file.parent for file in sources(layer)}
    rooms = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: n for folder, n in rooms.items() if n > 13} == {}  # a dozen and __init__.py
