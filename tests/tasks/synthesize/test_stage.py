"""A trained generator as a user meets it: the same images in every form, and DICOM that says what it is."""

import json
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.config import RAISE
from pydicom.valuerep import validate_value
from typer.testing import CliRunner

from model.gan import CONFIG, WEIGHTS, sampling
from model.gan.networks import Generator, NetworkConfig
from model.gan.storage import save_generator
from tasks import cli, image_set
from tasks.errors import UserError
from tasks.imbalance import to_draw
from tasks.ingest.films.dicom import read_dicom
from tasks.ingest.films.film import Reading, Refused
from tasks.params import Synthesize
from tasks.synthesize import stage
from tasks.synthesize.stage import Form
from tests.tasks.sets import write_set

CLASSES = ["normal", "épanchement"]  # not ASCII, for DICOM's sake
PLAN = {"épanchement": 5, "normal": 3}
SEED = Synthesize(seed=4)


def untrained(folder: Path, classes: list[str], facts: dict[str, Any]) -> Path:
    """A generator whose classes differ, as if trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(NetworkConfig(16, width=8, latent_dim=8, classes=len(classes)))
        assert generator.embed is not None
        torch.nn.init.normal_(generator.embed.weight)  # classes start alike
    save_generator(folder, generator, classes, facts)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "msg_gan", CLASSES, {"data_digest": "d1"})


@pytest.fixture(scope="module")
def drawn(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    forms: tuple[Form, ...] = ("shards", "png", "dicom")
    for form in forms:
        stage.run(model, out / form, PLAN, SEED, form)
    return out


@pytest.fixture(scope="module")
def objects(drawn: Path) -> dict[str, pydicom.Dataset]:
    files = sorted((drawn / "dicom").rglob("*.dcm"))
    return {path.relative_to(drawn / "dicom").as_posix(): pydicom.dcmread(path) for path in files}


def test_every_form_holds_the_same_images(drawn: Path) -> None:
    shards = image_set.load(drawn / "shards")
    for label, count in PLAN.items():
        images = shards.where(label=label).images
        assert len(images) == count
        for form, suffix in (("png", ".png"), ("dicom", ".dcm")):
            files = sorted((drawn / form / label).iterdir())
            assert [file.name for file in files] == [f"{k:06d}{suffix}" for k in range(count)]
            read = [pydicom.dcmread(f).pixel_array if form == "dicom" else np.asarray(Image.open(f)) for f in files]
            np.testing.assert_array_equal(np.stack(read), images)


@pytest.mark.parametrize("form", ["shards", "png", "dicom"])
def test_every_form_says_where_it_comes_from_and_can_be_written_anew(form: Form, model: Path, tmp_path: Path) -> None:
    for count in (2, 1):
        stage.run(model, tmp_path / "out", {"normal": count}, SEED, form)
    facts = json.loads((tmp_path / "out/dataset.json").read_text())
    assert facts["counts"] == {"normal": 1}
    assert (facts["learnt_from"], facts["seed"], facts["truncation"]) == ("d1", 4, SEED.truncation)
    assert len(facts["model"]) == 64
    assert not list((tmp_path / "out").rglob("000001.*"))


def test_a_dicom_object_says_that_it_is_synthetic_and_nobody(objects: dict[str, pydicom.Dataset], drawn: Path) -> None:
    digest = json.loads((drawn / "dicom/dataset.json").read_text())["model"]
    assert len(objects) == sum(PLAN.values())
    for name, ds in objects.items():
        assert ds["SyntheticData"].value == "YES"
        assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
        assert digest in ds.DerivationDescription
        assert ds.SeriesDescription == Path(name).parent.name
        assert str(ds.PatientName) == "Synthetic^Not a patient"
        assert ds.PatientID == "SYNTHETIC"
        people_and_dates = [e for e in ds if e.VR in ("PN", "DA", "TM", "DT", "AS") and e.keyword != "PatientName"]
        assert [element.keyword for element in people_and_dates if element.value] == []
        assert not ds.file_meta.TransferSyntaxUID.is_compressed


def test_uids_are_new_and_derived(model: Path, objects: dict[str, pydicom.Dataset], tmp_path: Path) -> None:
    assert len({ds.SOPInstanceUID for ds in objects.values()}) == len(objects)
    assert len({ds.SeriesInstanceUID for ds in objects.values()}) == len(PLAN)
    assert len({ds.StudyInstanceUID for ds in objects.values()}) == 1
    known = {ds[uid].value for ds in objects.values() for uid in ("SOPInstanceUID", "StudyInstanceUID")}

    stage.run(model, tmp_path / "more", {"normal": 4}, SEED, "dicom")  # another count, another order of classes
    again = pydicom.dcmread(tmp_path / "more/normal/000002.dcm")
    assert again == objects["normal/000002.dcm"]
    for k, changed in enumerate((Synthesize(seed=5), Synthesize(seed=4, truncation=0.7))):
        stage.run(model, tmp_path / str(k), {"normal": 1}, changed, "dicom")
        other = pydicom.dcmread(tmp_path / str(k) / "normal/000000.dcm")
        assert not known & {other.SOPInstanceUID, other.StudyInstanceUID}


def test_ingest_does_not_take_synthetic_dicom_for_films(drawn: Path) -> None:
    with pytest.raises(Refused):
        read_dicom((drawn / "dicom/normal/000000.dcm").read_bytes(), Reading(size=16))


FILLED = (  # of type 1 in the modules of a Secondary Capture object (PS3.3 A.8.1.3)
    *("StudyInstanceUID", "SeriesInstanceUID", "Modality", "ConversionType", "SOPClassUID", "SOPInstanceUID"),
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData", "ImageType"),
)
THERE = (  # of type 2, or 2C where the condition holds
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *(
        "ReferringPhysicianName",
        "AccessionNumber",
        "SeriesNumber",
        "InstanceNumber",
        "PatientOrientation",
        "Laterality",
    ),
)


def test_all_that_the_standard_asks_for_is_there_and_in_range(objects: dict[str, pydicom.Dataset]) -> None:
    for ds in objects.values():
        assert [keyword for keyword in FILLED if keyword not in ds or ds[keyword].is_empty] == []
        assert [keyword for keyword in THERE if keyword not in ds] == []
        assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (8, 8, 7, 0)
        assert len(ds.PixelData) == ds.Rows * ds.Columns
        assert ds.ConversionType in {"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"}  # PS3.3 C.8.6.1
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        for element in ds.iterall():  # lengths and characters of each VR (PS3.5 6.2)
            for value in element.value if element.VM > 1 else [element.value][: element.VM]:
                validate_value(element.VR, str(value) if element.VR in ("DS", "IS", "PN") else value, RAISE)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
def test_a_validator_finds_nothing_wrong(objects: dict[str, pydicom.Dataset], drawn: Path, tmp_path: Path) -> None:
    def errors(path: Path) -> list[str]:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
        text = (done.stdout + done.stderr).decode(errors="replace")
        assert "SCImage" in text
        # Its releases before 2023 don't know SyntheticData yet, and say so; nothing else is let through.
        return [s for s in text.splitlines() if s.startswith("Error") and "(0x0008,0x001c)" not in s]

    for name in objects:
        assert errors(drawn / "dicom" / name) == [], name
    broken = pydicom.dcmread(drawn / "dicom/normal/000000.dcm")
    del broken.ConversionType
    broken.save_as(tmp_path / "broken.dcm")
    assert errors(tmp_path / "broken.dcm"), "the validator must be able to complain"


@pytest.mark.parametrize("place", ["its own model", "a curated set", "a file"])
def test_nothing_but_an_earlier_set_of_synthetic_images_is_replaced(place: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if place == "its own model":
        model = shutil.copytree(model, out)
    elif place == "a curated set":
        write_set(out)
    else:
        out.write_text("a file")
    before = {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()}
    with pytest.raises(UserError, match="not an earlier set of synthetic images"):
        stage.run(model, out, PLAN, SEED)
    assert {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()} == before


@pytest.mark.parametrize(
    "content", [None, "no JSON", "[]", "{}", '{"draw": 3}', '{"draw": {"a": "3"}}', '{"draw": {"a": -3}}']
)
def test_what_is_no_plan_is_one_sentence(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "imbalance.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match="holds no plan; run `xraysynth imbalance`"):
        to_draw(file)


class _Payload:
    """Pickled, it makes a file wherever it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("by", ["pickle", "torch"])
def test_a_pickle_in_a_model_folder_is_refused_unread(name: str, by: str, model: Path, tmp_path: Path) -> None:
    folder, proof = shutil.copytree(model, tmp_path / "model"), tmp_path / "unpickled"
    if by == "pickle":
        (folder / name).write_bytes(pickle.dumps(_Payload(proof)))
    else:
        torch.save(_Payload(proof), folder / name)
    with pytest.raises(UserError, match="cannot be read") as caught:
        stage.run(folder, tmp_path / "out", PLAN, SEED)
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"classes": None},
        {"classes": ["normal"]},
        {"classes": ["normal", 3]},
        {"classes": ["normal", "../../elsewhere"]},
        {"extra": None},
        {"network": {"resolution": 16, "width": 16}},  # of other weights: torch says so in many lines
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(change: dict, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match="xraysynth train") as caught:
        stage.run(folder, tmp_path / "out", {"normal": 1}, SEED)
    assert "\n" not in str(caught.value)


def test_the_command_draws_what_it_is_asked_for(model: Path, tmp_path: Path) -> None:
    options = ["--label", "normal", "--count", "2", "--seed", "7", "--truncation", "0.5", "--format", "dicom"]
    done = CliRunner().invoke(cli.app, ["synthesize", str(model), str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert f"2 images in {tmp_path / 'out'}" in done.output
    stage.run(model, tmp_path / "same", {"normal": 2}, Synthesize(seed=7, truncation=0.5), "dicom")
    for name in ("normal/000000.dcm", "normal/000001.dcm", "dataset.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_a_count_without_a_class_is_refused(model: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["synthesize", str(model), str(tmp_path / "out"), "--count", "2"])
    assert isinstance(done.exception, UserError)
    assert "--label" in str(done.exception)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A curated set whose films are of the size that `model` draws."""
    return write_set(tmp_path / "curated", side=16)


def remembers(films: Path, every: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """From now on every image whose number is a multiple of `every` is a training film; returns these films."""
    train = image_set.load(films).where(split="train").images

    def batches(generator: Generator, label: int, count: int, seed: int, truncation: float) -> Iterator[np.ndarray]:
        first = 0
        for part in sampling.batches(generator, label, count, seed, truncation):
            for k in range(-first % every, len(part), every):
                part[k] = train[(first + k) // every % len(train)]
            yield part
            first += len(part)

    monkeypatch.setattr(stage, "batches", batches)
    return train


def test_copies_of_training_films_are_left_out(
    model: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"normal": 40, "épanchement": 10}
    stage.run(model, tmp_path / "unscreened", {"normal": 60, "épanchement": 20}, SEED)
    unscreened = image_set.load(tmp_path / "unscreened").where(label="normal").images
    train = remembers(films, 10, monkeypatch)
    stage.run(model, tmp_path / "out", plan, SEED, curated_folder=films)
    stage.run(model, tmp_path / "png", plan, SEED, "png", films)

    drawn = image_set.load(tmp_path / "out").where(label="normal")
    numbers = [k for k in range(60) if k % 10][:40]  # a number stays with its image, those of copies are left out
    assert drawn.manifest["image_id"].tolist() == [f"normal-{k:06d}" for k in numbers]
    np.testing.assert_array_equal(drawn.images, unscreened[numbers])
    assert [path.stem for path in sorted((tmp_path / "png/normal").iterdir())] == [f"{k:06d}" for k in numbers]

    facts = json.loads((tmp_path / "out/dataset.json").read_text())["screening"]
    assert facts == json.loads((tmp_path / "png/dataset.json").read_text())["screening"]
    normal = facts["classes"]["normal"]
    assert (normal["drawn"], normal["removed"]) == (45, 5)  # 44 is the fortieth that is kept
    assert facts["classes"]["épanchement"]["removed"] == 2
    assert max(normal["reasons"].values()) == 5
    assert 0 <= facts["false_alarms"] <= 0.1
    assert "held-out films: too few to count" in facts["note"]

    pairs = np.load(tmp_path / "out/worst_pairs.npy")
    assert pairs.shape == (8, 2, 16, 16)
    assert [pair["removed"] for pair in facts["worst"]] == [True] * 7 + [False]
    assert facts["worst"][0]["score"] > facts["threshold"][facts["worst"][0]["signal"]]
    np.testing.assert_array_equal(pairs[:7, 0], pairs[:7, 1])
    assert {image.tobytes() for image in pairs[:, 1]} <= {image.tobytes() for image in train}
    assert not list((tmp_path / "png").rglob("worst_pairs*"))  # real films don't go where images are exported


def test_a_generator_that_remembers_its_films_is_refused(
    model: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembers(films, 2, monkeypatch)
    with pytest.raises(UserError, match="images of 'normal' are copies of training films, more than") as caught:
        stage.run(model, tmp_path / "out", {"normal": 40}, SEED, curated_folder=films)
    assert str(caught.value).startswith("25 of 50 ")
    assert not (tmp_path / "out").exists()
    stage.run(model, tmp_path / "out", {"normal": 40}, Synthesize(max_copies=0.6), curated_folder=films)
    assert len(image_set.load(tmp_path / "out").images) == 40


def test_films_of_another_size_are_refused(model: Path, tmp_path: Path) -> None:
    films = write_set(tmp_path / "curated", side=32)
    with pytest.raises(UserError, match="films of 32 px, the generator draws 16 px"):
        stage.run(model, tmp_path / "out", PLAN, SEED, curated_folder=films)


def test_the_command_says_when_it_cannot_screen(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*options: str) -> str:
        done = CliRunner().invoke(cli.app, ["synthesize", str(model), str(tmp_path / "out"), *options])
        assert done.exit_code == 0, done.output
        return done.output

    monkeypatch.chdir(tmp_path)
    normal = ("--label", "normal", "--count", "9")
    assert said(*normal).count("not screened for copies") == 1
    write_set(tmp_path / "data/curated", side=16)
    assert "not screened for copies" in said(*normal)  # a set, but another than the generator learnt from
    remembers(tmp_path / "data/curated", 10, monkeypatch)
    found = said(*normal, "--curated", "data/curated")
    assert "without 1 copies of films" in found
    assert "against another set than the generator learnt from" in found
    model = shutil.copytree(model, tmp_path / "model")
    config = json.loads((model / CONFIG).read_text())
    config["extra"]["data_digest"] = image_set.load(tmp_path / "data/curated").digest
    (model / CONFIG).write_text(json.dumps(config))
    found = said(*normal)
    assert "without 1 copies of films" in found
    assert "another set" not in found


SETS = {"left": {"left": 3, "left|right": 2}, "right": {"left|right": 2, "right": 1}, "normal": {"normal": 26}}


@pytest.fixture(scope="module")
def of_findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that learnt from films with several findings."""
    facts = {"data_digest": "d1", "sets": SETS}
    return untrained(tmp_path_factory.mktemp("model") / "msg_gan", ["left", "normal", "right"], facts)


def test_images_of_a_finding_come_with_what_its_films_have(of_findings: Path, tmp_path: Path) -> None:
    stage.run(of_findings, tmp_path / "out", {"left": 100, "normal": 7, "right": 30}, SEED)
    drawn = image_set.load(tmp_path / "out")
    left = drawn.where(label="left")
    assert len(left.images) == 100
    assert (left.manifest["finding_left"] == "1").all()
    assert left.manifest["label"].value_counts().to_dict() == pytest.approx({"left": 60, "left|right": 40}, abs=2)
    assert drawn.where(label="right").manifest["label"].value_counts().to_dict() == pytest.approx(
        {"left|right": 20, "right": 10}, abs=2
    )
    assert (drawn.where(label="normal").labels == [[0, 1, 0]]).all()
    assert len(drawn.manifest[drawn.manifest["finding_right"] == "1"]) > 30  # some were drawn for left
    assert len({image.tobytes() for image in drawn.images}) == 137


def test_image_k_of_a_finding_is_the_same_in_every_form_and_count(of_findings: Path, tmp_path: Path) -> None:
    stage.run(of_findings, tmp_path / "many", {"right": 40, "left": 3}, SEED)
    stage.run(of_findings, tmp_path / "few", {"left": 5, "right": 9}, SEED, "png")
    many = image_set.load(tmp_path / "many")
    for label, count in (("right", 9), ("left", 3)):
        files = sorted((tmp_path / "few" / label).iterdir())[:count]
        images = np.stack([np.asarray(Image.open(file)) for file in files])
        np.testing.assert_array_equal(many.where(label=label).images[:count], images)
