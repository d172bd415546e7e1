"""docs/reliability.md says only what a test shows: every test that it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTED = "| fault | what is kept | test |"


def test_every_row_has_its_test() -> None:
    _, _, tested = (ROOT / "docs/reliability.md").read_text().partition(TESTED)
    rows = [line for line in tested.splitlines() if line.startswith("| ")]
    sources = {str(file.relative_to(ROOT)): file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py|test_\w+|Test\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        for name in named:
            found = name in sources or any(f"def {name}(" in s or f"class {name}:" in s for s in sources.values())
            assert found, name
