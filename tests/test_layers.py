"""Dependencies point one way: flows -> tasks -> model, and each layer knows its own libraries only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL_MAY_IMPORT = {"torch", "torchmetrics", "numpy", "safetensors", "model"} | sys.stdlib_module_names
FORBIDDEN = {
    "tasks": {"prefect", "dvc", "flows"},  # stage code never takes DVC's locks a second time
    "model": {"prefect", "dvc", "flows", "tasks", "mlflow", "pydicom", "pandas"},
}


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


def test_model_names_nothing_but_its_four_libraries() -> None:
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
