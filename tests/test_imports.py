"""What a command does not import: every process pays for it in seconds of CPU before it begins to work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("albumentations", "matplotlib", "mlflow", "pandas", "prefect", "pydicom", "scipy.stats", "torch")
# In this order within one process; of each the heavy ones that it adds.
WITHOUT_TORCH: dict[str, set[str]] = {
    "tasks.cli": set(),
    "flows.pipeline": {"prefect"},
    "tasks.imbalance": {"pandas"},
    "tasks.ingest.stage": {"pydicom"},
    "tasks.tracking.runs": {"mlflow"},
    "tasks.registry.drift": set(),
    "tasks.report.stage": {"matplotlib"},
}
WITH_TORCH: dict[str, set[str]] = {
    "tasks.synthesize.stage": {"pandas", "torch"},
    "tasks.quality.encoder": set(),
    "tasks.train.card": set(),
    "tasks.train.stage": {"mlflow"},
    "tasks.quality.stage": set(),
    "tasks.classify.stage": set(),
}
CODE = """
import importlib, json, sys
found, before = {}, set()
for name in sys.argv[2:]:
    importlib.import_module(name)
    heavy = set(sys.argv[1].split()) & set(sys.modules)
    found[name], before = sorted(heavy - before), heavy
print(json.dumps(found))
"""


@pytest.mark.parametrize("added", [WITHOUT_TORCH, WITH_TORCH], ids=["without torch", "with torch"])
def test_a_command_imports_no_more_than_it_needs(added: dict[str, set[str]]) -> None:
    command = [sys.executable, "-c", CODE, " ".join(HEAVY), *added]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name: set(heavy) for name, heavy in json.loads(done.stdout).items()} == added
