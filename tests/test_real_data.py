"""Real films, where they are at hand: the folder XRAYSYNTH_TESTDATA, by default ../shared/data."""

import os
from pathlib import Path

import numpy as np
import pytest

from tasks import curated, ingest
from tasks.film import read_film
from tasks.params import Ingest
from tasks.reading import Refused
from tasks.square import to_square

DATA = Path(os.environ.get("XRAYSYNTH_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def part(name: str) -> Path:
    """A folder of the test data; without it the test is skipped."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no real films in {DATA / name}: set XRAYSYNTH_TESTDATA")
    return DATA / name


def test_kermany_is_curated_and_split_by_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = part("kermany224")
    monkeypatch.chdir(tmp_path)
    counts = ingest.run(source, source / "labels_imbalanced.csv", tmp_path / "curated", Ingest(max_quarantined=0.8))
    assert counts["inputs"] == counts["curated"] + counts["quarantined"]
    assert counts["curated"] == 1474  # 1,341 normal and 134 viral, one of them twice
    assert counts["reasons"]["duplicate"] == 1
    manifest = curated.load(tmp_path / "curated").manifest
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()


def test_every_file_of_the_zoo_is_shown_or_refused(subtests: pytest.Subtests) -> None:
    taken = {}
    for path in sorted(part("dicom-zoo").iterdir()):
        with subtests.test(path.name):
            try:
                film = read_film(path.read_bytes())
            except Refused:
                continue
            taken[path.name] = film
            assert film.pixels.ndim == 2
            assert film.pixels.dtype == np.float32
            assert 0 <= film.pixels.min() < film.pixels.max() <= 1
    assert "pydicom-data-RG1_J2KI.dcm" in taken  # a chest film in lossy JPEG 2000
    assert not {name for name in taken if "CT_small" in name or "MR_small" in name or "rtplan" in name}


def test_inverted_storage_is_shown_upright() -> None:
    """MONOCHROME1: on a chest film the middle, spine and mediastinum, is brighter than the lungs beside it."""
    film = read_film((part("dicom-zoo") / "pydicom-data-RG1_J2KI.dcm").read_bytes())
    small = to_square(film, 64).astype(float)
    lungs = np.concatenate([small[20:36, 14:24], small[20:36, 40:50]])
    assert small[20:36, 29:35].mean() > lungs.mean() + 20
