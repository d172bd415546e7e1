"""Real films, where they are at hand: the folder XRAYSYNTH_TESTDATA, by default ../shared/data."""

import os
from pathlib import Path

import numpy as np
import pytest

from tasks import image_set
from tasks.ingest import stage
from tasks.ingest.films import decode
from tasks.ingest.films.decode import read_film
from tasks.ingest.films.film import Reading
from tasks.ingest.films.resize import to_square
from tasks.params import Ingest

DATA = Path(os.environ.get("XRAYSYNTH_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def part(name: str) -> Path:
    """A folder of the test data; without it the test is skipped."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no real films in {DATA / name}: set XRAYSYNTH_TESTDATA")
    return DATA / name


def test_kermany_is_curated_and_split_by_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = part("kermany224")
    monkeypatch.chdir(tmp_path)
    params = Ingest(size=64, max_quarantined=0.8)
    counts = stage.run(source, source / "labels_imbalanced.csv", tmp_path / "curated", params)
    assert counts["inputs"] == counts["curated"] + counts["quarantined"]
    assert counts["curated"] == 1474  # 1,341 normal and 134 viral, one of them twice
    assert counts["reasons"]["duplicate"] == 1
    manifest = image_set.load(tmp_path / "curated").manifest
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()


# Where every file of the zoo ends, and why where that may surprise. All that is not named is no radiograph: CT, MR,
# US, NM, OT, SEG, ECG, dose, structures, plans, reports, directories.
ZOO = {
    "taken": [
        "AIHCND_C2_Starter-test1.dcm",
        "AIHCND_C2_Starter-test2.dcm",
        "AIHCND_C2_Starter-test3.dcm",
        "AIHCND_C2_Starter-test4.dcm",  # BodyPartExamined RIBCAGE: the same film as test1, and a chest
        "AIHCND_C2_Starter-test6.dcm",  # a patient position that does not exist; no matter
        "pydicom-data-RG1_J2KI.dcm",  # lossy JPEG 2000, MONOCHROME1, PixelSpacing 0 by 0
    ],
    "not_human": ["highdicom-dx_image.dcm"],  # the dog: only its processing ("CANINE LATERAL THORAX") gives it away
    "lateral_view": ["pydicom-6154"],  # a cervical spine, 16 by 16 pixels, cut out of a CR film
    "not_a_chest": ["pydicom-data-RG3_J2KI.dcm", "pydicom-data-RG3_J2KR.dcm"],  # a lower leg
    "no_pixel_data": ["pydicom-chrJapMulti.dcm"],  # the header of a CR chest film without the film
    "not_dicom": [
        "index.csv",
        "pydicom-no_meta.dcm",  # a stray byte before the first tag: no reader can tell what it is
    ],
    "truncated": ["pydicom-data-emri_small_jpeg_2k_lossless_too_short.dcm"],  # so short that its Modality is lost
    # Mislabelled on purpose: by its pixels the film of test1, but its header says CT, and headers are believed.
    "not_a_radiograph": ["AIHCND_C2_Starter-test5.dcm"],
}


def test_every_file_of_the_zoo_ends_where_a_radiologist_would_expect(tmp_path: Path) -> None:
    source = part("dicom-zoo")
    expected = {name: reason for reason, names in ZOO.items() for name in names}
    found = {}
    for path in sorted(source.iterdir()):
        outcome = decode.decode_file(source, Reading(size=64), 0.0, path.name)
        assert isinstance(outcome, decode.Decoded), path.name
        found[path.name] = outcome.refusal[0] or "taken"
        if outcome.image is not None:
            assert outcome.image.std() > 20, path.name
    assert len(found) > 60
    assert found == {name: expected.get(name, "not_a_radiograph") for name in found}


@pytest.mark.parametrize("name", ["RG1_J2KI", "RG3_J2KI", "RG3_J2KR"])
@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_reduced_decoding_agrees_with_a_full_one(name: str, size: int) -> None:
    content = (part("dicom-zoo") / f"pydicom-data-{name}.dcm").read_bytes()
    reduced = read_film(content, Reading(size=size, body_part="any"))
    full = read_film(content, Reading(body_part="any"))
    assert reduced.step > full.step == 1
    difference = to_square(reduced, size).astype(float) - to_square(full, size)
    assert np.abs(difference).mean() <= 1.5
    assert 10 * np.log10(255**2 / np.mean(difference**2)) >= 40


def test_inverted_storage_is_shown_upright() -> None:
    """MONOCHROME1: on a chest film the middle, spine and mediastinum, is brighter than the lungs beside it."""
    film = read_film((part("dicom-zoo") / "pydicom-data-RG1_J2KI.dcm").read_bytes())
    small = to_square(film, 64).astype(float)
    lungs = np.concatenate([small[20:36, 14:24], small[20:36, 40:50]])
    assert small[20:36, 29:35].mean() > lungs.mean() + 20
