"""A generator on disk: the same images after loading, no pickle, nothing half-written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.gan.networks import Generator, NetworkConfig
from model.gan.sampling import sample
from model.gan.storage import load_generator, save_generator


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    network = NetworkConfig(16, width=8, latent_dim=8, classes=2, attention_resolutions=(8, 16), noise=True)
    return Generator(network).eval()


def test_a_loaded_generator_draws_identical_images(generator: Generator, tmp_path: Path) -> None:
    save_generator(tmp_path / "new" / "msg_sagan", generator, ["normal", "effusion"], {"kimg": 12, "note": "é"})
    loaded, config = load_generator(tmp_path / "new" / "msg_sagan")
    assert np.array_equal(sample(loaded, 1, 5, seed=3), sample(generator, 1, 5, seed=3))
    assert loaded.config == generator.config
    assert not loaded.training
    assert config["classes"] == ["normal", "effusion"]
    assert config["extra"] == {"kimg": 12, "note": "é"}


def test_only_safetensors_and_json_lie_there(generator: Generator, tmp_path: Path) -> None:
    save_generator(tmp_path, generator, ["a", "b"])
    save_generator(tmp_path, generator, ["a", "c"])  # over an old one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "generator.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["classes"] == ["a", "c"]
    header = (tmp_path / "generator.safetensors").read_bytes()[8:9]
    assert header == b"{"


def test_a_failed_write_leaves_the_old_model(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_generator(tmp_path, generator, ["a", "b"])
    before = (tmp_path / "generator.safetensors").read_bytes()

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_generator(tmp_path, generator, ["a", "b"])
    assert (tmp_path / "generator.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_class_names_must_match(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 class names"):
        save_generator(tmp_path, generator, ["a", "b", "c"])


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"generator\.safetensors"):
        load_generator(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "pickled", "other network", "unknown key", "no json", "not finite"])
def test_a_damaged_model_is_refused_in_one_sentence(generator: Generator, tmp_path: Path, damage: str) -> None:
    save_generator(tmp_path, generator, ["a", "b"])
    weights, config = tmp_path / "generator.safetensors", tmp_path / "config.json"
    content = json.loads(config.read_text())
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "pickled":
        torch.save(generator.state_dict(), weights)
    elif damage == "not finite":
        generator.start.bias.data[3] = torch.nan
        save_generator(tmp_path, generator, ["a", "b"])
    elif damage == "other network":
        content["network"]["width"] = 16
    elif damage == "unknown key":
        content["network"]["colour"] = True
    config.write_text("{" if damage == "no json" else json.dumps(content))
    words = r"cannot be read.*start\.bias .*not finite" if damage == "not finite" else "cannot be read"
    with pytest.raises(ValueError, match=words):
        load_generator(tmp_path)
