"""The loop: it learns, repeats itself, reports, and stops when it must."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from model.networks import NetworkConfig
from model.sampling import sample
from model.training import BalancedSampler, Tick, TrainConfig, Trainer, TrainingDiverged, pyramid, train

TINY = NetworkConfig(resolution=8, width=8, latent_dim=8)
SHORT = TrainConfig(kimg=0.08, batch=8, tick_kimg=0.04, device="cpu")


def films(count: int, mean: float = 60, side: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 10, (count, side, side)).clip(0, 255).astype(np.uint8)


def labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("loss", ["relativistic", "relativistic_average_hinge", "non_saturating"])
def test_it_moves_towards_the_data(loss: str) -> None:
    config = dataclasses.replace(SHORT, kimg=0.8, loss=loss, learning_rate=0.01, ema_kimg=0.1)
    generator = train(films(64, mean=40), labels(64), TINY, config)
    before = sample(Trainer(films(64), labels(64), TINY, config).ema, 0, 64, seed=0).mean()
    after = sample(generator, 0, 64, seed=0).mean()
    assert abs(after - 40) < 0.35 * abs(before - 40)


def test_classes_are_told_apart() -> None:
    network = dataclasses.replace(TINY, classes=2)
    images = np.concatenate([films(60, mean=60), films(12, mean=190)])
    config = dataclasses.replace(SHORT, kimg=1.0, learning_rate=0.01, ema_kimg=0.1)
    generator = train(images, labels(60, 12), network, config)
    assert sample(generator, 1, 32, 0).mean() - sample(generator, 0, 32, 0).mean() > 60


@pytest.mark.parametrize(("attention", "augment"), [((), 0.0), ((8,), 0.6)])
def test_the_same_seed_gives_the_same_weights(attention: tuple[int, ...], augment: float) -> None:
    network = dataclasses.replace(TINY, attention_resolutions=attention)
    config = dataclasses.replace(SHORT, augment_probability=augment)
    first, again, other = (
        train(films(20), labels(20), network, dataclasses.replace(config, seed=seed)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["start.weight"], other["start.weight"])


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(films(8), labels(8), TINY, SHORT)
    assert torch.equal(torch.rand(3), expected)


def test_ticks_tell_what_a_user_wants_to_know() -> None:
    ticks: list[Tick] = []
    network = dataclasses.replace(TINY, attention_resolutions=(8,))
    generator = train(films(20), labels(20), network, SHORT, ticks.append)
    assert [tick.kimg for tick in ticks] == pytest.approx([0.04, 0.08])
    assert ticks[0].eta_seconds > 0
    assert ticks[-1].eta_seconds == 0
    assert all(tick.images_per_second > 0 and math.isfinite(tick.loss_generator) for tick in ticks)
    assert ticks[-1].gammas.keys() == {"generator.8", "discriminator.8"}
    assert ticks[-1].gammas["generator.8"] != 0
    assert math.isfinite(ticks[0].penalty)
    assert ticks[0].penalty >= 0
    assert not generator.training
    assert all(p.dtype == torch.float32 for p in generator.parameters())


def test_a_time_limit_ends_it_early() -> None:
    config = dataclasses.replace(SHORT, kimg=1e6, max_seconds=0.3)
    ticks: list[Tick] = []
    train(films(20), labels(20), TINY, config, ticks.append)
    assert 0.3 <= ticks[-1].seconds < 5


@pytest.mark.parametrize("where", ["generator", "discriminator"])
def test_nan_stops_the_training_with_a_reason(where: str) -> None:
    def poison(tick: Tick) -> None:
        raise AssertionError("a diverged training must not tick")

    original = Trainer.step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            next(getattr(self, where).parameters()).fill_(math.nan)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(TrainingDiverged, match="not finite"):
            train(films(20), labels(20), TINY, SHORT, poison)


@pytest.mark.parametrize("counts", [(3,), (1,), (9, 2), (2, 1, 1)])
def test_sets_smaller_than_a_batch_train(counts: tuple[int, ...]) -> None:
    network = dataclasses.replace(TINY, classes=len(counts))
    config = dataclasses.replace(SHORT, batch=7, precision="fp32")
    generator = train(films(sum(counts)), labels(*counts), network, config)
    assert sample(generator, len(counts) - 1, 3, 0).shape == (3, 8, 8)


def test_identical_images_train() -> None:
    train(np.full((8, 8, 8), 90, np.uint8), labels(8), TINY, SHORT)


def test_bf16_and_fp32_agree_at_first() -> None:
    """The first losses, before small differences have grown."""
    losses = []
    for precision in ("bf16", "fp32"):
        trainer = Trainer(films(20), labels(20), TINY, dataclasses.replace(SHORT, precision=precision))
        losses.append(trainer.step()["loss_discriminator"].item())
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_both_sides_are_augmented_in_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """D never sees an image as it is: what reaches it was blanked by the patched augmentation."""
    monkeypatch.setattr("model.augment.Augmentation.__call__", lambda self, images: [x * 0 for x in images])
    trainer = Trainer(films(20), labels(20), TINY, dataclasses.replace(SHORT, augment_probability=1.0))
    seen: list[float] = []
    trainer.discriminator.register_forward_pre_hook(
        lambda module, inputs: seen.append(max(x.abs().max().item() for x in inputs[0]))
    )
    trainer.step()
    assert len(seen) >= 2
    assert max(seen) == 0


def test_the_discriminator_is_frozen_in_the_generators_step() -> None:
    trainer = Trainer(films(20), labels(20), TINY, SHORT)
    seen: list[bool] = []

    def loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        seen.append(any(p.requires_grad for p in trainer.discriminator.parameters()))
        return -fake.mean()

    trainer.loss = trainer.loss._replace(generator=loss)
    trainer.step()
    assert seen == [False]
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


@pytest.mark.parametrize(
    ("images", "y", "message"),
    [
        (films(4, side=16), labels(4), "uint8"),
        (films(4).astype(np.float32), labels(4), "uint8"),
        (films(0), labels(0), "no images"),
        (films(4), labels(3), "3 labels for 4"),
        (films(4), labels(2, 2), "labels must be"),
    ],
)
def test_data_that_do_not_fit_are_named(images: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(images, y, TINY, SHORT)


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(ValueError, match="class 1"):
        train(films(4), labels(4), dataclasses.replace(TINY, classes=2), SHORT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kimg": 0},
        {"batch": 0},
        {"loss": "wgan"},
        {"precision": "fp8"},
        {"penalty_on": "fake"},
        {"augment_probability": 1.5},
    ],
)
def test_impossible_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_minibatches_are_balanced_and_use_every_image() -> None:
    y = torch.from_numpy(labels(20, 4))
    sampler = BalancedSampler(y, 2, torch.Generator().manual_seed(0))
    indices, drawn = (torch.cat(parts) for parts in zip(*(sampler.next(8) for _ in range(35)), strict=True))
    assert torch.equal(y[indices], drawn)
    assert torch.bincount(drawn).tolist() == [140, 140]
    assert torch.bincount(indices).tolist() == [7] * 20 + [35] * 4
    assert (drawn.reshape(-1, 4) == drawn[::4, None]).all()  # one class in each group of minibatch_stddev


def test_pyramid_averages() -> None:
    x = torch.rand(2, 1, 16, 16)
    scales = pyramid(x, 3)
    assert [scale.shape[-1] for scale in scales] == [4, 8, 16]
    torch.testing.assert_close(scales[0][0, 0, 0, 0], x[0, 0, :4, :4].mean())
