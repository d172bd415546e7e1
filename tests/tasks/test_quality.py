"""The measures order: real below damaged, and a repeated image is caught by MS-SSIM."""

from pathlib import Path

import numpy as np
import pytest

from model.encoder import Encoder
from tasks import curated, encoder, quality
from tasks.errors import UserError
from tasks.params import Encoder as EncoderParams
from tasks.params import Quality
from tests.tasks.sets import write_set

PARAMS = Quality(pairs=60, repeats=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    write_set(folder / "curated")
    encoder.run(folder / "curated", folder / "encoder", EncoderParams(steps=150))
    return folder


@pytest.fixture(scope="module")
def network(folder: Path) -> Encoder:
    network, digest = encoder.load(folder / "encoder")
    assert digest == curated.load(folder / "curated").digest
    return network


def test_damage_is_further_from_the_floor(folder: Path, network: Encoder) -> None:
    images = curated.load(folder / "curated").where(label="normal").images
    real, other = images[::2], images[1::2]
    noise = np.random.default_rng(0).normal(0, 25, other.shape)
    noisy = np.clip(other + noise, 0, 255).astype(np.uint8)
    good, bad = (quality.measure(real, fake, network, PARAMS) for fake in (other, noisy))
    assert good["frechet_xray_floor"] == bad["frechet_xray_floor"]
    assert good["frechet_xray"] < 3 * good["frechet_xray_floor"]
    assert bad["frechet_xray"] > 2 * good["frechet_xray"]
    assert good["images"] == {"real": 30, "synthetic": 30, "compared": 15}


def test_one_good_image_repeated_is_caught_by_ms_ssim(folder: Path, network: Encoder) -> None:
    images = curated.load(folder / "curated").where(label="normal").images
    repeated = quality.measure(images, np.repeat(images[:1], 40, axis=0), network, PARAMS)
    assert repeated["ms_ssim"]["mean"] > 0.99 > repeated["ms_ssim_real"]["mean"] + 0.2


def test_a_folder_without_an_encoder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no encoder"):
        encoder.load(tmp_path)
