"""The rows of the GAN's studies that are kept in the repository are those of the studies as they are defined."""

import json

from benchmarks.gan_quality import ROWS, STUDIES, rows


def test_every_row_is_found_by_its_study() -> None:
    """One of settings that nobody would train today is no row of a table, and is to go."""
    kept = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    found = [row for name in STUDIES for row in rows(name)]
    assert len(found) == len(kept) > 30
    assert len({(row["study"], row["variant"], row["seed"]) for row in found}) == len(found)
