"""What a training takes over from an earlier one, of the same or another size, of the same or other classes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.gan import DISCRIMINATOR
from model.gan.networks import Discriminator, Generator, NetworkConfig
from model.gan.sampling import sample
from model.gan.storage import save_generator
from model.head_start.transfer import PHANTOM, HeadStart, packaged
from model.training.config import TrainConfig
from model.training.loop import fingerprint
from model.training.trainer import Trainer

NAMES = ["a", "b", "c"]
NETWORK = NetworkConfig(32, width=8, latent_dim=6, classes=3, attention_resolutions=(16,))
MODELS = ("msg_gan", "msg_sagan")


def networks(config: NetworkConfig, seed: int) -> tuple[Generator, Discriminator]:
    """Both, with no weight at zero, where class embeddings, noise and attention begin."""
    torch.manual_seed(seed)
    found = Generator(config).eval(), Discriminator(config)
    for network in found:
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return found


@pytest.fixture
def earlier(tmp_path: Path) -> tuple[Path, Generator, Discriminator]:
    generator, discriminator = networks(NETWORK, 1)
    save_generator(tmp_path, generator, NAMES, discriminator=discriminator)
    return tmp_path, generator, discriminator


def latent(config: NetworkConfig, images: int = 4) -> Tensor:
    return torch.randn(images, config.inputs, generator=torch.Generator().manual_seed(5))


def test_the_same_networks_take_all(earlier: tuple[Path, Generator, Discriminator]) -> None:
    folder, generator, discriminator = earlier
    g, d = networks(NETWORK, 2)
    taken = HeadStart.load(folder, NAMES).give(g, d)
    assert (taken.share, taken.anew) == (1.0, ())
    y, z = torch.tensor([0, 1, 2, 0]), latent(NETWORK)
    images = generator(z, y)
    assert all(torch.equal(image, same) for image, same in zip(images, g(z, y), strict=True))
    assert torch.equal(discriminator(images, y), d(images, y))


def test_classes_go_by_name_and_new_ones_are_the_mean(earlier: tuple[Path, Generator, Discriminator]) -> None:
    folder, generator, _ = earlier
    g, d = networks(replace(NETWORK, classes=2), 2)
    HeadStart.load(folder, ["new", "b"]).give(g, d)
    assert generator.embed is not None
    assert g.embed is not None
    assert torch.equal(g.embed.weight[1], generator.embed.weight[1])
    assert torch.equal(g.embed.weight[0], generator.embed.weight.mean(0))
    z, b = latent(NETWORK), torch.ones(4, dtype=torch.int64)
    assert torch.equal(g(z, b)[-1], generator(z, b)[-1])


@pytest.mark.parametrize("side", [16, 64])
def test_another_size_takes_the_scales_that_both_have(
    side: int, earlier: tuple[Path, Generator, Discriminator]
) -> None:
    folder, generator, discriminator = earlier
    config = replace(NETWORK, resolution=side)
    g, d = networks(config, 2)
    taken = HeadStart.load(folder, NAMES).give(g, d)
    assert 0.6 < taken.share < 1
    y, larger = torch.tensor([0, 1, 2, 0]), max(config, NETWORK, key=lambda c: c.inputs)
    z = latent(larger)
    images, same = generator(z[:, : NETWORK.inputs], y), g(z[:, : config.inputs], y)
    shared = min(len(images), len(same))
    assert all(torch.equal(a, b) for a, b in zip(images[:shared], same[:shared], strict=True))
    assert torch.equal(d.last_conv.weight, discriminator.last_conv.weight)
    of_8_px = [dict(network.blocks[-1].named_parameters())["first.weight"] for network in (d, discriminator)]
    assert torch.equal(*of_8_px)
    assert {name.split(".")[0] for name in taken.anew} <= {"generator", "discriminator"}
    assert all("px." in name for name in taken.anew if name.startswith("discriminator"))


def test_attention_is_added_without_a_change(tmp_path: Path) -> None:
    """Its gate begins at 0."""
    generator, discriminator = networks(replace(NETWORK, attention_resolutions=()), 1)
    save_generator(tmp_path, generator, NAMES, discriminator=discriminator)
    torch.manual_seed(2)
    g, d = Generator(NETWORK), Discriminator(NETWORK)
    taken = HeadStart.load(tmp_path, NAMES).give(g, d)
    assert all("attention" in name for name in taken.anew)
    y, z = torch.tensor([0, 1, 2, 0]), latent(NETWORK)
    torch.testing.assert_close(g(z, y), generator(z, y))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 16}, "it has width 8, not 16"),
        ({"phi": "cat_lin"}, "it has phi simple, not cat_lin"),
        ({"classes": 1}, "one of both has a single class"),
    ],
)
def test_networks_of_another_shape_cannot_begin_with_it(
    change: dict[str, int], sentence: str, earlier: tuple[Path, Generator, Discriminator]
) -> None:
    config = replace(NETWORK, **change)  # type: ignore[arg-type]
    found = HeadStart.load(earlier[0], NAMES)
    assert found.obstacle(config) == sentence
    with pytest.raises(ValueError, match=sentence):
        found.give(Generator(config), Discriminator(config))


def test_a_training_begins_with_it_and_is_another_one(earlier: tuple[Path, Generator, Discriminator]) -> None:
    folder, generator, discriminator = earlier
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32), np.uint8)
    labels, config, found = np.arange(12) % 3, TrainConfig(kimg=0.1), HeadStart.load(folder, NAMES)
    trainer = Trainer(images, labels, NETWORK, config, head_start=found)
    for own, of in ((trainer.generator, generator), (trainer.ema, generator), (trainer.discriminator, discriminator)):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), of.parameters(), strict=True))
    keys = {fingerprint(images, labels, NETWORK, config, start) for start in (None, found)}
    assert len(keys) == 2


def test_without_a_discriminator_there_is_a_sentence(earlier: tuple[Path, Generator, Discriminator]) -> None:
    (earlier[0] / DISCRIMINATOR).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no discriminator\.safetensors"):
        HeadStart.load(earlier[0], NAMES)


@pytest.mark.parametrize(("extra", "simulated"), [({}, False), ({"simulated_before": True}, True)])
def test_what_came_from_simulated_films_is_known_in_the_next_training_too(
    extra: dict[str, bool], simulated: bool, earlier: tuple[Path, Generator, Discriminator]
) -> None:
    folder, generator, discriminator = earlier
    save_generator(folder, generator, NAMES, extra, discriminator)
    assert HeadStart.load(folder, NAMES).simulated == simulated


class TestThePackage:
    """The networks that come with it."""

    @pytest.mark.parametrize(("side", "of"), [(32, 64), (64, 64), (128, 128), (512, 128)])
    def test_has_both_models_for_every_size(self, side: int, of: int) -> None:
        for name in MODELS:
            folder = packaged(name, side)
            assert folder.name == name
            assert json.loads((folder / "config.json").read_text())["network"]["resolution"] == of

    def test_is_small(self) -> None:
        assert sum(file.stat().st_size for file in PHANTOM.rglob("*")) < 25e6

    @pytest.mark.parametrize("name", MODELS)
    def test_draws_films_of_a_chest_at_once(self, name: str) -> None:
        """Dark lungs on both sides of a bright mediastinum, for classes that it has never heard of."""
        config = NetworkConfig(64, classes=2, attention_resolutions=(32,) if name == "msg_sagan" else ())
        g, d = Generator(config).eval(), Discriminator(config)
        found = HeadStart.load(packaged(name, 64), ["x", "y"])
        assert found.simulated
        assert found.give(g, d).share == 1
        drawn = sample(g, 0, 32, seed=0).astype(float).mean(0)
        left, middle, right = drawn[20:40, 10:24].mean(), drawn[20:40, 28:36].mean(), drawn[20:40, 40:54].mean()
        assert middle > max(left, right) + 20
